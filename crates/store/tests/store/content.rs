//! Conversations, shares, responses, feedback, events.

use rapport_store::{
    Appended, Conversation, ConversationChange, ConversationFilter, ConversationId, Deferred,
    DeferredId, Error, EventCursor, EventId, FeedbackCursor, FeedbackId, MessageId, NewEvent,
    NewFeedback, NewMessage, NewResponse, ReplyFacts, ReplyId, ResponseId, Signal, Store, Thumb,
    UnixMs, UserId,
};
use rapport_types::{Role, Usage};
use serde_json::json;

use crate::fixture::{Database, NOON, message, minutes};

async fn conversation(store: &Store, owner: UserId, title: &str, now: UnixMs) -> Conversation {
    store.create_conversation(owner, ConversationId::new(now), title, now).await.unwrap()
}

/// Adds a chain of messages, alternating roles; returns their ids.
async fn chain(
    store: &Store,
    owner: UserId,
    conversation: ConversationId,
    contents: &[&str],
) -> Vec<MessageId> {
    let mut ids: Vec<MessageId> = Vec::new();
    for (idx, content) in contents.iter().enumerate() {
        let role = if idx % 2 == 0 { Role::User } else { Role::Assistant };
        let new = message(conversation, ids.last().copied(), role, content);
        store.add_message(owner, &new, NOON.plus_ms(idx as i64)).await.unwrap();
        ids.push(new.id);
    }
    ids
}

fn all() -> ConversationFilter {
    ConversationFilter { is_archived: false, folder: None, after: None, limit: 100 }
}

pub(crate) async fn conversations(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let first = conversation(store, ada, "Hello", NOON).await;
    assert_eq!(store.conversation(ada, first.id).await.unwrap(), first);
    let again = store.create_conversation(ada, first.id, "Other", minutes(1)).await.unwrap();
    assert_eq!(again, first);

    let change = ConversationChange {
        title: Some("東京".to_owned()),
        folder: Some(Some("Trips".to_owned())),
        is_pinned: Some(true),
        ..ConversationChange::default()
    };
    let changed = store.change_conversation(ada, first.id, &change).await.unwrap();
    assert_eq!(store.conversation(ada, first.id).await.unwrap(), changed);
    assert_eq!((changed.title.as_str(), changed.folder.as_deref()), ("東京", Some("Trips")));
    assert!(changed.is_pinned && !changed.is_archived && !changed.is_private);

    let out = ConversationChange {
        folder: Some(None),
        is_archived: Some(true),
        ..ConversationChange::default()
    };
    let archived = store.change_conversation(ada, first.id, &out).await.unwrap();
    assert_eq!((archived.folder, archived.title.as_str()), (None, "東京"));
    assert!(store.conversations(ada, &all()).await.unwrap().is_empty());

    store.delete_conversation(ada, first.id).await.unwrap();
    let gone = store.delete_conversation(ada, first.id).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })));
}

