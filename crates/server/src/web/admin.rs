//! What whoever is in charge can see and change.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use rapport_store::{ApiKeyId, FeedbackCursor, NewUser, UnixMs, User, UserId, UserRole};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Web;
use super::account::Days;
use super::error::WebError;
use super::forms::{self, Body, id, parsed};
use super::session::Admin;
use crate::charge::plan_form;
use crate::metrics::Totals;
use crate::models;

/// Users and keys are read in pages of this size.
const PAGE: u32 = 500;
const FEEDBACK_PAGE: u32 = 50;
const ONLINE_MS: i64 = 5 * 60_000;
const LIVE_EVERY: Duration = Duration::from_secs(1);

async fn form(web: &Web, user: &User) -> Result<Value, WebError> {
    let meter = web.store().meter(user.id, web.now()).await?;
    Ok(json!({
        "id": user.id,
        "name": user.name,
        "role": user.role,
        "plan": user.plan,
        "disabled": user.disabled_at.is_some(),
        "has_password": user.has_password,
        "created_ms": user.created_at,
        "last_seen_ms": user.last_seen_at,
        "usage_today": {
            "requests": meter.requests,
            "tokens": meter.tokens,
            "thinking_tokens": meter.thinking_tokens,
            "cost_microdollars": meter.cost_micros,
        },
    }))
}

/// `GET /api/admin/users`
pub(super) async fn users(State(web): State<Web>, _admin: Admin) -> Result<Json<Value>, WebError> {
    let mut forms = Vec::new();
    let mut after = None;
    loop {
        let page = web.store().users(after, PAGE).await?;
        for user in &page {
            forms.push(form(&web, user).await?);
        }
        after = page.last().map(|last| last.id);
        if page.len() < PAGE as usize {
            return Ok(Json(Value::Array(forms)));
        }
    }
}

fn check_plan(web: &Web, plan: &str) -> Result<(), WebError> {
    if web.accounts.plans.get(plan).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = web.accounts.plans.iter().map(|plan| plan.id.as_str()).collect();
    Err(WebError::invalid("plan", format!("there is no plan `{plan}`: use {}", known.join(", "))))
}

#[derive(Deserialize)]
pub(super) struct New {
    name: String,
    role: Option<String>,
    plan: Option<String>,
    password: Option<String>,
}

/// `POST /api/admin/users`: without a password, the answer has a link that signs in once.
pub(super) async fn create_user(
    State(web): State<Web>,
    _admin: Admin,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let settings = web.settings().await?;
    let plan = new.plan.unwrap_or(settings.default_plan);
    check_plan(&web, &plan)?;
    let role = new.role.map_or(Ok(UserRole::User), |role| parsed(&role, "role"))?;
    let password = new.password.as_deref().filter(|password| !password.is_empty());
    let now = web.now();
    let user = NewUser { name: &new.name, role, plan: &plan, password };
    let user = web.store().create_user(user, now).await?;
    let mut form = form(&web, &user).await?;
    if password.is_none() {
        let until = now.plus_ms(super::LINK_MS);
        let link = web.store().create_sign_in_link(user.id, now, until).await?;
        form["link"] = json!(format!("/setup#{}", link.reveal()));
    }
    Ok((StatusCode::CREATED, Json(form)))
}

#[derive(Deserialize)]
pub(super) struct Change {
    role: Option<String>,
    plan: Option<String>,
    disabled: Option<bool>,
    password: Option<String>,
}

/// `PATCH /api/admin/users/{id}`
pub(super) async fn change_user(
    State(web): State<Web>,
    _admin: Admin,
    Path(text): Path<String>,
    Body(change): Body<Change>,
) -> Result<Json<Value>, WebError> {
    let id: UserId = id(&text, "user")?;
    let store = web.store();
    let role: Option<UserRole> = change.role.map(|role| parsed(&role, "role")).transpose()?;
    if let Some(plan) = &change.plan {
        check_plan(&web, plan)?;
    }
    // What may be refused comes first.
    if let Some(password) = &change.password {
        store.set_password(id, password).await?;
    }
    if let Some(role) = role {
        store.set_role(id, role).await?;
    }
    match change.disabled {
        Some(true) => {
            store.disable_user(id, web.now()).await?;
            web.accounts.keys.close_all_of(id);
        }
        Some(false) => store.enable_user(id).await?,
        None => {}
    }
    if let Some(plan) = &change.plan {
        store.set_plan(id, plan).await?;
    }
    Ok(Json(form(&web, &store.user(id).await?).await?))
}

