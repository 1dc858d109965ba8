//! The ledger and the quotas made from it.

use rapport_store::{
    Charge, Charged, Error, Estimate, Finished, Limit, Limits, Location, Month, NewApiKey, Price,
    ReplyId, Reservation, ReservationId, Reserved, Store, UnixMs, UserId, usage_csv,
};
use rapport_types::{Role, Usage};

use crate::fixture::{Database, NOON, message, minutes};

pub(crate) const USAGE: Usage =
    Usage { prompt_tokens: 50, cached_tokens: 30, completion_tokens: 20, reasoning_tokens: 10 };
const PRICE: Price =
    Price { prompt_micros: 5_000_000, cached_micros: 1_250_000, completion_micros: 5_000_000 };
/// What [`USAGE`] costs at [`PRICE`], rounded up from 287.5.
pub(crate) const COST_MICROS: u64 = 288;

pub(crate) fn charge() -> Charge {
    Charge {
        reply: ReplyId::new(NOON),
        api_key: None,
        plan: "free".to_owned(),
        model: "rapport-fast".to_owned(),
        build: "a+b+c+d".to_owned(),
        usage: USAGE,
        cost_micros: PRICE.cost_micros(&USAGE),
    }
}

pub(crate) fn only(charge: &Charge) -> Finished<'_> {
    Finished { charge, message: None, reservation: None }
}

pub(crate) const ESTIMATE: Estimate = Estimate { tokens: 100, thinking_tokens: 10 };

async fn granted(store: &Store, user: UserId, limits: &Limits, now: UnixMs) -> Reservation {
    match store.reserve(user, ESTIMATE, limits, now, now.plus_ms(60_000)).await.unwrap() {
        Reserved::Granted(reservation) => reservation,
        denied @ Reserved::Denied { .. } => panic!("{denied:?}"),
    }
}

async fn denied(store: &Store, user: UserId, limits: &Limits, now: UnixMs) -> (Limit, u64, u64) {
    match store.reserve(user, ESTIMATE, limits, now, now.plus_ms(60_000)).await.unwrap() {
        Reserved::Denied { limit, used, retry_after_ms, .. } => (limit, used, retry_after_ms),
        Reserved::Granted(_) => panic!("granted over the limit"),
    }
}

pub(crate) async fn charges(database: Database) {
    let store = &database.store;
    let (ada, ben) = (database.member("Ada").await.id, database.member("Ben").await.id);
    let charge = charge();
    assert_eq!(charge.cost_micros, COST_MICROS);
    assert_eq!(store.finish_reply(ada, only(&charge), NOON).await.unwrap(), Charged::Now);
    assert_eq!(store.finish_reply(ada, only(&charge), minutes(1)).await.unwrap(), Charged::Before);
    let stolen = store.finish_reply(ben, only(&charge), NOON).await;
    assert!(matches!(stolen, Err(Error::Conflict { .. })));
    let meter = store.meter(ada, NOON).await.unwrap();
    assert_eq!((meter.requests, meter.tokens, meter.thinking_tokens), (1, 80, 10));
    assert_eq!(meter.cost_micros, COST_MICROS);
    assert_eq!(store.meter(ben, NOON).await.unwrap().requests, 0);
}

