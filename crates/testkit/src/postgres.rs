//! A real PostgreSQL for tests.

#![expect(clippy::unwrap_used, reason = "a test that has no database fails")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

/// A PostgreSQL server of this test alone, on a socket in a temporary folder. It stops when this is
/// dropped, and when the thread that started it is killed.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    bin: PathBuf,
    is_durable: bool,
    server: Child,
    n_schemas: AtomicU32,
}

impl Cluster {
    /// Starts one that forgets what it was told when the power goes: quick, and the same otherwise.
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// Starts one that waits for the disk, as an installation does.
    pub fn start_durable() -> Self {
        Self::start_with(true)
    }

    fn start_with(is_durable: bool) -> Self {
        let bin = find_postgres();
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            run(Command::new("chown").arg(account()).arg(folder.path()));
        }
        run(as_account(&bin.join("initdb")).current_dir("/").arg("-D").arg(data(&folder)).args([
            "--username=rapport",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ]));
        let server = start_server(&bin, &folder, is_durable);
        Self { folder, bin, is_durable, server, n_schemas: AtomicU32::new(0) }
    }

    /// The address of a new and empty database.
    pub fn url(&self) -> String {
        let n = self.n_schemas.fetch_add(1, Ordering::Relaxed);
        let schema = format!("case_{n}");
        let folder = self.folder.path().to_str().unwrap();
        run(Command::new(self.bin.join("psql")).args([
            "--no-psqlrc",
            "--quiet",
            "--username=rapport",
            "--dbname=postgres",
            &format!("--host={folder}"),
            &format!("--command=CREATE SCHEMA {schema}"),
        ]));
        let folder = folder.replace('/', "%2F");
        format!("postgres://rapport@{folder}/postgres?options[search_path]={schema}")
    }

    /// Pulls the plug, and starts the server again over what is left.
    pub fn crash_and_restart(&mut self) {
        signal(&self.server, "-QUIT");
        self.server.wait().unwrap();
        self.server = start_server(&self.bin, &self.folder, self.is_durable);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        signal(&self.server, "-INT");
        let _status = self.server.wait();
    }
}

fn data(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

/// Starts the server and reads its log until it is ready.
fn start_server(bin: &Path, folder: &TempDir, is_durable: bool) -> Child {
    let fsync = if is_durable { "fsync=on" } else { "fsync=off" };
    let mut server = as_account(&bin.join("postgres"))
        .arg("-D")
        .arg(data(folder))
        .arg("-k")
        .arg(folder.path())
        .args(["-c", "listen_addresses=", "-c", fsync, "-c", "max_connections=200"])
        .current_dir("/")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("ready to accept connections") {
        let n_bytes = log.read_line(&mut text).unwrap();
        assert!(n_bytes > 0, "PostgreSQL did not start:\n{text}");
    }
    // Somebody has to read the rest, or the server stops when the pipe is full.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    server
}

/// The folder of the newest PostgreSQL programs.
fn find_postgres() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(["/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    folders.into_iter().find(|folder| folder.join("initdb").exists()).expect(
        "these tests need the programs of PostgreSQL (initdb, postgres, psql): install them, on \
         Debian and Ubuntu with `apt-get install postgresql`",
    )
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// PostgreSQL refuses to run as root: somebody without rights takes it over.
fn account() -> &'static str {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let has_postgres = accounts.lines().any(|line| line.starts_with("postgres:"));
    if has_postgres { "postgres" } else { "nobody" }
}

fn as_account(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if is_root() {
        command.arg("--clear-groups").arg("--reuid").arg(account()).arg("--regid");
        command.arg(group_of(account()));
    }
    command.arg(program).stdin(Stdio::null());
    command
}

/// The number of an account's own group.
fn group_of(account: &str) -> String {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = accounts.lines().find(|line| line.starts_with(&format!("{account}:"))).unwrap();
    line.split(':').nth(3).unwrap().to_owned()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}");
}

fn signal(child: &Child, name: &str) {
    run(Command::new("kill").args([name, &child.id().to_string()]));
}
