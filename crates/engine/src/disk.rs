//! Cached pages on disk, so that a conversation goes on quickly after a restart.
//!
//! A file holds a run: consecutive pages of one path, with all tokens from the path's beginning, so
//! that nothing is believed that the file does not say itself. Header and pages carry checksums; a
//! file that is damaged, unfinished, of another build or not ours at all is never used and always
//! reported ([`DiskReport`]). Checksums find accidents, not attackers: whoever can write here is
//! trusted.
//!
//! Files are written, deleted and marked as used by a thread of the tier's own, so that a step
//! never waits for that; reading is the caller's, page by page, so that it can stop in between.
//! Nothing is synced: what a crash leaves half written is found by its checksum.
//!
//! What is not here: compression (floats hardly shrink) and sharing a directory between engines
//! (a lock file keeps them apart).

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use rapport_kernels::{KvPage, PAGE_TOKENS};

use crate::pages::PageTable;
use crate::prefix::{AdapterKey, CacheKey, CacheScope, NodeIdx, PrefixTree, SharedPrefix};

const MAGIC: [u8; 8] = *b"RAPPORTK";
const FORMAT_VERSION: u32 = 2;
/// Magic, version, length of the header.
const PREAMBLE_BYTES: usize = 16;
/// The preamble, build, page size, keys and counts: all of the header but its lists and checksum.
const FIXED_BYTES: usize = PREAMBLE_BYTES + 32 + 8 + 3 * 32 + 3 * 4;
/// Pages wait in memory until they are written; beyond this new ones are not written at all.
const MAX_PENDING_BYTES: u64 = 256 << 20;
/// Reports that nobody took are dropped beyond this many; statistics still count them.
const MAX_REPORTS: usize = 100;

/// Where cached pages go.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Made if it is missing; belongs to one engine at a time.
    pub directory: PathBuf,
    /// Files used longest ago are deleted beyond this.
    pub max_bytes: u64,
    /// Everything that keys and values depend on beside tokens and the sequence's adapter: weights,
    /// type of page.
    pub build: [u8; 32],
}

/// Why there is no disk tier.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{path}: {source}: choose a directory that can be written to", path = path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("{path} is used by another engine: give each a directory of its own", path = path.display())]
    InUse { path: PathBuf },
}

/// A file that was not used, or not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskReport {
    pub path: PathBuf,
    pub problem: DiskProblem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskProblem {
    #[error("not a file of cached pages; left alone")]
    Foreign,
    #[error("of another build; kept while there is room")]
    OtherBuild,
    #[error("damaged; deleted")]
    Damaged,
    #[error("never finished; deleted")]
    Unfinished,
    #[error("continues a file that is not there; deleted")]
    Orphaned,
    #[error("cannot be read: {message}")]
    Unreadable { message: String },
    #[error("cannot be written: {message}")]
    Unwritable { message: String },
}

/// Counts since the tier was opened, and what is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStatistics {
    pub n_files: usize,
    pub n_bytes: u64,
    pub n_pages_read: u64,
    pub n_pages_written: u64,
    /// Runs that were not written because the disk was too far behind.
    pub n_skipped_writes: u64,
    pub n_failed_writes: u64,
    pub n_damaged: u64,
    pub n_other_build: u64,
    pub n_foreign: u64,
    pub n_unfinished: u64,
    pub n_orphaned: u64,
    pub n_unreadable: u64,
}

/// A page in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskPage {
    file: FileId,
    slot: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct FileId(u64);

/// What is known of a file.
struct RunFile {
    n_bytes: u64,
    /// Its first page's place; `None` for a file of another build.
    head: Option<NodeIdx>,
    header_bytes: u64,
    /// Of each page; empty until the file is written.
    checksums: Vec<u32>,
    last_use: u64,
}

enum Job {
    Write(Box<Run>),
    Delete(FileId),
    MarkUsed(FileId),
    /// Answered when everything before is done.
    Flush(Sender<()>),
}

