//! The training data keeps to its form, and the check that says so finds what it is there to find.
//!
//! Not a test of whether the conversations are good: `data/README.md` has the reviewer's checklist.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn data_check(arguments: &[&Path]) -> Output {
    Command::new("python3")
        .arg(root().join("scripts/data_check.py"))
        .args(arguments)
        .output()
        .expect("python3 runs: the README names it among what is needed")
}

#[test]
fn the_data_passes_its_check() {
    let output = data_check(&[]);
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{found}{}", String::from_utf8_lossy(&output.stderr));
}

const TAGS: &str = r#"{"feeling": "sadness", "need": "vent", "register": "plain", "kind": "empathy", "mode": "fast"}"#;

/// A folder with a conversation of one turn, a file to compare it with, and a development prompt.
fn folder(name: &str, tags: &str, user: &str, assistant: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let write = |path: &str, line: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("in the folder")).expect("creates folders");
        std::fs::write(path, format!("{line}\n")).expect("writes");
    };
    let messages = format!(
        r#"[{{"role": "user", "content": "{user}"}}, {{"role": "assistant", {assistant}}}]"#
    );
    write(
        "conversations/one.jsonl",
        &format!(r#"{{"id": "one", "tags": {tags}, "messages": {messages}}}"#),
    );
    write(
        "dev/prompts.jsonl",
        r#"{"id": "dev-1", "kind": "empathy", "messages": [{"role": "user", "content": "the lamp my aunt gave me fell down today"}]}"#,
    );
    write("outside/evaluation.txt", "Q: how many of the red boats came back to harbour at dusk?");
    folder
}

#[test]
fn each_fault_is_found() {
    let good = r#""content": "The boats again. Which one were you waiting for?""#;
    let user = "the boats left without me";
    let thinking = TAGS.replace("fast", "thinking");
    let untrue = TAGS.replace("sadness", "hunger");
    let cases: &[(&str, &str, &str, &str, &str)] = &[
        ("good", TAGS, user, good, ""),
        (
            "cliche",
            TAGS,
            user,
            r#""content": "I'm so sorry to hear that. Tell me more.""#,
            "cliché",
        ),
        (
            "twice",
            TAGS,
            user,
            r#""content": "The boats left you. The boats left you.""#,
            "says twice",
        ),
        ("tag", &untrue, user, good, "tags.feeling: 'hunger'"),
        ("no_thought", &thinking, user, good, "a thought in each"),
        (
            "thought",
            &thinking,
            user,
            r#""thought": "feel: sadness | need: vent | tone: salty | do: name the feeling", "content": "Oh, boats.""#,
            "'salty' is no choice of 'tone'",
        ),
        (
            "null_thought",
            &thinking,
            user,
            r#""thought": null, "content": "Oh, boats.""#,
            "thought: expected text, found None",
        ),
        ("mail", TAGS, "write to someone@example.org", good, "an e-mail address"),
        (
            "dev",
            TAGS,
            "oh, the lamp my aunt gave me fell down",
            good,
            "the development prompt dev-1",
        ),
        (
            "outside",
            TAGS,
            "Many of the red boats came back to harbour at noon",
            good,
            "shares 'many of the red boats came back to' with evaluation.txt",
        ),
        ("role", TAGS, user, r#""content": """#, "expected text"),
    ];
    for (name, tags, user, assistant, expected) in cases {
        let folder = folder(name, tags, user, assistant);
        let output = data_check(&[&folder, Path::new("--against"), &folder.join("outside")]);
        let found = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), expected.is_empty(), "{name}: {found}{said}");
        assert!(found.contains(expected), "{name}: expected {expected:?}, found {found}{said}");
    }
}

#[test]
fn the_generated_conversations_are_those_that_the_facts_make() {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("made");
    std::fs::create_dir_all(&made).expect("creates folders");
    let output = Command::new("python3")
        .arg(root().join("scripts/make_fact_conversations.py"))
        .arg(&made)
        .output()
        .expect("python3 runs: the README names it among what is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["f-facts.jsonl", "f-hints.jsonl", "f-unknown.jsonl"] {
        let fresh = std::fs::read_to_string(made.join(name)).expect("was written");
        let kept = std::fs::read_to_string(root().join("data/conversations").join(name))
            .expect("is in the repository");
        let differs = fresh.lines().zip(kept.lines()).find(|(fresh, kept)| fresh != kept);
        assert_eq!(differs, None, "{name}: run scripts/make_fact_conversations.py");
        assert_eq!(fresh.len(), kept.len(), "{name}: run scripts/make_fact_conversations.py");
    }
}
