//! Many at once, through two servers on one database: what may happen once happens once.

use std::sync::Arc;

use rapport_store::{
    Appended, Charged, ConversationId, Estimate, EventId, Finished, Limits, NewApiKey,
    NewConversation, NewDeferred, NewEvent, Reserved, Store, UserId, UserRole,
};
use rapport_types::Role;
use serde_json::json;
use tokio::task::JoinSet;

use crate::fixture::{Database, NOON, message, minutes, new_user};
use crate::money::{ESTIMATE, charge};

const N_TASKS: usize = 40;

/// Runs `task` many times at once, half on each of two servers; returns what each gave.
async fn race<T, F>(database: Database, task: impl Fn(Arc<Store>, usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let second = Arc::new(database.second_store().await);
    let first = Arc::new(database.store);
    let mut tasks = JoinSet::new();
    for idx in 0..N_TASKS {
        let store = if idx % 2 == 0 { &first } else { &second };
        tasks.spawn(task(Arc::clone(store), idx));
    }
    tasks.join_all().await
}

fn count(results: &[bool]) -> usize {
    results.iter().filter(|&&is_true| is_true).count()
}

pub(crate) async fn one_name(database: Database) {
    let made = race(database, async |store, _| {
        store.create_user(new_user("Ada", UserRole::User), NOON).await.is_ok()
    });
    assert_eq!(count(&made.await), 1);
}

pub(crate) async fn one_link(database: Database) {
    let link = database.store.create_join_link(UserRole::Admin, NOON, minutes(9)).await.unwrap();
    let joined = race(database, move |store, idx| {
        let link = link.clone();
        async move {
            let name = format!("user {idx}");
            store.join(link.reveal(), new_user(&name, UserRole::User), NOON).await.is_ok()
        }
    });
    assert_eq!(count(&joined.await), 1);
}

pub(crate) async fn one_charge(database: Database) {
    let ada = database.member("Ada").await.id;
    let watcher = database.second_store().await;
    let conversation = ConversationId::new(NOON);
    watcher.create_conversation(ada, NewConversation::empty(conversation), NOON).await.unwrap();
    let charge = charge();
    let reply = message(conversation, None, Role::Assistant, "one");
    let charged = race(database, move |store, _| {
        let (charge, reply) = (charge.clone(), reply.clone());
        async move {
            let finished = Finished { charge: &charge, message: Some(&reply), reservation: None };
            store.finish_reply(ada, finished, NOON).await.unwrap() == Charged::Now
        }
    });
    assert_eq!(count(&charged.await), 1);
    assert_eq!(watcher.meter(ada, NOON).await.unwrap().requests, 1);
    assert_eq!(watcher.messages(ada, conversation).await.unwrap().len(), 1);
}

pub(crate) async fn one_event(database: Database) {
    let appended = race(database, async |store, idx| {
        let body = json!({"arm": idx});
        let new = NewEvent {
            id: EventId::new(NOON),
            stream: "warmer",
            kind: "assigned",
            user: None,
            once_key: Some("42"),
            body: &body,
        };
        match store.append_event(new, NOON).await.unwrap() {
            Appended::Now => (true, body),
            Appended::Before(event) => (false, event.body),
        }
    });
    let appended = appended.await;
    assert_eq!(appended.iter().filter(|(is_first, _)| *is_first).count(), 1);
    assert!(appended.iter().all(|(_, arm)| *arm == appended[0].1));
}

/// Reserve, then finish or fail: at no time, and not in the end, is a limit passed, and whoever asks
/// until the day is over for it leaves nothing of the day unused.
pub(crate) async fn one_quota(database: Database) {
    let ada = database.member("Ada").await.id;
    let watcher = database.second_store().await;
    let limits = Limits { tokens: Some(1_000), requests: Some(11), ..Limits::default() };
    let reserved = race(database, move |store, idx| async move {
        let held = loop {
            let reserved = store.reserve(ada, ESTIMATE, &limits, NOON, minutes(1)).await.unwrap();
            let meter = store.meter(ada, NOON).await.unwrap();
            assert!(meter.tokens + meter.reserved_tokens <= 1_000, "{meter:?}");
            assert!(meter.requests + meter.reserved_requests <= 11, "{meter:?}");
            match reserved {
                Reserved::Granted(held) => break held,
                // What others hold may come back.
                Reserved::Denied { retry_after_ms: ..=1_000, .. } => {
                    tokio::task::yield_now().await;
                }
                Reserved::Denied { .. } => return false,
            }
        };
        if idx % 3 == 0 {
            assert!(store.release(ada, held.id).await.unwrap());
            return false;
        }
        let charge = charge();
        let finished = Finished { charge: &charge, message: None, reservation: Some(held.id) };
        store.finish_reply(ada, finished, NOON).await.unwrap();
        true
    });
    // 11 requests of 80 tokens fit into the day; 26 who are not released want one.
    assert_eq!(count(&reserved.await), 11);
    let meter = watcher.meter(ada, NOON).await.unwrap();
    assert_eq!((meter.requests, meter.reserved_requests), (11, 0));

    // Exactly as many as fit, when none ends.
    let estimate = Estimate { tokens: 100, thinking_tokens: 0 };
    let ben = crate::fixture::member(&watcher, "Ben").await.id;
    let watcher = Arc::new(watcher);
    let mut tasks = JoinSet::new();
    for _ in 0..N_TASKS {
        let store = Arc::clone(&watcher);
        tasks.spawn(async move {
            let reserved = store.reserve(ben, estimate, &limits, NOON, minutes(1)).await.unwrap();
            matches!(reserved, Reserved::Granted(_))
        });
    }
    assert_eq!(count(&tasks.join_all().await), 10);
}

pub(crate) async fn one_style(database: Database) {
    let ada = database.member("Ada").await.id;
    let put = race(database, move |store, idx| async move {
        store.put_style(ada, 0, &json!({"from": idx}), NOON).await.is_ok()
    });
    assert_eq!(count(&put.await), 1);
}

pub(crate) async fn one_deferred(database: Database) {
    let ada = database.member("Ada").await.id;
    let id = "deferred";
    let new = NewDeferred { id, lease_until: minutes(9), expires_at: minutes(9) };
    assert!(database.store.start_deferred(ada, new, NOON).await.unwrap());
    database.store.finish_deferred(ada, id, &Ok(json!(1))).await.unwrap();
    let taken =
        race(
            database,
            move |store, _| async move { store.take_deferred(ada, id, NOON).await.is_ok() },
        );
    assert_eq!(count(&taken.await), 1);
}

pub(crate) async fn one_key(database: Database) {
    let ada = database.member("Ada").await.id;
    let keys = race(database, move |store, _| async move {
        let new = NewApiKey { name: "start", scopes: &[], expires_at: None };
        store.adopt_api_key(ada, new, "the same secret everywhere", NOON).await.unwrap().id
    });
    let keys = keys.await;
    assert!(keys.iter().all(|key| *key == keys[0]));
}

pub(crate) async fn one_setting(database: Database) {
    let found = race(database, async |store, idx| {
        store.setting_or_put("secret", &json!(idx)).await.unwrap()
    });
    let found = found.await;
    assert!(found.iter().all(|value| *value == found[0]), "{found:?}");
}

pub(crate) async fn one_conversation(database: Database) {
    let ada = database.member("Ada").await.id;
    let watcher = database.second_store().await;
    let conversation = ConversationId::new(NOON);
    watcher.create_conversation(ada, NewConversation::empty(conversation), NOON).await.unwrap();
    let root = message(conversation, None, Role::User, "root");
    watcher.add_message(ada, &root, NOON).await.unwrap();
    // Somebody deletes the conversation while the others write to it.
    let written = race(database, move |store, idx| async move {
        if idx == N_TASKS / 2 {
            store.delete_conversation(ada, conversation).await.unwrap();
            return false;
        }
        let reply = message(conversation, Some(root.id), Role::Assistant, "reply");
        match store.add_message(ada, &reply, NOON).await {
            Ok(()) => true,
            Err(rapport_store::Error::NotFound { .. }) => false,
            Err(error) => panic!("{error:?}"),
        }
    });
    written.await;
    assert!(watcher.messages(ada, conversation).await.unwrap().is_empty());
}

pub(crate) async fn last_admins(database: Database) {
    let mut admins: Vec<UserId> = Vec::new();
    for idx in 0..N_TASKS {
        let name = format!("admin {idx}");
        let new = new_user(&name, UserRole::Admin);
        admins.push(database.store.create_user(new, NOON).await.unwrap().id);
    }
    let watcher = database.second_store().await;
    race(database, move |store, idx| {
        let admin = admins[idx];
        async move { store.set_role(admin, UserRole::User).await.is_ok() }
    })
    .await;
    let users = watcher.users(None, 100).await.unwrap();
    assert_eq!(users.iter().filter(|user| user.role == UserRole::Admin).count(), 1);
}

pub(crate) async fn opening_together(database: Database) {
    let location = database.location.clone();
    let opened = race(database, move |_, _| {
        let location = location.clone();
        async move {
            let store = Store::open(&location, NOON).await.unwrap();
            store.check().await.unwrap();
            store.close().await;
        }
    });
    assert_eq!(opened.await.len(), N_TASKS);
}
