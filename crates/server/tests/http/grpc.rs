//! gRPC that is not as it should be. What is well is driven with xAI's own client, in `cli`.

use crate::harness::Running;

const CHAT: &str = "/xai_api.Chat/GetCompletion";

/// A call with this body; what came back, headers and all, in lower case.
fn call(server: &Running, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let (status, answer) = server.raw(&format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    (status, answer.to_lowercase())
}

#[test]
fn f13_calls_that_are_no_message_are_refused_with_a_status_of_grpc() {
    let server = Running::start("ok");
    let kind = "application/grpc";
    for (body, code) in [
        (&b""[..], 3),
        (b"\0\0\0", 3),
        (b"\0\0\0\0\x05ab", 3),
        (b"\0\x7f\x7f\x7f\x7fab", 3),
        // A compressed message.
        (b"\x01\0\0\0\0", 12),
        // Field 1 says that it is longer than the message.
        (b"\0\0\0\0\x02\x0a\x7f", 3),
        // No model of an empty name.
        (b"\0\0\0\0\0", 5),
    ] {
        let (status, answer) = call(&server, CHAT, kind, body);
        assert!(status == 200 && answer.contains(&format!("grpc-status: {code}\r\n")), "{answer}");
        assert!(answer.contains("grpc-message: "), "{answer}");
    }
    let (_, answer) = call(&server, "/xai_api.Chat/CompactContext", kind, b"\0\0\0\0\0");
    assert!(answer.contains("grpc-status: 12\r\n"), "{answer}");
    assert_eq!(call(&server, CHAT, "application/json", b"{}").0, 415);
}

#[test]
fn a_call_of_grpc_needs_the_key_too() {
    let config = rapport_server::ServerConfig {
        api_key: Some("secret".to_owned()),
        ..crate::harness::config()
    };
    let engine =
        rapport_testkit::ScriptedEngine::answering(|_| rapport_testkit::Script::answer("ok"));
    let server = crate::harness::serve(config, engine);
    let (_, answer) = call(&server, CHAT, "application/grpc", b"\0\0\0\0\0");
    assert!(answer.contains("grpc-status: 16\r\n"), "{answer}");
}
