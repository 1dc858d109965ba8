//! What xAI's REST interface has beside OpenAI's.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rapport_types::{Caller, TextToken};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::JsonBody;
use crate::error::ApiError;
use crate::models::{self, Offered};
use crate::replies::rfc3339;
use crate::stored::DeferredState;
use crate::{App, Shared};

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

/// Models of other kinds are asked for by the same clients; there are none.
pub(crate) async fn no_models() -> Json<Value> {
    Json(json!({ "models": [] }))
}

/// Prices are zero: the machine is the owner's.
pub(crate) fn language_model(app: &Shared, model: &Offered) -> Value {
    let info = model.generate.model();
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
    tokio::task::spawn_blocking(move || model.generate.tokenize(&text))
        .await
        .map_err(|_| ApiError::broken())?
        .ok_or_else(|| ApiError::unsupported("this model's tokenizer cannot be reached"))
}

/// What the server knows of the key that was shown.
pub(crate) async fn api_key(State(app): State<App>) -> Json<Value> {
    let redacted = match &app.config.api_key {
        Some(key) => format!("{}...", key.chars().take(3).collect::<String>()),
        None => "none".to_owned(),
    };
    let since = rfc3339(app.started);
    Json(json!({
        "redacted_api_key": redacted,
        "user_id": "local",
        "name": "local",
        "create_time": since,
        "modify_time": since,
        "modified_by": "local",
        "team_id": "local",
        "acls": ["api-key:endpoint:*", "api-key:model:*"],
        "api_key_id": "local",
        "team_blocked": false,
        "api_key_blocked": false,
        "api_key_disabled": false,
    }))
}

/// `202` while it is being made, then the completion once.
pub(crate) async fn deferred_completion(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    match Arc::as_ref(&app).deferred.read(caller.key, &id) {
        DeferredState::Unknown => Err(ApiError::no_such_deferred(&id)),
        DeferredState::Pending => Ok(StatusCode::ACCEPTED.into_response()),
        DeferredState::Done(outcome) => outcome.map(|body| Json(body).into_response()),
    }
}
