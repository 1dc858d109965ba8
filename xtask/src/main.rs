//! `xtask check`: everything that must hold before a change lands, cheapest first.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program prints")]

use std::process::{Command, ExitCode};

/// Which of our crates each may depend on. Adding an edge is a commit of its own, with its reason.
const EDGES: &[(&str, &[&str])] = &[
    ("rapport-types", &[]),
    ("rapport-kernels", &[]),
    ("rapport-model", &["rapport-kernels", "rapport-types"]),
    ("rapport-engine", &["rapport-kernels", "rapport-model", "rapport-types"]),
    ("rapport-local", &["rapport-engine", "rapport-kernels", "rapport-model", "rapport-types"]),
    (
        "rapport-cli",
        &[
            "rapport-engine",
            "rapport-eval",
            "rapport-kernels",
            "rapport-local",
            "rapport-model",
            "rapport-persona",
            "rapport-server",
            "rapport-store",
            "rapport-train",
            "rapport-types",
            "rapport-upstream",
        ],
    ),
    ("rapport-eval", &["rapport-types"]),
    ("rapport-persona", &[]),
    ("rapport-server", &["rapport-store", "rapport-types"]),
    ("rapport-store", &["rapport-types"]),
    // Thoughts in training data are written as the local model's form writes them.
    ("rapport-train", &["rapport-kernels", "rapport-local", "rapport-model", "rapport-types"]),
    ("rapport-upstream", &["rapport-types"]),
    ("rapport-testkit", &["rapport-model", "rapport-types"]),
];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("check") {
        return check();
    }
    eprintln!("usage: cargo run -p xtask -- check");
    ExitCode::from(2)
}

fn check() -> ExitCode {
    let steps: [(&str, &[&str]); 4] = [
        ("formatting", &["fmt", "--all", "--check"]),
        ("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
        ("tests", &["test", "--workspace", "--locked"]),
        ("docs", &["doc", "--workspace", "--no-deps", "--locked"]),
    ];
    let problems = edge_problems();
    println!("crate edges: {}", if problems.is_empty() { "ok" } else { "wrong" });
    let unnamed = fault_problems();
    println!("tests of faults: {}", if unnamed.is_empty() { "ok" } else { "wrong" });
    for problem in problems.iter().chain(&unnamed) {
        eprintln!("{problem}");
    }
    let mut is_good = problems.is_empty() && unnamed.is_empty();
    for (name, arguments) in steps {
        println!("{name}: cargo {}", arguments.join(" "));
        let status =
            Command::new("cargo").args(arguments).env("RUSTDOCFLAGS", "-D warnings").status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("{name} failed");
            is_good = false;
            break;
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tests that `docs/faults.md` names and that are not there.
fn fault_problems() -> Vec<String> {
    let Ok(table) = std::fs::read_to_string("docs/faults.md") else {
        return vec!["docs/faults.md cannot be read".to_owned()];
    };
    let mut sources = String::new();
    add_sources(std::path::Path::new("crates"), &mut sources);
    let rows = table.lines().filter(|line| line.starts_with("| F"));
    let tests = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let names = tests.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names
        .filter(|name| {
            let is_file = name.contains('/') && std::path::Path::new(name).exists();
            !is_file && !sources.contains(&format!("fn {name}("))
        })
        .map(|name| format!("docs/faults.md names the test `{name}`, which is not there"))
        .collect()
}

/// The text of every Rust file in a folder.
fn add_sources(folder: &std::path::Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            add_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *sources += &std::fs::read_to_string(&path).unwrap_or_default();
        }
    }
}

/// Dependencies between our crates that the table does not allow, read from the manifests.
fn edge_problems() -> Vec<String> {
    let mut problems = Vec::new();
    let Ok(folders) = std::fs::read_dir("crates") else {
        return vec!["run this from the root of the repository".to_owned()];
    };
    for folder in folders.flatten() {
        let name = format!("rapport-{}", folder.file_name().to_string_lossy());
        let Some((_, allowed)) = EDGES.iter().find(|(krate, _)| *krate == name) else {
            problems.push(format!("{name} is not in the table of edges in xtask/src/main.rs"));
            continue;
        };
        let Ok(manifest) = std::fs::read_to_string(folder.path().join("Cargo.toml")) else {
            problems.push(format!("{name} has no Cargo.toml"));
            continue;
        };
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section == "[dependencies]"
                && let Some(dependency) = line.split(['.', ' ', '=']).next()
                && dependency.starts_with("rapport-")
                && !allowed.contains(&dependency)
            {
                problems.push(format!("{name} may not depend on {dependency}"));
            }
        }
    }
    problems
}
