//! Reading what a client sends, within limits of form, size and time.

use std::time::Duration;

use axum::RequestExt;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error::ApiError;

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// A JSON body, read as `T`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        check_headers(request.headers())?;
        let body = read_bytes(request).await?;
        let reader = &mut serde_json::Deserializer::from_slice(&body);
        let read = serde_path_to_error::deserialize(reader).map_err(|error| {
            let path = error.path().to_string();
            ApiError::not_readable((path != ".").then_some(path), &error.into_inner())
        })?;
        Ok(Self(read))
    }
}

/// How long a client may take to send a body, beside what its size allows; an extension of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyTime(pub(crate) Duration);

/// Bytes that earn a client another second.
const BYTES_A_SECOND: u64 = 64 << 10;

/// The body as it is, within the limits of size and time: a client that sends little by little is cut
/// off, one that sends much has longer.
pub(crate) async fn read_bytes(request: Request) -> Result<Bytes, ApiError> {
    let BodyTime(time) =
        request.extensions().get().copied().unwrap_or(BodyTime(Duration::from_secs(30)));
    let start = Instant::now();
    let mut pieces = request.into_limited_body().into_data_stream();
    let mut body = Vec::new();
    loop {
        let earned = Duration::from_secs(body.len() as u64 / BYTES_A_SECOND);
        let limit = time + earned;
        let piece = tokio::time::timeout_at(start + limit, pieces.next());
        match piece.await.map_err(|_| ApiError::slow_body(limit))? {
            None => return Ok(body.into()),
            Some(Ok(piece)) => body.extend_from_slice(&piece),
            Some(Err(error)) => {
                let status = if is_too_long(&error) {
                    StatusCode::PAYLOAD_TOO_LARGE
                } else {
                    StatusCode::BAD_REQUEST
                };
                return Err(ApiError::unreadable_body(status, &error.to_string()));
            }
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(found) = text(header::CONTENT_ENCODING)
        && !found.eq_ignore_ascii_case("identity")
    {
        return Err(ApiError::wrong_encoding(found));
    }
    let announced_bytes =
        text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    // A client that sends little more can read why it is refused once it has sent it.
    if announced_bytes.is_some_and(|n_bytes| n_bytes > 4 * MAX_BODY_BYTES as u64) {
        let reason = format!("it has more than {MAX_BODY_BYTES} bytes");
        return Err(ApiError::unreadable_body(StatusCode::PAYLOAD_TOO_LARGE, &reason));
    }
    if let Some(found) = text(header::CONTENT_TYPE) {
        let kind = found.split(';').next().unwrap_or_default().trim();
        let is_json = kind.eq_ignore_ascii_case("application/json")
            || (kind.starts_with("application/") && kind.ends_with("+json"));
        if !is_json {
            return Err(ApiError::wrong_content_type(kind, "application/json"));
        }
    }
    Ok(())
}