/// `DELETE /api/admin/users/{id}`
pub(super) async fn delete_user(
    State(web): State<Web>,
    Admin(admin): Admin,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    let id: UserId = id(&text, "user")?;
    if id == admin.id {
        return Err(WebError::conflict("delete your own account on its own page"));
    }
    web.store().delete_user(id).await?;
    web.accounts.keys.close_all_of(id);
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/admin/keys`
pub(super) async fn keys(State(web): State<Web>, _admin: Admin) -> Result<Json<Value>, WebError> {
    let mut names = std::collections::HashMap::new();
    let mut forms = Vec::new();
    let mut after = None;
    loop {
        let page = web.store().all_api_keys(after, PAGE).await?;
        for key in &page {
            if let std::collections::hash_map::Entry::Vacant(name) = names.entry(key.user) {
                name.insert(web.store().user(key.user).await?.name);
            }
            let mut form = forms::key(key);
            form["user_id"] = json!(key.user);
            form["user_name"] = json!(names[&key.user]);
            forms.push(form);
        }
        after = page.last().map(|last| last.id);
        if page.len() < PAGE as usize {
            return Ok(Json(Value::Array(forms)));
        }
    }
}

/// `DELETE /api/admin/keys/{id}`
pub(super) async fn delete_key(
    State(web): State<Web>,
    _admin: Admin,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    let id: ApiKeyId = id(&text, "key")?;
    let key = web.store().api_key(id).await?;
    web.store().revoke_api_key(key.user, id, web.now()).await?;
    web.accounts.keys.close(id);
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/admin/plans`
pub(super) async fn plans(State(web): State<Web>, _admin: Admin) -> Json<Value> {
    Json(web.accounts.plans.iter().map(plan_form).collect())
}

/// `GET /api/admin/models`
pub(super) async fn models(State(web): State<Web>, _admin: Admin) -> Json<Value> {
    let forms = models::offered(&web.app).map(|model| {
        let info = &model.info;
        let adapters: Vec<&str> =
            Some(info.build.adapter.as_str()).filter(|name| *name != "none").into_iter().collect();
        json!({
            "id": model.id,
            "name": info.name,
            "build": info.build.to_string(),
            "context_tokens": info.context_tokens,
            "state": super::model::state(&model.generate.readiness()),
            "adapters": adapters,
        })
    });
    Json(forms.collect())
}

/// `GET /api/admin/live`
pub(super) async fn live(State(web): State<Web>, _admin: Admin) -> Response {
    let before = web.app.metrics.totals();
    let events = stream::unfold((web, before), |(web, before)| async move {
        let mut ending = web.app.ending.subscribe();
        tokio::select! {
            () = tokio::time::sleep(LIVE_EVERY) => {}
            _ = ending.wait_for(|is_ending| *is_ending) => return None,
        }
        if web.app.is_draining.load(std::sync::atomic::Ordering::Acquire) {
            return None;
        }
        let totals = web.app.metrics.totals();
        let data = load(&web, &before, &totals).await;
        let event = SseEvent::default().event("live").data(data.to_string());
        Some((Ok::<_, Infallible>(event), (web, totals)))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

async fn load(web: &Web, before: &Totals, totals: &Totals) -> Value {
    let seconds = LIVE_EVERY.as_secs_f64();
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let hit_share = if totals.prompt_tokens == 0 {
        0.0
    } else {
        totals.cached_tokens as f64 / totals.prompt_tokens as f64
    };
    let since = web.now().plus_ms(-ONLINE_MS);
    let n_online = web.store().count_users_seen(since).await.ok();
    json!({
        "streams": totals.running - totals.waiting.min(totals.running),
        "queue": totals.waiting,
        "web_replies": web.accounts.hub.n_running(),
        "tokens_per_second": rate(totals.pieces, before.pieces),
        "prompt_tokens_per_second": rate(
            totals.prompt_tokens - totals.cached_tokens,
            before.prompt_tokens - before.cached_tokens,
        ),
        // How full the engine's cache is, no engine tells yet.
        "cache": { "used_tokens": null, "total_tokens": null, "hit_share": hit_share },
        "users_online": n_online,
        "memory_bytes": resident_bytes(),
    })
}

/// What the process has in memory, where the system says it.
fn resident_bytes() -> Option<u64> {
    const KIB: u64 = 1 << 10;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * KIB)
}

#[derive(Deserialize)]
pub(super) struct Page {
    cursor: Option<String>,
}

/// `GET /api/admin/feedback`
pub(super) async fn feedback(
    State(web): State<Web>,
    _admin: Admin,
    Query(page): Query<Page>,
) -> Result<Json<Value>, WebError> {
    let before = page.cursor.map(|cursor| {
        let (at, id) = cursor.split_once('.')?;
        Some(FeedbackCursor { created_at: UnixMs(at.parse().ok()?), id: id.parse().ok()? })
    });
    let wrong = || WebError::invalid("cursor", "take the cursor from the page before");
    let before = before.map(|cursor| cursor.ok_or_else(wrong)).transpose()?;
    let found = web.store().recent_feedback(before, FEEDBACK_PAGE).await?;
    let next = found.last().filter(|_| found.len() == FEEDBACK_PAGE as usize);
    let next = next.map(|(last, _)| format!("{}.{}", last.created_at.0, last.id));
    let items: Vec<Value> = found
        .iter()
        .map(|(feedback, user_name)| {
            let signal = json!(feedback.signal);
            json!({
                "id": feedback.id,
                "at_ms": feedback.created_at,
                "user_name": user_name,
                "kind": signal["kind"],
                "value": signal["value"],
                "build": feedback.build,
                "message_id": feedback.message,
            })
        })
        .collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

/// `GET /api/admin/feedback/days`
pub(super) async fn feedback_days(
    State(web): State<Web>,
    _admin: Admin,
    Query(days): Query<Days>,
) -> Result<Json<Value>, WebError> {
    let mut by_day: std::collections::BTreeMap<i64, Map<String, Value>> =
        std::collections::BTreeMap::new();
    for row in web.store().feedback_days(days.first(web.now())).await? {
        by_day.entry(row.day_start.0).or_default().insert(row.kind, json!(row.n_signals));
    }
    let days: Vec<Value> = by_day
        .into_iter()
        .map(|(day, counts)| {
            let total: u64 = counts.values().filter_map(Value::as_u64).sum();
            json!({ "day": UnixMs(day).day_text(), "total": total, "counts": counts })
        })
        .collect();
    Ok(Json(json!({ "days": days })))
}

/// `GET /api/admin/settings`
pub(super) async fn settings(
    State(web): State<Web>,
    _admin: Admin,
) -> Result<Json<Value>, WebError> {
    Ok(Json(web.settings().await?.form()))
}

/// `PATCH /api/admin/settings`
pub(super) async fn change_settings(
    State(web): State<Web>,
    _admin: Admin,
    Body(change): Body<Map<String, Value>>,
) -> Result<Json<Value>, WebError> {
    for (key, value) in &change {
        check_setting(&web, key, value)?;
    }
    web.store().put_settings(&change.into_iter().collect()).await?;
    Ok(Json(web.settings().await?.form()))
}

fn check_setting(web: &Web, key: &str, value: &Value) -> Result<(), WebError> {
    let wrong = |message: &str| Err(WebError::invalid(key, message));
    let text = value.as_str();
    match key {
        "instance_name" => match text.map(|text| text.trim().chars().count()) {
            Some(1..=60) => Ok(()),
            _ => wrong("a name has 1 to 60 characters"),
        },
        "sign_up" if value.is_boolean() => Ok(()),
        "sign_up" => wrong("it is true or false"),
        "retention_days" => match value.as_u64() {
            _ if value.is_null() => Ok(()),
            Some(1..=36_500) => Ok(()),
            _ => wrong("it is a number of days, or null for what the server was started with"),
        },
        "choice_every" => match value.as_u64() {
            Some(0..=1_000_000) => Ok(()),
            _ => wrong("it is a number of turns, or 0 for never"),
        },
        "default_persona" => {
            let is_known = |text| web.accounts.personas.iter().any(|known| known.id == text);
            if value.is_null() || text.is_some_and(is_known) {
                return Ok(());
            }
            wrong("there is no such persona")
        }
        "default_plan" => match text {
            Some(plan) => check_plan(web, plan),
            None => wrong("it is the id of a plan"),
        },
        _ => wrong("there is no such setting"),
    }
}
