//! Conversations, shares, responses, feedback, events.

use rapport_store::{
    Appended, Charge, Charged, Chip, Conversation, ConversationChange, ConversationCursor,
    ConversationFilter, ConversationId, Deferred, Error, EventCursor, EventId, FeedbackCursor,
    FeedbackId, Finished, Marks, MessageId, MessageStatus, NewConversation, NewDeferred, NewEvent,
    NewFeedback, NewMessage, NewReply, NewResponse, NewTurn, ReplyFacts, ReplyId, Signal, Store,
    Thumb, Turn, UnixMs, UserId, Verdict,
};
use rapport_types::{Mode, Role, Timings, Usage};
use serde_json::json;

use crate::fixture::{Database, NOON, message, minutes};
use crate::money::charge;

async fn conversation(store: &Store, owner: UserId, title: &str, now: UnixMs) -> Conversation {
    let new = NewConversation { title, ..NewConversation::empty(ConversationId::new(now)) };
    store.create_conversation(owner, new, now).await.unwrap()
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
    ConversationFilter { folder: None, after: None, limit: 100 }
}

pub(crate) async fn conversations(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let first = conversation(store, ada, "Hello", NOON).await;
    assert_eq!(store.conversation(ada, first.id).await.unwrap(), first);
    let other = NewConversation { title: "Other", ..NewConversation::empty(first.id) };
    assert_eq!(store.create_conversation(ada, other, minutes(1)).await.unwrap(), first);

    let trips = store.create_folder(ada, "Trips", NOON).await.unwrap();
    let change = ConversationChange {
        title: Some("東京".to_owned()),
        folder: Some(Some(trips.id)),
        persona: Some(Some("friend".to_owned())),
        mode: Some(Mode::Thinking),
        is_pinned: Some(true),
        ..ConversationChange::default()
    };
    let changed = store.change_conversation(ada, first.id, &change).await.unwrap();
    assert_eq!(store.conversation(ada, first.id).await.unwrap(), changed);
    assert_eq!((changed.title.as_str(), changed.folder), ("東京", Some(trips.id)));
    assert_eq!((changed.persona.as_deref(), changed.mode), (Some("friend"), Mode::Thinking));
    assert!(changed.is_pinned);

    let out = ConversationChange {
        folder: Some(None),
        persona: Some(None),
        ..ConversationChange::default()
    };
    let loose = store.change_conversation(ada, first.id, &out).await.unwrap();
    assert_eq!((loose.folder, loose.persona, loose.title.as_str()), (None, None, "東京"));

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

    let text = found.last().map(|&(is_pinned, updated_at, id)| ConversationCursor {
        is_pinned,
        updated_at,
        id,
    });
    assert_eq!(text.unwrap().to_string().parse(), Ok(text.unwrap()));
    assert!("1.x".parse::<ConversationCursor>().is_err());
}

pub(crate) async fn folders(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let trips = store.create_folder(ada, "Trips", NOON).await.unwrap();
    let work = store.create_folder(ada, "Work", minutes(1)).await.unwrap();
    store.rename_folder(ada, work.id, "仕事").await.unwrap();
    let names: Vec<_> = store.folders(ada).await.unwrap().into_iter().map(|f| f.name).collect();
    assert_eq!(names, ["Trips", "仕事"]);
    let id = conversation(store, ada, "in a folder", NOON).await.id;
    conversation(store, ada, "loose", NOON).await;
    let put = ConversationChange { folder: Some(Some(trips.id)), ..Default::default() };
    store.change_conversation(ada, id, &put).await.unwrap();
    let in_trips = ConversationFilter { folder: Some(trips.id), ..all() };
    let found = store.conversations(ada, &in_trips).await.unwrap();
    assert!(found.iter().map(|c| c.id).eq([id]));

    // A folder goes without its conversations.
    store.delete_folder(ada, trips.id).await.unwrap();
    assert_eq!(store.conversation(ada, id).await.unwrap().folder, None);
    assert!(matches!(store.delete_folder(ada, trips.id).await, Err(Error::NotFound { .. })));
    let gone = store.change_conversation(ada, id, &put).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })));
}

