//! What tests share. A development dependency only.

mod adapters;
mod postgres;
mod scripted;

use std::path::{Path, PathBuf};

pub use adapters::RandomAdapter;
pub use postgres::Cluster;
pub use scripted::{Script, ScriptedEngine};

/// A random model of 90,000 weights that holds conversations in plain ASCII, byte by byte
/// (`scripts/reference/tiny_chat.py`).
pub fn tiny_chat_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-chat.gguf")
}

/// The default model's file, as `make model` leaves it, or `$RAPPORT_TEST_MODEL`.
///
/// # Panics
/// If it is not there.
#[expect(clippy::disallowed_methods, reason = "tests have no flags to read it from")]
pub fn default_model() -> PathBuf {
    let cache = || {
        let rapport = std::env::var_os("RAPPORT_HOME").map(PathBuf::from);
        rapport
            .or_else(|| {
                std::env::var_os("XDG_CACHE_HOME").map(|xdg| PathBuf::from(xdg).join("rapport"))
            })
            .or_else(|| {
                std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/rapport"))
            })
            .expect("a home folder")
    };
    let path = std::env::var_os("RAPPORT_TEST_MODEL").map_or_else(
        || cache().join("models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is not there: run `make model`", path.display());
    path
}
