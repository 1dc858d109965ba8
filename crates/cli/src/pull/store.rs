//! The folder of a model: its lock, its file, and the record that the file was checked.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::checksum::{Hasher, Sha256, read_pieces};
use super::error::PullError;
use super::paths::existing_part;
use super::progress::Progress;

const RECORD: &str = "pulled.json";
const LOCK: &str = ".lock";
/// What is fetched by way of Python lies in a folder of such a name until it is checked.
pub(super) const TEMPORARY_PREFIX: &str = ".fetching-";

/// Says that a model's file was checked, and what it looked like then: later starts need not read
/// it again to know that it is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Within the model's folder, or absolute for a file that is used where it is.
    pub(crate) file: PathBuf,
    pub(crate) size_bytes: u64,
    /// Nanoseconds after 1970.
    pub(crate) modified_ns: u64,
    pub(crate) sha256: String,
    /// What `rapport pull` is told to get it again.
    pub(crate) reference: String,
    /// Where it came from, for people.
    pub(crate) source: String,
}

/// Where a file came from, as [`Record`] keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'o> {
    pub(super) reference: &'o str,
    pub(super) source: &'o str,
}

/// What a file must be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    pub(super) size_bytes: Option<u64>,
    pub(super) sha256: Option<Sha256>,
}

/// How a file compares with its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Size and time are those of the record.
    Same,
    /// The time is another one: it may be the same or not.
    Touched,
    Different,
    Missing,
}

impl Record {
    /// The record in a model's folder. A record that cannot be read is none: the file is checked
    /// again.
    pub(crate) fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()
    }

    /// The record of a file that was just checked.
    pub(super) fn of(
        folder: &Path,
        file: PathBuf,
        sha256: Sha256,
        origin: Origin<'_>,
    ) -> Result<Self, PullError> {
        let path = folder.join(&file);
        let metadata = fs::metadata(&path).map_err(|reason| PullError::reading(path, reason))?;
        Ok(Self {
            file,
            size_bytes: metadata.len(),
            modified_ns: modified_ns(&metadata),
            sha256: sha256.to_string(),
            reference: origin.reference.to_owned(),
            source: origin.source.to_owned(),
        })
    }

    /// Writes it so that there is the old record or the new one, whatever happens meanwhile.
    pub(super) fn save(&self, folder: &Path) -> Result<(), PullError> {
        let path = folder.join(RECORD);
        let write = || {
            // Readable for whom the model is readable: a cache may be shared.
            let permissions = fs::Permissions::from_mode(0o666);
            let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync_folder(folder)
        };
        write().map_err(|reason| PullError::writing(path.clone(), reason))
    }

    pub(crate) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.file)
    }

    pub(crate) fn condition(&self, folder: &Path) -> Condition {
        match fs::metadata(self.path(folder)) {
            Err(_) => Condition::Missing,
            Ok(metadata) if metadata.len() != self.size_bytes => Condition::Different,
            Ok(metadata) if modified_ns(&metadata) == self.modified_ns => Condition::Same,
            Ok(_) => Condition::Touched,
        }
    }
}

fn modified_ns(metadata: &fs::Metadata) -> u64 {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    modified.map_or(0, |time| time.as_nanos() as u64)
}

/// Makes a rename in `folder` outlast a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder of a model, to which nobody else writes meanwhile.
pub(super) struct LockedFolder {
    pub(super) path: PathBuf,
    /// Holds the lock until it is dropped.
    _lock: File,
}

impl LockedFolder {
    /// Makes the folder, waits for another pull of the same model, and clears away what pulls that
    /// were killed have left.
    pub(super) fn open(path: PathBuf, progress: &mut Progress) -> Result<Self, PullError> {
        let writing = |reason| PullError::writing(path.clone(), reason);
        fs::create_dir_all(&path).map_err(writing)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(writing)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note("Another pull of this model is under way: waiting for it.");
                lock.lock().map_err(writing)?;
            }
            Err(TryLockError::Error(reason)) => return Err(writing(reason)),
        }
        for entry in fs::read_dir(&path).map_err(writing)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                fs::remove_dir_all(entry.path()).map_err(writing)?;
            }
        }
        Ok(Self { path, _lock: lock })
    }

    /// # Errors
    /// [`PullError::DiskFull`] where there is no room for so many bytes.
    pub(super) fn check_room(&self, needed_bytes: u64) -> Result<(), PullError> {
        let free_bytes = free_bytes(&self.path)?;
        if free_bytes < needed_bytes {
            return Err(PullError::DiskFull { path: self.path.clone(), needed_bytes, free_bytes });
        }
        Ok(())
    }
}

fn free_bytes(folder: &Path) -> Result<u64, PullError> {
    let statistics = rustix::fs::statvfs(existing_part(folder))
        .map_err(|error| PullError::reading(folder, error.into()))?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// A file that is being written and becomes the model's file when it is whole and right.
pub(super) struct Part<'p> {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    n_bytes: u64,
    /// Whether what is there is kept when this is dropped unfinished.
    resumable: bool,
    progress: &'p mut Progress,
    cancelled: &'p AtomicBool,
}

