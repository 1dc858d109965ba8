//! What a person can see and change of their own account.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rapport_store::{Month, NewApiKey, UnixMs, UsageDay, User};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::forms::{self, Body, id, nullable, parsed};
use super::session::{self, Person, Viewer};
use crate::charge::{SCOPES, day_end, plan_form};

const MAX_DAYS: u32 = 366;
const MAX_KEYS: usize = 100;

/// `GET /api/account`
pub(super) async fn get(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    let now = web.now();
    let meter = web.store().meter(user.id, now).await?;
    let identities = web.store().identities(user.id).await?.into_iter();
    let identities: Vec<Value> = identities
        .map(|(issuer, since)| json!({ "issuer": issuer, "connected_ms": since }))
        .collect();
    let plan = web.accounts.plans.get_or_least(&user.plan);
    Ok(Json(json!({
        "user": forms::user(&user),
        "plan": plan_form(&plan),
        "usage_today": {
            "requests": meter.requests,
            "tokens": meter.tokens,
            "thinking_tokens": meter.thinking_tokens,
            "cost_microdollars": meter.cost_micros,
        },
        "resets_ms": day_end(now),
        "identities": identities,
    })))
}

#[expect(clippy::option_option, reason = "absent, null and a value are three things")]
#[derive(Deserialize)]
pub(super) struct Change {
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    locale: Option<Option<String>>,
}

/// `PATCH /api/account`
pub(super) async fn change(
    State(web): State<Web>,
    Person(user): Person,
    Body(change): Body<Change>,
) -> Result<Json<Value>, WebError> {
    if let Some(name) = &change.name {
        web.store().set_name(user.id, name).await?;
    }
    if let Some(locale) = &change.locale {
        let is_tag = |tag: &String| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
            (2..=35).contains(&tag.len()) && tag.chars().all(is_part)
        };
        if !locale.as_ref().is_none_or(is_tag) {
            return Err(WebError::invalid("locale", "it must be a language such as en or ja"));
        }
        web.store().set_locale(user.id, locale.as_deref()).await?;
    }
    Ok(Json(forms::user(&web.store().user(user.id).await?)))
}

#[derive(Deserialize)]
pub(super) struct NewPassword {
    current: Option<String>,
    new: String,
}

/// `POST /api/account/password`: every other session ends.
pub(super) async fn set_password(
    State(web): State<Web>,
    Person(user): Person,
    viewer: Viewer,
    Body(password): Body<NewPassword>,
) -> Result<Response, WebError> {
    if user.has_password {
        let current = password.current.unwrap_or_default();
        if web.store().check_password(&user.name, &current).await?.is_none() {
            return Err(WebError::invalid("current", "this is not your password now"));
        }
    }
    web.store().set_password(user.id, &password.new).await?;
    let user = web.store().user(user.id).await?;
    session::renew(&web, &viewer, &user).await
}

#[derive(Deserialize)]
pub(super) struct Deletion {
    confirm: String,
}

/// `DELETE /api/account`: the account and everything in it.
pub(super) async fn delete(
    State(web): State<Web>,
    Person(user): Person,
    viewer: Viewer,
    Body(deletion): Body<Deletion>,
) -> Result<Response, WebError> {
    if deletion.confirm != user.name {
        let message = "write the name of the account to delete it";
        return Err(WebError::invalid("confirm", message));
    }
    web.store().delete_user(user.id).await?;
    web.accounts.keys.close_all_of(user.id);
    session::sign_out(State(web), viewer).await
}

/// `GET /api/account/consent`
pub(super) async fn consent(Person(user): Person) -> Json<Value> {
    Json(json!({ "training": user.has_consent }))
}

#[derive(Deserialize)]
pub(super) struct Consent {
    training: bool,
}

/// `PUT /api/account/consent`
pub(super) async fn set_consent(
    State(web): State<Web>,
    Person(user): Person,
    Body(consent): Body<Consent>,
) -> Result<Json<Value>, WebError> {
    web.store().set_consent(user.id, consent.training).await?;
    Ok(Json(json!({ "training": consent.training })))
}

/// `GET /api/account/keys`
pub(super) async fn keys(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    let keys = web.store().api_keys(user.id).await?;
    Ok(Json(keys.iter().map(forms::key).collect()))
}

#[derive(Deserialize)]
pub(super) struct NewKey {
    name: String,
    scopes: Option<Vec<String>>,
    expires_days: Option<u32>,
}

