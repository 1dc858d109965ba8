//! What is around every answer: an id to speak of it by, the protocol's own form of errors, and a
//! panic that ends no more than its own request.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::error::ApiError;
use crate::grpc;
use crate::replies::fresh_id;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 128;

pub(crate) async fn wrap(request: Request, next: Next) -> Response {
    let id = client_id(request.headers()).unwrap_or_else(|| {
        HeaderValue::try_from(fresh_id("req_")).unwrap_or(HeaderValue::from_static("req"))
    });
    let is_grpc = grpc::is_call(request.headers());
    let is_anthropic = request.uri().path().starts_with("/v1/messages");
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = response.unwrap_or_else(|_| ApiError::broken().into_response());
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
    response
}

/// The id that the client gave, if it is one that may stand in logs.
fn client_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(&REQUEST_ID)?;
    let text = id.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!text.is_empty() && text.len() <= MAX_ID_BYTES && text.bytes().all(is_plain))
        .then(|| id.clone())
}
