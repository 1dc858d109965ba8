//! Share links: a branch as it was when it was shared, for whoever has its token.

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use crate::row::{Columns, storable, to_json};
use crate::secret::Secret;
use crate::{ConversationId, Error, MessageId, ShareId, Store, UnixMs, UserId};

/// What the owner sees of a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    pub id: ShareId,
    pub conversation: ConversationId,
    /// What opens it.
    pub token: String,
    /// The title when it was shared.
    pub title: String,
    pub created_at: UnixMs,
}

/// What a stranger with the link sees: no ids, no thoughts, no system messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedConversation {
    pub title: String,
    pub shared_at: UnixMs,
    pub messages: Vec<SharedMessage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMessage {
    pub role: String,
    pub content: String,
}

impl Store {
    /// Shares the branch that ends with `leaf`, as it is now.
    pub async fn create_share(
        &self,
        owner: UserId,
        leaf: MessageId,
        now: UnixMs,
    ) -> Result<Share, Error> {
        let branch = self.branch(owner, leaf, u32::MAX).await?;
        let conversation = branch.first().ok_or(Error::NotFound { what: "message" })?.conversation;
        let conversation = self.conversation(owner, conversation).await?;
        let snapshot = SharedConversation {
            title: conversation.title.clone(),
            shared_at: now,
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
            token: Secret::draw("").reveal().to_owned(),
            title: conversation.title,
            created_at: now,
        };
        sqlx::query(
            "INSERT INTO shares (id, owner_id, conversation_id, token, snapshot, created_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(share.id.to_string())
        .bind(owner.to_string())
        .bind(conversation.id.to_string())
        .bind(&share.token)
        .bind(to_json(&snapshot))
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(share)
    }

    /// What a token opens.
    pub async fn shared(&self, token: &str) -> Result<Option<SharedConversation>, Error> {
        let row = sqlx::query(
            "SELECT snapshot FROM shares JOIN users ON users.id = owner_id
             WHERE token = $1 AND disabled_at_ms IS NULL",
        )
        .bind(storable(token))
        .fetch_optional(&self.read)
        .await?;
        row.map(|row| row.json("snapshot")).transpose()
    }

    /// A person's shares, oldest first.
    pub async fn shares(&self, owner: UserId) -> Result<Vec<Share>, Error> {
        let rows = sqlx::query(
            "SELECT id, conversation_id, token, snapshot, created_at_ms FROM shares
             WHERE owner_id = $1 ORDER BY created_at_ms, id",
        )
        .bind(owner.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_share).collect()
    }

    /// Ends a share: its token opens nothing any more.
    pub async fn delete_share(&self, owner: UserId, id: ShareId) -> Result<(), Error> {
        let done = sqlx::query("DELETE FROM shares WHERE id = $1 AND owner_id = $2")
            .bind(id.to_string())
            .bind(owner.to_string())
            .execute(&self.write)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: "share" }) } else { Ok(()) }
    }
}

fn read_share(row: &AnyRow) -> Result<Share, Error> {
    let snapshot: SharedConversation = row.json("snapshot")?;
    Ok(Share {
        id: row.parsed("id")?,
        conversation: row.parsed("conversation_id")?,
        token: row.text("token")?,
        title: snapshot.title,
        created_at: row.time("created_at_ms")?,
    })
}
