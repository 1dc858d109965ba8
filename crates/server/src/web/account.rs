//! What a person can see and change of their own account.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rapport_store::{Invoice, NewApiKey, UnixMs, UsageRow, User};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::WebError;
use super::forms::{self, Body, id, nullable};
use super::session::{self, Person, Viewer};
use super::{Web, now};
use crate::charge::{SCOPES, day_end, plan_form};
use crate::replies::rfc3339;

const MAX_DAYS: u32 = 366;
const MAX_KEYS: usize = 100;

/// `GET /api/account`
pub(super) async fn get(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    let now = now();
    let meter = web.store().meter(user.id, now).await?;
    let plan = web.accounts.plans.get(&user.plan);
    Ok(Json(json!({
        "user": forms::user(&user),
        "plan": plan_form(&user.plan, &plan),
        "usage_today": {
            "requests": meter.requests,
            "tokens": meter.tokens,
            "thinking_tokens": meter.thinking_tokens,
            "cost_microdollars": meter.cost_micros,
        },
        "resets_ms": day_end(now),
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
    let now = now();
    let expires_at = new.expires_days.map(|days| now.plus_ms(i64::from(days) * UnixMs::DAY_MS));
    let new = NewApiKey { name, scopes: &scopes, expires_at };
    let (key, secret) = web.store().create_api_key(user.id, new, now).await?;
    let mut form = forms::key(&key);
    form["key"] = json!(secret.reveal());
    Ok((StatusCode::CREATED, Json(form)))
}

/// `DELETE /api/account/keys/{id}`: replies that it asked for end within seconds.
pub(super) async fn delete_key(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    web.store().revoke_api_key(user.id, id(&text, "key")?, now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct Days {
    days: Option<u32>,
}

impl Days {
    /// From this day on, and before that one.
    fn range(&self) -> (UnixMs, UnixMs) {
        let days = i64::from(self.days.unwrap_or(30).clamp(1, MAX_DAYS));
        let until = day_end(now());
        (until.plus_ms(-days * UnixMs::DAY_MS), until)
    }

    /// The first day.
    pub(super) fn first(&self) -> UnixMs {
        self.range().0
    }
}

pub(super) fn day_name(day: UnixMs) -> String {
    let mut text = rfc3339(day.0.max(0) as u64 / 1000);
    text.truncate("2026-11-26".len());
    text
}

#[derive(Clone, Copy, Default)]
struct Sum {
    requests: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    reasoning_tokens: u64,
    cost_micros: u64,
}

/// What was used each day, days without anything included.
async fn sums(web: &Web, user: &User, days: &Days) -> Result<BTreeMap<i64, Sum>, WebError> {
    let (from, until) = days.range();
    let mut sums: BTreeMap<i64, Sum> = BTreeMap::new();
    let mut day = from;
    while day < until {
        sums.insert(day.0, Sum::default());
        day = day_end(day);
    }
    for row in web.store().usage(Some(user.id), from, until).await? {
        let UsageRow { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, .. } =
            row;
        let sum = sums.entry(row.day_start.0).or_default();
        sum.requests += row.n_replies;
        sum.prompt_tokens += prompt_tokens;
        sum.cached_tokens += cached_tokens;
        sum.completion_tokens += completion_tokens;
        sum.reasoning_tokens += reasoning_tokens;
        sum.cost_micros += row.cost_micros;
    }
    Ok(sums)
}

/// `GET /api/account/usage`
pub(super) async fn usage(
    State(web): State<Web>,
    Person(user): Person,
    Query(days): Query<Days>,
) -> Result<Json<Value>, WebError> {
    let sums = sums(&web, &user, &days).await?;
    let days: Vec<Value> = sums
        .into_iter()
        .map(|(day, sum)| {
            json!({
                "day": day_name(UnixMs(day)),
                "requests": sum.requests,
                "prompt_tokens": sum.prompt_tokens,
                "cached_tokens": sum.cached_tokens,
                "completion_tokens": sum.completion_tokens,
                "reasoning_tokens": sum.reasoning_tokens,
                "cost_microdollars": sum.cost_micros,
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
    let mut text = "day,requests,prompt_tokens,cached_tokens,completion_tokens,reasoning_tokens,\
                    cost_microdollars\n"
        .to_owned();
    for (day, sum) in sums(&web, &user, &days).await? {
        let Sum { requests, prompt_tokens, cached_tokens, completion_tokens, .. } = sum;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{requests},{prompt_tokens},{cached_tokens},{completion_tokens},{},{}",
            day_name(UnixMs(day)),
            sum.reasoning_tokens,
            sum.cost_micros
        );
    }
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
    let (from, until) = month_range(month)
        .ok_or_else(|| WebError::invalid("month", "a month looks like 2026-11"))?;
    let invoice = web.store().invoice(user.id, from, until).await?;
    if is_csv {
        let name = format!("rapport-invoice-{month}.csv");
        return Ok(file("text/csv; charset=utf-8", &name, invoice_csv(&invoice)));
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

fn invoice_csv(invoice: &Invoice) -> String {
    let mut text = "plan,model,requests,prompt_tokens,cached_tokens,completion_tokens,\
                    reasoning_tokens,cost_microdollars\n"
        .to_owned();
    for line in &invoice.lines {
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{}",
            cell(&line.plan),
            cell(&line.model),
            line.n_replies,
            line.prompt_tokens,
            line.cached_tokens,
            line.completion_tokens,
            line.reasoning_tokens,
            line.cost_micros
        );
    }
    let _ = writeln!(text, "total,,,,,,,{}", invoice.total_micros);
    text
}

/// A text as a cell, which no spreadsheet takes for a formula.
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// When a month such as `2026-11` begins and ends.
fn month_range(text: &str) -> Option<(UnixMs, UnixMs)> {
    let (year, month) = text.split_once('-')?;
    if year.len() != 4 || month.len() != 2 {
        return None;
    }
    let (year, month): (i64, i64) = (year.parse().ok()?, month.parse().ok()?);
    if !(1970..=9998).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    Some((month_start(year, month), month_start(next_year, next_month)))
}

/// The first of a month, after Hinnant's `days_from_civil`.
fn month_start(year: i64, month: i64) -> UnixMs {
    let (year, month_from_march) =
        if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month_from_march + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    UnixMs((era * 146_097 + day_of_era - 719_468) * UnixMs::DAY_MS)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_the_calendar_says() {
        for (month, from, until) in [
            ("1970-01", "1970-01-01", "1970-02-01"),
            ("2000-02", "2000-02-01", "2000-03-01"),
            ("2026-12", "2026-12-01", "2027-01-01"),
        ] {
            let (start, end) = month_range(month).unwrap();
            assert_eq!((day_name(start), day_name(end)), (from.to_owned(), until.to_owned()));
        }
        for wrong in ["2026", "2026-13", "26-01", "2026-1", "x", "2026-00"] {
            assert_eq!(month_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn no_cell_is_a_formula() {
        assert_eq!(cell("=1+1"), "'=1+1");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("free"), "free");
    }
}
