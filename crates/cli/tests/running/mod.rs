//! A `rapport serve` of a test's own, and the packages of clients that drive it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A server that ends with its test.
pub(crate) struct Server {
    pub(crate) process: Child,
    /// What it says.
    lines: Receiver<String>,
}

impl Server {
    /// Starts one on a free port.
    pub(crate) fn start(home: &Path, model: &str, flags: &[String]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_rapport"))
            .args(["serve", "--port", "0", "--model", model])
            .args(flags)
            .env("RAPPORT_HOME", home)
            .env_remove("HF_ENDPOINT")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = process.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { process, lines }
    }

    /// Waits for a line with this in it.
    pub(crate) fn says(&self, part: &str) -> String {
        let mut seen = Vec::new();
        for line in &self.lines {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("it never said `{part}`: {seen:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The path of the default model.
pub(crate) fn default_model() -> String {
    rapport_testkit::default_model().display().to_string()
}

/// A folder with a Python package in it, brought once by pip.
pub(crate) fn package(requirement: &str) -> PathBuf {
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
        // Another test may have brought it meanwhile.
        let moved = std::fs::rename(&part, &folder);
        assert!(moved.is_ok() || folder.exists(), "{moved:?}");
    }
    folder
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}
