//! Migrations: numbered files, applied in order, each in a transaction with its version's row.

use sqlx::AnyPool;

use crate::dialect::Dialect;
use crate::row::Columns;
use crate::{Error, UnixMs};

/// The migrations in order; number `n` is at `n - 1`. A released one is never edited.
const MIGRATIONS: &[&str] =
    &[include_str!("../migrations/0001_first.sql"), include_str!("../migrations/0002_kept.sql")];

/// The schema this program works with.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

const VERSIONS_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_versions (
    version BIGINT PRIMARY KEY,
    applied_at_ms BIGINT NOT NULL
)";

/// Every table in an order in which rows can be inserted.
pub(crate) const TABLES: &[&str] = &[
    "users",
    "identities",
    "sessions",
    "links",
    "api_keys",
    "folders",
    "conversations",
    "messages",
    "asked",
    "shares",
    "responses",
    "deferred",
    "feedback",
    "styles",
    "memories",
    "ledger",
    "reservations",
    "events",
    "settings",
];

/// Brings the database to [`VERSION`]; returns how many migrations that took.
pub(crate) async fn migrate(pool: &AnyPool, dialect: Dialect, now: UnixMs) -> Result<usize, Error> {
    let mut n_applied = 0;
    loop {
        let mut transaction = pool.begin_with(dialect.begin_write()).await?;
        sqlx::query(dialect.lock_everything()).execute(&mut *transaction).await?;
        sqlx::raw_sql(VERSIONS_TABLE).execute(&mut *transaction).await?;
        let found = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM schema_versions")
            .fetch_one(&mut *transaction)
            .await?
            .int("version")?;
        if found > VERSION {
            return Err(Error::Newer { found, supported: VERSION });
        }
        let Some(migration) = MIGRATIONS.get(found as usize) else {
            transaction.commit().await?;
            return Ok(n_applied);
        };
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO schema_versions (version, applied_at_ms) VALUES ($1, $2)")
            .bind(found + 1)
            .bind(now.0)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        n_applied += 1;
    }
}