/// Pages to be written.
struct Run {
    file: FileId,
    header: Header,
    pages: Vec<Arc<KvPage>>,
    n_bytes: u64,
}

struct Written {
    file: FileId,
    n_bytes: u64,
    checksums: io::Result<Vec<u32>>,
}

pub(crate) struct DiskTier {
    config: DiskConfig,
    page_bytes: usize,
    tree: PrefixTree<DiskPage>,
    files: HashMap<FileId, RunFile>,
    next_file: FileId,
    n_bytes: u64,
    n_pending_bytes: u64,
    /// Counts uses.
    clock: u64,
    statistics: DiskStatistics,
    reports: Vec<DiskReport>,
    jobs: Option<Sender<Job>>,
    written: Receiver<Written>,
    thread: Option<JoinHandle<()>>,
    /// Held for as long as the tier lives.
    _lock: File,
}

impl DiskTier {
    /// Opens the directory and reads the headers of what is there.
    pub(crate) fn open(config: DiskConfig, page_bytes: usize) -> Result<Self, DiskError> {
        let directory = config.directory.clone();
        let failed = |source| DiskError::Directory { path: directory.clone(), source };
        create_directory(&directory).map_err(failed)?;
        let lock = private_file().open(directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DiskError::InUse { path: directory }),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let (jobs, to_do) = channel();
        let (done, written) = channel();
        let thread = std::thread::Builder::new()
            .name("rapport-cache".to_owned())
            .spawn({
                let directory = directory.clone();
                move || work(&directory, &to_do, &done)
            })
            .map_err(failed)?;
        let mut tier = Self {
            config,
            page_bytes,
            tree: PrefixTree::new(),
            files: HashMap::new(),
            next_file: FileId(1),
            n_bytes: 0,
            n_pending_bytes: 0,
            clock: 0,
            statistics: DiskStatistics::default(),
            reports: Vec::new(),
            jobs: Some(jobs),
            written,
            thread: Some(thread),
            _lock: lock,
        };
        tier.scan().map_err(failed)?;
        Ok(tier)
    }

