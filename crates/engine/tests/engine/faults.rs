//! Sequences that break or are cancelled.

use super::*;
use support::breaking;

#[test]
fn f27_a_sequence_that_panics_ends_alone() {
    let mut engine = engine(EngineConfig::default());
    let good = engine.submit(request(tokens(1, 50), 20)).unwrap();
    let bad = engine.submit(breaking(request(tokens(2, 50), 20), 3)).unwrap();
    let mut replies = Replies::default();
    run(&mut engine, &mut replies);
    assert_eq!(replies.0[&good].tokens, alone(request(tokens(1, 50), 20)).tokens);
    let failure = Failure::Choosing { message: "broken on purpose".to_owned() };
    assert_eq!(replies.0[&bad].failure, Some(failure));
    assert_eq!(replies.0[&bad].tokens.len(), 3);
    assert_eq!(engine.statistics().pages.held, 0);
}

#[test]
fn f21_cancelling_frees_everything_at_every_stage() {
    for n_steps in 0..12 {
        let mut engine = engine(EngineConfig { pass_tokens: 32, ..EngineConfig::default() });
        let mut replies = Replies::default();
        let id = engine.submit(request(tokens(1, 200), 20)).unwrap();
        (0..n_steps).for_each(|_| step(&mut engine, &mut replies));
        engine.cancel(id);
        engine.cancel(id);
        assert!(engine.is_idle());
        let pages = engine.statistics().pages;
        assert_eq!((pages.held, pages.free + pages.cached), (0, pages.total));
        assert_eq!(engine.step(), []);
    }
}
