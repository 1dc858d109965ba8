//! A server that is killed at any moment, again and again: what it acknowledged is there, and what
//! it repeats after the restart is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rapport_store::{
    Charge, ConversationId, FeedbackId, Finished, Limits, Location, MessageId, NewConversation,
    NewFeedback, NewMessage, ReplyId, Reserved, Signal, Store, Thumb, UnixMs, UserId,
};
use rapport_testkit::Cluster;
use rapport_types::Role;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::fixture::{Database, NOON, Sqlite, message, minutes};
use crate::money::{COST_MICROS, ESTIMATE, charge};

const N_KILLS: usize = 10;
/// In the run that is reported.
const N_KILLS_REPORTED: usize = 100;
/// Turns of the conversation that are written at the same time.
const N_WRITERS: usize = 3;

/// What the writing process is told.
#[derive(Serialize, Deserialize)]
struct Task {
    url: String,
    user: UserId,
    conversation: ConversationId,
    /// Begun before it was killed: to be done again first, whether or not it was finished.
    again: Vec<Turn>,
    /// Stop after those, instead of going on until killed.
    is_last: bool,
}

/// One question, its reply with its charge, and the vote on it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Turn {
    question: MessageId,
    answer: MessageId,
    reply: ReplyId,
    vote: FeedbackId,
}

/// What the writing process says, one line each, the moment it is so.
#[derive(Serialize, Deserialize)]
enum Said {
    Begun(Turn),
    Question(MessageId),
    Paid(ReplyId),
    Voted(FeedbackId),
}

impl Turn {
    fn new() -> Self {
        Self {
            question: MessageId::new(NOON),
            answer: MessageId::new(NOON),
            reply: ReplyId::new(NOON),
            vote: FeedbackId::new(NOON),
        }
    }
}

fn say(said: &Said) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "SAID {}", serde_json::to_string(said).unwrap()).unwrap();
    out.flush().unwrap();
}

async fn write(store: &Store, task: &Task, turn: Turn) {
    let (user, conversation) = (task.user, task.conversation);
    say(&Said::Begun(turn));
    let question =
        NewMessage { id: turn.question, ..message(conversation, None, Role::User, "how are you?") };
    store.add_message(user, &question, NOON).await.unwrap();
    say(&Said::Question(turn.question));

    let limits = Limits { tokens: Some(1_000_000_000), ..Limits::default() };
    let reserved = store.reserve(user, ESTIMATE, &limits, NOON, minutes(1)).await.unwrap();
    let Reserved::Granted(held) = reserved else { panic!("{reserved:?}") };
    let answer = NewMessage {
        id: turn.answer,
        ..message(conversation, Some(turn.question), Role::Assistant, "well")
    };
    let charge = Charge { reply: turn.reply, ..charge() };
    let finished = Finished { charge: &charge, message: Some(&answer), reservation: Some(held.id) };
    store.finish_reply(user, finished, NOON).await.unwrap();
    say(&Said::Paid(turn.reply));

    let vote = NewFeedback {
        id: turn.vote,
        message: Some(turn.answer),
        reply: Some(turn.reply),
        build: charge.build.clone(),
        signal: Signal::Thumb(Thumb::Up),
        has_consent: true,
    };
    store.add_feedback(user, &vote, NOON).await.unwrap();
    say(&Said::Voted(turn.vote));
}

async fn write_on(store: Arc<Store>, task: Arc<Task>) {
    loop {
        write(&store, &task, Turn::new()).await;
    }
}

