//! `/v1/responses`: replies that are kept, and streams in which every part is named.
//!
//! Whole and streamed replies come from one machine, [`words::ResponseWords`], so they say the
//! same.

mod request;
mod words;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use rapport_types::Caller;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events;
use crate::replies::{Replies, fresh_id};
use crate::stored::Responses;
use crate::{App, charge, models};

pub(crate) use request::ResponseRequest;
use words::{ResponseWords, Storing};

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<ResponseRequest>,
) -> Result<Response, ApiError> {
    let model = models::find(&app, request.model())?;
    let earlier = match request.previous_response_id() {
        None => Vec::new(),
        Some(id) => {
            let found = Responses::get(&app, charge::owner(), id).await?;
            found.ok_or_else(|| no_such_response(id))?.messages.clone()
        }
    };
    let input = request.input()?;
    let messages: Vec<_> = earlier.into_iter().chain(input.messages).collect();
    let asked = request.ask(&model, &messages, caller)?;
    let storing = request.is_stored().then(|| Storing {
        app: Arc::clone(&app),
        owner: charge::owner(),
        input: input.items,
        messages,
    });
    let words = ResponseWords::new(&fresh_id("resp_"), request.echo(&model), storing);
    let is_stream = request.is_stream();
    let mut replies = Replies::start(&app, &model.generate, vec![asked]).await?;
    if is_stream {
        return Ok(events::stream(replies, words));
    }
    let mut words = words;
    while let Some((_, event)) = replies.next().await {
        if let rapport_types::Event::Failed(error) = event {
            return Err(error.into());
        }
        words.event(event).await;
    }
    let failure = words.failure.take();
    failure.map_or_else(|| Ok(Json(words.into_response()).into_response()), Err)
}

fn no_such_response(id: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no response `{id}`: it was never stored, was deleted, has expired, or made room for others"
    ))
}

pub(crate) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let found = Responses::get(&app, charge::owner(), &id).await?;
    Ok(Json(found.ok_or_else(|| no_such_response(&id))?.response.clone()))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if !Responses::delete(&app, charge::owner(), &id).await? {
        return Err(no_such_response(&id));
    }
    Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
}

/// Which of the items of an input to list.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    limit: Option<usize>,
    /// `asc`, or `desc` as without it.
    order: Option<String>,
    after: Option<String>,
}

const DEFAULT_ITEMS: usize = 20;
const MAX_ITEMS: usize = 100;

pub(crate) async fn input_items(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(listing): Query<Listing>,
) -> Result<Json<Value>, ApiError> {
    let found = Responses::get(&app, charge::owner(), &id).await?;
    let found = found.ok_or_else(|| no_such_response(&id))?;
    let limit = listing.limit.unwrap_or(DEFAULT_ITEMS);
    if !(1..=MAX_ITEMS).contains(&limit) {
        let message = format!("`limit` is {limit}: it must be from 1 to {MAX_ITEMS}");
        return Err(ApiError::invalid("limit", message));
    }
    let mut items: Vec<&Value> = found.input.iter().collect();
    match listing.order.as_deref() {
        Some("asc") => {}
        None | Some("desc") => items.reverse(),
        Some(other) => {
            return Err(ApiError::invalid("order", format!("`{other}`: use asc or desc")));
        }
    }
    if let Some(after) = &listing.after {
        let at = items.iter().position(|item| item["id"] == after.as_str()).ok_or_else(|| {
            ApiError::invalid("after", format!("there is no item `{after}` in this response"))
        })?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id = |item: Option<&&Value>| item.map(|item| item["id"].clone());
    let (first_id, last_id) = (id(items.first()), id(items.last()));
    Ok(Json(json!({
        "object": "list", "data": items,
        "first_id": first_id, "last_id": last_id, "has_more": has_more,
    })))
}
