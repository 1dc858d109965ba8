//! What is one person's is nobody else's: every id of Ada in the hands of Eve.

use rapport_store::{
    ApiKeyId, ConversationChange, ConversationFilter, ConversationId, Deferred, Error, FeedbackId,
    Finished, FolderId, Limits, MemoryId, MessageId, NewApiKey, NewConversation, NewDeferred,
    NewFeedback, NewResponse, NewTurn, ReplyId, ReservationId, Reserved, ShareId, Signal, Store,
    Thumb, UnixMs, UserId, Verdict,
};
use rapport_types::{Mode, Role};
use serde_json::json;

use crate::content::another;
use crate::fixture::{Database, NOON, message, minutes};
use crate::money::{ESTIMATE, charge, only};

/// One of everything.
struct Belongings {
    owner: UserId,
    conversation: ConversationId,
    message: MessageId,
    key: ApiKeyId,
    share: ShareId,
    folder: FolderId,
    memory: MemoryId,
    streaming: MessageId,
    reply: ReplyId,
    reservation: ReservationId,
}

async fn fill(store: &Store, owner: UserId) -> Belongings {
    let conversation = ConversationId::new(NOON);
    let titled = NewConversation { title: "private words", ..NewConversation::empty(conversation) };
    store.create_conversation(owner, titled, NOON).await.unwrap();
    let root = message(conversation, None, Role::User, "private words");
    store.add_message(owner, &root, NOON).await.unwrap();
    let new = NewApiKey { name: "key", scopes: &[], expires_at: None };
    let (key, _) = store.create_api_key(owner, new, NOON).await.unwrap();
    let share = store.create_share(owner, root.id, NOON).await.unwrap();
    let (response, body) = ("resp_a", json!({"text": "private words"}));
    let new = NewResponse { id: response, body: &body, expires_at: minutes(99) };
    store.put_response(owner, new, NOON).await.unwrap();
    let (pending, done) = ("pending", "done");
    for id in [pending, done] {
        let new = NewDeferred { id, lease_until: minutes(99), expires_at: minutes(99) };
        assert!(store.start_deferred(owner, new, NOON).await.unwrap());
    }
    store.finish_deferred(owner, done, &Ok(body)).await.unwrap();
    let charge = charge();
    store.finish_reply(owner, only(&charge), NOON).await.unwrap();
    let new = NewFeedback {
        id: FeedbackId::new(NOON),
        message: Some(root.id),
        reply: Some(charge.reply),
        build: String::new(),
        signal: Signal::Thumb(Thumb::Up),
        has_consent: false,
    };
    store.add_feedback(owner, &new, NOON).await.unwrap();
    store.put_style(owner, 0, &json!({"warmth": 1}), NOON).await.unwrap();
    let folder = store.create_folder(owner, "private words", NOON).await.unwrap();
    let memory = store.remember(owner, "private words", "user", NOON).await.unwrap();
    let begun = store.begin_reply(owner, another("once", root.id, minutes(99)), NOON).await;
    let begun = begun.unwrap();
    let limits = Limits::default();
    let reserved = store.reserve(owner, ESTIMATE, &limits, NOON, minutes(99)).await.unwrap();
    let Reserved::Granted(held) = reserved else { panic!("{reserved:?}") };
    Belongings {
        owner,
        conversation,
        message: root.id,
        key: key.id,
        share: share.id,
        folder: folder.id,
        memory: memory.id,
        streaming: begun.reply.id,
        reply: charge.reply,
        reservation: held.id,
    }
}

#[track_caller]
fn not_found<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

