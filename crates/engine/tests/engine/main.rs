//! The engine as its driver sees it, on tiny random models.
//!
//! Bit for bit: whatever the schedule, a request's tokens are those of the request run alone.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod adapters;
mod architectures;
mod cache;
mod draft;
mod faults;
mod schedules;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use rapport_engine::{
    CacheKey, CacheScope, CachedTokens, Ending, Engine, EngineConfig, EngineEvent, EngineRequest,
    Failure, Phase, SequenceId, UserKey,
};
use rapport_kernels::{Compute, Isa, KvType};
use rapport_model::Transformer;
use rapport_model::gguf::Gguf;
use rapport_types::Sampling;
use support::{MODEL, engine, load, phase, request, sampled, scope, tokens};

/// What has come of a sequence so far.
#[derive(Clone, Debug, Default, PartialEq)]
struct Reply {
    tokens: Vec<u32>,
    cached: Option<CachedTokens>,
    endings: Vec<Ending>,
    is_finished: bool,
    failure: Option<Failure>,
}

#[derive(Default)]
struct Replies(BTreeMap<SequenceId, Reply>);

impl Replies {
    /// Takes a step's events, in the order that they must have.
    fn take(&mut self, events: Vec<EngineEvent>) {
        for event in events {
            let reply = self.0.entry(event.id()).or_default();
            assert!(!reply.is_finished && reply.failure.is_none(), "{event:?} after the end");
            let is_started = reply.cached.is_some();
            assert_eq!(is_started, !matches!(event, EngineEvent::Started { .. }), "{event:?}");
            match event {
                EngineEvent::Started { cached, .. } => reply.cached = Some(cached),
                EngineEvent::Token { choice, phase_idx, .. } => {
                    assert_eq!(phase_idx, reply.endings.len());
                    reply.tokens.push(choice.token);
                }
                EngineEvent::PhaseEnded { ending, .. } => reply.endings.push(ending),
                EngineEvent::Finished { .. } => reply.is_finished = true,
                EngineEvent::Failed { failure, .. } => reply.failure = Some(failure),
            }
        }
    }
}

/// Steps once; all pages are accounted for afterwards.
fn step(engine: &mut Engine, replies: &mut Replies) {
    replies.take(engine.step());
    let pages = engine.statistics().pages;
    assert_eq!(pages.free + pages.cached + pages.held, pages.total, "{pages:?}");
}

fn run(engine: &mut Engine, replies: &mut Replies) {
    let mut n_steps = 0;
    while !engine.is_idle() {
        step(engine, replies);
        n_steps += 1;
        assert!(n_steps < 50_000, "the engine gets nowhere: {:?}", engine.statistics());
    }
}

/// The reply to one request that has the engine for itself.
fn reply(engine: &mut Engine, request: EngineRequest) -> Reply {
    let id = engine.submit(request).unwrap();
    let mut replies = Replies::default();
    run(engine, &mut replies);
    replies.0.remove(&id).unwrap()
}

/// The reply of a new engine that computes the prompt in one pass and guesses nothing.
fn alone(request: EngineRequest) -> Reply {
    alone_in(KvType::F16, request)
}

fn alone_in(kv_type: KvType, request: EngineRequest) -> Reply {
    let config =
        EngineConfig { kv_type, pass_tokens: 4096, max_draft_tokens: 0, ..EngineConfig::default() };
    reply(&mut engine(config), request)
}

fn model(name: &str) -> Transformer {
    load(name, &Compute::new(Isa::detect(), std::num::NonZeroUsize::MIN))
}
