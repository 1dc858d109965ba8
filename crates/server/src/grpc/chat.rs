//! `xai_api.Chat`.

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use rapport_types::{Caller, Event, TokenLogprob, Usage};

use super::frames::{self, Asked, Told};
use super::wire::{
    CompletionOutput, CompletionOutputChunk, DeferredId, DeferredStatus, FinishReason,
    FunctionCall, GetChatCompletionChunk, GetChatCompletionResponse, GetCompletionsRequest,
    GetDeferredCompletionResponse, LogProb, LogProbs, MessageRole, SamplingUsage, Timestamp,
    ToolCall, ToolCallStatus, ToolCallType, Words,
};
use crate::answer::{Answer, all_of, total};
use crate::error::ApiError;
use crate::replies::{Replies, fresh_id, unix_seconds};
use crate::stored::DeferredState;
use crate::{App, charge, models};

/// What every part of an answer begins with.
struct Head {
    id: String,
    created: Timestamp,
    model: String,
    build: String,
}

async fn begin(
    app: &App,
    caller: Caller,
    request: &GetCompletionsRequest,
) -> Result<(Replies, Head), ApiError> {
    let model = models::find(app, &request.model)?;
    let requests = request.requests(&model, caller)?;
    let build = model.info.build.to_string();
    let replies = Replies::start(app, &model.generate, requests).await?;
    let created = Timestamp { seconds: unix_seconds().cast_signed(), nanos: 0 };
    Ok((replies, Head { id: fresh_id("chatcmpl-"), created, model: request.model.clone(), build }))
}

pub(super) async fn get_completion(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Asked(request): Asked<GetCompletionsRequest>,
) -> Result<Response, ApiError> {
    let (replies, head) = begin(&app, caller, &request).await?;
    Ok(Told(whole(replies, head).await?).into_response())
}

pub(super) async fn get_completion_chunk(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Asked(request): Asked<GetCompletionsRequest>,
) -> Result<Response, ApiError> {
    let (replies, head) = begin(&app, caller, &request).await?;
    let chunks = Some(Chunks { replies, head, answers: Vec::new() });
    Ok(frames::streamed(stream::unfold(chunks, |chunks| async move {
        let mut chunks = chunks?;
        let (reply_idx, event) = chunks.replies.next().await?;
        let chunk = chunks.chunk(reply_idx, event);
        let is_over = chunk.is_err();
        Some((chunk, (!is_over).then_some(chunks)))
    })))
}

/// Makes the reply while nobody waits.
pub(super) async fn start_deferred_completion(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Asked(request): Asked<GetCompletionsRequest>,
) -> Result<Response, ApiError> {
    let (replies, head) = begin(&app, caller, &request).await?;
    let promise = app.deferred_calls.begin(app.accounts.as_ref(), charge::owner()).await?;
    let id = promise.id.clone();
    tokio::spawn(async move {
        app.deferred_calls.keep(promise, whole(replies, head)).await;
    });
    Ok(Told(DeferredId { request_id: id }).into_response())
}

/// Its status, and the completion once.
pub(super) async fn get_deferred_completion(
    State(app): State<App>,
    Asked(DeferredId { request_id }): Asked<DeferredId>,
) -> Result<Response, ApiError> {
    let found = app.deferred_calls.read(app.accounts.as_ref(), charge::owner(), &request_id);
    let (status, response) = match found.await? {
        DeferredState::Unknown => return Err(ApiError::no_such_deferred(&request_id)),
        DeferredState::Pending => (DeferredStatus::Pending, None),
        DeferredState::Done(outcome) => (DeferredStatus::Done, Some(outcome?)),
    };
    Ok(Told(GetDeferredCompletionResponse { response, status: status.into() }).into_response())
}

