//! Conversations from elsewhere: our own export, ChatGPT's `conversations.json`, Open WebUI's export.
//!
//! Each becomes a tree of messages; what is neither a person's nor an assistant's text (tools,
//! pictures, hidden turns) is left out, and what followed it follows what came before it.

use std::collections::{HashMap, HashSet};

use axum::Json;
use axum::extract::{Request, State};
use rapport_store::{
    ConversationChange, ConversationId, MessageId, MessageStatus, NewConversation, NewMessage,
    UnixMs, User,
};
use rapport_types::{Mode, Role};
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::session::Person;
use crate::body;

/// A conversation of any format.
struct Chat {
    id: Option<ConversationId>,
    title: String,
    created_at: UnixMs,
    nodes: Vec<Node>,
    /// The key of the last message that was shown.
    head: Option<String>,
}

/// A message, or a place in the tree without one.
struct Node {
    key: String,
    parent: Option<String>,
    id: Option<MessageId>,
    said: Option<(Role, String, Option<String>)>,
    at: UnixMs,
}

/// `POST /api/import`
pub(super) async fn import(
    State(web): State<Web>,
    Person(user): Person,
    request: Request,
) -> Result<Json<Value>, WebError> {
    let body = body::read_bytes(request).await?;
    let document: Value = serde_json::from_slice(&body)
        .map_err(|error| WebError::invalid("file", format!("the file is not JSON: {error}")))?;
    let (format, chats) = read(&document, &user, web.now()).ok_or_else(|| {
        let message = "this is none of the files that can be read: an export of rapport, \
                       conversations.json of ChatGPT, or an export of Open WebUI";
        WebError::invalid("file", message)
    })?;
    let mut n_imported = 0_u64;
    let mut skipped = Vec::new();
    for chat in chats {
        let title = chat.title.clone();
        match save(&web, &user, chat).await {
            Ok(()) => n_imported += 1,
            Err(reason) => skipped.push(json!({ "title": title, "reason": reason })),
        }
    }
    Ok(Json(json!({ "format": format, "imported": n_imported, "skipped": skipped })))
}

/// What kind of file it is, and the conversations in it; those without a time are of `now`.
fn read(document: &Value, user: &User, now: UnixMs) -> Option<(&'static str, Vec<Chat>)> {
    if document["conversations"].is_array() && document["messages"].is_array() {
        return Some(("rapport", own(document, user)));
    }
    let chats = document.as_array().or_else(|| document["data"].as_array())?;
    let first = chats.first()?;
    if first["mapping"].is_object() {
        return Some(("chatgpt", chats.iter().map(|chat| chatgpt(chat, now)).collect()));
    }
    if first["chat"]["history"]["messages"].is_object() {
        return Some(("open-webui", chats.iter().map(|chat| open_webui(chat, now)).collect()));
    }
    None
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Seconds, as other programs have them, or milliseconds where they would be centuries ahead.
fn time(value: &Value) -> Option<UnixMs> {
    let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0)?;
    let ms = if number > 1e11 { number } else { number * 1e3 };
    Some(UnixMs(ms as i64))
}

fn own(document: &Value, user: &User) -> Vec<Chat> {
    // What comes back to its owner keeps its ids, so that it is not there twice.
    let is_own = document["user"]["id"].as_str() == Some(&user.id.to_string());
    let mut nodes: HashMap<&str, Vec<Node>> = HashMap::new();
    for message in document["messages"].as_array().into_iter().flatten() {
        let (Some(conversation), Some(key)) =
            (message["conversation"].as_str(), message["id"].as_str())
        else {
            continue;
        };
        let role = message["role"].as_str().and_then(Role::parse);
        let said = role
            .filter(|role| matches!(role, Role::User | Role::Assistant))
            .zip(text(&message["content"]))
            .map(|(role, content)| (role, content, text(&message["thought"])));
        let at = UnixMs(message["created_at"].as_i64().unwrap_or_default());
        let id = key.parse().ok().filter(|_| is_own);
        let node = Node { key: key.to_owned(), parent: text(&message["parent"]), id, said, at };
        nodes.entry(conversation).or_default().push(node);
    }
    let conversations = document["conversations"].as_array().into_iter().flatten();
    conversations
        .map(|conversation| {
            let key = conversation["id"].as_str().unwrap_or_default();
            Chat {
                id: key.parse().ok().filter(|_| is_own),
                title: text(&conversation["title"]).unwrap_or_default(),
                created_at: UnixMs(conversation["created_at"].as_i64().unwrap_or_default()),
                nodes: nodes.remove(key).unwrap_or_default(),
                head: text(&conversation["head"]),
            }
        })
        .collect()
}