/// The process that is killed: this program again, told what to do on its standard input.
#[test]
#[ignore = "the crash tests start it; alone it has nothing to do"]
fn writer() {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap() == 0 {
        return;
    }
    let task: Arc<Task> = Arc::new(serde_json::from_str(&line).unwrap());
    crate::runtime().block_on(async {
        let store = Store::open(&Location::parse(&task.url), NOON).await.unwrap();
        for &turn in &task.again {
            write(&store, &task, turn).await;
        }
        if task.is_last {
            return;
        }
        let store = Arc::new(store);
        let writers: Vec<_> = (0..N_WRITERS)
            .map(|_| {
                let (store, task) = (Arc::clone(&store), Arc::clone(&task));
                tokio::spawn(write_on(store, task))
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

fn start_writer(task: &Task) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::writer", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", serde_json::to_string(task).unwrap()).unwrap();
    child
}

/// Everything the killed processes said.
#[derive(Default)]
struct Heard {
    turns: BTreeMap<ReplyId, Turn>,
    messages: BTreeSet<MessageId>,
    paid: BTreeSet<ReplyId>,
    votes: BTreeSet<FeedbackId>,
}

impl Heard {
    /// Takes a line in; `true` for an acknowledgement. The last line of a killed process may be cut.
    fn hear(&mut self, line: &str) -> bool {
        let Some((_, said)) = line.split_once("SAID ") else { return false };
        match serde_json::from_str(said) {
            Ok(Said::Begun(turn)) => {
                self.turns.insert(turn.reply, turn);
                return false;
            }
            Ok(Said::Question(id)) => self.messages.insert(id),
            Ok(Said::Paid(id)) => {
                let answer = self.turns[&id].answer;
                self.messages.insert(answer);
                self.paid.insert(id)
            }
            Ok(Said::Voted(id)) => self.votes.insert(id),
            Err(_) => return false,
        };
        true
    }

    /// Turns that somebody who was not there cannot know the end of.
    fn unfinished(&self) -> Vec<Turn> {
        self.turns.values().filter(|turn| !self.votes.contains(&turn.vote)).copied().collect()
    }
}

/// Kills writers until the last one may finish what the others began; `between` runs after each.
fn kill_again_and_again(
    runtime: &Runtime,
    database: &Database,
    url: &str,
    n_kills: usize,
    mut between: impl FnMut(usize),
) {
    let store = &database.store;
    let conversation = ConversationId::new(NOON);
    let user = runtime.block_on(async {
        let user = database.member("Ada").await.id;
        store.create_conversation(user, NewConversation::empty(conversation), NOON).await.unwrap();
        user
    });
    let mut heard = Heard::default();
    let mut random = 0x5eed_u64;
    for kill in 0..n_kills {
        // Half of what is repeated was never finished, the other half was.
        let mut again = heard.unfinished();
        again.extend(heard.turns.values().rev().take(again.len() + 1).copied());
        let task = Task { url: url.to_owned(), user, conversation, again, is_last: false };
        let mut child = start_writer(&task);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut n_left = (random >> 33) % 40;
        while n_left > 0 {
            let line = lines.next().expect("the writer ended by itself").unwrap();
            n_left -= u64::from(heard.hear(&String::from_utf8_lossy(&line)));
        }
        child.kill().unwrap();
        // What it said before the end counts too.
        for line in lines {
            heard.hear(&String::from_utf8_lossy(&line.unwrap()));
        }
        child.wait().unwrap();
        between(kill);
        runtime.block_on(check(store, user, conversation, &heard));
    }
    let again = heard.unfinished();
    let mut child =
        start_writer(&Task { url: url.to_owned(), user, conversation, again, is_last: true });
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n') {
        heard.hear(&String::from_utf8_lossy(&line.unwrap()));
    }
    assert!(child.wait().unwrap().success());
    assert!(heard.unfinished().is_empty());
    runtime.block_on(check(store, user, conversation, &heard));

    // All that was begun is now there, exactly once.
    let n_turns = heard.turns.len();
    assert!(n_turns > n_kills, "{n_turns} turns are too few to tell anything");
    runtime.block_on(async {
        assert_eq!(store.messages(user, conversation).await.unwrap().len(), 2 * n_turns);
        assert_eq!(store.feedback_of(user, None, u32::MAX).await.unwrap().len(), n_turns);
        let invoice = store.invoice(user, UnixMs(0), UnixMs(i64::MAX)).await.unwrap();
        assert_eq!(invoice.lines[0].n_replies, n_turns as u64);
        assert_eq!(invoice.total_micros, n_turns as u64 * COST_MICROS);
        // What the killed ones had set aside comes back.
        assert_eq!(store.meter(user, minutes(1)).await.unwrap().reserved_requests, 0);
    });
    println!("{n_turns} turns, {} acknowledged charges", heard.paid.len());
}

/// Nothing acknowledged is lost; of every turn, charge and answer are there together or not at all.
async fn check(store: &Store, user: UserId, conversation: ConversationId, heard: &Heard) {
    let messages: BTreeSet<_> =
        store.messages(user, conversation).await.unwrap().iter().map(|m| m.id).collect();
    let votes: BTreeSet<_> =
        store.feedback_of(user, None, u32::MAX).await.unwrap().iter().map(|f| f.id).collect();
    let export = store.export_user(user).await.unwrap();
    let ledger: Vec<ReplyId> = export["ledger"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["reply"].as_str().unwrap().parse().unwrap())
        .collect();
    let charges: BTreeSet<_> = ledger.iter().copied().collect();
    assert_eq!(charges.len(), ledger.len());
    assert!(heard.messages.is_subset(&messages), "a message is lost");
    assert!(heard.paid.is_subset(&charges), "a charge is lost");
    assert!(heard.votes.is_subset(&votes), "a vote is lost");
    for turn in heard.turns.values() {
        assert_eq!(messages.contains(&turn.answer), charges.contains(&turn.reply), "{turn:?}");
    }
}

fn kill_on_sqlite(n_kills: usize) {
    let sqlite = Sqlite::new();
    let location = sqlite.location();
    let runtime = crate::runtime();
    let database = runtime.block_on(sqlite.database());
    let Location::Sqlite(path) = location else { unreachable!("an SQLite fixture") };
    kill_again_and_again(&runtime, &database, path.to_str().unwrap(), n_kills, |_| {});
}

/// The database server loses its life as well, now and then.
fn kill_on_postgres(n_kills: usize) {
    let mut cluster = Cluster::start();
    let runtime = crate::runtime();
    let database = runtime.block_on(Database::on(&cluster));
    let Location::Postgres(url) = database.location.clone() else {
        unreachable!("a PostgreSQL fixture")
    };
    kill_again_and_again(&runtime, &database, &url, n_kills, |kill| {
        if kill % 8 == 7 {
            cluster.crash_and_restart();
        }
    });
    runtime.block_on(database.store.close());
}

#[test]
fn killed_on_sqlite() {
    kill_on_sqlite(N_KILLS);
}

#[test]
fn killed_on_postgres() {
    kill_on_postgres(N_KILLS);
}

#[test]
#[ignore = "long: run it with --run-ignored for a report"]
fn killed_a_hundred_times_on_sqlite() {
    kill_on_sqlite(N_KILLS_REPORTED);
}

#[test]
#[ignore = "long: run it with --run-ignored for a report"]
fn killed_a_hundred_times_on_postgres() {
    kill_on_postgres(N_KILLS_REPORTED);
}