async fn whole(replies: Replies, head: Head) -> Result<GetChatCompletionResponse, ApiError> {
    let answers = all_of(replies).await?;
    let outputs = answers.iter().enumerate().map(|(reply_idx, answer)| CompletionOutput {
        finish_reason: finish_reason(answer).into(),
        index: reply_idx as i32,
        message: Some(Words {
            content: answer.text.clone(),
            role: MessageRole::Assistant.into(),
            tool_calls: answer.calls.iter().map(tool_call).collect(),
            reasoning_content: answer.thought.clone(),
        }),
        logprobs: logprobs(&answer.logprobs),
    });
    Ok(GetChatCompletionResponse {
        id: head.id,
        outputs: outputs.collect(),
        created: Some(head.created),
        model: head.model,
        system_fingerprint: head.build,
        usage: Some(usage(total(&answers))),
    })
}

/// Replies on their way. Clients keep the usage and the reason of the last chunk.
struct Chunks {
    replies: Replies,
    head: Head,
    answers: Vec<Answer>,
}

impl Chunks {
    fn chunk(
        &mut self,
        reply_idx: usize,
        event: Event,
    ) -> Result<GetChatCompletionChunk, ApiError> {
        if self.answers.len() <= reply_idx {
            self.answers.resize_with(reply_idx + 1, Answer::default);
        }
        // Clients read only what the assistant says, and look at the role of every delta.
        let mut delta = Words { role: MessageRole::Assistant.into(), ..Words::default() };
        let mut tokens = None;
        match &event {
            Event::Thought(piece) => delta.reasoning_content.clone_from(piece),
            Event::Text { text, logprobs: of_text } => {
                delta.content.clone_from(text);
                tokens = logprobs(of_text);
            }
            Event::ToolCall(call) => delta.tool_calls.push(tool_call(call)),
            Event::Started { .. } | Event::Finished(_) | Event::Failed(_) => {}
        }
        let answer = &mut self.answers[reply_idx];
        answer.take(event)?;
        let finish_reason =
            answer.outcome.as_ref().map_or(FinishReason::Invalid, |_| finish_reason(answer));
        let output = CompletionOutputChunk {
            delta: Some(delta),
            logprobs: tokens,
            finish_reason: finish_reason.into(),
            index: reply_idx as i32,
        };
        Ok(GetChatCompletionChunk {
            id: self.head.id.clone(),
            outputs: vec![output],
            created: Some(self.head.created),
            model: self.head.model.clone(),
            system_fingerprint: self.head.build.clone(),
            usage: Some(usage(total(&self.answers))),
        })
    }
}

fn finish_reason(answer: &Answer) -> FinishReason {
    if answer.is_cut() {
        FinishReason::MaxLen
    } else if answer.calls.is_empty() {
        FinishReason::Stop
    } else {
        FinishReason::ToolCalls
    }
}

fn tool_call(call: &rapport_types::ToolCall) -> ToolCall {
    let rapport_types::ToolCall { id, name, arguments } = call.clone();
    ToolCall {
        id,
        kind: ToolCallType::ClientSide.into(),
        // Its client carries it out.
        status: ToolCallStatus::InProgress.into(),
        function: Some(FunctionCall { name, arguments }),
    }
}

fn logprobs(tokens: &[TokenLogprob]) -> Option<LogProbs> {
    let one = |bytes: &[u8], logprob: f32| LogProb {
        token: String::from_utf8_lossy(bytes).into_owned(),
        logprob,
        bytes: bytes.to_vec(),
        top_logprobs: Vec::new(),
    };
    let content = tokens.iter().map(|token| LogProb {
        top_logprobs: token.top.iter().map(|top| one(&top.bytes, top.logprob)).collect(),
        ..one(&token.bytes, token.logprob)
    });
    (!tokens.is_empty()).then(|| LogProbs { content: content.collect() })
}

/// Here reasoning is beside the completion, not within it.
fn usage(usage: Usage) -> SamplingUsage {
    let [prompt_tokens, completion_tokens, reasoning_tokens] =
        [usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens]
            .map(|tokens| tokens as i32);
    SamplingUsage {
        completion_tokens,
        prompt_tokens,
        total_tokens: prompt_tokens + completion_tokens + reasoning_tokens,
        prompt_text_tokens: prompt_tokens,
        reasoning_tokens,
        cached_prompt_text_tokens: usage.cached_tokens as i32,
    }
}
