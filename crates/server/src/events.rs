//! Server-sent events: replies while they are made.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use rapport_types::Event;
use serde_json::Value;

use crate::replies::Replies;

/// One event on the wire.
#[derive(Debug)]
pub(crate) struct Frame {
    name: Option<&'static str>,
    data: String,
}

impl Frame {
    pub(crate) fn data(data: &Value) -> Self {
        Self { name: None, data: data.to_string() }
    }

    pub(crate) fn named(name: &'static str, data: &Value) -> Self {
        Self { name: Some(name), data: data.to_string() }
    }

    /// How streams of OpenAI's older protocols end.
    pub(crate) fn done() -> Self {
        Self { name: None, data: "[DONE]".to_owned() }
    }
}

/// A protocol's words for what happens to replies.
pub(crate) trait Wording: Send + 'static {
    /// The words for one event. After a failure nothing more is asked for.
    fn take(&mut self, reply_idx: usize, event: Event) -> impl Future<Output = Vec<Frame>> + Send;

    /// The words after the last event of all.
    fn end(&mut self) -> Vec<Frame>;
}

struct Streaming<W> {
    replies: Replies,
    words: W,
    ready: VecDeque<Frame>,
    is_over: bool,
}

impl<W: Wording> Streaming<W> {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            if let Some((reply_idx, event)) = self.replies.next().await {
                // What was sent is no answer: the client is told so, and nothing follows.
                self.is_over = matches!(event, Event::Failed(_));
                self.ready.extend(self.words.take(reply_idx, event).await);
            } else {
                self.is_over = true;
                self.ready.extend(self.words.end());
            }
        }
    }
}

/// Streams replies. A client that goes away drops the stream, and so ends them.
pub(crate) fn stream(replies: Replies, words: impl Wording) -> Response {
    let state = Streaming { replies, words, ready: VecDeque::new(), is_over: false };
    let frames = stream::unfold(state, |mut state| async move {
        let Frame { name, data } = state.next().await?;
        let event = SseEvent::default().data(data);
        let event = match name {
            Some(name) => event.event(name),
            None => event,
        };
        Some((Ok::<_, Infallible>(event), state))
    });
    let unbuffered =
        [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    (unbuffered, Sse::new(frames).keep_alive(KeepAlive::default())).into_response()
}
