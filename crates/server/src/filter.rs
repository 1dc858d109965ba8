//! The input filter: what is asked is judged before a model answers, and what is refused is recorded.
//!
//! There is a slot for one classifier, empty unless whoever runs the server gives a trained one. A
//! refusal leaves behind its category, its probability and the classifier's version: in the log, in
//! `/metrics`, and in the store's stream [`STREAM`]. What was asked is nowhere in it.
//!
//! What is not here: classifiers, and help for people in danger, whom [`crate::ReadMessages`] finds.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rapport_store::{EventId, NewEvent, UserId};
use rapport_types::{GenerateError, Request, Role};
use serde_json::json;
use tokio::runtime::Handle;

use crate::Shared;
use crate::observe::Observed;

/// The store's events of refusals.
const STREAM: &str = "input_filter";

/// Judges what people ask. It must not have danger to the person who asks as a category: whoever may
/// be in danger is helped, not refused.
pub trait InputFilter: Debug + Send + Sync {
    /// Changes with what it has learned.
    fn version(&self) -> &str;

    /// What speaks against answering a text.
    fn judge(&self, text: &str) -> Option<Finding>;
}

/// Why a text is not answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// A word that people are told.
    pub category: String,
    pub probability: f32,
}

/// The place of a filter, and what it has said so far.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) filter: Option<Arc<dyn InputFilter>>,
    n_passed: AtomicU64,
    n_refused: Mutex<BTreeMap<String, u64>>,
}

impl Slot {
    /// Lines of `/metrics`; none where there is no filter.
    pub(crate) fn write_metrics(&self, text: &mut String) {
        if self.filter.is_none() {
            return;
        }
        let name = "rapport:input_filter_requests_total";
        let n_passed = self.n_passed.load(Ordering::Relaxed);
        // Writing to a string does not fail.
        let _ = writeln!(text, "# TYPE {name} counter\n{name}{{verdict=\"passed\"}} {n_passed}");
        let n_refused = self.n_refused.lock().unwrap_or_else(PoisonError::into_inner);
        for (category, n) in &*n_refused {
            let labels =
                format!("verdict=\"refused\",category=\"{}\"", crate::metrics::escaped(category));
            let _ = writeln!(text, "{name}{{{labels}}} {n}");
        }
    }
}

/// Judges a request, in a thread that may wait. All that people and tools say in it counts, whatever
/// a client claims was answered to it before; the system message is the operator's.
///
/// # Errors
/// [`GenerateError::Filtered`], once it is recorded.
pub(crate) fn check(
    app: &Shared,
    request: &Request,
    user: Option<UserId>,
    observed: Option<&Observed>,
) -> Result<(), GenerateError> {
    let Some(filter) = &app.filter.filter else { return Ok(()) };
    let mut asked = request
        .messages
        .iter()
        .filter(|message| matches!(message.role, Role::User | Role::Tool))
        .map(|message| message.content.as_str());
    let Some(finding) = asked.find_map(|text| filter.judge(text)) else {
        app.filter.n_passed.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    let Finding { category, probability } = finding;
    {
        let mut n_refused = app.filter.n_refused.lock().unwrap_or_else(PoisonError::into_inner);
        *n_refused.entry(category.clone()).or_default() += 1;
    }
    let version = filter.version();
    if let Some(observed) = observed {
        observed.refused(&category, probability, version);
    }
    if let Some(accounts) = &app.accounts {
        let now = accounts.now();
        let body = json!({ "category": category, "probability": probability, "filter": version });
        let event = NewEvent {
            id: EventId::new(now),
            stream: STREAM,
            kind: "refused",
            user,
            once_key: None,
            body: &body,
        };
        // One that cannot be recorded is refused all the same.
        let _ = Handle::current().block_on(accounts.store.append_event(event, now));
    }
    Err(GenerateError::Filtered { category })
}
