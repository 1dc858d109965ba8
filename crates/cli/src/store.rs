//! `rapport store`: copies of everything that is remembered, and what is kept for how long.

use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Subcommand;
use rapport_store::{Location, Store, UnixMs};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

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
        ensure!(path.exists(), "there is no store at {location}: give its place with --store");
    }
    Ok(runtime.block_on(Store::open(location, now()))?)
}

/// Opens a store, making an SQLite file and its folder where there is none.
pub(crate) fn open_new(runtime: &Runtime, location: &Location) -> anyhow::Result<Store> {
    if let Location::Sqlite(path) = location
        && let Some(folder) = path.parent()
    {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(runtime.block_on(Store::open(location, now()))?)
}

/// The time that this machine's clock shows.
pub(crate) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
