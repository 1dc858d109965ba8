//! A person's data: all of it to take away, and all of it gone.

use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use crate::accounts::{count_admins, read_user, require_an_admin};
use crate::conversations::read_conversation;
use crate::feedback::read_feedback;
use crate::folders::read_folder;
use crate::memories::read_memory;
use crate::messages::read_message;
use crate::responses::read_response;
use crate::row::Columns;
use crate::styles::read_style;
use crate::{Error, Store, UserId};

impl Store {
    /// Everything that is stored of a user, as one document. Secrets and their hashes are left
    /// out: they open things and say nothing about the person.
    pub async fn export_user(&self, user: UserId) -> Result<Value, Error> {
        let mut transaction = self.begin_snapshot().await?;
        let transaction = &mut transaction;
        let account = rows(transaction, "SELECT * FROM users WHERE id = $1", user).await?;
        let account = read_user(account.first().ok_or(Error::NotFound { what: "user" })?)?;

        let sql = "SELECT issuer, subject, created_at_ms FROM identities WHERE user_id = $1
                   ORDER BY issuer, subject";
        let identities = each(transaction, sql, user, |row| {
            Ok(json!({
                "issuer": row.text("issuer")?,
                "subject": row.text("subject")?,
                "created_at": row.time("created_at_ms")?,
            }))
        });
        let identities = identities.await?;

        let sql = "SELECT * FROM api_keys WHERE user_id = $1 ORDER BY id";
        let api_keys = each(transaction, sql, user, |row| {
            Ok(json!({
                "id": row.text("id")?,
                "name": row.text("name")?,
                "scopes": row.json::<Value>("scopes")?,
                "created_at": row.time("created_at_ms")?,
                "expires_at": row.maybe_time("expires_at_ms")?,
                "revoked_at": row.maybe_time("revoked_at_ms")?,
                "last_used_at": row.maybe_time("last_used_at_ms")?,
            }))
        });
        let api_keys = api_keys.await?;

        let sql = "SELECT * FROM folders WHERE owner_id = $1 ORDER BY id";
        let folders = each(transaction, sql, user, |row| Ok(json!(read_folder(row)?))).await?;

        let sql = "SELECT * FROM memories WHERE user_id = $1 ORDER BY id";
        let memories = each(transaction, sql, user, |row| Ok(json!(read_memory(row)?))).await?;

        let sql = "SELECT * FROM conversations WHERE owner_id = $1 ORDER BY id";
        let conversations = each(transaction, sql, user, |row| Ok(json!(read_conversation(row)?)));
        let conversations = conversations.await?;

        let sql = "SELECT * FROM messages WHERE owner_id = $1 ORDER BY created_at_ms, id";
        let messages = each(transaction, sql, user, |row| Ok(json!(read_message(row)?)));
        let messages = messages.await?;

        let sql = "SELECT * FROM shares WHERE owner_id = $1 ORDER BY id";
        let shares = each(transaction, sql, user, |row| {
            Ok(json!({
                "id": row.text("id")?,
                "conversation": row.text("conversation_id")?,
                "snapshot": row.json::<Value>("snapshot")?,
                "created_at": row.time("created_at_ms")?,
            }))
        });
        let shares = shares.await?;

        let sql = "SELECT * FROM responses WHERE owner_id = $1 ORDER BY id";
        let responses = each(transaction, sql, user, |row| Ok(json!(read_response(row)?))).await?;

        let sql = "SELECT * FROM deferred WHERE owner_id = $1 ORDER BY id";
        let deferred = each(transaction, sql, user, |row| {
            Ok(json!({
                "id": row.text("id")?,
                "status": row.text("status")?,
                "body": row.maybe_json::<Value>("body")?,
                "created_at": row.time("created_at_ms")?,
            }))
        });
        let deferred = deferred.await?;

        let sql = "SELECT * FROM feedback WHERE user_id = $1 ORDER BY created_at_ms, id";
        let feedback = each(transaction, sql, user, |row| Ok(json!(read_feedback(row)?))).await?;

        let sql = "SELECT * FROM styles WHERE user_id = $1 ORDER BY version";
        let styles = each(transaction, sql, user, |row| Ok(json!(read_style(row)?))).await?;

        let sql = "SELECT * FROM ledger WHERE user_id = $1 ORDER BY charged_at_ms, reply_id";
        let ledger = each(transaction, sql, user, |row| {
            Ok(json!({
                "reply": row.text("reply_id")?,
                "api_key": row.maybe_text("api_key_id")?,
                "plan": row.text("plan")?,
                "model": row.text("model")?,
                "build": row.text("build")?,
                "prompt_tokens": row.int("prompt_tokens")?,
                "cached_tokens": row.int("cached_tokens")?,
                "completion_tokens": row.int("completion_tokens")?,
                "reasoning_tokens": row.int("reasoning_tokens")?,
                "cost_micros": row.int("cost_micros")?,
                "charged_at": row.time("charged_at_ms")?,
            }))
        });
        let ledger = ledger.await?;

        let sql = "SELECT * FROM events WHERE user_id = $1 ORDER BY created_at_ms, id";
        let events = each(transaction, sql, user, |row| {
            Ok(json!({
                "stream": row.text("stream")?,
                "kind": row.text("kind")?,
                "body": row.json::<Value>("body")?,
                "created_at": row.time("created_at_ms")?,
            }))
        });
        let events = events.await?;

        Ok(json!({
            "user": account,
            "identities": identities,
            "api_keys": api_keys,
            "folders": folders,
            "memories": memories,
            "conversations": conversations,
            "messages": messages,
            "shares": shares,
            "responses": responses,
            "deferred": deferred,
            "feedback": feedback,
            "styles": styles,
            "ledger": ledger,
            "events": events,
        }))
    }

    /// Deletes a user and everything that is theirs. What they used stays in the ledger, and what
    /// they voted in its experiment, both without them.
    ///
    /// # Errors
    /// [`Error::Conflict`] when this would leave nobody in charge.
    pub async fn delete_user(&self, user: UserId) -> Result<(), Error> {
        let mut transaction = self.begin_about_admins().await?;
        let n_before = count_admins(&mut transaction).await?;
        let done = sqlx::query("DELETE FROM users WHERE id = $1")
            .bind(user.to_string())
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 0 {
            return Err(Error::NotFound { what: "user" });
        }
        require_an_admin(&mut transaction, n_before).await?;
        Ok(transaction.commit().await?)
    }
}

async fn rows(
    transaction: &mut Transaction<'_, Any>,
    sql: &'static str,
    user: UserId,
) -> Result<Vec<AnyRow>, Error> {
    Ok(sqlx::query(sql).bind(user.to_string()).fetch_all(&mut **transaction).await?)
}

async fn each(
    transaction: &mut Transaction<'_, Any>,
    sql: &'static str,
    user: UserId,
    read: impl Fn(&AnyRow) -> Result<Value, Error>,
) -> Result<Vec<Value>, Error> {
    rows(transaction, sql, user).await?.iter().map(read).collect()
}
