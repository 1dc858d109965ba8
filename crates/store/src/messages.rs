//! Messages: one row each, in trees, seen by their owner alone.

use std::str::FromStr;

use rapport_types::{Mode, Role, Timings, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use crate::conversations::CONVERSATION;
use crate::dialect::Dialect;
use crate::row::{Columns, maybe_text_of, storable, to_json};
use crate::search::search_key;
use crate::{ConversationId, Error, MessageId, Store, UnixMs, UserId};

pub(crate) const MESSAGE: &str = "message";

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageStatus {
    Done,
    /// A model is writing it.
    Streaming,
    /// Somebody stopped it, or its server went away.
    Stopped,
    Failed,
    /// It reached the greatest length; it can be continued.
    Length,
}

impl MessageStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Streaming => "streaming",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Length => "length",
        }
    }
}

/// A text that is not a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown status: use done, streaming, stopped, failed or length")]
pub struct InvalidStatus;

impl FromStr for MessageStatus {
    type Err = InvalidStatus;

    fn from_str(name: &str) -> Result<Self, InvalidStatus> {
        [Self::Done, Self::Streaming, Self::Stopped, Self::Failed, Self::Length]
            .into_iter()
            .find(|status| status.as_str() == name)
            .ok_or(InvalidStatus)
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    pub id: MessageId,
    pub conversation: ConversationId,
    /// The message this one follows; `None` at the start of a tree.
    pub parent: Option<MessageId>,
    #[serde(serialize_with = "role_name")]
    pub role: Role,
    pub status: MessageStatus,
    pub content: String,
    pub thought: Option<String>,
    /// The mode that was asked for; only on what a model writes.
    #[serde(serialize_with = "maybe_text_of")]
    pub mode_asked: Option<Mode>,
    /// Once a model has written it.
    pub reply: Option<ReplyFacts>,
    /// What went wrong, for the person who asked.
    pub error: Option<String>,
    /// Tool calls, attachments, citations: as the server writes them.
    pub extra: Option<Value>,
    /// Of a blind choice between two replies: the other one.
    pub choice_of: Option<MessageId>,
    pub created_at: UnixMs,
}

/// A message to add. Its id is chosen by the caller, so that adding it again adds nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    pub id: MessageId,
    pub conversation: ConversationId,
    pub parent: Option<MessageId>,
    pub role: Role,
    pub status: MessageStatus,
    pub content: String,
    pub thought: Option<String>,
    pub mode_asked: Option<Mode>,
    pub reply: Option<ReplyFacts>,
    pub error: Option<String>,
    pub extra: Option<Value>,
    pub choice_of: Option<MessageId>,
}

impl NewMessage {
    /// A message that is done, with nothing but text.
    pub fn text(
        id: MessageId,
        conversation: ConversationId,
        parent: Option<MessageId>,
        role: Role,
        content: impl Into<String>,
    ) -> Self {
        Self {
            id,
            conversation,
            parent,
            role,
            status: MessageStatus::Done,
            content: content.into(),
            thought: None,
            mode_asked: None,
            reply: None,
            error: None,
            extra: None,
            choice_of: None,
        }
    }
}

/// How a model's message came to be. Names are text, so that an old row outlives a renaming.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplyFacts {
    pub model: String,
    pub build: String,
    pub mode: String,
    pub mode_reason: String,
    #[serde(with = "UsageForm")]
    pub usage: Usage,
    #[serde(with = "TimingsForm")]
    pub timings: Timings,
    pub cost_micros: u64,
}

/// The form of [`Usage`] in a document; the type itself knows no serde.
#[expect(clippy::struct_field_names, reason = "the names of the type it mirrors")]
#[derive(Serialize, Deserialize)]
#[serde(remote = "Usage")]
struct UsageForm {
    prompt_tokens: u32,
    cached_tokens: u32,
    completion_tokens: u32,
    reasoning_tokens: u32,
}

/// The form of [`Timings`] in a document.
#[expect(clippy::struct_field_names, reason = "the names of the type it mirrors")]
#[derive(Serialize, Deserialize)]
#[serde(remote = "Timings")]
struct TimingsForm {
    first_token_ms: f64,
    prompt_ms: f64,
    decode_ms: f64,
}

