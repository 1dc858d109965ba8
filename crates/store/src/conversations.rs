//! Conversations: trees of messages, one row each, seen by their owner alone.

use rapport_types::{Role, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use crate::dialect::Dialect;
use crate::row::{Columns, storable, to_json};
use crate::search::{fold, search_key};
use crate::{ConversationId, Error, MessageId, Store, UnixMs, UserId};

const CONVERSATION: &str = "conversation";
const MESSAGE: &str = "message";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conversation {
    pub id: ConversationId,
    pub title: String,
    pub folder: Option<String>,
    pub is_pinned: bool,
    pub is_archived: bool,
    /// Neither found by search nor shared.
    pub is_private: bool,
    /// The last message of the branch that is shown.
    pub leaf: Option<MessageId>,
    pub created_at: UnixMs,
    /// When a message was last added.
    pub updated_at: UnixMs,
}

/// What changes; `None` leaves a part as it is.
#[derive(Clone, Debug, Default)]
pub struct ConversationChange {
    pub title: Option<String>,
    /// `Some(None)` takes it out of its folder.
    pub folder: Option<Option<String>>,
    pub is_pinned: Option<bool>,
    pub is_archived: Option<bool>,
    pub is_private: Option<bool>,
    /// Shows another branch: a message of this conversation.
    pub leaf: Option<MessageId>,
}

/// Which conversations to list: pinned first, then those with the newest messages.
#[derive(Clone, Debug)]
pub struct ConversationFilter {
    pub is_archived: bool,
    /// Only this folder.
    pub folder: Option<String>,
    /// The last one of the page before.
    pub after: Option<ConversationCursor>,
    pub limit: u32,
}

/// A place in the list of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationCursor {
    pub is_pinned: bool,
    pub updated_at: UnixMs,
    pub id: ConversationId,
}

impl Conversation {
    /// Where to go on after this one.
    pub fn cursor(&self) -> ConversationCursor {
        ConversationCursor { is_pinned: self.is_pinned, updated_at: self.updated_at, id: self.id }
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
    pub content: String,
    pub thought: Option<String>,
    /// Only on what a model wrote.
    pub reply: Option<ReplyFacts>,
    /// Tool calls, attachments, citations: as the server writes them.
    pub extra: Option<Value>,
    pub created_at: UnixMs,
}

/// A message to add. Its id is chosen by the caller, so that adding it again adds nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    pub id: MessageId,
    pub conversation: ConversationId,
    pub parent: Option<MessageId>,
    pub role: Role,
    pub content: String,
    pub thought: Option<String>,
    pub reply: Option<ReplyFacts>,
    pub extra: Option<Value>,
}

/// How a model's message came to be. Names are text, so that an old row outlives a renaming.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyFacts {
    pub model: String,
    pub build: String,
    pub mode: String,
    pub mode_reason: String,
    pub finish_reason: String,
    #[serde(with = "UsageForm")]
    pub usage: Usage,
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

macro_rules! select_conversation {
    ($rest:literal) => {
        concat!(
            "SELECT id, title, folder, is_pinned, is_archived, is_private, leaf_id, \
             created_at_ms, updated_at_ms FROM conversations ",
            $rest
        )
    };
}

