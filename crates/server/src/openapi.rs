//! The description of the interface: requests from the types that read them, and every route.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::anthropic::MessagesRequest;
use crate::openai::completions::CompletionRequest;
use crate::openai::embeddings::EmbeddingsRequest;
use crate::openai::request::ChatRequest;
use crate::openai::responses::ResponseRequest;
use crate::xai::TokenizeRequest;

/// The OpenAPI 3.1 document of everything that is served.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut describing = Describing { generator: settings.into_generator(), paths: Map::new() };
    describing.add_all();
    let Describing { mut generator, paths } = describing;
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Error".to_owned(), openai_error());
    schemas.insert("AnthropicError".to_owned(), anthropic_error());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rapport",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A conversational AI that you own, in the protocols of OpenAI, Anthropic and xAI.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "bearer": [] }, { "apiKey": [] }, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "apiKey": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
        },
    })
}

struct Describing {
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

/// One route.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Fields that a success always has; none for text.
    fields: &'static [&'static str],
    /// Statuses beside 200.
    others: &'static [u16],
}

impl Describing {
    fn add_all(&mut self) {
        let post = |path, summary, fields| Operation {
            method: "post",
            path,
            summary,
            fields,
            others: &[400, 401, 403, 404, 408, 413, 415, 421, 429, 500, 501, 503],
        };
        let get = |path, summary, fields| Operation {
            method: "get",
            path,
            summary,
            fields,
            others: &[401, 403, 421],
        };
        let get_one = |path, summary, fields| Operation {
            others: &[400, 401, 403, 404, 421, 500],
            ..get(path, summary, fields)
        };
        let completion: &[&str] = &["id", "object", "created", "model", "choices", "usage"];
        self.add_with_body::<ChatRequest>(&post(
            "/v1/chat/completions",
            "Answer a conversation. With `deferred`, only a `request_id`.",
            &[],
        ));
        self.add(&Operation {
            others: &[202, 400, 401, 403, 404, 421, 429, 500, 503],
            ..get(
                "/v1/chat/deferred-completion/{id}",
                "Read a deferred completion: 202 while it is being made, then once.",
                completion,
            )
        });
        self.add_with_body::<CompletionRequest>(&post(
            "/v1/completions",
            "Go on with a text, without a conversation around it.",
            completion,
        ));
        self.add_with_body::<EmbeddingsRequest>(&post(
            "/v1/embeddings",
            "Texts as vectors of length 1.",
            &["object", "data", "model", "usage"],
        ));
        let response: &[&str] = &["id", "object", "created_at", "status", "model", "output"];
        self.add_with_body::<ResponseRequest>(&post(
            "/v1/responses",
            "Answer, and keep the answer to go on from.",
            response,
        ));
        self.add(&get_one("/v1/responses/{id}", "A response that was kept.", response));
        self.add(&Operation {
            method: "delete",
            ..get_one("/v1/responses/{id}", "Forget a response.", &["id", "object", "deleted"])
        });
        self.add(&get_one(
            "/v1/responses/{id}/input_items",
            "What a response answered.",
            &["object", "data", "has_more"],
        ));
        self.add_with_body::<MessagesRequest>(&post(
            "/v1/messages",
            "Answer a conversation, in Anthropic's protocol.",
            &["id", "type", "role", "model", "content", "stop_reason", "usage"],
        ));
        self.add_with_body::<MessagesRequest>(&post(
            "/v1/messages/count_tokens",
            "Tokens that a conversation has.",
            &["input_tokens"],
        ));
        let model: &[&str] = &["id", "object", "created", "owned_by"];
        self.add(&get("/v1/models", "The models on offer.", &["object", "data"]));
        self.add(&get_one("/v1/models/{id}", "A model.", model));
        self.add(&get("/v1/language-models", "The models with modalities.", &["models"]));
        self.add(&get_one("/v1/language-models/{id}", "A model with modalities.", model));
        self.add(&get("/v1/embedding-models", "The models that make vectors.", &["models"]));
        self.add(&get_one("/v1/embedding-models/{id}", "A model that makes vectors.", model));
        self.add(&get("/v1/image-generation-models", "None.", &["models"]));
        self.add_with_body::<TokenizeRequest>(&post(
            "/v1/tokenize-text",
            "The tokens of a text.",
            &["token_ids"],
        ));
        self.add(&get("/v1/api-key", "The key that was shown.", &["redacted_api_key", "acls"]));
        self.add(&get("/metrics", "Counters for Prometheus.", &[]));
        self.add(&get("/openapi.json", "This document.", &["openapi", "paths"]));
        self.add(&get("/healthz", "Whether the process lives.", &[]));
        let ready = get("/readyz", "Whether requests are welcome.", &[]);
        self.add(&Operation { others: &[400, 403, 404, 421, 503], ..ready });
    }

