//! How far the model is, for the page to show while it comes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rapport_store::{User, UserRole};
use rapport_types::Readiness;
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::session::{Admin, Viewer};

/// The word of a state.
pub(super) fn state(readiness: &Readiness) -> &'static str {
    match readiness {
        Readiness::Ready => "ready",
        Readiness::Pulling { .. } => "pulling",
        Readiness::Loading => "loading",
        Readiness::Away { .. } => "away",
        Readiness::Failed { .. } => "failed",
    }
}

/// The first model. Why it failed is told to whoever runs this server: an administrator, or anybody
/// while nobody has an account.
pub(super) fn form(web: &Web, viewer: Option<&User>, has_users: bool) -> Result<Value, WebError> {
    let generate = web.generate()?;
    let (info, readiness) = (generate.model(), generate.readiness());
    let (bytes, total_bytes) = match &readiness {
        Readiness::Pulling { done_bytes, total_bytes } => (*done_bytes, *total_bytes),
        _ => (None, None),
    };
    let sees_reason = !has_users || viewer.is_some_and(|user| user.role == UserRole::Admin);
    let error = match &readiness {
        Readiness::Failed { reason } if sees_reason => Some(reason.clone()),
        Readiness::Failed { .. } | Readiness::Away { .. } => {
            Some(format!("the model is {readiness}"))
        }
        Readiness::Ready | Readiness::Loading | Readiness::Pulling { .. } => None,
    };
    Ok(json!({
        "state": state(&readiness),
        "name": info.name,
        "bytes": bytes,
        "total_bytes": total_bytes,
        "error": error,
        "context_tokens": Some(info.context_tokens).filter(|_| readiness == Readiness::Ready),
    }))
}

/// `GET /api/model`
pub(super) async fn show(State(web): State<Web>, viewer: Viewer) -> Result<Json<Value>, WebError> {
    let has_users = web.store().has_users().await?;
    form(&web, viewer.user(), has_users).map(Json)
}

/// `POST /api/model/retry`
pub(super) async fn retry(
    State(web): State<Web>,
    Admin(admin): Admin,
) -> Result<(StatusCode, Json<Value>), WebError> {
    if !web.generate()?.try_again() {
        return Err(WebError::conflict("the model has not failed: there is nothing to try again"));
    }
    Ok((StatusCode::ACCEPTED, Json(form(&web, Some(&admin), true)?)))
}
