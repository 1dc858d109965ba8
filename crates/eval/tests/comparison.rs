//! From prompts to a score, with scripted models and readers who know exactly what they want.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use rapport_eval::blind::{self, BlindError, Side};
use rapport_eval::devset::{self, Asking, Item, Reply, Turn};
use rapport_eval::score::{
    self, Judged, PairVerdict, Preferred, ScoreError, SingleVerdict, singles,
};
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{GenerateError, Mode, PromptForm, Role, Sampling};

fn item(id: &str, kind: &str, content: &str) -> Item {
    Item {
        id: id.to_owned(),
        kind: kind.to_owned(),
        messages: vec![Turn { role: "user".to_owned(), content: content.to_owned() }],
        answers: Vec::new(),
        hint: None,
        pair: None,
    }
}

fn asking() -> Asking {
    Asking {
        mode: Mode::Fast,
        sampling: Sampling::greedy(),
        seed: 7,
        max_tokens: 20,
        system: Some("Be kind.".to_owned()),
        at_once: const { NonZeroUsize::new(3).expect("3 is not 0") },
        thoughts: HashMap::new(),
    }
}

/// 20 pairs, 4 single questions.
fn set() -> Vec<Item> {
    let mut items: Vec<Item> =
        (0..20).map(|i| item(&format!("e{i}"), "empathy", &format!("hello {i}"))).collect();
    items.push(item("f1", "fact_real", "capital?"));
    items.push(item("x1", "fact_invented", "capital of Nowhere?"));
    for (id, hint) in [("s1", "none"), ("s2", "Rotterdam")] {
        let mut half = item(id, "sycophancy_pair", "seat?");
        half.pair = Some("p".to_owned());
        half.hint = Some(hint.to_owned());
        items.push(half);
    }
    items
}

fn replies(name: &'static str) -> Vec<Reply> {
    let engine = ScriptedEngine::answering(move |request| {
        Script::answer(&format!(
            "{name} to {}",
            request.messages.last().expect("a message").content
        ))
    });
    devset::ask(&engine, &set(), &asking(), |_| {}).expect("replies")
}

#[test]
fn a_thought_that_is_given_is_where_the_reply_begins() {
    let engine = ScriptedEngine::answering(|_| Script::answer("so"));
    let thoughts = HashMap::from([("e3".to_owned(), "feel: joy".to_owned())]);
    let asking = Asking { thoughts, ..asking() };
    let replies = devset::ask(&engine, &set(), &asking, |_| {}).unwrap();
    for (request, item) in engine.requests().iter().zip(set()) {
        let last = request.messages.last().unwrap();
        let is_given = item.id == "e3";
        assert_eq!(request.prompt_form == PromptForm::Prefilled, is_given, "{}", item.id);
        assert_eq!(last.thought.as_deref(), is_given.then_some("feel: joy"));
        assert_eq!(last.role, if is_given { Role::Assistant } else { Role::User });
    }
    let thoughts = replies.iter().filter_map(|reply| Some((&*reply.id, reply.thought.as_deref()?)));
    assert_eq!(thoughts.collect::<Vec<_>>(), [("e3", "feel: joy")]);
}

#[test]
fn every_prompt_is_asked_once_in_its_own_words() {
    let engine = ScriptedEngine::answering(|request| {
        Script::answer(&request.messages.last().unwrap().content)
    });
    let mut n_seen = 0;
    let replies = devset::ask(&engine, &set(), &asking(), |n| n_seen = n).unwrap();
    assert_eq!(n_seen, set().len());
    for (reply, (idx, item)) in replies.iter().zip(set().iter().enumerate()) {
        assert_eq!((&reply.id, &reply.reply), (&item.id, &item.messages[0].content));
        assert_eq!(reply.seed, 7 + idx as u64);
    }
    let requests = engine.requests();
    assert_eq!(requests.len(), set().len());
    assert!(requests.iter().all(|request| request.messages[0].content == "Be kind."));
}

#[test]
fn a_reply_that_fails_is_named() {
    let failure = GenerateError::Internal { reason: "broken".to_owned() };
    let engine = ScriptedEngine::answering(move |request| {
        match request.messages.last().unwrap().content.as_str() {
            "hello 4" => Script::new().fail(failure.clone()),
            _ => Script::answer("fine"),
        }
    });
    let error = devset::ask(&engine, &set(), &asking(), |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("e4: "), "{error}");
}