    fn scan(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.config.directory)? {
            let path = entry?.path();
            let Some((file, kind)) = file_id(&path) else {
                if !path.ends_with("lock") {
                    self.report(path, DiskProblem::Foreign);
                }
                continue;
            };
            self.next_file = self.next_file.max(FileId(file.0 + 1));
            if kind == FileKind::Unfinished {
                self.report(path.clone(), DiskProblem::Unfinished);
                // Only a cache: what cannot be deleted now is met again at the next start.
                let _ = fs::remove_file(path);
                continue;
            }
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let header = self.read_header(&path);
            found.push((used.unwrap_or(SystemTime::UNIX_EPOCH), file, path, header));
        }
        found.sort_by_key(|(used, file, ..)| (*used, *file));
        let mut runs = Vec::new();
        for (_, file, path, header) in found {
            self.clock += 1;
            match header {
                Ok((header, n_bytes)) => {
                    self.add(file, n_bytes, header.n_bytes() as u64);
                    runs.push((file, header));
                }
                Err(problem) => {
                    if problem == DiskProblem::OtherBuild {
                        let n_bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
                        self.add(file, n_bytes, 0);
                    } else if problem == DiskProblem::Damaged {
                        self.send(Job::Delete(file));
                    }
                    self.report(path, problem);
                }
            }
        }
        // What others continue first.
        runs.sort_by_key(|(file, header)| (header.first_page, *file));
        for (file, header) in runs {
            let n_tokens = header.tokens.len();
            let n_known = self.tree.walk(header.scope.edges(&header.tokens)).len();
            if n_known == header.first_page {
                self.insert(file, &header.scope, &header.tokens[..n_tokens], n_known);
                let run = self.files.get_mut(&file).expect("added above");
                run.checksums = header.checksums;
            } else {
                self.report(path_of(&self.config.directory, file), DiskProblem::Orphaned);
                self.remove(file);
            }
        }
        self.make_room(0);
        Ok(())
    }

    fn read_header(&self, path: &Path) -> Result<(Header, u64), DiskProblem> {
        let unreadable = |error: io::Error| DiskProblem::Unreadable { message: error.to_string() };
        let mut file = File::open(path).map_err(unreadable)?;
        let n_bytes = file.metadata().map_err(unreadable)?.len();
        let mut preamble = Vec::new();
        let preamble_bytes = PREAMBLE_BYTES as u64;
        Read::by_ref(&mut file)
            .take(preamble_bytes)
            .read_to_end(&mut preamble)
            .map_err(unreadable)?;
        let n_common = MAGIC.len().min(preamble.len());
        if preamble[..n_common] != MAGIC[..n_common] {
            return Err(DiskProblem::Foreign);
        }
        let mut fields = Fields(&preamble[n_common..]);
        let (Some(version), Some(header_bytes)) = (fields.u32(), fields.u32()) else {
            return Err(DiskProblem::Damaged);
        };
        if version != FORMAT_VERSION {
            return Err(DiskProblem::OtherBuild);
        }
        if u64::from(header_bytes) > n_bytes {
            return Err(DiskProblem::Damaged);
        }
        let mut bytes = preamble;
        let rest = u64::from(header_bytes).saturating_sub(preamble_bytes);
        file.take(rest).read_to_end(&mut bytes).map_err(unreadable)?;
        let header = Header::decode(&bytes).ok_or(DiskProblem::Damaged)?;
        if header.build != self.config.build || header.page_bytes != self.page_bytes as u64 {
            return Err(DiskProblem::OtherBuild);
        }
        let n_pages = header.checksums.len() as u64;
        if n_bytes != bytes.len() as u64 + n_pages * header.page_bytes {
            return Err(DiskProblem::Damaged);
        }
        Ok((header, n_bytes))
    }

    /// The pages after the first `n_known` of the longest stored beginning of `tokens`.
    pub(crate) fn find(
        &mut self,
        scope: &CacheScope,
        tokens: &[u32],
        n_known: usize,
    ) -> VecDeque<DiskPage> {
        self.settle();
        let path = self.path(scope, tokens);
        let is_written = |page: &DiskPage| !self.files[&page.file].checksums.is_empty();
        path.into_iter().take_while(is_written).skip(n_known).collect()
    }

    /// Walks to `tokens` and marks what is passed as used.
    fn path(&mut self, scope: &CacheScope, tokens: &[u32]) -> Vec<DiskPage> {
        let path = self.tree.walk(scope.edges(tokens));
        let path: Vec<DiskPage> = path.into_iter().map(|idx| *self.tree.value(idx)).collect();
        self.clock += 1;
        for page in &path {
            let file = self.files.get_mut(&page.file).expect("pages in the tree have a file");
            if std::mem::replace(&mut file.last_use, self.clock) != self.clock {
                self.send(Job::MarkUsed(page.file));
            }
        }
        path
    }

    /// Reads a page's bytes. `None`: it is not there any more, or its file was damaged and is gone
    /// now.
    pub(crate) fn load(&mut self, page: DiskPage) -> Option<Vec<u8>> {
        let file = self.files.get(&page.file)?;
        let checksum = *file.checksums.get(page.slot)?;
        let start = file.header_bytes + (page.slot * self.page_bytes) as u64;
        let path = path_of(&self.config.directory, page.file);
        let mut bytes = vec![0; self.page_bytes];
        let read = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut bytes)
        });
        let problem = match read {
            Ok(()) if crc32fast::hash(&bytes) == checksum => {
                self.statistics.n_pages_read += 1;
                return Some(bytes);
            }
            Ok(()) => DiskProblem::Damaged,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => DiskProblem::Damaged,
            Err(error) => DiskProblem::Unreadable { message: error.to_string() },
        };
        self.report(path, problem);
        self.remove(page.file);
        None
    }

    /// Writes, soon, what is not there yet of a sequence's whole pages.
    pub(crate) fn store(&mut self, scope: &CacheScope, tokens: &[u32], pages: &PageTable) {
        self.settle();
        let n_whole = tokens.len() / PAGE_TOKENS;
        let n_shared = scope.shared.map_or(0, |shared| shared.n_tokens / PAGE_TOKENS);
        // A file belongs to one key, so that forgetting a tenant leaves the shared pages.
        for end in [n_shared.min(n_whole), n_whole] {
            let tokens = &tokens[..end * PAGE_TOKENS];
            let first_page = self.path(scope, tokens).len();
            if first_page < end && !self.store_run(scope, tokens, first_page, pages) {
                return;
            }
        }
    }

    fn store_run(
        &mut self,
        scope: &CacheScope,
        tokens: &[u32],
        first_page: usize,
        pages: &PageTable,
    ) -> bool {
        let header = Header {
            build: self.config.build,
            page_bytes: self.page_bytes as u64,
            scope: *scope,
            first_page,
            tokens: tokens.to_vec(),
            checksums: vec![0; tokens.len() / PAGE_TOKENS - first_page],
        };
        let n_pages = header.checksums.len();
        let n_bytes = (header.n_bytes() + n_pages * self.page_bytes) as u64;
        if self.n_pending_bytes + n_bytes > MAX_PENDING_BYTES || !self.make_room(n_bytes) {
            self.statistics.n_skipped_writes += 1;
            return false;
        }
        let file = self.next_file;
        self.next_file = FileId(file.0 + 1);
        self.add(file, n_bytes, header.n_bytes() as u64);
        self.insert(file, scope, tokens, first_page);
        self.n_pending_bytes += n_bytes;
        let pages =
            (first_page..first_page + n_pages).map(|page_idx| Arc::clone(pages.get(page_idx).kv()));
        let run = Run { file, header, pages: pages.collect(), n_bytes };
        self.send(Job::Write(Box::new(run)));
        true
    }

    fn add(&mut self, file: FileId, n_bytes: u64, header_bytes: u64) {
        let last_use = self.clock;
        let run = RunFile { n_bytes, head: None, header_bytes, checksums: Vec::new(), last_use };
        self.files.insert(file, run);
        self.n_bytes += n_bytes;
    }

    /// Puts a file's pages in the tree, under the first `first_page` that are there.
    fn insert(&mut self, file: FileId, scope: &CacheScope, tokens: &[u32], first_page: usize) {
        let mut parent = self.tree.walk(scope.edges(tokens)).last().copied();
        for (slot, edge) in scope.edges(tokens).skip(first_page).enumerate() {
            let idx = self.tree.insert(parent, edge, DiskPage { file, slot });
            if slot == 0 {
                self.files.get_mut(&file).expect("just added").head = Some(idx);
            }
            parent = Some(idx);
        }
    }

    /// Deletes the files used longest ago until `n_bytes` more fit; `false` if they cannot without
    /// deleting what is in use now.
    fn make_room(&mut self, n_bytes: u64) -> bool {
        while self.n_bytes + n_bytes > self.config.max_bytes {
            let oldest = self.files.iter().min_by_key(|(file, run)| (run.last_use, **file));
            let Some((&file, run)) = oldest else { return false };
            if run.last_use == self.clock && n_bytes > 0 {
                return false;
            }
            self.remove(file);
        }
        true
    }

    /// Deletes a file and those that continue it.
    fn remove(&mut self, file: FileId) {
        let Some(run) = self.files.remove(&file) else { return };
        self.n_bytes -= run.n_bytes;
        self.send(Job::Delete(file));
        let pages = run.head.map(|head| self.tree.remove(head)).unwrap_or_default();
        for page in pages {
            if let Some(run) = self.files.remove(&page.file) {
                self.n_bytes -= run.n_bytes;
                self.send(Job::Delete(page.file));
            }
        }
    }

    /// Deletes everything under a key.
    pub(crate) fn forget(&mut self, key: CacheKey) {
        let files: HashSet<FileId> = self.tree.of_key(key).map(|page| page.file).collect();
        for file in files {
            self.remove(file);
        }
    }

    /// Takes note of what the thread has written.
    fn settle(&mut self) {
        while let Ok(Written { file, n_bytes, checksums }) = self.written.try_recv() {
            self.n_pending_bytes -= n_bytes;
            match checksums {
                Ok(checksums) => {
                    self.statistics.n_pages_written += checksums.len() as u64;
                    if let Some(run) = self.files.get_mut(&file) {
                        run.checksums = checksums;
                    }
                }
                Err(error) => {
                    let path = path_of(&self.config.directory, file);
                    self.report(path, DiskProblem::Unwritable { message: error.to_string() });
                    self.remove(file);
                }
            }
        }
    }

    /// Waits until everything stored so far is written.
    pub(crate) fn flush(&mut self) {
        let (done, is_done) = channel();
        self.send(Job::Flush(done));
        // An error means the thread is gone, and its jobs with it.
        let _ = is_done.recv();
        self.settle();
    }

    pub(crate) fn statistics(&self) -> DiskStatistics {
        DiskStatistics { n_files: self.files.len(), n_bytes: self.n_bytes, ..self.statistics }
    }

    pub(crate) fn take_reports(&mut self) -> Vec<DiskReport> {
        self.settle();
        std::mem::take(&mut self.reports)
    }

    fn report(&mut self, path: PathBuf, problem: DiskProblem) {
        let statistics = &mut self.statistics;
        *match problem {
            DiskProblem::Foreign => &mut statistics.n_foreign,
            DiskProblem::OtherBuild => &mut statistics.n_other_build,
            DiskProblem::Damaged => &mut statistics.n_damaged,
            DiskProblem::Unfinished => &mut statistics.n_unfinished,
            DiskProblem::Orphaned => &mut statistics.n_orphaned,
            DiskProblem::Unreadable { .. } => &mut statistics.n_unreadable,
            DiskProblem::Unwritable { .. } => &mut statistics.n_failed_writes,
        } += 1;
        if self.reports.len() < MAX_REPORTS {
            self.reports.push(DiskReport { path, problem });
        }
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Without its thread the tier only forgets.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for DiskTier {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that changes files.
fn work(directory: &Path, jobs: &Receiver<Job>, done: &Sender<Written>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Write(run) => {
                let checksums = write(directory, &run);
                let Run { file, n_bytes, .. } = *run;
                // The tier may be gone; what is written is found at the next start.
                let _ = done.send(Written { file, n_bytes, checksums });
            }
            // Whether these two succeed is seen at the next start.
            Job::Delete(file) => {
                let _ = fs::remove_file(path_of(directory, file));
            }
            Job::MarkUsed(file) => {
                let times = FileTimes::new().set_modified(SystemTime::now());
                let _ = OpenOptions::new()
                    .append(true)
                    .open(path_of(directory, file))
                    .and_then(|file| file.set_times(times));
            }
            Job::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Writes a run under another name and then gives it its own, so that no reader meets half of it.
fn write(directory: &Path, run: &Run) -> io::Result<Vec<u32>> {
    let mut header = run.header.clone();
    let header_bytes = header.n_bytes();
    let mut bytes = vec![0; header_bytes];
    for (page, checksum) in run.pages.iter().zip(&mut header.checksums) {
        let start = bytes.len();
        page.write_bytes(&mut bytes);
        *checksum = crc32fast::hash(&bytes[start..]);
    }
    bytes[..header_bytes].copy_from_slice(&header.encode());
    let path = path_of(directory, run.file);
    let unfinished = path.with_extension("tmp");
    let result = private_file()
        .truncate(true)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&unfinished, &path));
    if let Err(error) = result {
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    Ok(header.checksums)
}

/// Opens for writing, for the owner only: pages can be turned back into what was said.
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Run,
    Unfinished,
}

fn path_of(directory: &Path, file: FileId) -> PathBuf {
    directory.join(format!("{:016x}.kv", file.0))
}

fn file_id(path: &Path) -> Option<(FileId, FileKind)> {
    let kind = match path.extension()?.to_str()? {
        "kv" => FileKind::Run,
        "tmp" => FileKind::Unfinished,
        _ => return None,
    };
    let name = path.file_stem()?.to_str()?;
    let number = u64::from_str_radix(name, 16).ok().filter(|number| *number < u64::MAX)?;
    (name.len() == 16).then_some((FileId(number), kind))
}

/// What a file says of itself. Numbers are little-endian.
///
/// | bytes | |
/// |---|---|
/// | 8 | magic |
/// | 4, 4 | format version, length of the header |
/// | 32, 8 | build, bytes of a page |
/// | 32, 32, 4 | key, shared key, shared pages |
/// | 4, 4 | first page, pages |
/// | 4 each | all tokens up to the end of the last page |
/// | 4 each | CRC-32 of each page |
/// | 4 | CRC-32 of the header up to here |
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    build: [u8; 32],
    page_bytes: u64,
    scope: CacheScope,
    first_page: usize,
    tokens: Vec<u32>,
    checksums: Vec<u32>,
}

