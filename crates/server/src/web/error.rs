//! Refusals in the form that the web app reads.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rapport_store::Error;
use rapport_types::GenerateError;
use serde_json::{Value, json};

use crate::charge::Refused;
use crate::error::ApiError;

/// `error` of the body: a code for the page, a message for the person.
#[derive(Debug)]
pub(crate) struct WebError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
    limit: Option<Box<Value>>,
    retry_after_s: Option<u64>,
}

impl WebError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code, message, field: None, limit: None, retry_after_s: None }
    }

    pub(super) fn signed_out() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "signed_out", "sign in first")
    }

    pub(super) fn wrong_password() -> Self {
        let message = "no account has this name and password: check both";
        Self::new(StatusCode::UNAUTHORIZED, "wrong_password", message)
    }

    pub(super) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message);
        Self { field: Some(field.to_owned()), ..error }
    }

    pub(super) fn conflict(message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    pub(super) fn limited(message: &str, retry_after_s: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "limited", message);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    pub(super) fn overloaded(message: &str) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
        Self { retry_after_s: Some(1), ..error }
    }

    pub(super) fn broken() -> Self {
        let message = "the server broke while it answered this; try again";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", message)
    }

    /// `error` of the body.
    pub(super) fn form(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(field) = &self.field {
            error["field"] = json!(field);
        }
        error
    }
}

impl From<Error> for WebError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { what } => Self::not_found(what),
            Error::Conflict { what, problem } => Self::conflict(&format!("{what}: {problem}")),
            Error::Invalid { what, problem } => Self::invalid(what, problem),
            Error::Busy { .. } => {
                Self::overloaded("the store of this server cannot answer now: try again")
            }
            _ => Self::broken(),
        }
    }
}

impl From<ApiError> for WebError {
    fn from(error: ApiError) -> Self {
        let message = error.message().to_owned();
        let status = error.status();
        let of = |status, code| Self::new(status, code, message.clone());
        let retry_after_s = error.retry_after_s().or(Some(1));
        match status.as_u16() {
            503 if error.is_not_ready() => Self { retry_after_s, ..of(status, "not_ready") },
            400 | 408 | 413 | 415 | 422 => of(StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            429 | 503 => {
                Self { retry_after_s: Some(1), ..of(StatusCode::SERVICE_UNAVAILABLE, "overloaded") }
            }
            404 => of(status, "not_found"),
            403 => of(status, "forbidden"),
            _ => Self::broken(),
        }
        .with_field(error.field())
    }
}

impl WebError {
    fn with_field(mut self, field: Option<&str>) -> Self {
        self.field = field.map(str::to_owned).or(self.field);
        self
    }
}

impl From<GenerateError> for WebError {
    fn from(error: GenerateError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<Refused> for WebError {
    fn from(refused: Refused) -> Self {
        let message = refused.message();
        match refused {
            Refused::Limit { limit, allowed, used, retry_after_ms, .. } => Self {
                limit: Some(Box::new(json!({ "name": limit, "allowed": allowed, "used": used }))),
                ..Self::limited(&message, retry_after_ms.div_ceil(1000).max(1))
            },
            Refused::Store(error) => error.into(),
            Refused::Generate(error) => error.into(),
        }
    }
}

impl IntoResponse for WebError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.form() });
        if let Some(limit) = self.limit {
            body["limit"] = *limit;
        }
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
