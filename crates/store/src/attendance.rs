//! Which servers work on an SQLite file: one that comes alone ends what dead ones had begun.
//!
//! Servers share a lock on a file beside the database while they run; the system takes it from those
//! that are killed. Whoever can have it alone knows that nobody else is at work. On Postgres nobody
//! knows that of servers on other machines: what those had begun ends when its time is over.
//!
//! What is not here: programs that open the database beside a server, such as a backup.

use std::fs::File;
use std::path::PathBuf;

use crate::{Error, Store, UnixMs};

/// A server at work on a database, for as long as this is kept.
#[derive(Debug)]
pub struct Attendance {
    _lock: Option<File>,
}

impl Store {
    /// Says that a server works on this database. Where no other does, what is set aside for replies
    /// is given back at once, replies that were being written are stopped with what was saved, and
    /// deferred ones are abandoned. Call it before anything is begun.
    pub async fn attend(&self, now: UnixMs) -> Result<Attendance, Error> {
        let Some(database) = &self.file else { return Ok(Attendance { _lock: None }) };
        let mut name = database.clone().into_os_string();
        name.push(".lock");
        let mut options = File::options();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(PathBuf::from(name)).map_err(|source| Error::File { source })?;
        // A disk that knows no locks says nothing about others: all then ends when its time is over.
        if file.try_lock().is_ok() {
            self.end_all_begun(now).await?;
            let _ = file.unlock();
        }
        // Whoever has it alone has it for a moment.
        let is_locked = file.lock_shared().is_ok();
        Ok(Attendance { _lock: is_locked.then_some(file) })
    }

    async fn end_all_begun(&self, now: UnixMs) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM reservations").execute(&mut *transaction).await?;
        sqlx::query(
            "UPDATE messages SET status = 'stopped', lease_until_ms = NULL
             WHERE status = 'streaming'",
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE deferred SET lease_until_ms = $1 WHERE status = 'pending'")
            .bind(now.0)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