impl Header {
    fn n_bytes(&self) -> usize {
        FIXED_BYTES + 4 * (self.tokens.len() + self.checksums.len() + 1)
    }

    fn encode(&self) -> Vec<u8> {
        let shared = self.scope.shared.unwrap_or(SharedPrefix { key: self.scope.key, n_tokens: 0 });
        let mut bytes = Vec::with_capacity(self.n_bytes());
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((self.n_bytes() as u32).to_le_bytes());
        bytes.extend(self.build);
        bytes.extend(self.page_bytes.to_le_bytes());
        bytes.extend(self.scope.key.0);
        bytes.extend(shared.key.0);
        bytes.extend(self.scope.adapter.0);
        let n_shared_pages = shared.n_tokens.min(self.tokens.len()) / PAGE_TOKENS;
        for number in [n_shared_pages, self.first_page, self.checksums.len()] {
            bytes.extend((number as u32).to_le_bytes());
        }
        for number in self.tokens.iter().chain(&self.checksums) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut fields = Fields(body.get(PREAMBLE_BYTES..)?);
        let build = fields.array()?;
        let page_bytes = u64::from_le_bytes(fields.array()?);
        let (key, shared_key) = (CacheKey(fields.array()?), CacheKey(fields.array()?));
        let adapter = AdapterKey(fields.array()?);
        let n_shared_pages = fields.u32()? as usize;
        let first_page = fields.u32()? as usize;
        let n_pages = fields.u32()? as usize;
        let n_tokens = first_page.checked_add(n_pages)?.checked_mul(PAGE_TOKENS)?;
        if n_pages == 0 || fields.0.len() != n_tokens.checked_add(n_pages)?.checked_mul(4)? {
            return None;
        }
        let mut numbers = fields.0.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let tokens = numbers.by_ref().take(n_tokens).collect();
        let shared =
            SharedPrefix { key: shared_key, n_tokens: n_shared_pages.checked_mul(PAGE_TOKENS)? };
        let scope = CacheScope { key, shared: (n_shared_pages > 0).then_some(shared), adapter };
        Some(Self { build, page_bytes, scope, first_page, tokens, checksums: numbers.collect() })
    }
}