pub(crate) async fn pages_of_conversations(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let mut expected = Vec::new();
    for idx in 0..7 {
        // Two share a time, so that only the id tells them apart.
        let made = conversation(store, ada, "", minutes(idx / 2)).await;
        if idx == 2 {
            let pin = ConversationChange { is_pinned: Some(true), ..Default::default() };
            store.change_conversation(ada, made.id, &pin).await.unwrap();
        }
        expected.push((idx == 2, made.updated_at, made.id));
    }
    expected.sort_unstable();
    expected.reverse();

    let mut filter = ConversationFilter { limit: 2, ..all() };
    let mut found = Vec::new();
    loop {
        let page = store.conversations(ada, &filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some(last.cursor());
        found.extend(page.iter().map(|c| (c.is_pinned, c.updated_at, c.id)));
    }
    assert_eq!(found, expected);

    let folder = ConversationFilter { folder: Some("none".to_owned()), ..all() };
    assert!(store.conversations(ada, &folder).await.unwrap().is_empty());
}

pub(crate) async fn trees(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "", NOON).await.id;
    let ids = chain(store, ada, id, &["a", "b", "c", "d"]).await;
    let branch_of = async |leaf, limit| {
        let branch = store.branch(ada, leaf, limit).await.unwrap();
        branch.into_iter().map(|message| message.id).collect::<Vec<_>>()
    };
    assert_eq!(branch_of(ids[3], 10).await, ids);
    assert_eq!(branch_of(ids[3], 2).await, ids[2..]);
    assert_eq!(branch_of(ids[1], 10).await, ids[..2]);
    assert_eq!(store.conversation(ada, id).await.unwrap().leaf, Some(ids[3]));

    // Another reply to the first message, with everything a reply carries.
    let usage =
        Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3, reasoning_tokens: 2 };
    let other = NewMessage {
        thought: Some("feel: glad".to_owned()),
        reply: Some(ReplyFacts {
            model: "rapport".to_owned(),
            build: "a+b+c+d".to_owned(),
            mode: "thinking".to_owned(),
            mode_reason: "asked for".to_owned(),
            finish_reason: "stop".to_owned(),
            usage,
        }),
        extra: Some(json!({"tool_calls": [{"name": "x", "arguments": "{}"}]})),
        ..message(id, Some(ids[0]), Role::Assistant, "b2")
    };
    store.add_message(ada, &other, minutes(1)).await.unwrap();
    let found = store.message(ada, other.id).await.unwrap();
    assert_eq!(found.reply, other.reply);
    assert_eq!((found.thought, found.extra), (other.thought.clone(), other.extra.clone()));
    let children = store.children(ada, id, Some(ids[0])).await.unwrap();
    assert_eq!(children.iter().map(|child| child.id).collect::<Vec<_>>(), [ids[1], other.id]);
    let roots = store.children(ada, id, None).await.unwrap();
    assert_eq!(roots.iter().map(|root| root.id).collect::<Vec<_>>(), ids[..1]);
    assert_eq!(store.messages(ada, id).await.unwrap().len(), 5);
    assert_eq!(store.conversation(ada, id).await.unwrap().updated_at, minutes(1));

    // Going back to the first branch, and deleting part of it.
    let show = ConversationChange { leaf: Some(ids[3]), ..Default::default() };
    store.change_conversation(ada, id, &show).await.unwrap();
    store.delete_message(ada, ids[2]).await.unwrap();
    assert_eq!(store.conversation(ada, id).await.unwrap().leaf, Some(ids[1]));
    assert_eq!(store.messages(ada, id).await.unwrap().len(), 3);
    assert!(store.change_conversation(ada, id, &show).await.is_err());
}

pub(crate) async fn deep_trees(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "", NOON).await.id;
    // Deeper than databases let references cascade.
    let contents = vec!["x"; 1_200];
    let ids = chain(store, ada, id, &contents).await;
    assert_eq!(store.branch(ada, ids[1_199], u32::MAX).await.unwrap().len(), 1_200);
    assert_eq!(store.branch(ada, ids[1_199], 50).await.unwrap()[0].id, ids[1_150]);
    store.delete_message(ada, ids[1]).await.unwrap();
    assert_eq!(store.messages(ada, id).await.unwrap().len(), 1);
    store.delete_conversation(ada, id).await.unwrap();

    let second = conversation(store, ada, "", NOON).await.id;
    chain(store, ada, second, &contents).await;
    store.delete_conversation(ada, second).await.unwrap();
    assert!(store.messages(ada, second).await.unwrap().is_empty());
}

pub(crate) async fn repeated_messages(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "", NOON).await.id;
    let new = message(id, None, Role::User, "once");
    store.add_message(ada, &new, NOON).await.unwrap();
    store.add_message(ada, &new, minutes(1)).await.unwrap();
    assert_eq!(store.messages(ada, id).await.unwrap().len(), 1);
    assert_eq!(store.conversation(ada, id).await.unwrap().updated_at, NOON);
    for other in [
        NewMessage { content: "twice".to_owned(), ..new.clone() },
        NewMessage { role: Role::System, ..new.clone() },
        NewMessage { parent: Some(new.id), ..new.clone() },
    ] {
        let taken = store.add_message(ada, &other, NOON).await;
        assert!(matches!(taken, Err(Error::Conflict { .. })));
    }
}

