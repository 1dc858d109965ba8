//! The models on offer: one model in three modes.

use axum::Json;
use axum::extract::{Path, State};
use rapport_types::Mode;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::{App, Shared};

/// The name of each mode; the first is the default.
const NAMES: [(&str, Mode); 3] =
    [("rapport", Mode::Auto), ("rapport-fast", Mode::Fast), ("rapport-thinking", Mode::Thinking)];

/// The mode that a model's name asks for; the name of the loaded model itself is as good as
/// `rapport`.
pub(super) fn mode_of(app: &Shared, name: &str) -> Result<Mode, ApiError> {
    if let Some((_, mode)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*mode);
    }
    if app.generate.model().name == name {
        return Ok(Mode::Auto);
    }
    let known: Vec<String> = NAMES.iter().map(|(known, _)| (*known).to_owned()).collect();
    Err(ApiError::no_such_model(name, &known))
}

pub(crate) async fn list(State(app): State<App>) -> Json<Value> {
    let models: Vec<Value> = NAMES.iter().map(|(name, mode)| model(&app, name, *mode)).collect();
    Json(json!({ "object": "list", "data": models }))
}

pub(crate) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let mode = mode_of(&app, &id)?;
    Ok(Json(model(&app, &id, mode)))
}

fn model(app: &Shared, name: &str, mode: Mode) -> Value {
    let info = app.generate.model();
    json!({
        "id": name,
        "object": "model",
        "created": app.started,
        "owned_by": "rapport",
        "rapport": {
            "mode": mode.as_str(),
            "weights": info.name,
            "context_tokens": info.context_tokens,
            "build": info.build.to_string(),
        },
    })
}
