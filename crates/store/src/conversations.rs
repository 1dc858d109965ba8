//! Conversations, seen by their owner alone. What is said in them is in `messages.rs`.

use rapport_types::Mode;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use crate::messages::{find_message_in, insert_message};
use crate::row::{Columns, storable, text_of};
use crate::search::fold;
use crate::{ConversationId, Error, FolderId, MessageId, NewMessage, Store, UnixMs, UserId};

pub(crate) const CONVERSATION: &str = "conversation";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conversation {
    pub id: ConversationId,
    pub title: String,
    pub folder: Option<FolderId>,
    /// The name of a persona; which ones there are is not the store's to know.
    pub persona: Option<String>,
    /// The mode that is asked for unless a message says otherwise.
    #[serde(serialize_with = "text_of")]
    pub mode: Mode,
    pub is_pinned: bool,
    /// The last message of the branch that is shown.
    pub head: Option<MessageId>,
    pub created_at: UnixMs,
    /// When a message was last added.
    pub updated_at: UnixMs,
}

/// A conversation to make. Its id is chosen by the caller, so that making it again makes nothing.
#[derive(Clone, Copy, Debug)]
pub struct NewConversation<'a> {
    pub id: ConversationId,
    pub title: &'a str,
    pub folder: Option<FolderId>,
    pub persona: Option<&'a str>,
    pub mode: Mode,
}

impl NewConversation<'_> {
    /// One without anything but its id.
    pub fn empty(id: ConversationId) -> Self {
        Self { id, title: "", folder: None, persona: None, mode: Mode::Auto }
    }
}

/// What changes; `None` leaves a part as it is.
#[derive(Clone, Debug, Default)]
pub struct ConversationChange {
    pub title: Option<String>,
    /// `Some(None)` takes it out of its folder.
    pub folder: Option<Option<FolderId>>,
    pub persona: Option<Option<String>>,
    pub mode: Option<Mode>,
    pub is_pinned: Option<bool>,
    /// Shows another branch: a message of this conversation.
    pub head: Option<MessageId>,
}

/// Which conversations to list: pinned first, then those with the newest messages.
#[derive(Clone, Debug)]
pub struct ConversationFilter {
    /// Only this folder.
    pub folder: Option<FolderId>,
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

/// As `PINNED.MILLISECONDS.ID`, to hand out and take back.
impl std::fmt::Display for ConversationCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", u8::from(self.is_pinned), self.updated_at.0, self.id)
    }
}

/// A text that is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: take it from the page before")]
pub struct InvalidCursor;

impl std::str::FromStr for ConversationCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or(InvalidCursor);
        let is_pinned = match next()? {
            "0" => false,
            "1" => true,
            _ => return Err(InvalidCursor),
        };
        let updated_at = UnixMs(next()?.parse().map_err(|_| InvalidCursor)?);
        let id = next()?.parse().map_err(|_| InvalidCursor)?;
        Ok(Self { is_pinned, updated_at, id })
    }
}

macro_rules! select_conversation {
    ($rest:literal) => {
        concat!(
            "SELECT id, title, folder_id, persona, mode, is_pinned, head_id, created_at_ms, \
             updated_at_ms FROM conversations ",
            $rest
        )
    };
}

impl Store {
    /// Makes a conversation; one that is there already is returned as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the id or the folder is somebody else's.
    pub async fn create_conversation(
        &self,
        owner: UserId,
        new: NewConversation<'_>,
        now: UnixMs,
    ) -> Result<Conversation, Error> {
        let mut transaction = self.begin().await?;
        insert_conversation(&mut transaction, owner, new, now).await?;
        // An id that is taken by somebody else is as good as unknown.
        let row = find_conversation(&mut transaction, owner, new.id).await?;
        transaction.commit().await?;
        read_conversation(&row)
    }

