//! Users and their ways in.

use crate::fixture::{Database, NOON, minutes, new_user};
use rapport_store::{ApiKeyState, Error, NewApiKey, NewUser, SignInIdentity, UserId, UserRole};

pub(crate) async fn users(database: Database) {
    let store = &database.store;
    assert!(!store.has_users().await.unwrap());
    let ada = store.create_user(new_user(" Ada ", UserRole::Admin), NOON).await.unwrap();
    assert!(store.has_users().await.unwrap());
    assert_eq!(ada.name, "Ada");
    assert_eq!(store.user(ada.id).await.unwrap(), ada);
    assert_eq!(store.user_by_name("aDA").await.unwrap(), ada);

    store.set_plan(ada.id, "premium").await.unwrap();
    store.set_locale(ada.id, Some("ja")).await.unwrap();
    store.set_consent(ada.id, true).await.unwrap();
    store.set_name(ada.id, "Ada L.").await.unwrap();
    store.touch_user(ada.id, minutes(1)).await.unwrap();
    store.touch_user(ada.id, minutes(1).plus_ms(59_000)).await.unwrap();
    let ada = store.user(ada.id).await.unwrap();
    assert_eq!((ada.plan.as_str(), ada.locale.as_deref()), ("premium", Some("ja")));
    assert_eq!((ada.name.as_str(), ada.last_seen_at), ("Ada L.", Some(minutes(1))));
    assert!(ada.has_consent && !ada.has_password);
    assert_eq!(store.count_users_seen(minutes(1)).await.unwrap(), 1);
    assert_eq!(store.count_users_seen(minutes(2)).await.unwrap(), 0);

    let ben = store.create_user(new_user("Ben", UserRole::User), minutes(1)).await.unwrap();
    let names = |users: Vec<rapport_store::User>| users.into_iter().map(|user| user.id).collect();
    let all: Vec<UserId> = names(store.users(None, 10).await.unwrap());
    assert_eq!(all, [ada.id, ben.id]);
    let second: Vec<UserId> = names(store.users(Some(ada.id), 1).await.unwrap());
    assert_eq!(second, [ben.id]);

    let taken = store.set_name(ben.id, "ada l.").await;
    assert!(matches!(taken, Err(Error::Conflict { .. })));
    store.set_name(ben.id, "BEN").await.unwrap();
    for name in ["", "  ", &"x".repeat(101)] {
        let refused = store.create_user(new_user(name, UserRole::User), NOON).await;
        assert!(matches!(refused, Err(Error::Invalid { what: "name", .. })), "{name}");
        assert!(matches!(store.set_name(ben.id, name).await, Err(Error::Invalid { .. })));
    }
    for password in ["seven77", &"x".repeat(1_001)] {
        let refused = store.set_password(ben.id, password).await;
        assert!(matches!(refused, Err(Error::Invalid { what: "password", .. })));
    }

    let nobody = UserId::new(NOON);
    assert!(matches!(store.user(nobody).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.set_plan(nobody, "free").await, Err(Error::NotFound { .. })));
    assert!(matches!(
        store.start_session(nobody, NOON, minutes(1)).await,
        Err(Error::NotFound { .. })
    ));
}

pub(crate) async fn names_are_unique_without_case(database: Database) {
    database.member("Zoë").await;
    for name in ["zoë", "ZOË", "  Zoë", "Ｚoë"] {
        let taken = database.store.create_user(new_user(name, UserRole::User), NOON).await;
        assert!(matches!(taken, Err(Error::Conflict { .. })), "{name}");
    }
}

pub(crate) async fn passwords(database: Database) {
    let store = &database.store;
    let new = NewUser { password: Some("first word"), ..new_user("Ada", UserRole::User) };
    let ada = store.create_user(new, NOON).await.unwrap();
    let check = async |password| store.check_password("ada", password).await.unwrap();
    assert_eq!(check("first word").await.unwrap().id, ada.id);
    assert_eq!(check("First word").await, None);

    let session = store.start_session(ada.id, NOON, minutes(9)).await.unwrap();
    store.set_password(ada.id, "second word").await.unwrap();
    assert_eq!(check("first word").await, None);
    assert!(check("second word").await.is_some());
    assert_eq!(store.session_user(session.reveal(), NOON).await.unwrap(), None);

    store.disable_user(ada.id, NOON).await.unwrap();
    assert_eq!(check("second word").await, None);
    store.enable_user(ada.id).await.unwrap();
    assert!(check("second word").await.is_some());

    database.member("Ben").await;
    assert_eq!(store.check_password("Ben", "").await.unwrap(), None);
    assert_eq!(store.check_password("nobody", "second word").await.unwrap(), None);
}