pub(crate) async fn usage_and_invoices(database: Database) {
    let store = &database.store;
    let (ada, ben) = (database.member("Ada").await.id, database.member("Ben").await.id);
    let new = NewApiKey { name: "", scopes: &[], expires_at: None };
    let (key, _) = store.create_api_key(ada, new, NOON).await.unwrap();
    let tomorrow = NOON.plus_ms(UnixMs::DAY_MS);
    let keyed = Charge { api_key: Some(key.id), ..charge() };
    let thinking = Charge { model: "rapport-thinking".to_owned(), ..charge() };
    let later = Charge { plan: "premium".to_owned(), ..charge() };
    for (user, charge, at) in [
        (ada, charge(), NOON),
        (ada, charge(), minutes(1)),
        (ada, keyed, NOON),
        (ada, thinking, NOON),
        (ada, later, tomorrow),
        (ben, charge(), NOON),
    ] {
        store.finish_reply(user, only(&charge), at).await.unwrap();
    }
    let rows = store.usage(Some(ada), UnixMs(0), UnixMs(i64::MAX)).await.unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.day_start, row.model.as_str(), row.api_key, row.n_replies, row.cost_micros))
        .collect();
    let (today, next) = (NOON.day_start(), tomorrow.day_start());
    assert_eq!(
        seen,
        [
            (today, "rapport-fast", None, 2, 2 * COST_MICROS),
            (today, "rapport-fast", Some(key.id), 1, COST_MICROS),
            (today, "rapport-thinking", None, 1, COST_MICROS),
            (next, "rapport-fast", None, 1, COST_MICROS),
        ]
    );
    assert_eq!((rows[0].prompt_tokens, rows[0].cached_tokens), (100, 60));
    assert_eq!((rows[0].completion_tokens, rows[0].reasoning_tokens), (40, 20));
    let days = store.usage_days(ada, UnixMs(0), UnixMs(i64::MAX)).await.unwrap();
    let seen: Vec<_> = days.iter().map(|day| (day.day.as_str(), day.n_replies)).collect();
    assert_eq!(seen, [("2024-10-04", 4), ("2024-10-05", 1)]);
    let csv = usage_csv(&days);
    assert!(csv.ends_with("\r\n2024-10-05,1,50,30,20,10,0.000288\r\n"), "{csv}");
    let (from, until) = "2024-10".parse::<Month>().unwrap().range();
    let csv = store.invoice(ada, from, until).await.unwrap().csv();
    assert!(csv.contains("\r\n2024-10-01,2024-11-01,premium,rapport-fast,1,"), "{csv}");
    assert!(csv.ends_with("\r\n2024-10-01,2024-11-01,total,,,,,,,0.001440\r\n"), "{csv}");
    let everybody = store.usage(None, UnixMs(0), tomorrow).await.unwrap();
    assert_eq!(everybody.iter().map(|row| row.n_replies).sum::<u64>(), 5);

    // The end of a time is not part of it, so no reply is on two invoices.
    let first = store.invoice(ada, today, tomorrow).await.unwrap();
    let second = store.invoice(ada, tomorrow, tomorrow.plus_ms(1)).await.unwrap();
    assert_eq!(first.total_micros, 4 * COST_MICROS);
    assert_eq!(first.lines.len(), 2);
    assert_eq!((second.total_micros, second.lines[0].plan.as_str()), (COST_MICROS, "premium"));
}

pub(crate) async fn limits(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let day = UnixMs::DAY_MS as u64;
    let tokens = Limits { tokens: Some(180), ..Limits::default() };
    let first = granted(store, ada, &tokens, NOON).await;
    // Both would fit by what is used, not by what is set aside.
    assert_eq!(denied(store, ada, &tokens, NOON).await, (Limit::Tokens, 100, 1_000));
    let charge = charge();
    let finished = Finished { reservation: Some(first.id), ..only(&charge) };
    store.finish_reply(ada, finished, NOON).await.unwrap();
    let second = granted(store, ada, &tokens, NOON).await;
    assert!(store.release(ada, second.id).await.unwrap());
    assert!(!store.release(ada, second.id).await.unwrap());

    let tight = Limits { tokens: Some(179), ..Limits::default() };
    assert_eq!(denied(store, ada, &tight, NOON).await, (Limit::Tokens, 80, day / 2));
    let requests = Limits { requests: Some(1), ..Limits::default() };
    assert_eq!(denied(store, ada, &requests, NOON).await, (Limit::Requests, 1, day / 2));
    let thinking = Limits { thinking_tokens: Some(19), ..Limits::default() };
    assert_eq!(denied(store, ada, &thinking, NOON).await, (Limit::ThinkingTokens, 10, day / 2));
    let concurrent = Limits { concurrent: Some(1), ..Limits::default() };
    granted(store, ada, &concurrent, NOON).await;
    assert_eq!(denied(store, ada, &concurrent, NOON).await, (Limit::Concurrent, 1, 1_000));
    for _ in 0..3 {
        granted(store, ada, &Limits::default(), NOON).await;
    }
    let unknown = store.reserve(UserId::new(NOON), ESTIMATE, &tokens, NOON, minutes(1)).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
    let endless = Estimate { tokens: u64::MAX, thinking_tokens: u64::MAX };
    let refused = store.reserve(ada, endless, &tokens, NOON, minutes(1)).await.unwrap();
    assert!(matches!(refused, Reserved::Denied { limit: Limit::Tokens, .. }));
}