pub(crate) async fn memories(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let tea = store.remember(ada, "likes tea", "user", NOON).await.unwrap();
    let dog = store.remember(ada, "has a dog", "user", minutes(1)).await.unwrap();
    let changed = store.change_memory(ada, tea.id, "likes coffee", minutes(2)).await.unwrap();
    assert_eq!((changed.created_at, changed.updated_at), (NOON, minutes(2)));
    assert_eq!(store.memories(ada).await.unwrap(), [changed, dog.clone()]);
    store.forget(ada, dog.id).await.unwrap();
    assert!(matches!(store.forget(ada, dog.id).await, Err(Error::NotFound { .. })));
    assert_eq!(store.forget_all(ada).await.unwrap(), 1);
    assert!(store.memories(ada).await.unwrap().is_empty());
}

pub(crate) async fn settings(database: Database) {
    let store = &database.store;
    let put = |pairs: &[(&str, serde_json::Value)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    let first = put(&[("sign_up", json!(true)), ("retention_days", json!(30))]);
    store.put_settings(&first).await.unwrap();
    let second = put(&[("sign_up", json!(false)), ("retention_days", json!(null))]);
    store.put_settings(&second).await.unwrap();
    assert_eq!(store.settings().await.unwrap(), put(&[("sign_up", json!(false))]));
}

fn turn(client_id: &str, conversation: ConversationId) -> NewTurn<'_> {
    NewTurn {
        client_id,
        conversation,
        parent: None,
        content: "how are you?",
        mode: Mode::Auto,
        has_alternative: false,
        lease_until: minutes(1),
    }
}

pub(crate) fn another(
    client_id: &str,
    user_message: MessageId,
    lease_until: UnixMs,
) -> NewReply<'_> {
    NewReply { client_id, user_message, mode: Mode::Fast, lease_until }
}

