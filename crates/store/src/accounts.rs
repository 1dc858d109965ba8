//! Users, and the ways in: password, session, one-time link, identity of another provider.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use crate::row::{Columns, storable};
use crate::secret::{self, Secret};
use crate::{Error, Store, UnixMs, UserId};

const USER: &str = "user";
const NAME_TAKEN: Error = Error::Conflict { what: USER, problem: "the name is taken" };
/// When a user was seen is written at most this often.
const LAST_SEEN_STEP_MS: i64 = 60_000;
const MAX_NAME_CHARACTERS: usize = 100;
/// The least that NIST SP 800-63B allows, and a limit against work for nothing.
const MIN_PASSWORD_CHARACTERS: usize = 8;
const MAX_PASSWORD_CHARACTERS: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserRole {
    Admin,
    User,
}

impl UserRole {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
        }
    }
}

/// A role that is neither `admin` nor `user`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown role: use admin or user")]
pub struct InvalidRole;

impl FromStr for UserRole {
    type Err = InvalidRole;

    fn from_str(name: &str) -> Result<Self, InvalidRole> {
        [Self::Admin, Self::User].into_iter().find(|role| role.as_str() == name).ok_or(InvalidRole)
    }
}

/// A person with an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    pub id: UserId,
    /// As typed; unique without regard to case.
    pub name: String,
    pub role: UserRole,
    /// The name of a plan; what it allows is configuration.
    pub plan: String,
    pub has_password: bool,
    /// The language of the pages, as the person chose it.
    pub locale: Option<String>,
    /// Whether what the person says may train a model.
    pub has_consent: bool,
    pub created_at: UnixMs,
    /// Within a minute.
    pub last_seen_at: Option<UnixMs>,
    /// A disabled user has no way in.
    pub disabled_at: Option<UnixMs>,
}

/// An account to make.
#[derive(Clone, Copy, Debug)]
pub struct NewUser<'a> {
    pub name: &'a str,
    pub role: UserRole,
    pub plan: &'a str,
    pub password: Option<&'a str>,
}

/// Who another provider says somebody is.
#[derive(Clone, Copy, Debug)]
pub struct SignInIdentity<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
}

macro_rules! select_user {
    ($rest:literal) => {
        concat!(
            "SELECT users.id, users.name, users.role, users.plan, users.password_hash, \
             users.locale, users.has_consent, users.created_at_ms, users.last_seen_at_ms, \
             users.disabled_at_ms FROM users ",
            $rest
        )
    };
}

impl Store {
    /// # Errors
    /// [`Error::Conflict`] when the name is taken.
    pub async fn create_user(&self, new: NewUser<'_>, now: UnixMs) -> Result<User, Error> {
        let password_hash = self.hash_maybe(new.password).await?;
        let mut transaction = self.begin().await?;
        let user = insert_user(&mut transaction, new, password_hash, now).await?;
        transaction.commit().await?;
        Ok(user)
    }

    pub async fn user(&self, id: UserId) -> Result<User, Error> {
        let row = sqlx::query(select_user!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        read_user(&row.ok_or(Error::NotFound { what: USER })?)
    }

    pub async fn user_by_name(&self, name: &str) -> Result<User, Error> {
        let row = sqlx::query(select_user!("WHERE name_key = $1"))
            .bind(name_key(name))
            .fetch_optional(&self.read)
            .await?;
        read_user(&row.ok_or(Error::NotFound { what: USER })?)
    }

    /// At most `limit` users after `after`, oldest first.
    pub async fn users(&self, after: Option<UserId>, limit: u32) -> Result<Vec<User>, Error> {
        let rows = sqlx::query(select_user!("WHERE id > $1 ORDER BY id LIMIT $2"))
            .bind(after.map_or_else(String::new, |id| id.to_string()))
            .bind(i64::from(limit))
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read_user).collect()
    }

    /// # Errors
    /// [`Error::Conflict`] when this would leave nobody in charge.
    pub async fn set_role(&self, id: UserId, role: UserRole) -> Result<(), Error> {
        let mut transaction = self.begin_about_admins().await?;
        let n_before = count_admins(&mut transaction).await?;
        change_user(
            sqlx::query("UPDATE users SET role = $1 WHERE id = $2")
                .bind(role.as_str())
                .bind(id.to_string()),
            &mut transaction,
        )
        .await?;
        require_an_admin(&mut transaction, n_before).await?;
        Ok(transaction.commit().await?)
    }

