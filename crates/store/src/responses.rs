//! Stored responses, and deferred ones that are fetched later. Ids and bodies are the server's; each
//! owner has a space of ids.

use serde::Serialize;
use serde_json::Value;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable, to_json};
use crate::{Error, Store, UnixMs, UserId};

/// How long a client may ask again under the same name.
const ASKED_KEPT_MS: i64 = 7 * UnixMs::DAY_MS;

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

/// How far a deferred reply is.
#[derive(Clone, Debug, PartialEq)]
pub enum Deferred {
    Pending,
    /// Read once: it is gone from the store.
    Done(Value),
    /// Read once: it is gone from the store.
    Failed(Value),
}

impl Store {
    /// Stores a response, or replaces its body and its time as it goes on.
    pub async fn put_response(
        &self,
        owner: UserId,
        new: NewResponse<'_>,
        now: UnixMs,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO responses (owner_id, id, body, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (owner_id, id) DO UPDATE
             SET body = excluded.body, expires_at_ms = excluded.expires_at_ms",
        )
        .bind(owner.to_string())
        .bind(storable(new.id))
        .bind(to_json(new.body))
        .bind(now.0)
        .bind(new.expires_at.0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub async fn response(
        &self,
        owner: UserId,
        id: &str,
        now: UnixMs,
    ) -> Result<StoredResponse, Error> {
        let row = sqlx::query(
            "SELECT id, body, created_at_ms, expires_at_ms FROM responses
             WHERE id = $1 AND owner_id = $2 AND expires_at_ms > $3",
        )
        .bind(storable(id))
        .bind(owner.to_string())
        .bind(now.0)
        .fetch_optional(&self.read)
        .await?;
        read_response(&row.ok_or(Error::NotFound { what: "response" })?)
    }

    pub async fn delete_response(&self, owner: UserId, id: &str) -> Result<(), Error> {
        let done = sqlx::query("DELETE FROM responses WHERE id = $1 AND owner_id = $2")
            .bind(storable(id))
            .bind(owner.to_string())
            .execute(&self.write)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: "response" }) } else { Ok(()) }
    }

    /// Promises a reply for later. Promising it again changes nothing.
    pub async fn start_deferred(
        &self,
        owner: UserId,
        id: &str,
        now: UnixMs,
        expires_at: UnixMs,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO deferred (id, owner_id, status, created_at_ms, expires_at_ms)
             VALUES ($1, $2, 'pending', $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(storable(id))
        .bind(owner.to_string())
        .bind(now.0)
        .bind(expires_at.0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Keeps the promise, with a reply or with an error; only the first ending counts.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing pending has this id.
    pub async fn finish_deferred(
        &self,
        owner: UserId,
        id: &str,
        ending: &Result<Value, Value>,
    ) -> Result<(), Error> {
        let (status, body) = match ending {
            Ok(body) => ("done", body),
            Err(error) => ("failed", error),
        };
        let done = sqlx::query(
            "UPDATE deferred SET status = $1, body = $2
             WHERE id = $3 AND owner_id = $4 AND status = 'pending'",
        )
        .bind(status)
        .bind(to_json(body))
        .bind(storable(id))
        .bind(owner.to_string())
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
        owner: UserId,
        id: &str,
        now: UnixMs,
    ) -> Result<Deferred, Error> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "DELETE FROM deferred WHERE id = $1 AND owner_id = $2 AND expires_at_ms > $3
             AND status <> 'pending' RETURNING status, body",
        )
        .bind(storable(id))
        .bind(owner.to_string())
        .bind(now.0)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(row) = row {
            transaction.commit().await?;
            let body = row.json("body")?;
            let is_done = row.text("status")? == "done";
            return Ok(if is_done { Deferred::Done(body) } else { Deferred::Failed(body) });
        }
        sqlx::query(
            "SELECT id FROM deferred WHERE id = $1 AND owner_id = $2 AND expires_at_ms > $3",
        )
        .bind(storable(id))
        .bind(owner.to_string())
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
