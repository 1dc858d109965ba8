//! xAI's gRPC interface, on the same port as everything else.
//!
//! The framing is that of gRPC over HTTP/2, which the server's connections speak already; the
//! messages are those few that the chat, models, tokens and keys need. What is not here: pictures,
//! files, batches, collections, and completions that are kept; those calls are answered with
//! UNIMPLEMENTED or refused by the field.
//!
//! Start reading at [`routes`], then `chat.rs`.

mod chat;
mod frames;
mod request;
mod wire;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value;

use crate::error::ApiError;
use crate::models::{self, Offered};
use crate::{App, Shared, xai};
use frames::{Asked, Told};
use wire::{
    ApiKey, Empty, GetModelRequest, LanguageModel, ListModelsResponse, Modality, Timestamp, Token,
    TokenizeTextRequest, TokenizeTextResponse,
};

pub(crate) use frames::{is_call, refused};
pub(crate) use wire::GetChatCompletionResponse;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/xai_api.Chat/GetCompletion", post(chat::get_completion))
        .route("/xai_api.Chat/GetCompletionChunk", post(chat::get_completion_chunk))
        .route("/xai_api.Chat/StartDeferredCompletion", post(chat::start_deferred_completion))
        .route("/xai_api.Chat/GetDeferredCompletion", post(chat::get_deferred_completion))
        .route("/xai_api.Models/ListLanguageModels", post(list_language_models))
        .route("/xai_api.Models/GetLanguageModel", post(get_language_model))
        .route("/xai_api.Models/ListEmbeddingModels", post(no_models))
        .route("/xai_api.Models/ListImageGenerationModels", post(no_models))
        .route("/xai_api.Tokenize/TokenizeText", post(tokenize_text))
        .route("/xai_api.Auth/get_api_key_info", post(get_api_key_info))
}

async fn list_language_models(State(app): State<App>, Asked(Empty {}): Asked<Empty>) -> Response {
    let models = models::offered(&app).map(|model| language_model(&app, &model)).collect();
    Told(ListModelsResponse { models }).into_response()
}

async fn get_language_model(
    State(app): State<App>,
    Asked(GetModelRequest { name }): Asked<GetModelRequest>,
) -> Result<Response, ApiError> {
    Ok(Told(language_model(&app, &models::find(&app, &name)?)).into_response())
}

async fn no_models(Asked(Empty {}): Asked<Empty>) -> Response {
    Told(ListModelsResponse::default()).into_response()
}

/// The same as over REST.
fn language_model(app: &Shared, model: &Offered) -> LanguageModel {
    let told = xai::language_model(app, model);
    let price = |field: &str| told[field].as_i64().unwrap_or_default();
    LanguageModel {
        name: text(&told["id"]),
        version: text(&told["version"]),
        input_modalities: vec![Modality::Text.into()],
        output_modalities: vec![Modality::Text.into()],
        prompt_text_token_price: price("prompt_text_token_price"),
        completion_text_token_price: price("completion_text_token_price"),
        created: Some(since(app)),
        max_prompt_length: told["max_prompt_length"].as_i64().unwrap_or_default() as i32,
        system_fingerprint: text(&told["fingerprint"]),
        cached_prompt_token_price: price("cached_prompt_text_token_price"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn since(app: &Shared) -> Timestamp {
    Timestamp { seconds: app.started.cast_signed(), nanos: 0 }
}

async fn tokenize_text(
    State(app): State<App>,
    Asked(TokenizeTextRequest { text, model }): Asked<TokenizeTextRequest>,
) -> Result<Response, ApiError> {
    let tokens = xai::tokens(&app, &model, text).await?;
    let tokens = tokens.into_iter().map(|token| Token {
        token_id: token.id,
        string_token: String::from_utf8_lossy(&token.bytes).into_owned(),
        token_bytes: token.bytes,
    });
    Ok(Told(TokenizeTextResponse { tokens: tokens.collect(), model }).into_response())
}

/// The same as over REST.
async fn get_api_key_info(
    State(app): State<App>,
    Asked(Empty {}): Asked<Empty>,
) -> Result<Response, ApiError> {
    let known = xai::shown_key(&app).await?;
    let key = ApiKey {
        redacted_api_key: known.redacted,
        user_id: known.user,
        name: known.name,
        create_time: Some(Timestamp { seconds: known.created_s.cast_signed(), nanos: 0 }),
        team_id: "local".to_owned(),
        acls: known.acls.iter().map(|&acl| acl.to_owned()).collect(),
        api_key_id: known.id,
    };
    Ok(Told(key).into_response())
}