fn chatgpt(chat: &Value, now: UnixMs) -> Chat {
    let created_at = time(&chat["create_time"]).unwrap_or(now);
    let node = |(key, node): (&String, &Value)| {
        let message = &node["message"];
        let role = match message["author"]["role"].as_str() {
            Some("user") => Some(Role::User),
            Some("assistant") => Some(Role::Assistant),
            _ => None,
        };
        let is_hidden = message["metadata"]["is_visually_hidden_from_conversation"] == true;
        let parts = message["content"]["parts"].as_array().into_iter().flatten();
        let content: Vec<&str> = parts.filter_map(Value::as_str).collect();
        let content = content.join("\n");
        let is_text = !is_hidden && !content.trim().is_empty();
        let said = role.filter(|_| is_text).map(|role| (role, content, None));
        let at = time(&message["create_time"]).unwrap_or(created_at);
        Node { key: key.clone(), parent: text(&node["parent"]), id: None, said, at }
    };
    Chat {
        id: None,
        title: text(&chat["title"]).unwrap_or_default(),
        created_at,
        nodes: chat["mapping"].as_object().into_iter().flatten().map(node).collect(),
        head: text(&chat["current_node"]),
    }
}

fn open_webui(chat: &Value, now: UnixMs) -> Chat {
    let created_at = time(&chat["created_at"]).unwrap_or(now);
    let history = &chat["chat"]["history"];
    let node = |(key, message): (&String, &Value)| {
        let role = match message["role"].as_str() {
            Some("user") => Some(Role::User),
            Some("assistant") => Some(Role::Assistant),
            _ => None,
        };
        let content = text(&message["content"]).filter(|content| !content.trim().is_empty());
        let said = role.zip(content).map(|(role, content)| (role, content, None));
        let at = time(&message["timestamp"]).unwrap_or(created_at);
        Node { key: key.clone(), parent: text(&message["parentId"]), id: None, said, at }
    };
    let title = text(&chat["title"]).or_else(|| text(&chat["chat"]["title"]));
    Chat {
        id: None,
        title: title.unwrap_or_default(),
        created_at,
        nodes: history["messages"].as_object().into_iter().flatten().map(node).collect(),
        head: text(&history["currentId"]),
    }
}

/// Keeps one conversation, or says why not.
async fn save(web: &Web, user: &User, chat: Chat) -> Result<(), String> {
    let id = chat.id.unwrap_or_else(|| ConversationId::new(chat.created_at));
    let parents: HashMap<String, Option<String>> =
        chat.nodes.iter().map(|node| (node.key.clone(), node.parent.clone())).collect();
    let said: HashSet<&String> =
        chat.nodes.iter().filter(|node| node.said.is_some()).map(|node| &node.key).collect();
    // The nearest message above a node; a circle ends after every node was seen.
    let above = |start: &Option<String>| {
        let mut at = start.clone();
        for _ in 0..=parents.len() {
            match at {
                Some(key) if said.contains(&key) => return Some(key),
                Some(key) => at = parents.get(&key).cloned().flatten(),
                None => return None,
            }
        }
        None
    };
    let mut waiting: Vec<(&Node, Option<String>)> = chat
        .nodes
        .iter()
        .filter(|node| node.said.is_some())
        .map(|node| (node, above(&node.parent)))
        .collect();
    if waiting.is_empty() {
        return Err("there is no text in it".to_owned());
    }
    waiting.sort_by_key(|(node, _)| node.at);
    let mut ids: HashMap<&str, MessageId> = HashMap::new();
    let mut messages: Vec<(NewMessage, UnixMs)> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let n_before = waiting.len();
        waiting.retain(|(node, parent)| {
            let parent_id = match parent {
                None => None,
                Some(parent) => match ids.get(parent.as_str()) {
                    Some(id) => Some(*id),
                    None => return true,
                },
            };
            if let Some((role, content, thought)) = &node.said {
                let message = node.id.unwrap_or_else(|| MessageId::new(node.at));
                ids.insert(&node.key, message);
                let new = NewMessage::text(message, id, parent_id, *role, content.as_str());
                let (thought, status) = (thought.clone(), MessageStatus::Done);
                messages.push((NewMessage { thought, status, ..new }, node.at));
            }
            false
        });
        if waiting.len() == n_before {
            return Err("its messages follow each other in a circle".to_owned());
        }
    }
    let title: String = chat.title.chars().take(200).collect();
    let new = NewConversation { title: &title, mode: Mode::Auto, ..NewConversation::empty(id) };
    let imported = web.store().import_conversation(user.id, new, chat.created_at, &messages).await;
    if !imported.map_err(|error| error.to_string())? {
        return Err("it is here already".to_owned());
    }
    let head = above(&chat.head).and_then(|key| ids.get(key.as_str()).copied());
    if head.is_some() {
        let change = ConversationChange { head, ..ConversationChange::default() };
        let shown = web.store().change_conversation(user.id, id, &change).await;
        shown.map_err(|error| error.to_string())?;
    }
    Ok(())
}
