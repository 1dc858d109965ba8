//! Stored responses, and deferred ones that are fetched later. Ids and bodies are the server's; each
//! owner has a space of ids, and so has the person at this machine, who is no owner (`None`).

use serde::Serialize;
use serde_json::Value;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable, to_json};
use crate::{Error, Store, UnixMs, UserId};

/// How long a client may ask again under the same name.
const ASKED_KEPT_MS: i64 = 7 * UnixMs::DAY_MS;
/// What is kept of one owner: the oldest responses make room.
const MAX_KEPT_BYTES: i64 = 64 << 20;
/// Deferred replies of one owner that nobody has read.
const MAX_DEFERRED: i64 = 256;

/// A response that can be retrieved, and continued by its id.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredResponse {
    pub id: String,
    pub body: Value,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
}

#[derive(Clone, Copy, Debug)]
pub struct NewResponse<'a> {
    pub id: &'a str,
    pub body: &'a Value,
    pub expires_at: UnixMs,
}

/// A reply that is promised for later.
#[derive(Clone, Copy, Debug)]
pub struct NewDeferred<'a> {
    pub id: &'a str,
    /// When its maker must have been [heard of again](Store::keep_deferred).
    pub lease_until: UnixMs,
    pub expires_at: UnixMs,
}

/// How far a deferred reply is.
#[derive(Clone, Debug, PartialEq)]
pub enum Deferred {
    Pending,
    /// Read once: it is gone from the store.
    Done(Value),
    /// Read once: it is gone from the store.
    Failed(Value),
    /// Its maker has died; read once as well.
    Abandoned,
}

/// The name of an owner's space of ids.
fn space(owner: Option<UserId>) -> String {
    owner.map_or_else(|| "local".to_owned(), |owner| owner.to_string())
}

impl Store {
    /// Stores a response, or replaces its body and its time as it goes on. The owner's oldest make
    /// room where there is too much.
    pub async fn put_response(
        &self,
        owner: impl Into<Option<UserId>>,
        new: NewResponse<'_>,
        now: UnixMs,
    ) -> Result<(), Error> {
        let owner = owner.into();
        let body = to_json(new.body);
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO responses
                 (space, id, owner_id, body, body_bytes, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (space, id) DO UPDATE
             SET body = excluded.body, body_bytes = excluded.body_bytes,
                 expires_at_ms = excluded.expires_at_ms",
        )
        .bind(space(owner))
        .bind(storable(new.id))
        .bind(owner.map(|owner| owner.to_string()))
        .bind(&body)
        .bind(body.len() as i64)
        .bind(now.0)
        .bind(new.expires_at.0)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM responses WHERE space = $1 AND id IN (
                 SELECT id FROM (
                     SELECT id, SUM(body_bytes) OVER (ORDER BY created_at_ms DESC, id DESC)
                         AS newer_bytes
                     FROM responses WHERE space = $1
                 ) AS sized WHERE newer_bytes > $2)",
        )
        .bind(space(owner))
        .bind(MAX_KEPT_BYTES)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    pub async fn response(
        &self,
        owner: impl Into<Option<UserId>>,
        id: &str,
        now: UnixMs,
    ) -> Result<StoredResponse, Error> {
        let row = sqlx::query(
            "SELECT id, body, created_at_ms, expires_at_ms FROM responses
             WHERE id = $1 AND space = $2 AND expires_at_ms > $3",
        )
        .bind(storable(id))
        .bind(space(owner.into()))
        .bind(now.0)
        .fetch_optional(&self.read)
        .await?;
        read_response(&row.ok_or(Error::NotFound { what: "response" })?)
    }