pub(crate) async fn sessions(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await;
    let who = async |secret: &str, now| {
        store.session_user(secret, now).await.unwrap().map(|user| user.id)
    };
    let first = store.start_session(ada.id, NOON, minutes(10)).await.unwrap();
    let second = store.start_session(ada.id, NOON, minutes(10)).await.unwrap();
    assert_eq!(who(first.reveal(), minutes(9)).await, Some(ada.id));
    assert_eq!(who(first.reveal(), minutes(10)).await, None);
    assert_eq!(who("rs-guess", NOON).await, None);

    store.end_session(first.reveal()).await.unwrap();
    assert_eq!(who(first.reveal(), NOON).await, None);
    assert_eq!(who(second.reveal(), NOON).await, Some(ada.id));
    store.end_sessions(ada.id).await.unwrap();
    assert_eq!(who(second.reveal(), NOON).await, None);

    let third = store.start_session(ada.id, NOON, minutes(10)).await.unwrap();
    store.disable_user(ada.id, NOON).await.unwrap();
    assert_eq!(who(third.reveal(), NOON).await, None);
}

pub(crate) async fn join_links(database: Database) {
    let store = &database.store;
    database.member("Ben").await;
    let link = store.create_join_link(UserRole::Admin, NOON, minutes(10)).await.unwrap();
    let join =
        async |name, now| store.join(link.reveal(), new_user(name, UserRole::User), now).await;

    assert!(matches!(join("Ada", minutes(10)).await, Err(Error::NotFound { .. })));
    // A name that is taken does not use the link up.
    assert!(matches!(join("ben", NOON).await, Err(Error::Conflict { .. })));
    assert_eq!(join("Ada", NOON).await.unwrap().role, UserRole::Admin);
    assert!(matches!(join("Cem", NOON).await, Err(Error::NotFound { .. })));
    assert!(store.sign_in_by_link(link.reveal(), NOON).await.is_err());
}

pub(crate) async fn sign_in_links(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await;
    let link = store.create_sign_in_link(ada.id, NOON, minutes(10)).await.unwrap();
    let join = store.join(link.reveal(), new_user("Eve", UserRole::Admin), NOON).await;
    assert!(matches!(join, Err(Error::NotFound { .. })));
    assert_eq!(store.sign_in_by_link(link.reveal(), NOON).await.unwrap().id, ada.id);
    assert!(store.sign_in_by_link(link.reveal(), NOON).await.is_err());

    let late = store.create_sign_in_link(ada.id, NOON, minutes(10)).await.unwrap();
    assert!(store.sign_in_by_link(late.reveal(), minutes(10)).await.is_err());
    store.disable_user(ada.id, NOON).await.unwrap();
    assert!(store.sign_in_by_link(late.reveal(), NOON).await.is_err());
}

pub(crate) async fn identities(database: Database) {
    let store = &database.store;
    let identity = SignInIdentity { issuer: "https://id.example.org", subject: "42" };
    let sign_in = async |name| {
        store.sign_in_by_identity(identity, new_user(name, UserRole::User), NOON).await
    };
    let ada = sign_in("Ada").await.unwrap().unwrap();
    assert_eq!(sign_in("Another name").await.unwrap().unwrap().id, ada.id);
    assert_eq!(store.user_by_identity(identity).await.unwrap().unwrap().id, ada.id);

    // The same name from elsewhere is not the same person.
    let elsewhere = SignInIdentity { issuer: "https://else.example.org", ..identity };
    let taken = store.sign_in_by_identity(elsewhere, new_user("ada", UserRole::User), NOON).await;
    assert!(matches!(taken, Err(Error::Conflict { .. })));
    store.link_identity(ada.id, elsewhere, NOON).await.unwrap();
    store.link_identity(ada.id, elsewhere, NOON).await.unwrap();
    let ben = database.member("Ben").await;
    let taken = store.link_identity(ben.id, elsewhere, NOON).await;
    assert!(matches!(taken, Err(Error::Conflict { .. })));

    store.disable_user(ada.id, NOON).await.unwrap();
    assert_eq!(sign_in("Ada").await.unwrap(), None);
}

/// An account is given to a verified address only while nobody has been in it.
pub(crate) async fn claimed_accounts(database: Database) {
    let store = &database.store;
    let issuer = "https://id.example.org";
    let claim = async |subject, email| {
        let identity = SignInIdentity { issuer, subject };
        store.claim_account(identity, email, NOON).await.unwrap().map(|user| user.id)
    };
    let invited = async |name| database.member(name).await.id;
    let ada = invited("Ada@example.org").await;
    let link = store.create_sign_in_link(ada, NOON, minutes(9)).await.unwrap();
    assert_eq!(claim("1", "nobody@example.org").await, None);
    assert_eq!(claim("1", "ada@Example.org").await, Some(ada));
    assert_eq!(store.identities(ada).await.unwrap(), [(issuer.to_owned(), NOON)]);
    assert!(store.sign_in_by_link(link.reveal(), NOON).await.is_err(), "the invitation is over");
    assert_eq!(claim("2", "ada@example.org").await, None, "it has an identity");

    let new = NewUser { password: Some("chosen first"), ..new_user("b@x.org", UserRole::User) };
    store.create_user(new, NOON).await.unwrap();
    let seen = invited("c@x.org").await;
    store.touch_user(seen, NOON).await.unwrap();
    let signed_in = invited("d@x.org").await;
    store.start_session(signed_in, NOON, minutes(9)).await.unwrap();
    let linked = invited("e@x.org").await;
    let link = store.create_sign_in_link(linked, NOON, minutes(9)).await.unwrap();
    store.sign_in_by_link(link.reveal(), NOON).await.unwrap();
    let disabled = invited("f@x.org").await;
    store.disable_user(disabled, NOON).await.unwrap();
    for email in ["b@x.org", "c@x.org", "d@x.org", "e@x.org", "f@x.org"] {
        assert_eq!(claim("3", email).await, None, "{email}");
    }
}

