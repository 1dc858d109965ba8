//! gRPC over HTTP/2: messages with a length before them, and a status in the trailers.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. Messages are never
//! compressed, and one that is gets refused, as the specification allows.

use std::convert::Infallible;
use std::fmt::Write;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;

use crate::body;
use crate::error::ApiError;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Whether it is compressed, and the length.
const PREFIX_BYTES: usize = 5;

/// Whether this is a call of gRPC, whose errors are statuses in trailers.
pub(crate) fn is_call(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind == "application/grpc" || kind == "application/grpc+proto")
}

/// The one message of a call.
pub(super) struct Asked<M>(pub(super) M);

impl<S: Send + Sync, M: Message + Default> FromRequest<S> for Asked<M> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        if !is_call(request.headers()) {
            let found = request.headers().get(header::CONTENT_TYPE);
            let found = found.and_then(|value| value.to_str().ok()).unwrap_or_default();
            return Err(ApiError::wrong_content_type(found, "application/grpc"));
        }
        let bytes = body::read_bytes(request).await?;
        let (prefix, message) = bytes.split_at_checked(PREFIX_BYTES).ok_or_else(cut)?;
        let (compressed, length) = (prefix[0], &prefix[1..]);
        if compressed != 0 {
            return Err(ApiError::unsupported("the message is compressed: send it as it is"));
        }
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if message.len() != length {
            return Err(cut());
        }
        let read = M::decode(message).map_err(|error| {
            let reason = error.to_string();
            ApiError::unreadable_body(StatusCode::BAD_REQUEST, &reason)
        })?;
        Ok(Self(read))
    }
}

fn cut() -> ApiError {
    ApiError::unreadable_body(StatusCode::BAD_REQUEST, "it is not one whole message of gRPC")
}

/// The one message of an answer.
pub(super) struct Told<M>(pub(super) M);

impl<M: Message + 'static> IntoResponse for Told<M> {
    fn into_response(self) -> Response {
        streamed(stream::iter([Ok(self.0)]))
    }
}

/// Sends messages while they are made; the first error ends the call.
pub(super) fn streamed<M: Message + 'static>(
    messages: impl Stream<Item = Result<M, ApiError>> + Send + 'static,
) -> Response {
    let parts = messages.map(Some).chain(stream::iter([None])).scan(false, |is_over, part| {
        let frame = match part {
            _ if *is_over => return std::future::ready(None),
            Some(Ok(message)) => Frame::data(framed(&message)),
            Some(Err(error)) => {
                *is_over = true;
                Frame::trailers(trailers(&error))
            }
            None => Frame::trailers(HeaderMap::from_iter([(STATUS, HeaderValue::from(0))])),
        };
        std::future::ready(Some(Ok::<_, Infallible>(frame)))
    });
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], Body::new(StreamBody::new(parts))).into_response()
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
    bytes.push(0);
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend(message.encode_to_vec());
    bytes.into()
}

/// An error instead of an answer.
pub(crate) fn refused(error: &ApiError) -> Response {
    let mut response = ([(header::CONTENT_TYPE, CONTENT_TYPE)], ()).into_response();
    response.headers_mut().extend(trailers(error));
    response
}

fn trailers(error: &ApiError) -> HeaderMap {
    let message = escaped(&error.told());
    let message = HeaderValue::try_from(message).unwrap_or(HeaderValue::from_static("refused"));
    HeaderMap::from_iter([(STATUS, HeaderValue::from(code(error))), (MESSAGE, message)])
}

/// The code of gRPC that stands for an HTTP status. Clients try again on 14 only.
fn code(error: &ApiError) -> u16 {
    match error.status().as_u16() {
        400 | 415 | 421 => 3,
        401 => 16,
        403 => 7,
        404 if error.is_unknown_path() => 12,
        404 => 5,
        405 | 501 => 12,
        408 => 4,
        413 | 429 => 8,
        503 => 14,
        _ => 13,
    }
}

/// Percent-encoded, as the status message has to be.
fn escaped(message: &str) -> String {
    message.bytes().fold(String::with_capacity(message.len()), |mut text, byte| {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_errors_go_through_headers() {
        assert_eq!(escaped("a `b` 100%\nné"), "a `b` 100%25%0An%C3%A9");
    }
}
