//! What xAI's REST interface has beside OpenAI's.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rapport_store::UnixMs;
use rapport_types::{AdapterChoice, BuildId, Mode, TextToken};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::JsonBody;
use crate::error::ApiError;
use crate::models::{self, Offered};
use crate::replies::rfc3339;
use crate::stored::DeferredState;
use crate::{App, Shared, charge};

pub(crate) async fn language_models(State(app): State<App>) -> Json<Value> {
    let models: Vec<Value> =
        models::offered(&app).map(|model| language_model(&app, &model)).collect();
    Json(json!({ "models": models }))
}

pub(crate) async fn get_language_model(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(language_model(&app, &models::find(&app, &id)?)))
}

/// Each model that makes embeddings, once: they are the same in every mode, and without adapters.
pub(crate) async fn embedding_models(State(app): State<App>) -> Json<Value> {
    let models: Vec<Value> = models::offered(&app)
        .filter(|model| model.mode == Mode::Auto && model.adapter == AdapterChoice::Default)
        .filter_map(|model| embedding_model(&app, &model))
        .collect();
    Json(json!({ "models": models }))
}

pub(crate) async fn get_embedding_model(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let no_embeddings = || ApiError::not_found(format!("the model `{id}` makes no embeddings"));
    embedding_model(&app, &models::find(&app, &id)?).map(Json).ok_or_else(no_embeddings)
}

fn embedding_model(app: &Shared, model: &Offered) -> Option<Value> {
    let width = model.generate.embedding_width()?;
    let build = BuildId { adapter: "none".to_owned(), ..model.info.build.clone() };
    Some(json!({
        "id": model.id,
        "object": "model",
        "created": app.started,
        "owned_by": "rapport",
        "version": build.engine,
        "fingerprint": build.to_string(),
        "aliases": [],
        "input_modalities": ["text"],
        "prompt_text_token_price": 0,
        "prompt_image_token_price": 0,
        "rapport": { "dimensions": width },
    }))
}

/// Models of other kinds are asked for by the same clients; there are none.
pub(crate) async fn no_models() -> Json<Value> {
    Json(json!({ "models": [] }))
}

/// Prices are zero: the machine is the owner's.
pub(crate) fn language_model(app: &Shared, model: &Offered) -> Value {
    let info = &model.info;
    json!({
        "id": model.id,
        "object": "model",
        "created": app.started,
        "owned_by": "rapport",
        "version": info.build.engine,
        "fingerprint": info.build.to_string(),
        "aliases": [],
        "input_modalities": ["text"],
        "output_modalities": ["text"],
        "max_prompt_length": info.context_tokens,
        "prompt_text_token_price": 0,
        "cached_prompt_text_token_price": 0,
        "prompt_image_token_price": 0,
        "completion_text_token_price": 0,
        "search_price": 0,
    })
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct TokenizeRequest {
    model: String,
    text: String,
}

pub(crate) async fn tokenize_text(
    State(app): State<App>,
    JsonBody(request): JsonBody<TokenizeRequest>,
) -> Result<Json<Value>, ApiError> {
    let tokens: Vec<Value> = tokens(&app, &request.model, request.text)
        .await?
        .iter()
        .map(|token| {
            json!({
                "token_id": token.id,
                "string_token": String::from_utf8_lossy(&token.bytes),
                "token_bytes": token.bytes,
            })
        })
        .collect();
    Ok(Json(json!({ "token_ids": tokens })))
}

/// The tokens that a model makes of a text.
pub(crate) async fn tokens(
    app: &Shared,
    model: &str,
    text: String,
) -> Result<Vec<TextToken>, ApiError> {
    let model = models::find(app, model)?;
    model.generate.check_ready()?;
    tokio::task::spawn_blocking(move || model.generate.tokenize(&text))
        .await
        .map_err(|_| ApiError::broken())?
        .ok_or_else(|| ApiError::unsupported("this model's tokenizer cannot be reached"))
}

/// What the server knows of the key that was shown.
pub(crate) struct ShownKey {
    pub(crate) redacted: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) created_s: u64,
    pub(crate) acls: &'static [&'static str],
    expires_s: Option<u64>,
    scopes: Vec<String>,
}

/// A key of an account, the one key of the whole server, or none where none is asked for.
pub(crate) async fn shown_key(app: &Shared) -> Result<ShownKey, ApiError> {
    let seconds = |at: UnixMs| at.0.max(0).cast_unsigned() / 1000;
    let holder = charge::holder_of_task();
    if let (Some(accounts), Some(key)) = (&app.accounts, holder.and_then(|holder| holder.api_key)) {
        let key = accounts.store.api_key(key.id).await.map_err(|_| ApiError::store_busy())?;
        let opens_all = key.scopes.iter().any(|scope| scope == "api");
        return Ok(ShownKey {
            redacted: format!("{}...", key.prefix),
            id: key.id.to_string(),
            name: key.name,
            user: key.user.to_string(),
            created_s: seconds(key.created_at),
            acls: if opens_all { ALL_ACLS } else { &["api-key:endpoint:read"] },
            expires_s: key.expires_at.map(seconds),
            scopes: key.scopes,
        });
    }
    let (redacted, id) = match &app.config.api_key {
        Some(key) => (format!("{}...", key.chars().take(3).collect::<String>()), "shared"),
        None => ("none".to_owned(), "none"),
    };
    Ok(ShownKey {
        redacted,
        id: id.to_owned(),
        name: id.to_owned(),
        user: "local".to_owned(),
        created_s: app.started,
        acls: ALL_ACLS,
        expires_s: None,
        scopes: vec!["api".to_owned()],
    })
}

const ALL_ACLS: &[&str] = &["api-key:endpoint:*", "api-key:model:*"];

pub(crate) async fn api_key(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let key = shown_key(&app).await?;
    let since = rfc3339(key.created_s);
    Ok(Json(json!({
        "redacted_api_key": key.redacted,
        "user_id": key.user,
        "name": key.name,
        "create_time": since,
        "modify_time": since,
        "modified_by": key.user,
        "team_id": "local",
        "acls": key.acls,
        "api_key_id": key.id,
        // Keys that are open no more show nothing.
        "team_blocked": false,
        "api_key_blocked": false,
        "api_key_disabled": false,
        "rapport": { "scopes": key.scopes, "expire_time": key.expires_s.map(rfc3339) },
    })))
}

/// `202` while it is being made, then the completion once.
pub(crate) async fn deferred_completion(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    match app.deferred.read(app.accounts.as_ref(), charge::owner(), &id).await? {
        DeferredState::Unknown => Err(ApiError::no_such_deferred(&id)),
        DeferredState::Pending => Ok(StatusCode::ACCEPTED.into_response()),
        DeferredState::Done(outcome) => outcome.map(|body| Json(body).into_response()),
    }
}
