//! Guessing ahead changes when tokens come, never which.

use super::*;
use rapport_engine::Constraint;

/// Lets only one token follow another, round and round.
struct Round {
    n_accepted: usize,
}

impl Constraint for Round {
    fn mask(&mut self, logits: &mut [f32]) {
        let next = (self.n_accepted * 7) % 30;
        for (token, logit) in logits.iter_mut().enumerate() {
            *logit = if token == next { *logit } else { f32::NEG_INFINITY };
        }
    }

    fn accept(&mut self, _token: u32) {
        self.n_accepted += 1;
    }

    fn is_complete(&self) -> bool {
        false
    }
}

/// A thought that repeats itself for sure, closing words, and an answer that is free.
fn repetitive(sampling: Sampling) -> EngineRequest {
    let mut request = request(tokens(1, 20), 40);
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(Round { n_accepted: 0 }));
    request.phases.insert(0, Phase { closing: vec![1, 2, 3], constraint, ..phase(200) });
    request.sampling = sampling;
    request.seed = 5;
    request
}

fn guessing(max_draft_tokens: usize) -> Engine {
    engine(EngineConfig { max_draft_tokens, ..EngineConfig::default() })
}

fn n_steps(engine: &mut Engine, request: EngineRequest) -> (usize, Vec<u32>) {
    let id = engine.submit(request).unwrap();
    let (mut replies, mut n_steps) = (Replies::default(), 0);
    while !engine.is_idle() {
        step(engine, &mut replies);
        n_steps += 1;
    }
    (n_steps, replies.0[&id].tokens.clone())
}

#[test]
fn looked_up_guesses_give_the_same_text_in_fewer_passes() {
    for sampling in [Sampling::greedy(), sampled()] {
        let mut engine = guessing(8);
        let (n_steps, tokens) = n_steps(&mut engine, repetitive(sampling.clone()));
        assert_eq!(tokens, alone(repetitive(sampling)).tokens);
        let statistics = engine.statistics();
        assert!(n_steps < 120, "{n_steps} steps, {statistics:?}");
    }
}

#[test]
fn a_draft_model_gives_the_same_text_in_fewer_passes() {
    // The model itself is the best guesser there is: only what is looked up can be wrong.
    let mut engine = guessing(4);
    engine.attach_draft(model(MODEL)).unwrap();
    let ask = || request(tokens(3, 300), 60);
    let (n_steps, tokens) = n_steps(&mut engine, ask());
    assert_eq!(tokens, alone(ask()).tokens);
    assert!(n_steps <= 22, "{n_steps} steps");
    let statistics = engine.statistics();
    assert!(statistics.n_accepted * 10 >= statistics.n_drafted * 9, "{statistics:?}");

    // Another model of the same vocabulary guesses badly and does no harm.
    let mut engine = guessing(4);
    engine.attach_draft(model("mha")).unwrap();
    let mut replies = Replies::default();
    let sample = |seed| EngineRequest { sampling: sampled(), ..request(tokens_of(seed), 60) };
    let ids = [1, 2, 3].map(|seed| engine.submit(sample(seed)).unwrap());
    run(&mut engine, &mut replies);
    for (id, seed) in ids.into_iter().zip(1..) {
        assert_eq!(replies.0[&id].tokens, alone(sample(seed)).tokens);
    }
    assert!(engine.statistics().n_drafted > 0);
}

fn tokens_of(seed: u64) -> Vec<u32> {
    tokens(seed, 70)
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let refused = guessing(4).attach_draft(model("rope-llama3"));
    let expected = rapport_engine::DraftError { n_vocab: 263, expected: 97 };
    assert_eq!(refused, Err(expected));
}
