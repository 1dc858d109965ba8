//! `rapport serve` with the default model, driven by clients that others wrote, unchanged.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

// The clients' versions that the tests were written with.
const OPENAI: &str = "openai==3.54.0";
const ANTHROPIC: &str = "anthropic==2.12.0";
const XAI: &str = "xai-sdk==1.21.0";
const OPENAI_NODE: &str = "openai@7.57.0";

struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(home: &Path) -> Self {
        let model = rapport_testkit::default_model();
        let mut process = Command::new(env!("CARGO_BIN_EXE_rapport"))
            .args(["serve", "--port", "0", "--model", model.to_str().unwrap()])
            .env("RAPPORT_HOME", home)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            line.unwrap().split_once(" at http://").map(|(_, rest)| format!("http://{rest}/v1"))
        });
        // The rest is read so that the server never waits for it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url: url.expect("the server says where it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with a Python package in it, brought once by pip.
fn package(requirement: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(requirement.replace('=', "-"));
    if !folder.exists() {
        let part = folder.with_extension(format!("part-{}", std::process::id()));
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-warn-script-location", "--target"])
            .arg(&part)
            .arg(requirement)
            .output()
            .expect("python3 is there");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pip cannot bring {requirement}: {errors}");
        std::fs::rename(&part, &folder).unwrap();
    }
    folder
}

/// A folder with a package for Node in it and the script beside it, brought once by npm.
fn node_package(requirement: &str, script: &Path) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(requirement.replace('@', "-node-"));
    if !folder.exists() {
        let part = folder.with_extension(format!("part-{}", std::process::id()));
        std::fs::create_dir_all(&part).unwrap();
        let output = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix"])
            .arg(&part)
            .arg(requirement)
            .output()
            .expect("npm is there");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "npm cannot bring {requirement}: {errors}");
        std::fs::rename(&part, &folder).unwrap();
    }
    let beside = folder.join(script.file_name().unwrap());
    std::fs::copy(script, &beside).unwrap();
    beside
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

/// Runs a client against a server of its own.
fn drive(client: &mut Command) {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path());
    let output = client.arg(&server.url).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn the_openai_client_for_python_works_unchanged() {
    let packages = package(OPENAI);
    drive(Command::new("python3").arg(script("openai_client.py")).env("PYTHONPATH", packages));
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
