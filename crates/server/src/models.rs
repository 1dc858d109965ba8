//! The models on offer: each in three modes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use rapport_types::{Generate, Mode};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::replies::rfc3339;
use crate::{App, Shared};

/// Under its name the first model is `rapport`.
const FIRST: &str = "rapport";

/// A model as a client names it.
pub(crate) struct Offered {
    pub(crate) id: String,
    pub(crate) mode: Mode,
    pub(crate) generate: Arc<dyn Generate>,
}

/// All models, each with `-fast` and `-thinking` behind its name for the modes that are not left to
/// choose.
pub(crate) fn offered(app: &Shared) -> impl Iterator<Item = Offered> {
    app.models.iter().enumerate().flat_map(|(model_idx, generate)| {
        let name = if model_idx == 0 { FIRST.to_owned() } else { generate.model().name };
        [("", Mode::Auto), ("-fast", Mode::Fast), ("-thinking", Mode::Thinking)].map(
            |(suffix, mode)| Offered {
                id: format!("{name}{suffix}"),
                mode,
                generate: Arc::clone(generate),
            },
        )
    })
}

/// The model of this name; the first model's own name is as good as `rapport`.
pub(crate) fn find(app: &Shared, name: &str) -> Result<Offered, ApiError> {
    if let Some(found) = offered(app).find(|model| model.id == name) {
        return Ok(found);
    }
    let own = app.models.first().filter(|generate| generate.model().name == name);
    if let Some(generate) = own {
        let (id, generate) = (name.to_owned(), Arc::clone(generate));
        return Ok(Offered { id, mode: Mode::Auto, generate });
    }
    let known: Vec<String> = offered(app).map(|model| model.id).collect();
    Err(ApiError::no_such_model(name, &known))
}

pub(crate) async fn list(State(app): State<App>) -> Json<Value> {
    let models: Vec<Value> = offered(&app).map(|model| described(&app, &model)).collect();
    let id = |model: Option<&Value>| model.map(|model| model["id"].clone());
    let (first_id, last_id) = (id(models.first()), id(models.last()));
    Json(json!({
        "object": "list", "data": models,
        // Anthropic's clients read these.
        "first_id": first_id, "last_id": last_id, "has_more": false,
    }))
}

pub(crate) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(described(&app, &find(&app, &id)?)))
}

/// In OpenAI's words and Anthropic's together.
fn described(app: &Shared, model: &Offered) -> Value {
    let info = model.generate.model();
    json!({
        "id": model.id,
        "object": "model",
        "type": "model",
        "created": app.started,
        "created_at": rfc3339(app.started),
        "display_name": format!("{}, {}", info.name, model.mode),
        "owned_by": "rapport",
        "rapport": {
            "mode": model.mode.as_str(),
            "weights": info.name,
            "context_tokens": info.context_tokens,
            "build": info.build.to_string(),
        },
    })
}
