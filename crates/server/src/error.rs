//! Refusals, in the forms that OpenAI's and Anthropic's clients read.
//!
//! An answer carries its [`ApiError`] as an extension too, so that `envelope.rs` can put it into the
//! form of the protocol that was spoken, wherever on the way it arose.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rapport_types::{GenerateError, Readiness};
use serde_json::{Value, json};

/// `code` while a model is being brought or loaded.
const NOT_READY: &str = "model_not_ready";

/// Why a request has no reply: `error` of the body.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    retry_after_s: Option<u64>,
}

/// Every `type` and `code` there is.
const KINDS: [&str; 5] = [
    "invalid_request_error",
    "server_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
];
const CODES: [&str; 7] = [
    "not_found",
    "model_not_found",
    "unknown_path",
    "invalid_api_key",
    "rate_limit_exceeded",
    "context_length_exceeded",
    NOT_READY,
];

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into(), retry_after_s: None }
    }

    /// A field of the body that cannot be used.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        Self { param: Some(param.into()), ..error }
    }

    /// The body is no JSON, or not that of this request.
    pub(crate) fn not_readable(param: Option<String>, reason: &serde_json::Error) -> Self {
        let message = format!("the body cannot be read as this request: {reason}");
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message) }
    }

    pub(crate) fn wrong_content_type(found: &str, wanted: &str) -> Self {
        let message = format!("the body is `{found}`: send `Content-Type: {wanted}`");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    pub(crate) fn wrong_encoding(found: &str) -> Self {
        let message = format!("the body is compressed as `{found}`: send it as it is");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    pub(crate) fn slow_body(limit: Duration) -> Self {
        let message = format!("the body was not here within {} s", limit.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    /// Something of this name is not there, or is not for whoever asks.
    pub(crate) fn not_found(message: String) -> Self {
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Self { code: Some("not_found"), ..error }
    }

    pub(crate) fn no_such_deferred(id: &str) -> Self {
        Self::not_found(format!(
            "there is no deferred completion `{id}`: each is kept for a day and can be read once"
        ))
    }

    /// This server, or the engine behind it, has no such ability.
    pub(crate) fn unsupported(message: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "invalid_request_error", message)
    }

    /// A fault of the server; what it was is no business of the client.
    pub(crate) fn broken() -> Self {
        let message = "the server broke while it answered this; others are not affected";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    pub(crate) fn unreadable_body(status: StatusCode, reason: &str) -> Self {
        Self::new(status, "invalid_request_error", format!("the body cannot be read: {reason}"))
    }

    /// The path or the query is not as it should be.
    pub(crate) fn unreadable_request(status: StatusCode, reason: &str) -> Self {
        Self::new(status, "invalid_request_error", format!("the request cannot be read: {reason}"))
    }

    pub(crate) fn no_such_model(name: &str, known: &[String]) -> Self {
        let message = format!("there is no model `{name}` here: use one of {}", known.join(", "));
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Self { param: Some("model".to_owned()), code: Some("model_not_found"), ..error }
    }

    pub(crate) fn no_such_path() -> Self {
        let message = "nothing is served under this path: /openapi.json lists what is";
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Self { code: Some("unknown_path"), ..error }
    }

    pub(crate) fn wrong_method() -> Self {
        let message = "this path does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    pub(crate) fn bad_key() -> Self {
        let message = "this server asks for its API key: send `Authorization: Bearer KEY` or `x-api-key: KEY`";
        let error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        Self { code: Some("invalid_api_key"), ..error }
    }

    pub(crate) fn foreign_host(found: &str) -> Self {
        let message = format!(
            "this server is not known as `{found}`: call it by its address, or start it with \
             --host-name {found}"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, "invalid_request_error", message)
    }

    pub(crate) fn foreign_origin() -> Self {
        let message = "pages of other sites may not use this server";
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether nothing is served there at all.
    pub(crate) fn is_unknown_path(&self) -> bool {
        self.code == Some("unknown_path")
    }

    /// The message with the field that it is about.
    pub(crate) fn told(&self) -> String {
        match &self.param {
            Some(param) => format!("{param}: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// A limit of a plan is reached.
    pub(crate) fn limited(message: String, retry_after_s: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { code: Some("rate_limit_exceeded"), retry_after_s: Some(retry_after_s), ..error }
    }

    /// The key is right and does not open this.
    pub(crate) fn closed_to_key(scope: &str) -> Self {
        let message = format!("this key does not have the scope `{scope}`: use one that has");
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// The model cannot answer yet; when to ask again depends on what it waits for.
    fn not_ready(waiting: &Readiness, message: String) -> Self {
        let retry_after_s = match waiting {
            Readiness::Ready | Readiness::Loading => 1,
            Readiness::Pulling { .. } => 5,
            Readiness::Away { retry_after_s } => u64::from(*retry_after_s),
            Readiness::Failed { .. } => 60,
        };
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        Self { code: Some(NOT_READY), retry_after_s: Some(retry_after_s), ..error }
    }

    /// Whether another try may go well once the model is there.
    pub(crate) fn is_not_ready(&self) -> bool {
        self.code == Some(NOT_READY)
    }

    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s
    }

    /// What is stored about people cannot be read or written now.
    pub(crate) fn store_busy() -> Self {
        let message = "the store of this server cannot answer now: try again";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        Self { retry_after_s: Some(1), ..error }
    }

    pub(crate) fn field(&self) -> Option<&str> {
        self.param.as_deref()
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// As it is kept with a completion that failed while nobody waited.
    pub(crate) fn to_value(&self) -> Value {
        json!({ "status": self.status.as_u16(), "error": self.body()["error"] })
    }

    /// The inverse of [`ApiError::to_value`]; what cannot be read is a fault of the server.
    pub(crate) fn from_value(value: &Value) -> Self {
        let error = &value["error"];
        let status = value["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let kind = KINDS.into_iter().find(|kind| error["type"] == *kind);
        let (Some(status), Some(kind), Some(message)) = (status, kind, error["message"].as_str())
        else {
            return Self::broken();
        };
        let code = CODES.into_iter().find(|code| error["code"] == *code);
        let param = error["param"].as_str().map(str::to_owned);
        Self { code, param, ..Self::new(status, kind, message) }
    }

    pub(crate) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        } })
    }
}

impl ApiError {
    /// The body in Anthropic's form.
    pub(crate) fn anthropic_body(&self, request_id: &str) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 | 421 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        let error = json!({ "type": kind, "message": self.told() });
        json!({ "type": "error", "error": error, "request_id": request_id })
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        let invalid = |param: &str| Self::invalid(param, message.clone());
        match &error {
            GenerateError::NoMessages | GenerateError::Template { .. } => invalid("messages"),
            GenerateError::PromptTooLong { .. } => {
                Self { code: Some("context_length_exceeded"), ..invalid("messages") }
            }
            GenerateError::InvalidRequest { field, .. } => invalid(field),
            GenerateError::Filtered { .. } => {
                Self { code: Some("content_filter"), ..invalid("messages") }
            }
            GenerateError::UnknownAdapter { .. } => {
                let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
                Self { param: Some("model".to_owned()), code: Some("model_not_found"), ..error }
            }
            GenerateError::Format(_) => invalid("response_format"),
            GenerateError::Overloaded => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            }
            GenerateError::Busy { retry_after_s } => {
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
                Self { retry_after_s: Some(u64::from(*retry_after_s)), ..error }
            }
            GenerateError::Unavailable { retry_after_s, .. } => {
                let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
                Self { retry_after_s: Some(u64::from(*retry_after_s)), ..error }
            }
            GenerateError::EngineStopped => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
            }
            GenerateError::Unsupported { .. } => Self::unsupported(&message),
            GenerateError::NotReady(waiting) => Self::not_ready(waiting, message),
            GenerateError::FormatLost { .. } | GenerateError::Internal { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let is_crowded = self.status == StatusCode::TOO_MANY_REQUESTS;
        if let Some(seconds) = self.retry_after_s.or(is_crowded.then_some(1)) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}
