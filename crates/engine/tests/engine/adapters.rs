//! Adapters, each for its own sequences.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use proptest::prelude::*;
use rapport_engine::{CacheScope, Engine, EngineConfig, EngineEvent, EngineRequest, SequenceId};
use rapport_kernels::{Compute, Isa};
use rapport_model::adapter::{Routing, Storage};
use rapport_model::{AdapterFile, PackedAdapter};
use rapport_testkit::RandomAdapter;

use crate::support::{engine, request, tokens};

/// An adapter for the model of these tests.
fn adapter(engine: &Engine, seed: u64, routing: Option<Routing>) -> Arc<PackedAdapter> {
    let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
    let random = RandomAdapter { seed, rank: 2, routing, strength: 1.0 };
    let adapter = random.for_model(engine.model().architecture());
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), Storage::F32).unwrap();
    let file = AdapterFile::open(folder.path()).unwrap();
    Arc::new(engine.model().pack_adapter(&compute, &file).unwrap())
}

/// None, a dense one, and two routed ones.
fn adapters(engine: &Engine) -> [Option<Arc<PackedAdapter>>; 4] {
    let routing = |n_experts, top_k| Some(Routing { n_experts, top_k });
    [
        None,
        Some(adapter(engine, 1, None)),
        Some(adapter(engine, 2, routing(4, 2))),
        Some(adapter(engine, 3, routing(3, 1))),
    ]
}

fn with(adapter: Option<&Arc<PackedAdapter>>, request: EngineRequest) -> EngineRequest {
    EngineRequest { adapter: adapter.cloned(), ..request }
}

/// Tokens with the bits of their log-probabilities, and how many of the prompt's were cached.
#[derive(Debug, Default, PartialEq)]
struct Told {
    tokens: Vec<(u32, u32)>,
    n_cached: usize,
}

/// The replies to requests that run together.
fn told(engine: &mut Engine, requests: Vec<EngineRequest>) -> Vec<Told> {
    let submit = |request| (engine.submit(request).unwrap(), Told::default());
    let mut replies: BTreeMap<SequenceId, Told> = requests.into_iter().map(submit).collect();
    while !engine.is_idle() {
        for event in engine.step() {
            let reply = replies.get_mut(&event.id()).unwrap();
            match event {
                EngineEvent::Started { cached, .. } => reply.n_cached = cached.total(),
                EngineEvent::Token { choice, .. } => {
                    reply.tokens.push((choice.token, choice.logprob.to_bits()));
                }
                EngineEvent::Failed { failure, .. } => panic!("{failure}"),
                _ => {}
            }
        }
    }
    replies.into_values().collect()
}

#[test]
fn each_sequence_has_its_own_adapter_and_shares_nothing_of_others() {
    let mut engine = engine(EngineConfig::default());
    let adapters = adapters(&engine);
    let ask = |adapter| vec![with(adapter, request(tokens(1, 100), 12))];
    let cold: Vec<Told> =
        adapters.iter().flat_map(|adapter| told(&mut engine, ask(adapter.as_ref()))).collect();
    for (idx, reply) in cold.iter().enumerate() {
        assert_eq!(reply.n_cached, 0, "pages of another adapter");
        assert!(cold[..idx].iter().all(|other| other.tokens != reply.tokens), "{idx} adds nothing");
    }
    for (adapter, cold) in adapters.iter().zip(&cold) {
        let reply = &told(&mut engine, ask(adapter.as_ref()))[0];
        assert_eq!(reply.n_cached, 96, "its own pages are found");
        assert_eq!(reply.tokens, cold.tokens, "cached is as cold");
    }
    let tenant = CacheScope::default().key;
    engine.forget(tenant);
    assert_eq!(engine.statistics().pages.cached, 0, "under every adapter");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Batched as alone, in chunks as whole, guessed or not, in whatever mixture.
    #[test]
    fn mixtures_of_adapters_give_what_each_gives_alone(
        asked in proptest::collection::vec((0_usize..4, 0_u64..3, 1_usize..90), 1..7),
        pass_tokens in 8_usize..200,
    ) {
        let mut together = engine(EngineConfig { pass_tokens, ..EngineConfig::default() });
        let adapters = adapters(&together);
        let request = |&(adapter, seed, n_prompt): &(usize, u64, usize)| {
            with(adapters[adapter].as_ref(), request(tokens(seed, n_prompt), 6))
        };
        let found = told(&mut together, asked.iter().map(request).collect());
        let config = EngineConfig {
            pass_tokens: 4096,
            max_draft_tokens: 0,
            ..EngineConfig::default()
        };
        for (asked, found) in asked.iter().zip(found) {
            let alone = &told(&mut engine(config), vec![request(asked)])[0];
            prop_assert_eq!(&found.tokens, &alone.tokens);
        }
    }
}
