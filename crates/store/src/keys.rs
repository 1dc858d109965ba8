//! API keys: shown once, stored hashed, limited by scope and time, revoked at once.

use serde::Serialize;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable, to_json};
use crate::secret::{self, Secret};
use crate::{ApiKeyId, Error, Store, UnixMs, UserId};

const API_KEY: &str = "API key";
/// A key's last use is written at most this often.
const LAST_USED_STEP_MS: i64 = 60_000;

/// What its owner may know of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub user: UserId,
    pub name: String,
    /// The key's first characters, for its owner to tell it from others.
    pub prefix: String,
    /// What it opens, in the server's words; empty opens nothing.
    pub scopes: Vec<String>,
    pub created_at: UnixMs,
    pub expires_at: Option<UnixMs>,
    pub revoked_at: Option<UnixMs>,
    /// Within a minute.
    pub last_used_at: Option<UnixMs>,
}

#[derive(Clone, Copy, Debug)]
pub struct NewApiKey<'a> {
    pub name: &'a str,
    pub scopes: &'a [String],
    pub expires_at: Option<UnixMs>,
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyState {
    Live,
    Revoked,
    Expired,
    /// The key or its user is gone, or the user is disabled.
    Gone,
}

macro_rules! select_key {
    ($rest:literal) => {
        concat!(
            "SELECT api_keys.id, user_id, api_keys.name, prefix, scopes, api_keys.created_at_ms, \
             expires_at_ms, revoked_at_ms, last_used_at_ms FROM api_keys ",
            $rest
        )
    };
}

impl Store {
    /// Makes a key; its secret is in this answer and nowhere else.
    pub async fn create_api_key(
        &self,
        user: UserId,
        new: NewApiKey<'_>,
        now: UnixMs,
    ) -> Result<(ApiKey, Secret), Error> {
        let secret = Secret::draw("rk-");
        let key = self.adopt_api_key(user, new, secret.reveal(), now).await?;
        Ok((key, secret))
    }

    /// Makes a key of a secret chosen outside, as for an unattended first start. The same secret
    /// again gives the same key.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the secret belongs to another user.
    pub async fn adopt_api_key(
        &self,
        user: UserId,
        new: NewApiKey<'_>,
        secret: &str,
        now: UnixMs,
    ) -> Result<ApiKey, Error> {
        let secret_hash = secret::hash(secret);
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO api_keys
                 (id, user_id, name, secret_hash, prefix, scopes, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (secret_hash) DO NOTHING",
        )
        .bind(ApiKeyId::new(now).to_string())
        .bind(user.to_string())
        .bind(storable(new.name))
        .bind(&secret_hash)
        .bind(storable(&secret::prefix(secret)))
        .bind(to_json(new.scopes))
        .bind(now.0)
        .bind(new.expires_at.map(|time| time.0))
        .execute(&mut *transaction)
        .await?;
        let row = sqlx::query(select_key!("WHERE secret_hash = $1"))
            .bind(secret_hash)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let key = read_key(&row)?;
        if key.user != user {
            return Err(Error::Conflict { what: API_KEY, problem: "it belongs to another user" });
        }
        Ok(key)
    }

    /// The live key with this secret.
    pub async fn api_key_by_secret(
        &self,
        secret: &str,
        now: UnixMs,
    ) -> Result<Option<ApiKey>, Error> {
        let row = sqlx::query(select_key!(
            "JOIN users ON users.id = user_id WHERE secret_hash = $1 AND revoked_at_ms IS NULL
             AND (expires_at_ms IS NULL OR expires_at_ms > $2) AND users.disabled_at_ms IS NULL"
        ))
        .bind(secret::hash(secret))
        .bind(now.0)
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(read_key).transpose()
    }

    /// Whether a key that was live still is: asked while a reply streams.
    pub async fn api_key_state(&self, key: ApiKeyId, now: UnixMs) -> Result<ApiKeyState, Error> {
        let row = sqlx::query(select_key!(
            "JOIN users ON users.id = user_id
             WHERE api_keys.id = $1 AND users.disabled_at_ms IS NULL"
        ))
        .bind(key.to_string())
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(ApiKeyState::Gone) };
        let key = read_key(&row)?;
        Ok(if key.revoked_at.is_some() {
            ApiKeyState::Revoked
        } else if key.expires_at.is_some_and(|expires_at| expires_at <= now) {
            ApiKeyState::Expired
        } else {
            ApiKeyState::Live
        })
    }

    /// Notes that a key was used; not part of a request's answer, so it may run beside it.
    pub async fn touch_api_key(&self, key: ApiKeyId, now: UnixMs) -> Result<(), Error> {
        sqlx::query(
            "UPDATE api_keys SET last_used_at_ms = $1
             WHERE id = $2 AND (last_used_at_ms IS NULL OR last_used_at_ms < $3)",
        )
        .bind(now.0)
        .bind(key.to_string())
        .bind(now.plus_ms(-LAST_USED_STEP_MS).0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// A user's keys, oldest first, without revoked ones.
    pub async fn api_keys(&self, user: UserId) -> Result<Vec<ApiKey>, Error> {
        let rows = sqlx::query(select_key!(
            "WHERE user_id = $1 AND revoked_at_ms IS NULL ORDER BY created_at_ms, id"
        ))
        .bind(user.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_key).collect()
    }

    /// Everybody's keys after `after`, oldest first, without revoked ones: for administrators.
    pub async fn all_api_keys(
        &self,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, Error> {
        let rows = sqlx::query(select_key!(
            "WHERE api_keys.id > $1 AND revoked_at_ms IS NULL ORDER BY api_keys.id LIMIT $2"
        ))
        .bind(after.map_or_else(String::new, |id| id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_key).collect()
    }

    /// Any key by its id, revoked or not, whoever's it is: for administrators.
    pub async fn api_key(&self, id: ApiKeyId) -> Result<ApiKey, Error> {
        let row = sqlx::query(select_key!("WHERE api_keys.id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        read_key(&row.ok_or(Error::NotFound { what: API_KEY })?)
    }

    /// Closes a key for good; closing it again changes nothing.
    pub async fn revoke_api_key(
        &self,
        user: UserId,
        key: ApiKeyId,
        now: UnixMs,
    ) -> Result<(), Error> {
        let done = sqlx::query(
            "UPDATE api_keys SET revoked_at_ms = COALESCE(revoked_at_ms, $1)
             WHERE id = $2 AND user_id = $3",
        )
        .bind(now.0)
        .bind(key.to_string())
        .bind(user.to_string())
        .execute(&self.write)
        .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: API_KEY }) } else { Ok(()) }
    }
}

fn read_key(row: &AnyRow) -> Result<ApiKey, Error> {
    Ok(ApiKey {
        id: row.parsed("id")?,
        user: row.parsed("user_id")?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        scopes: row.json("scopes")?,
        created_at: row.time("created_at_ms")?,
        expires_at: row.maybe_time("expires_at_ms")?,
        revoked_at: row.maybe_time("revoked_at_ms")?,
        last_used_at: row.maybe_time("last_used_at_ms")?,
    })
}
