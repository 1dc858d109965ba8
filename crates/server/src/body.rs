//! Reading what a client sends, within limits of form, size and time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// How long a client may take to send its body.
const MAX_BODY_TIME: Duration = Duration::from_secs(30);

/// A JSON body, read as `T`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        check_headers(request.headers())?;
        let body = read_bytes(request, state).await?;
        let reader = &mut serde_json::Deserializer::from_slice(&body);
        let read = serde_path_to_error::deserialize(reader).map_err(|error| {
            let path = error.path().to_string();
            ApiError::not_readable((path != ".").then_some(path), &error.into_inner())
        })?;
        Ok(Self(read))
    }
}

/// The body as it is, within the limits of size and time.
pub(crate) async fn read_bytes<S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<Bytes, ApiError> {
    tokio::time::timeout(MAX_BODY_TIME, Bytes::from_request(request, state))
        .await
        .map_err(|_| ApiError::slow_body(MAX_BODY_TIME))?
        .map_err(|error| ApiError::unreadable_body(error.status(), &error.body_text()))
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
