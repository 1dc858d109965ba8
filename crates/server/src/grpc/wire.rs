//! The messages of xAI's gRPC interface, as far as they are read or written here.
//!
//! Names and numbers are those of the package `xai_api`, as its Python client 1.21 has them. Fields
//! that are not here are skipped when they arrive, as Protocol Buffers have it.

#![expect(clippy::struct_field_names, reason = "fields have the names of the protocol")]

use prost::{Enumeration, Message, Oneof};

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Empty {}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetCompletionsRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) messages: Vec<ChatMessage>,
    #[prost(string, tag = "2")]
    pub(super) model: String,
    #[prost(float, optional, tag = "3")]
    pub(super) frequency_penalty: Option<f32>,
    #[prost(bool, tag = "5")]
    pub(super) logprobs: bool,
    #[prost(int32, optional, tag = "6")]
    pub(super) top_logprobs: Option<i32>,
    #[prost(int32, optional, tag = "7")]
    pub(super) max_tokens: Option<i32>,
    #[prost(int32, optional, tag = "8")]
    pub(super) n: Option<i32>,
    #[prost(float, optional, tag = "9")]
    pub(super) presence_penalty: Option<f32>,
    #[prost(message, optional, tag = "10")]
    pub(super) response_format: Option<ResponseFormat>,
    #[prost(int32, optional, tag = "11")]
    pub(super) seed: Option<i32>,
    #[prost(string, repeated, tag = "12")]
    pub(super) stop: Vec<String>,
    #[prost(float, optional, tag = "14")]
    pub(super) temperature: Option<f32>,
    #[prost(float, optional, tag = "15")]
    pub(super) top_p: Option<f32>,
    #[prost(message, repeated, tag = "17")]
    pub(super) tools: Vec<Tool>,
    #[prost(message, optional, tag = "18")]
    pub(super) tool_choice: Option<ToolChoice>,
    #[prost(enumeration = "ReasoningEffort", optional, tag = "19")]
    pub(super) reasoning_effort: Option<i32>,
    #[prost(message, optional, tag = "20")]
    pub(super) search_parameters: Option<SearchParameters>,
    #[prost(bool, optional, tag = "21")]
    pub(super) parallel_tool_calls: Option<bool>,
    #[prost(string, optional, tag = "22")]
    pub(super) previous_response_id: Option<String>,
    #[prost(bool, tag = "23")]
    pub(super) store_messages: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ChatMessage {
    #[prost(message, repeated, tag = "1")]
    pub(super) content: Vec<Content>,
    #[prost(enumeration = "MessageRole", tag = "2")]
    pub(super) role: i32,
    #[prost(message, repeated, tag = "4")]
    pub(super) tool_calls: Vec<ToolCall>,
    #[prost(string, optional, tag = "5")]
    pub(super) reasoning_content: Option<String>,
    #[prost(string, tag = "6")]
    pub(super) encrypted_content: String,
    #[prost(string, optional, tag = "7")]
    pub(super) tool_call_id: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Content {
    #[prost(oneof = "ContentKind", tags = "1, 2, 3")]
    pub(super) kind: Option<ContentKind>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(super) enum ContentKind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(message, tag = "2")]
    ImageUrl(Empty),
    #[prost(message, tag = "3")]
    File(Empty),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum MessageRole {
    Invalid = 0,
    User = 1,
    Assistant = 2,
    System = 3,
    Function = 4,
    Tool = 5,
    Developer = 6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum ReasoningEffort {
    Invalid = 0,
    Low = 1,
    Medium = 2,
    High = 3,
    None = 4,
    Xhigh = 5,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ResponseFormat {
    #[prost(enumeration = "FormatType", tag = "1")]
    pub(super) format_type: i32,
    #[prost(string, optional, tag = "2")]
    pub(super) schema: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum FormatType {
    Invalid = 0,
    Text = 1,
    JsonObject = 2,
    JsonSchema = 3,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Tool {
    /// Every other kind runs on xAI's machines.
    #[prost(message, optional, tag = "1")]
    pub(super) function: Option<Function>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Function {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) description: String,
    /// A JSON schema.
    #[prost(string, tag = "4")]
    pub(super) parameters: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ToolChoice {
    #[prost(oneof = "ToolChoiceKind", tags = "1, 2")]
    pub(super) kind: Option<ToolChoiceKind>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(super) enum ToolChoiceKind {
    #[prost(enumeration = "ToolMode", tag = "1")]
    Mode(i32),
    #[prost(string, tag = "2")]
    FunctionName(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum ToolMode {
    Invalid = 0,
    Auto = 1,
    None = 2,
    Required = 3,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ToolCall {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(enumeration = "ToolCallType", tag = "2")]
    pub(super) kind: i32,
    #[prost(enumeration = "ToolCallStatus", tag = "3")]
    pub(super) status: i32,
    #[prost(message, optional, tag = "10")]
    pub(super) function: Option<FunctionCall>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct FunctionCall {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// A JSON object.
    #[prost(string, tag = "2")]
    pub(super) arguments: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum ToolCallType {
    Invalid = 0,
    ClientSide = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum ToolCallStatus {
    InProgress = 0,
    Completed = 1,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SearchParameters {
    #[prost(enumeration = "SearchMode", tag = "1")]
    pub(super) mode: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum SearchMode {
    Invalid = 0,
    Off = 1,
    On = 2,
    Auto = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetChatCompletionResponse {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) outputs: Vec<CompletionOutput>,
    #[prost(message, optional, tag = "5")]
    pub(super) created: Option<Timestamp>,
    #[prost(string, tag = "6")]
    pub(super) model: String,
    #[prost(string, tag = "7")]
    pub(super) system_fingerprint: String,
    #[prost(message, optional, tag = "9")]
    pub(super) usage: Option<SamplingUsage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CompletionOutput {
    #[prost(enumeration = "FinishReason", tag = "1")]
    pub(super) finish_reason: i32,
    #[prost(int32, tag = "2")]
    pub(super) index: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) message: Option<Words>,
    #[prost(message, optional, tag = "4")]
    pub(super) logprobs: Option<LogProbs>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetChatCompletionChunk {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) outputs: Vec<CompletionOutputChunk>,
    #[prost(message, optional, tag = "3")]
    pub(super) created: Option<Timestamp>,
    #[prost(string, tag = "4")]
    pub(super) model: String,
    #[prost(string, tag = "5")]
    pub(super) system_fingerprint: String,
    #[prost(message, optional, tag = "6")]
    pub(super) usage: Option<SamplingUsage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CompletionOutputChunk {
    #[prost(message, optional, tag = "1")]
    pub(super) delta: Option<Words>,
    #[prost(message, optional, tag = "2")]
    pub(super) logprobs: Option<LogProbs>,
    #[prost(enumeration = "FinishReason", tag = "3")]
    pub(super) finish_reason: i32,
    #[prost(int32, tag = "4")]
    pub(super) index: i32,
}

/// `CompletionMessage` and `Delta`, which have the same fields.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Words {
    #[prost(string, tag = "1")]
    pub(super) content: String,
    #[prost(enumeration = "MessageRole", tag = "2")]
    pub(super) role: i32,
    #[prost(message, repeated, tag = "3")]
    pub(super) tool_calls: Vec<ToolCall>,
    #[prost(string, tag = "4")]
    pub(super) reasoning_content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum FinishReason {
    Invalid = 0,
    MaxLen = 1,
    MaxContext = 2,
    Stop = 3,
    ToolCalls = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LogProbs {
    #[prost(message, repeated, tag = "1")]
    pub(super) content: Vec<LogProb>,
}

/// `LogProb`; `TopLogProb` is one without alternatives.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LogProb {
    #[prost(string, tag = "1")]
    pub(super) token: String,
    #[prost(float, tag = "2")]
    pub(super) logprob: f32,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) bytes: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub(super) top_logprobs: Vec<LogProb>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SamplingUsage {
    /// Without reasoning.
    #[prost(int32, tag = "1")]
    pub(super) completion_tokens: i32,
    #[prost(int32, tag = "2")]
    pub(super) prompt_tokens: i32,
    #[prost(int32, tag = "3")]
    pub(super) total_tokens: i32,
    #[prost(int32, tag = "4")]
    pub(super) prompt_text_tokens: i32,
    #[prost(int32, tag = "6")]
    pub(super) reasoning_tokens: i32,
    #[prost(int32, tag = "7")]
    pub(super) cached_prompt_text_tokens: i32,
}

/// `StartDeferredResponse` and `GetDeferredRequest`, which have the same field.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DeferredId {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetDeferredCompletionResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) response: Option<GetChatCompletionResponse>,
    #[prost(enumeration = "DeferredStatus", tag = "2")]
    pub(super) status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum DeferredStatus {
    Invalid = 0,
    Done = 1,
    Expired = 2,
    Pending = 3,
    Failed = 4,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct GetModelRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct LanguageModel {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(enumeration = "Modality", repeated, tag = "3")]
    pub(super) input_modalities: Vec<i32>,
    #[prost(enumeration = "Modality", repeated, tag = "4")]
    pub(super) output_modalities: Vec<i32>,
    /// In hundredths of a US cent for a million tokens.
    #[prost(int64, tag = "5")]
    pub(super) prompt_text_token_price: i64,
    #[prost(int64, tag = "7")]
    pub(super) completion_text_token_price: i64,
    #[prost(message, optional, tag = "8")]
    pub(super) created: Option<Timestamp>,
    #[prost(int32, tag = "9")]
    pub(super) max_prompt_length: i32,
    #[prost(string, tag = "10")]
    pub(super) system_fingerprint: String,
    #[prost(int64, tag = "12")]
    pub(super) cached_prompt_token_price: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum Modality {
    Invalid = 0,
    Text = 1,
}

/// Lists of models of other kinds are empty, and so are the same bytes.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ListModelsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) models: Vec<LanguageModel>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TokenizeTextRequest {
    #[prost(string, tag = "1")]
    pub(super) text: String,
    #[prost(string, tag = "2")]
    pub(super) model: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TokenizeTextResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) tokens: Vec<Token>,
    #[prost(string, tag = "2")]
    pub(super) model: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Token {
    #[prost(uint32, tag = "1")]
    pub(super) token_id: u32,
    #[prost(string, tag = "2")]
    pub(super) string_token: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) token_bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ApiKey {
    #[prost(string, tag = "1")]
    pub(super) redacted_api_key: String,
    #[prost(string, tag = "3")]
    pub(super) user_id: String,
    #[prost(string, tag = "4")]
    pub(super) name: String,
    #[prost(message, optional, tag = "5")]
    pub(super) create_time: Option<Timestamp>,
    #[prost(string, tag = "6")]
    pub(super) team_id: String,
    #[prost(string, repeated, tag = "7")]
    pub(super) acls: Vec<String>,
    #[prost(string, tag = "8")]
    pub(super) api_key_id: String,
}