    /// Makes a conversation with all its messages, parents before children, each with its time: all
    /// or nothing. One whose id is there already is left alone, and `false` is returned.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a parent that did not come before, or a folder of somebody else;
    /// [`Error::Conflict`] when the conversation or a message has the id of another.
    pub async fn import_conversation(
        &self,
        owner: UserId,
        new: NewConversation<'_>,
        created_at: UnixMs,
        messages: &[(NewMessage, UnixMs)],
    ) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        if !insert_conversation(&mut transaction, owner, new, created_at).await? {
            let found = find_conversation(&mut transaction, owner, new.id).await;
            return found.map(|_| false).map_err(|_| Error::Conflict {
                what: CONVERSATION,
                problem: "the id is taken by another conversation",
            });
        }
        for (message, at) in messages {
            if message.conversation != new.id {
                return Err(Error::NotFound { what: CONVERSATION });
            }
            insert_message(&mut transaction, self.dialect, owner, message, *at).await?;
        }
        transaction.commit().await?;
        Ok(true)
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
            "WHERE owner_id = $1 AND ($2 IS NULL OR folder_id = $2)
             AND (is_pinned, updated_at_ms, id) < ($3, $4, $5)
             ORDER BY is_pinned DESC, updated_at_ms DESC, id DESC LIMIT $6"
        ))
        .bind(owner.to_string())
        .bind(filter.folder.map(|folder| folder.to_string()))
        // Without a cursor: a place after every conversation.
        .bind(after.map_or(2, |after| i64::from(after.is_pinned)))
        .bind(after.map_or(i64::MAX, |after| after.updated_at.0))
        .bind(after.map_or_else(|| "~".to_owned(), |after| after.id.to_string()))
        .bind(i64::from(filter.limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_conversation).collect()
    }

    /// # Errors
    /// [`Error::NotFound`] when the conversation, its new folder or its new head is not the
    /// owner's.
    pub async fn change_conversation(
        &self,
        owner: UserId,
        id: ConversationId,
        change: &ConversationChange,
    ) -> Result<Conversation, Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(self.dialect.lock_conversation())
            .bind(id.to_string())
            .bind(owner.to_string())
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or(Error::NotFound { what: CONVERSATION })?;
        let old = read_conversation(&find_conversation(&mut transaction, owner, id).await?)?;
        if let Some(head) = change.head {
            find_message_in(&mut transaction, owner, id, head).await?;
        }
        if let Some(Some(folder)) = change.folder {
            find_folder(&mut transaction, owner, folder).await?;
        }
        let new = Conversation {
            title: change.title.as_deref().map_or(old.title, storable),
            folder: change.folder.unwrap_or(old.folder),
            persona: change
                .persona
                .as_ref()
                .map_or(old.persona, |persona| persona.as_deref().map(storable)),
            mode: change.mode.unwrap_or(old.mode),
            is_pinned: change.is_pinned.unwrap_or(old.is_pinned),
            head: change.head.or(old.head),
            ..old
        };
        sqlx::query(
            "UPDATE conversations SET title = $1, title_key = $2, folder_id = $3, persona = $4,
                 mode = $5, is_pinned = $6, head_id = $7 WHERE id = $8 AND owner_id = $9",
        )
        .bind(&new.title)
        .bind(fold(&new.title))
        .bind(new.folder.map(|folder| folder.to_string()))
        .bind(&new.persona)
        .bind(new.mode.as_str())
        .bind(i64::from(new.is_pinned))
        .bind(new.head.map(|head| head.to_string()))
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
}

/// `false` when the id is taken.
async fn insert_conversation(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    new: NewConversation<'_>,
    now: UnixMs,
) -> Result<bool, Error> {
    if let Some(folder) = new.folder {
        find_folder(transaction, owner, folder).await?;
    }
    let title = storable(new.title);
    let done = sqlx::query(
        "INSERT INTO conversations (id, owner_id, title, title_key, folder_id, persona, mode,
             is_pinned, created_at_ms, updated_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $8) ON CONFLICT (id) DO NOTHING",
    )
    .bind(new.id.to_string())
    .bind(owner.to_string())
    .bind(&title)
    .bind(fold(&title))
    .bind(new.folder.map(|folder| folder.to_string()))
    .bind(new.persona.map(storable))
    .bind(new.mode.as_str())
    .bind(now.0)
    .execute(&mut **transaction)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn find_folder(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    folder: FolderId,
) -> Result<(), Error> {
    sqlx::query("SELECT id FROM folders WHERE id = $1 AND owner_id = $2")
        .bind(folder.to_string())
        .bind(owner.to_string())
        .fetch_optional(&mut **transaction)
        .await?
        .map(drop)
        .ok_or(Error::NotFound { what: "folder" })
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

pub(crate) fn read_conversation(row: &AnyRow) -> Result<Conversation, Error> {
    Ok(Conversation {
        id: row.parsed("id")?,
        title: row.text("title")?,
        folder: row.maybe_parsed("folder_id")?,
        persona: row.maybe_text("persona")?,
        mode: row.parsed("mode")?,
        is_pinned: row.flag("is_pinned")?,
        head: row.maybe_parsed("head_id")?,
        created_at: row.time("created_at_ms")?,
        updated_at: row.time("updated_at_ms")?,
    })
}
