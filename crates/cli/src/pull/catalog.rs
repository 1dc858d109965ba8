//! The catalogue: which models there are by name, and where their files come from.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::checksum::Sha256;
use super::error::CatalogError;

/// The catalogue that comes with Rapport.
const BUILT_IN: &str = include_str!("../../../../models/catalog.toml");

/// The model that is used when none is named.
pub const DEFAULT_MODEL: &str = "rapport-135m";

/// Models by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub entries: Vec<Entry>,
    pub adapted: Vec<Adapted>,
}

/// A model that is another one of the catalogue with an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapted {
    pub name: String,
    pub description: String,
    pub licence: String,
    /// The name of an entry.
    pub base: String,
    /// A folder as training writes it, below one of [`Paths::adapters`].
    ///
    /// [`Paths::adapters`]: super::Paths::adapters
    pub adapter: String,
}

/// A model of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Also the name of its folder.
    pub name: String,
    pub description: String,
    pub licence: String,
    /// What its file is called.
    pub file: String,
    pub size_bytes: u64,
    pub sha256: Sha256,
    /// Tried in order.
    pub sources: Vec<Source>,
}

/// Where a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Path(PathBuf),
    Hub(HubFile),
    Python(PythonMember),
}

/// A file of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// `OWNER/NAME`
    pub repository: String,
    /// May lie in a folder of the repository.
    pub file: String,
    pub revision: String,
}