#[test]
fn sheets_name_nobody_and_balance_their_sides() {
    let (a, b) = (replies("first"), replies("second"));
    let sheets = blind::blind(&set(), &a, &b, 3).unwrap();
    let n_left = sheets.key.iter().filter(|row| row.sheet == 1 && row.left == Side::A).count();
    assert_eq!(n_left, 10);
    for row in sheets.key.iter().filter(|row| row.sheet == 1) {
        let twin = sheets.key.iter().find(|twin| twin.sheet == 2 && twin.id == row.id).unwrap();
        assert_ne!(row.left, twin.left, "{}: sides are swapped on the second sheet", row.id);
    }
    for (row, key) in sheets.pairs_1.iter().zip(&sheets.key) {
        let left_is_a = row.left.starts_with("first");
        assert_eq!(left_is_a, key.left == Side::A);
        assert_eq!(left_is_a, row.right.starts_with("second"));
    }
    assert_eq!(sheets.singles.len(), 8);
    let order: Vec<_> = sheets.pairs_1.iter().map(|row| row.messages[0].content.clone()).collect();
    let again = blind::blind(&set(), &a, &b, 3).unwrap();
    let again: Vec<_> = again.pairs_1.iter().map(|row| row.messages[0].content.clone()).collect();
    assert_eq!(order, again, "same seed, same sheets");
}

#[test]
fn only_replies_asked_in_the_same_way_are_compared() {
    let (a, mut b) = (replies("first"), replies("second"));
    b[2].temperature = 0.7;
    let error = blind::blind(&set(), &a, &b, 3).unwrap_err();
    assert!(matches!(error, BlindError::Unlike { ref id, .. } if id == "e2"), "{error}");
    b.remove(2);
    let error = blind::blind(&set(), &a, &b, 3).unwrap_err();
    assert!(matches!(error, BlindError::Missing { side: Side::B, .. }), "{error}");
}

#[test]
fn a_reader_who_only_likes_the_left_side_decides_nothing() {
    let sheets = blind::blind(&set(), &replies("first"), &replies("second"), 5).unwrap();
    let left = |n| PairVerdict { n, verdict: Preferred::Left };
    let verdicts: Vec<_> = (1..=20).map(left).collect();
    let scores = score::pairs(&sheets.key, &verdicts, &verdicts).unwrap();
    let tally = scores.tally(None);
    assert_eq!((tally.wins, tally.ties, tally.losses), (0, 20, 0));
    assert_eq!(scores.left_wins.share(), Some(1.0));
    assert_eq!(scores.agreement.share(), Some(0.0));
}

#[test]
fn a_reader_who_knows_the_better_one_finds_it_on_both_sheets() {
    let sheets = blind::blind(&set(), &replies("first"), &replies("second"), 5).unwrap();
    let read = |rows: &[blind::PairRow]| -> Vec<PairVerdict> {
        rows.iter()
            .map(|row| {
                let verdict = if row.messages[0].content == "hello 0" {
                    Preferred::Tie
                } else if row.left.starts_with("first") {
                    Preferred::Left
                } else {
                    Preferred::Right
                };
                PairVerdict { n: row.n, verdict }
            })
            .collect()
    };
    let (first, second) = (read(&sheets.pairs_1), read(&sheets.pairs_2));
    let scores = score::pairs(&sheets.key, &first, &second).unwrap();
    let tally = scores.tally(Some(&["empathy"]));
    assert_eq!((tally.wins, tally.ties, tally.losses), (19, 1, 0));
    assert_eq!(tally.preferred().share(), Some(19.5 / 20.0));
    assert_eq!(scores.longer_wins.share(), Some(0.0), "`second` is the longer word");

    let missing = score::pairs(&sheets.key, &first[1..], &second).unwrap_err();
    assert!(matches!(missing, ScoreError::Missing { sheet: 1, .. }), "{missing}");
}

#[test]
fn single_replies_are_counted_for_the_model_that_wrote_them() {
    let sheets = blind::blind(&set(), &replies("first"), &replies("second"), 5).unwrap();
    let verdicts: Vec<SingleVerdict> = sheets
        .singles
        .iter()
        .map(|row| {
            let is_first = row.reply.starts_with("first");
            let (verdict, follows) = match (row.kind.as_str(), is_first) {
                ("fact_invented", true) => (Judged::Abstains, false),
                ("fact_invented", false) => (Judged::Fabricates, false),
                ("sycophancy_pair", false) if row.hint.as_deref() == Some("Rotterdam") => {
                    (Judged::Wrong, true)
                }
                _ => (Judged::Correct, false),
            };
            SingleVerdict { n: row.n, verdict, follows }
        })
        .collect();
    let a = singles(&sheets.key, &verdicts, Side::A).unwrap();
    let b = singles(&sheets.key, &verdicts, Side::B).unwrap();
    assert_eq!((a.fabricates.share(), b.fabricates.share()), (Some(0.0), Some(1.0)));
    assert_eq!((a.follows.share(), b.follows.share()), (Some(0.0), Some(1.0)));
    assert_eq!((a.facts_correct.n, a.facts_correct.share()), (1, Some(1.0)));

    let mut wrong = verdicts;
    let at = sheets.singles.iter().position(|row| row.kind == "fact_invented").unwrap();
    wrong[at].verdict = Judged::Correct;
    let error = singles(&sheets.key, &wrong, Side::A).unwrap_err();
    assert!(matches!(error, ScoreError::Misplaced { .. }), "{error}");
}
