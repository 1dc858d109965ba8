//! Conversations with their folders, shares and search.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use rapport_store::{
    Conversation, ConversationChange, ConversationFilter, ConversationId, FolderId, MessageId,
    NewConversation,
};
use rapport_types::Mode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::forms::{self, Body, id, nullable, parsed};
use super::session::Person;

const MAX_PAGE: u32 = 200;
const MAX_HITS: u32 = 50;
const MAX_TITLE_CHARACTERS: usize = 200;

#[derive(Deserialize)]
pub(super) struct Wanted {
    folder: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// `GET /api/conversations`
pub(super) async fn list(
    State(web): State<Web>,
    Person(user): Person,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, WebError> {
    let limit = wanted.limit.unwrap_or(50).clamp(1, MAX_PAGE);
    let folder = wanted.folder.filter(|folder| !folder.is_empty());
    let filter = ConversationFilter {
        folder: folder.map(|folder| parsed(&folder, "folder")).transpose()?,
        after: wanted.cursor.map(|cursor| parsed(&cursor, "cursor")).transpose()?,
        limit: limit + 1,
    };
    let mut found = web.store().conversations(user.id, &filter).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| has_more).map(|last| last.cursor().to_string());
    let items: Vec<Value> = found.iter().map(forms::conversation).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

#[derive(Deserialize)]
pub(super) struct New {
    title: Option<String>,
    persona: Option<String>,
    folder_id: Option<String>,
    mode: Option<String>,
}

/// `POST /api/conversations`
pub(super) async fn create(
    State(web): State<Web>,
    Person(user): Person,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let mode = new.mode.map_or(Ok(Mode::Auto), |mode| parsed(&mode, "mode"))?;
    let persona = check_persona(&web, new.persona)?;
    let now = web.now();
    let new = NewConversation {
        title: &title(&new.title.unwrap_or_default())?,
        folder: new.folder_id.map(|folder| id(&folder, "folder")).transpose()?,
        persona: persona.as_deref(),
        mode,
        ..NewConversation::empty(ConversationId::new(now))
    };
    let conversation = web.store().create_conversation(user.id, new, now).await?;
    Ok((StatusCode::CREATED, Json(forms::conversation(&conversation))))
}

fn title(title: &str) -> Result<String, WebError> {
    if title.chars().count() > MAX_TITLE_CHARACTERS {
        let message = format!("a title has at most {MAX_TITLE_CHARACTERS} characters");
        return Err(WebError::invalid("title", message));
    }
    Ok(title.trim().to_owned())
}

/// The persona that somebody asked for; nothing where the words are empty.
pub(super) fn check_persona(
    web: &Web,
    persona: Option<String>,
) -> Result<Option<String>, WebError> {
    let Some(persona) = persona.filter(|persona| !persona.is_empty()) else { return Ok(None) };
    if web.accounts.personas.iter().all(|known| known.id != persona) {
        return Err(WebError::invalid("persona", format!("there is no persona `{persona}`")));
    }
    Ok(Some(persona))
}

/// `GET /api/conversations/{id}`
pub(super) async fn get(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<Json<Value>, WebError> {
    let id: ConversationId = id(&text, "conversation")?;
    let conversation = web.store().conversation(user.id, id).await?;
    let marks = web.store().marks(user.id, id).await?;
    let messages = forms::parents_first(web.store().messages(user.id, id).await?);
    let messages: Vec<Value> =
        messages.iter().map(|message| forms::message(message, marks.get(&message.id))).collect();
    Ok(Json(json!({ "conversation": forms::conversation(&conversation), "messages": messages })))
}

#[expect(clippy::option_option, reason = "absent, null and a value are three things")]
#[derive(Deserialize)]
pub(super) struct Change {
    title: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    folder_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    persona: Option<Option<String>>,
    mode: Option<String>,
    pinned: Option<bool>,
    head: Option<String>,
}

/// `PATCH /api/conversations/{id}`
pub(super) async fn change(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Body(change): Body<Change>,
) -> Result<Json<Value>, WebError> {
    let folder = |folder: Option<String>| folder.map(|folder| id(&folder, "folder")).transpose();
    let change = ConversationChange {
        title: change.title.as_deref().map(title).transpose()?,
        folder: change.folder_id.map(folder).transpose()?,
        persona: change.persona.map(|persona| check_persona(&web, persona)).transpose()?,
        mode: change.mode.map(|mode| parsed(&mode, "mode")).transpose()?,
        is_pinned: change.pinned,
        head: change.head.map(|head| id(&head, "message")).transpose()?,
    };
    let id = id(&text, "conversation")?;
    let conversation = web.store().change_conversation(user.id, id, &change).await?;
    Ok(Json(forms::conversation(&conversation)))
}

/// `DELETE /api/conversations/{id}`
pub(super) async fn delete(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    web.store().delete_conversation(user.id, id(&text, "conversation")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a conversation without a title the beginning of what was said first.
pub(super) async fn title_by(
    web: &Web,
    user: rapport_store::UserId,
    conversation: &Conversation,
    content: &str,
) -> Result<(), WebError> {
    const SHOWN: usize = 60;
    if !conversation.title.is_empty() {
        return Ok(());
    }
    let line = content.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut title: String = line.chars().take(SHOWN).collect();
    if title.len() < line.len() {
        // At a space, where the language has them.
        if let Some(at) = title.rfind(' ').filter(|at| *at > SHOWN / 2) {
            title.truncate(at);
        }
        title.push('…');
    }
    let change = ConversationChange { title: Some(title), ..ConversationChange::default() };
    web.store().change_conversation(user, conversation.id, &change).await?;
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct Words {
    #[serde(default)]
    q: String,
}

/// `GET /api/search`
pub(super) async fn search(
    State(web): State<Web>,
    Person(user): Person,
    Query(words): Query<Words>,
) -> Result<Json<Value>, WebError> {
    let hits = web.store().search(user.id, &words.q, MAX_HITS).await?;
    let items: Vec<Value> = hits
        .iter()
        .map(|hit| {
            json!({
                "conversation_id": hit.conversation,
                "title": hit.title,
                "message_id": hit.message,
                "snippet": hit.snippet,
                "at_ms": hit.at,
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })))
}

#[derive(Deserialize)]
pub(super) struct Named {
    name: String,
}

impl Named {
    fn checked(&self) -> Result<&str, WebError> {
        let name = self.name.trim();
        if name.is_empty() || name.chars().count() > 100 {
            return Err(WebError::invalid("name", "a name has 1 to 100 characters"));
        }
        Ok(name)
    }
}

/// `GET /api/folders`
pub(super) async fn folders(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    let folders = web.store().folders(user.id).await?;
    let form = |folder: &rapport_store::Folder| json!({ "id": folder.id, "name": folder.name, "created_ms": folder.created_at });
    Ok(Json(folders.iter().map(form).collect()))
}

/// `POST /api/folders`
pub(super) async fn create_folder(
    State(web): State<Web>,
    Person(user): Person,
    Body(named): Body<Named>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let folder = web.store().create_folder(user.id, named.checked()?, web.now()).await?;
    let form = json!({ "id": folder.id, "name": folder.name, "created_ms": folder.created_at });
    Ok((StatusCode::CREATED, Json(form)))
}

/// `PATCH /api/folders/{id}`
pub(super) async fn rename_folder(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Body(named): Body<Named>,
) -> Result<Json<Value>, WebError> {
    let id: FolderId = id(&text, "folder")?;
    web.store().rename_folder(user.id, id, named.checked()?).await?;
    Ok(Json(json!({ "id": id, "name": named.name.trim() })))
}

/// `DELETE /api/folders/{id}`
pub(super) async fn delete_folder(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    web.store().delete_folder(user.id, id(&text, "folder")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct NewShare {
    head: Option<String>,
}

/// `POST /api/conversations/{id}/shares`
pub(super) async fn share(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Body(new): Body<NewShare>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let conversation = web.store().conversation(user.id, id(&text, "conversation")?).await?;
    let head: MessageId = match new.head {
        Some(head) => id(&head, "message")?,
        None => conversation
            .head
            .ok_or_else(|| WebError::invalid("head", "there is nothing to share yet"))?,
    };
    if web.store().message(user.id, head).await?.conversation != conversation.id {
        return Err(WebError::not_found("message"));
    }
    let share = web.store().create_share(user.id, head, web.now()).await?;
    Ok((StatusCode::CREATED, Json(forms::share(&share))))
}

/// `GET /api/shares`
pub(super) async fn shares(
    State(web): State<Web>,
    Person(user): Person,
) -> Result<Json<Value>, WebError> {
    let shares = web.store().shares(user.id).await?;
    Ok(Json(shares.iter().map(forms::share).collect()))
}

/// `DELETE /api/shares/{id}`
pub(super) async fn delete_share(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    web.store().delete_share(user.id, id(&text, "share")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/shared/{token}`, for anybody who has the token.
pub(super) async fn shared(
    State(web): State<Web>,
    Path(token): Path<String>,
) -> Result<Json<Value>, WebError> {
    let shared = web.store().shared(&token).await?.ok_or_else(|| WebError::not_found("share"))?;
    Ok(Json(json!({
        "title": shared.title,
        "messages": shared.messages,
        "shared_ms": shared.shared_at,
    })))
}
