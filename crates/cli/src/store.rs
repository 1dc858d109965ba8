//! `rapport store`: copies of everything that is remembered, and what is kept for how long.

use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use rapport_cli::pull::Paths;
use rapport_server::{Clock, SystemClock};
use rapport_store::{Location, Plans, Store, UnixMs};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use crate::config::Config;

/// Where accounts and conversations are.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The folder of accounts and conversations [default: rapport in the user's data folder]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// A postgres:// URL instead of a file in --data
    #[arg(long, value_name = "URL", global = true)]
    database: Option<String>,
}

impl Place {
    /// As the flags say, else as `serve` is told by the settings.
    pub(crate) fn location(&self, config: &Config, paths: &Paths) -> Location {
        let said = |key| config.get(key).filter(|value| !value.is_empty());
        let database = match self {
            Self { database: Some(url), .. } => Some(url.as_str()),
            Self { data: Some(_), .. } => None,
            Self { .. } => said("serve.database"),
        };
        let folder = self.data.as_deref().or_else(|| said("serve.data").map(Path::new));
        location(database, folder.unwrap_or(&paths.data))
    }
}

/// A database by its URL, or else the file in a folder.
pub(crate) fn location(database: Option<&str>, folder: &Path) -> Location {
    match database.filter(|url| !url.is_empty()) {
        Some(url) => Location::parse(url),
        None => Location::Sqlite(folder.join("rapport.db")),
    }
}

/// The plans in a file, or those that come along.
pub(crate) fn plans(file: Option<&Path>) -> anyhow::Result<Plans> {
    let Some(path) = file.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(Plans::default());
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the plans in {}", path.display()))?;
    Plans::parse(&text).with_context(|| path.display().to_string())
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Write everything to a new file, which `restore` reads into SQLite or PostgreSQL
    Backup { file: PathBuf },
    /// Read a backup into a store without users
    Restore { file: PathBuf },
    /// Delete what has expired, and old conversations
    Clean {
        /// Delete conversations without a message for so many days; pinned ones stay
        #[arg(long, value_name = "DAYS")]
        conversations_after: Option<u32>,
    },
}

/// Runs a command of the store at `location`.
pub(crate) fn run(
    command: &StoreCommand,
    location: &Location,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let runtime = runtime()?;
    match command {
        StoreCommand::Backup { file } => {
            let n_rows = runtime.block_on(backup(&existing(&runtime, location)?, file))?;
            writeln!(out, "{n_rows} rows are in {}", file.display())?;
        }
        StoreCommand::Restore { file } => {
            let open = || std::fs::File::open(file).with_context(|| file.display().to_string());
            let mut dump = BufReader::new(open()?);
            let store = open_new(&runtime, location)?;
            let n_rows = runtime.block_on(store.restore(&mut dump))?;
            writeln!(out, "{n_rows} rows are in {location}")?;
        }
        StoreCommand::Clean { conversations_after } => {
            let store = existing(&runtime, location)?;
            let now = now();
            let n_expired = runtime.block_on(store.delete_expired(now))?;
            let n_conversations = match conversations_after {
                Some(days) => {
                    let before = now.plus_ms(-i64::from(*days) * UnixMs::DAY_MS);
                    runtime.block_on(store.delete_conversations_before(before))?
                }
                None => 0,
            };
            writeln!(out, "deleted {n_expired} expired rows, {n_conversations} conversations")?;
        }
    }
    Ok(())
}

/// The file appears whole or not at all, and only its owner may read it.
async fn backup(store: &Store, file: &Path) -> anyhow::Result<u64> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let context = || file.display().to_string();
    let temporary = NamedTempFile::new_in(folder).with_context(context)?;
    let mut out = BufWriter::new(temporary);
    let n_rows = store.dump(&mut out).await?;
    let temporary = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    temporary.as_file().sync_all().with_context(context)?;
    temporary.persist_noclobber(file).map_err(|error| error.error).with_context(context)?;
    Ok(n_rows)
}

pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the threads of the store")
}

/// Opens a store that is there: a typo in a path makes no new one.
pub(crate) fn existing(runtime: &Runtime, location: &Location) -> anyhow::Result<Store> {
    if let Location::Sqlite(path) = location {
        let advice = "give its place with --data or --database";
        ensure!(path.exists(), "there is no store at {location}: {advice}");
    }
    Ok(runtime.block_on(Store::open(location, now()))?)
}

/// Opens a store, making an SQLite file and its folder where there is none.
pub(crate) fn open_new(runtime: &Runtime, location: &Location) -> anyhow::Result<Store> {
    if let Location::Sqlite(path) = location
        && let Some(folder) = path.parent()
    {
        make_private_folder(folder)?;
    }
    Ok(runtime.block_on(Store::open(location, now()))?)
}

/// A folder that only its owner may read: conversations are in it.
pub(crate) fn make_private_folder(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// The time that this machine's clock shows.
pub(crate) fn now() -> UnixMs {
    SystemClock.now()
}
