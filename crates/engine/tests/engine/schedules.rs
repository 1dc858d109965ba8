//! Many requests at once: the same text, fair shares, priorities, bounded queues.

use super::*;
use proptest::prelude::*;
use rapport_engine::SubmitError;
use rapport_kernels::KvType;

/// A request by numbers, so that it can be made again and run alone.
#[derive(Clone, Debug)]
struct Ask {
    stem: u64,
    n_prompt: usize,
    max_tokens: u32,
    thought_tokens: Option<u32>,
    is_greedy: bool,
    user: u64,
    priority: i8,
}

impl Ask {
    fn request(&self) -> EngineRequest {
        // Few stems, so that prompts often begin like others.
        let mut prompt = tokens(self.stem, 200);
        prompt.truncate(self.n_prompt);
        prompt.push(self.max_tokens);
        let mut request = request(prompt, self.max_tokens);
        if let Some(max_tokens) = self.thought_tokens {
            let thought = Phase {
                opening: vec![5, 6],
                stop_tokens: vec![7],
                closing: vec![8, 9, 10],
                ..phase(max_tokens)
            };
            request.phases.insert(0, thought);
        }
        if !self.is_greedy {
            request.sampling = sampled();
        }
        request.seed = self.stem;
        request.user = UserKey(self.user);
        request.priority = self.priority;
        request.cache = scope((self.user % 2) as u8);
        request
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    (
        0..3_u64,
        1..150_usize,
        1..40_u32,
        prop::option::of(0..10_u32),
        any::<bool>(),
        0..3_u64,
        0..3_i8,
    )
        .prop_map(|(stem, n_prompt, max_tokens, thought_tokens, is_greedy, user, priority)| {
            Ask { stem, n_prompt, max_tokens, thought_tokens, is_greedy, user, priority }
        })
}

#[derive(Clone, Debug)]
enum Action {
    Ask(Ask),
    Cancel(usize),
    EndPhase(usize),
    Steps(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => ask().prop_map(Action::Ask),
        1 => (0..20_usize).prop_map(Action::Cancel),
        1 => (0..20_usize).prop_map(Action::EndPhase),
        4 => (1..12_usize).prop_map(Action::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Arrivals, cancellations and ended thoughts in any order, with few pages and small passes.
    #[test]
    fn whatever_the_schedule_a_reply_is_that_of_its_request_alone(
        actions in prop::collection::vec(action(), 1..40),
        n_pages in 7..24_usize,
        pass_tokens in 1..120_usize,
        expected_reply_tokens in 0..64_usize,
        max_draft_tokens in 0..12_usize,
        kv_type in prop::sample::select(vec![KvType::F16, KvType::Q8]),
    ) {
        let mut engine = engine(EngineConfig {
            kv_tokens: n_pages * 32,
            kv_type,
            pass_tokens,
            expected_reply_tokens,
            max_draft_tokens,
            ..EngineConfig::default()
        });
        let mut asked: Vec<(SequenceId, Ask)> = Vec::new();
        let (mut cancelled, mut ended) = (Vec::new(), Vec::new());
        let mut replies = Replies::default();
        for action in actions {
            match action {
                Action::Ask(ask) => {
                    let id = engine.submit(ask.request());
                    asked.push((id.expect("seven pages are enough for each"), ask));
                }
                Action::Cancel(nth) => {
                    if let Some((id, _)) = asked.get(nth) {
                        engine.cancel(*id);
                        cancelled.push(*id);
                    }
                }
                Action::EndPhase(nth) => {
                    if let Some((id, _)) = asked.get(nth) {
                        engine.end_phase(*id);
                        ended.push(*id);
                    }
                }
                Action::Steps(n) => (0..n).for_each(|_| step(&mut engine, &mut replies)),
            }
        }
        run(&mut engine, &mut replies);
        prop_assert_eq!(engine.statistics().pages.held, 0);
        for (id, ask) in asked {
            let got = replies.0.remove(&id).unwrap_or_default();
            prop_assert!(got.is_finished || cancelled.contains(&id));
            if ended.contains(&id) && got.endings.contains(&Ending::Asked) {
                continue;
            }
            let expected = alone_in(kv_type, ask.request());
            if got.is_finished {
                prop_assert_eq!(&got.tokens, &expected.tokens);
                prop_assert_eq!(&got.endings, &expected.endings);
            } else {
                prop_assert!(expected.tokens.starts_with(&got.tokens));
            }
        }
    }
}

#[test]
fn f25_out_of_pages_the_youngest_waits_and_goes_on_with_the_same_text() {
    // Room for one and a half of them.
    let config =
        EngineConfig { kv_tokens: 10 * 32, expected_reply_tokens: 0, ..EngineConfig::default() };
    let mut engine = engine(config);
    let ask = |seed| {
        let mut request = request(tokens(seed, 60), 150);
        request.sampling = sampled();
        request
    };
    let ids = [1, 2, 3].map(|seed| engine.submit(ask(seed)).unwrap());
    let mut replies = Replies::default();
    run(&mut engine, &mut replies);
    assert!(engine.statistics().n_preemptions >= 2, "{:?}", engine.statistics());
    for (id, seed) in ids.into_iter().zip(1..) {
        assert_eq!(replies.0[&id].tokens, alone(ask(seed)).tokens);
    }
}

#[test]
fn f24_one_users_long_prompts_do_not_keep_another_waiting() {
    let pass_tokens = 64;
    let mut engine = engine(EngineConfig { pass_tokens, ..EngineConfig::default() });
    let mut replies = Replies::default();
    for seed in 0..20 {
        let flood = EngineRequest { user: UserKey(1), ..request(tokens(seed, 800), 8) };
        engine.submit(flood).unwrap();
    }
    (0..7).for_each(|_| step(&mut engine, &mut replies));
    let polite = EngineRequest { user: UserKey(2), ..request(tokens(99, 320), 2) };
    let id = engine.submit(polite).unwrap();
    let mut n_steps = 0;
    while replies.0.get(&id).is_none_or(|reply| reply.tokens.is_empty()) {
        step(&mut engine, &mut replies);
        n_steps += 1;
    }
    // Five passes of its own, every other one of them the flood's, and one to be level.
    assert!(n_steps <= 2 * 320 / pass_tokens + 2, "{n_steps} steps");
}

#[test]
fn replies_being_written_get_a_token_in_every_pass() {
    let mut engine =
        engine(EngineConfig { pass_tokens: 32, max_draft_tokens: 0, ..EngineConfig::default() });
    let writing = engine.submit(request(tokens(1, 8), 60)).unwrap();
    let mut replies = Replies::default();
    step(&mut engine, &mut replies);
    for seed in 0..5 {
        engine.submit(request(tokens(seed, 900), 1)).unwrap();
    }
    for n_written in 2..60 {
        step(&mut engine, &mut replies);
        assert_eq!(replies.0[&writing].tokens.len(), n_written);
    }
}

#[test]
fn a_higher_priority_takes_a_lower_ones_place() {
    let mut engine = engine(EngineConfig { kv_tokens: 8 * 32, ..EngineConfig::default() });
    let mut replies = Replies::default();
    let low = engine.submit(request(tokens(1, 100), 100)).unwrap();
    step(&mut engine, &mut replies);
    let same = engine.submit(request(tokens(2, 100), 100)).unwrap();
    step(&mut engine, &mut replies);
    assert!(!replies.0.contains_key(&same), "no room beside the first");
    let urgent = EngineRequest { priority: 1, ..request(tokens(3, 100), 10) };
    let urgent = engine.submit(urgent).unwrap();
    step(&mut engine, &mut replies);
    assert!(replies.0.contains_key(&urgent));
    run(&mut engine, &mut replies);
    assert_eq!(engine.statistics().n_preemptions, 1);
    assert_eq!(replies.0[&low].tokens, alone(request(tokens(1, 100), 100)).tokens);
    assert_eq!(replies.0[&same].tokens, alone(request(tokens(2, 100), 100)).tokens);
}

#[test]
fn a_phase_that_is_asked_to_end_without_closing_words_goes_on_with_the_next() {
    let mut engine = engine(EngineConfig::default());
    let mut replies = Replies::default();
    let mut two_phases = request(tokens(1, 20), 5);
    two_phases.phases.insert(0, phase(50));
    let id = engine.submit(two_phases).unwrap();
    for _ in 0..4 {
        step(&mut engine, &mut replies);
    }
    engine.end_phase(id);
    run(&mut engine, &mut replies);
    assert_eq!(replies.0[&id].endings, [Ending::Asked, Ending::Limit]);
    assert_eq!(replies.0[&id].tokens, alone(request(tokens(1, 20), 9)).tokens);
}

#[test]
fn queues_are_bounded_for_all_and_for_each_user() {
    let mut engine =
        engine(EngineConfig { max_waiting: 5, max_waiting_per_user: 3, ..EngineConfig::default() });
    let mut submit =
        |user| engine.submit(EngineRequest { user: UserKey(user), ..request(vec![1], 1) });
    for _ in 0..3 {
        submit(1).unwrap();
    }
    assert_eq!(submit(1), Err(SubmitError::UserOverloaded { n_waiting: 3 }));
    for _ in 0..2 {
        submit(2).unwrap();
    }
    assert_eq!(submit(2), Err(SubmitError::Overloaded { n_waiting: 5 }));
    assert_eq!(submit(3), Err(SubmitError::Overloaded { n_waiting: 5 }));
    engine.step();
    assert!(engine.submit(request(vec![1], 1)).is_ok());
}

#[test]
fn what_can_never_run_is_refused() {
    let mut engine = engine(EngineConfig { kv_tokens: 64, ..EngineConfig::default() });
    assert_eq!(engine.submit(request(vec![], 1)), Err(SubmitError::EmptyPrompt));
    let unknown = SubmitError::UnknownToken { token: 97, n_vocab: 97 };
    assert_eq!(engine.submit(request(vec![97], 1)), Err(unknown));
    let too_long = SubmitError::TooLong { needed_tokens: 65, room_tokens: 64 };
    assert_eq!(engine.submit(request(vec![1; 60], 5)), Err(too_long));
    assert_eq!(reply(&mut engine, request(vec![1; 60], 4)).tokens.len(), 4);
}