    pub async fn delete_response(
        &self,
        owner: impl Into<Option<UserId>>,
        id: &str,
    ) -> Result<(), Error> {
        let done = sqlx::query("DELETE FROM responses WHERE id = $1 AND space = $2")
            .bind(storable(id))
            .bind(space(owner.into()))
            .execute(&self.write)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: "response" }) } else { Ok(()) }
    }

    /// Promises a reply for later. Promising it again changes nothing. `false` when the owner has
    /// too many that nobody has read.
    pub async fn start_deferred(
        &self,
        owner: impl Into<Option<UserId>>,
        new: NewDeferred<'_>,
        now: UnixMs,
    ) -> Result<bool, Error> {
        let owner = owner.into();
        let mut transaction = self.begin().await?;
        let n_waiting = sqlx::query(
            "SELECT COUNT(*) AS n_waiting FROM deferred WHERE space = $1 AND expires_at_ms > $2",
        )
        .bind(space(owner))
        .bind(now.0)
        .fetch_one(&mut *transaction)
        .await?
        .int("n_waiting")?;
        if n_waiting >= MAX_DEFERRED {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO deferred
                 (space, id, owner_id, status, lease_until_ms, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, 'pending', $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(space(owner))
        .bind(storable(new.id))
        .bind(owner.map(|owner| owner.to_string()))
        .bind(new.lease_until.0)
        .bind(now.0)
        .bind(new.expires_at.0)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Says that a promised reply is still being made; `false` when nobody waits for it any more.
    pub async fn keep_deferred(
        &self,
        owner: impl Into<Option<UserId>>,
        id: &str,
        lease_until: UnixMs,
    ) -> Result<bool, Error> {
        let done = sqlx::query(
            "UPDATE deferred SET lease_until_ms = $1
             WHERE id = $2 AND space = $3 AND status = 'pending'",
        )
        .bind(lease_until.0)
        .bind(storable(id))
        .bind(space(owner.into()))
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Keeps the promise, with a reply or with an error; only the first ending counts.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing pending has this id.
    pub async fn finish_deferred(
        &self,
        owner: impl Into<Option<UserId>>,
        id: &str,
        ending: &Result<Value, Value>,
    ) -> Result<(), Error> {
        let (status, body) = match ending {
            Ok(body) => ("done", body),
            Err(error) => ("failed", error),
        };
        let done = sqlx::query(
            "UPDATE deferred SET status = $1, body = $2
             WHERE id = $3 AND space = $4 AND status = 'pending'",
        )
        .bind(status)
        .bind(to_json(body))
        .bind(storable(id))
        .bind(space(owner.into()))
        .execute(&self.write)
        .await?;
        if done.rows_affected() == 0 {
            Err(Error::NotFound { what: "deferred reply" })
        } else {
            Ok(())
        }
    }

    /// Fetches a deferred reply. One of many who fetch at once gets it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is unknown, expired or was fetched before.
    pub async fn take_deferred(
        &self,
        owner: impl Into<Option<UserId>>,
        id: &str,
        now: UnixMs,
    ) -> Result<Deferred, Error> {
        let space = space(owner.into());
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "DELETE FROM deferred WHERE id = $1 AND space = $2 AND expires_at_ms > $3
             AND (status <> 'pending' OR lease_until_ms <= $3) RETURNING status, body",
        )
        .bind(storable(id))
        .bind(&space)
        .bind(now.0)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(row) = row {
            transaction.commit().await?;
            return Ok(match row.text("status")?.as_str() {
                "done" => Deferred::Done(row.json("body")?),
                "failed" => Deferred::Failed(row.json("body")?),
                _ => Deferred::Abandoned,
            });
        }
        sqlx::query("SELECT id FROM deferred WHERE id = $1 AND space = $2 AND expires_at_ms > $3")
            .bind(storable(id))
            .bind(space)
            .bind(now.0)
            .fetch_optional(&mut *transaction)
            .await?
            .map(|_| Deferred::Pending)
            .ok_or(Error::NotFound { what: "deferred reply" })
    }

    /// Deletes whatever has expired: responses, deferred replies, sessions, links, reservations, and
    /// the names of requests after a week. Returns how many rows.
    pub async fn delete_expired(&self, now: UnixMs) -> Result<u64, Error> {
        let done = sqlx::query("DELETE FROM asked WHERE created_at_ms <= $1")
            .bind(now.plus_ms(-ASKED_KEPT_MS).0)
            .execute(&self.write)
            .await?;
        let mut n_rows = done.rows_affected();
        for statement in [
            "DELETE FROM responses WHERE expires_at_ms <= $1",
            "DELETE FROM deferred WHERE expires_at_ms <= $1",
            "DELETE FROM sessions WHERE expires_at_ms <= $1",
            "DELETE FROM links WHERE expires_at_ms <= $1",
            "DELETE FROM reservations WHERE expires_at_ms <= $1",
        ] {
            let done = sqlx::query(statement).bind(now.0).execute(&self.write).await?;
            n_rows += done.rows_affected();
        }
        Ok(n_rows)
    }
}

pub(crate) fn read_response(row: &AnyRow) -> Result<StoredResponse, Error> {
    Ok(StoredResponse {
        id: row.text("id")?,
        body: row.json("body")?,
        created_at: row.time("created_at_ms")?,
        expires_at: row.time("expires_at_ms")?,
    })
}
