//! A server that is killed at any moment under load, again and again: what it acknowledged is there,
//! and what is repeated after the restart is there once.
//!
//! Three people's browsers talk, read, stop, and vote; a program asks with a key. Each notes what it
//! has heard. After each kill the database is read beside the server.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test, whose figures are reported")]

#[path = "serving/mod.rs"]
mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use rapport_store::{FeedbackId, Location, Store, UnixMs, UserId};
use rapport_testkit::Cluster;
use serde_json::{Value, json};
use serving::{Person, Server};

const N_KILLS: usize = 3;
/// In the run that is reported.
const N_KILLS_REPORTED: usize = 100;
const N_BROWSERS: usize = 3;
/// At most so many acknowledgements before a kill.
const MAX_HEARD: u64 = 24;

/// One question, what was made of it, and the vote on that.
#[derive(Clone, Debug)]
struct Turn {
    client_id: String,
    vote: FeedbackId,
    /// The question's and the reply's ids, once the server has acknowledged them.
    told: Option<(String, String)>,
    /// The reply as the server said that it is finished.
    finished: Option<String>,
    is_voted: bool,
}

#[derive(Default)]
struct Heard {
    turns: BTreeMap<String, Turn>,
    /// Replies to the program, asked for and acknowledged.
    n_asked: u64,
    n_answered: u64,
}

struct Load<'a> {
    url: &'a str,
    browser: &'a Person,
    program: &'a Person,
    conversation: &'a str,
    heard: &'a Mutex<Heard>,
}

impl Load<'_> {
    fn note(&self, turn: &Turn, heard: &Sender<()>) {
        self.heard.lock().unwrap().turns.insert(turn.client_id.clone(), turn.clone());
        let _ = heard.send(());
    }

    /// Asks, or asks again under the same name; `None` when the server is gone.
    fn ask(&self, turn: &mut Turn, heard: &Sender<()>) -> Option<()> {
        let path = format!("/api/conversations/{}/messages", self.conversation);
        let content = format!("Say hello to number {}.", turn.client_id);
        let body = json!({ "client_id": turn.client_id, "content": content, "mode": "fast" });
        let asked = self.browser.send(self.url, "POST", &path, &body).ok()?;
        assert_eq!(asked.status, 202, "{}", asked.text);
        let asked = asked.json();
        let id = |name: &str| asked[name]["id"].as_str().unwrap().to_owned();
        let told = (id("user"), id("reply"));
        assert!(turn.told.as_ref().is_none_or(|before| *before == told), "it is another turn now");
        turn.told = Some(told);
        self.note(turn, heard);
        Some(())
    }

    /// Reads the reply, stops it after a few words, and reads its end.
    fn read(&self, turn: &mut Turn, heard: &Sender<()>) -> Option<()> {
        let (_, reply) = turn.told.clone().unwrap();
        let lines = self.browser.lines(self.url, &format!("/api/replies/{reply}/events")).ok()?;
        let mut n_texts = 0;
        let mut name = String::new();
        for line in lines {
            let line = line.ok()?;
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
                n_texts += usize::from(event == "text");
                if n_texts == 3 && event == "text" {
                    let path = format!("/api/replies/{reply}/stop");
                    self.browser.send(self.url, "POST", &path, &json!({})).ok()?;
                }
            } else if let Some(data) = line.strip_prefix("data: ")
                && name == "finished"
            {
                let data: Value = serde_json::from_str(data).unwrap();
                turn.finished = Some(data["message"]["content"].as_str().unwrap().to_owned());
                self.note(turn, heard);
                return Some(());
            } else {
                assert_ne!(name, "failed", "{line}");
            }
        }
        None
    }

    fn vote(&self, turn: &mut Turn, heard: &Sender<()>) -> Option<()> {
        let (_, reply) = turn.told.as_ref().unwrap();
        let body = json!({ "message_id": reply, "kind": "thumb", "value": 1, "id": turn.vote });
        let voted = self.browser.send(self.url, "POST", "/api/feedback", &body).ok()?;
        assert_eq!(voted.status, 200, "{}", voted.text);
        turn.is_voted = true;
        self.note(turn, heard);
        Some(())
    }

    /// Goes on until the server is gone.
    fn talk(&self, name: &str, heard: &Sender<()>) -> Option<()> {
        for number in 0.. {
            let mut turn = Turn {
                client_id: format!("{name}-{number}"),
                vote: FeedbackId::new(UnixMs(0)),
                told: None,
                finished: None,
                is_voted: false,
            };
            self.heard.lock().unwrap().turns.insert(turn.client_id.clone(), turn.clone());
            self.ask(&mut turn, heard)?;
            self.read(&mut turn, heard)?;
            self.vote(&mut turn, heard)?;
        }
        None
    }

    /// What was not acknowledged is asked for again, and half of what was.
    fn repeat(&self, heard: &Sender<()>) -> Option<()> {
        let turns: Vec<Turn> = self.heard.lock().unwrap().turns.values().cloned().collect();
        let (open, done): (Vec<_>, Vec<_>) = turns.into_iter().partition(|turn| !turn.is_voted);
        let n_open = open.len();
        for mut turn in open.into_iter().chain(done.into_iter().rev().take(n_open + 1)) {
            self.ask(&mut turn, heard)?;
            self.vote(&mut turn, heard)?;
        }
        Some(())
    }

    fn program(&self, heard: &Sender<()>) -> Option<()> {
        let messages = json!([{ "role": "user", "content": "Hi!" }]);
        let body = json!({ "model": "rapport-fast", "messages": messages, "max_tokens": 2 });
        loop {
            self.heard.lock().unwrap().n_asked += 1;
            let answered =
                self.program.send(self.url, "POST", "/v1/chat/completions", &body).ok()?;
            assert_eq!(answered.status, 200, "{}", answered.text);
            self.heard.lock().unwrap().n_answered += 1;
            let _ = heard.send(());
        }
    }
}

