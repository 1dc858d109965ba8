//! One suite for both databases: whatever holds on SQLite holds on a real PostgreSQL.
//!
//! Every case gets an empty database. On SQLite each is a test of its own; on PostgreSQL one test
//! starts a private server and runs them all, since a server takes a second to start.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod accounts;
mod content;
mod crash;
mod fixture;
mod money;
mod portability;
mod races;
mod tenancy;

use std::pin::Pin;

use fixture::{Database, Sqlite};

type Case = fn(Database) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($module:ident :: { $($name:ident),* $(,)? })*) => {
        /// Every case by name.
        const CASES: &[(&str, Case)] = &[$($(
            (concat!(stringify!($module), "::", stringify!($name)), |database| {
                Box::pin($module::$name(database))
            }),
        )*)*];

        mod sqlite {$(
            mod $module {$(
                #[test]
                fn $name() {
                    crate::on_sqlite(|database| Box::pin(crate::$module::$name(database)));
                }
            )*}
        )*}
    };
}

cases! {
    accounts::{
        users, names_are_unique_without_case, passwords, sessions, join_links, sign_in_links,
        identities, claimed_accounts, ended_join_links, somebody_stays_in_charge, keys,
        adopted_keys,
    }
    content::{
        conversations, pages_of_conversations, trees, deep_trees, repeated_messages,
        impossible_messages, any_text, search, shares, responses,
        responses_without_an_account, oldest_responses_make_room, deferred, feedback, styles,
        undone_styles, events, retention, folders, memories, settings, turns, blind_choices,
        abandoned_replies, imports,
    }
    money::{
        charges, usage_and_invoices, limits, reservations_end, the_day_turns,
        a_failed_reply_costs_nothing, a_server_alone_frees_what_a_dead_one_held, ledger_outlives_its_user,
    }
    races::{
        one_name, one_link, one_charge, one_event, one_quota, one_style, one_deferred, one_key, one_setting,
        one_conversation, last_admins, opening_together,
    }
    tenancy::{ every_id, every_owner }
    portability::{ export_and_delete, dump_and_restore, bad_dumps, older_database, newer_database }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn on_sqlite(case: Case) {
    let sqlite = Sqlite::new();
    runtime().block_on(async { case(sqlite.database().await).await });
}

#[test]
fn postgres() {
    let cluster = rapport_testkit::Cluster::start();
    let failed: Vec<&str> = runtime().block_on(async {
        let mut failed = Vec::new();
        for (name, case) in CASES {
            println!("{name}");
            let database = Database::on(&cluster).await;
            if tokio::spawn(case(database)).await.is_err() {
                failed.push(*name);
            }
        }
        failed
    });
    assert!(failed.is_empty(), "failed on PostgreSQL: {failed:?}");
}
