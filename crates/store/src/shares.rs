//! Share links: a branch as it was when it was shared, for whoever has the link.

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use crate::row::{Columns, to_json};
use crate::secret::{self, Secret};
use crate::{ConversationId, Error, MessageId, ShareId, Store, UnixMs, UserId};

/// What the owner sees of a share; the link itself is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    pub id: ShareId,
    pub conversation: ConversationId,
    pub created_at: UnixMs,
    pub revoked_at: Option<UnixMs>,
}

/// What a stranger with the link sees: no ids, no thoughts, no system messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedConversation {
    pub title: String,
    pub messages: Vec<SharedMessage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMessage {
    pub role: String,
    pub content: String,
}

impl Store {
    /// Shares the branch that ends with `leaf`, as it is now.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a private conversation.
    pub async fn create_share(
        &self,
        owner: UserId,
        leaf: MessageId,
        now: UnixMs,
    ) -> Result<(Share, Secret), Error> {
        let branch = self.branch(owner, leaf, u32::MAX).await?;
        let conversation = branch.first().ok_or(Error::NotFound { what: "message" })?.conversation;
        let conversation = self.conversation(owner, conversation).await?;
        if conversation.is_private {
            return Err(Error::Conflict { what: "share", problem: "the conversation is private" });
        }
        let snapshot = SharedConversation {
            title: conversation.title,
            messages: branch
                .into_iter()
                .filter(|message| message.role != rapport_types::Role::System)
                .map(|message| SharedMessage {
                    role: message.role.as_str().to_owned(),
                    content: message.content,
                })
                .collect(),
        };
        let share = Share {
            id: ShareId::new(now),
            conversation: conversation.id,
            created_at: now,
            revoked_at: None,
        };
        let secret = Secret::draw("");
        sqlx::query(
            "INSERT INTO shares (id, owner_id, conversation_id, secret_hash, snapshot, created_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(share.id.to_string())
        .bind(owner.to_string())
        .bind(conversation.id.to_string())
        .bind(secret::hash(secret.reveal()))
        .bind(to_json(&snapshot))
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok((share, secret))
    }

    /// What a link shows, while it is not revoked.
    pub async fn shared(&self, secret: &str) -> Result<Option<SharedConversation>, Error> {
        let row = sqlx::query(
            "SELECT snapshot FROM shares JOIN users ON users.id = owner_id
             WHERE secret_hash = $1 AND revoked_at_ms IS NULL AND disabled_at_ms IS NULL",
        )
        .bind(secret::hash(secret))
        .fetch_optional(&self.read)
        .await?;
        row.map(|row| row.json("snapshot")).transpose()
    }

    /// A person's shares, oldest first.
    pub async fn shares(&self, owner: UserId) -> Result<Vec<Share>, Error> {
        let rows = sqlx::query(
            "SELECT id, conversation_id, created_at_ms, revoked_at_ms FROM shares
             WHERE owner_id = $1 ORDER BY created_at_ms, id",
        )
        .bind(owner.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_share).collect()
    }

    /// Closes a link for good; closing it again changes nothing.
    pub async fn revoke_share(&self, owner: UserId, id: ShareId, now: UnixMs) -> Result<(), Error> {
        let done = sqlx::query(
            "UPDATE shares SET revoked_at_ms = COALESCE(revoked_at_ms, $1)
             WHERE id = $2 AND owner_id = $3",
        )
        .bind(now.0)
        .bind(id.to_string())
        .bind(owner.to_string())
        .execute(&self.write)
        .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: "share" }) } else { Ok(()) }
    }
}

fn read_share(row: &AnyRow) -> Result<Share, Error> {
    Ok(Share {
        id: row.parsed("id")?,
        conversation: row.parsed("conversation_id")?,
        created_at: row.time("created_at_ms")?,
        revoked_at: row.maybe_time("revoked_at_ms")?,
    })
}
