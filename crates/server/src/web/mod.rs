//! What the web app talks to: `/api`, and the pages themselves.
//!
//! Everything here belongs to a person with an account; the store answers for nobody else's id as
//! if it were not there. A reply is made by a task of its own (`hub.rs`), so a page may go and come
//! back.
//!
//! Start reading at [`routes`], then `replies.rs`.

mod account;
mod admin;
mod chats;
mod error;
mod feedback;
mod forms;
mod hub;
mod import;
mod pages;
mod prompt;
mod replies;
mod session;
mod settings;
mod style;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, patch, post, put};
use rapport_store::{Error, Secret, Store, UnixMs, UserRole};
use rapport_types::Generate;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::App;
use crate::charge::Plans;

pub use pages::Pages;
pub use prompt::Persona;

use error::WebError;
use hub::Hub;
use session::SignIns;
use settings::Settings;

/// What a server that knows people is made of.
#[derive(Debug)]
pub struct AccountsConfig {
    pub store: Arc<Store>,
    pub plans: Plans,
    /// The first is the default.
    pub personas: Vec<Persona>,
    /// The built web app.
    pub pages: Pages,
    /// Whether browsers reach this server over TLS: the session's cookie is then sent over nothing
    /// else.
    pub has_tls: bool,
}

/// People, and what the server knows of them.
#[derive(Debug)]
pub struct Accounts {
    pub(crate) store: Arc<Store>,
    pub(crate) plans: Plans,
    /// Of this instance, 32 random bytes that never leave it: keys of callers and tokens of pages
    /// are made from it.
    pub(crate) secret: [u8; 32],
    personas: Vec<Persona>,
    pages: Pages,
    hub: Hub,
    sign_ins: SignIns,
    has_tls: bool,
}

const SECRET_KEY: &str = "instance_secret";
/// How long a link printed at the start opens something.
const LINK_MS: i64 = 7 * UnixMs::DAY_MS;

impl Accounts {
    /// Reads what belongs to this instance, and makes it at the first start.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn open(config: AccountsConfig) -> Result<Self, Error> {
        let AccountsConfig { store, plans, personas, pages, has_tls } = config;
        if instance_secret(&store).await?.is_none() {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes)
                .map_err(|source| Error::Internal { source: source.into() })?;
            let put = [(SECRET_KEY.to_owned(), Value::String(hex(&bytes)))].into();
            store.put_settings(&put).await?;
        }
        // Another server may have been here at the same time: what is stored counts.
        let secret = instance_secret(&store).await?.ok_or(Error::NotFound { what: "setting" })?;
        let (hub, sign_ins) = (Hub::default(), SignIns::default());
        Ok(Self { store, plans, secret, personas, pages, hub, sign_ins, has_tls })
    }

    /// A token for the page `/setup#TOKEN`, where somebody needs one: before there is any account,
    /// it makes the first admin; while the only admin has no password, it signs that admin in.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn first_link(&self) -> Result<Option<Secret>, Error> {
        let now = now();
        let until = now.plus_ms(LINK_MS);
        let users = self.store.users(None, 2).await?;
        match users.as_slice() {
            [] => self.store.create_join_link(UserRole::Admin, now, until).await.map(Some),
            [owner] if !owner.has_password && owner.role == UserRole::Admin => {
                self.store.create_sign_in_link(owner.id, now, until).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    fn csrf(&self, session: Option<&str>) -> String {
        let hash = Sha256::new().chain_update(self.secret).chain_update("csrf");
        hex(&hash.chain_update(session.unwrap_or_default()).finalize())
    }
}

async fn instance_secret(store: &Store) -> Result<Option<[u8; 32]>, Error> {
    let settings = store.settings().await?;
    let Some(Value::String(text)) = settings.get(SECRET_KEY) else { return Ok(None) };
    Ok(Some(Sha256::digest(text).into()))
}

fn hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    let pair = |byte: &u8| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]];
    bytes.iter().flat_map(pair).map(char::from).collect()
}

pub(crate) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixMs(since.map_or(0, |since| since.as_millis() as i64))
}

/// What every route here sees.
#[derive(Clone)]
struct Web {
    app: App,
    accounts: Arc<Accounts>,
}

impl Web {
    fn store(&self) -> &Arc<Store> {
        &self.accounts.store
    }

    fn generate(&self) -> Result<Arc<dyn Generate>, WebError> {
        self.app.models.first().cloned().ok_or_else(WebError::broken)
    }

    async fn settings(&self) -> Result<Settings, WebError> {
        Ok(Settings::read(&self.store().settings().await?))
    }
}

/// Chats of other programs are larger than anything else that is sent.
const MAX_IMPORT_BYTES: usize = 128 << 20;