pub(crate) async fn impossible_messages(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let (one, two) =
        (conversation(store, ada, "", NOON).await.id, conversation(store, ada, "", NOON).await.id);
    let root = chain(store, ada, one, &["root"]).await[0];
    for new in [
        message(two, Some(root), Role::User, "a parent elsewhere"),
        message(one, Some(MessageId::new(NOON)), Role::User, "an unknown parent"),
        message(ConversationId::new(NOON), None, Role::User, "an unknown conversation"),
    ] {
        let refused = store.add_message(ada, &new, NOON).await;
        assert!(matches!(refused, Err(Error::NotFound { .. })), "{}", new.content);
        assert!(store.message(ada, new.id).await.is_err());
    }
}

pub(crate) async fn any_text(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "a\0b", NOON).await.id;
    assert_eq!(store.conversation(ada, id).await.unwrap().title, "a\u{FFFD}b");
    let megabyte = "語".repeat(350_000);
    for (text, expected) in [
        ("", ""),
        ("nul \0 inside", "nul \u{FFFD} inside"),
        ("'; DROP TABLE users; -- $1 ?1 \\", "'; DROP TABLE users; -- $1 ?1 \\"),
        ("👩‍👩‍👧 e\u{301} \u{202E}rtl\r\n\t", "👩‍👩‍👧 e\u{301} \u{202E}rtl\r\n\t"),
        (&megabyte, &megabyte),
    ] {
        let new = message(id, None, Role::User, text);
        store.add_message(ada, &new, NOON).await.unwrap();
        assert!(store.message(ada, new.id).await.unwrap().content == expected);
        store.add_message(ada, &new, NOON).await.unwrap();
    }
}

pub(crate) async fn search(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "旅行の計画 Plan", NOON).await.id;
    let contents = ["東京タワーに行きたい", "Das ÄRGERT mich: 50% off_now \\o/", "ＦＵＬＬ width"];
    let ids = chain(store, ada, id, &contents).await;
    let found = async |text: &str| {
        let hits = store.search(ada, text, 10).await.unwrap();
        hits.into_iter().map(|hit| hit.message).collect::<Vec<_>>()
    };
    assert_eq!(found("東京").await, [Some(ids[0])]);
    assert_eq!(found("タワー 行き").await, [Some(ids[0])]);
    assert_eq!(found("京都").await, []);
    assert_eq!(found("ärgert").await, [Some(ids[1])]);
    assert_eq!(found("MICH das").await, [Some(ids[1])]);
    assert_eq!(found("0% off_n").await, [Some(ids[1])]);
    assert_eq!(found(r"\o/").await, [Some(ids[1])]);
    assert_eq!(found("5_%").await, []);
    assert_eq!(found("full　WIDTH").await, [Some(ids[2])]);
    assert_eq!(found("計画 plan").await, [None]);
    assert_eq!(found("   ").await, []);
    assert_eq!(found(&"x ".repeat(5_000)).await, []);
    let hits = store.search(ada, "t", 1).await.unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].snippet, contents[2]);

    let hide = ConversationChange { is_private: Some(true), ..Default::default() };
    store.change_conversation(ada, id, &hide).await.unwrap();
    assert_eq!(found("東京").await, []);
    assert_eq!(found("計画").await, []);
}

pub(crate) async fn shares(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "Ours", NOON).await.id;
    let system = message(id, None, Role::System, "be kind");
    store.add_message(ada, &system, NOON).await.unwrap();
    let user = message(id, Some(system.id), Role::User, "hello");
    store.add_message(ada, &user, minutes(1)).await.unwrap();
    let (share, secret) = store.create_share(ada, user.id, minutes(2)).await.unwrap();

    // What comes later is not shared.
    let later = message(id, Some(user.id), Role::Assistant, "a secret");
    store.add_message(ada, &later, minutes(3)).await.unwrap();
    let shown = store.shared(secret.reveal()).await.unwrap().unwrap();
    assert_eq!(shown.title, "Ours");
    assert_eq!(shown.messages.len(), 1);
    assert_eq!(
        (shown.messages[0].role.as_str(), shown.messages[0].content.as_str()),
        ("user", "hello")
    );
    assert_eq!(store.shares(ada).await.unwrap(), std::slice::from_ref(&share));
    assert_eq!(store.shared(&share.id.to_string()).await.unwrap(), None);

    store.revoke_share(ada, share.id, minutes(4)).await.unwrap();
    store.revoke_share(ada, share.id, minutes(5)).await.unwrap();
    assert_eq!(store.shared(secret.reveal()).await.unwrap(), None);
    assert_eq!(store.shares(ada).await.unwrap()[0].revoked_at, Some(minutes(4)));

    let hide = ConversationChange { is_private: Some(true), ..Default::default() };
    store.change_conversation(ada, id, &hide).await.unwrap();
    let refused = store.create_share(ada, user.id, NOON).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
}

