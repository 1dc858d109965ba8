//! Taking data away, putting it back, and databases of other versions.

use rapport_store::{
    ConversationId, Error, EventId, FeedbackId, Location, NewApiKey, NewConversation, NewDeferred,
    NewEvent, NewFeedback, NewResponse, NewTurn, NewUser, SignInIdentity, Signal, Store, UnixMs,
    UserId, UserRole,
};
use rapport_types::{Mode, Role};
use serde_json::json;

use crate::fixture::{Database, NOON, Sqlite, message, minutes, new_user};
use crate::money::{charge, only};

/// A user with something in every table.
async fn fill(store: &Store, name: &str) -> UserId {
    let new = NewUser { password: Some("opens all"), ..new_user(name, UserRole::User) };
    let user = store.create_user(new, NOON).await.unwrap().id;
    let identity = SignInIdentity { issuer: "https://id.example.org", subject: name };
    store.link_identity(user, identity, NOON).await.unwrap();
    store.start_session(user, NOON, minutes(9)).await.unwrap();
    store.create_sign_in_link(user, NOON, minutes(9)).await.unwrap();
    let new = NewApiKey { name: "key", scopes: &["chat".to_owned()], expires_at: None };
    store.create_api_key(user, new, NOON).await.unwrap();
    let conversation = ConversationId::new(NOON);
    let folder = store.create_folder(user, "旅", NOON).await.unwrap();
    let new = NewConversation {
        title: "題",
        folder: Some(folder.id),
        ..NewConversation::empty(conversation)
    };
    store.create_conversation(user, new, NOON).await.unwrap();
    store.remember(user, "likes tea", "user", NOON).await.unwrap();
    let body = json!({"text": "東京"});
    let new = NewResponse { id: "resp_1", body: &body, expires_at: minutes(9) };
    store.put_response(user, new, NOON).await.unwrap();
    let new = NewDeferred { id: "d", lease_until: minutes(9), expires_at: minutes(9) };
    assert!(store.start_deferred(user, new, NOON).await.unwrap());
    // A tree whose messages share a time, so that a dump meets children before parents.
    let mut parent = None;
    for idx in 0..20 {
        let new = message(conversation, parent, Role::User, &format!("line\n{idx} \"東京\" A"));
        store.add_message(user, &new, NOON).await.unwrap();
        parent = Some(new.id);
    }
    let new = NewFeedback {
        id: FeedbackId::new(NOON),
        message: parent,
        reply: None,
        build: "b".to_owned(),
        signal: Signal::Copy,
        has_consent: true,
    };
    store.add_feedback(user, &new, NOON).await.unwrap();
    let turn = NewTurn {
        client_id: "first",
        conversation,
        parent,
        content: "more",
        mode: Mode::Auto,
        has_alternative: true,
        lease_until: minutes(9),
    };
    store.begin_turn(user, turn, NOON).await.unwrap();
    store.create_share(user, parent.unwrap(), NOON).await.unwrap();
    store.put_style(user, 0, &json!({"warmth": 0.25}), NOON).await.unwrap();
    store.finish_reply(user, only(&charge()), NOON).await.unwrap();
    let body = json!({"choice": "a"});
    let new = NewEvent {
        id: EventId::new(NOON),
        stream: "pairs",
        kind: "vote",
        user: Some(user),
        once_key: None,
        body: &body,
    };
    store.append_event(new, NOON).await.unwrap();
    user
}

pub(crate) async fn export_and_delete(database: Database) {
    let store = &database.store;
    let ada = fill(store, "Ada").await;
    let export = store.export_user(ada).await.unwrap();
    for (part, n_expected) in [
        ("identities", 1),
        ("api_keys", 1),
        ("conversations", 1),
        ("messages", 23),
        ("folders", 1),
        ("memories", 1),
        ("shares", 1),
        ("responses", 1),
        ("deferred", 1),
        ("feedback", 1),
        ("styles", 1),
        ("ledger", 1),
        ("events", 1),
    ] {
        assert_eq!(export[part].as_array().unwrap().len(), n_expected, "{part}");
    }
    let text = export.to_string();
    assert!(text.contains("東京") && !text.contains("argon2") && !text.contains("hash"));

    store.delete_user(ada).await.unwrap();
    assert!(matches!(store.delete_user(ada).await, Err(Error::NotFound { .. })));
    // Nothing in the whole database says who it was.
    let mut dump = Vec::new();
    assert_eq!(store.dump(&mut dump).await.unwrap(), 2);
    let dump = String::from_utf8(dump).unwrap();
    assert!(!dump.contains(&ada.to_string()) && !dump.contains("Ada") && !dump.contains("東京"));
    assert_eq!(store.events("pairs", None, 9).await.unwrap()[0].user, None);
}

pub(crate) async fn dump_and_restore(database: Database) {
    let store = &database.store;
    let (ada, _) = (fill(store, "Ada").await, fill(store, "Ben").await);
    let mut dump = Vec::new();
    let n_rows = store.dump(&mut dump).await.unwrap();

    // Into an SQLite file, whatever it came from: the dumps must be the same rows.
    let sqlite = Sqlite::new();
    let copy = sqlite.database().await.store;
    assert_eq!(copy.restore(&mut dump.as_slice()).await.unwrap(), n_rows);
    assert_eq!(copy.export_user(ada).await.unwrap(), store.export_user(ada).await.unwrap());
    assert!(copy.check_password("ada", "opens all").await.unwrap().is_some());
    let refused = copy.restore(&mut dump.as_slice()).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    let mut second = Vec::new();
    copy.dump(&mut second).await.unwrap();
    assert_eq!(sorted_lines(&second), sorted_lines(&dump));

    // And back into the same kind of database it came from.
    store.delete_user(ada).await.unwrap();
    let ben = store.user_by_name("Ben").await.unwrap().id;
    store.delete_user(ben).await.unwrap();
    clear_rest(&database.location).await;
    assert_eq!(store.restore(&mut second.as_slice()).await.unwrap(), n_rows);
    let mut third = Vec::new();
    store.dump(&mut third).await.unwrap();
    assert_eq!(sorted_lines(&third), sorted_lines(&dump));
}

