//! Events of experiments and rollouts: assignments, exposures, votes, steps. Append-only; what they
//! mean belongs to whoever writes them.

use serde::Serialize;
use serde_json::Value;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable, to_json};
use crate::{Error, EventId, Store, UnixMs, UserId};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    pub id: EventId,
    /// The experiment or rollout.
    pub stream: String,
    pub kind: String,
    /// Taken away when the user goes.
    pub user: Option<UserId>,
    pub body: Value,
    pub created_at: UnixMs,
}

#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    pub id: EventId,
    pub stream: &'a str,
    pub kind: &'a str,
    pub user: Option<UserId>,
    /// Of all events of a stream with this key only the first is stored: a sticky assignment, one
    /// vote a pair.
    pub once_key: Option<&'a str>,
    pub body: &'a Value,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Appended {
    Now,
    /// This one was there before: with the same id or the same key.
    Before(Event),
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCursor {
    pub created_at: UnixMs,
    pub id: EventId,
}

impl Store {
    pub async fn append_event(&self, new: NewEvent<'_>, now: UnixMs) -> Result<Appended, Error> {
        let stream = storable(new.stream);
        let once_key = new.once_key.map(storable);
        let mut transaction = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO events (id, stream, kind, user_id, once_key, body, created_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(new.id.to_string())
        .bind(&stream)
        .bind(storable(new.kind))
        .bind(new.user.map(|user| user.to_string()))
        .bind(&once_key)
        .bind(to_json(new.body))
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 1 {
            transaction.commit().await?;
            return Ok(Appended::Now);
        }
        let row = sqlx::query(
            "SELECT * FROM events WHERE stream = $1 AND (id = $2 OR once_key = $3)
             ORDER BY created_at_ms LIMIT 1",
        )
        .bind(stream)
        .bind(new.id.to_string())
        .bind(once_key)
        .fetch_optional(&mut *transaction)
        .await?;
        let taken = Error::Conflict { what: "event", problem: "the id is taken in another stream" };
        Ok(Appended::Before(read_event(&row.ok_or(taken)?)?))
    }

    /// A stream's events, oldest first.
    pub async fn events(
        &self,
        stream: &str,
        after: Option<EventCursor>,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM events WHERE stream = $1 AND (created_at_ms, id) > ($2, $3)
             ORDER BY created_at_ms, id LIMIT $4",
        )
        .bind(storable(stream))
        .bind(after.map_or(i64::MIN, |after| after.created_at.0))
        .bind(after.map_or_else(String::new, |after| after.id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_event).collect()
    }
}

fn read_event(row: &AnyRow) -> Result<Event, Error> {
    Ok(Event {
        id: row.parsed("id")?,
        stream: row.text("stream")?,
        kind: row.text("kind")?,
        user: row.maybe_parsed("user_id")?,
        body: row.json("body")?,
        created_at: row.time("created_at_ms")?,
    })
}
