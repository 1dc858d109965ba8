//! How rows of the store look to the web app, and how bodies and ids from it are read.

use std::str::FromStr;

use axum::extract::{FromRequest, Request};
use rapport_store::{ApiKey, Conversation, Marks, Memory, Message, MessageId, Share, Thumb, User};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::WebError;
use crate::body::JsonBody;

/// A JSON body, whose faults are told in the web app's form.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = WebError;

    async fn from_request(request: Request, state: &S) -> Result<Self, WebError> {
        let JsonBody(body) = JsonBody::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// A field that may be absent, null, or there: `Some(None)` is null.
#[expect(clippy::option_option, reason = "absent, null and a value are three things")]
pub(super) fn nullable<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Some)
}

/// An id of a path; what cannot be one is of nothing.
pub(super) fn id<T: FromStr>(text: &str, what: &str) -> Result<T, WebError> {
    text.parse().map_err(|_| WebError::not_found(what))
}

/// A value of a body in the words of its type.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(
    text: &str,
    field: &str,
) -> Result<T, WebError> {
    text.parse().map_err(|error: T::Err| WebError::invalid(field, error.to_string()))
}

pub(super) fn user(user: &User) -> Value {
    json!({
        "id": user.id,
        "name": user.name,
        "role": user.role,
        "plan": user.plan,
        "locale": user.locale,
        "has_password": user.has_password,
    })
}

pub(super) fn conversation(conversation: &Conversation) -> Value {
    json!({
        "id": conversation.id,
        "title": conversation.title,
        "folder_id": conversation.folder,
        "persona": conversation.persona,
        "mode": conversation.mode.as_str(),
        "pinned": conversation.is_pinned,
        "head": conversation.head,
        "created_ms": conversation.created_at,
        "updated_ms": conversation.updated_at,
    })
}

pub(super) fn message(message: &Message, marks: Option<&Marks>) -> Value {
    let facts = message.reply.as_ref();
    let usage = facts.map(|facts| {
        json!({
            "prompt_tokens": facts.usage.prompt_tokens,
            "cached_tokens": facts.usage.cached_tokens,
            "completion_tokens": facts.usage.completion_tokens,
            "reasoning_tokens": facts.usage.reasoning_tokens,
        })
    });
    let timings = facts.map(|facts| {
        json!({
            "first_token_ms": facts.timings.first_token_ms,
            "prompt_ms": facts.timings.prompt_ms,
            "decode_ms": facts.timings.decode_ms,
        })
    });
    let thumb = marks.and_then(|marks| marks.thumb).and_then(|thumb| match thumb {
        Thumb::Up => Some(1),
        Thumb::Down => Some(-1),
        Thumb::None => None,
    });
    json!({
        "id": message.id,
        "parent_id": message.parent,
        "role": message.role.as_str(),
        "content": message.content,
        "thought": message.thought,
        "status": message.status,
        "mode_asked": message.mode_asked.map(rapport_types::Mode::as_str),
        "mode": facts.map(|facts| &facts.mode),
        "mode_reason": facts.map(|facts| &facts.mode_reason),
        "build": facts.map(|facts| &facts.build),
        "usage": usage,
        "timings": timings,
        "cost_microdollars": facts.map(|facts| facts.cost_micros),
        "created_ms": message.created_at,
        "error": message.error,
        "feedback": {
            "thumb": thumb,
            "chips": marks.map(|marks| marks.chips.clone()).unwrap_or_default(),
            "comment": marks.and_then(|marks| marks.comment.clone()),
        },
        "choice_of": message.choice_of,
    })
}

pub(super) fn share(share: &Share) -> Value {
    json!({
        "id": share.id,
        "conversation_id": share.conversation,
        "token": share.token,
        "url": format!("/s/{}", share.token),
        "title": share.title,
        "created_ms": share.created_at,
    })
}

pub(super) fn memory(memory: &Memory) -> Value {
    json!({
        "id": memory.id,
        "text": memory.text,
        "source": memory.source,
        "created_ms": memory.created_at,
        "updated_ms": memory.updated_at,
    })
}

pub(super) fn key(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "created_ms": key.created_at,
        "expires_ms": key.expires_at,
        "last_used_ms": key.last_used_at,
    })
}

/// Parents before children, siblings by time: what a page can build a tree from as it reads.
pub(super) fn parents_first(mut messages: Vec<Message>) -> Vec<Message> {
    let mut known = std::collections::HashSet::<MessageId>::new();
    let mut sorted = Vec::with_capacity(messages.len());
    while !messages.is_empty() {
        let (ready, waiting): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|message| message.parent.is_none_or(|parent| known.contains(&parent)));
        if ready.is_empty() {
            // A parent is missing: what is left starts trees of its own.
            sorted.extend(waiting);
            break;
        }
        known.extend(ready.iter().map(|message| message.id));
        sorted.extend(ready);
        messages = waiting;
    }
    sorted
}