impl<'p> Part<'p> {
    /// Opens the part at `path`, with what an earlier pull left if it is `resumable`.
    pub(super) fn open(
        path: PathBuf,
        resumable: bool,
        progress: &'p mut Progress,
        cancelled: &'p AtomicBool,
    ) -> Result<Self, PullError> {
        let file = File::options()
            .create(true)
            .truncate(!resumable)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|reason| PullError::writing(&path, reason))?;
        let mut part = Self {
            path,
            file,
            hasher: Hasher::default(),
            n_bytes: 0,
            resumable,
            progress,
            cancelled,
        };
        if resumable {
            part.read_what_is_there()?;
        }
        Ok(part)
    }

    fn read_what_is_there(&mut self) -> Result<(), PullError> {
        let (hasher, n_bytes, cancelled) = (&mut self.hasher, &mut self.n_bytes, self.cancelled);
        read_pieces(&mut self.file, |piece| {
            hasher.update(piece);
            *n_bytes += piece.len() as u64;
            if cancelled.load(Ordering::Relaxed) {
                return Err(PieceError::Cancelled);
            }
            Ok(())
        })
        .map_err(|error| error.reading(&self.path))
    }

    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    pub(super) fn begin_stage(&mut self, stage: &str, total_bytes: Option<u64>) {
        self.progress.begin(stage, total_bytes);
        self.progress.set(self.n_bytes);
    }

    /// Forgets what is there.
    pub(super) fn restart(&mut self) -> Result<(), PullError> {
        let rewind = || {
            self.file.set_len(0)?;
            io::Seek::rewind(&mut &self.file)
        };
        rewind().map_err(|reason| PullError::writing(&self.path, reason))?;
        self.hasher = Hasher::default();
        self.n_bytes = 0;
        Ok(())
    }

    /// Whether what is written so far is kept when this is dropped unfinished.
    pub(super) fn set_resumable(&mut self, resumable: bool) {
        self.resumable = resumable;
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(PullError::Cancelled);
        }
        self.file.write_all(bytes).map_err(|reason| {
            if reason.kind() == io::ErrorKind::StorageFull {
                let free_bytes = free_bytes(&self.path).unwrap_or(0);
                let path = self.path.clone();
                PullError::DiskFull { path, needed_bytes: bytes.len() as u64, free_bytes }
            } else {
                PullError::writing(&self.path, reason)
            }
        })?;
        self.hasher.update(bytes);
        self.n_bytes += bytes.len() as u64;
        self.progress.set(self.n_bytes);
        Ok(())
    }

    /// Whether what is written is all that is expected.
    pub(super) fn is(&self, expected: Expected) -> bool {
        expected.size_bytes.is_none_or(|size| size == self.n_bytes)
            && expected.sha256.is_none_or(|sum| sum == self.hasher.clone().finish())
    }

    /// Checks the whole file and gives it its name; what is not right is removed.
    pub(super) fn finish(
        mut self,
        target: &Path,
        expected: Expected,
        source_name: &str,
    ) -> Result<Sha256, PullError> {
        self.resumable = false;
        let found = self.hasher.clone().finish();
        check(expected, self.n_bytes, found, source_name)?;
        check_magic(&self.path)?;
        let publish = || {
            self.file.sync_all()?;
            fs::rename(&self.path, target)?;
            target.parent().map_or(Ok(()), sync_folder)
        };
        publish().map_err(|reason| PullError::writing(target, reason))?;
        Ok(found)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove, and what cannot be removed now is
        // overwritten by the next pull.
        if !self.resumable || self.n_bytes == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why reading a file ended early.
enum PieceError {
    Io(io::Error),
    Cancelled,
}

impl From<io::Error> for PieceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl PieceError {
    fn reading(self, path: &Path) -> PullError {
        match self {
            Self::Io(reason) => PullError::reading(path, reason),
            Self::Cancelled => PullError::Cancelled,
        }
    }
}

/// Reads a file that is already here and compares it with what it must be.
pub(super) fn check_file(
    path: &Path,
    expected: Expected,
    progress: &mut Progress,
    cancelled: &AtomicBool,
) -> Result<Sha256, PullError> {
    let reading = |reason| PullError::reading(path, reason);
    let source_name = path.display().to_string();
    let mut file = File::open(path).map_err(reading)?;
    let metadata = file.metadata().map_err(reading)?;
    if !metadata.is_file() {
        return Err(PullError::NoSuchFile { path: path.to_owned() });
    }
    check_magic(path)?;
    if let Some(expected_bytes) = expected.size_bytes
        && expected_bytes != metadata.len()
    {
        let found_bytes = metadata.len();
        return Err(PullError::WrongSize { source_name, expected_bytes, found_bytes });
    }
    let file_name = path.file_name().unwrap_or_default().display();
    progress.begin(&format!("Checking {file_name}"), Some(metadata.len()));
    let mut hasher = Hasher::default();
    let mut n_bytes = 0;
    read_pieces(&mut file, |piece| {
        hasher.update(piece);
        n_bytes += piece.len() as u64;
        progress.set(n_bytes);
        if cancelled.load(Ordering::Relaxed) {
            return Err(PieceError::Cancelled);
        }
        Ok(())
    })
    .map_err(|error| error.reading(path))?;
    let found = hasher.finish();
    check(expected, n_bytes, found, &source_name)?;
    Ok(found)
}

fn check(
    expected: Expected,
    found_bytes: u64,
    found: Sha256,
    source_name: &str,
) -> Result<(), PullError> {
    let source_name = || source_name.to_owned();
    match expected {
        Expected { size_bytes: Some(expected_bytes), .. } if expected_bytes != found_bytes => {
            Err(PullError::WrongSize { source_name: source_name(), expected_bytes, found_bytes })
        }
        Expected { sha256: Some(expected), .. } if expected != found => {
            Err(PullError::WrongChecksum { source_name: source_name(), expected, found })
        }
        _ => Ok(()),
    }
}

fn check_magic(path: &Path) -> Result<(), PullError> {
    let mut magic = Vec::with_capacity(4);
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .map_err(|reason| PullError::reading(path, reason))?;
    if magic == b"GGUF" { Ok(()) } else { Err(PullError::NotGguf { path: path.to_owned() }) }
}
