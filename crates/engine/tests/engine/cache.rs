//! Turns of conversations, from memory and from disk.

use super::*;
use rapport_engine::{DiskConfig, SharedPrefix};

const BUILD: [u8; 32] = [3; 32];

fn with_disk(directory: &Path, build: [u8; 32]) -> Engine {
    let mut engine = engine(EngineConfig::default());
    let directory = directory.to_owned();
    engine.attach_disk(DiskConfig { directory, max_bytes: 1 << 30, build }).unwrap();
    engine
}

/// The second turn of a conversation whose first was `prompt` and its reply.
fn next_turn(mut prompt: Vec<u32>, reply: &Reply) -> EngineRequest {
    prompt.extend(&reply.tokens);
    prompt.extend(tokens(77, 21));
    request(prompt, 30)
}

#[test]
fn the_next_turn_computes_only_what_is_new() {
    let mut engine = engine(EngineConfig::default());
    let prompt = tokens(1, 500);
    let first = reply(&mut engine, request(prompt.clone(), 40));
    assert_eq!(first.cached, Some(CachedTokens::default()));
    let second = reply(&mut engine, next_turn(prompt.clone(), &first));
    // 539 of the 540 tokens were computed: the last one never is.
    assert_eq!(second.cached, Some(CachedTokens { memory: 512, disk: 0 }));
    assert_eq!(second.tokens, alone(next_turn(prompt, &first)).tokens);
}

#[test]
fn running_sequences_share_pages_without_copying_them() {
    let mut engine = engine(EngineConfig::default());
    let prompt = tokens(1, 320);
    reply(&mut engine, request(prompt.clone(), 1));
    let mut replies = Replies::default();
    for last in 0..4 {
        let mut prompt = prompt.clone();
        prompt.push(last);
        engine.submit(request(prompt, 20)).unwrap();
    }
    step(&mut engine, &mut replies);
    assert_eq!(engine.statistics().pages.held, 10 + 4);
}

#[test]
fn the_same_prompt_computed_twice_at_once_is_kept_once() {
    let mut engine = engine(EngineConfig { pass_tokens: 2048, ..EngineConfig::default() });
    let mut replies = Replies::default();
    for _ in 0..3 {
        engine.submit(request(tokens(1, 320), 40)).unwrap();
    }
    step(&mut engine, &mut replies);
    step(&mut engine, &mut replies);
    assert_eq!(engine.statistics().pages.held, 10 + 3);
}

#[test]
fn after_a_restart_the_disk_has_the_conversation() {
    let directory = tempfile::tempdir().unwrap();
    let prompt = tokens(1, 500);
    let mut engine = with_disk(directory.path(), BUILD);
    let first = reply(&mut engine, request(prompt.clone(), 40));
    drop(engine);

    let mut engine = with_disk(directory.path(), BUILD);
    let second = reply(&mut engine, next_turn(prompt.clone(), &first));
    assert_eq!(second.cached, Some(CachedTokens { memory: 0, disk: 512 }));
    let expected = alone(next_turn(prompt.clone(), &first));
    assert_eq!(second.tokens, expected.tokens);
    let third = reply(&mut engine, next_turn(prompt.clone(), &first));
    assert_eq!(third.cached, Some(CachedTokens { memory: 544, disk: 0 }));
    drop(engine);

    let mut engine = with_disk(directory.path(), [4; 32]);
    let cold = reply(&mut engine, next_turn(prompt, &first));
    assert_eq!(cold.cached, Some(CachedTokens::default()), "another build's pages");
    assert_eq!(cold.tokens, expected.tokens);
    assert!(engine.statistics().disk.unwrap().n_other_build > 0);
}

#[test]
fn f29_a_page_damaged_on_disk_is_computed_again() {
    let directory = tempfile::tempdir().unwrap();
    let prompt = tokens(1, 500);
    let mut engine = with_disk(directory.path(), BUILD);
    reply(&mut engine, request(prompt.clone(), 1));
    drop(engine);
    let run = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let run =
        run.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "kv")).unwrap();
    let mut bytes = std::fs::read(&run).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&run, bytes).unwrap();

    let mut engine = with_disk(directory.path(), BUILD);
    let got = reply(&mut engine, request(prompt.clone(), 20));
    let cached = got.cached.unwrap();
    assert!(cached.disk > 0 && cached.disk < 480, "{cached:?}");
    assert_eq!(got.tokens, alone(request(prompt, 20)).tokens);
    assert_eq!(engine.take_disk_reports().len(), 1);
}