pub(crate) async fn turns(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "", NOON).await.id;
    let first = store.begin_turn(ada, turn("one", id), NOON).await.unwrap();
    assert!(first.is_new && first.alternative.is_none());
    assert_eq!(
        (first.user.status, first.reply.status),
        (MessageStatus::Done, MessageStatus::Streaming)
    );
    assert_eq!(
        (first.reply.parent, first.reply.mode_asked),
        (Some(first.user.id), Some(Mode::Auto))
    );
    assert_eq!(store.conversation(ada, id).await.unwrap().head, Some(first.reply.id));
    // Asked again, whatever else is said: nothing new.
    let other = NewTurn { content: "something else", ..turn("one", id) };
    let again = store.begin_turn(ada, other, minutes(1)).await.unwrap();
    assert_eq!(again, Turn { is_new: false, ..first.clone() });
    assert_eq!(store.messages(ada, id).await.unwrap().len(), 2);
    let mixed = store.begin_reply(ada, another("one", first.user.id, minutes(1)), NOON).await;
    assert!(matches!(mixed, Err(Error::Conflict { .. })));
    let nameless = store.begin_turn(ada, turn("", id), NOON).await;
    assert!(matches!(nameless, Err(Error::Invalid { what: "client_id", .. })));

    // Written, seen half way, and done.
    assert!(store.save_progress(ada, first.reply.id, "I a", Some("t"), minutes(2)).await.unwrap());
    let half = store.message(ada, first.reply.id).await.unwrap();
    assert_eq!((half.content.as_str(), half.thought.as_deref()), ("I a", Some("t")));
    let charge = charge();
    let whole = NewMessage {
        status: MessageStatus::Length,
        ..message_with(first.reply.id, id, first.user.id, "I am")
    };
    let finished = Finished { charge: &charge, message: Some(&whole), reservation: None };
    assert_eq!(store.finish_reply(ada, finished, minutes(1)).await.unwrap(), Charged::Now);
    assert_eq!(store.finish_reply(ada, finished, minutes(1)).await.unwrap(), Charged::Before);
    let done = store.message(ada, first.reply.id).await.unwrap();
    assert_eq!((done.status, done.content.as_str()), (MessageStatus::Length, "I am"));
    assert_eq!(done.mode_asked, Some(Mode::Auto));
    assert!(!store.save_progress(ada, first.reply.id, "late", None, minutes(2)).await.unwrap());

    // Continued under a second charge.
    let go_on =
        async |name| store.continue_reply(ada, name, first.reply.id, minutes(3), minutes(2)).await;
    assert!(go_on("more").await.unwrap().is_new);
    assert!(!go_on("more").await.unwrap().is_new);
    assert!(matches!(go_on("even more").await, Err(Error::Conflict { .. })));
    let charge = Charge { reply: ReplyId::new(NOON), ..charge };
    let longer = message_with(first.reply.id, id, first.user.id, "I am well");
    let finished = Finished { charge: &charge, message: Some(&longer), reservation: None };
    assert_eq!(store.finish_reply(ada, finished, minutes(2)).await.unwrap(), Charged::Now);
    assert_eq!(store.meter(ada, NOON).await.unwrap().requests, 2);
    assert_eq!(store.messages(ada, id).await.unwrap().len(), 2);

    // Asked for once more: a sibling, which fails and costs nothing.
    let sibling = store.begin_reply(ada, another("re", first.user.id, minutes(3)), NOON).await;
    let sibling = sibling.unwrap().reply;
    store.save_progress(ada, sibling.id, "hal", None, minutes(3)).await.unwrap();
    let failed = store.fail_reply(ada, sibling.id, "the model went away", None).await.unwrap();
    assert_eq!((failed.status, failed.content.as_str()), (MessageStatus::Failed, "hal"));
    assert_eq!(failed.error.as_deref(), Some("the model went away"));
    assert_eq!(store.meter(ada, NOON).await.unwrap().requests, 2);
    let of_reply = store.begin_reply(ada, another("x", sibling.id, minutes(3)), NOON).await;
    assert!(matches!(of_reply, Err(Error::Invalid { .. })));
}

fn message_with(
    id: MessageId,
    conversation: ConversationId,
    parent: MessageId,
    content: &str,
) -> NewMessage {
    NewMessage { id, ..message(conversation, Some(parent), Role::Assistant, content) }
}

pub(crate) async fn blind_choices(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "", NOON).await.id;
    let two = NewTurn { has_alternative: true, ..turn("two", id) };
    let made = store.begin_turn(ada, two, NOON).await.unwrap();
    let alternative = made.alternative.clone().unwrap();
    assert_eq!(made.reply.choice_of, Some(alternative.id));
    assert_eq!(alternative.choice_of, Some(made.reply.id));
    assert_eq!(alternative.parent, Some(made.user.id));
    let again = store.begin_turn(ada, two, NOON).await.unwrap();
    assert_eq!(again, Turn { is_new: false, ..made });
}

pub(crate) async fn abandoned_replies(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "", NOON).await.id;
    let made = store.begin_turn(ada, turn("one", id), NOON).await.unwrap();
    let kept = store.begin_turn(ada, turn("two", id), NOON).await.unwrap();
    store.save_progress(ada, made.reply.id, "half", None, minutes(1)).await.unwrap();
    store.save_progress(ada, kept.reply.id, "half", None, minutes(9)).await.unwrap();
    assert_eq!(store.stop_abandoned(minutes(1).plus_ms(-1)).await.unwrap(), 0);
    assert_eq!(store.stop_abandoned(minutes(1)).await.unwrap(), 1);
    let stopped = store.message(ada, made.reply.id).await.unwrap();
    assert_eq!((stopped.status, stopped.content.as_str()), (MessageStatus::Stopped, "half"));
    // Its server comes back too late: neither its words nor its charge count.
    let charge = charge();
    let whole = message_with(made.reply.id, id, made.user.id, "half and half");
    let late = Finished { charge: &charge, message: Some(&whole), reservation: None };
    let refused = store.finish_reply(ada, late, minutes(2)).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    assert_eq!(store.meter(ada, NOON).await.unwrap().requests, 0);
    let more = store.continue_reply(ada, "more", made.reply.id, minutes(3), minutes(2)).await;
    assert!(more.unwrap().is_new);
}

