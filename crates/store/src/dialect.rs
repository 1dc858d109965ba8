//! Where SQLite and Postgres differ. Every other statement is the same text on both.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::AnyPool;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};

use crate::Error;

/// Where the database is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of this machine, made when missing; its folder must exist.
    Sqlite(PathBuf),
    /// A `postgres://` URL; several servers may share it.
    Postgres(String),
}

impl Location {
    /// A `postgres://` or `postgresql://` URL, or else the path of an SQLite file.
    pub fn parse(text: &str) -> Self {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Self::Postgres(text.to_owned())
        } else {
            Self::Sqlite(PathBuf::from(text))
        }
    }
}

/// Says where, never with which password.
impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => {
                let without_query = url.split('?').next().unwrap_or_default();
                let place = without_query.rsplit('@').next().unwrap_or_default();
                let place = place.split("://").last().unwrap_or_default();
                write!(f, "postgres://{place}")
            }
        }
    }
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// The pools a store works with.
pub(crate) struct Pools {
    pub(crate) read: AnyPool,
    /// SQLite takes one writer at a time: a single connection makes writers queue fairly in this
    /// process instead of polling the file's lock. Postgres uses one pool for both.
    pub(crate) write: AnyPool,
}

const MAX_SQLITE_READERS: u32 = 4;
const MAX_POSTGRES_CONNECTIONS: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// What every SQLite connection is told. FULL, since a write that was acknowledged outlives a
/// power cut; the time to wait is for writers of other processes; erased text is overwritten.
const SQLITE_SETTINGS: &str = "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; \
     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON";

impl Dialect {
    pub(crate) async fn connect(location: &Location) -> Result<(Self, Pools), Error> {
        sqlx::any::install_default_drivers();
        let failed = |source| Error::Open { location: location.to_string(), source };
        let pool = |n_connections| {
            AnyPoolOptions::new().max_connections(n_connections).acquire_timeout(ACQUIRE_TIMEOUT)
        };
        match location {
            Location::Sqlite(path) => {
                make_private_file(path).map_err(|error| failed(error.into()))?;
                let path = std::path::absolute(path).map_err(|error| failed(error.into()))?;
                let options = AnyConnectOptions::from_str(&sqlite_url(&path))
                    .map_err(|error| failed(error.into()))?;
                let pool = |n_connections| {
                    pool(n_connections).after_connect(|connection, _| {
                        Box::pin(async move {
                            sqlx::raw_sql(SQLITE_SETTINGS).execute(connection).await?;
                            Ok(())
                        })
                    })
                };
                let write = pool(1)
                    .connect_with(options.clone())
                    .await
                    .map_err(|error| failed(error.into()))?;
                let read = pool(MAX_SQLITE_READERS).connect_lazy_with(options);
                Ok((Self::Sqlite, Pools { read, write }))
            }
            Location::Postgres(url) => {
                let write = pool(MAX_POSTGRES_CONNECTIONS)
                    .connect(url)
                    .await
                    .map_err(|error| failed(error.into()))?;
                Ok((Self::Postgres, Pools { read: write.clone(), write }))
            }
        }
    }

    /// Begins a transaction that will write. SQLite takes the write lock at once: taking it later
    /// fails when another writer came between.
    pub(crate) fn begin_write(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// Begins a transaction that reads one state of the whole database.
    pub(crate) fn begin_snapshot(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// Reads a user's row so that nobody else who does the same goes on before this transaction
    /// ends.
    pub(crate) fn lock_user(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT plan FROM users WHERE id = $1",
            Self::Postgres => "SELECT plan FROM users WHERE id = $1 FOR NO KEY UPDATE",
        }
    }

    /// Reads an owner's conversation so that its writers follow one another.
    pub(crate) fn lock_conversation(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT id FROM conversations WHERE id = $1 AND owner_id = $2",
            Self::Postgres => {
                "SELECT id FROM conversations WHERE id = $1 AND owner_id = $2 FOR NO KEY UPDATE"
            }
        }
    }

    /// Makes the transactions that ask for it follow one another: migrations of servers that start
    /// together, and changes of who is in charge.
    pub(crate) fn lock_everything(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT 1",
            // The number only has to be ours: "rapport" in ASCII.
            Self::Postgres => "SELECT CAST(pg_advisory_xact_lock(32195221641981556) AS TEXT)",
        }
    }
}

/// Makes the file unless it is there. It holds people's conversations: only its owner may read it.
/// SQLite gives the log files beside it the same permissions.
fn make_private_file(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// An absolute path as a URL: whatever has a meaning there is escaped.
fn sqlite_url(path: &Path) -> String {
    let mut url = "sqlite://".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte) {
            url.push(char::from(*byte));
        } else {
            let _infallible = std::fmt::Write::write_fmt(&mut url, format_args!("%{byte:02X}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_never_shows_its_password() {
        let urls = ["postgres://me:hush@db/x?password=hush", "postgresql://me:hush@h:1/x"];
        for url in urls {
            let location = Location::parse(url);
            assert!(matches!(location, Location::Postgres(_)));
            assert!(!format!("{location} {location:?}").contains("hush"));
        }
        assert_eq!(Location::parse("rapport.db"), Location::Sqlite("rapport.db".into()));
    }

    #[test]
    fn a_path_is_escaped() {
        assert_eq!(sqlite_url(Path::new("/a b/?#%.db")), "sqlite:///a%20b/%3F%23%25.db");
    }

    #[tokio::test]
    async fn every_sqlite_connection_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b?#%.db");
        let (dialect, pools) = Dialect::connect(&Location::Sqlite(path.clone())).await.unwrap();
        assert_eq!(dialect, Dialect::Sqlite);
        for pool in [&pools.read, &pools.write] {
            for (pragma, expected) in
                [("synchronous", 2), ("foreign_keys", 1), ("secure_delete", 1)]
            {
                let statement = sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"));
                let found: i64 = sqlx::query_scalar(statement).fetch_one(pool).await.unwrap();
                assert_eq!(found, expected, "{pragma}");
            }
            let mode: String =
                sqlx::query_scalar("PRAGMA journal_mode").fetch_one(pool).await.unwrap();
            assert_eq!(mode, "wal");
        }
        assert!(path.exists());
    }
}