/// What the database says, whatever the server would.
async fn check(location: &Location, user: UserId, heard: &Heard) -> (usize, usize) {
    let store = Store::open(location, UnixMs(0)).await.unwrap();
    let export = store.export_user(user).await.unwrap();
    let rows = |part: &str| export[part].as_array().unwrap().clone();
    let messages: BTreeMap<String, Value> = rows("messages")
        .into_iter()
        .map(|message| (message["id"].as_str().unwrap().to_owned(), message))
        .collect();
    let votes = rows("feedback");
    let vote_ids: BTreeSet<&str> = votes.iter().map(|vote| vote["id"].as_str().unwrap()).collect();
    for turn in heard.turns.values() {
        if let Some((question, reply)) = &turn.told {
            assert!(messages.contains_key(question) && messages.contains_key(reply), "{turn:?}");
            if let Some(content) = &turn.finished {
                assert_eq!(messages[reply]["content"], *content, "{turn:?}");
                assert!(messages[reply]["reply"].is_object(), "{turn:?}");
            }
        }
        assert!(!turn.is_voted || vote_ids.contains(turn.vote.to_string().as_str()), "{turn:?}");
        // Asked however often, it is there once at most.
        let ending = format!("number {}.", turn.client_id);
        // A reply may repeat the question word for word.
        let is_it = |message: &&Value| {
            message["role"] == "user" && message["content"].as_str().unwrap().ends_with(&ending)
        };
        assert!(messages.values().filter(is_it).count() <= 1, "{turn:?}");
    }
    assert_eq!(vote_ids.len(), votes.len());

    // A charge for each reply that is finished, and none for any other.
    let n_finished = messages.values().filter(|message| message["reply"].is_object()).count();
    let (of_page, of_program): (Vec<_>, Vec<_>) =
        rows("ledger").into_iter().partition(|charge| charge["api_key"].is_null());
    assert_eq!(of_page.len(), n_finished);
    let n_charged = of_program.len() as u64;
    assert!((heard.n_answered..=heard.n_asked).contains(&n_charged), "{n_charged} charges");
    let replies = of_page.iter().chain(&of_program).map(|charge| charge["reply"].as_str().unwrap());
    assert_eq!(replies.collect::<BTreeSet<_>>().len(), of_page.len() + of_program.len());
    store.close().await;
    (of_page.len(), of_program.len())
}