impl Store {
    /// Adds a message and shows its branch. Adding the same message again changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the conversation or the parent in it is not the owner's;
    /// [`Error::Conflict`] when the id is taken by another message.
    pub async fn add_message(
        &self,
        owner: UserId,
        message: &NewMessage,
        now: UnixMs,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        insert_message(&mut transaction, self.dialect, owner, message, now).await?;
        Ok(transaction.commit().await?)
    }

    pub async fn message(&self, owner: UserId, id: MessageId) -> Result<Message, Error> {
        let row = sqlx::query("SELECT * FROM messages WHERE id = $1 AND owner_id = $2")
            .bind(id.to_string())
            .bind(owner.to_string())
            .fetch_optional(&self.read)
            .await?;
        read_message(&row.ok_or(Error::NotFound { what: MESSAGE })?)
    }

    /// The last `limit` messages of the branch that ends with `leaf`, oldest first. The parent of
    /// the first says whether there are more, and is the `leaf` to ask for them with.
    pub async fn branch(
        &self,
        owner: UserId,
        leaf: MessageId,
        limit: u32,
    ) -> Result<Vec<Message>, Error> {
        let rows = sqlx::query(
            "WITH RECURSIVE branch (id, parent_id, height) AS (
                 SELECT id, parent_id, CAST(1 AS BIGINT) FROM messages
                 WHERE id = $1 AND owner_id = $2 AND $3 > 0
                 UNION ALL
                 SELECT messages.id, messages.parent_id, branch.height + 1
                 FROM messages JOIN branch ON messages.id = branch.parent_id
                 WHERE branch.height < $3
             )
             SELECT messages.* FROM messages JOIN branch ON branch.id = messages.id
             ORDER BY branch.height DESC",
        )
        .bind(leaf.to_string())
        .bind(owner.to_string())
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        if rows.is_empty() && limit > 0 {
            return Err(Error::NotFound { what: MESSAGE });
        }
        rows.iter().map(read_message).collect()
    }

    /// The messages that follow `parent`, or that start the conversation: the branches to choose
    /// from, oldest first.
    pub async fn children(
        &self,
        owner: UserId,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<Vec<Message>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM messages WHERE conversation_id = $1 AND owner_id = $2
             AND (parent_id = $3 OR ($3 IS NULL AND parent_id IS NULL)) ORDER BY created_at_ms, id",
        )
        .bind(conversation.to_string())
        .bind(owner.to_string())
        .bind(parent.map(|parent| parent.to_string()))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_message).collect()
    }

    /// Every message of a conversation, oldest first: the whole tree.
    pub async fn messages(
        &self,
        owner: UserId,
        conversation: ConversationId,
    ) -> Result<Vec<Message>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM messages WHERE conversation_id = $1 AND owner_id = $2
             ORDER BY created_at_ms, id",
        )
        .bind(conversation.to_string())
        .bind(owner.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_message).collect()
    }

    /// Deletes a message and everything below it; the branch shown then ends with its parent.
    pub async fn delete_message(&self, owner: UserId, id: MessageId) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query("SELECT * FROM messages WHERE id = $1 AND owner_id = $2")
            .bind(id.to_string())
            .bind(owner.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        let message = read_message(&row.ok_or(Error::NotFound { what: MESSAGE })?)?;
        sqlx::query(
            "WITH RECURSIVE below (id) AS (
                 SELECT id FROM messages WHERE id = $1
                 UNION ALL
                 SELECT messages.id FROM messages JOIN below ON messages.parent_id = below.id
                 WHERE messages.conversation_id = $2
             )
             DELETE FROM messages WHERE id IN (SELECT id FROM below)",
        )
        .bind(id.to_string())
        .bind(message.conversation.to_string())
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "UPDATE conversations SET head_id = $1 WHERE id = $2
             AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.id = conversations.head_id)",
        )
        .bind(message.parent.map(|parent| parent.to_string()))
        .bind(message.conversation.to_string())
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }
}

