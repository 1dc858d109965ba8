//! Refusals in the form that OpenAI's clients read.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rapport_types::GenerateError;
use serde_json::{Value, json};

/// Why a request has no reply: `error` of the body.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    /// A field of the body that cannot be used.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        Self { param: Some(param.into()), ..error }
    }

    pub(crate) fn not_json(reason: &serde_json::Error) -> Self {
        let message = format!("the body cannot be read as this request: {reason}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    pub(crate) fn unreadable_body(status: StatusCode, reason: &str) -> Self {
        Self::new(status, "invalid_request_error", format!("the body cannot be read: {reason}"))
    }

    pub(crate) fn no_such_model(name: &str, known: &[String]) -> Self {
        let message = format!("there is no model `{name}` here: use one of {}", known.join(", "));
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Self { param: Some("model".to_owned()), code: Some("model_not_found"), ..error }
    }

    pub(crate) fn no_such_path() -> Self {
        let message = "nothing is served under this path: see /v1/models and /v1/chat/completions";
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    pub(crate) fn wrong_method() -> Self {
        let message = "this path does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    pub(crate) fn bad_key() -> Self {
        let message = "this server asks for its API key: send `Authorization: Bearer KEY`";
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

    pub(crate) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        } })
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
            GenerateError::Format(_) => invalid("response_format"),
            GenerateError::Overloaded => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            }
            GenerateError::EngineStopped => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
            }
            GenerateError::FormatLost { .. } | GenerateError::Internal { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