fn kill_again_and_again(home: &Path, place: &[&str], location: &Location, n_kills: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = Server::start(home, place, true);
    let browser = server.first_admin();
    let (_, conversation) = browser.ask(&server.url, "POST", "/api/conversations", &json!({}));
    let conversation = conversation["id"].as_str().unwrap();
    let (_, key) = browser.ask(&server.url, "POST", "/api/account/keys", &json!({ "name": "k" }));
    let program = Person::with_key(key["key"].as_str().unwrap());
    let (_, session) = browser.ask(&server.url, "GET", "/api/session", &Value::Null);
    let user: UserId = session["user"]["id"].as_str().unwrap().parse().unwrap();
    // A plan with limits, so that every reply is set aside for: on Postgres what a killed server had set
    // aside counts for two minutes more.
    let body = json!({ "plan": "per-token" });
    let path = format!("/api/admin/users/{user}");
    assert_eq!(browser.ask(&server.url, "PATCH", &path, &body).0, 200);
    let body = json!({ "choice_every": 0 });
    assert_eq!(browser.ask(&server.url, "PATCH", "/api/admin/settings", &body).0, 200);
    drop(server);

    let heard = Mutex::new(Heard::default());
    let mut random = 0x5eed_u64;
    let mut n_charges = (0, 0);
    for kill in 0..n_kills {
        let mut server = Server::start(home, place, false);
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n_heard = (random >> 33) % MAX_HEARD;
        let url = server.url.clone();
        let load =
            Load { url: &url, browser: &browser, program: &program, conversation, heard: &heard };
        std::thread::scope(|scope| {
            let (sender, acknowledged) = channel();
            for idx in 0..N_BROWSERS {
                let (load, sender) = (&load, sender.clone());
                scope.spawn(move || {
                    if idx == 0 {
                        load.repeat(&sender)?;
                    }
                    load.talk(&format!("{kill}-{idx}"), &sender)
                });
            }
            let load = &load;
            scope.spawn(move || load.program(&sender));
            for _ in 0..n_heard {
                // Where all have failed, the scope says why.
                let _said = acknowledged.recv();
            }
            server.kill();
        });
        n_charges = runtime.block_on(check(location, user, &heard.lock().unwrap()));
    }

    // All that was begun can be had, once.
    let server = Server::start(home, place, false);
    let load = Load {
        url: &server.url,
        browser: &browser,
        program: &program,
        conversation,
        heard: &heard,
    };
    load.repeat(&channel().0).expect("nobody kills it any more");
    drop(server);
    let heard = heard.into_inner().unwrap();
    let n_turns = heard.turns.len();
    assert!(heard.turns.values().all(|turn| turn.is_voted));
    runtime.block_on(async {
        check(location, user, &heard).await;
        let store = Store::open(location, UnixMs(0)).await.unwrap();
        let export = store.export_user(user).await.unwrap();
        assert_eq!(export["feedback"].as_array().unwrap().len(), n_turns);
        let questions = export["messages"].as_array().unwrap().iter();
        assert_eq!(questions.filter(|message| message["role"] == "user").count(), n_turns);
        store.close().await;
    });
    let n_finished = heard.turns.values().filter(|turn| turn.finished.is_some()).count();
    println!(
        "{n_kills} kills: {n_turns} messages and as many votes, {n_finished} replies acknowledged of \
         {} charged, {} answers to the program acknowledged of {} charged and {} asked for; none \
         lost, none doubled",
        n_charges.0, heard.n_answered, n_charges.1, heard.n_asked
    );
}

fn kill_on_sqlite(n_kills: usize) {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let location = Location::Sqlite(data.join("rapport.db"));
    kill_again_and_again(home.path(), &["--data", data.to_str().unwrap()], &location, n_kills);
}

fn kill_on_postgres(n_kills: usize, cluster: &Cluster) {
    let home = tempfile::tempdir().unwrap();
    let url = cluster.url();
    let location = Location::Postgres(url.clone());
    // A hundred kills come faster than what they leave set aside is given back.
    let plans = home.path().join("plans.toml");
    let text = "[free]\n[unlimited]\n[per-token]\nconcurrent_streams = 1000\n";
    std::fs::write(&plans, text).unwrap();
    let place = ["--database", &url, "--plans", plans.to_str().unwrap()];
    kill_again_and_again(home.path(), &place, &location, n_kills);
}

#[test]
fn f30_f32_killed_under_load_on_sqlite() {
    kill_on_sqlite(N_KILLS);
}

#[test]
fn f30_f32_killed_under_load_on_postgres() {
    kill_on_postgres(N_KILLS, &Cluster::start());
}

#[test]
#[ignore = "long: run it with --run-ignored for a report"]
fn killed_a_hundred_times_on_sqlite() {
    kill_on_sqlite(N_KILLS_REPORTED);
}

#[test]
#[ignore = "long: run it with --run-ignored for a report"]
fn killed_a_hundred_times_on_postgres() {
    kill_on_postgres(N_KILLS_REPORTED, &Cluster::start_durable());
}
