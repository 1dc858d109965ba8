//! `rapport serve` with the default model, driven by clients that others wrote, unchanged.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod node_package;
mod running;

use std::process::Command;

use node_package::node_package;
use running::{Server, default_model, package, script};

// The clients' versions that the tests were written with.
const OPENAI: &str = "openai==3.54.0";
const ANTHROPIC: &str = "anthropic==2.12.0";
const XAI: &str = "xai-sdk==1.21.0";
const OPENAI_NODE: &str = "openai@7.57.0";

/// Runs a client against a server of its own.
fn drive(client: &mut Command) {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), &default_model(), &[]);
    let line = server.says(" at http://");
    server.says(" is ready");
    let url = format!("http://{}/v1", line.split("http://").nth(1).unwrap());
    let output = client.arg(url).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn the_openai_client_for_python_works_unchanged() {
    let packages = package(OPENAI);
    drive(Command::new("python3").arg(script("openai_client.py")).env("PYTHONPATH", packages));
}

#[test]
fn the_openai_client_works_unchanged_before_a_server_behind_a_server() {
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let url = |server: &Server| {
        let line = server.says(" at http://");
        format!("http://{}/v1", line.split("http://").nth(1).unwrap())
    };
    let engine = Server::start(homes[0].path(), &default_model(), &[]);
    let flags = ["--upstream".to_owned(), url(&engine)];
    engine.says(" is ready");
    let front = Server::start(homes[1].path(), "unused", &flags);
    let client = script("openai_client.py");
    let output = Command::new("python3")
        .arg(client)
        .args([&url(&front), "without-embeddings"])
        .env("PYTHONPATH", package(OPENAI))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn the_anthropic_client_for_python_works_unchanged() {
    let packages = package(ANTHROPIC);
    drive(Command::new("python3").arg(script("anthropic_client.py")).env("PYTHONPATH", packages));
}

#[test]
fn the_xai_client_for_python_works_unchanged() {
    let packages = package(XAI);
    drive(Command::new("python3").arg(script("xai_client.py")).env("PYTHONPATH", packages));
}

#[test]
fn the_openai_client_for_node_works_unchanged() {
    drive(Command::new("node").arg(node_package(OPENAI_NODE, &script("openai_client.mjs"))));
}
