//! What tests of several crates share. Only ever a dev-dependency.

use std::env;
use std::path::PathBuf;

/// The file of the default model, SmolLM2-135M-Instruct at Q4_1: `$RAPPORT_TEST_MODEL`, or where
/// `make model` puts it.
///
/// # Panics
/// There is no such file.
#[expect(clippy::disallowed_methods, reason = "tests have no command line to be told a path on")]
pub fn default_model() -> PathBuf {
    let in_cache = || {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
        let model = "rapport/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";
        cache.unwrap_or_default().join(model)
    };
    let path = env::var_os("RAPPORT_TEST_MODEL").map_or_else(in_cache, PathBuf::from);
    assert!(path.is_file(), "no default model at {}: run `make model`", path.display());
    path
}