pub(crate) async fn imports(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let new =
        NewConversation { title: "old words", ..NewConversation::empty(ConversationId::new(NOON)) };
    let root = message(new.id, None, Role::User, "hello");
    let reply = message(new.id, Some(root.id), Role::Assistant, "hi");
    let messages = [(root.clone(), minutes(-9)), (reply.clone(), minutes(-8))];
    assert!(store.import_conversation(ada, new, minutes(-9), &messages).await.unwrap());
    assert!(!store.import_conversation(ada, new, NOON, &messages).await.unwrap());
    let found = store.conversation(ada, new.id).await.unwrap();
    assert_eq!((found.created_at, found.updated_at), (minutes(-9), minutes(-8)));
    assert_eq!(found.head, Some(reply.id));
    // An orphan takes the whole of it away.
    let other = NewConversation::empty(ConversationId::new(NOON));
    let orphan = message(other.id, Some(root.id), Role::User, "whose?");
    let refused = store.import_conversation(ada, other, NOON, &[(orphan, NOON)]).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })));
    assert!(store.conversation(ada, other.id).await.is_err());
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
    assert_eq!(store.conversation(ada, id).await.unwrap().head, Some(ids[3]));

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
            usage,
            timings: Timings { first_token_ms: 1.5, prompt_ms: 1.0, decode_ms: 2.25 },
            cost_micros: 7,
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
    let show = ConversationChange { head: Some(ids[3]), ..Default::default() };
    store.change_conversation(ada, id, &show).await.unwrap();
    store.delete_message(ada, ids[2]).await.unwrap();
    assert_eq!(store.conversation(ada, id).await.unwrap().head, Some(ids[1]));
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
    assert_eq!(hits[0].snippet, "ＦＵＬＬ wid\u{2}t\u{3}h");
}

pub(crate) async fn shares(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = conversation(store, ada, "Ours", NOON).await.id;
    let system = message(id, None, Role::System, "be kind");
    store.add_message(ada, &system, NOON).await.unwrap();
    let user = message(id, Some(system.id), Role::User, "hello");
    store.add_message(ada, &user, minutes(1)).await.unwrap();
    let share = store.create_share(ada, user.id, minutes(2)).await.unwrap();

    // What comes later is not shared.
    let later = message(id, Some(user.id), Role::Assistant, "a secret");
    store.add_message(ada, &later, minutes(3)).await.unwrap();
    let shown = store.shared(&share.token).await.unwrap().unwrap();
    assert_eq!((shown.title.as_str(), shown.shared_at), ("Ours", minutes(2)));
    assert_eq!(shown.messages.len(), 1);
    assert_eq!(
        (shown.messages[0].role.as_str(), shown.messages[0].content.as_str()),
        ("user", "hello")
    );
    assert_eq!(store.shares(ada).await.unwrap(), std::slice::from_ref(&share));
    assert_eq!(store.shared(&share.id.to_string()).await.unwrap(), None);

    store.delete_share(ada, share.id).await.unwrap();
    assert!(matches!(store.delete_share(ada, share.id).await, Err(Error::NotFound { .. })));
    assert_eq!(store.shared(&share.token).await.unwrap(), None);
    assert!(store.shares(ada).await.unwrap().is_empty());
    let again = store.create_share(ada, user.id, NOON).await.unwrap();
    store.disable_user(ada, NOON).await.unwrap();
    assert_eq!(store.shared(&again.token).await.unwrap(), None);
}