/// Takes values off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::PagePool;
    use crate::pages::tests::pool;

    const BUILD: [u8; 32] = [7; 32];

    fn config(directory: &Path) -> DiskConfig {
        DiskConfig { directory: directory.to_owned(), max_bytes: 1 << 20, build: BUILD }
    }

    fn open(directory: &Path) -> DiskTier {
        DiskTier::open(config(directory), pool(1).page_bytes()).unwrap()
    }

    /// Tokens of `n_pages` that begin like all others of the same `seed`.
    fn tokens(seed: u32, n_pages: usize) -> Vec<u32> {
        (0..(n_pages * PAGE_TOKENS) as u32).map(|at| seed * 1000 + at).collect()
    }

    /// Pages with different content for each place.
    fn table(pool: &PagePool, n_pages: usize) -> PageTable {
        let mut table = PageTable::default();
        for page_idx in 0..n_pages {
            let bytes: Vec<u8> =
                (0..pool.page_bytes()).map(|at| (at as u8).wrapping_add(page_idx as u8)).collect();
            table.push(pool.restore(&bytes).unwrap());
        }
        table
    }

    fn scope(name: u8) -> CacheScope {
        CacheScope { key: CacheKey([name; 32]), ..CacheScope::default() }
    }

    /// A directory with one file of three pages; returns the file's path.
    fn one_file(directory: &Path) -> PathBuf {
        let mut tier = open(directory);
        tier.store(&scope(1), &tokens(1, 3), &table(&pool(3), 3));
        tier.flush();
        path_of(directory, FileId(1))
    }

    fn load_all(tier: &mut DiskTier, scope: &CacheScope, tokens: &[u32]) -> Vec<Vec<u8>> {
        let found = tier.find(scope, tokens, 0);
        found.into_iter().map_while(|page| tier.load(page)).collect()
    }

    #[test]
    fn pages_come_back_as_they_were_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(8);
        let stored = table(&pool, 5);
        let mut tier = open(directory.path());
        tier.store(&scope(1), &tokens(1, 3), &stored);
        tier.store(&scope(1), &tokens(1, 5), &stored);
        drop(tier);
        let mut tier = open(directory.path());
        assert_eq!(tier.statistics().n_files, 2);
        let loaded = load_all(&mut tier, &scope(1), &tokens(1, 6));
        assert_eq!(loaded.len(), 5);
        for (page_idx, bytes) in loaded.iter().enumerate() {
            let mut expected = Vec::new();
            stored.get(page_idx).kv().write_bytes(&mut expected);
            assert_eq!(*bytes, expected);
        }
        assert_eq!(tier.find(&scope(1), &tokens(1, 4), 3).len(), 1);
        assert!(tier.find(&scope(2), &tokens(1, 5), 0).is_empty(), "another tenant's");
        let adapted = CacheScope { adapter: AdapterKey([1; 32]), ..scope(1) };
        assert!(tier.find(&adapted, &tokens(1, 5), 0).is_empty(), "another adapter's");
        assert!(tier.find(&scope(1), &tokens(2, 5), 0).is_empty());
        assert_eq!(tier.take_reports(), []);
    }

    #[test]
    fn a_file_cut_anywhere_is_deleted_and_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = one_file(directory.path());
        let whole = fs::read(&path).unwrap();
        for n_bytes in 0..whole.len() {
            fs::write(&path, &whole[..n_bytes]).unwrap();
            let mut tier = open(directory.path());
            assert!(tier.find(&scope(1), &tokens(1, 3), 0).is_empty(), "{n_bytes} bytes");
            let report = DiskReport { path: path.clone(), problem: DiskProblem::Damaged };
            assert_eq!(tier.take_reports(), [report]);
            tier.flush();
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_never_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = one_file(directory.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            let mut tier = open(directory.path());
            let loaded = load_all(&mut tier, &scope(1), &tokens(1, 3));
            assert!(loaded.len() < 3, "byte {at}");
            let header_bytes = whole.len() - 3 * tier.page_bytes;
            for (page_idx, page) in loaded.iter().enumerate() {
                let start = header_bytes + page_idx * tier.page_bytes;
                assert_eq!(page[..], whole[start..][..tier.page_bytes], "byte {at}");
            }
            assert_eq!(tier.take_reports().len(), 1, "byte {at}");
        }
    }

    #[test]
    fn files_of_others_are_reported_and_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = one_file(directory.path());
        fs::write(directory.path().join("notes.txt"), "mine").unwrap();
        fs::write(path_of(directory.path(), FileId(9)), "not pages at all").unwrap();
        fs::write(path_of(directory.path(), FileId(5)).with_extension("tmp"), MAGIC).unwrap();
        let other = DiskConfig { build: [8; 32], ..config(directory.path()) };
        let mut tier = DiskTier::open(other, pool(1).page_bytes()).unwrap();
        assert!(tier.find(&scope(1), &tokens(1, 3), 0).is_empty());
        let statistics = tier.statistics();
        assert_eq!(
            (statistics.n_foreign, statistics.n_unfinished, statistics.n_other_build),
            (2, 1, 1)
        );
        drop(tier);
        assert!(path.exists() && directory.path().join("notes.txt").exists());
        assert_eq!(load_all(&mut open(directory.path()), &scope(1), &tokens(1, 3)).len(), 3);
    }

    #[test]
    fn the_files_used_longest_ago_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(2);
        let stored = table(&pool, 2);
        let mut tier = open(directory.path());
        tier.store(&scope(1), &tokens(0, 2), &stored);
        let file_bytes = tier.n_bytes;
        tier.config.max_bytes = 3 * file_bytes;
        for seed in 1..3 {
            tier.store(&scope(1), &tokens(seed, 2), &stored);
        }
        tier.flush();
        assert_eq!(tier.find(&scope(1), &tokens(0, 2), 0).len(), 2);
        tier.store(&scope(1), &tokens(3, 2), &stored);
        tier.flush();
        let n_found = [0, 1, 2, 3].map(|seed| tier.find(&scope(1), &tokens(seed, 2), 0).len());
        assert_eq!(n_found, [2, 0, 2, 2]);
        assert_eq!(tier.n_bytes, 3 * file_bytes);
        drop(tier);
        let small = DiskConfig { max_bytes: file_bytes, ..config(directory.path()) };
        let tier = DiskTier::open(small, pool.page_bytes()).unwrap();
        assert_eq!(tier.statistics().n_files, 1);
    }

    #[test]
    fn forgetting_a_tenant_leaves_the_shared_pages() {
        let directory = tempfile::tempdir().unwrap();
        let shared = SharedPrefix { key: CacheKey([9; 32]), n_tokens: 2 * PAGE_TOKENS };
        let [one, two] = [1, 2].map(|name| CacheScope { shared: Some(shared), ..scope(name) });
        let mut tier = open(directory.path());
        let pool = pool(4);
        tier.store(&one, &tokens(1, 4), &table(&pool, 4));
        tier.flush();
        assert_eq!(tier.find(&two, &tokens(1, 4), 0).len(), 2);
        tier.forget(one.key);
        assert_eq!(tier.find(&one, &tokens(1, 4), 0).len(), 2);
        drop(tier);
        assert_eq!(open(directory.path()).find(&one, &tokens(1, 4), 0).len(), 2);
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_reported_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        let mut tier = open(&path);
        fs::remove_dir_all(&path).unwrap();
        tier.store(&scope(1), &tokens(1, 1), &table(&pool(1), 1));
        tier.flush();
        assert!(tier.find(&scope(1), &tokens(1, 1), 0).is_empty());
        let statistics = tier.statistics();
        assert_eq!(
            (statistics.n_failed_writes, statistics.n_files, tier.n_pending_bytes),
            (1, 0, 0)
        );
    }

    #[test]
    fn a_directory_belongs_to_one_engine() {
        let directory = tempfile::tempdir().unwrap();
        let _first = open(directory.path());
        let second = DiskTier::open(config(directory.path()), 256);
        assert!(matches!(second, Err(DiskError::InUse { .. })));
    }
}
