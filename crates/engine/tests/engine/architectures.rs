//! Every architecture, sliding windows and experts included, through everything that a page can
//! go through.

use super::*;
use rapport_engine::DiskConfig;

fn engine_of(path: &Path, config: EngineConfig) -> Engine {
    let compute = Compute::new(Isa::detect(), std::num::NonZeroUsize::MIN);
    let model = Transformer::load(&Gguf::open(path).unwrap(), &compute).unwrap();
    Engine::new(model, compute, config)
}

#[test]
fn batched_cached_stored_and_preempted_replies_are_those_made_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../model/tests/fixtures/reference/architectures");
    let mut n_models = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let whole = EngineConfig { pass_tokens: 4096, max_draft_tokens: 0, ..Default::default() };
        let mut alone = engine_of(&path, whole);
        let n_context = alone.context_tokens().min(320);
        let n_vocab = alone.model().n_vocab() as u32;
        // Prompts that begin alike, the longest as long as it may be.
        let asks: Vec<EngineRequest> = [n_context - 40, n_context / 2, n_context - 41]
            .map(|n_prompt| {
                let prompt = tokens(1, n_prompt).into_iter().map(|token| token % n_vocab);
                request(prompt.collect(), 40)
            })
            .into();
        let again = |ask: &EngineRequest| request(ask.prompt.clone(), 40);
        let expected: Vec<Vec<u32>> = asks
            .iter()
            .map(|ask| {
                alone.forget(CacheKey::default());
                reply(&mut alone, again(ask)).tokens
            })
            .collect();

        let directory = tempfile::tempdir().unwrap();
        let small = EngineConfig {
            kv_tokens: n_context + 64,
            pass_tokens: 48,
            expected_reply_tokens: 0,
            ..EngineConfig::default()
        };
        for round in 0..2 {
            let mut engine = engine_of(&path, small);
            let directory = directory.path().to_owned();
            engine
                .attach_disk(DiskConfig { directory, max_bytes: 1 << 30, build: [0; 32] })
                .unwrap();
            let ids: Vec<SequenceId> =
                asks.iter().map(|ask| engine.submit(again(ask)).unwrap()).collect();
            let mut replies = Replies::default();
            run(&mut engine, &mut replies);
            for (id, expected) in ids.iter().zip(&expected) {
                assert_eq!(replies.0[id].tokens, *expected, "{} round {round}", path.display());
            }
            let first = replies.0[&ids[0]].cached.unwrap();
            assert_eq!(first.disk > 0, round == 1, "{} {first:?}", path.display());
        }
        n_models += 1;
    }
    assert!(n_models >= 10, "{n_models} models");
}