/// A file in a Python wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonMember {
    pub package: String,
    pub version: String,
    pub member: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogDraft {
    #[serde(default, rename = "model")]
    models: Vec<EntryDraft>,
    #[serde(default)]
    adapted: Vec<Adapted>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryDraft {
    name: String,
    description: String,
    licence: String,
    file: String,
    size_bytes: u64,
    sha256: String,
    sources: Vec<SourceDraft>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a source has the keys `path`; `hub`, `file` and maybe `revision`; \
                               or `python`, `version` and `member`"
)]
enum SourceDraft {
    Path(PathDraft),
    Hub(HubDraft),
    Python(PythonDraft),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathDraft {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HubDraft {
    hub: String,
    file: String,
    revision: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PythonDraft {
    python: String,
    version: String,
    member: String,
}

impl Catalog {
    /// The built-in catalogue and, where there is one, the user's: its entries come first, and one
    /// with the name of a built-in entry takes its place.
    ///
    /// # Errors
    /// A catalogue that cannot be read or is not valid.
    pub fn load(user_catalog: &Path) -> Result<Self, CatalogError> {
        let built_in = Self::parse(BUILT_IN, "that comes with Rapport")?;
        let user = match std::fs::read_to_string(user_catalog) {
            Ok(text) => Self::parse(&text, &user_catalog.display().to_string())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(reason) => {
                return Err(CatalogError::Unreadable { path: user_catalog.to_owned(), reason });
            }
        };
        let mut all = user;
        for entry in built_in.entries {
            if !all.has(&entry.name) {
                all.entries.push(entry);
            }
        }
        for adapted in built_in.adapted {
            if !all.has(&adapted.name) {
                all.adapted.push(adapted);
            }
        }
        Ok(all)
    }

    /// # Errors
    /// Unknown keys, missing keys, and values that are not what they must be; `origin` is how the
    /// error calls the catalogue.
    pub fn parse(text: &str, origin: &str) -> Result<Self, CatalogError> {
        let draft: CatalogDraft = toml::from_str(text).map_err(|reason| CatalogError::Syntax {
            origin: origin.to_owned(),
            reason: Box::new(reason),
        })?;
        let mut entries: Vec<Entry> = Vec::new();
        for draft in draft.models {
            let name = draft.name.clone();
            let entry = draft.validate().map_err(|problem| problem.of(origin, &name))?;
            if entries.iter().any(|present| present.name == name) {
                return Err(
                    Problem::new("name", &name, "another one than before").of(origin, &name)
                );
            }
            entries.push(entry);
        }
        let mut catalog = Self { entries, adapted: Vec::new() };
        for adapted in draft.adapted {
            let name = adapted.name.clone();
            if !is_plain_name(&name) {
                return Err(Problem::new("name", &name, A_NAME).of(origin, &name));
            }
            if !is_plain_name(&adapted.adapter) {
                return Err(Problem::new("adapter", &adapted.adapter, A_NAME).of(origin, &name));
            }
            if catalog.has(&name) {
                return Err(
                    Problem::new("name", &name, "another one than before").of(origin, &name)
                );
            }
            catalog.adapted.push(adapted);
        }
        Ok(catalog)
    }

    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    pub fn adapted(&self, name: &str) -> Option<&Adapted> {
        self.adapted.iter().find(|adapted| adapted.name == name)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some() || self.adapted(name).is_some()
    }
}

const A_NAME: &str = "letters, digits, `.`, `-` and `_`, beginning with a letter or digit";

struct Problem {
    key: &'static str,
    found: String,
    expected: &'static str,
}

impl Problem {
    fn new(key: &'static str, found: &str, expected: &'static str) -> Self {
        Self { key, found: found.to_owned(), expected }
    }

    fn of(self, origin: &str, model: &str) -> CatalogError {
        CatalogError::Value {
            origin: origin.to_owned(),
            model: model.to_owned(),
            key: self.key,
            found: self.found,
            expected: self.expected,
        }
    }
}

impl EntryDraft {
    fn validate(self) -> Result<Entry, Problem> {
        let check = |valid: bool, key, found: &str, expected| {
            if valid { Ok(()) } else { Err(Problem::new(key, found, expected)) }
        };
        check(is_plain_name(&self.name), "name", &self.name, A_NAME)?;
        check(is_plain_name(&self.file), "file", &self.file, A_NAME)?;
        check(self.size_bytes > 0, "size_bytes", &self.size_bytes.to_string(), "above 0")?;
        check(!self.sources.is_empty(), "sources", "[]", "at least one")?;
        let sha256 = self
            .sha256
            .parse()
            .map_err(|_| Problem::new("sha256", &self.sha256, "64 hexadecimal digits"))?;
        let sources = self.sources.into_iter().map(SourceDraft::validate);
        Ok(Entry {
            sources: sources.collect::<Result<_, _>>()?,
            name: self.name,
            description: self.description,
            licence: self.licence,
            file: self.file,
            size_bytes: self.size_bytes,
            sha256,
        })
    }
}

impl SourceDraft {
    fn validate(self) -> Result<Source, Problem> {
        Ok(match self {
            Self::Path(draft) => Source::Path(draft.path),
            Self::Hub(draft) => {
                let revision = draft.revision.unwrap_or_else(|| "main".to_owned());
                Source::Hub(HubFile::validate(draft.hub, draft.file, revision)?)
            }
            Self::Python(draft) => {
                let a_name = "letters, digits, `.`, `-`, `_`, `+` and `!`, beginning with a letter \
                              or digit";
                // These become arguments of pip: none may look like an option or an address.
                let valid = |text: &str| {
                    text.starts_with(|c: char| c.is_ascii_alphanumeric())
                        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+!".contains(c))
                };
                if !valid(&draft.python) {
                    return Err(Problem::new("python", &draft.python, a_name));
                }
                if !valid(&draft.version) {
                    return Err(Problem::new("version", &draft.version, a_name));
                }
                Source::Python(PythonMember {
                    package: draft.python,
                    version: draft.version,
                    member: draft.member,
                })
            }
        })
    }
}

impl HubFile {
    fn validate(repository: String, file: String, revision: String) -> Result<Self, Problem> {
        let owner_and_name = repository.split_once('/');
        if !owner_and_name.is_some_and(|(owner, name)| is_plain_name(owner) && is_plain_name(name))
        {
            return Err(Problem::new("hub", &repository, "OWNER/REPO"));
        }
        let is_relative = |path: &str| {
            path.split('/').all(|part| !part.is_empty() && !matches!(part, "." | ".."))
                && !path.contains(['\\', '?', '#', '%'])
                && !path.contains(char::is_control)
        };
        if !is_relative(&file) {
            return Err(Problem::new("file", &file, "a path within the repository"));
        }
        if !is_relative(&revision) {
            return Err(Problem::new("revision", &revision, "a branch, a tag or a commit"));
        }
        Ok(Self { repository, file, revision })
    }

    /// Reads `OWNER/REPO/FILE[@REVISION]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err("after `hub:` come OWNER/REPO/FILE.gguf and maybe @REVISION");
        };
        Self::validate(format!("{owner}/{name}"), file.to_owned(), revision.to_owned())
            .map_err(|problem| problem.expected)
    }

    /// The name of the file without its folders.
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }
}

