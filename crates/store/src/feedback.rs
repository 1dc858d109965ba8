//! What people did with replies, and the style learned of each person.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable, to_json};
use crate::{ConversationId, Error, FeedbackId, MessageId, ReplyId, Store, UnixMs, UserId};

/// How many versions of a style are kept, to go back to.
const N_STYLE_VERSIONS: i64 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thumb {
    Up,
    Down,
}

/// One reaction to a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Signal {
    Thumb {
        thumb: Thumb,
    },
    /// The person wrote it as it should have been.
    Edit {
        text: String,
    },
    /// The person asked again; the new reply is another message.
    Regenerate,
    /// Of two replies to the same message, this one was taken.
    Choice {
        rejected: MessageId,
    },
    Copy,
    /// Words, and ready-made reasons that were pressed.
    Comment {
        text: String,
        chips: Vec<String>,
    },
}

/// A reaction as it is stored; never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feedback {
    pub id: FeedbackId,
    pub user: UserId,
    pub conversation: Option<ConversationId>,
    pub message: Option<MessageId>,
    pub reply: Option<ReplyId>,
    /// What made the reply.
    pub build: String,
    pub signal: Signal,
    /// Whether the person agreed that this may train a model.
    pub has_consent: bool,
    pub created_at: UnixMs,
}

/// A reaction to store: to a message of a conversation, or to a reply that was made for a client
/// that keeps its own conversations.
#[derive(Clone, Debug)]
pub struct NewFeedback {
    pub id: FeedbackId,
    pub message: Option<MessageId>,
    pub reply: Option<ReplyId>,
    pub build: String,
    pub signal: Signal,
    pub has_consent: bool,
}

/// A place in the log of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedbackCursor {
    pub created_at: UnixMs,
    pub id: FeedbackId,
}

/// What was learned of a person's taste, in the form its owner gives it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Style {
    /// Counts up from 1 with every change.
    pub version: u64,
    pub body: Value,
    pub created_at: UnixMs,
}

impl Store {
    /// Adds a reaction to the log. Adding it again adds nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the message, the message rejected for it, or the charged reply is
    /// not the user's.
    pub async fn add_feedback(
        &self,
        user: UserId,
        new: &NewFeedback,
        now: UnixMs,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let mut conversation = None;
        let rejected = match new.signal {
            Signal::Choice { rejected } => Some(rejected),
            _ => None,
        };
        for message in rejected.into_iter().chain(new.message) {
            let row =
                sqlx::query("SELECT conversation_id FROM messages WHERE id = $1 AND owner_id = $2")
                    .bind(message.to_string())
                    .bind(user.to_string())
                    .fetch_optional(&mut *transaction)
                    .await?;
            conversation =
                Some(row.ok_or(Error::NotFound { what: "message" })?.text("conversation_id")?);
        }
        if let (None, Some(reply)) = (new.message, new.reply) {
            sqlx::query("SELECT reply_id FROM ledger WHERE reply_id = $1 AND user_id = $2")
                .bind(reply.to_string())
                .bind(user.to_string())
                .fetch_optional(&mut *transaction)
                .await?
                .ok_or(Error::NotFound { what: "reply" })?;
        }
        sqlx::query(
            "INSERT INTO feedback (id, user_id, conversation_id, message_id, reply_id, build,
                 signal, has_consent, created_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING",
        )
        .bind(new.id.to_string())
        .bind(user.to_string())
        .bind(conversation)
        .bind(new.message.map(|message| message.to_string()))
        .bind(new.reply.map(|reply| reply.to_string()))
        .bind(storable(&new.build))
        .bind(to_json(&new.signal))
        .bind(i64::from(new.has_consent))
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// One person's reactions, oldest first.
    pub async fn feedback_of(
        &self,
        user: UserId,
        after: Option<FeedbackCursor>,
        limit: u32,
    ) -> Result<Vec<Feedback>, Error> {
        self.feedback_where(Some(user), after, limit).await
    }

    /// Everybody's reactions, oldest first: for those who learn from them.
    pub async fn all_feedback(
        &self,
        after: Option<FeedbackCursor>,
        limit: u32,
    ) -> Result<Vec<Feedback>, Error> {
        self.feedback_where(None, after, limit).await
    }

    async fn feedback_where(
        &self,
        user: Option<UserId>,
        after: Option<FeedbackCursor>,
        limit: u32,
    ) -> Result<Vec<Feedback>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM feedback WHERE ($1 IS NULL OR user_id = $1)
             AND (created_at_ms, id) > ($2, $3) ORDER BY created_at_ms, id LIMIT $4",
        )
        .bind(user.map(|user| user.to_string()))
        .bind(after.map_or(i64::MIN, |after| after.created_at.0))
        .bind(after.map_or_else(String::new, |after| after.id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_feedback).collect()
    }

    /// A person's style as it is now.
    pub async fn style(&self, user: UserId) -> Result<Option<Style>, Error> {
        let row = sqlx::query(
            "SELECT version, body, created_at_ms FROM styles WHERE user_id = $1
             ORDER BY version DESC LIMIT 1",
        )
        .bind(user.to_string())
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(read_style).transpose()
    }

    /// The versions that are kept, newest first. Undoing is putting an older body again.
    pub async fn style_versions(&self, user: UserId) -> Result<Vec<Style>, Error> {
        let rows = sqlx::query(
            "SELECT version, body, created_at_ms FROM styles WHERE user_id = $1
             ORDER BY version DESC",
        )
        .bind(user.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_style).collect()
    }

    /// Puts the style after `version` (0 before the first); returns its version.
    ///
    /// # Errors
    /// [`Error::Conflict`] when `version` is no longer the newest: read it again and try anew.
    pub async fn put_style(
        &self,
        user: UserId,
        version: u64,
        body: &Value,
        now: UnixMs,
    ) -> Result<u64, Error> {
        let next = version as i64 + 1;
        let mut transaction = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO styles (user_id, version, body, created_at_ms)
             SELECT $1, $2, $3, $4 WHERE
                 (SELECT COALESCE(MAX(version), 0) FROM styles WHERE user_id = $1) = $5
             ON CONFLICT DO NOTHING",
        )
        .bind(user.to_string())
        .bind(next)
        .bind(to_json(body))
        .bind(now.0)
        .bind(version as i64)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Err(Error::Conflict { what: "style", problem: "it has changed meanwhile" });
        }
        sqlx::query("DELETE FROM styles WHERE user_id = $1 AND version <= $2")
            .bind(user.to_string())
            .bind(next - N_STYLE_VERSIONS)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(version + 1)
    }
}

pub(crate) fn read_feedback(row: &AnyRow) -> Result<Feedback, Error> {
    Ok(Feedback {
        id: row.parsed("id")?,
        user: row.parsed("user_id")?,
        conversation: row.maybe_parsed("conversation_id")?,
        message: row.maybe_parsed("message_id")?,
        reply: row.maybe_parsed("reply_id")?,
        build: row.text("build")?,
        signal: row.json("signal")?,
        has_consent: row.flag("has_consent")?,
        created_at: row.time("created_at_ms")?,
    })
}

fn read_style(row: &AnyRow) -> Result<Style, Error> {
    Ok(Style {
        version: row.count("version")?,
        body: row.json("body")?,
        created_at: row.time("created_at_ms")?,
    })
}
