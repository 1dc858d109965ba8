//! What an engine says of its models.

use std::sync::Arc;
use std::time::Duration;

use rapport_types::BuildId;
use serde_json::Value;
use tokio::time::timeout;

use crate::UpstreamError;
use crate::chunks;
use crate::client::Client;
use crate::config::Dialect;
use crate::replicas::Endpoint;

/// Where an engine does not say.
const DEFAULT_CONTEXT_TOKENS: u32 = 131_072;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) dialect: Dialect,
    pub(crate) context_tokens: u32,
    /// Where it is another Rapport, which says so.
    pub(crate) build: Option<BuildId>,
}

#[derive(Debug)]
pub(crate) struct Models(Vec<Model>);

/// The models of the first replica that answers.
pub(crate) async fn find(
    client: &Client,
    endpoints: &[Arc<Endpoint>],
    limit: Duration,
) -> Result<Models, UpstreamError> {
    let mut reasons = Vec::new();
    for endpoint in endpoints {
        let reason = match timeout(limit, client.get(endpoint, "/models")).await {
            Ok(Ok((200, list))) => return Ok(Models::read(&list)),
            Ok(Ok((status, _))) => format!("it answered {status}"),
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer within {} ms", limit.as_millis()),
        };
        reasons.push(format!("{}: {reason}", endpoint.base));
    }
    Err(UpstreamError::Unreachable { reasons: reasons.join("; ") })
}

impl Models {
    fn read(list: &Value) -> Self {
        let models = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let read = |model: &Value| {
            // Each engine has its own word for it.
            let context_tokens = [
                &model["max_model_len"],
                &model["meta"]["n_ctx"],
                &model["rapport"]["context_tokens"],
                &model["context_length"],
            ];
            let context_tokens = context_tokens.into_iter().find_map(Value::as_u64);
            let owner = model["owned_by"].as_str().unwrap_or_default();
            Some(Model {
                id: model["id"].as_str()?.to_owned(),
                dialect: Dialect::of_owner(owner),
                context_tokens: context_tokens
                    .and_then(|n_tokens| u32::try_from(n_tokens).ok())
                    .filter(|n_tokens| *n_tokens > 0)
                    .unwrap_or(DEFAULT_CONTEXT_TOKENS),
                build: model["rapport"]["build"].as_str().and_then(chunks::build),
            })
        };
        Self(models.iter().filter_map(read).collect())
    }

    pub(crate) fn choose(self, wanted: Option<&str>) -> Result<Model, UpstreamError> {
        let Some(wanted) = wanted else {
            return self.0.into_iter().next().ok_or(UpstreamError::NoModel);
        };
        if let Some(found) = self.0.iter().find(|model| model.id == wanted) {
            return Ok(found.clone());
        }
        let ids: Vec<&str> = self.0.iter().map(|model| model.id.as_str()).collect();
        let found = if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
        Err(UpstreamError::NoSuchModel { wanted: wanted.to_owned(), found })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_engine_says_how_long_its_context_is() {
        for (entry, dialect, context_tokens) in [
            (json!({ "owned_by": "vllm", "max_model_len": 4096 }), Dialect::Vllm, 4096),
            (json!({ "owned_by": "sglang", "max_model_len": 32 }), Dialect::Sglang, 32),
            (json!({ "owned_by": "llamacpp", "meta": { "n_ctx": 8 } }), Dialect::LlamaServer, 8),
            (json!({ "owned_by": "xai" }), Dialect::Xai, DEFAULT_CONTEXT_TOKENS),
            (
                json!({ "owned_by": "rapport", "rapport": { "context_tokens": 9 } }),
                Dialect::Rapport,
                9,
            ),
            (json!({ "meta": null, "max_model_len": -3 }), Dialect::Openai, DEFAULT_CONTEXT_TOKENS),
        ] {
            let mut entry = entry;
            entry["id"] = json!("m");
            let model = Models::read(&json!({ "data": [{}, entry] })).choose(None).unwrap();
            assert_eq!(model, Model { id: "m".to_owned(), dialect, context_tokens, build: None });
        }
    }

    #[test]
    fn a_model_that_is_not_there_is_named_with_those_that_are() {
        let models = || Models::read(&json!({ "data": [{ "id": "a" }, { "id": "b" }] }));
        assert_eq!(models().choose(Some("b")).unwrap().id, "b");
        let error = models().choose(Some("c")).unwrap_err().to_string();
        assert_eq!(error, "the engine has no model `c`: it has a, b");
        assert!(Models::read(&json!("<html>")).choose(None).is_err());
    }
}