pub(crate) async fn reservations_end(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let one = Limits { concurrent: Some(1), ..Limits::default() };
    let first = granted(store, ada, &one, NOON).await;
    denied(store, ada, &one, NOON.plus_ms(59_999)).await;
    // Abandoned: it ends by itself.
    let second = granted(store, ada, &one, minutes(1)).await;
    assert!(!store.extend(ada, first.id, minutes(1), minutes(9)).await.unwrap());
    // Extended: it does not.
    assert!(store.extend(ada, second.id, minutes(1), minutes(9)).await.unwrap());
    denied(store, ada, &one, minutes(8)).await;
    // A reply whose reservation ended is charged all the same.
    let charge = charge();
    let late = Finished { reservation: Some(first.id), ..only(&charge) };
    assert_eq!(store.finish_reply(ada, late, minutes(8)).await.unwrap(), Charged::Now);
    assert!(!store.extend(ada, ReservationId::new(NOON), NOON, minutes(9)).await.unwrap());
}

pub(crate) async fn the_day_turns(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let one = Limits { requests: Some(1), ..Limits::default() };
    let midnight = NOON.day_start().plus_ms(UnixMs::DAY_MS);
    store.finish_reply(ada, only(&charge()), midnight.plus_ms(-1)).await.unwrap();
    assert_eq!(denied(store, ada, &one, midnight.plus_ms(-1)).await.2, 1);
    let held = granted(store, ada, &one, midnight).await;
    assert!(store.release(ada, held.id).await.unwrap());
    // A clock that goes back finds the day as it was.
    denied(store, ada, &one, midnight.plus_ms(-3_600_000)).await;
    assert_eq!(store.meter(ada, midnight).await.unwrap().requests, 0);
}

pub(crate) async fn a_failed_reply_costs_nothing(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let held = granted(store, ada, &Limits::default(), NOON).await;
    assert_eq!(store.meter(ada, NOON).await.unwrap().reserved_tokens, 100);
    store.release(ada, held.id).await.unwrap();
    let meter = store.meter(ada, NOON).await.unwrap();
    assert_eq!((meter.requests, meter.reserved_requests, meter.cost_micros), (0, 0, 0));

    // A message that cannot be stored takes its charge with it.
    let charge = charge();
    let nowhere = message(rapport_store::ConversationId::new(NOON), None, Role::Assistant, "x");
    let held = granted(store, ada, &Limits::default(), NOON).await;
    let broken = Finished { charge: &charge, message: Some(&nowhere), reservation: Some(held.id) };
    assert!(store.finish_reply(ada, broken, NOON).await.is_err());
    let meter = store.meter(ada, NOON).await.unwrap();
    assert_eq!((meter.requests, meter.reserved_requests), (0, 1));
}

pub(crate) async fn ledger_outlives_its_user(database: Database) {
    let store = &database.store;
    let ada = database.member("Ada").await.id;
    let new = NewApiKey { name: "", scopes: &[], expires_at: None };
    let (key, _) = store.create_api_key(ada, new, NOON).await.unwrap();
    let charge = Charge { api_key: Some(key.id), ..charge() };
    store.finish_reply(ada, only(&charge), NOON).await.unwrap();
    store.delete_user(ada).await.unwrap();
    let rows = store.usage(None, UnixMs(0), UnixMs(i64::MAX)).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].user, rows[0].api_key, rows[0].cost_micros), (None, None, COST_MICROS));
}

/// On SQLite, where whoever comes alone knows it. Servers on one Postgres wait until its time is over.
pub(crate) async fn a_server_alone_frees_what_a_dead_one_held(database: Database) {
    let ada = database.member("Ada").await.id;
    let one = Limits { concurrent: Some(1), ..Limits::default() };
    let dead = database.second_store().await;
    let its_attendance = dead.attend(NOON).await.unwrap();
    granted(&dead, ada, &one, NOON).await;
    // While it lives, another server leaves alone what it holds.
    let other = database.second_store().await;
    let attendance = other.attend(NOON).await.unwrap();
    assert_eq!(denied(&other, ada, &one, NOON).await.0, Limit::Concurrent);
    drop(attendance);
    drop(its_attendance);

    let next = database.second_store().await;
    let _attendance = next.attend(minutes(0)).await.unwrap();
    if matches!(database.location, Location::Postgres(_)) {
        assert_eq!(denied(&next, ada, &one, NOON).await.0, Limit::Concurrent);
        granted(&next, ada, &one, minutes(1)).await;
    } else {
        granted(&next, ada, &one, NOON).await;
    }
}
