//! Counters for Prometheus, with the names that vLLM's dashboards use after the prefix.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use rapport_types::{FinishReason, Outcome};

/// Upper bounds of the time to the first token, in milliseconds.
const FIRST_TOKEN_MS: [u64; 8] = [10, 50, 100, 250, 500, 1_000, 2_500, 10_000];

/// Some figures at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) running: u64,
    pub(crate) waiting: u64,
    pub(crate) pieces: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    running: AtomicU64,
    /// Of these, the ones whose prompt was not taken up yet.
    waiting: AtomicU64,
    /// Pieces of text that replies were told in, which are about tokens.
    pieces: AtomicU64,
    /// Of prompts that were taken up, whether or not their replies have ended.
    begun_prompt_tokens: AtomicU64,
    begun_cached_tokens: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    stopped: AtomicU64,
    cut: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    first_token: [AtomicU64; FIRST_TOKEN_MS.len()],
    first_token_sum_us: AtomicU64,
    first_token_count: AtomicU64,
}

impl Metrics {
    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A prompt was taken up.
    pub(crate) fn take_up(&self, prompt_tokens: u32, cached_tokens: u32) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.begun_prompt_tokens.fetch_add(u64::from(prompt_tokens), Ordering::Relaxed);
        self.begun_cached_tokens.fetch_add(u64::from(cached_tokens), Ordering::Relaxed);
    }

    /// A reply has ended whose prompt was never taken up.
    pub(crate) fn give_up(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn piece(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures that are looked at while they change.
    pub(crate) fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            running: read(&self.running),
            waiting: read(&self.waiting),
            pieces: read(&self.pieces),
            prompt_tokens: read(&self.begun_prompt_tokens),
            cached_tokens: read(&self.begun_cached_tokens),
        }
    }

    /// A reply ended; `None` is one that failed.
    pub(crate) fn end(&self, outcome: Option<&Outcome>) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        let Some(outcome) = outcome else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let add = |counter: &AtomicU64, n: u32| counter.fetch_add(u64::from(n), Ordering::Relaxed);
        let usage = outcome.usage;
        add(&self.prompt_tokens, usage.prompt_tokens);
        add(&self.cached_tokens, usage.cached_tokens);
        add(&self.generation_tokens, usage.completion_tokens + usage.reasoning_tokens);
        let ended = match outcome.reason {
            FinishReason::Stop => &self.stopped,
            FinishReason::Length => &self.cut,
            FinishReason::Cancelled => &self.cancelled,
        };
        ended.fetch_add(1, Ordering::Relaxed);
        let waited_ms = outcome.timings.first_token_ms;
        for (bound, bucket) in FIRST_TOKEN_MS.iter().zip(&self.first_token) {
            if waited_ms <= *bound as f64 {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.first_token_sum_us.fetch_add((waited_ms * 1e3) as u64, Ordering::Relaxed);
        self.first_token_count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn text(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = String::new();
        // Writing to a string does not fail.
        let mut family = |name: &str, kind: &str, lines: &[(String, String)]| {
            let _ = writeln!(text, "# TYPE rapport:{name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(text, "rapport:{name}{labels} {value}");
            }
        };
        let one = |counter: &AtomicU64| [(String::new(), read(counter).to_string())];
        family("num_requests_running", "gauge", &one(&self.running));
        family("num_requests_waiting", "gauge", &one(&self.waiting));
        family("prompt_tokens_total", "counter", &one(&self.prompt_tokens));
        family("prefix_cache_hits_total", "counter", &one(&self.cached_tokens));
        family("generation_tokens_total", "counter", &one(&self.generation_tokens));
        let ended = [
            ("stop", &self.stopped),
            ("length", &self.cut),
            ("abort", &self.cancelled),
            ("error", &self.failed),
        ];
        let ended = ended.map(|(reason, counter)| {
            (format!("{{finished_reason=\"{reason}\"}}"), read(counter).to_string())
        });
        family("request_success_total", "counter", &ended);
        let _ = writeln!(text, "# TYPE rapport:time_to_first_token_seconds histogram");
        let name = "rapport:time_to_first_token_seconds";
        for (bound, bucket) in FIRST_TOKEN_MS.iter().zip(&self.first_token) {
            let seconds = *bound as f64 / 1e3;
            let _ = writeln!(text, "{name}_bucket{{le=\"{seconds}\"}} {}", read(bucket));
        }
        let count = read(&self.first_token_count);
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum {}", read(&self.first_token_sum_us) as f64 / 1e6);
        let _ = writeln!(text, "{name}_count {count}");
        text
    }
}
