//! How each person wants to be spoken to, in versions that can be undone. The body is its owner's
//! document.

use serde::Serialize;
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use crate::row::{Columns, to_json};
use crate::{Error, Store, UnixMs, UserId};

/// How many versions of a style are kept, to go back to.
const N_VERSIONS: i64 = 50;
const STYLE: &str = "style";

/// A person's style at some time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Style {
    /// Counts up from 1 with every change, undoing included.
    pub version: u64,
    /// Null is a person without a style.
    pub body: Value,
    pub can_undo: bool,
    pub created_at: UnixMs,
}

impl Store {
    /// A person's style as it is now; `None` before the first.
    pub async fn style(&self, user: UserId) -> Result<Option<Style>, Error> {
        let row =
            sqlx::query("SELECT * FROM styles WHERE user_id = $1 ORDER BY version DESC LIMIT 1")
                .bind(user.to_string())
                .fetch_optional(&self.read)
                .await?;
        row.as_ref().map(read_style).transpose()
    }

    /// The versions that are kept, newest first.
    pub async fn style_versions(&self, user: UserId) -> Result<Vec<Style>, Error> {
        let rows = sqlx::query("SELECT * FROM styles WHERE user_id = $1 ORDER BY version DESC")
            .bind(user.to_string())
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read_style).collect()
    }

    /// Puts the style after `version` (0 before the first); null takes the style away, which can be
    /// undone like any change.
    ///
    /// # Errors
    /// [`Error::Conflict`] when `version` is no longer the newest: read it again and try anew.
    pub async fn put_style(
        &self,
        user: UserId,
        version: u64,
        body: &Value,
        now: UnixMs,
    ) -> Result<Style, Error> {
        let mut transaction = self.begin().await?;
        let style = insert(
            &mut transaction,
            user,
            Insert { after: version as i64, body, undo_to: Some(version as i64) },
            now,
        )
        .await?;
        transaction.commit().await?;
        Ok(style)
    }

    /// Takes the last change back that was not taken back yet.
    ///
    /// # Errors
    /// [`Error::Conflict`] when there is none.
    pub async fn undo_style(&self, user: UserId, now: UnixMs) -> Result<Style, Error> {
        let nothing = || Error::Conflict { what: STYLE, problem: "there is nothing to undo" };
        let mut transaction = self.begin().await?;
        let newest =
            sqlx::query("SELECT * FROM styles WHERE user_id = $1 ORDER BY version DESC LIMIT 1")
                .bind(user.to_string())
                .fetch_optional(&mut *transaction)
                .await?
                .ok_or_else(nothing)?;
        let undo_to = newest.maybe_int("undo_to")?.ok_or_else(nothing)?;
        let (body, undo_to) = if undo_to == 0 {
            (Value::Null, None)
        } else {
            let row = sqlx::query("SELECT * FROM styles WHERE user_id = $1 AND version = $2")
                .bind(user.to_string())
                .bind(undo_to)
                .fetch_optional(&mut *transaction)
                .await?
                .ok_or_else(nothing)?;
            (row.json("body")?, row.maybe_int("undo_to")?)
        };
        let after = newest.int("version")?;
        let style =
            insert(&mut transaction, user, Insert { after, body: &body, undo_to }, now).await?;
        transaction.commit().await?;
        Ok(style)
    }
}

struct Insert<'a> {
    after: i64,
    body: &'a Value,
    undo_to: Option<i64>,
}

async fn insert(
    transaction: &mut Transaction<'_, Any>,
    user: UserId,
    new: Insert<'_>,
    now: UnixMs,
) -> Result<Style, Error> {
    let version = new.after + 1;
    let done = sqlx::query(
        "INSERT INTO styles (user_id, version, body, undo_to, created_at_ms)
         SELECT $1, $2, $3, $4, $5 WHERE
             (SELECT COALESCE(MAX(version), 0) FROM styles WHERE user_id = $1) = $6
         ON CONFLICT DO NOTHING",
    )
    .bind(user.to_string())
    .bind(version)
    .bind(to_json(new.body))
    .bind(new.undo_to)
    .bind(now.0)
    .bind(new.after)
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(Error::Conflict { what: STYLE, problem: "it has changed meanwhile" });
    }
    sqlx::query("DELETE FROM styles WHERE user_id = $1 AND version <= $2")
        .bind(user.to_string())
        .bind(version - N_VERSIONS)
        .execute(&mut **transaction)
        .await?;
    Ok(Style {
        version: version as u64,
        body: new.body.clone(),
        can_undo: new.undo_to.is_some(),
        created_at: now,
    })
}

pub(crate) fn read_style(row: &AnyRow) -> Result<Style, Error> {
    Ok(Style {
        version: row.count("version")?,
        body: row.json("body")?,
        can_undo: row.maybe_int("undo_to")?.is_some(),
        created_at: row.time("created_at_ms")?,
    })
}