fn sorted_lines(dump: &[u8]) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(dump).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What deleting users leaves behind on purpose.
async fn clear_rest(location: &Location) {
    let connection = connect(location).await;
    sqlx::raw_sql("DELETE FROM ledger; DELETE FROM events").execute(&connection).await.unwrap();
    connection.close().await;
}

async fn connect(location: &Location) -> sqlx::AnyPool {
    let url = match location {
        Location::Sqlite(path) => format!("sqlite://{}", path.display()),
        Location::Postgres(url) => url.clone(),
    };
    sqlx::AnyPool::connect(&url).await.unwrap()
}

pub(crate) async fn bad_dumps(database: Database) {
    let store = &database.store;
    fill(store, "Ada").await;
    let mut dump = Vec::new();
    store.dump(&mut dump).await.unwrap();
    let dump = String::from_utf8(dump).unwrap();
    let sqlite = Sqlite::new();
    let empty = sqlite.database().await.store;
    let restore = async |text: String| empty.restore(&mut text.as_bytes()).await;

    let newer = restore(dump.replacen("\"rapport_dump\":2", "\"rapport_dump\":99", 1)).await;
    assert!(matches!(newer, Err(Error::Newer { found: 99, .. })), "{newer:?}");
    let headless = restore(dump.lines().skip(1).collect::<Vec<_>>().join("\n")).await;
    assert!(matches!(headless, Err(Error::Dump { line: 1, .. })), "{headless:?}");
    let cut = restore(dump[..dump.len() - 9].to_owned()).await;
    assert!(matches!(cut, Err(Error::Dump { .. })), "{cut:?}");
    let unknown =
        restore(dump.replacen("\"table\":\"users\"", "\"table\":\"sqlite_master\"", 1)).await;
    assert!(matches!(unknown, Err(Error::Dump { line: 2, .. })), "{unknown:?}");
    // An orphan is found at the end, when all rows should be there.
    let orphan: Vec<&str> =
        dump.lines().filter(|line| !line.contains("\"conversations\"")).collect();
    assert!(restore(orphan.join("\n")).await.is_err());
    // All or nothing: it is still empty, and a good dump goes in.
    restore(dump).await.unwrap();
}

/// A database of the first version is brought up to date with what is in it, and so is its dump.
pub(crate) async fn older_database(database: Database) {
    let store = &database.store;
    let ada = fill(store, "Ada").await;
    // Nothing was kept in these tables then.
    store.delete_response(ada, "resp_1").await.unwrap();
    store.finish_deferred(ada, "d", &Ok(json!(1))).await.unwrap();
    store.take_deferred(ada, "d", NOON).await.unwrap();
    let before = store.export_user(ada).await.unwrap();
    let mut dump = Vec::new();
    let n_rows = store.dump(&mut dump).await.unwrap();
    let dump = String::from_utf8(dump).unwrap();
    let connection = connect(&database.location).await;
    let first = "DELETE FROM schema_versions WHERE version > 1;
        DROP TABLE responses; DROP TABLE deferred;
        CREATE TABLE responses (owner_id TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL,
            created_at_ms BIGINT NOT NULL, expires_at_ms BIGINT NOT NULL,
            PRIMARY KEY (owner_id, id));
        CREATE TABLE deferred (owner_id TEXT NOT NULL, id TEXT NOT NULL, status TEXT NOT NULL,
            body TEXT, created_at_ms BIGINT NOT NULL, expires_at_ms BIGINT NOT NULL,
            PRIMARY KEY (owner_id, id))";
    sqlx::raw_sql(first).execute(&connection).await.unwrap();
    connection.close().await;
    let store = database.second_store().await;
    assert_eq!(store.export_user(ada).await.unwrap(), before);
    let body = json!(1);
    let new = NewResponse { id: "resp_1", body: &body, expires_at: minutes(9) };
    store.put_response(ada, new, NOON).await.unwrap();

    let sqlite = Sqlite::new();
    let copy = sqlite.database().await.store;
    let old = dump.replacen("\"rapport_dump\":2", "\"rapport_dump\":1", 1);
    assert_ne!(old, dump);
    assert_eq!(copy.restore(&mut old.as_bytes()).await.unwrap(), n_rows);
}

pub(crate) async fn newer_database(database: Database) {
    let before = database.member("Ada").await;
    let connection = connect(&database.location).await;
    sqlx::query("INSERT INTO schema_versions (version, applied_at_ms) VALUES (7, 0)")
        .execute(&connection)
        .await
        .unwrap();
    let refused = Store::open(&database.location, NOON).await;
    let Err(Error::Newer { found: 7, supported }) = refused else { panic!("{refused:?}") };
    sqlx::query("DELETE FROM schema_versions WHERE version > $1")
        .bind(supported)
        .execute(&connection)
        .await
        .unwrap();
    connection.close().await;
    let store = database.second_store().await;
    assert_eq!(store.user(before.id).await.unwrap(), before);
    assert_eq!(store.meter(before.id, UnixMs(0)).await.unwrap().requests, 0);
}
