//! Signing in and out, and who stands behind a request of the web app.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rapport_store::{Error, NewUser, Secret, UnixMs, User, UserId, UserRole};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::WebError;
use super::forms::{self, Body};
use super::{Accounts, Web, model};
use crate::access::is_same;
use crate::charge::{Holder, SEEN_STEP_MS};
use crate::observe;

const COOKIE: &str = "rapport_session";
const CSRF: HeaderName = HeaderName::from_static("x-rapport-csrf");
const SESSION_DAYS: i64 = 30;
const MAX_FAILURES: usize = 10;
const FAILURES_COUNT_FOR: Duration = Duration::from_mins(5);
/// Names whose failures are remembered at most.
const MAX_NAMES: usize = 10_000;
/// The plan of whoever is in charge.
const ADMIN_PLAN: &str = "unlimited";
/// The name of the first admin, who has not said another.
const FIRST_NAME: &str = "owner";

/// Who looks at the page.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    user: Option<User>,
    /// The secret of the session, while it lasts.
    session: Option<String>,
}

impl Viewer {
    pub(super) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }
}

impl FromRequestParts<Web> for Viewer {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, _web: &Web) -> Result<Self, WebError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(WebError::broken)
    }
}

/// Somebody who has signed in.
pub(super) struct Person(pub(super) User);

impl FromRequestParts<Web> for Person {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, WebError> {
        let viewer = Viewer::from_request_parts(parts, web).await?;
        viewer.user.map(Self).ok_or_else(WebError::signed_out)
    }
}

/// Somebody who has signed in and is in charge.
pub(super) struct Admin(pub(super) User);

impl FromRequestParts<Web> for Admin {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, WebError> {
        let Person(user) = Person::from_request_parts(parts, web).await?;
        match user.role {
            UserRole::Admin => Ok(Self(user)),
            UserRole::User => Err(WebError::forbidden("only administrators may do this")),
        }
    }
}

/// Finds out who asks, and refuses changes that do not come from our own page.
pub(super) async fn guard(
    State(web): State<Web>,
    mut request: Request,
    next: Next,
) -> Result<Response, WebError> {
    let mut viewer = Viewer { user: None, session: cookie_of(request.headers(), COOKIE) };
    if let Some(session) = &viewer.session {
        viewer.user = web.store().session_user(session, web.now()).await?;
    }
    if viewer.user.is_none() {
        viewer.session = None;
    }
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD);
    if is_change {
        let shown = request.headers().get(&CSRF).and_then(|value| value.to_str().ok());
        let expected = web.accounts.csrf(viewer.session.as_deref());
        if !shown.is_some_and(|shown| is_same(shown, &expected)) {
            let message = "the page is older than the session: load it again";
            return Err(WebError::forbidden(message));
        }
    }
    if let Some(user) = &viewer.user
        && user.last_seen_at.is_none_or(|at| at.plus_ms(SEEN_STEP_MS) < web.now())
    {
        let (store, id, now) = (web.store().clone(), user.id, web.now());
        tokio::spawn(async move { store.touch_user(id, now).await });
    }
    if let Some(user) = &viewer.user {
        observe::note_caller(&Holder::of(&web.accounts, user, None).caller);
    }
    request.extensions_mut().insert(viewer);
    let mut response = next.run(request).await;
    // What is said to one person is for no cache.
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// The value of a cookie.
pub(super) fn cookie_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
    let secret = pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))?;
    Some(secret.to_owned())
}

fn cookie(accounts: &Accounts, value: &str, max_age_s: i64) -> Result<HeaderValue, WebError> {
    let secure = if accounts.has_tls { "; Secure" } else { "" };
    let text =
        format!("{COOKIE}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).map_err(|_| WebError::broken())
}

/// `GET /api/session`
pub(super) async fn show(State(web): State<Web>, viewer: Viewer) -> Result<Json<Value>, WebError> {
    describe(&web, viewer.user.as_ref(), viewer.session.as_deref()).await.map(Json)
}

async fn describe(
    web: &Web,
    user: Option<&User>,
    session: Option<&str>,
) -> Result<Value, WebError> {
    let settings = web.settings().await?;
    let has_users = web.store().has_users().await?;
    let model = model::form(web, user, has_users)?;
    Ok(json!({
        "user": user.map(forms::user),
        "csrf": web.accounts.csrf(session),
        "instance": {
            "name": settings.instance_name,
            "version": env!("CARGO_PKG_VERSION"),
            "sign_up": settings.sign_up,
            "oidc": web.accounts.oidc.iter().map(|oidc| oidc.form()).collect::<Vec<_>>(),
            "set_up": has_users,
        },
        "model": model,
    }))
}

impl Viewer {
    pub(super) fn user_id(&self) -> Option<UserId> {
        self.user.as_ref().map(|user| user.id)
    }
}

/// The secret of a new session for somebody who has shown who they are; the one before ends, so
/// that nobody can have planted it.
async fn open(web: &Web, viewer: &Viewer, user: &User) -> Result<Secret, WebError> {
    if let Some(before) = &viewer.session {
        web.store().end_session(before).await?;
    }
    let now = web.now();
    let until = now.plus_ms(SESSION_DAYS * UnixMs::DAY_MS);
    Ok(web.store().start_session(user.id, now, until).await?)
}

/// A new session as its cookie.
pub(super) async fn begin(
    web: &Web,
    viewer: &Viewer,
    user: &User,
) -> Result<HeaderValue, WebError> {
    let secret = open(web, viewer, user).await?;
    cookie(&web.accounts, secret.reveal(), SESSION_DAYS * 86_400)
}

/// A new session with what the page has to know.
async fn start(
    web: &Web,
    viewer: &Viewer,
    user: &User,
    status: StatusCode,
) -> Result<Response, WebError> {
    let secret = open(web, viewer, user).await?;
    let body = describe(web, Some(user), Some(secret.reveal())).await?;
    let mut response = (status, Json(body)).into_response();
    let cookie = cookie(&web.accounts, secret.reveal(), SESSION_DAYS * 86_400)?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    name: String,
    password: String,
}

/// `POST /api/session`
pub(super) async fn sign_in(
    State(web): State<Web>,
    viewer: Viewer,
    Body(credentials): Body<Credentials>,
) -> Result<Response, WebError> {
    let Credentials { name, password } = credentials;
    web.accounts.sign_ins.check(&name)?;
    let Some(user) = web.store().check_password(&name, &password).await? else {
        web.accounts.sign_ins.fail(&name);
        return Err(WebError::wrong_password());
    };
    web.accounts.sign_ins.forget(&name);
    start(&web, &viewer, &user, StatusCode::OK).await
}

/// `DELETE /api/session`
pub(super) async fn sign_out(State(web): State<Web>, viewer: Viewer) -> Result<Response, WebError> {
    if let Some(session) = &viewer.session {
        web.store().end_session(session).await?;
    }
    let mut response = Json(describe(&web, None, None).await?).into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie(&web.accounts, "", 0)?);
    Ok(response)
}