#[test]
fn others_go_on_while_a_conversation_is_read_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = with_disk(directory.path(), BUILD);
    reply(&mut engine, request(tokens(1, 900), 1));
    drop(engine);
    let mut engine = with_disk(directory.path(), BUILD);
    let mut replies = Replies::default();
    let writing = engine.submit(request(tokens(2, 8), 30)).unwrap();
    step(&mut engine, &mut replies);
    let stored = engine.submit(request(tokens(1, 900), 5)).unwrap();
    step(&mut engine, &mut replies);
    assert_eq!(replies.0[&writing].tokens.len(), 2);
    run(&mut engine, &mut replies);
    assert_eq!(replies.0[&stored].cached.unwrap().disk, 896);
    assert_eq!(replies.0[&stored].tokens, alone(request(tokens(1, 900), 5)).tokens);
}

#[test]
fn f28_one_tenant_neither_finds_nor_times_anothers_pages() {
    let directory = tempfile::tempdir().unwrap();
    let ask = |name| EngineRequest { cache: scope(name), ..request(tokens(1, 500), 8) };
    // Steps until the first token, with another tenant's same conversation cached and without.
    let n_steps = |others: &[u8]| {
        let mut engine = with_disk(directory.path(), BUILD);
        for name in others {
            reply(&mut engine, ask(*name));
        }
        engine.flush_disk();
        let id = engine.submit(ask(9)).unwrap();
        let mut replies = Replies::default();
        let mut n_steps = 0;
        while replies.0.get(&id).is_none_or(|reply| reply.tokens.is_empty()) {
            step(&mut engine, &mut replies);
            n_steps += 1;
        }
        assert_eq!(replies.0[&id].cached, Some(CachedTokens::default()));
        n_steps
    };
    assert_eq!(n_steps(&[]), n_steps(&[1, 2]));
}

#[test]
fn what_the_operator_shares_is_shared_and_nothing_after_it() {
    let mut engine = engine(EngineConfig::default());
    let shared = Some(SharedPrefix { key: CacheKey([8; 32]), n_tokens: 200 });
    let ask = |name, shared| {
        let cache = CacheScope { shared, ..scope(name) };
        EngineRequest { cache, ..request(tokens(1, 500), 4) }
    };
    reply(&mut engine, ask(1, shared));
    assert_eq!(reply(&mut engine, ask(2, shared)).cached.unwrap().memory, 192);
    assert_eq!(reply(&mut engine, ask(2, shared)).cached.unwrap().memory, 480);
    assert_eq!(reply(&mut engine, ask(3, None)).cached.unwrap().memory, 0);
    engine.forget(CacheKey([2; 32]));
    assert_eq!(reply(&mut engine, ask(2, shared)).cached.unwrap().memory, 192);
    assert_eq!(reply(&mut engine, ask(1, shared)).cached.unwrap().memory, 480);
}

#[test]
fn the_oldest_pages_go_first_and_pinned_ones_stay() {
    let mut engine = engine(EngineConfig { kv_tokens: 24 * 32, ..EngineConfig::default() });
    let ask = |seed| request(tokens(seed, 193), 2);
    (1..=3).for_each(|seed| drop(reply(&mut engine, ask(seed))));
    assert_eq!(engine.pin(&CacheScope::default(), &tokens(1, 193)), 192);
    // 18 of 24 pages are cached; each newcomer needs 7.
    (4..=5).for_each(|seed| drop(reply(&mut engine, ask(seed))));
    let memory = |engine: &mut Engine, seed| reply(engine, ask(seed)).cached.unwrap().memory;
    assert_eq!(memory(&mut engine, 1), 192);
    assert_eq!(memory(&mut engine, 5), 192);
    assert_eq!(memory(&mut engine, 2), 0);
    // Pins yield to what could not run otherwise.
    let whole = request(tokens(9, 700), 60);
    assert_eq!(reply(&mut engine, whole).tokens.len(), 60);
    assert_eq!(memory(&mut engine, 1), 0);
    // Taken back, a pin holds nothing.
    engine.pin(&CacheScope::default(), &tokens(1, 193));
    engine.unpin(&CacheScope::default(), &tokens(1, 193));
    (4..=7).for_each(|seed| drop(reply(&mut engine, ask(seed))));
    assert_eq!(memory(&mut engine, 1), 0);
}
