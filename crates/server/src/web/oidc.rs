//! Signing in through another provider: OpenID Connect's code flow with PKCE.
//!
//! What a flow has to remember is in one cookie of the browser that began it. State, nonce and PKCE
//! verifier are made from that cookie and the secret of this instance, so nothing is stored, any of
//! several servers can end what another began, and a code that was begun in another browser is
//! worth nothing in this one.
//!
//! Whom an identity belongs to is never guessed from a name or an address: it is who has used it
//! here before, who connected it while signed in, or a new account. The one exception is an account
//! that an administrator made under a verified e-mail address and nobody has entered yet.
//!
//! Sources: OpenID Connect Core 1.0 (3.1) and Discovery 1.0, RFC 6749, 7636, 9207. Left out: other
//! flows, logout at the provider, refresh tokens. Start reading at [`start`], then [`callback`].

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use rapport_store::{Error, NewUser, SignInIdentity, UnixMs, User, UserId, UserRole};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::error::WebError;
use super::id_token::{InvalidToken, KeySet};
use super::session::{self, Person, Viewer};
use super::{Accounts, Web, hex};
use crate::access::is_same;

/// A provider to sign in through.
#[derive(Clone, PartialEq, Eq)]
pub struct OidcConfig {
    /// As its tokens name it, such as `https://id.example.org`.
    pub issuer: String,
    pub client_id: String,
    /// None for a public client.
    pub client_secret: Option<String>,
    /// What the button says after "Sign in with".
    pub label: String,
    /// Whose verified addresses may sign in; `*` lets everybody whom the provider knows. Without any,
    /// only accounts that are connected already, and new ones where sign-up is open.
    pub domains: Vec<String>,
    /// The claim that names roles or groups, and those of its values that make an administrator.
    pub admins: Option<AdminClaim>,
    /// Where browsers reach this server; else as they call it.
    pub public_url: Option<String>,
}

/// Who is an administrator, as the provider says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminClaim {
    /// Such as `groups`.
    pub claim: String,
    pub values: Vec<String>,
}

impl std::fmt::Debug for OidcConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OidcConfig").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Why a provider cannot be used as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOidc {
    #[error(
        "the issuer `{issuer}` is no https address: take the one that the provider's \
         /.well-known/openid-configuration calls `issuer`"
    )]
    Issuer { issuer: String },
    #[error("there is an issuer and no client id: the provider gives one to each program")]
    NoClientId,
}

/// A provider and what it has told of itself.
#[derive(Debug)]
pub struct Oidc {
    config: OidcConfig,
    agent: Agent,
    known: Mutex<Option<Arc<Known>>>,
}

#[derive(Debug)]
struct Known {
    metadata: Metadata,
    keys: KeySet,
    at: UnixMs,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    scopes_supported: Option<Vec<String>>,
}

/// How long what a provider told of itself is taken for true.
const KNOWN_MS: i64 = 3_600_000;
/// How soon its keys may be asked for again when a token names another.
const KEYS_AGAIN_MS: i64 = 60_000;
/// How long somebody may take to sign in there.
const FLOW_MS: i64 = 600_000;
/// How much the clocks of the provider and of this machine may differ.
const SKEW_S: i64 = 60;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: u64 = 1 << 20;
const COOKIE: &str = "rapport_oidc";
const PATH: &str = "/api/auth/oidc";
const MAX_TO_BYTES: usize = 512;

/// Why somebody was not signed in, in words that the page knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Expired,
    Refused,
    Provider,
    Domain,
    Taken,
    Disabled,
    Closed,
}

impl Failure {
    fn code(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Provider => "provider",
            Self::Domain => "domain",
            Self::Taken => "taken",
            Self::Disabled => "disabled",
            Self::Closed => "closed",
        }
    }
}

impl From<InvalidToken> for Failure {
    fn from(_: InvalidToken) -> Self {
        Self::Provider
    }
}

/// One way to the provider and back, as its cookie holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    /// 32 random bytes.
    random: String,
    begun: UnixMs,
    /// Who connects the provider to their account.
    user: Option<UserId>,
    /// The page to go to afterwards.
    to: String,
}

