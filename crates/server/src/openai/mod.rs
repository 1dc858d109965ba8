//! OpenAI's protocols: chat completions, completions, responses and embeddings.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod request;
pub(crate) mod responses;

use rapport_types::{TokenLogprob, Usage};
use serde_json::{Value, json};

/// OpenAI counts reasoning as part of the completion.
fn usage_object(usage: Usage) -> Value {
    let completion_tokens = usage.completion_tokens + usage.reasoning_tokens;
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": usage.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "text_tokens": usage.prompt_tokens,
        },
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
    })
}

fn token_logprob(token: &TokenLogprob) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let top: Vec<Value> = token
        .top
        .iter()
        .map(|top| json!({ "token": text(&top.bytes), "logprob": top.logprob, "bytes": top.bytes }))
        .collect();
    json!({
        "token": text(&token.bytes),
        "logprob": token.logprob,
        "bytes": token.bytes,
        "top_logprobs": top,
    })
}

/// What every part of an answer begins with.
struct Head {
    id: String,
    created: u64,
    model: String,
    build: String,
}

impl Head {
    fn object(&self, kind: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.build,
            "choices": choices,
        })
    }
}