#[derive(Deserialize)]
pub(super) struct SetUp {
    token: String,
    name: Option<String>,
    password: Option<String>,
}

/// `POST /api/setup`: what a one-time link opens, a new account or the way into one.
pub(super) async fn set_up(
    State(web): State<Web>,
    viewer: Viewer,
    Body(set_up): Body<SetUp>,
) -> Result<Response, WebError> {
    let SetUp { token, name, password } = set_up;
    let password = password.as_deref().filter(|password| !password.is_empty());
    let name = name.filter(|name| !name.trim().is_empty());
    let default_plan = web.settings().await?.default_plan;
    let store = web.store();
    let new = NewUser {
        name: name.as_deref().unwrap_or(FIRST_NAME),
        role: UserRole::User,
        plan: &default_plan,
        password,
    };
    let user = match store.join(&token, new, web.now()).await {
        Ok(user) if user.role == UserRole::Admin => {
            store.set_plan(user.id, ADMIN_PLAN).await?;
            // Of every start before, and of servers that started together: the first is in charge.
            store.end_join_links().await?;
            store.user(user.id).await?
        }
        Err(Error::NotFound { .. }) => match store.sign_in_by_link(&token, web.now()).await {
            Ok(user) => {
                if let Some(password) = password {
                    store.set_password(user.id, password).await?;
                }
                store.user(user.id).await?
            }
            Err(Error::NotFound { .. }) => {
                let message = "this link was used or has expired: start the server again for \
                               another, or ask whoever gave it to you";
                return Err(WebError::invalid("token", message));
            }
            Err(error) => return Err(error.into()),
        },
        joined => joined?,
    };
    start(&web, &viewer, &user, StatusCode::OK).await
}

/// `POST /api/sign-up`
pub(super) async fn sign_up(
    State(web): State<Web>,
    viewer: Viewer,
    Body(credentials): Body<Credentials>,
) -> Result<Response, WebError> {
    let settings = web.settings().await?;
    if !settings.sign_up || !web.store().has_users().await? {
        let message = "this server takes no new accounts: ask whoever runs it";
        return Err(WebError::forbidden(message));
    }
    let new = NewUser {
        name: &credentials.name,
        role: UserRole::User,
        plan: &settings.default_plan,
        password: Some(&credentials.password),
    };
    let user = web.store().create_user(new, web.now()).await?;
    start(&web, &viewer, &user, StatusCode::CREATED).await
}

/// A session in place of those that a new password has ended.
pub(super) async fn renew(web: &Web, viewer: &Viewer, user: &User) -> Result<Response, WebError> {
    start(web, viewer, user, StatusCode::OK).await
}

/// Failed tries by name, so that nobody can guess for long.
#[derive(Debug, Default)]
pub(super) struct SignIns {
    failures: Mutex<HashMap<String, Vec<Instant>>>,
}

impl SignIns {
    fn check(&self, name: &str) -> Result<(), WebError> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(times) = failures.get_mut(&name.to_lowercase()) else { return Ok(()) };
        times.retain(|time| time.elapsed() < FAILURES_COUNT_FOR);
        if times.len() < MAX_FAILURES {
            return Ok(());
        }
        let waited = times.first().map_or(Duration::ZERO, Instant::elapsed);
        let rest = FAILURES_COUNT_FOR.saturating_sub(waited).as_secs().max(1);
        let message = "too many tries with this name: wait a few minutes";
        Err(WebError::limited(message, rest))
    }

    fn fail(&self, name: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_NAMES {
            failures.retain(|_, times| {
                times.last().is_some_and(|time| time.elapsed() < FAILURES_COUNT_FOR)
            });
        }
        if failures.len() < MAX_NAMES {
            failures.entry(name.to_lowercase()).or_default().push(Instant::now());
        }
    }

    fn forget(&self, name: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&name.to_lowercase());
    }
}