impl Flow {
    fn begin(now: UnixMs, user: Option<UserId>, to: String) -> Result<Self, WebError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| WebError::broken())?;
        Ok(Self { random: hex(&random), begun: now, user, to })
    }

    fn to_text(&self) -> String {
        let user = self.user.map(|user| user.to_string()).unwrap_or_default();
        format!("{}.{}.{user}.{}", self.random, self.begun.0, BASE64URL.encode(&self.to))
    }

    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        let [random, begun, user, to] = parts.as_slice() else { return None };
        let user = if user.is_empty() { None } else { Some(user.parse().ok()?) };
        let to = String::from_utf8(BASE64URL.decode(to).ok()?).ok()?;
        let begun = UnixMs(begun.parse().ok()?);
        Some(Self { random: (*random).to_owned(), begun, user, to })
    }

    /// Something that only this instance can make of this flow.
    fn derived(&self, accounts: &Accounts, what: &str) -> String {
        let text = Sha256::digest(format!("{what} {}", self.to_text()));
        hex(&Sha256::new().chain_update(accounts.secret).chain_update(text).finalize())
    }
}

impl Oidc {
    /// Asks nobody yet: a provider that is down keeps no server from starting.
    ///
    /// # Errors
    /// [`InvalidOidc`] for what can never work.
    pub fn new(config: OidcConfig) -> Result<Self, InvalidOidc> {
        if !is_safe_url(&config.issuer) {
            return Err(InvalidOidc::Issuer { issuer: config.issuer });
        }
        if config.client_id.is_empty() {
            return Err(InvalidOidc::NoClientId);
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .user_agent(concat!("rapport/", env!("CARGO_PKG_VERSION")))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .build()
            .new_agent();
        Ok(Self { config, agent, known: Mutex::default() })
    }

    /// How the page offers it.
    pub(super) fn form(&self) -> Value {
        json!({ "id": "oidc", "label": self.config.label })
    }

    /// What the provider tells of itself, asked anew after an hour, or when `keys_before` did not
    /// have the key of a token.
    async fn known(
        self: &Arc<Self>,
        now: UnixMs,
        keys_before: Option<UnixMs>,
    ) -> Result<Arc<Known>, Failure> {
        let mut known = self.known.lock().await;
        if let Some(known) = &*known {
            let is_fresh = now < known.at.plus_ms(KNOWN_MS);
            let is_other = keys_before.is_none_or(|before| known.at > before);
            let is_soon = now < known.at.plus_ms(KEYS_AGAIN_MS);
            if is_fresh && (is_other || is_soon) {
                return Ok(Arc::clone(known));
            }
        }
        let oidc = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || oidc.discover(now)).await;
        let found = Arc::new(asked.map_err(|_| Failure::Provider)??);
        *known = Some(Arc::clone(&found));
        Ok(found)
    }

    fn discover(&self, now: UnixMs) -> Result<Known, Failure> {
        let issuer = &self.config.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let metadata: Metadata = self.get(&url, None)?;
        let urls = [
            Some(&metadata.authorization_endpoint),
            Some(&metadata.token_endpoint),
            Some(&metadata.jwks_uri),
            metadata.userinfo_endpoint.as_ref(),
        ];
        if metadata.issuer != *issuer || !urls.into_iter().flatten().all(|url| is_safe_url(url)) {
            return Err(Failure::Provider);
        }
        let keys = self.get(&metadata.jwks_uri, None)?;
        Ok(Known { metadata, keys, at: now })
    }

    fn get<T: DeserializeOwned>(&self, url: &str, bearer: Option<&str>) -> Result<T, Failure> {
        let mut request = self.agent.get(url).header("accept", "application/json");
        if let Some(token) = bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        read(request.call())
    }

