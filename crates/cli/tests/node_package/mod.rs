//! Packages of npm that tests run against.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with a package for Node in it and the script beside it, brought once by npm.
pub(crate) fn node_package(requirement: &str, script: &Path) -> PathBuf {
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
        // Another test may have brought it meanwhile.
        let moved = std::fs::rename(&part, &folder);
        assert!(moved.is_ok() || folder.exists(), "{moved:?}");
    }
    let beside = folder.join(script.file_name().unwrap());
    std::fs::copy(script, &beside).unwrap();
    beside
}
