//! Counters for Prometheus, with the names that vLLM's dashboards use after the prefix.
//!
//! Labels have closed sets of values: models that are offered, routes that exist, statuses. What a
//! client sends never becomes one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rapport_types::{FinishReason, Outcome};

/// Upper bounds of short times, in seconds.
const SHORT_S: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Upper bounds of whole replies, in seconds.
const LONG_S: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Upper bounds of numbers of tokens.
const TOKENS: &[f64] =
    &[1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 50_000.0];

/// Some figures of all models at one time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) running: u64,
    pub(crate) waiting: u64,
    pub(crate) pieces: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Connections that are open.
    pub(crate) connections: AtomicU64,
    models: Mutex<BTreeMap<String, Arc<ModelMetrics>>>,
    /// By method, route and status.
    requests: Mutex<BTreeMap<(&'static str, String, u16), u64>>,
}

/// What is counted of one model.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
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
    reasoning_tokens: AtomicU64,
    embedded_tokens: AtomicU64,
    stopped: AtomicU64,
    cut: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    first_token: Histogram,
    per_token: Histogram,
    prefill: Histogram,
    decode: Histogram,
    whole: Histogram,
    prompt_sizes: Histogram,
    generation_sizes: Histogram,
}

/// One of a model's histograms.
type HistogramOf = fn(&ModelMetrics) -> &Histogram;

/// Observations in buckets.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    /// One for each bound: what is no larger.
    buckets: Vec<AtomicU64>,
    count: AtomicU64,
    /// In millionths.
    sum_micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let buckets = bounds.iter().map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, count: AtomicU64::new(0), sum_micros: AtomicU64::new(0) }
    }

    fn observe(&self, value: f64) {
        for (bound, bucket) in self.bounds.iter().zip(&self.buckets) {
            if value <= *bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.sum_micros.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for ModelMetrics {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            running: zero(),
            waiting: zero(),
            pieces: zero(),
            begun_prompt_tokens: zero(),
            begun_cached_tokens: zero(),
            prompt_tokens: zero(),
            cached_tokens: zero(),
            generation_tokens: zero(),
            reasoning_tokens: zero(),
            embedded_tokens: zero(),
            stopped: zero(),
            cut: zero(),
            cancelled: zero(),
            failed: zero(),
            first_token: Histogram::new(SHORT_S),
            per_token: Histogram::new(SHORT_S),
            prefill: Histogram::new(SHORT_S),
            decode: Histogram::new(LONG_S),
            whole: Histogram::new(LONG_S),
            prompt_sizes: Histogram::new(TOKENS),
            generation_sizes: Histogram::new(TOKENS),
        }
    }
}

impl ModelMetrics {
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

    /// Tokens were read for embeddings.
    pub(crate) fn embed(&self, n_tokens: u32) {
        self.embedded_tokens.fetch_add(u64::from(n_tokens), Ordering::Relaxed);
        self.prompt_tokens.fetch_add(u64::from(n_tokens), Ordering::Relaxed);
    }

    /// A reply ended after so long; `None` is one that failed.
    pub(crate) fn end(&self, outcome: Option<&Outcome>, took: Duration) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        let Some(outcome) = outcome else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let add = |counter: &AtomicU64, n: u32| counter.fetch_add(u64::from(n), Ordering::Relaxed);
        let (usage, timings) = (outcome.usage, outcome.timings);
        let n_written = usage.completion_tokens + usage.reasoning_tokens;
        add(&self.prompt_tokens, usage.prompt_tokens);
        add(&self.cached_tokens, usage.cached_tokens);
        add(&self.generation_tokens, n_written);
        add(&self.reasoning_tokens, usage.reasoning_tokens);
        let ended = match outcome.reason {
            FinishReason::Stop => &self.stopped,
            FinishReason::Length => &self.cut,
            FinishReason::Cancelled => &self.cancelled,
        };
        ended.fetch_add(1, Ordering::Relaxed);
        self.first_token.observe(timings.first_token_ms / 1e3);
        self.prefill.observe(timings.prompt_ms / 1e3);
        self.decode.observe(timings.decode_ms / 1e3);
        self.whole.observe(took.as_secs_f64());
        self.prompt_sizes.observe(f64::from(usage.prompt_tokens));
        self.generation_sizes.observe(f64::from(n_written));
        if n_written > 1 {
            self.per_token.observe(timings.decode_ms / 1e3 / f64::from(n_written - 1));
        }
    }
}