pub(crate) async fn insert_message(
    transaction: &mut Transaction<'_, Any>,
    dialect: Dialect,
    owner: UserId,
    message: &NewMessage,
    now: UnixMs,
) -> Result<(), Error> {
    sqlx::query(dialect.lock_conversation())
        .bind(message.conversation.to_string())
        .bind(owner.to_string())
        .fetch_optional(&mut **transaction)
        .await?
        .ok_or(Error::NotFound { what: CONVERSATION })?;
    if let Some(parent) = message.parent {
        find_message_in(transaction, owner, message.conversation, parent).await?;
    }
    let content = storable(&message.content);
    let done = sqlx::query(
        "INSERT INTO messages (id, conversation_id, owner_id, parent_id, role, status, content,
             thought, mode_asked, reply, error, extra, choice_of, search_key, created_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(message.id.to_string())
    .bind(message.conversation.to_string())
    .bind(owner.to_string())
    .bind(message.parent.map(|parent| parent.to_string()))
    .bind(message.role.as_str())
    .bind(message.status.as_str())
    .bind(&content)
    .bind(message.thought.as_deref().map(storable))
    .bind(message.mode_asked.map(Mode::as_str))
    .bind(message.reply.as_ref().map(to_json))
    .bind(message.error.as_deref().map(storable))
    .bind(message.extra.as_ref().map(to_json))
    .bind(message.choice_of.map(|other| other.to_string()))
    .bind(search_key(&content))
    .bind(now.0)
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 0 {
        return require_same_message(transaction, owner, message, &content).await;
    }
    show(transaction, message.conversation, message.id, now).await
}

/// Shows the branch that ends with a message that was just added.
pub(crate) async fn show(
    transaction: &mut Transaction<'_, Any>,
    conversation: ConversationId,
    head: MessageId,
    now: UnixMs,
) -> Result<(), Error> {
    sqlx::query("UPDATE conversations SET updated_at_ms = $1, head_id = $2 WHERE id = $3")
        .bind(now.0)
        .bind(head.to_string())
        .bind(conversation.to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// A message that is already there must be this one.
async fn require_same_message(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    message: &NewMessage,
    content: &str,
) -> Result<(), Error> {
    let taken = Error::Conflict { what: MESSAGE, problem: "the id is taken by another message" };
    let row = sqlx::query("SELECT * FROM messages WHERE id = $1 AND owner_id = $2")
        .bind(message.id.to_string())
        .bind(owner.to_string())
        .fetch_optional(&mut **transaction)
        .await?;
    let Some(row) = row else { return Err(taken) };
    let found = read_message(&row)?;
    let is_same = found.conversation == message.conversation
        && found.parent == message.parent
        && found.role == message.role
        && found.content == content;
    if is_same { Ok(()) } else { Err(taken) }
}

pub(crate) async fn find_message_in(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    conversation: ConversationId,
    id: MessageId,
) -> Result<(), Error> {
    sqlx::query("SELECT id FROM messages WHERE id = $1 AND conversation_id = $2 AND owner_id = $3")
        .bind(id.to_string())
        .bind(conversation.to_string())
        .bind(owner.to_string())
        .fetch_optional(&mut **transaction)
        .await?
        .map(drop)
        .ok_or(Error::NotFound { what: MESSAGE })
}

pub(crate) fn read_message(row: &AnyRow) -> Result<Message, Error> {
    let role = row.text("role")?;
    Ok(Message {
        id: row.parsed("id")?,
        conversation: row.parsed("conversation_id")?,
        parent: row.maybe_parsed("parent_id")?,
        role: Role::parse(&role).ok_or(Error::Corrupt { what: "role", found: role })?,
        status: row.parsed("status")?,
        content: row.text("content")?,
        thought: row.maybe_text("thought")?,
        mode_asked: row.maybe_parsed("mode_asked")?,
        reply: row.maybe_json("reply")?,
        error: row.maybe_text("error")?,
        extra: row.maybe_json("extra")?,
        choice_of: row.maybe_parsed("choice_of")?,
        created_at: row.time("created_at_ms")?,
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn role_name<S: serde::Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(role.as_str())
}
