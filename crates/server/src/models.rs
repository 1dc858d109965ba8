//! The models on offer: each in three modes, and with each of its adapters.
//!
//! `NAME@ADAPTER` asks for an adapter by name and `NAME@none` for the model alone; `NAME` is the model
//! as it is run.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use rapport_types::{AdapterChoice, BuildId, Generate, Mode, ModelInfo, SamplingDraft};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::replies::rfc3339;
use crate::wanted::decimal;
use crate::{App, Shared};

/// Under its name the first model is `rapport`.
const FIRST: &str = "rapport";

/// A model as a client names it.
pub(crate) struct Offered {
    pub(crate) id: String,
    pub(crate) mode: Mode,
    pub(crate) adapter: AdapterChoice,
    /// Its build is the one that answers, adapter included.
    pub(crate) info: ModelInfo,
    pub(crate) generate: Arc<dyn Generate>,
}

impl Offered {
    /// How it samples what a request leaves open.
    pub(crate) fn sampling(&self) -> SamplingDraft {
        self.generate.sampling(&self.adapter)
    }
}

/// All models, each with `-fast` and `-thinking` behind its name for the modes that are not left to
/// choose, and then each with its adapters.
pub(crate) fn offered(app: &Shared) -> impl Iterator<Item = Offered> {
    app.models.iter().enumerate().flat_map(|(model_idx, generate)| {
        let name = if model_idx == 0 { FIRST.to_owned() } else { generate.model().name };
        with_adapters(&name, generate)
    })
}

/// One model under a name, in all its forms.
fn with_adapters(name: &str, generate: &Arc<dyn Generate>) -> Vec<Offered> {
    let info = generate.model();
    let adapters = generate.adapters();
    let plain = BuildId { adapter: "none".to_owned(), ..info.build.clone() };
    let plain = (!adapters.is_empty()).then(|| ("@none".to_owned(), AdapterChoice::None, plain));
    let named = adapters.into_iter().map(|adapter| {
        let choice = AdapterChoice::Named(adapter.name.clone());
        (format!("@{}", adapter.name), choice, adapter.build)
    });
    let usual = (String::new(), AdapterChoice::Default, info.build.clone());
    let forms = [usual].into_iter().chain(named).chain(plain);
    forms
        .flat_map(|(suffix, adapter, build)| {
            [("", Mode::Auto), ("-fast", Mode::Fast), ("-thinking", Mode::Thinking)].map(
                |(mode_suffix, mode)| Offered {
                    id: format!("{name}{mode_suffix}{suffix}"),
                    mode,
                    adapter: adapter.clone(),
                    info: ModelInfo { build: build.clone(), ..info.clone() },
                    generate: Arc::clone(generate),
                },
            )
        })
        .collect()
}

/// The model of this name; the first model's own name is as good as `rapport`.
pub(crate) fn find(app: &Shared, name: &str) -> Result<Offered, ApiError> {
    let own = app.models.first().into_iter();
    let own = own.flat_map(|generate| with_adapters(&generate.model().name, generate));
    if let Some(found) = offered(app).chain(own).find(|model| model.id == name) {
        return Ok(found);
    }
    // Which adapters there are is known once the model is there.
    if name.contains('@')
        && let Some(first) = app.models.first()
    {
        first.check_ready()?;
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
    let info = &model.info;
    let sampling = model.sampling();
    let adapter = match &model.adapter {
        AdapterChoice::Default => None,
        AdapterChoice::None => Some("none"),
        AdapterChoice::Named(name) => Some(name.as_str()),
    };
    json!({
        "id": model.id,
        "object": "model",
        "type": "model",
        "created": app.started,
        "created_at": rfc3339(app.started),
        "display_name": match adapter {
            Some(adapter) => format!("{} with {adapter}, {}", info.name, model.mode),
            None => format!("{}, {}", info.name, model.mode),
        },
        "owned_by": "rapport",
        "rapport": {
            "mode": model.mode.as_str(),
            "adapter": adapter,
            "weights": info.name,
            "context_tokens": info.context_tokens,
            "build": info.build.to_string(),
            "sampling": { "temperature": decimal(sampling.temperature), "top_p": decimal(sampling.top_p) },
        },
    })
}
