//! A thousand conversations that arrive, are cancelled, resumed and preempted, break, and have adapters
//! of their own. A program of its own: it watches its memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "engine/support.rs"]
mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;

use rapport_engine::{
    DiskConfig, Engine, EngineConfig, EngineEvent, EngineRequest, SequenceId, UserKey,
};
use rapport_kernels::{Compute, Isa};
use rapport_model::adapter::{Routing, Storage};
use rapport_model::{AdapterFile, PackedAdapter};
use rapport_testkit::RandomAdapter;
use support::{Random, breaking, engine, request, sampled, scope, tokens};

/// Bytes of this process in memory, where the system says so.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(status.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

/// None, a plain one, and one with experts.
fn adapters(engine: &Engine) -> [Option<Arc<PackedAdapter>>; 3] {
    let pack = |routing| {
        let random = RandomAdapter { seed: 3, rank: 2, routing, strength: 1.0 };
        let folder = tempfile::tempdir().unwrap();
        let adapter = random.for_model(engine.model().architecture());
        adapter.save(folder.path(), Storage::F32).unwrap();
        let file = AdapterFile::open(folder.path()).unwrap();
        let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
        Some(Arc::new(engine.model().pack_adapter(&compute, &file).unwrap()))
    };
    [None, pack(None), pack(Some(Routing { n_experts: 3, top_k: 2 }))]
}

/// What a request was, so that it can be made again.
#[derive(Clone)]
struct Asked {
    prompt: Vec<u32>,
    max_tokens: u32,
    is_sampled: bool,
    adapter_idx: usize,
}

impl Asked {
    fn request(&self, adapters: &[Option<Arc<PackedAdapter>>]) -> EngineRequest {
        let mut request = request(self.prompt.clone(), self.max_tokens);
        if self.is_sampled {
            request.sampling = sampled();
        }
        request.adapter.clone_from(&adapters[self.adapter_idx]);
        request
    }
}

/// The reply of an engine that does nothing else.
fn alone(request: EngineRequest) -> Vec<u32> {
    let mut engine = engine(EngineConfig::default());
    engine.submit(request).unwrap();
    let mut tokens = Vec::new();
    while !engine.is_idle() {
        for event in engine.step() {
            if let EngineEvent::Token { choice, .. } = event {
                tokens.push(choice.token);
            }
        }
    }
    tokens
}

#[test]
fn a_thousand_conversations_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = engine(EngineConfig {
        kv_tokens: 20 * 32,
        pass_tokens: 64,
        expected_reply_tokens: 8,
        ..EngineConfig::default()
    });
    let disk =
        DiskConfig { directory: directory.path().to_owned(), max_bytes: 4 << 20, build: [1; 32] };
    engine.attach_disk(disk).unwrap();
    let mut random = Random(11);
    let adapters = adapters(&engine);
    let mut open: Vec<(SequenceId, Vec<u32>, Asked)> = Vec::new();
    // Some replies, to be made again alone.
    let mut samples: Vec<(Asked, Vec<u32>)> = Vec::new();
    let (mut n_finished, mut n_failed, mut n_cancelled, mut n_cached) = (0, 0, 0, 0);
    let mut bytes_before = None;
    for n_asked in 0..1000 {
        // A new conversation, or the next turn of one that was cut off.
        let mut prompt = match open.len() {
            n_open if n_open > 6 => {
                let (id, prompt, _) = open.swap_remove(random.below(n_open));
                engine.cancel(id);
                n_cancelled += 1;
                prompt
            }
            _ => tokens(random.below(40) as u64, 20 + random.below(150)),
        };
        prompt.truncate(400);
        prompt.push(random.below(97) as u32);
        let asked = Asked {
            prompt: prompt.clone(),
            max_tokens: 1 + random.below(60) as u32,
            is_sampled: random.below(3) == 0,
            adapter_idx: random.below(adapters.len()),
        };
        let mut request = asked.request(&adapters);
        if random.below(10) == 0 {
            request = breaking(request, random.below(20) as u32);
        }
        request.user = UserKey(random.below(200) as u64);
        request.priority = random.below(3) as i8;
        request.cache = scope(random.below(2) as u8);
        open.push((engine.submit(request).unwrap(), prompt, asked));
        for _ in 0..random.below(12) {
            for event in engine.step() {
                let place = open.iter().position(|(id, ..)| *id == event.id());
                let Some(place) = place else { continue };
                match event {
                    EngineEvent::Started { cached, .. } => n_cached += cached.total(),
                    EngineEvent::Token { choice, .. } => open[place].1.push(choice.token),
                    EngineEvent::PhaseEnded { .. } => {}
                    EngineEvent::Finished { .. } => {
                        n_finished += 1;
                        let (_, tokens, asked) = open.swap_remove(place);
                        if n_finished % 16 == 0 {
                            let written = tokens[asked.prompt.len()..].to_vec();
                            samples.push((asked, written));
                        }
                    }
                    EngineEvent::Failed { .. } => {
                        n_failed += 1;
                        open.swap_remove(place);
                    }
                }
            }
            let pages = engine.statistics().pages;
            assert_eq!(pages.free + pages.cached + pages.held, pages.total, "{pages:?}");
        }
        if n_asked == 500 {
            bytes_before = resident_bytes();
        }
    }
    if let (Some(before), Some(after)) = (bytes_before, resident_bytes()) {
        assert!(after < before + (4 << 20), "{before} bytes became {after}");
    }
    for (id, ..) in open {
        engine.cancel(id);
    }
    let statistics = engine.statistics();
    let pages = statistics.pages;
    assert!(engine.is_idle());
    assert_eq!((pages.held, pages.free + pages.cached), (0, pages.total));
    let disk = statistics.disk.unwrap();
    assert!(disk.n_bytes <= 4 << 20);
    assert_eq!((disk.n_damaged, disk.n_failed_writes), (0, 0));
    println!("{n_finished} finished, {n_failed} failed, {n_cancelled} cancelled, {statistics:?}");
    assert!(n_finished > 300 && n_failed > 20 && n_cancelled > 100 && n_cached > 1000);
    assert!(statistics.n_preemptions > 20);
    // Whoever else came, broke or was cancelled meanwhile.
    assert!(samples.len() > 18);
    for (asked, written) in samples {
        assert_eq!(alone(asked.request(&adapters)), written);
    }
}
