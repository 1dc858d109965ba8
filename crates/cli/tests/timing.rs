//! What one account can learn from the time that its replies take: nothing of what another has asked.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "serving/mod.rs"]
mod serving;

use std::cmp::Ordering;

use serde_json::{Value, json};
use serving::{Person, Server, run};

/// Prompts of each kind.
const N_PROMPTS: usize = 12;

/// A prompt of some 200 tokens that nobody has asked before: its first word differs.
fn prompt(kind: &str, number: usize) -> String {
    let sentence = "The lighthouse keeper wrote down the height of every wave that night. ";
    format!("{kind} {number}: {}What did he see?", sentence.repeat(14))
}

/// How long the prompt took in milliseconds, and how much of it was cached.
fn ask(url: &str, who: &Person, prompt: &str) -> (f64, u64) {
    let messages = json!([{ "role": "user", "content": prompt }]);
    let body = json!({ "model": "rapport-fast", "messages": messages, "max_tokens": 1 });
    let begun = std::time::Instant::now();
    let (status, answer): (u16, Value) = who.ask(url, "POST", "/v1/chat/completions", &body);
    let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    assert_eq!(status, 200, "{answer}");
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    (milliseconds, cached)
}

/// How often one of the first takes longer than one of the second, from 0 to 1: a half when nobody
/// can tell them apart, whatever threshold they choose (the area under their ROC curve).
fn separation(first: &[f64], second: &[f64]) -> f64 {
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    let wins = pairs.map(|(a, b)| match a.total_cmp(b) {
        Ordering::Greater => 1.0,
        Ordering::Equal => 0.5,
        Ordering::Less => 0.0,
    });
    wins.sum::<f64>() / (first.len() * second.len()) as f64
}

#[test]
fn f28_nobody_can_time_what_another_account_has_asked() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let data = data.to_str().unwrap();
    let at = |arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().chain(&["--data", data]).copied().collect();
        run(home.path(), &all)
    };
    let account = |name: &str| {
        at(&["users", "add", name, "--plan", "unlimited"]);
        Person::with_key(&at(&["users", "key", "create", name]))
    };
    let (ada, eve) = (account("Ada"), account("Eve"));
    let server = Server::start(home.path(), &["--data", data], false);
    let url = &server.url;
    // Whatever is done at the first request of all is done, and what everybody shares is cached.
    for who in [&ada, &eve] {
        ask(url, who, &prompt("warm", 0));
        ask(url, who, &prompt("up", 1));
    }
    let (_, shared_tokens) = ask(url, &eve, &prompt("warmer", 2));
    let (mut again, mut adas, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..N_PROMPTS {
        let asked = prompt("Secret", number);
        ask(url, &ada, &asked);
        let (milliseconds, cached) = ask(url, &ada, &asked);
        again.push(milliseconds);
        assert!(cached > shared_tokens + 100, "Ada's own are cached: {cached}");
        // Eve asks for what Ada has asked, and for what nobody has, in either order.
        let mut probes = [(true, asked), (false, prompt("Secreu", number))];
        if number % 2 == 1 {
            probes.reverse();
        }
        for (is_adas, probe) in probes {
            let (milliseconds, cached) = ask(url, &eve, &probe);
            assert!(
                cached <= shared_tokens + 32,
                "{cached} tokens of Ada's prompt are cached for Eve"
            );
            if is_adas { adas.push(milliseconds) } else { new.push(milliseconds) }
        }
    }
    let (hit, probe) = (separation(&new, &again), separation(&new, &adas));
    println!(
        "a prompt of one's own is told from a new one with {hit:.2}, another's with {probe:.2}"
    );
    // The measure can tell a hit: else it would say nothing of Eve's.
    assert!(hit > 0.9, "one's own hits look like misses: {hit}");
    // Of 12 and 12 from one distribution, it leaves 0.1 to 0.9 once in a thousand times.
    assert!((0.1..=0.9).contains(&probe), "Eve can tell what Ada has asked: {probe}");
}