/// Whether `name` can be a folder or a file everywhere, and not be mistaken for anything else.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        && name.len() <= 200
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"
        [[model]]
        name = "tiny"
        description = "A tiny model"
        licence = "MIT"
        file = "tiny.gguf"
        size_bytes = 10
        sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        sources = [
            { path = "/models/tiny.gguf" },
            { hub = "owner/repo", file = "folder/tiny.gguf" },
            { hub = "owner/repo", file = "tiny.gguf", revision = "v1" },
            { python = "tiny-model", version = "1.0", member = "tiny/tiny.gguf" },
        ]
    "#;

    #[test]
    fn the_built_in_catalogue_is_valid_and_has_the_default() {
        let catalog = Catalog::load(Path::new("/no/such/catalog.toml")).unwrap();
        let default = catalog.adapted(DEFAULT_MODEL).unwrap();
        assert_eq!(default.licence, "Apache-2.0");
        let base = catalog.get(&default.base).unwrap();
        assert_eq!(base.size_bytes, 98_362_432);
        assert_eq!(base.licence, "Apache-2.0");
    }

    #[test]
    fn every_kind_of_source_is_read() {
        let catalog = Catalog::parse(ENTRY, "test").unwrap();
        let sources = &catalog.get("tiny").unwrap().sources;
        assert_eq!(sources[0], Source::Path("/models/tiny.gguf".into()));
        let Source::Hub(hub) = &sources[1] else { panic!("{:?}", sources[1]) };
        assert_eq!((hub.revision.as_str(), hub.file_name()), ("main", "tiny.gguf"));
        let Source::Python(python) = &sources[3] else { panic!("{:?}", sources[3]) };
        assert_eq!(python.version, "1.0");
    }

    #[test]
    fn wrong_catalogues_name_what_is_wrong() {
        let message = |from: &str, to: &str| {
            assert!(ENTRY.contains(from), "{from}");
            Catalog::parse(&ENTRY.replacen(from, to, 1), "test").unwrap_err().to_string()
        };
        for (from, to, named) in [
            ("licence", "license", "unknown field `license`"),
            ("revision = \"v1\"", "tag = \"v1\"", "a source has the keys"),
            ("name = \"tiny\"", "name = \"../tiny\"", "`name` is `../tiny`"),
            ("file = \"tiny.gguf\"", "file = \"/tiny.gguf\"", "`file` is `/tiny.gguf`"),
            ("size_bytes = 10", "size_bytes = 0", "`size_bytes` is `0`"),
            ("size_bytes = 10", "size_bytes = -1", "integer"),
            ("ba7816bf", "xx7816bf", "`sha256`"),
            ("owner/repo", "owner", "`hub` is `owner`"),
            ("folder/tiny.gguf", "../tiny.gguf", "`file` is `../tiny.gguf`"),
            ("python = \"tiny-model\"", "python = \"--index-url=x\"", "`python`"),
            ("version = \"1.0\"", "version = \"1.0 --pre\"", "`version`"),
            ("[[model]]", "[[models]]", "unknown field `models`"),
        ] {
            let message = message(from, to);
            assert!(message.contains(named), "{from} -> {to}: {message}");
        }
        let twice = Catalog::parse(&ENTRY.repeat(2), "test").unwrap_err().to_string();
        assert!(twice.contains("another one than before"), "{twice}");
    }

    #[test]
    fn hub_references_are_read() {
        let file = HubFile::parse("owner/repo/folder/model.gguf@v1").unwrap();
        assert_eq!(file.repository, "owner/repo");
        assert_eq!(file.file, "folder/model.gguf");
        assert_eq!(file.revision, "v1");
        for wrong in
            ["", "owner", "owner/repo", "owner/repo/", "owner/repo/../x", "a b/c/d", "o/r/x?y"]
        {
            assert!(HubFile::parse(wrong).is_err(), "{wrong}");
        }
    }
}