impl Store {
    /// Makes a conversation; `id` is chosen by the caller, so that making it again makes nothing.
    pub async fn create_conversation(
        &self,
        owner: UserId,
        id: ConversationId,
        title: &str,
        now: UnixMs,
    ) -> Result<Conversation, Error> {
        let title = storable(title);
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO conversations (id, owner_id, title, title_key, is_pinned, is_archived,
                 is_private, created_at_ms, updated_at_ms)
             VALUES ($1, $2, $3, $4, 0, 0, 0, $5, $5) ON CONFLICT (id) DO NOTHING",
        )
        .bind(id.to_string())
        .bind(owner.to_string())
        .bind(&title)
        .bind(fold(&title))
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        // An id that is taken by somebody else is as good as unknown.
        let row = find_conversation(&mut transaction, owner, id).await?;
        transaction.commit().await?;
        read_conversation(&row)
    }

    pub async fn conversation(
        &self,
        owner: UserId,
        id: ConversationId,
    ) -> Result<Conversation, Error> {
        let row = sqlx::query(select_conversation!("WHERE id = $1 AND owner_id = $2"))
            .bind(id.to_string())
            .bind(owner.to_string())
            .fetch_optional(&self.read)
            .await?;
        read_conversation(&row.ok_or(Error::NotFound { what: CONVERSATION })?)
    }

    pub async fn conversations(
        &self,
        owner: UserId,
        filter: &ConversationFilter,
    ) -> Result<Vec<Conversation>, Error> {
        let after = filter.after;
        let rows = sqlx::query(select_conversation!(
            "WHERE owner_id = $1 AND is_archived = $2 AND ($3 IS NULL OR folder = $3)
             AND (is_pinned, updated_at_ms, id) < ($4, $5, $6)
             ORDER BY is_pinned DESC, updated_at_ms DESC, id DESC LIMIT $7"
        ))
        .bind(owner.to_string())
        .bind(i64::from(filter.is_archived))
        .bind(filter.folder.as_deref().map(storable))
        // Without a cursor: a place after every conversation.
        .bind(after.map_or(2, |after| i64::from(after.is_pinned)))
        .bind(after.map_or(i64::MAX, |after| after.updated_at.0))
        .bind(after.map_or_else(|| "~".to_owned(), |after| after.id.to_string()))
        .bind(i64::from(filter.limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_conversation).collect()
    }

    pub async fn change_conversation(
        &self,
        owner: UserId,
        id: ConversationId,
        change: &ConversationChange,
    ) -> Result<Conversation, Error> {
        let mut transaction = self.begin().await?;
        let old = read_conversation(&find_conversation(&mut transaction, owner, id).await?)?;
        if let Some(leaf) = change.leaf {
            find_message_in(&mut transaction, owner, id, leaf).await?;
        }
        let new = Conversation {
            title: change.title.as_deref().map_or(old.title, storable),
            folder: change
                .folder
                .as_ref()
                .map_or(old.folder, |folder| folder.as_deref().map(storable)),
            is_pinned: change.is_pinned.unwrap_or(old.is_pinned),
            is_archived: change.is_archived.unwrap_or(old.is_archived),
            is_private: change.is_private.unwrap_or(old.is_private),
            leaf: change.leaf.or(old.leaf),
            ..old
        };
        sqlx::query(
            "UPDATE conversations SET title = $1, title_key = $2, folder = $3, is_pinned = $4,
                 is_archived = $5, is_private = $6, leaf_id = $7 WHERE id = $8 AND owner_id = $9",
        )
        .bind(&new.title)
        .bind(fold(&new.title))
        .bind(&new.folder)
        .bind(i64::from(new.is_pinned))
        .bind(i64::from(new.is_archived))
        .bind(i64::from(new.is_private))
        .bind(new.leaf.map(|leaf| leaf.to_string()))
        .bind(id.to_string())
        .bind(owner.to_string())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(new)
    }

    /// Deletes a conversation with its messages, shares and feedback.
    pub async fn delete_conversation(
        &self,
        owner: UserId,
        id: ConversationId,
    ) -> Result<(), Error> {
        let done = sqlx::query("DELETE FROM conversations WHERE id = $1 AND owner_id = $2")
            .bind(id.to_string())
            .bind(owner.to_string())
            .execute(&self.write)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: CONVERSATION }) } else { Ok(()) }
    }

    /// Deletes every conversation of everybody without a message since `before`; pinned ones stay.
    /// Returns how many.
    pub async fn delete_conversations_before(&self, before: UnixMs) -> Result<u64, Error> {
        let done =
            sqlx::query("DELETE FROM conversations WHERE updated_at_ms < $1 AND is_pinned = 0")
                .bind(before.0)
                .execute(&self.write)
                .await?;
        Ok(done.rows_affected())
    }

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
            "UPDATE conversations SET leaf_id = $1 WHERE id = $2
             AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.id = conversations.leaf_id)",
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
        "INSERT INTO messages (id, conversation_id, owner_id, parent_id, role, content, thought,
             reply, extra, search_key, created_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING",
    )
    .bind(message.id.to_string())
    .bind(message.conversation.to_string())
    .bind(owner.to_string())
    .bind(message.parent.map(|parent| parent.to_string()))
    .bind(message.role.as_str())
    .bind(&content)
    .bind(message.thought.as_deref().map(storable))
    .bind(message.reply.as_ref().map(to_json))
    .bind(message.extra.as_ref().map(to_json))
    .bind(search_key(&content))
    .bind(now.0)
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 0 {
        return require_same_message(transaction, owner, message, &content).await;
    }
    sqlx::query("UPDATE conversations SET updated_at_ms = $1, leaf_id = $2 WHERE id = $3")
        .bind(now.0)
        .bind(message.id.to_string())
        .bind(message.conversation.to_string())
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

async fn find_conversation(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    id: ConversationId,
) -> Result<AnyRow, Error> {
    sqlx::query(select_conversation!("WHERE id = $1 AND owner_id = $2"))
        .bind(id.to_string())
        .bind(owner.to_string())
        .fetch_optional(&mut **transaction)
        .await?
        .ok_or(Error::NotFound { what: CONVERSATION })
}

async fn find_message_in(
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

pub(crate) fn read_conversation(row: &AnyRow) -> Result<Conversation, Error> {
    Ok(Conversation {
        id: row.parsed("id")?,
        title: row.text("title")?,
        folder: row.maybe_text("folder")?,
        is_pinned: row.flag("is_pinned")?,
        is_archived: row.flag("is_archived")?,
        is_private: row.flag("is_private")?,
        leaf: row.maybe_parsed("leaf_id")?,
        created_at: row.time("created_at_ms")?,
        updated_at: row.time("updated_at_ms")?,
    })
}

pub(crate) fn read_message(row: &AnyRow) -> Result<Message, Error> {
    let role = row.text("role")?;
    Ok(Message {
        id: row.parsed("id")?,
        conversation: row.parsed("conversation_id")?,
        parent: row.maybe_parsed("parent_id")?,
        role: Role::parse(&role).ok_or(Error::Corrupt { what: "role", found: role })?,
        content: row.text("content")?,
        thought: row.maybe_text("thought")?,
        reply: row.maybe_json("reply")?,
        extra: row.maybe_json("extra")?,
        created_at: row.time("created_at_ms")?,
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn role_name<S: serde::Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(role.as_str())
}
