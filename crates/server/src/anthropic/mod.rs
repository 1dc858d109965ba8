//! Anthropic's protocol: `/v1/messages`.

mod request;
mod words;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use rapport_types::Caller;
use serde_json::{Value, json};

use crate::answer::all_of;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events;
use crate::replies::{Replies, fresh_id};
use crate::{App, models};

pub(crate) use request::MessagesRequest;
use words::MessageWords;

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<MessagesRequest>,
) -> Result<Response, ApiError> {
    let model = models::find(&app, request.model())?;
    let asked = request.ask(&model, request.max_tokens()?, caller)?;
    let replies = Replies::start(&app, &model.generate, vec![asked]).await?;
    let (id, name) = (fresh_id("msg_"), request.model().to_owned());
    if request.is_stream() {
        return Ok(events::stream(replies, MessageWords::new(id, name)));
    }
    let answer = all_of(replies).await?.into_iter().next().unwrap_or_default();
    Ok(Json(words::whole(&id, &name, &answer)).into_response())
}

pub(crate) async fn count_tokens(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<MessagesRequest>,
) -> Result<Json<Value>, ApiError> {
    let model = models::find(&app, request.model())?;
    model.generate.check_ready()?;
    // How long the answer may be does not count.
    let asked = request.ask(&model, u32::MAX, caller)?;
    let counting = move || model.generate.count_prompt_tokens(&asked);
    let n_tokens =
        tokio::task::spawn_blocking(counting).await.map_err(|_| ApiError::broken())??;
    let n_tokens = n_tokens
        .ok_or_else(|| ApiError::unsupported("this model's tokenizer cannot be reached"))?;
    Ok(Json(json!({ "input_tokens": n_tokens })))
}