    pub async fn set_plan(&self, id: UserId, plan: &str) -> Result<(), Error> {
        let query = sqlx::query("UPDATE users SET plan = $1 WHERE id = $2")
            .bind(storable(plan))
            .bind(id.to_string());
        self.change_user(query).await
    }

    /// Gives a user another name.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is taken; [`Error::Invalid`] when it cannot be a name.
    pub async fn set_name(&self, id: UserId, name: &str) -> Result<(), Error> {
        let name = check_name(name)?;
        let mut transaction = self.begin_about_admins().await?;
        let row = sqlx::query("SELECT id FROM users WHERE name_key = $1 AND id <> $2")
            .bind(name_key(&name))
            .bind(id.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        if row.is_some() {
            return Err(NAME_TAKEN);
        }
        let query = sqlx::query("UPDATE users SET name = $1, name_key = $2 WHERE id = $3")
            .bind(&name)
            .bind(name_key(&name))
            .bind(id.to_string());
        change_user(query, &mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    pub async fn set_locale(&self, id: UserId, locale: Option<&str>) -> Result<(), Error> {
        let query = sqlx::query("UPDATE users SET locale = $1 WHERE id = $2")
            .bind(locale.map(storable))
            .bind(id.to_string());
        self.change_user(query).await
    }

    /// Says whether what the person says may train a model. What was kept under an earlier consent
    /// is [no longer read for training](Store::training_feedback) once it is taken back.
    pub async fn set_consent(&self, id: UserId, has_consent: bool) -> Result<(), Error> {
        let query = sqlx::query("UPDATE users SET has_consent = $1 WHERE id = $2")
            .bind(i64::from(has_consent))
            .bind(id.to_string());
        self.change_user(query).await
    }

    /// Notes that a user is here; not part of a request's answer, so it may run beside it.
    pub async fn touch_user(&self, id: UserId, now: UnixMs) -> Result<(), Error> {
        sqlx::query(
            "UPDATE users SET last_seen_at_ms = $1
             WHERE id = $2 AND (last_seen_at_ms IS NULL OR last_seen_at_ms < $3)",
        )
        .bind(now.0)
        .bind(id.to_string())
        .bind(now.plus_ms(-LAST_SEEN_STEP_MS).0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// How many users were seen at `since` or later.
    pub async fn count_users_seen(&self, since: UnixMs) -> Result<u64, Error> {
        sqlx::query("SELECT COUNT(*) AS n_users FROM users WHERE last_seen_at_ms >= $1")
            .bind(since.0)
            .fetch_one(&self.read)
            .await?
            .count("n_users")
    }

    /// Whether anybody has an account: a store without is not set up yet.
    pub async fn has_users(&self) -> Result<bool, Error> {
        let row = sqlx::query("SELECT id FROM users LIMIT 1").fetch_optional(&self.read).await?;
        Ok(row.is_some())
    }

    /// Sets a password and ends every session: whoever knew the old one is out.
    pub async fn set_password(&self, id: UserId, password: &str) -> Result<(), Error> {
        let hash = self.hash(password).await?;
        let mut transaction = self.begin().await?;
        change_user(
            sqlx::query("UPDATE users SET password_hash = $1 WHERE id = $2")
                .bind(hash)
                .bind(id.to_string()),
            &mut transaction,
        )
        .await?;
        delete_sessions(&mut transaction, id).await?;
        Ok(transaction.commit().await?)
    }

    /// Takes every way in from a user and ends the sessions.
    ///
    /// # Errors
    /// [`Error::Conflict`] when this would leave nobody in charge.
    pub async fn disable_user(&self, id: UserId, now: UnixMs) -> Result<(), Error> {
        let mut transaction = self.begin_about_admins().await?;
        let n_before = count_admins(&mut transaction).await?;
        change_user(
            sqlx::query(
                "UPDATE users SET disabled_at_ms = COALESCE(disabled_at_ms, $1) WHERE id = $2",
            )
            .bind(now.0)
            .bind(id.to_string()),
            &mut transaction,
        )
        .await?;
        require_an_admin(&mut transaction, n_before).await?;
        delete_sessions(&mut transaction, id).await?;
        Ok(transaction.commit().await?)
    }

    pub async fn enable_user(&self, id: UserId) -> Result<(), Error> {
        let query = sqlx::query("UPDATE users SET disabled_at_ms = NULL WHERE id = $1")
            .bind(id.to_string());
        self.change_user(query).await
    }

    /// The user with this name and password, or `None`; both answers take the same time.
    pub async fn check_password(&self, name: &str, password: &str) -> Result<Option<User>, Error> {
        let row = sqlx::query(select_user!("WHERE name_key = $1"))
            .bind(name_key(name))
            .fetch_optional(&self.read)
            .await?;
        let hash = row.as_ref().map(|row| row.maybe_text("password_hash")).transpose()?.flatten();
        let is_right = self.passwords.verify(password, hash.as_deref()).await?;
        let user = row.as_ref().map(read_user).transpose()?;
        Ok(user.filter(|user| is_right && user.disabled_at.is_none()))
    }

    /// Starts a session; the secret goes into the browser's cookie.
    pub async fn start_session(
        &self,
        user: UserId,
        now: UnixMs,
        expires_at: UnixMs,
    ) -> Result<Secret, Error> {
        let secret = Secret::draw("rs-");
        sqlx::query(
            "INSERT INTO sessions (secret_hash, user_id, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4)",
        )
        .bind(secret::hash(secret.reveal()))
        .bind(user.to_string())
        .bind(now.0)
        .bind(expires_at.0)
        .execute(&self.write)
        .await?;
        Ok(secret)
    }

    /// Whose session this is, while it lasts.
    pub async fn session_user(&self, secret: &str, now: UnixMs) -> Result<Option<User>, Error> {
        let row = sqlx::query(select_user!(
            "JOIN sessions ON sessions.user_id = users.id WHERE sessions.secret_hash = $1
             AND sessions.expires_at_ms > $2 AND users.disabled_at_ms IS NULL"
        ))
        .bind(secret::hash(secret))
        .bind(now.0)
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(read_user).transpose()
    }

    pub async fn end_session(&self, secret: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM sessions WHERE secret_hash = $1")
            .bind(secret::hash(secret))
            .execute(&self.write)
            .await?;
        Ok(())
    }

    pub async fn end_sessions(&self, user: UserId) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        delete_sessions(&mut transaction, user).await?;
        Ok(transaction.commit().await?)
    }

    /// A link that lets one person make an account with this role.
    pub async fn create_join_link(
        &self,
        role: UserRole,
        now: UnixMs,
        expires_at: UnixMs,
    ) -> Result<Secret, Error> {
        self.insert_link(Some(role), None, now, expires_at).await
    }

    /// Ends every join link that nobody has used. Returns how many.
    pub async fn end_join_links(&self) -> Result<u64, Error> {
        let done =
            sqlx::query("DELETE FROM links WHERE join_role IS NOT NULL AND used_at_ms IS NULL")
                .execute(&self.write)
                .await?;
        Ok(done.rows_affected())
    }

    /// A link that signs this user in once, for somebody who forgot the password.
    pub async fn create_sign_in_link(
        &self,
        user: UserId,
        now: UnixMs,
        expires_at: UnixMs,
    ) -> Result<Secret, Error> {
        self.insert_link(None, Some(user), now, expires_at).await
    }

    /// Makes the account a join link promised; `new.role` is replaced by the link's.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link is unknown, used or expired; [`Error::Conflict`] when the
    /// name is taken, in which case the link still works.
    pub async fn join(&self, secret: &str, new: NewUser<'_>, now: UnixMs) -> Result<User, Error> {
        let password_hash = self.hash_maybe(new.password).await?;
        let mut transaction = self.begin().await?;
        let row = use_link(&mut transaction, secret, now).await?;
        let role = row.maybe_parsed("join_role")?.ok_or(Error::NotFound { what: "link" })?;
        let user =
            insert_user(&mut transaction, NewUser { role, ..new }, password_hash, now).await?;
        transaction.commit().await?;
        Ok(user)
    }

    /// The user a sign-in link is for.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link is unknown, used or expired, or the user disabled.
    pub async fn sign_in_by_link(&self, secret: &str, now: UnixMs) -> Result<User, Error> {
        let mut transaction = self.begin().await?;
        let row = use_link(&mut transaction, secret, now).await?;
        let user: UserId = row.maybe_parsed("user_id")?.ok_or(Error::NotFound { what: "link" })?;
        let row = sqlx::query(select_user!("WHERE id = $1 AND disabled_at_ms IS NULL"))
            .bind(user.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        let user = read_user(&row.ok_or(Error::NotFound { what: "link" })?)?;
        transaction.commit().await?;
        Ok(user)
    }

    /// The user another provider's identity belongs to, made from `new` at the first sign-in.
    /// `None` for a disabled user.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken: a name is never proof of being the same person.
    pub async fn sign_in_by_identity(
        &self,
        identity: SignInIdentity<'_>,
        new: NewUser<'_>,
        now: UnixMs,
    ) -> Result<Option<User>, Error> {
        if let Some(user) = self.user_by_identity(identity).await? {
            return Ok(Some(user).filter(|user| user.disabled_at.is_none()));
        }
        let mut transaction = self.begin().await?;
        let user = insert_user(&mut transaction, new, None, now).await?;
        if !insert_identity(&mut transaction, user.id, identity, now).await? {
            // Somebody was faster with the same identity: theirs is the account.
            drop(transaction);
            let user = self.user_by_identity(identity).await?;
            return Ok(user.filter(|user| user.disabled_at.is_none()));
        }
        transaction.commit().await?;
        Ok(Some(user))
    }

    /// Gives an account that an administrator made under somebody's e-mail address to the identity
    /// that has this address, as its provider has verified. Only an account that nobody has entered
    /// and that nobody could: without a password, a session, another identity or a link that was
    /// used; links that were not are over. `None` when there is no such account.
    pub async fn claim_account(
        &self,
        identity: SignInIdentity<'_>,
        verified_email: &str,
        now: UnixMs,
    ) -> Result<Option<User>, Error> {
        let mut transaction = self.begin_about_admins().await?;
        let row = sqlx::query(select_user!(
            "WHERE name_key = $1 AND password_hash IS NULL AND last_seen_at_ms IS NULL
             AND disabled_at_ms IS NULL
             AND NOT EXISTS (SELECT 1 FROM identities WHERE identities.user_id = users.id)
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.user_id = users.id)
             AND NOT EXISTS (SELECT 1 FROM links WHERE links.user_id = users.id
                 AND links.used_at_ms IS NOT NULL)"
        ))
        .bind(name_key(verified_email))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let user = read_user(&row)?;
        if !insert_identity(&mut transaction, user.id, identity, now).await? {
            return Ok(None);
        }
        sqlx::query("DELETE FROM links WHERE user_id = $1")
            .bind(user.id.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(user))
    }

    /// The providers that a user can sign in through, and since when.
    pub async fn identities(&self, user: UserId) -> Result<Vec<(String, UnixMs)>, Error> {
        let rows = sqlx::query(
            "SELECT issuer, created_at_ms FROM identities WHERE user_id = $1
             ORDER BY created_at_ms, issuer, subject",
        )
        .bind(user.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(|row| Ok((row.text("issuer")?, row.time("created_at_ms")?))).collect()
    }

    /// Adds a provider's identity to a user.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it belongs to another user.
    pub async fn link_identity(
        &self,
        user: UserId,
        identity: SignInIdentity<'_>,
        now: UnixMs,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let is_new = insert_identity(&mut transaction, user, identity, now).await?;
        transaction.commit().await?;
        if is_new || self.user_by_identity(identity).await?.is_some_and(|owner| owner.id == user) {
            return Ok(());
        }
        Err(Error::Conflict { what: "identity", problem: "it belongs to another user" })
    }

    pub async fn user_by_identity(
        &self,
        identity: SignInIdentity<'_>,
    ) -> Result<Option<User>, Error> {
        let row = sqlx::query(select_user!(
            "JOIN identities ON identities.user_id = users.id
             WHERE identities.issuer = $1 AND identities.subject = $2"
        ))
        .bind(storable(identity.issuer))
        .bind(storable(identity.subject))
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(read_user).transpose()
    }

    /// Begins a change of who is in charge: such changes follow one another, so that two admins who
    /// demote each other cannot both succeed.
    pub(crate) async fn begin_about_admins(&self) -> Result<Transaction<'static, Any>, Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(self.dialect.lock_everything()).execute(&mut *transaction).await?;
        Ok(transaction)
    }

    async fn hash_maybe(&self, password: Option<&str>) -> Result<Option<String>, Error> {
        match password {
            Some(password) => self.hash(password).await.map(Some),
            None => Ok(None),
        }
    }

    async fn hash(&self, password: &str) -> Result<String, Error> {
        let n_characters = password.chars().count();
        if !(MIN_PASSWORD_CHARACTERS..=MAX_PASSWORD_CHARACTERS).contains(&n_characters) {
            return Err(Error::Invalid {
                what: "password",
                problem: format!(
                    "it must have {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters"
                ),
            });
        }
        self.passwords.hash(password).await
    }

    async fn change_user(&self, query: Query<'_>) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        change_user(query, &mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn insert_link(
        &self,
        join_role: Option<UserRole>,
        user: Option<UserId>,
        now: UnixMs,
        expires_at: UnixMs,
    ) -> Result<Secret, Error> {
        let secret = Secret::draw("rl-");
        sqlx::query(
            "INSERT INTO links (secret_hash, join_role, user_id, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(secret::hash(secret.reveal()))
        .bind(join_role.map(UserRole::as_str))
        .bind(user.map(|user| user.to_string()))
        .bind(now.0)
        .bind(expires_at.0)
        .execute(&self.write)
        .await?;
        Ok(secret)
    }
}

type Query<'q> = sqlx::query::Query<'q, Any, sqlx::any::AnyArguments>;

async fn change_user(
    query: Query<'_>,
    transaction: &mut Transaction<'_, Any>,
) -> Result<(), Error> {
    match query.execute(&mut **transaction).await?.rows_affected() {
        0 => Err(Error::NotFound { what: USER }),
        _ => Ok(()),
    }
}

pub(crate) async fn count_admins(transaction: &mut Transaction<'_, Any>) -> Result<i64, Error> {
    sqlx::query(
        "SELECT COUNT(*) AS n_admins FROM users WHERE role = 'admin' AND disabled_at_ms IS NULL",
    )
    .fetch_one(&mut **transaction)
    .await?
    .int("n_admins")
}

/// Refuses a change that took the last one of `n_before` admins.
pub(crate) async fn require_an_admin(
    transaction: &mut Transaction<'_, Any>,
    n_before: i64,
) -> Result<(), Error> {
    if n_before > 0 && count_admins(transaction).await? == 0 {
        return Err(Error::Conflict { what: USER, problem: "nobody would be left in charge" });
    }
    Ok(())
}

async fn delete_sessions(
    transaction: &mut Transaction<'_, Any>,
    user: UserId,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1")
        .bind(user.to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Marks a link as used: only one of many who try at once gets its row.
async fn use_link(
    transaction: &mut Transaction<'_, Any>,
    secret: &str,
    now: UnixMs,
) -> Result<AnyRow, Error> {
    sqlx::query(
        "UPDATE links SET used_at_ms = $1 WHERE secret_hash = $2 AND used_at_ms IS NULL
         AND expires_at_ms > $1 RETURNING join_role, user_id",
    )
    .bind(now.0)
    .bind(secret::hash(secret))
    .fetch_optional(&mut **transaction)
    .await?
    .ok_or(Error::NotFound { what: "link" })
}

async fn insert_identity(
    transaction: &mut Transaction<'_, Any>,
    user: UserId,
    identity: SignInIdentity<'_>,
    now: UnixMs,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "INSERT INTO identities (issuer, subject, user_id, created_at_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(storable(identity.issuer))
    .bind(storable(identity.subject))
    .bind(user.to_string())
    .bind(now.0)
    .execute(&mut **transaction)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn insert_user(
    transaction: &mut Transaction<'_, Any>,
    new: NewUser<'_>,
    password_hash: Option<String>,
    now: UnixMs,
) -> Result<User, Error> {
    let user = User {
        id: UserId::new(now),
        name: check_name(new.name)?,
        role: new.role,
        plan: storable(new.plan),
        has_password: password_hash.is_some(),
        locale: None,
        has_consent: false,
        created_at: now,
        last_seen_at: None,
        disabled_at: None,
    };
    let done = sqlx::query(
        "INSERT INTO users (id, name, name_key, role, plan, password_hash, has_consent,
             created_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7) ON CONFLICT (name_key) DO NOTHING",
    )
    .bind(user.id.to_string())
    .bind(&user.name)
    .bind(name_key(&user.name))
    .bind(user.role.as_str())
    .bind(&user.plan)
    .bind(password_hash)
    .bind(now.0)
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(NAME_TAKEN);
    }
    Ok(user)
}

pub(crate) fn read_user(row: &AnyRow) -> Result<User, Error> {
    Ok(User {
        id: row.parsed("id")?,
        name: row.text("name")?,
        role: row.parsed("role")?,
        plan: row.text("plan")?,
        has_password: row.maybe_text("password_hash")?.is_some(),
        locale: row.maybe_text("locale")?,
        has_consent: row.flag("has_consent")?,
        created_at: row.time("created_at_ms")?,
        last_seen_at: row.maybe_time("last_seen_at_ms")?,
        disabled_at: row.maybe_time("disabled_at_ms")?,
    })
}

/// A name as it is stored.
fn check_name(name: &str) -> Result<String, Error> {
    let name = storable(name.trim());
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARACTERS {
        let problem = format!("a name has 1 to {MAX_NAME_CHARACTERS} characters");
        return Err(Error::Invalid { what: "name", problem });
    }
    Ok(name)
}

/// What makes two names the same.
fn name_key(name: &str) -> String {
    storable(&crate::search::fold(name.trim()))
}
