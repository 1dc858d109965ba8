//! The OpenAPI document: fresh, and true.

use serde_json::Value;

use crate::harness::Running;

#[test]
fn the_document_in_docs_is_that_of_this_server() {
    let kept =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
    let kept: Value = serde_json::from_str(&kept.unwrap()).unwrap();
    assert_eq!(
        kept,
        rapport_server::openapi_document(),
        "docs/openapi.json is old: cargo run -p rapport-server --example openapi > docs/openapi.json"
    );
    let server = Running::start("ok");
    assert_eq!(server.get("/openapi.json").1, kept);
}

#[test]
fn every_operation_is_served_and_every_status_is_described() {
    let server = Running::start("ok");
    let document = rapport_server::openapi_document();
    let mut n_operations = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            n_operations += 1;
            let path = path.replace("{id}", "rapport");
            let body = operation.get("requestBody").map(|_| "{}");
            let answered = server.send(&method.to_uppercase(), &path, body);
            assert_ne!(answered.status, 405, "{method} {path}");
            assert_ne!(answered.json()["error"]["code"], "unknown_path", "{method} {path}");
            let described = &operation["responses"][answered.status.to_string()];
            assert!(described.is_object(), "{method} {path} gave {}", answered.status);
        }
    }
    assert!(n_operations > 15);
}

#[test]
fn references_in_the_document_lead_somewhere() {
    let document = rapport_server::openapi_document();
    let text = document.to_string();
    let mut n_references = 0;
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
        n_references += 1;
    }
    assert!(n_references > 20);
}
