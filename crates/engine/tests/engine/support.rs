//! Engines and requests by numbers.

use std::num::NonZeroUsize;
use std::path::Path;

use rapport_engine::{
    CacheKey, CacheScope, Constraint, Engine, EngineConfig, EngineRequest, Phase, UserKey,
};
use rapport_kernels::{Compute, Isa};
use rapport_model::Transformer;
use rapport_model::gguf::Gguf;
use rapport_types::{Sampling, SamplingDraft};

/// Context of 1,024 tokens, vocabulary of 97.
pub(crate) const MODEL: &str = "rope-yarn";

pub(crate) fn load(model: &str, compute: &Compute) -> Transformer {
    let path = format!("../model/tests/fixtures/reference/tiny/{model}.gguf");
    let gguf = Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    Transformer::load(&gguf, compute).unwrap()
}

pub(crate) fn engine(config: EngineConfig) -> Engine {
    let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
    Engine::new(load(MODEL, &compute), compute, config)
}

/// Tokens that look random and are the same for the same seed.
pub(crate) fn tokens(seed: u64, n_tokens: usize) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n_tokens).map(|_| random.below(97) as u32).collect()
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        (self.0 >> 33) as usize % end
    }
}

pub(crate) fn phase(max_tokens: u32) -> Phase {
    Phase {
        opening: Vec::new(),
        stop_tokens: Vec::new(),
        max_tokens,
        closing: Vec::new(),
        constraint: None,
    }
}

pub(crate) fn request(prompt: Vec<u32>, max_tokens: u32) -> EngineRequest {
    EngineRequest {
        prompt,
        phases: vec![phase(max_tokens)],
        sampling: Sampling::greedy(),
        seed: 0,
        user: UserKey::default(),
        priority: 0,
        cache: CacheScope::default(),
        adapter: None,
    }
}

pub(crate) fn sampled() -> Sampling {
    SamplingDraft { temperature: 1.3, repetition_penalty: 1.2, ..SamplingDraft::default() }
        .validate()
        .unwrap()
}

pub(crate) fn scope(name: u8) -> CacheScope {
    CacheScope { key: CacheKey([name; 32]), ..CacheScope::default() }
}

/// Panics at the given token.
struct Breaks {
    after: u32,
    n_accepted: u32,
}

impl Constraint for Breaks {
    fn mask(&mut self, _logits: &mut [f32]) {}

    fn accept(&mut self, _token: u32) {
        assert!(self.n_accepted < self.after, "broken on purpose");
        self.n_accepted += 1;
    }

    fn is_complete(&self) -> bool {
        false
    }
}

/// The request, with a constraint that panics after so many tokens.
pub(crate) fn breaking(mut request: EngineRequest, after: u32) -> EngineRequest {
    request.phases[0].constraint = Some(Box::new(Breaks { after, n_accepted: 0 }));
    request
}