impl Metrics {
    /// The counters of a model that is offered.
    pub(crate) fn of(&self, model: &str) -> Arc<ModelMetrics> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = models.get(model) {
            return Arc::clone(known);
        }
        Arc::clone(models.entry(model.to_owned()).or_default())
    }

    /// A request was answered.
    pub(crate) fn answered(&self, method: &'static str, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((method, route.to_owned(), status)).or_default() += 1;
    }

    fn models(&self) -> Vec<(String, Arc<ModelMetrics>)> {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.iter().map(|(name, model)| (name.clone(), Arc::clone(model))).collect()
    }

    /// The figures that are looked at while they change.
    pub(crate) fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.models().iter().fold(Totals::default(), |sum, (_, model)| Totals {
            running: sum.running + read(&model.running),
            waiting: sum.waiting + read(&model.waiting),
            pieces: sum.pieces + read(&model.pieces),
            prompt_tokens: sum.prompt_tokens + read(&model.begun_prompt_tokens),
            cached_tokens: sum.cached_tokens + read(&model.begun_cached_tokens),
        })
    }

    pub(crate) fn text(&self, n_dropped_spans: Option<u64>) -> String {
        let models = self.models();
        let mut text = String::new();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut each = |name: &str, kind: &str, of: fn(&ModelMetrics) -> &AtomicU64| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# TYPE rapport:{name} {kind}");
            for (model, counters) in &models {
                let labels = format!("{{model_name=\"{}\"}}", escaped(model));
                let _ = writeln!(text, "rapport:{name}{labels} {}", read(of(counters)));
            }
        };
        each("num_requests_running", "gauge", |model| &model.running);
        each("num_requests_waiting", "gauge", |model| &model.waiting);
        each("prompt_tokens_total", "counter", |model| &model.prompt_tokens);
        each("generation_tokens_total", "counter", |model| &model.generation_tokens);
        each("reasoning_tokens_total", "counter", |model| &model.reasoning_tokens);
        each("embedding_tokens_total", "counter", |model| &model.embedded_tokens);
        each("prefix_cache_queries_total", "counter", |model| &model.prompt_tokens);
        each("prefix_cache_hits_total", "counter", |model| &model.cached_tokens);
        let _ = writeln!(text, "# TYPE rapport:request_success_total counter");
        for (model, counters) in &models {
            for (reason, counter) in [
                ("stop", &counters.stopped),
                ("length", &counters.cut),
                ("abort", &counters.cancelled),
                ("error", &counters.failed),
            ] {
                let model = escaped(model);
                let labels = format!("{{model_name=\"{model}\",finished_reason=\"{reason}\"}}");
                let _ = writeln!(text, "rapport:request_success_total{labels} {}", read(counter));
            }
        }
        let histograms: [(&str, HistogramOf); 7] = [
            ("time_to_first_token_seconds", |model| &model.first_token),
            ("request_time_per_output_token_seconds", |model| &model.per_token),
            ("request_prefill_time_seconds", |model| &model.prefill),
            ("request_decode_time_seconds", |model| &model.decode),
            ("e2e_request_latency_seconds", |model| &model.whole),
            ("request_prompt_tokens", |model| &model.prompt_sizes),
            ("request_generation_tokens", |model| &model.generation_sizes),
        ];
        for (name, of) in histograms {
            let _ = writeln!(text, "# TYPE rapport:{name} histogram");
            for (model, counters) in &models {
                write_histogram(&mut text, name, &escaped(model), of(counters));
            }
        }
        let _ = writeln!(text, "# TYPE rapport:http_connections gauge");
        let _ = writeln!(text, "rapport:http_connections {}", read(&self.connections));
        let _ = writeln!(text, "# TYPE rapport:http_requests_total counter");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((method, route, status), count) in &*requests {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            let _ = writeln!(text, "rapport:http_requests_total{{{labels}}} {count}");
        }
        if let Some(n_dropped) = n_dropped_spans {
            let _ = writeln!(text, "# TYPE rapport:otlp_spans_dropped_total counter");
            let _ = writeln!(text, "rapport:otlp_spans_dropped_total {n_dropped}");
        }
        text
    }
}

fn write_histogram(text: &mut String, name: &str, model: &str, histogram: &Histogram) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let model = format!("model_name=\"{model}\"");
    for (bound, bucket) in histogram.bounds.iter().zip(&histogram.buckets) {
        let _ = writeln!(text, "rapport:{name}_bucket{{{model},le=\"{bound}\"}} {}", read(bucket));
    }
    let count = read(&histogram.count);
    let _ = writeln!(text, "rapport:{name}_bucket{{{model},le=\"+Inf\"}} {count}");
    let sum = read(&histogram.sum_micros) as f64 / 1e6;
    let _ = writeln!(text, "rapport:{name}_sum{{{model}}} {sum}");
    let _ = writeln!(text, "rapport:{name}_count{{{model}}} {count}");
}

/// As a label's value has to be.
pub(crate) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_counts_what_is_no_larger() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        let mut text = String::new();
        write_histogram(&mut text, "x", "m", &histogram);
        let lines: Vec<&str> = text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(lines, ["2", "3", "4", "12", "4"]);
    }
}
