//! Where things are kept, resolved once from the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folders and hub Rapport uses. Nothing below reads the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Holds `models/NAME/`.
    pub cache: PathBuf,
    /// The user's own catalogue, whether or not it exists.
    pub user_catalog: PathBuf,
    /// The user's settings, whether or not they exist.
    pub config: PathBuf,
    /// Where a server keeps what it knows of people.
    pub data: PathBuf,
    /// Folders with adapters that come with Rapport, tried in order: `NAME/adapter.safetensors`.
    pub adapters: Vec<PathBuf>,
    pub hub: HubSettings,
}

/// The Hugging Face-compatible hub to ask, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Without a slash at its end; there is none unless somebody names one.
    pub endpoint: Option<String>,
    pub token: Option<HubToken>,
    /// The folder in which hub clients keep what they downloaded.
    pub cache: Option<PathBuf>,
    /// Whether the proxies named in the environment are used.
    pub use_environment_proxy: bool,
}

/// A secret: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct HubToken(pub String);

impl std::fmt::Debug for HubToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HubToken(...)")
    }
}

impl Paths {
    /// Resolves from the variables of the environment that `get` looks up:
    ///
    /// - the cache: `RAPPORT_HOME`, or `rapport` in `XDG_CACHE_HOME` or `~/.cache`;
    /// - the user's catalogue and settings: `catalog.toml` and `config.toml` in `RAPPORT_HOME`, or
    ///   in `rapport` in `XDG_CONFIG_HOME` or `~/.config`;
    /// - what a server keeps: `data` in `RAPPORT_HOME`, or `rapport` in `XDG_DATA_HOME` or
    ///   `~/.local/share`;
    /// - adapters: `RAPPORT_MODELS` alone, or `models` beside the program `executable`,
    ///   `share/rapport/models` beside its folder, and `models` where it was built;
    /// - the hub: `HF_ENDPOINT`, `HF_TOKEN`, and `HF_HOME` or `huggingface` in the cache folder.
    ///
    /// Empty variables count as unset, and relative XDG folders are ignored, as their
    /// specification says. Without a home folder, what is left is the current one.
    pub fn from_environment(
        get: impl Fn(&str) -> Option<OsString>,
        executable: Option<&Path>,
    ) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let folder = |name: &str| get(name).map(PathBuf::from);
        let home = folder("HOME").unwrap_or_else(|| PathBuf::from("."));
        let xdg = |name: &str, default: &str| {
            folder(name).filter(|path| path.is_absolute()).unwrap_or_else(|| home.join(default))
        };
        let cache_home = xdg("XDG_CACHE_HOME", ".cache");
        let (cache, configuration, data) = match folder("RAPPORT_HOME") {
            Some(folder) => (folder.clone(), folder.clone(), folder.join("data")),
            None => (
                cache_home.join("rapport"),
                xdg("XDG_CONFIG_HOME", ".config").join("rapport"),
                xdg("XDG_DATA_HOME", ".local/share").join("rapport"),
            ),
        };
        let adapters = folder("RAPPORT_MODELS").map_or_else(
            || {
                let beside = executable.and_then(Path::parent);
                let beside = beside
                    .map(|folder| [folder.join("models"), folder.join("../share/rapport/models")]);
                let built = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models"));
                beside.into_iter().flatten().chain([built.to_owned()]).collect()
            },
            |folder| vec![folder],
        );
        let hub_home = folder("HF_HOME").unwrap_or_else(|| cache_home.join("huggingface"));
        let endpoint = get("HF_ENDPOINT").and_then(|endpoint| endpoint.into_string().ok());
        let token = get("HF_TOKEN")
            .and_then(|token| token.into_string().ok())
            .or_else(|| std::fs::read_to_string(hub_home.join("token")).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        Self {
            cache,
            user_catalog: configuration.join("catalog.toml"),
            config: configuration.join("config.toml"),
            data,
            adapters,
            hub: HubSettings {
                endpoint: endpoint.map(|address| address.trim_end_matches('/').to_owned()),
                token: token.map(HubToken),
                cache: Some(hub_home.join("hub")),
                use_environment_proxy: true,
            },
        }
    }

    /// The folder of a model.
    pub fn model_folder(&self, name: &str) -> PathBuf {
        self.cache.join("models").join(name)
    }
}

/// The part of `path` that exists.
pub(super) fn existing_part(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> Paths {
        let get = |name: &str| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| value.into())
        };
        Paths::from_environment(get, Some(Path::new("/opt/bin/rapport")))
    }

    #[test]
    fn folders_follow_the_environment() {
        let plain = resolve(&[("HOME", "/home/me"), ("HF_HOME", "/no/such/folder")]);
        assert_eq!(plain.cache, Path::new("/home/me/.cache/rapport"));
        assert_eq!(plain.user_catalog, Path::new("/home/me/.config/rapport/catalog.toml"));
        assert_eq!(plain.adapters[0], Path::new("/opt/bin/models"));
        assert_eq!(plain.adapters[1], Path::new("/opt/bin/../share/rapport/models"));
        assert_eq!(plain.hub.endpoint, None);
        assert_eq!(plain.hub.token, None);
        assert_eq!(plain.hub.cache.as_deref(), Some(Path::new("/no/such/folder/hub")));

        let xdg = resolve(&[
            ("HOME", "/home/me"),
            ("XDG_CACHE_HOME", "/cache"),
            ("XDG_CONFIG_HOME", "relative"),
            ("HF_ENDPOINT", "http://hub.example/"),
            ("HF_TOKEN", " secret\n"),
        ]);
        assert_eq!(xdg.cache, Path::new("/cache/rapport"));
        assert_eq!(xdg.user_catalog, Path::new("/home/me/.config/rapport/catalog.toml"));
        assert_eq!(xdg.hub.endpoint.as_deref(), Some("http://hub.example"));
        assert_eq!(xdg.hub.token, Some(HubToken("secret".to_owned())));
        assert!(!format!("{xdg:?}").contains("secret"));

        let own = resolve(&[
            ("HOME", "/home/me"),
            ("RAPPORT_HOME", "/data"),
            ("RAPPORT_MODELS", "/adapters"),
            ("HF_ENDPOINT", ""),
        ]);
        assert_eq!(own.adapters, [PathBuf::from("/adapters")]);
        assert_eq!(own.model_folder("x"), Path::new("/data/models/x"));
        assert_eq!(own.user_catalog, Path::new("/data/catalog.toml"));
        assert_eq!(own.hub.endpoint, None);
    }
}