/// `POST /api/account/keys`: the secret is in this answer and nowhere else.
pub(super) async fn create_key(
    State(web): State<Web>,
    Person(user): Person,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > 100 {
        return Err(WebError::invalid("name", "a name has 1 to 100 characters"));
    }
    let scopes = new.scopes.unwrap_or_else(|| vec!["api".to_owned()]);
    if scopes.is_empty() || scopes.iter().any(|scope| !SCOPES.contains(&scope.as_str())) {
        return Err(WebError::invalid("scopes", format!("use {}", SCOPES.join(" or "))));
    }
    if new.expires_days == Some(0) {
        return Err(WebError::invalid("expires_days", "a key lasts at least a day"));
    }
    if web.store().api_keys(user.id).await?.len() >= MAX_KEYS {
        return Err(WebError::conflict("there are too many keys: delete one first"));
    }
    let now = web.now();
    let expires_at = new.expires_days.map(|days| now.plus_ms(i64::from(days) * UnixMs::DAY_MS));
    let new = NewApiKey { name, scopes: &scopes, expires_at };
    let (key, secret) = web.store().create_api_key(user.id, new, now).await?;
    let mut form = forms::key(&key);
    form["key"] = json!(secret.reveal());
    Ok((StatusCode::CREATED, Json(form)))
}

/// `DELETE /api/account/keys/{id}`: replies that it asked for end before their next token.
pub(super) async fn delete_key(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    let id = id(&text, "key")?;
    web.store().revoke_api_key(user.id, id, web.now()).await?;
    web.accounts.keys.close(id);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct Days {
    days: Option<u32>,
}

impl Days {
    /// From this day on, and before that one.
    fn range(&self, now: UnixMs) -> (UnixMs, UnixMs) {
        let days = i64::from(self.days.unwrap_or(30).clamp(1, MAX_DAYS));
        let until = day_end(now);
        (until.plus_ms(-days * UnixMs::DAY_MS), until)
    }

    /// The first day.
    pub(super) fn first(&self, now: UnixMs) -> UnixMs {
        self.range(now).0
    }
}

/// What was used each day, days without anything included.
async fn used(web: &Web, user: &User, days: &Days) -> Result<Vec<UsageDay>, WebError> {
    let (from, until) = days.range(web.now());
    let mut found = web.store().usage_days(user.id, from, until).await?.into_iter().peekable();
    let mut all = Vec::new();
    let mut at = from;
    while at < until {
        let day = at.day_text();
        let used = found.next_if(|found| found.day == day);
        all.push(used.unwrap_or_else(|| UsageDay { day, ..UsageDay::default() }));
        at = day_end(at);
    }
    Ok(all)
}

/// `GET /api/account/usage`
pub(super) async fn usage(
    State(web): State<Web>,
    Person(user): Person,
    Query(days): Query<Days>,
) -> Result<Json<Value>, WebError> {
    let days: Vec<Value> = used(&web, &user, &days)
        .await?
        .into_iter()
        .map(|day| {
            json!({
                "day": day.day,
                "requests": day.n_replies,
                "prompt_tokens": day.prompt_tokens,
                "cached_tokens": day.cached_tokens,
                "completion_tokens": day.completion_tokens,
                "reasoning_tokens": day.reasoning_tokens,
                "cost_microdollars": day.cost_micros,
            })
        })
        .collect();
    Ok(Json(json!({ "days": days })))
}

/// `GET /api/account/usage.csv`
pub(super) async fn usage_csv(
    State(web): State<Web>,
    Person(user): Person,
    Query(days): Query<Days>,
) -> Result<Response, WebError> {
    let text = rapport_store::usage_csv(&used(&web, &user, &days).await?);
    Ok(file("text/csv; charset=utf-8", "rapport-usage.csv", text))
}

fn file(content_type: &str, name: &str, text: String) -> Response {
    let headers: [(HeaderName, String); 2] = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    (headers, text).into_response()
}

/// `GET /api/account/invoices/{yyyy-mm}`, and with `.csv` behind it.
pub(super) async fn invoice(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<Response, WebError> {
    let (month, is_csv) = match text.strip_suffix(".csv") {
        Some(month) => (month, true),
        None => (text.as_str(), false),
    };
    let parsed: Month = parsed(month, "month")?;
    let (from, until) = parsed.range();
    let invoice = web.store().invoice(user.id, from, until).await?;
    if is_csv {
        let name = format!("rapport-invoice-{month}.csv");
        return Ok(file("text/csv; charset=utf-8", &name, invoice.csv()));
    }
    let lines: Vec<Value> = invoice
        .lines
        .iter()
        .map(|line| {
            json!({
                "plan": line.plan,
                "model": line.model,
                "requests": line.n_replies,
                "prompt_tokens": line.prompt_tokens,
                "cached_tokens": line.cached_tokens,
                "completion_tokens": line.completion_tokens,
                "reasoning_tokens": line.reasoning_tokens,
                "cost_microdollars": line.cost_micros,
            })
        })
        .collect();
    let form = json!({
        "month": month,
        "user": forms::user(&user),
        "from_ms": from,
        "until_ms": until,
        "lines": lines,
        "total_microdollars": invoice.total_micros,
    });
    Ok(Json(form).into_response())
}

/// `GET /api/account/export`
pub(super) async fn export(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Response, WebError> {
    let mut document = json!({ "format": "rapport-export", "version": 1 });
    if let (Some(document), Value::Object(data)) =
        (document.as_object_mut(), web.store().export_user(user.id).await?)
    {
        document.extend(data);
    }
    Ok(file("application/json", "rapport-export.json", document.to_string()))
}
