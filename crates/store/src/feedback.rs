//! What people did with replies: a log that is only added to.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::any::AnyRow;

use crate::row::{Columns, storable};
use crate::{ConversationId, Error, FeedbackId, MessageId, ReplyId, Store, UnixMs, UserId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thumb {
    Up,
    Down,
    /// An earlier one is taken back.
    None,
}

/// A ready-made reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chip {
    TooLong,
    TooCold,
    TooPushy,
    NotTrue,
}

/// How a choice between two replies went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The message that the reaction is to.
    This,
    Other,
    Tie,
    BothBad,
}

/// One reaction to a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Signal {
    Thumb(Thumb),
    Chip(Chip),
    /// The person wrote it as it should have been.
    Edit(String),
    /// The person asked again; the new reply is another message.
    Regenerate,
    /// Two replies to the same message were compared.
    Choice {
        other: MessageId,
        verdict: Verdict,
    },
    Copy,
    Comment(String),
}

/// What a person thinks of a message now: its reactions, the later over the earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Marks {
    /// Never [`Thumb::None`].
    pub thumb: Option<Thumb>,
    /// Each once, in the order in which they were pressed first.
    pub chips: Vec<Chip>,
    pub comment: Option<String>,
}

impl Marks {
    fn add(&mut self, signal: Signal) {
        match signal {
            Signal::Thumb(Thumb::None) => self.thumb = None,
            Signal::Thumb(thumb) => self.thumb = Some(thumb),
            Signal::Chip(chip) if !self.chips.contains(&chip) => self.chips.push(chip),
            Signal::Comment(text) => self.comment = Some(text).filter(|text| !text.is_empty()),
            _ => {}
        }
    }
}

/// Reactions of one kind in one day (UTC).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FeedbackDay {
    pub day_start: UnixMs,
    /// As [`Signal`] names it in documents.
    pub kind: String,
    pub n_signals: u64,
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

impl Store {
    /// Adds a reaction to the log. Adding it again adds nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the message, the one it is compared with, or the charged reply is not
    /// the user's.
    pub async fn add_feedback(
        &self,
        user: UserId,
        new: &NewFeedback,
        now: UnixMs,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let mut conversation = None;
        let other = match new.signal {
            Signal::Choice { other, .. } => Some(other),
            _ => None,
        };
        for message in other.into_iter().chain(new.message) {
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
        let (kind, value) = columns(&new.signal);
        sqlx::query(
            "INSERT INTO feedback (id, user_id, conversation_id, message_id, reply_id, build,
                 kind, value, has_consent, created_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING",
        )
        .bind(new.id.to_string())
        .bind(user.to_string())
        .bind(conversation)
        .bind(new.message.map(|message| message.to_string()))
        .bind(new.reply.map(|reply| reply.to_string()))
        .bind(storable(&new.build))
        .bind(kind)
        .bind(value)
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

    /// Everybody's reactions that may train a model, oldest first: those that were given with
    /// consent by people who still give it.
    pub async fn training_feedback(
        &self,
        after: Option<FeedbackCursor>,
        limit: u32,
    ) -> Result<Vec<Feedback>, Error> {
        let rows = sqlx::query(
            "SELECT feedback.* FROM feedback JOIN users ON users.id = feedback.user_id
             WHERE feedback.has_consent = 1 AND users.has_consent = 1
             AND (feedback.created_at_ms, feedback.id) > ($1, $2)
             ORDER BY feedback.created_at_ms, feedback.id LIMIT $3",
        )
        .bind(after.map_or(i64::MIN, |after| after.created_at.0))
        .bind(after.map_or_else(String::new, |after| after.id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_feedback).collect()
    }

    /// Everybody's reactions before `before`, newest first, with their names: for administrators.
    pub async fn recent_feedback(
        &self,
        before: Option<FeedbackCursor>,
        limit: u32,
    ) -> Result<Vec<(Feedback, String)>, Error> {
        let rows = sqlx::query(
            "SELECT feedback.*, users.name FROM feedback JOIN users ON users.id = feedback.user_id
             WHERE (feedback.created_at_ms, feedback.id) < ($1, $2)
             ORDER BY feedback.created_at_ms DESC, feedback.id DESC LIMIT $3",
        )
        .bind(before.map_or(i64::MAX, |before| before.created_at.0))
        .bind(before.map_or_else(|| "~".to_owned(), |before| before.id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(|row| Ok((read_feedback(row)?, row.text("name")?))).collect()
    }

    /// How many reactions of each kind there were on each day, from `from` on, by day.
    pub async fn feedback_days(&self, from: UnixMs) -> Result<Vec<FeedbackDay>, Error> {
        let rows = sqlx::query(
            "SELECT created_at_ms / 86400000 AS day, kind, COUNT(*) AS n_signals FROM feedback
             WHERE created_at_ms >= $1 GROUP BY 1, kind ORDER BY 1, kind",
        )
        .bind(from.0)
        .fetch_all(&self.read)
        .await?;
        let read = |row: &AnyRow| {
            Ok(FeedbackDay {
                day_start: UnixMs(row.int("day")? * UnixMs::DAY_MS),
                kind: row.text("kind")?,
                n_signals: row.count("n_signals")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// What a person thinks of the messages of a conversation; those without a mark are left out.
    pub async fn marks(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<HashMap<MessageId, Marks>, Error> {
        let rows = sqlx::query(
            "SELECT message_id, kind, value FROM feedback
             WHERE conversation_id = $1 AND user_id = $2 AND message_id IS NOT NULL
             AND kind IN ('thumb', 'chip', 'comment') ORDER BY created_at_ms, id",
        )
        .bind(conversation.to_string())
        .bind(user.to_string())
        .fetch_all(&self.read)
        .await?;
        let mut marks: HashMap<MessageId, Marks> = HashMap::new();
        for row in &rows {
            marks.entry(row.parsed("message_id")?).or_default().add(read_signal(row)?);
        }
        Ok(marks)
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
}

/// A signal as its columns: its name, and the rest as a document.
fn columns(signal: &Signal) -> (String, String) {
    let mut document = serde_json::to_value(signal).expect("a signal has text keys");
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    (kind, document["value"].take().to_string())
}

fn read_signal(row: &AnyRow) -> Result<Signal, Error> {
    let (kind, value) = (row.text("kind")?, row.json::<Value>("value")?);
    let document = match &value {
        Value::Null => json!({"kind": kind}),
        _ => json!({"kind": kind, "value": value}),
    };
    serde_json::from_value(document)
        .map_err(|_| Error::Corrupt { what: "signal", found: format!("{kind} {value}") })
}

pub(crate) fn read_feedback(row: &AnyRow) -> Result<Feedback, Error> {
    Ok(Feedback {
        id: row.parsed("id")?,
        user: row.parsed("user_id")?,
        conversation: row.maybe_parsed("conversation_id")?,
        message: row.maybe_parsed("message_id")?,
        reply: row.maybe_parsed("reply_id")?,
        build: row.text("build")?,
        signal: read_signal(row)?,
        has_consent: row.flag("has_consent")?,
        created_at: row.time("created_at_ms")?,
    })
}