    fn add_with_body<T: JsonSchema>(&mut self, operation: &Operation) {
        let schema = self.generator.subschema_for::<T>();
        let content = json!({ "application/json": { "schema": schema } });
        self.insert(operation, Some(json!({ "required": true, "content": content })));
    }

    fn add(&mut self, operation: &Operation) {
        self.insert(operation, None);
    }

    fn insert(&mut self, operation: &Operation, body: Option<Value>) {
        let Operation { method, path, summary, fields, others } = operation;
        let is_json = !matches!(*path, "/metrics" | "/healthz" | "/readyz");
        let mut content = Map::new();
        if is_json {
            let schema = json!({ "type": "object", "required": fields });
            content.insert("application/json".to_owned(), json!({ "schema": schema }));
        } else {
            content.insert("text/plain".to_owned(), json!({ "schema": { "type": "string" } }));
        }
        let is_streamed = matches!(
            *path,
            "/v1/chat/completions" | "/v1/completions" | "/v1/responses" | "/v1/messages"
        );
        if is_streamed && *method == "post" {
            let schema = json!({ "type": "string" });
            content.insert("text/event-stream".to_owned(), json!({ "schema": schema }));
        }
        let mut responses = Map::new();
        responses.insert("200".to_owned(), json!({ "description": summary, "content": content }));
        let error = if path.starts_with("/v1/messages") { "AnthropicError" } else { "Error" };
        for status in *others {
            let schema = json!({ "$ref": format!("#/components/schemas/{error}") });
            let described = match status {
                202 => json!({ "description": "It is being made." }),
                503 if !is_json => json!({
                    "description": "The server is ending, or the model is not there yet.",
                    "content": { "text/plain": { "schema": { "type": "string" } } },
                }),
                _ => json!({
                    "description": "Refused, with the reason.",
                    "content": { "application/json": { "schema": schema } },
                }),
            };
            responses.insert(status.to_string(), described);
        }
        let mut parameters = Vec::new();
        if path.contains("{id}") {
            parameters.push(json!({
                "name": "id", "in": "path", "required": true, "schema": { "type": "string" },
            }));
        }
        let query = |name: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "schema": schema });
        if *path == "/readyz" {
            parameters.push(query("model", json!({ "type": "string" })));
        }
        if path.ends_with("/input_items") {
            parameters
                .push(query("limit", json!({ "type": "integer", "minimum": 1, "maximum": 100 })));
            parameters.push(query("order", json!({ "enum": ["asc", "desc"] })));
            parameters.push(query("after", json!({ "type": "string" })));
        }
        let mut described =
            json!({ "summary": summary, "parameters": parameters, "responses": responses });
        if let Some(body) = body {
            described["requestBody"] = body;
        }
        let entry = self.paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        entry[*method] = described;
    }
}

fn openai_error() -> Value {
    let text_or_null = json!({ "type": ["string", "null"] });
    json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": { "type": "string" },
                "type": { "type": "string" },
                "param": text_or_null,
                "code": text_or_null,
            },
        } },
    })
}

fn anthropic_error() -> Value {
    json!({
        "type": "object",
        "required": ["type", "error", "request_id"],
        "properties": {
            "type": { "const": "error" },
            "request_id": { "type": "string" },
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": { "type": { "type": "string" }, "message": { "type": "string" } },
            },
        },
    })
}