    /// Where a browser is sent to sign in.
    fn address(&self, known: &Known, accounts: &Accounts, flow: &Flow, redirect: &str) -> String {
        let verifier = flow.derived(accounts, "verifier");
        let challenge = BASE64URL.encode(Sha256::digest(verifier));
        let mut scope = "openid email profile".to_owned();
        if let Some(AdminClaim { claim, .. }) = &self.config.admins
            && known.metadata.scopes_supported.iter().flatten().any(|scope| scope == claim)
        {
            // Where a claim has a scope, it is of the same name; others refuse what they do not know.
            scope = format!("{scope} {claim}");
        }
        let query = form_text(&[
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", redirect),
            ("scope", &scope),
            ("state", &flow.derived(accounts, "state")),
            ("nonce", &flow.derived(accounts, "nonce")),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let endpoint = &known.metadata.authorization_endpoint;
        let separator = if endpoint.contains('?') { '&' } else { '?' };
        format!("{endpoint}{separator}{query}")
    }

    /// Gives the code back for tokens.
    fn redeem(&self, known: &Known, code: &str, redirect: &str, verifier: &str) -> Redeemed {
        let OidcConfig { client_id, client_secret, .. } = &self.config;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let methods = known.metadata.token_endpoint_auth_methods_supported.as_deref();
        let takes = |method: &str| methods.is_none_or(|known| known.iter().any(|m| m == method));
        let mut request = self.agent.post(&known.metadata.token_endpoint);
        match client_secret {
            Some(secret) if takes("client_secret_basic") => {
                let pair = format!("{}:{}", encoded(client_id), encoded(secret));
                request = request.header("authorization", format!("Basic {}", BASE64.encode(pair)));
            }
            Some(secret) => {
                form.extend([
                    ("client_id", client_id.as_str()),
                    ("client_secret", secret.as_str()),
                ]);
            }
            None => form.push(("client_id", client_id.as_str())),
        }
        let request = request
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded");
        read(request.send(form_text(&form)))
    }
}

/// What a provider gives for a code.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

type Redeemed = Result<Tokens, Failure>;

fn read<T: DeserializeOwned>(
    answered: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, Failure> {
    let mut answered = answered.map_err(|_| Failure::Provider)?;
    if answered.status() != StatusCode::OK.as_u16() {
        return Err(Failure::Provider);
    }
    let body = answered.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
    let body = body.map_err(|_| Failure::Provider)?;
    serde_json::from_slice(&body).map_err(|_| Failure::Provider)
}

/// Encrypted, or on this machine.
fn is_safe_url(url: &str) -> bool {
    let is_text = url.bytes().all(|byte| byte.is_ascii_graphic());
    let is_local = ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|local| {
        let rest = url.strip_prefix(local);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    let has_host = url.strip_prefix("https://").is_some_and(|rest| !rest.starts_with('/'));
    is_text && !url.contains(['@', '#']) && (is_local || has_host && url.len() > 8)
}

/// Names and values as a form or a query.
fn form_text(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut all, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            all.push(char::from(byte));
        } else {
            let _infallible = write!(all, "%{byte:02X}");
        }
        all
    })
}

#[derive(Deserialize)]
pub(super) struct Begin {
    to: Option<String>,
}

/// `GET /api/auth/oidc/start`
pub(super) async fn start(
    State(web): State<Web>,
    Query(begin): Query<Begin>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, WebError> {
    let oidc = provider(&web)?;
    let to = begin.to.filter(|to| is_own_page(to)).unwrap_or_else(|| "/".to_owned());
    let flow = Flow::begin(web.now(), None, to)?;
    let redirect = redirect_address(&web, oidc, &headers, &uri);
    match address_of(&web, oidc, &flow, &redirect).await {
        Ok(address) => Ok(away(&address, &cookie(&web, &flow.to_text(), FLOW_MS / 1000))),
        Err(failure) => Ok(failed(&web, &flow, failure)),
    }
}

/// `POST /api/account/identities`: where to go to connect the provider to this account. Only our own
/// page can ask for it: a link could be followed by somebody who is signed in there as another.
pub(super) async fn connect(
    State(web): State<Web>,
    Person(user): Person,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, WebError> {
    let oidc = provider(&web)?;
    let flow = Flow::begin(web.now(), Some(user.id), "/account".to_owned())?;
    let redirect = redirect_address(&web, oidc, &headers, &uri);
    let address = address_of(&web, oidc, &flow, &redirect)
        .await
        .map_err(|_| WebError::overloaded("the provider cannot be reached now: try again"))?;
    let mut response = Json(json!({ "url": address })).into_response();
    let cookie = cookie(&web, &flow.to_text(), FLOW_MS / 1000);
    response.headers_mut().append(header::SET_COOKIE, text_header(&cookie)?);
    Ok(response)
}

fn provider(web: &Web) -> Result<&Arc<Oidc>, WebError> {
    web.accounts.oidc.as_ref().ok_or_else(|| WebError::not_found("provider"))
}

async fn address_of(
    web: &Web,
    oidc: &Arc<Oidc>,
    flow: &Flow,
    redirect: &str,
) -> Result<String, Failure> {
    let known = oidc.known(web.now(), None).await?;
    Ok(oidc.address(&known, &web.accounts, flow, redirect))
}

/// Where the provider sends the browser back to.
fn redirect_address(web: &Web, oidc: &Oidc, headers: &HeaderMap, uri: &Uri) -> String {
    if let Some(url) = &oidc.config.public_url {
        return format!("{}{PATH}/callback", url.trim_end_matches('/'));
    }
    // Its name was checked before (`access`).
    let authority = uri.authority().map(axum::http::uri::Authority::as_str);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = authority.or(host).unwrap_or_default();
    let scheme = if web.accounts.has_tls { "https" } else { "http" };
    format!("{scheme}://{host}{PATH}/callback")
}

#[derive(Deserialize)]
pub(super) struct Back {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// `GET /api/auth/oidc/callback`
pub(super) async fn callback(
    State(web): State<Web>,
    viewer: Viewer,
    Query(back): Query<Back>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, WebError> {
    let oidc = provider(&web)?;
    let nowhere = Flow { random: String::new(), begun: UnixMs(0), user: None, to: "/".to_owned() };
    let Some(flow) = session::cookie_of(&headers, COOKIE).and_then(|c| Flow::parse(&c)) else {
        return Ok(failed(&web, &nowhere, Failure::Expired));
    };
    let redirect = redirect_address(&web, oidc, &headers, &uri);
    match sign_in(&web, oidc, &viewer, &flow, back, redirect).await {
        // Connected: the session stays as it is.
        Ok(None) => Ok(away(&flow.to, &cookie(&web, "", 0))),
        Ok(Some(user)) => {
            let session = session::begin(&web, &viewer, &user).await?;
            let mut response = away(&flow.to, &cookie(&web, "", 0));
            response.headers_mut().append(header::SET_COOKIE, session);
            Ok(response)
        }
        Err(failure) => Ok(failed(&web, &flow, failure)),
    }
}

/// Who has come back; `None` for somebody who has connected the provider to their account.
async fn sign_in(
    web: &Web,
    oidc: &Arc<Oidc>,
    viewer: &Viewer,
    flow: &Flow,
    back: Back,
    redirect: String,
) -> Result<Option<User>, Failure> {
    let now = web.now();
    let state = flow.derived(&web.accounts, "state");
    let is_ours = back.state.is_some_and(|shown| is_same(&shown, &state));
    let is_in_time = (flow.begun.0..=flow.begun.plus_ms(FLOW_MS).0).contains(&now.0);
    // Whoever connects is still signed in as who began.
    let is_who_began = flow.user.is_none_or(|user| viewer.user_id() == Some(user));
    if !is_ours || !is_in_time || !is_who_began {
        return Err(Failure::Expired);
    }
    if back.iss.is_some_and(|iss| iss != oidc.config.issuer) {
        return Err(Failure::Provider);
    }
    if let Some(error) = back.error {
        let is_no = error == "access_denied";
        return Err(if is_no { Failure::Refused } else { Failure::Provider });
    }
    let code = back.code.ok_or(Failure::Provider)?;
    let claims = claims(web, oidc, flow, code, redirect).await?;
    let subject = claims["sub"].as_str().ok_or(Failure::Provider)?;
    let identity = SignInIdentity { issuer: &oidc.config.issuer, subject };
    let store = web.store();
    if let Some(user) = flow.user {
        return match store.link_identity(user, identity, now).await {
            Ok(()) => Ok(None),
            Err(Error::Conflict { .. }) => Err(Failure::Taken),
            Err(_) => Err(Failure::Provider),
        };
    }
    let email = verified_email(&claims);
    let domains = &oidc.config.domains;
    if !domains.is_empty() && !email.is_some_and(|email| is_of(domains, email)) && !is_open(domains)
    {
        return Err(Failure::Domain);
    }
    let user = find_or_make(web, oidc, identity, email, &claims).await?;
    if user.disabled_at.is_some() {
        return Err(Failure::Disabled);
    }
    Ok(Some(with_role(web, oidc, user, &claims).await?))
}

/// What the provider says of whoever has signed in, all of it checked.
async fn claims(
    web: &Web,
    oidc: &Arc<Oidc>,
    flow: &Flow,
    code: String,
    redirect: String,
) -> Result<Value, Failure> {
    let now = web.now();
    let known = oidc.known(now, None).await?;
    let verifier = flow.derived(&web.accounts, "verifier");
    let (asking, of) = (Arc::clone(oidc), Arc::clone(&known));
    let tokens =
        tokio::task::spawn_blocking(move || asking.redeem(&of, &code, &redirect, &verifier));
    let tokens = tokens.await.map_err(|_| Failure::Provider)??;
    let mut claims = match known.keys.claims(&tokens.id_token) {
        // Providers change their keys.
        Err(InvalidToken::UnknownKey) => {
            oidc.known(now, Some(known.at)).await?.keys.claims(&tokens.id_token)?
        }
        checked => checked?,
    };
    let nonce = flow.derived(&web.accounts, "nonce");
    check(&claims, &oidc.config, &nonce, now).ok_or(Failure::Provider)?;
    let endpoint = known.metadata.userinfo_endpoint.clone();
    if claims["email"].is_null()
        && let (Some(url), Some(token)) = (endpoint, tokens.access_token)
    {
        let asking = Arc::clone(oidc);
        let told = tokio::task::spawn_blocking(move || asking.get::<Value>(&url, Some(&token)));
        let told = told.await.map_err(|_| Failure::Provider)??;
        // It may be about somebody else than the token (Core 5.3.2).
        if told["sub"] != claims["sub"] {
            return Err(Failure::Provider);
        }
        if let (Value::Object(claims), Value::Object(told)) = (&mut claims, told) {
            for (name, value) in told {
                let known = claims.entry(name).or_insert(Value::Null);
                if known.is_null() {
                    *known = value;
                }
            }
        }
    }
    Ok(claims)
}

/// Whether claims are of this provider, for us, of this flow and true now (Core 3.1.3.7).
fn check(claims: &Value, config: &OidcConfig, nonce: &str, now: UnixMs) -> Option<()> {
    let now_s = now.0 / 1000;
    let number = |name: &str| claims[name].as_f64().map(|number| number as i64);
    let client_id = config.client_id.as_str();
    let is_for_us = match &claims["aud"] {
        Value::String(audience) => audience == client_id,
        Value::Array(all) => {
            all.iter().any(|one| one == client_id)
                && (all.len() == 1 || claims["azp"].as_str() == Some(client_id))
        }
        _ => false,
    };
    let is_to_us = claims["azp"].is_null() || claims["azp"].as_str() == Some(client_id);
    let is_now = number("exp")? > now_s - SKEW_S
        && number("iat")? <= now_s + SKEW_S
        && (claims["nbf"].is_null() || number("nbf")? <= now_s + SKEW_S);
    let subject = claims["sub"].as_str()?;
    let is_good = claims["iss"].as_str()? == config.issuer
        && is_for_us
        && is_to_us
        && is_now
        && is_same(claims["nonce"].as_str()?, nonce)
        && (1..=255).contains(&subject.len());
    is_good.then_some(())
}

/// An address only where the provider has made sure of it.
fn verified_email(claims: &Value) -> Option<&str> {
    // Some providers write the flag as a text.
    let is_verified = claims["email_verified"] == true || claims["email_verified"] == "true";
    let email = claims["email"].as_str().filter(|_| is_verified)?;
    let (name, domain) = email.split_once('@')?;
    let is_plain = !name.is_empty() && !domain.is_empty() && !domain.contains('@');
    (is_plain && email.bytes().all(|byte| byte.is_ascii_graphic())).then_some(email)
}

fn is_of(domains: &[String], email: &str) -> bool {
    let domain = email.split_once('@').map_or("", |(_, domain)| domain);
    domains.iter().any(|known| known.eq_ignore_ascii_case(domain))
}

/// Whether everybody whom the provider knows may come.
fn is_open(domains: &[String]) -> bool {
    domains.iter().any(|domain| domain == "*")
}

async fn find_or_make(
    web: &Web,
    oidc: &Oidc,
    identity: SignInIdentity<'_>,
    email: Option<&str>,
    claims: &Value,
) -> Result<User, Failure> {
    let (store, now) = (web.store(), web.now());
    let broken = |_| Failure::Provider;
    if let Some(user) = store.user_by_identity(identity).await.map_err(broken)? {
        return Ok(user);
    }
    if let Some(email) = email
        && let Some(user) = store.claim_account(identity, email, now).await.map_err(broken)?
    {
        return Ok(user);
    }
    let settings = web.accounts.settings().await.map_err(broken)?;
    if oidc.config.domains.is_empty() && !settings.sign_up {
        return Err(Failure::Closed);
    }
    let told = ["preferred_username", "name", "sub"]
        .into_iter()
        .find_map(|claim| claims[claim].as_str().map(str::trim).filter(|name| !name.is_empty()));
    let name: String = email.or(told).unwrap_or_default().chars().take(100).collect();
    let plan = &settings.default_plan;
    let new = NewUser { name: &name, role: UserRole::User, plan, password: None };
    match store.sign_in_by_identity(identity, new, now).await {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(Failure::Disabled),
        Err(Error::Conflict { .. }) => Err(Failure::Taken),
        Err(_) => Err(Failure::Provider),
    }
}

/// Gives somebody the role that the provider says, where it says roles. Somebody stays in charge.
async fn with_role(web: &Web, oidc: &Oidc, user: User, claims: &Value) -> Result<User, Failure> {
    let Some(AdminClaim { claim, values }) = &oidc.config.admins else { return Ok(user) };
    let is_meant = |value: &Value| values.iter().any(|known| value == known.as_str());
    let is_admin = match &claims[claim.as_str()] {
        Value::Array(all) => all.iter().any(is_meant),
        one => is_meant(one),
    };
    let role = if is_admin { UserRole::Admin } else { UserRole::User };
    if role == user.role {
        return Ok(user);
    }
    match web.store().set_role(user.id, role).await {
        Ok(()) => Ok(User { role, ..user }),
        Err(Error::Conflict { .. }) => Ok(user),
        Err(_) => Err(Failure::Provider),
    }
}

/// Whether a place is a page of ours and nothing else.
fn is_own_page(to: &str) -> bool {
    let is_path = to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/\\");
    is_path && to.len() <= MAX_TO_BYTES && to.bytes().all(|byte| byte.is_ascii_graphic())
}

fn cookie(web: &Web, value: &str, max_age_s: i64) -> String {
    let secure = if web.accounts.has_tls { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path={PATH}; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}")
}

fn text_header(text: &str) -> Result<HeaderValue, WebError> {
    HeaderValue::try_from(text).map_err(|_| WebError::broken())
}

fn failed(web: &Web, flow: &Flow, failure: Failure) -> Response {
    let page = if flow.user.is_some() { "/account" } else { "/sign-in" };
    away(&format!("{page}?oidc_error={}", failure.code()), &cookie(web, "", 0))
}

/// Sends the browser elsewhere. The address that it leaves may hold a code: nobody is told it.
fn away(place: &str, cookie: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::LOCATION, place),
        (header::SET_COOKIE, cookie),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_700_000_000_000);

    fn config() -> OidcConfig {
        OidcConfig {
            issuer: "https://id.example.org".to_owned(),
            client_id: "rapport".to_owned(),
            client_secret: None,
            label: "Example".to_owned(),
            domains: Vec::new(),
            admins: None,
            public_url: None,
        }
    }

    fn good() -> Value {
        json!({
            "iss": "https://id.example.org", "aud": "rapport", "sub": "1", "nonce": "n",
            "iat": 1_700_000_000, "exp": 1_700_000_060,
        })
    }

    #[test]
    fn f40_claims_are_ours_of_this_flow_and_true_now() {
        let is_taken = |claims: &Value| check(claims, &config(), "n", NOW).is_some();
        assert!(is_taken(&good()));
        for (name, value) in [
            ("iss", json!("https://id.example.org/")),
            ("iss", json!(null)),
            ("aud", json!("other")),
            ("aud", json!(["rapport", "other"])),
            ("aud", json!([])),
            ("aud", json!(null)),
            ("azp", json!("other")),
            ("nonce", json!("m")),
            ("nonce", json!(null)),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!("x".repeat(256))),
            ("exp", json!(1_699_999_940)),
            ("exp", json!(null)),
            ("exp", json!("1700000060")),
            ("iat", json!(1_700_000_061)),
            ("nbf", json!(1_700_000_061)),
            ("nbf", json!("soon")),
        ] {
            let mut claims = good();
            claims[name] = value.clone();
            assert!(!is_taken(&claims), "{name} {value}");
        }
        let mut shared = good();
        shared["aud"] = json!(["other", "rapport"]);
        shared["azp"] = json!("rapport");
        assert!(is_taken(&shared));
    }

    #[test]
    fn only_verified_addresses_of_a_domain_count() {
        let domains = ["example.org".to_owned()];
        let email = |email: &str, verified: Value| {
            let claims = json!({ "email": email, "email_verified": verified });
            verified_email(&claims).is_some_and(|email| is_of(&domains, email))
        };
        assert!(email("ada@example.org", json!(true)) && email("ada@EXAMPLE.org", json!("true")));
        for (address, verified) in [
            ("ada@example.org", json!(false)),
            ("ada@example.org", json!(null)),
            ("ada@example.org.evil.example", json!(true)),
            ("ada@evil.example@example.org", json!(true)),
            ("@example.org", json!(true)),
            ("ada@", json!(true)),
            ("example.org", json!(true)),
            ("a da@example.org", json!(true)),
        ] {
            assert!(!email(address, verified.clone()), "{address} {verified}");
        }
    }

    #[test]
    fn only_pages_of_ours_are_gone_to() {
        for good in ["/", "/c/conv_1", "/account?x=1#y"] {
            assert!(is_own_page(good), "{good}");
        }
        for bad in
            ["", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb", "/ä"]
        {
            assert!(!is_own_page(bad), "{bad}");
        }
    }

    #[test]
    fn a_provider_is_reached_by_nothing_that_can_be_read_on_the_way() {
        for good in
            ["https://id.example.org", "http://127.0.0.1:9/x", "http://localhost", "http://[::1]/"]
        {
            assert!(is_safe_url(good), "{good}");
        }
        for bad in [
            "http://id.example.org",
            "http://127.0.0.1.evil.example",
            "http://localhost@evil.example",
            "https://",
            "https:///x",
            "file:///etc/passwd",
            "https://id.example.org\n",
            "",
        ] {
            assert!(!is_safe_url(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_flow_comes_back_from_its_cookie() {
        let user = Some(UserId::new(NOW));
        for user in [None, user] {
            let flow = Flow::begin(NOW, user, "/c/x?y=1".to_owned()).unwrap();
            assert_eq!(Flow::parse(&flow.to_text()), Some(flow.clone()));
            assert!(
                flow.to_text().bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            );
        }
        for bad in ["", "a.b.c.d", "a.1..%%", "a.1.nobody."] {
            assert_eq!(Flow::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(form_text(&[("a b", "c&d=é"), ("e", "~")]), "a%20b=c%26d%3D%C3%A9&e=~");
    }
}
