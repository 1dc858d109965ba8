//! Personas, how somebody wants to be spoken to, and what is remembered of them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rapport_store::User;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::forms::{self, Body, id};
use super::prompt::{StyleBody, style_of};
use super::session::Person;

const MAX_INSTRUCTIONS_CHARACTERS: usize = 4_000;
const MAX_MEMORY_CHARACTERS: usize = 1_000;
const MAX_MEMORIES: usize = 200;

/// `GET /api/personas`
pub(super) async fn personas(State(web): State<Web>, _person: Person) -> Json<Value> {
    Json(json!(web.accounts.personas))
}

async fn described(web: &Web, user: &User) -> Result<Json<Value>, WebError> {
    let style = style_of(web, user).await?;
    let memories = web.store().memories(user.id).await?;
    let can_undo = web.store().style(user.id).await?.is_some_and(|style| style.can_undo);
    Ok(Json(json!({
        "persona": style.persona,
        "instructions": style.instructions,
        "sliders": style.sliders,
        "explanation": style.explanation(&web.accounts.personas, memories.len()),
        "can_undo": can_undo,
    })))
}

/// `GET /api/style`
pub(super) async fn get(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    described(&web, &user).await
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    persona: Option<String>,
    #[serde(default)]
    instructions: String,
    #[serde(default)]
    sliders: super::prompt::Sliders,
}

/// `PUT /api/style`
pub(super) async fn put(
    State(web): State<Web>,
    Person(user): Person,
    Body(wanted): Body<Wanted>,
) -> Result<Json<Value>, WebError> {
    if let Some(name) = wanted.sliders.out_of_range() {
        return Err(WebError::invalid(&format!("sliders.{name}"), "a slider goes from -2 to 2"));
    }
    if wanted.instructions.chars().count() > MAX_INSTRUCTIONS_CHARACTERS {
        let message = format!("instructions have at most {MAX_INSTRUCTIONS_CHARACTERS} characters");
        return Err(WebError::invalid("instructions", message));
    }
    let persona = wanted.persona.filter(|persona| !persona.is_empty());
    if let Some(persona) = &persona
        && web.accounts.personas.iter().all(|known| known.id != *persona)
    {
        return Err(WebError::invalid("persona", format!("there is no persona `{persona}`")));
    }
    let Wanted { instructions, sliders, .. } = wanted;
    save(&web, &user, &json!(StyleBody { persona, instructions, sliders })).await?;
    described(&web, &user).await
}

async fn save(web: &Web, user: &User, body: &Value) -> Result<(), WebError> {
    let version = web.store().style(user.id).await?.map_or(0, |style| style.version);
    web.store().put_style(user.id, version, body, web.now()).await?;
    Ok(())
}

/// `POST /api/style/undo`
pub(super) async fn undo(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    web.store().undo_style(user.id, web.now()).await?;
    described(&web, &user).await
}

/// `DELETE /api/style`
pub(super) async fn reset(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    if web.store().style(user.id).await?.is_some_and(|style| !style.body.is_null()) {
        save(&web, &user, &Value::Null).await?;
    }
    described(&web, &user).await
}

/// `GET /api/memory`
pub(super) async fn memories(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    let memories = web.store().memories(user.id).await?;
    Ok(Json(memories.iter().map(forms::memory).collect()))
}

#[derive(Deserialize)]
pub(super) struct Remembered {
    text: String,
}

impl Remembered {
    fn checked(&self) -> Result<&str, WebError> {
        let text = self.text.trim();
        if text.is_empty() || text.chars().count() > MAX_MEMORY_CHARACTERS {
            let message = format!("a memory has 1 to {MAX_MEMORY_CHARACTERS} characters");
            return Err(WebError::invalid("text", message));
        }
        Ok(text)
    }
}

/// `POST /api/memory`
pub(super) async fn remember(
    State(web): State<Web>,
    Person(user): Person,
    Body(new): Body<Remembered>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let text = new.checked()?;
    if web.store().memories(user.id).await?.len() >= MAX_MEMORIES {
        let message = format!("there are {MAX_MEMORIES} memories: forget one first");
        return Err(WebError::conflict(&message));
    }
    let memory = web.store().remember(user.id, text, "user", web.now()).await?;
    Ok((StatusCode::CREATED, Json(forms::memory(&memory))))
}

/// `PATCH /api/memory/{id}`
pub(super) async fn change_memory(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Body(new): Body<Remembered>,
) -> Result<Json<Value>, WebError> {
    let id = id(&text, "memory")?;
    let memory = web.store().change_memory(user.id, id, new.checked()?, web.now()).await?;
    Ok(Json(forms::memory(&memory)))
}

/// `DELETE /api/memory/{id}`
pub(super) async fn forget(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    web.store().forget(user.id, id(&text, "memory")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/memory`
pub(super) async fn forget_all(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    let n_forgotten = web.store().forget_all(user.id).await?;
    Ok(Json(json!({ "forgotten": n_forgotten })))
}