pub(crate) async fn responses(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let id = "resp_1";
    let body = json!({"status": "in_progress", "text": "\0 東京"});
    let new = NewResponse { id, body: &body, expires_at: minutes(10) };
    store.put_response(ada, new, NOON).await.unwrap();
    assert_eq!(store.response(ada, id, NOON).await.unwrap().body, body);
    let done = json!({"status": "completed"});
    store.put_response(ada, NewResponse { body: &done, ..new }, minutes(1)).await.unwrap();
    let found = store.response(ada, id, NOON).await.unwrap();
    assert_eq!((found.body, found.created_at), (done, NOON));

    let next = "resp_2";
    store.put_response(ada, NewResponse { id: next, ..new }, NOON).await.unwrap();
    assert_eq!(store.response(ada, next, NOON).await.unwrap().body, body);

    assert!(store.response(ada, id, minutes(10)).await.is_err());
    store.delete_response(ada, id).await.unwrap();
    assert!(store.delete_response(ada, id).await.is_err());
    assert_eq!(store.delete_expired(minutes(9)).await.unwrap(), 0);
    assert_eq!(store.delete_expired(minutes(10)).await.unwrap(), 1);
}

pub(crate) async fn deferred(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let (good, bad, late) = ("good", "bad", "late");
    for id in [good, bad, late] {
        let new = NewDeferred { id, lease_until: minutes(2), expires_at: minutes(10) };
        assert!(store.start_deferred(ada, new, NOON).await.unwrap());
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

    // Its maker is heard of, and then no more.
    assert!(store.keep_deferred(ada, late, minutes(4)).await.unwrap());
    assert_eq!(take(late, minutes(3)).await.unwrap(), Deferred::Pending);
    assert_eq!(take(late, minutes(4)).await.unwrap(), Deferred::Abandoned);
    assert!(matches!(take(late, minutes(4)).await, Err(Error::NotFound { .. })));
    assert!(!store.keep_deferred(ada, late, minutes(9)).await.unwrap());

    // So many may wait to be read; somebody else's do not count.
    let start = async |owner: Option<UserId>, n: usize, now| {
        let id = format!("d{n}");
        let new = NewDeferred { id: &id, lease_until: minutes(2), expires_at: minutes(10) };
        store.start_deferred(owner, new, now).await.unwrap()
    };
    let mut n_started = 0;
    while start(Some(ada), n_started, NOON).await {
        n_started += 1;
    }
    assert_eq!(n_started, 256);
    assert!(start(None, 0, NOON).await);
    assert!(start(Some(ada), 999, minutes(10)).await);
}

/// The person at this machine has no account and keeps responses all the same.
pub(crate) async fn responses_without_an_account(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let (mine, hers) = (json!("of this machine"), json!("of Ada"));
    let new = |body| NewResponse { id: "resp_1", body, expires_at: minutes(10) };
    store.put_response(None, new(&mine), NOON).await.unwrap();
    store.put_response(ada, new(&hers), NOON).await.unwrap();
    assert_eq!(store.response(None, "resp_1", NOON).await.unwrap().body, mine);
    assert_eq!(store.response(ada, "resp_1", NOON).await.unwrap().body, hers);
    store.delete_user(ada).await.unwrap();
    assert!(store.response(ada, "resp_1", NOON).await.is_err());
    assert_eq!(store.response(None, "resp_1", NOON).await.unwrap().body, mine);
}

/// One owner cannot fill the disk: the oldest responses make room.
pub(crate) async fn oldest_responses_make_room(database: Database) {
    let store = &database.store;
    let (ada, ben) = (database.member("Ada").await.id, database.member("Ben").await.id);
    let large = json!("x".repeat(20 << 20));
    let put = async |owner, id: &str, at| {
        let new = NewResponse { id, body: &large, expires_at: minutes(99) };
        store.put_response(owner, new, at).await.unwrap();
    };
    put(ben, "of Ben", NOON).await;
    for (idx, id) in ["a", "b", "c", "d"].iter().enumerate() {
        put(ada, id, minutes(idx as i64)).await;
    }
    let has = async |owner, id: &str| store.response(owner, id, minutes(9)).await.is_ok();
    assert!(!has(ada, "a").await);
    assert!(has(ada, "b").await && has(ada, "d").await && has(ben, "of Ben").await);
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
        Signal::Thumb(Thumb::Down),
        Signal::Edit("better\0".to_owned()),
        Signal::Regenerate,
        Signal::Choice { other: ids[0], verdict: Verdict::BothBad },
        Signal::Copy,
        Signal::Comment("長い".to_owned()),
        Signal::Chip(Chip::TooLong),
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

    let marks = store.marks(ada, id).await.unwrap();
    let expected = Marks {
        thumb: Some(Thumb::Down),
        chips: vec![Chip::TooLong],
        comment: Some("長い".to_owned()),
    };
    assert_eq!((marks.len(), &marks[&ids[1]]), (1, &expected));
    let taken_back = vote(Some(ids[1]), Signal::Thumb(Thumb::None));
    store.add_feedback(ada, &taken_back, minutes(10)).await.unwrap();
    let marks = store.marks(ada, id).await.unwrap();
    assert_eq!(marks[&ids[1]], Marks { thumb: None, ..expected });

    let recent = store.recent_feedback(None, 2).await.unwrap();
    assert_eq!((recent[0].0.id, recent[0].1.as_str()), (taken_back.id, "Ada"));
    let before = FeedbackCursor { created_at: recent[1].0.created_at, id: recent[1].0.id };
    assert_eq!(store.recent_feedback(Some(before), 1).await.unwrap()[0].0, found[5]);
    let days = store.feedback_days(UnixMs(0)).await.unwrap();
    let thumbs = days.iter().find(|day| day.kind == "thumb").unwrap();
    assert_eq!((days.len(), thumbs.n_signals, thumbs.day_start), (7, 2, NOON.day_start()));

    // For training only while the person agrees.
    assert!(store.training_feedback(None, 9).await.unwrap().is_empty());
    store.set_consent(ada, true).await.unwrap();
    assert_eq!(store.training_feedback(None, 9).await.unwrap().len(), 8);
    let alone = NewFeedback { has_consent: false, ..vote(Some(ids[1]), Signal::Copy) };
    store.add_feedback(ada, &alone, minutes(11)).await.unwrap();
    assert_eq!(store.training_feedback(None, 9).await.unwrap().len(), 8);

    let unknown = MessageId::new(NOON);
    for new in [
        vote(Some(unknown), Signal::Copy),
        vote(Some(ids[1]), Signal::Choice { other: unknown, verdict: Verdict::This }),
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
        assert_eq!(store.put_style(ada, version, &body, NOON).await.unwrap().version, version + 1);
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

pub(crate) async fn undone_styles(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let nothing = store.undo_style(ada, NOON).await;
    assert!(matches!(nothing, Err(Error::Conflict { .. })));
    store.put_style(ada, 0, &json!("a"), NOON).await.unwrap();
    let second = store.put_style(ada, 1, &json!("b"), NOON).await.unwrap();
    assert!(second.can_undo);
    let undo = async || {
        let style = store.undo_style(ada, NOON).await.unwrap();
        assert_eq!(store.style(ada).await.unwrap(), Some(style.clone()));
        (style.version, style.body, style.can_undo)
    };
    assert_eq!(undo().await, (3, json!("a"), true));
    assert_eq!(undo().await, (4, json!(null), false));
    assert!(matches!(store.undo_style(ada, NOON).await, Err(Error::Conflict { .. })));
    // A new change can be undone again, and so can taking it all away.
    store.put_style(ada, 4, &json!("c"), NOON).await.unwrap();
    store.put_style(ada, 5, &json!(null), NOON).await.unwrap();
    assert_eq!(undo().await, (7, json!("c"), true));
    assert_eq!(undo().await, (8, json!(null), false));
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
