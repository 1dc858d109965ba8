//! What is around every answer: an id to speak of it by, the protocol's own form of errors, and a
//! panic that ends no more than its own request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::App;
use crate::error::ApiError;
use crate::grpc;
use crate::observe::{self, Observed, method_name};
use crate::replies::fresh_id;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 128;
/// Of the framework's own words for a refusal.
const MAX_REFUSAL_BYTES: usize = 4 << 10;

/// Of a server without models: the id, and what a panic may not end.
pub(crate) async fn wrap_plain(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = response.unwrap_or_else(|_| ApiError::broken().into_response());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

pub(crate) async fn wrap(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    // The pattern, not the path: ids and tokens of shares are in paths.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("other", MatchedPath::as_str).to_owned();
    let method = method_name(request.method());
    let text = id.to_str().unwrap_or_default();
    let observed = Observed::begin(&app.watchers, text, (method, route), request.headers());
    let is_grpc = grpc::is_call(request.headers());
    let is_anthropic = request.uri().path().starts_with("/v1/messages");
    let is_program = request.uri().path().starts_with("/v1/");
    let answering = observe::within(Some(Arc::clone(&observed)), next.run(request));
    let response = AssertUnwindSafe(answering).catch_unwind().await;
    let mut response = response.unwrap_or_else(|_| ApiError::broken().into_response());
    // What the framework refuses by itself, such as a query with one field twice, is refused as we do.
    let is_ours = response.extensions().get::<ApiError>().is_some();
    if is_program
        && !is_grpc
        && !is_ours
        && response.status().is_client_error()
        && is_text(&response)
    {
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), MAX_REFUSAL_BYTES).await;
        let reason = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        response = ApiError::unreadable_request(status, &reason).into_response();
    }
    if is_grpc && let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = grpc::refused(&error);
    }
    if is_anthropic && let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let body = error.anthropic_body(id.to_str().unwrap_or_default());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body.to_string());
    }
    if is_anthropic {
        response.headers_mut().insert(HeaderName::from_static("request-id"), id.clone());
    }
    response.headers_mut().insert(REQUEST_ID, id);
    let status = response.status();
    app.metrics.answered(method, observed.route(), status.as_u16());
    response.map(|body| observed.until_the_end_of(status, body))
}

fn is_text(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/plain"))
}

/// The client's own, or a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    client_id(headers).unwrap_or_else(|| {
        HeaderValue::try_from(fresh_id("req_")).unwrap_or(HeaderValue::from_static("req"))
    })
}

/// The id that the client gave, if it is one that may stand in logs.
fn client_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(&REQUEST_ID)?;
    let text = id.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!text.is_empty() && text.len() <= MAX_ID_BYTES && text.bytes().all(is_plain))
        .then(|| id.clone())
}
