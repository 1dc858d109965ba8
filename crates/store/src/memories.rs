//! What is remembered of a person from one conversation to the next, seen and changed by that person.

use serde::Serialize;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable};
use crate::{Error, MemoryId, Store, UnixMs, UserId};

const MEMORY: &str = "memory";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub id: MemoryId,
    pub text: String,
    /// Who wrote it down, in the server's words.
    pub source: String,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

impl Store {
    pub async fn remember(
        &self,
        user: UserId,
        text: &str,
        source: &str,
        now: UnixMs,
    ) -> Result<Memory, Error> {
        let memory = Memory {
            id: MemoryId::new(now),
            text: storable(text),
            source: storable(source),
            created_at: now,
            updated_at: now,
        };
        sqlx::query(
            "INSERT INTO memories (id, user_id, text, source, created_at_ms, updated_at_ms)
             VALUES ($1, $2, $3, $4, $5, $5)",
        )
        .bind(memory.id.to_string())
        .bind(user.to_string())
        .bind(&memory.text)
        .bind(&memory.source)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(memory)
    }

    /// Everything that is remembered of a person, oldest first.
    pub async fn memories(&self, user: UserId) -> Result<Vec<Memory>, Error> {
        let rows =
            sqlx::query("SELECT * FROM memories WHERE user_id = $1 ORDER BY created_at_ms, id")
                .bind(user.to_string())
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(read_memory).collect()
    }

    pub async fn change_memory(
        &self,
        user: UserId,
        id: MemoryId,
        text: &str,
        now: UnixMs,
    ) -> Result<Memory, Error> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "UPDATE memories SET text = $1, updated_at_ms = $2 WHERE id = $3 AND user_id = $4
             RETURNING id, text, source, created_at_ms, updated_at_ms",
        )
        .bind(storable(text))
        .bind(now.0)
        .bind(id.to_string())
        .bind(user.to_string())
        .fetch_optional(&mut *transaction)
        .await?;
        let memory = read_memory(&row.ok_or(Error::NotFound { what: MEMORY })?)?;
        transaction.commit().await?;
        Ok(memory)
    }

    pub async fn forget(&self, user: UserId, id: MemoryId) -> Result<(), Error> {
        let done = sqlx::query("DELETE FROM memories WHERE id = $1 AND user_id = $2")
            .bind(id.to_string())
            .bind(user.to_string())
            .execute(&self.write)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: MEMORY }) } else { Ok(()) }
    }

    /// Forgets everything of a person; returns how much that was.
    pub async fn forget_all(&self, user: UserId) -> Result<u64, Error> {
        let done = sqlx::query("DELETE FROM memories WHERE user_id = $1")
            .bind(user.to_string())
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected())
    }
}

pub(crate) fn read_memory(row: &AnyRow) -> Result<Memory, Error> {
    Ok(Memory {
        id: row.parsed("id")?,
        text: row.text("text")?,
        source: row.text("source")?,
        created_at: row.time("created_at_ms")?,
        updated_at: row.time("updated_at_ms")?,
    })
}