pub(crate) async fn ended_join_links(database: Database) {
    let store = &database.store;
    let join = async || store.create_join_link(UserRole::Admin, NOON, minutes(9)).await.unwrap();
    let (used, other) = (join().await, join().await);
    store.join(used.reveal(), new_user("Ada", UserRole::User), NOON).await.unwrap();
    assert_eq!(store.end_join_links().await.unwrap(), 1);
    let late = store.join(other.reveal(), new_user("Eve", UserRole::User), NOON).await;
    assert!(matches!(late, Err(Error::NotFound { .. })));
}

pub(crate) async fn somebody_stays_in_charge(database: Database) {
    let store = &database.store;
    let ada = store.create_user(new_user("Ada", UserRole::Admin), NOON).await.unwrap();
    let ben = database.member("Ben").await;
    let refused = |result| assert!(matches!(result, Err(Error::Conflict { .. })));
    refused(store.set_role(ada.id, UserRole::User).await);
    refused(store.disable_user(ada.id, NOON).await);
    refused(store.delete_user(ada.id).await);
    assert_eq!(store.user(ada.id).await.unwrap(), ada);

    store.disable_user(ben.id, NOON).await.unwrap();
    store.enable_user(ben.id).await.unwrap();
    store.set_role(ben.id, UserRole::Admin).await.unwrap();
    store.delete_user(ada.id).await.unwrap();
    refused(store.set_role(ben.id, UserRole::User).await);
}

pub(crate) async fn keys(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await;
    let scopes = ["chat".to_owned(), "models".to_owned()];
    let new = NewApiKey { name: "laptop", scopes: &scopes, expires_at: Some(minutes(10)) };
    let (key, secret) = store.create_api_key(ada.id, new, NOON).await.unwrap();
    assert!(secret.reveal().starts_with(&key.prefix) && key.prefix.len() == 8);
    assert_eq!(key.scopes, scopes);

    let find = async |secret: &str, now| store.api_key_by_secret(secret, now).await.unwrap();
    assert_eq!(find(secret.reveal(), minutes(9)).await, Some(key.clone()));
    assert_eq!(find(secret.reveal(), minutes(10)).await, None);
    assert_eq!(find(&secret.reveal()[..60], NOON).await, None);
    let state = async |now| store.api_key_state(key.id, now).await.unwrap();
    assert_eq!(state(NOON).await, ApiKeyState::Live);
    assert_eq!(state(minutes(10)).await, ApiKeyState::Expired);

    assert_eq!(store.all_api_keys(None, 9).await.unwrap(), std::slice::from_ref(&key));
    assert!(store.all_api_keys(Some(key.id), 9).await.unwrap().is_empty());
    store.touch_api_key(key.id, minutes(1)).await.unwrap();
    store.touch_api_key(key.id, minutes(1).plus_ms(59_000)).await.unwrap();
    assert_eq!(store.api_keys(ada.id).await.unwrap()[0].last_used_at, Some(minutes(1)));

    store.disable_user(ada.id, NOON).await.unwrap();
    assert_eq!(find(secret.reveal(), NOON).await, None);
    assert_eq!(state(NOON).await, ApiKeyState::Gone);
    store.enable_user(ada.id).await.unwrap();

    store.revoke_api_key(ada.id, key.id, minutes(2)).await.unwrap();
    store.revoke_api_key(ada.id, key.id, minutes(3)).await.unwrap();
    assert_eq!(find(secret.reveal(), NOON).await, None);
    assert_eq!(state(NOON).await, ApiKeyState::Revoked);
    assert_eq!(store.api_key(key.id).await.unwrap().revoked_at, Some(minutes(2)));
    assert!(store.api_keys(ada.id).await.unwrap().is_empty());
    assert!(store.all_api_keys(None, 9).await.unwrap().is_empty());
}

pub(crate) async fn adopted_keys(database: Database) {
    let store = &database.store;
    let (ada, ben) = (database.member("Ada").await, database.member("Ben").await);
    let new = NewApiKey { name: "first start", scopes: &["admin".to_owned()], expires_at: None };
    let adopt = async |user, now| store.adopt_api_key(user, new, "chosen outside", now).await;
    let key = adopt(ada.id, NOON).await.unwrap();
    assert_eq!(key.prefix, "");
    assert_eq!(adopt(ada.id, minutes(1)).await.unwrap(), key);
    assert!(matches!(adopt(ben.id, NOON).await, Err(Error::Conflict { .. })));
    let found = store.api_key_by_secret("chosen outside", NOON).await.unwrap();
    assert_eq!(found.map(|key| key.user), Some(ada.id));
}