pub(crate) async fn every_id(database: Database) {
    let store = &database.store;
    let (ada, eve) = (database.member("Ada").await.id, database.member("Eve").await.id);
    let hers = fill(store, ada).await;
    let own = fill(store, eve).await;
    let before = store.export_user(ada).await.unwrap();

    not_found(store.conversation(eve, hers.conversation).await);
    let mine = NewConversation { title: "mine now", ..NewConversation::empty(hers.conversation) };
    not_found(store.create_conversation(eve, mine, NOON).await);
    let import = store.import_conversation(eve, mine, NOON, &[]).await;
    assert!(matches!(import, Err(Error::Conflict { .. })));
    not_found(
        store.change_conversation(eve, hers.conversation, &ConversationChange::default()).await,
    );
    not_found(store.delete_conversation(eve, hers.conversation).await);
    let steal_head = ConversationChange { head: Some(hers.message), ..Default::default() };
    not_found(store.change_conversation(eve, own.conversation, &steal_head).await);

    not_found(store.message(eve, hers.message).await);
    not_found(store.branch(eve, hers.message, 9).await);
    not_found(store.delete_message(eve, hers.message).await);
    assert!(store.messages(eve, hers.conversation).await.unwrap().is_empty());
    assert!(store.children(eve, hers.conversation, None).await.unwrap().is_empty());
    let into = message(hers.conversation, None, Role::User, "into hers");
    not_found(store.add_message(eve, &into, NOON).await);
    let under = message(own.conversation, Some(hers.message), Role::User, "under hers");
    not_found(store.add_message(eve, &under, NOON).await);
    // Her id in Eve's own conversation: taken, and no more is said.
    let same = rapport_store::NewMessage {
        id: hers.message,
        ..message(own.conversation, None, Role::User, "private words")
    };
    let taken = store.add_message(eve, &same, NOON).await;
    assert!(matches!(taken, Err(Error::Conflict { .. })));

    not_found(store.revoke_api_key(eve, hers.key, NOON).await);
    not_found(store.create_share(eve, hers.message, NOON).await);
    not_found(store.delete_share(eve, hers.share).await);

    not_found(store.rename_folder(eve, hers.folder, "mine now").await);
    not_found(store.delete_folder(eve, hers.folder).await);
    let into = ConversationChange { folder: Some(Some(hers.folder)), ..Default::default() };
    not_found(store.change_conversation(eve, own.conversation, &into).await);
    let new = NewConversation {
        folder: Some(hers.folder),
        ..NewConversation::empty(ConversationId::new(NOON))
    };
    not_found(store.create_conversation(eve, new, NOON).await);
    let filter = ConversationFilter { folder: Some(hers.folder), after: None, limit: 9 };
    assert!(store.conversations(eve, &filter).await.unwrap().is_empty());
    not_found(store.change_memory(eve, hers.memory, "mine now", NOON).await);
    not_found(store.forget(eve, hers.memory).await);

    let turn = NewTurn {
        client_id: "new",
        conversation: hers.conversation,
        parent: None,
        content: "into hers",
        mode: Mode::Fast,
        has_alternative: false,
        lease_until: minutes(99),
    };
    not_found(store.begin_turn(eve, turn, NOON).await);
    let under = NewTurn { conversation: own.conversation, parent: Some(hers.message), ..turn };
    not_found(store.begin_turn(eve, under, NOON).await);
    let late = minutes(99);
    not_found(store.begin_reply(eve, another("new", hers.message, late), NOON).await);
    not_found(store.continue_reply(eve, "new", hers.streaming, late, NOON).await);
    assert!(!store.save_progress(eve, hers.streaming, "forged", None, late).await.unwrap());
    not_found(store.fail_reply(eve, hers.streaming, "forged", Some(hers.reservation)).await);
    assert!(store.marks(eve, hers.conversation).await.unwrap().is_empty());

    // Responses and deferred replies have names of their owner's own: the same name is another's.
    let body = json!("mine now");
    for id in ["resp_a", "pending", "done"] {
        store.delete_response(eve, "resp_a").await.ok();
        store.take_deferred(eve, "done", NOON).await.ok();
        not_found(store.response(eve, id, NOON).await);
        not_found(store.delete_response(eve, id).await);
    }
    store.finish_deferred(eve, "pending", &Ok(json!("forged"))).await.unwrap();
    store.take_deferred(eve, "pending", NOON).await.unwrap();
    let new = NewResponse { id: "resp_a", body: &body, expires_at: minutes(99) };
    store.put_response(eve, new, NOON).await.unwrap();
    assert_eq!(
        store.response(ada, "resp_a", NOON).await.unwrap().body,
        json!({"text": "private words"})
    );

    let vote = |message, reply, signal| NewFeedback {
        id: FeedbackId::new(NOON),
        message,
        reply,
        build: String::new(),
        signal,
        has_consent: true,
    };
    not_found(store.add_feedback(eve, &vote(Some(hers.message), None, Signal::Copy), NOON).await);
    not_found(store.add_feedback(eve, &vote(None, Some(hers.reply), Signal::Copy), NOON).await);
    let choice = Signal::Choice { other: hers.message, verdict: Verdict::This };
    not_found(store.add_feedback(eve, &vote(Some(own.message), None, choice), NOON).await);

    assert!(!store.extend(eve, hers.reservation, NOON, minutes(999)).await.unwrap());
    assert!(!store.release(eve, hers.reservation).await.unwrap());
    let (first, again) = (charge(), rapport_store::Charge { reply: hers.reply, ..charge() });
    let with_hers = Finished { charge: &first, message: None, reservation: Some(hers.reservation) };
    store.finish_reply(eve, with_hers, NOON).await.unwrap();
    let taken = store.finish_reply(eve, only(&again), NOON).await;
    assert!(matches!(taken, Err(Error::Conflict { .. })));
    let reply_into = message(hers.conversation, None, Role::Assistant, "into hers");
    let other = charge();
    let into = Finished { charge: &other, message: Some(&reply_into), reservation: None };
    not_found(store.finish_reply(eve, into, NOON).await);

    assert_eq!(store.export_user(ada).await.unwrap(), before);
    assert_eq!(store.meter(ada, NOON).await.unwrap().reserved_requests, 1);
    assert_eq!(store.take_deferred(ada, "pending", NOON).await.unwrap(), Deferred::Pending);
}