pub(crate) async fn responses(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = ResponseId::new(NOON);
    let body = json!({"status": "in_progress", "text": "\0 東京"});
    let new = NewResponse { id, previous: None, body: &body, expires_at: minutes(10) };
    store.put_response(ada, new, NOON).await.unwrap();
    assert_eq!(store.response(ada, id, NOON).await.unwrap().body, body);
    let done = json!({"status": "completed"});
    store.put_response(ada, NewResponse { body: &done, ..new }, minutes(1)).await.unwrap();
    let found = store.response(ada, id, NOON).await.unwrap();
    assert_eq!((found.body, found.created_at), (done, NOON));

    let next = ResponseId::new(NOON);
    let follow = NewResponse { id: next, previous: Some(id), ..new };
    store.put_response(ada, follow, NOON).await.unwrap();
    assert_eq!(store.response(ada, next, NOON).await.unwrap().previous, Some(id));
    let unknown = NewResponse { previous: Some(ResponseId::new(NOON)), ..new };
    assert!(matches!(store.put_response(ada, unknown, NOON).await, Err(Error::NotFound { .. })));

    assert!(store.response(ada, id, minutes(10)).await.is_err());
    store.delete_response(ada, id).await.unwrap();
    assert!(store.delete_response(ada, id).await.is_err());
    assert_eq!(store.delete_expired(minutes(9)).await.unwrap(), 0);
    assert_eq!(store.delete_expired(minutes(10)).await.unwrap(), 1);
}

pub(crate) async fn deferred(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let (good, bad, late) = (DeferredId::new(NOON), DeferredId::new(NOON), DeferredId::new(NOON));
    for id in [good, bad, late] {
        store.start_deferred(ada, id, NOON, minutes(10)).await.unwrap();
    }
    let take = async |id, now| store.take_deferred(ada, id, now).await;
    assert_eq!(take(good, NOON).await.unwrap(), Deferred::Pending);
    store.finish_deferred(ada, good, &Ok(json!({"a": 1}))).await.unwrap();
    assert!(store.finish_deferred(ada, good, &Err(json!(0))).await.is_err());
    assert_eq!(take(good, NOON).await.unwrap(), Deferred::Done(json!({"a": 1})));
    assert!(matches!(take(good, NOON).await, Err(Error::NotFound { .. })));

    store.finish_deferred(ada, bad, &Err(json!("broke"))).await.unwrap();
    assert_eq!(take(bad, NOON).await.unwrap(), Deferred::Failed(json!("broke")));
    assert!(matches!(take(late, minutes(10)).await, Err(Error::NotFound { .. })));
}

fn vote(message: Option<MessageId>, signal: Signal) -> NewFeedback {
    NewFeedback {
        id: FeedbackId::new(NOON),
        message,
        reply: None,
        build: "a+b+c+d".to_owned(),
        signal,
        has_consent: true,
    }
}

pub(crate) async fn feedback(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "", NOON).await.id;
    let ids = chain(store, ada, id, &["q", "a"]).await;
    let signals = [
        Signal::Thumb { thumb: Thumb::Down },
        Signal::Edit { text: "better\0".to_owned() },
        Signal::Regenerate,
        Signal::Choice { rejected: ids[0] },
        Signal::Copy,
        Signal::Comment { text: "長い".to_owned(), chips: vec!["too long".to_owned()] },
    ];
    for (idx, signal) in signals.iter().enumerate() {
        let new = vote(Some(ids[1]), signal.clone());
        store.add_feedback(ada, &new, minutes(idx as i64)).await.unwrap();
        store.add_feedback(ada, &new, minutes(9)).await.unwrap();
    }
    let found = store.feedback_of(ada, None, 100).await.unwrap();
    assert!(found.iter().map(|entry| &entry.signal).eq(&signals));
    assert_eq!((found[0].conversation, found[0].message), (Some(id), Some(ids[1])));
    assert!(found[0].has_consent && found[0].build == "a+b+c+d" && found[0].user == ada);
    let after = FeedbackCursor { created_at: found[2].created_at, id: found[2].id };
    assert_eq!(store.all_feedback(Some(after), 2).await.unwrap(), found[3..5]);

    let unknown = MessageId::new(NOON);
    for new in [
        vote(Some(unknown), Signal::Copy),
        vote(Some(ids[1]), Signal::Choice { rejected: unknown }),
        NewFeedback { reply: Some(ReplyId::new(NOON)), ..vote(None, Signal::Copy) },
    ] {
        assert!(matches!(store.add_feedback(ada, &new, NOON).await, Err(Error::NotFound { .. })));
    }
    store.delete_conversation(ada, id).await.unwrap();
    assert!(store.all_feedback(None, 100).await.unwrap().is_empty());
}