pub(crate) fn routes(app: &App, accounts: &Arc<Accounts>) -> Router<App> {
    let web = Web { app: Arc::clone(app), accounts: Arc::clone(accounts) };
    let import = post(import::import).layer(DefaultBodyLimit::max(MAX_IMPORT_BYTES));
    let api = Router::new()
        .route("/session", get(session::show).post(session::sign_in).delete(session::sign_out))
        .route("/setup", post(session::set_up))
        .route("/sign-up", post(session::sign_up))
        .route("/conversations", get(chats::list).post(chats::create))
        .route("/conversations/{id}", get(chats::get).patch(chats::change).delete(chats::delete))
        .route("/conversations/{id}/messages", post(replies::send))
        .route("/conversations/{id}/shares", post(chats::share))
        .route("/messages/{id}/replies", post(replies::regenerate))
        .route("/messages/{id}/continue", post(replies::go_on))
        .route("/replies/{id}/events", get(replies::events))
        .route("/replies/{id}/stop", post(replies::stop))
        .route("/replies/{id}/answer-now", post(replies::answer_now))
        .route("/private/replies", post(replies::private))
        .route("/search", get(chats::search))
        .route("/folders", get(chats::folders).post(chats::create_folder))
        .route("/folders/{id}", patch(chats::rename_folder).delete(chats::delete_folder))
        .route("/shares", get(chats::shares))
        .route("/shares/{id}", delete(chats::delete_share))
        .route("/shared/{token}", get(chats::shared))
        .route("/import", import)
        .route("/feedback", post(feedback::give))
        .route("/personas", get(style::personas))
        .route("/style", get(style::get).put(style::put).delete(style::reset))
        .route("/style/undo", post(style::undo))
        .route("/memory", get(style::memories).post(style::remember).delete(style::forget_all))
        .route("/memory/{id}", patch(style::change_memory).delete(style::forget))
        .route("/account", get(account::get).patch(account::change).delete(account::delete))
        .route("/account/password", post(account::set_password))
        .route("/account/consent", get(account::consent).put(account::set_consent))
        .route("/account/keys", get(account::keys).post(account::create_key))
        .route("/account/keys/{id}", delete(account::delete_key))
        .route("/account/usage", get(account::usage))
        .route("/account/usage.csv", get(account::usage_csv))
        .route("/account/invoices/{month}", get(account::invoice))
        .route("/account/export", get(account::export))
        .route("/admin/users", get(admin::users).post(admin::create_user))
        .route("/admin/users/{id}", patch(admin::change_user).delete(admin::delete_user))
        .route("/admin/keys", get(admin::keys))
        .route("/admin/keys/{id}", delete(admin::delete_key))
        .route("/admin/plans", get(admin::plans))
        .route("/admin/models", get(admin::models))
        .route("/admin/live", get(admin::live))
        .route("/admin/feedback", get(admin::feedback))
        .route("/admin/feedback/days", get(admin::feedback_days))
        .route("/admin/settings", get(admin::settings).patch(admin::change_settings))
        .route("/admin/settings", put(admin::change_settings))
        .fallback(|| async { WebError::not_found("page") })
        .layer(axum::middleware::from_fn_with_state(web.clone(), session::guard));
    Router::new().nest("/api", api).fallback(pages::page).with_state(web)
}

/// How often replies are looked for whose server has died.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// In these steps: what has expired is deleted every hour.
const DELETE_EVERY: u64 = 120;

/// What has to be done now and then while the server runs.
pub(crate) fn start_chores(app: &App) -> Option<JoinHandle<()>> {
    let accounts = Arc::clone(app.accounts.as_ref()?);
    Some(tokio::spawn(async move {
        for n_steps in 0_u64.. {
            // What fails now is done the next time.
            let _ = accounts.store.stop_abandoned(now()).await;
            if n_steps % DELETE_EVERY == 0 {
                let _ = accounts.store.delete_expired(now()).await;
                let settings = accounts.store.settings().await;
                let retention = settings.ok().and_then(|all| Settings::read(&all).retention_days);
                if let Some(days) = retention {
                    let before = now().plus_ms(-i64::from(days) * UnixMs::DAY_MS);
                    let _ = accounts.store.delete_conversations_before(before).await;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }))
}

/// Ends the chores, and the replies that go on without a reader, when the server ends.
pub(crate) async fn end(app: &App, chores: Option<JoinHandle<()>>) {
    if let Some(chores) = chores {
        chores.abort();
    }
    if let Some(accounts) = &app.accounts {
        // A reply without a reader has had its time to end.
        app.ending.send_replace(true);
        let _ = tokio::time::timeout(crate::LAST_WORDS, accounts.hub.is_idle()).await;
    }
}