/// Lists and sums hold what belongs to their owner, and deleting one takes nothing of the other.
pub(crate) async fn every_owner(database: Database) {
    let store = &database.store;
    let (ada, eve) = (database.member("Ada").await.id, database.member("Eve").await.id);
    let (hers, own) = (fill(store, ada).await, fill(store, eve).await);
    for (owner, belongings) in [(ada, &hers), (eve, &own)] {
        let filter = ConversationFilter { folder: None, after: None, limit: 9 };
        let conversations = store.conversations(owner, &filter).await.unwrap();
        assert!(conversations.iter().map(|c| c.id).eq([belongings.conversation]));
        let hits = store.search(owner, "private", 9).await.unwrap();
        assert_eq!(hits.len(), 2);
        assert!(hits.iter().all(|hit| hit.conversation == belongings.conversation));
        assert!(store.shares(owner).await.unwrap().iter().map(|s| s.id).eq([belongings.share]));
        assert!(store.api_keys(owner).await.unwrap().iter().map(|k| k.id).eq([belongings.key]));
        assert!(store.feedback_of(owner, None, 9).await.unwrap().iter().all(|f| f.user == owner));
        assert!(store.folders(owner).await.unwrap().iter().map(|f| f.id).eq([belongings.folder]));
        assert!(store.memories(owner).await.unwrap().iter().map(|m| m.id).eq([belongings.memory]));
        let marks = store.marks(owner, belongings.conversation).await.unwrap();
        assert!(marks.keys().eq([&belongings.message]));
        let usage = store.usage(Some(owner), UnixMs(0), UnixMs(i64::MAX)).await.unwrap();
        assert!(usage.iter().all(|row| row.user == Some(owner) && row.n_replies == 1));
    }
    let before = store.export_user(ada).await.unwrap();
    store.delete_user(own.owner).await.unwrap();
    assert_eq!(store.export_user(ada).await.unwrap(), before);
    not_found(store.export_user(eve).await);
    not_found(store.message(eve, own.message).await);
}
