//! What a message says of its writer, by whoever reads it for the server.

use std::fmt::Debug;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use rapport_store::Message;
use rapport_types::{Message as Said, OutputFormat, Role};
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::forms::id;
use super::session::Person;

/// Reads messages. Only tone and help may follow from what is read, never what is said to be true.
pub trait ReadMessages: Debug + Send + Sync {
    /// What was read in a message, for the person who wrote it.
    fn read(&self, message: &str) -> Value;

    /// What a model must be told where the person may be in danger.
    fn guidance(&self, message: &str) -> Option<String>;

    /// An expression that the answer to somebody in danger must match: words that people wrote, for a
    /// model that cannot be trusted to find them.
    fn written(&self, message: &str) -> Option<String> {
        let _ = message;
        None
    }
}

/// The form of the answer to a branch.
pub(super) fn form_of_answer(
    reader: Option<&Arc<dyn ReadMessages>>,
    branch: &[Said],
) -> OutputFormat {
    let last = branch.iter().rev().find(|said| said.role == Role::User);
    let written = reader.zip(last).and_then(|(reader, last)| reader.written(&last.content));
    written.map_or(OutputFormat::Text, OutputFormat::Regex)
}

/// What a model is told before a branch: where its last message speaks of danger, help comes last.
pub(super) fn with_guidance(
    reader: Option<&Arc<dyn ReadMessages>>,
    system: Option<String>,
    branch: &[Said],
) -> Option<String> {
    let last = branch.iter().rev().find(|said| said.role == Role::User);
    let guidance = reader.zip(last).and_then(|(reader, last)| reader.guidance(&last.content));
    match (system, guidance) {
        (Some(system), Some(guidance)) => Some(format!("{system}\n\n{guidance}")),
        (system, guidance) => system.or(guidance),
    }
}

/// `GET /api/messages/{id}/reading`: of a message of the person, or of the one that a reply answers.
pub(super) async fn get(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<Json<Value>, WebError> {
    let Some(reader) = &web.accounts.reader else {
        return Err(WebError::not_found("reading"));
    };
    let mut message: Message = web.store().message(user.id, id(&text, "message")?).await?;
    if message.role != Role::User {
        let branch = web.store().branch(user.id, message.id, u32::MAX).await?;
        let asked = branch.into_iter().rfind(|said| said.role == Role::User);
        message = asked.ok_or_else(|| WebError::not_found("message"))?;
    }
    Ok(Json(json!({ "message_id": message.id, "reading": reader.read(&message.content) })))
}
