//! Reactions to replies.

use axum::Json;
use axum::extract::State;
use rapport_store::{Chip, FeedbackId, MessageId, NewFeedback, Signal, Thumb, Verdict};
use rapport_types::Role;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::forms::{Body, id};
use super::session::Person;

const MAX_TEXT_BYTES: usize = 256 << 10;

#[derive(Deserialize)]
pub(super) struct Given {
    message_id: String,
    kind: String,
    #[serde(default)]
    value: Value,
    /// The page's own name for this reaction: sent again under it, it counts once.
    id: Option<FeedbackId>,
}

/// `POST /api/feedback`
pub(super) async fn give(
    State(web): State<Web>,
    Person(user): Person,
    Body(given): Body<Given>,
) -> Result<Json<Value>, WebError> {
    let message = web.store().message(user.id, id(&given.message_id, "message")?).await?;
    if message.role != Role::Assistant {
        return Err(WebError::invalid("message_id", "only replies can be judged"));
    }
    let now = web.now();
    let new = NewFeedback {
        id: given.id.unwrap_or_else(|| FeedbackId::new(now)),
        message: Some(message.id),
        reply: None,
        build: message.reply.map(|facts| facts.build).unwrap_or_default(),
        signal: signal(&given.kind, given.value)?,
        has_consent: user.has_consent,
    };
    web.store().add_feedback(user.id, &new, now).await?;
    let kept_for = if user.has_consent { "training" } else { "you" };
    // Nothing here changes how the assistant talks: only its person does, on the page of style.
    Ok(Json(json!({ "kept": true, "kept_for": kept_for, "style_changed": false })))
}

fn signal(kind: &str, value: Value) -> Result<Signal, WebError> {
    let wrong = |message: &str| WebError::invalid("value", message);
    let text = |value: &Value| match value.as_str() {
        Some(text) if text.len() <= MAX_TEXT_BYTES => Ok(text.to_owned()),
        _ => Err(wrong("it must be a text of at most 256 kB")),
    };
    Ok(match kind {
        "thumb" => Signal::Thumb(match value.as_i64() {
            Some(1) => Thumb::Up,
            Some(-1) => Thumb::Down,
            Some(0) => Thumb::None,
            _ => return Err(wrong("a thumb is 1, -1 or 0")),
        }),
        "chip" => {
            let chip: Chip = serde_json::from_value(value)
                .map_err(|_| wrong("a chip is too_long, too_cold, too_pushy or not_true"))?;
            Signal::Chip(chip)
        }
        "edit" => Signal::Edit(text(&value)?),
        "comment" => Signal::Comment(text(&value)?),
        "copy" => Signal::Copy,
        "regenerate" => Signal::Regenerate,
        "choice" => {
            #[derive(Deserialize)]
            struct Choice {
                other_message_id: MessageId,
                verdict: Verdict,
            }
            let choice: Choice = serde_json::from_value(value).map_err(|_| {
                wrong("a choice has other_message_id and verdict: this, other, tie or both_bad")
            })?;
            Signal::Choice { other: choice.other_message_id, verdict: choice.verdict }
        }
        _ => {
            let kinds = "use thumb, chip, edit, choice, copy, comment or regenerate";
            return Err(WebError::invalid("kind", kinds));
        }
    })
}
