//! Engines over real HTTP on the loopback address: scripted bad ones, and our own server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod bad_server;
mod chain;
mod faults;

use rapport_types::{
    Caller, Event, Generate, Message, Mode, OutputFormat, PromptForm, Request, SamplingDraft,
    ThinkingBudget, Tools, reply,
};
use rapport_upstream::{Limits, ReplicaConfig, Upstream, UpstreamConfig};

fn ask(text: &str) -> Request {
    Request {
        adapter: rapport_types::AdapterChoice::Default,
        messages: vec![Message::user(text)],
        prompt_form: PromptForm::Conversation,
        mode: Mode::Fast,
        thinking_budget: ThinkingBudget::Low,
        sampling: SamplingDraft { seed: Some(1), ..SamplingDraft::default() }.validate().unwrap(),
        max_tokens: 64,
        stop: Vec::new(),
        format: OutputFormat::Text,
        tools: Tools::default(),
        caller: Caller::default(),
    }
}

fn open(urls: &[&str], change: impl FnOnce(&mut Limits)) -> Upstream {
    let mut config = UpstreamConfig::new(urls[0]);
    config.replicas = urls
        .iter()
        .map(|url| ReplicaConfig { url: (*url).to_owned(), key_env: None, key: None })
        .collect();
    // Health is asked for only where a test is about it.
    config.limits.health_ms = 3_600_000;
    change(&mut config.limits);
    Upstream::open(config).unwrap()
}

fn events(generate: &dyn Generate, request: Request) -> Vec<Event> {
    reply(generate, request).unwrap().collect()
}

fn text(events: &[Event]) -> String {
    let piece = |event: &Event| match event {
        Event::Text { text, .. } => text.clone(),
        _ => String::new(),
    };
    events.iter().map(piece).collect()
}