pub(crate) async fn styles(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    assert_eq!(store.style(ada).await.unwrap(), None);
    for version in 0..60 {
        let body = json!({"warmth": version});
        assert_eq!(store.put_style(ada, version, &body, NOON).await.unwrap(), version + 1);
    }
    for stale in [0, 59, 61] {
        let refused = store.put_style(ada, stale, &json!({}), NOON).await;
        assert!(matches!(refused, Err(Error::Conflict { .. })), "{stale}");
    }
    let newest = store.style(ada).await.unwrap().unwrap();
    assert_eq!((newest.version, &newest.body), (60, &json!({"warmth": 59})));
    let kept: Vec<u64> =
        store.style_versions(ada).await.unwrap().iter().map(|style| style.version).collect();
    assert!(kept.iter().copied().eq((11..=60).rev()));
}

pub(crate) async fn events(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let arm = json!({"arm": "new"});
    let new = NewEvent {
        id: EventId::new(NOON),
        stream: "warmer",
        kind: "assigned",
        user: Some(ada),
        once_key: Some("assigned/42"),
        body: &arm,
    };
    assert_eq!(store.append_event(new, NOON).await.unwrap(), Appended::Now);
    // The same again, another arm for the same subject, and the same subject elsewhere.
    let Appended::Before(first) = store.append_event(new, minutes(1)).await.unwrap() else {
        panic!("stored twice")
    };
    assert_eq!((first.id, first.created_at, first.user), (new.id, NOON, Some(ada)));
    let other = json!({"arm": "old"});
    let again = NewEvent { id: EventId::new(NOON), body: &other, ..new };
    let Appended::Before(kept) = store.append_event(again, NOON).await.unwrap() else {
        panic!("assigned twice")
    };
    assert_eq!(kept.body, arm);
    let elsewhere = NewEvent { stream: "shorter", ..again };
    assert_eq!(store.append_event(elsewhere, NOON).await.unwrap(), Appended::Now);
    let taken = NewEvent { stream: "third", ..new };
    assert!(matches!(store.append_event(taken, NOON).await, Err(Error::Conflict { .. })));

    for idx in 1..4 {
        let vote =
            NewEvent { id: EventId::new(NOON), kind: "vote", once_key: None, user: None, ..new };
        assert_eq!(store.append_event(vote, minutes(idx)).await.unwrap(), Appended::Now);
    }
    let found = store.events("warmer", None, 100).await.unwrap();
    assert_eq!(found.len(), 4);
    let after = EventCursor { created_at: found[1].created_at, id: found[1].id };
    assert_eq!(store.events("warmer", Some(after), 1).await.unwrap(), found[2..3]);
}

pub(crate) async fn retention(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let old = conversation(store, ada, "old", NOON).await.id;
    let pinned = conversation(store, ada, "pinned", NOON).await.id;
    let used = conversation(store, ada, "used", NOON).await.id;
    let pin = ConversationChange { is_pinned: Some(true), ..Default::default() };
    store.change_conversation(ada, pinned, &pin).await.unwrap();
    let new = message(used, None, Role::User, "still here");
    store.add_message(ada, &new, minutes(10)).await.unwrap();
    assert_eq!(store.delete_conversations_before(minutes(5)).await.unwrap(), 1);
    assert!(store.conversation(ada, old).await.is_err());
    assert_eq!(store.conversations(ada, &all()).await.unwrap().len(), 2);
}
