//! `POST /v1/embeddings`: texts as vectors.

use axum::Json;
use axum::extract::{Extension, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rapport_types::{
    AdapterChoice, BuildId, Caller, Control, Embedding, EmbeddingInput, EmbeddingRequest, ModelInfo,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::JsonBody;
use crate::error::ApiError;
use crate::{App, charge, models};

/// Inputs of one request, as the protocol has it.
const MAX_INPUTS: usize = 2048;
/// Tokens of all inputs together.
const MAX_TOKENS: u64 = 300_000;

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct EmbeddingsRequest {
    model: String,
    input: Input,
    encoding_format: Option<EncodingFormat>,
    /// The first so many numbers, brought to length 1 again; the model was not trained for that.
    dimensions: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

impl Input {
    /// What is to be embedded, each not empty.
    fn inputs(self) -> Result<Vec<EmbeddingInput>, ApiError> {
        let inputs: Vec<EmbeddingInput> = match self {
            Self::Text(text) => vec![EmbeddingInput::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(EmbeddingInput::Text).collect(),
            // An empty list may be of texts as well.
            Self::Tokens(tokens) if tokens.is_empty() => Vec::new(),
            Self::Tokens(tokens) => vec![EmbeddingInput::Tokens(tokens)],
            Self::ManyTokens(all) => all.into_iter().map(EmbeddingInput::Tokens).collect(),
        };
        if !(1..=MAX_INPUTS).contains(&inputs.len()) {
            let message = format!("{} inputs: send 1 to {MAX_INPUTS}", inputs.len());
            return Err(ApiError::invalid("input", message));
        }
        let is_empty = |input: &EmbeddingInput| match input {
            EmbeddingInput::Text(text) => text.is_empty(),
            EmbeddingInput::Tokens(tokens) => tokens.is_empty(),
        };
        match inputs.iter().position(is_empty) {
            Some(idx) => {
                Err(ApiError::invalid("input", format!("number {idx}: there is nothing in it")))
            }
            None => Ok(inputs),
        }
    }
}

/// Ends what is computed when whoever asked goes away.
struct StopOnDrop(Control);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<EmbeddingsRequest>,
) -> Result<Json<Value>, ApiError> {
    let model = models::find(&app, &request.model)?;
    if let AdapterChoice::Named(name) = &model.adapter {
        let message = format!("embeddings are made without adapters: leave out `@{name}`");
        return Err(ApiError::invalid("model", message));
    }
    let generate = model.generate;
    generate.check_ready()?;
    let width = generate
        .embedding_width()
        .ok_or_else(|| ApiError::unsupported("this model makes no embeddings"))?;
    let dimensions = request.dimensions.unwrap_or(width);
    if !(1..=width).contains(&dimensions) {
        let message = format!("{dimensions}: the vectors of this model have {width} numbers");
        return Err(ApiError::invalid("dimensions", message));
    }
    let inputs = request.input.inputs()?;
    let counting = {
        let (generate, inputs) = (generate.clone(), inputs.clone());
        tokio::task::spawn_blocking(move || {
            let count = |input: &EmbeddingInput| match input {
                EmbeddingInput::Tokens(tokens) => tokens.len() as u64,
                EmbeddingInput::Text(text) => {
                    let tokens = generate.tokenize(text);
                    tokens.map_or(text.len() as u64 / 3 + 16, |tokens| tokens.len() as u64)
                }
            };
            inputs.iter().map(count).sum::<u64>()
        })
    };
    let n_tokens = counting.await.map_err(|_| ApiError::broken())?;
    if n_tokens > MAX_TOKENS {
        let message = format!("{n_tokens} tokens: send at most {MAX_TOKENS} at once");
        return Err(ApiError::invalid("input", message));
    }
    let hold = charge::hold_tokens(&app, &generate, n_tokens).await?;
    let control = Control::default();
    let _stop = StopOnDrop(control.clone());
    let ModelInfo { name, build, .. } = generate.model();
    let embedding = tokio::task::spawn_blocking(move || {
        generate.embed(EmbeddingRequest { inputs, caller, control })
    });
    let embeddings = embedding.await.map_err(|_| ApiError::broken())??;
    let n_tokens = embeddings.iter().map(|embedding| embedding.n_tokens).sum();
    app.metrics.of(&name).embed(n_tokens);
    if let Some(hold) = hold {
        let build = BuildId { adapter: "none".to_owned(), ..build };
        let outcome = charge::only_read(n_tokens, build);
        hold.finish(&outcome, None).await.map_err(|_| ApiError::store_busy())?;
    }
    let format = request.encoding_format.unwrap_or_default();
    let data: Vec<Value> = embeddings
        .into_iter()
        .enumerate()
        .map(|(index, embedding)| {
            let vector = shortened(embedding, dimensions as usize);
            json!({ "object": "embedding", "index": index, "embedding": encoded(&vector, format) })
        })
        .collect();
    Ok(Json(json!({
        "object": "list",
        "data": data,
        "model": model.id,
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    })))
}

/// The first numbers of a vector, of length 1 again.
fn shortened(embedding: Embedding, dimensions: usize) -> Vec<f32> {
    let mut vector = embedding.vector;
    if dimensions < vector.len() {
        vector.truncate(dimensions);
        let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if norm > 0.0 {
            for x in &mut vector {
                *x = (f64::from(*x) / norm) as f32;
            }
        }
    }
    vector
}

fn encoded(vector: &[f32], format: EncodingFormat) -> Value {
    match format {
        EncodingFormat::Float => json!(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            json!(BASE64.encode(bytes))
        }
    }
}
