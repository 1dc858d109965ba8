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
mod id_token;
mod import;
mod model;
mod oidc;
mod pages;
mod prompt;
mod reading;
mod replies;
mod session;
mod settings;
mod style;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, patch, post};
use rapport_store::{Error, Plans, Secret, Store, UnixMs, UserRole};
use rapport_types::Generate;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::App;
use crate::charge::OpenKeys;
use crate::clock::Clock;

pub use oidc::{AdminClaim, InvalidOidc, Oidc, OidcConfig};
pub use pages::Pages;
pub use prompt::{Persona, PersonaText};
pub use reading::ReadMessages;

use error::WebError;
use hub::Hub;
use replies::PrivateReplies;
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
    /// How long conversations without a new message are kept, unless an administrator has set it.
    pub retention_days: Option<u32>,
    pub clock: Arc<dyn Clock>,
    /// Another provider to sign in through.
    pub oidc: Option<Oidc>,
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
    private: PrivateReplies,
    sign_ins: SignIns,
    has_tls: bool,
    retention_days: Option<u32>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keys: OpenKeys,
    oidc: Option<Arc<Oidc>>,
    reader: Option<Arc<dyn ReadMessages>>,
    /// What stands first in what a model is told.
    policy: Option<String>,
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
        let AccountsConfig { store, plans, personas, pages, has_tls, retention_days, clock, oidc } =
            config;
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|source| Error::Internal { source: source.into() })?;
        // Another server may be here for the first time as well: what is stored counts.
        let text = store.setting_or_put(SECRET_KEY, &Value::String(hex(&bytes))).await?;
        let text = text.as_str().ok_or(Error::NotFound { what: "setting" })?;
        Ok(Self {
            store,
            plans,
            secret: Sha256::digest(text).into(),
            personas,
            pages,
            hub: Hub::default(),
            private: PrivateReplies::default(),
            sign_ins: SignIns::default(),
            has_tls,
            retention_days,
            clock,
            keys: OpenKeys::default(),
            oidc: oidc.map(Arc::new),
            reader: None,
            policy: None,
        })
    }

    pub(crate) fn now(&self) -> UnixMs {
        self.clock.now()
    }

    /// What an administrator has set, over what the server was started with.
    pub(crate) async fn settings(&self) -> Result<Settings, Error> {
        Ok(Settings::read(&self.store.settings().await?, self.retention_days))
    }

    /// Messages are read, and whoever may be in danger is helped first.
    #[must_use]
    pub fn with_reader(self, reader: Arc<dyn ReadMessages>) -> Self {
        Self { reader: Some(reader), ..self }
    }

    /// Rules stand first in what a model is told, before every persona.
    #[must_use]
    pub fn with_policy(self, policy: String) -> Self {
        Self { policy: Some(policy), ..self }
    }

    /// A token for the page `/setup#TOKEN`, where somebody needs one: before there is any account,
    /// it makes the first admin; while the only admin has no password, it signs that admin in.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn first_link(&self) -> Result<Option<Secret>, Error> {
        let now = self.now();
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

fn hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    let pair = |byte: &u8| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]];
    bytes.iter().flat_map(pair).map(char::from).collect()
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

    fn now(&self) -> UnixMs {
        self.accounts.now()
    }

    async fn settings(&self) -> Result<Settings, WebError> {
        Ok(self.accounts.settings().await?)
    }
}

/// Chats of other programs are larger than anything else that is sent.
const MAX_IMPORT_BYTES: usize = 128 << 20;

crate::route_table! {
    Web;
    "/session" => get(session::show).post(session::sign_in).delete(session::sign_out),
    "/model" => get(model::show),
    "/model/retry" => post(model::retry),
    "/setup" => post(session::set_up),
    "/sign-up" => post(session::sign_up),
    "/auth/oidc/start" => get(oidc::start),
    "/auth/oidc/callback" => get(oidc::callback),
    "/conversations" => get(chats::list).post(chats::create),
    "/conversations/{id}" => get(chats::get).patch(chats::change).delete(chats::delete),
    "/conversations/{id}/messages" => post(replies::send),
    "/conversations/{id}/shares" => post(chats::share),
    "/messages/{id}/replies" => post(replies::regenerate),
    "/messages/{id}/reading" => get(reading::get),
    "/messages/{id}/continue" => post(replies::go_on),
    "/replies/{id}/events" => get(replies::events),
    "/replies/{id}/stop" => post(replies::stop),
    "/replies/{id}/answer-now" => post(replies::answer_now),
    "/private/replies" => post(replies::private),
    "/private/replies/{id}/answer-now" => post(replies::private_answer_now),
    "/search" => get(chats::search),
    "/folders" => get(chats::folders).post(chats::create_folder),
    "/folders/{id}" => patch(chats::rename_folder).delete(chats::delete_folder),
    "/shares" => get(chats::shares),
    "/shares/{id}" => delete(chats::delete_share),
    "/shared/{token}" => get(chats::shared),
    "/import" => post(import::import).layer(DefaultBodyLimit::max(MAX_IMPORT_BYTES)),
    "/feedback" => post(feedback::give),
    "/personas" => get(style::personas),
    "/style" => get(style::get).put(style::put).delete(style::reset),
    "/style/undo" => post(style::undo),
    "/memory" => get(style::memories).post(style::remember).delete(style::forget_all),
    "/memory/{id}" => patch(style::change_memory).delete(style::forget),
    "/account" => get(account::get).patch(account::change).delete(account::delete),
    "/account/password" => post(account::set_password),
    "/account/consent" => get(account::consent).put(account::set_consent),
    "/account/identities" => post(oidc::connect),
    "/account/keys" => get(account::keys).post(account::create_key),
    "/account/keys/{id}" => delete(account::delete_key),
    "/account/usage" => get(account::usage),
    "/account/usage.csv" => get(account::usage_csv),
    "/account/invoices/{month}" => get(account::invoice),
    "/account/export" => get(account::export),
    "/admin/users" => get(admin::users).post(admin::create_user),
    "/admin/users/{id}" => patch(admin::change_user).delete(admin::delete_user),
    "/admin/keys" => get(admin::keys),
    "/admin/keys/{id}" => delete(admin::delete_key),
    "/admin/plans" => get(admin::plans),
    "/admin/models" => get(admin::models),
    "/admin/live" => get(admin::live),
    "/admin/feedback" => get(admin::feedback),
    "/admin/feedback/days" => get(admin::feedback_days),
    "/admin/settings" => get(admin::settings).patch(admin::change_settings).put(admin::change_settings),
}

pub(crate) fn routes(app: &App, accounts: &Arc<Accounts>) -> Router<App> {
    let web = Web { app: Arc::clone(app), accounts: Arc::clone(accounts) };
    let api = table()
        .fallback(|| async { WebError::not_found("page") })
        .layer(axum::middleware::from_fn_with_state(web.clone(), session::guard));
    Router::new().nest("/api", api).fallback(pages::page).with_state(web)
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
