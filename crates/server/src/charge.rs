//! Who pays: plans, and what each reply may use and has used.
//!
//! A reply that belongs to an account sets aside what it can use at most before it starts
//! ([`Hold::take`]), and at its end is charged once for what it used ([`Hold::settle`]); one that
//! fails is given back. The person at this machine and the server's own key pay nothing.
//!
//! What is not here: sums and locks (the store has those).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rapport_store::{
    ApiKeyId, ApiKeyState, Charge, Estimate, Finished, Limit, Limits, NewMessage, Price, ReplyId,
    ReservationId, Reserved, Store, UnixMs, User, UserId,
};
use rapport_types::{
    Caller, Control, Event, Generate, GenerateError, Mode, Outcome, Request, ThinkingBudget, Usage,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::App;
use crate::error::ApiError;
use crate::web::{Accounts, now};

/// What an account may use and what it costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub name: String,
    /// Requests in a day (UTC); absent is without limit, as below.
    #[serde(default)]
    pub requests_a_day: Option<u64>,
    /// Of prompt, answer and thought together.
    #[serde(default)]
    pub tokens_a_day: Option<u64>,
    #[serde(default)]
    pub thinking_tokens_a_day: Option<u64>,
    /// Replies at once.
    #[serde(default)]
    pub concurrent_replies: Option<u64>,
    /// Higher goes first when there is a queue.
    #[serde(default)]
    pub priority: i8,
    #[serde(default)]
    pub prices: Prices,
}

/// Millionths of a dollar for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    pub prompt_microdollars: u64,
    pub cached_microdollars: u64,
    pub completion_microdollars: u64,
}

/// Plans by their id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Plans(pub BTreeMap<String, Plan>);

impl Default for Plans {
    /// Free, premium, per token at $5 a million (cached input at a quarter of that), and unlimited.
    fn default() -> Self {
        let free = Plan {
            name: "Free".to_owned(),
            requests_a_day: Some(200),
            tokens_a_day: Some(200_000),
            thinking_tokens_a_day: Some(20_000),
            concurrent_replies: Some(2),
            priority: 0,
            prices: Prices::default(),
        };
        let premium = Plan {
            name: "Premium".to_owned(),
            requests_a_day: Some(2_000),
            tokens_a_day: Some(4_000_000),
            thinking_tokens_a_day: Some(1_000_000),
            concurrent_replies: Some(4),
            priority: 1,
            ..free.clone()
        };
        let unlimited = Plan {
            name: "Unlimited".to_owned(),
            requests_a_day: None,
            tokens_a_day: None,
            thinking_tokens_a_day: None,
            concurrent_replies: None,
            ..free.clone()
        };
        let prices = Prices {
            prompt_microdollars: 5_000_000,
            cached_microdollars: 1_250_000,
            completion_microdollars: 5_000_000,
        };
        let metered = Plan { name: "Per token".to_owned(), prices, ..unlimited.clone() };
        let named =
            [("free", free), ("premium", premium), ("metered", metered), ("unlimited", unlimited)];
        Self(named.map(|(id, plan)| (id.to_owned(), plan)).into())
    }
}

impl Plans {
    /// The plan of this id; one that is no longer there is as the smallest: the first that has
    /// limits, or the first.
    pub(crate) fn get(&self, id: &str) -> Plan {
        let limited = || self.0.values().find(|plan| plan.limits() != Limits::default());
        let found = self.0.get(id).or_else(limited).or_else(|| self.0.values().next());
        found.cloned().unwrap_or_else(|| Plan {
            name: id.to_owned(),
            requests_a_day: None,
            tokens_a_day: None,
            thinking_tokens_a_day: None,
            concurrent_replies: None,
            priority: 0,
            prices: Prices::default(),
        })
    }
}

impl Plan {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            requests: self.requests_a_day,
            tokens: self.tokens_a_day,
            thinking_tokens: self.thinking_tokens_a_day,
            concurrent: self.concurrent_replies,
        }
    }

    pub(crate) fn cost_micros(&self, usage: &Usage) -> u64 {
        let price = Price {
            prompt_micros: self.prices.prompt_microdollars,
            cached_micros: self.prices.cached_microdollars,
            completion_micros: self.prices.completion_microdollars,
        };
        price.cost_micros(usage)
    }
}

/// The account that stands behind a request.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) user: UserId,
    pub(crate) api_key: Option<ApiKeyId>,
    pub(crate) plan_id: String,
    pub(crate) plan: Plan,
    pub(crate) caller: Caller,
}

impl Holder {
    pub(crate) fn of(accounts: &Accounts, user: &User, api_key: Option<ApiKeyId>) -> Self {
        let plan = accounts.plans.get(&user.plan);
        let key = Sha256::new()
            .chain_update(accounts.secret)
            .chain_update("caller")
            .chain_update(user.id.to_string())
            .finalize()
            .into();
        let caller = Caller { key, priority: plan.priority };
        Self { user: user.id, api_key, plan_id: user.plan.clone(), plan, caller }
    }
}

tokio::task_local! {
    /// Who asked for what this task does.
    static HOLDER: Holder;
}

/// Runs something for an account: the replies that it starts are the account's.
pub(crate) async fn for_holder<T>(holder: Holder, work: impl Future<Output = T>) -> T {
    HOLDER.scope(holder, work).await
}

/// What every key opens: `api` all of the protocols, `read` what only reads.
pub(crate) const SCOPES: [&str; 2] = ["api", "read"];
/// When a key or person was last seen is good to a minute.
pub(crate) const SEEN_STEP_MS: i64 = 60_000;

/// Whose key this is; `None` for one that opens nothing.
pub(crate) async fn holder(
    accounts: &Accounts,
    secret: &str,
    is_reading: bool,
) -> Result<Option<Holder>, ApiError> {
    let busy = |_| ApiError::store_busy();
    let now = now();
    let Some(key) = accounts.store.api_key_by_secret(secret, now).await.map_err(busy)? else {
        return Ok(None);
    };
    let has = |scope: &str| key.scopes.iter().any(|known| known == scope);
    let is_enough = has("api") || (is_reading && has("read"));
    if !is_enough {
        return Err(ApiError::closed_to_key(if is_reading { "read" } else { "api" }));
    }
    let user = accounts.store.user(key.user).await.map_err(busy)?;
    if key.last_used_at.is_none_or(|at| at.plus_ms(SEEN_STEP_MS) < now) {
        let store = Arc::clone(&accounts.store);
        tokio::spawn(async move {
            // It is a note beside the answer.
            let _ = store.touch_api_key(key.id, now).await;
            let _ = store.touch_user(key.user, now).await;
        });
    }
    Ok(Some(Holder::of(accounts, &user, Some(key.id))))
}

/// Says in headers what is left of a plan today, in OpenAI's words.
pub(crate) async fn tell_limits(accounts: &Accounts, holder: &Holder, headers: &mut HeaderMap) {
    let limits = holder.plan.limits();
    if limits.requests.is_none() && limits.tokens.is_none() {
        return;
    }
    let now = now();
    let Ok(meter) = accounts.store.meter(holder.user, now).await else { return };
    let resets_s = (meter.resets_at.0 - now.0).max(0) / 1000;
    let kinds = [
        ("requests", limits.requests, meter.requests + meter.reserved_requests),
        ("tokens", limits.tokens, meter.tokens + meter.reserved_tokens),
    ];
    for (kind, limit, used) in kinds {
        let Some(limit) = limit else { continue };
        let values = [
            ("limit", limit.to_string()),
            ("remaining", limit.saturating_sub(used).to_string()),
            ("reset", format!("{resets_s}s")),
        ];
        for (name, value) in values {
            let name = HeaderName::try_from(format!("x-ratelimit-{name}-{kind}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
    }
}

/// How long something set aside is held without being heard of again.
const HOLD_MS: i64 = 120_000;
const EXTEND_EVERY: u32 = 15;
/// How often it is looked whether a key is still good while its reply is made.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Writes are tried this often before a reply counts as failed.
const MAX_TRIES: u32 = 6;

/// Why nothing was set aside.
#[derive(Debug)]
pub(crate) enum Refused {
    Limit { limit: Limit, allowed: u64, used: u64, retry_after_ms: u64, plan: String },
    Store(rapport_store::Error),
    Generate(GenerateError),
}

impl Refused {
    /// What to tell the person.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Limit { limit, allowed, plan, .. } => {
                let what = match limit {
                    Limit::Requests => "requests a day",
                    Limit::Tokens => "tokens a day",
                    Limit::ThinkingTokens => "thinking tokens a day",
                    Limit::Concurrent => "replies at once",
                };
                let advice = match limit {
                    Limit::Concurrent => "wait until one has ended",
                    Limit::ThinkingTokens => "ask in fast mode, or wait until midnight UTC",
                    _ => "wait until midnight UTC, or ask for another plan",
                };
                format!("the plan {plan} allows {allowed} {what}, and this would be more: {advice}")
            }
            Self::Store(error) => error.to_string(),
            Self::Generate(error) => error.to_string(),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match &refused {
            Refused::Limit { retry_after_ms, .. } => {
                Self::limited(refused.message(), retry_after_ms.div_ceil(1000).max(1))
            }
            Refused::Store(_) => Self::store_busy(),
            Refused::Generate(error) => error.clone().into(),
        }
    }
}

/// What is set aside for one reply, and will be charged.
#[derive(Debug)]
pub(crate) struct Hold {
    store: Arc<Store>,
    holder: Holder,
    model: String,
    reply: ReplyId,
    reservation: Option<ReservationId>,
    runtime: Handle,
    is_settled: bool,
    /// Tells its keeper, by going, that there is nothing to keep.
    kept: Option<oneshot::Sender<()>>,
}

/// Sets aside what the replies of whoever asks can use, if that is an account.
pub(crate) async fn hold(
    app: &App,
    generate: &Arc<dyn Generate>,
    requests: Vec<Request>,
) -> Result<Vec<(Request, Option<Hold>)>, ApiError> {
    let holder = HOLDER.try_with(Clone::clone).ok();
    let mut held = Vec::with_capacity(requests.len());
    for mut request in requests {
        let hold = match (&app.accounts, &holder) {
            (Some(accounts), Some(holder)) => {
                Some(Hold::take(accounts, holder, generate, &mut request).await?)
            }
            _ => None,
        };
        held.push((request, hold));
    }
    Ok(held)
}

impl Hold {
    /// Sets aside what a reply can use. One whose mode is free to choose does not think where the
    /// plan has no thinking tokens left.
    pub(crate) async fn take(
        accounts: &Accounts,
        holder: &Holder,
        generate: &Arc<dyn Generate>,
        request: &mut Request,
    ) -> Result<Self, Refused> {
        let limits = holder.plan.limits();
        let at = now();
        let mut hold = Self {
            store: Arc::clone(&accounts.store),
            holder: holder.clone(),
            model: generate.model().name,
            reply: ReplyId::new(at),
            reservation: None,
            runtime: Handle::current(),
            is_settled: false,
            kept: None,
        };
        if limits == Limits::default() {
            return Ok(hold);
        }
        let needs_count = limits.tokens.is_some();
        let prompt_tokens = if needs_count { count_prompt(generate, request).await? } else { 0 };
        let context_tokens = generate.model().context_tokens;
        loop {
            let estimate = estimate(request, prompt_tokens, context_tokens);
            let expires_at = at.plus_ms(HOLD_MS);
            let reserved = accounts.store.reserve(holder.user, estimate, &limits, at, expires_at);
            match reserved.await.map_err(Refused::Store)? {
                Reserved::Granted(reservation) => {
                    hold.reservation = Some(reservation.id);
                    return Ok(hold);
                }
                Reserved::Denied { limit: Limit::ThinkingTokens, .. }
                    if request.mode == Mode::Auto =>
                {
                    request.mode = Mode::Fast;
                }
                Reserved::Denied { limit, allowed, used, retry_after_ms } => {
                    hold.is_settled = true;
                    let plan = holder.plan.name.clone();
                    return Err(Refused::Limit { limit, allowed, used, retry_after_ms, plan });
                }
            }
        }
    }

    pub(crate) fn reservation(&self) -> Option<ReservationId> {
        self.reservation
    }

    /// Takes apart what keeps this alive while the reply is made.
    pub(crate) fn watch(&mut self) -> Watch {
        let (kept, is_over) = oneshot::channel();
        self.kept = Some(kept);
        Watch {
            is_over,
            store: Arc::clone(&self.store),
            user: self.holder.user,
            api_key: self.holder.api_key,
            reservation: self.reservation,
            runtime: self.runtime.clone(),
        }
    }

    /// What the reply is charged.
    pub(crate) fn charge(&self, outcome: &Outcome) -> Charge {
        Charge {
            reply: self.reply,
            api_key: self.holder.api_key,
            plan: self.holder.plan_id.clone(),
            model: self.model.clone(),
            build: outcome.build.to_string(),
            usage: outcome.usage,
            cost_micros: self.holder.plan.cost_micros(&outcome.usage),
        }
    }

    /// Charges a reply that ended, with its message where it belongs to a conversation.
    pub(crate) async fn finish(
        mut self,
        outcome: &Outcome,
        message: Option<&NewMessage>,
    ) -> Result<(), rapport_store::Error> {
        let charge = self.charge(outcome);
        let mut pause = Duration::from_millis(50);
        for n_tries in 1.. {
            let finished = Finished { charge: &charge, message, reservation: self.reservation };
            match self.store.finish_reply(self.holder.user, finished, now()).await {
                Err(rapport_store::Error::Busy { .. }) if n_tries < MAX_TRIES => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        self.is_settled = true;
        Ok(())
    }

    /// Says that whatever was held is given back by somebody else.
    pub(crate) fn leave_to_other(mut self) {
        self.is_settled = true;
    }

    /// Charges or gives back by the last event of a reply, beside the engine, and then says it.
    pub(crate) fn settle_then(self, event: Event, say: impl FnOnce(Event) + Send + 'static) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let event = match event {
                Event::Finished(outcome) => match self.finish(&outcome, None).await {
                    Ok(()) => Event::Finished(outcome),
                    Err(_) => Event::Failed(GenerateError::Internal {
                        reason: "the reply could not be recorded".to_owned(),
                    }),
                },
                other => other,
            };
            say(event);
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        if let Some(reservation) = self.reservation {
            let (store, user) = (Arc::clone(&self.store), self.holder.user);
            self.runtime.spawn(async move {
                // What is not given back now runs out by itself.
                let _ = store.release(user, reservation).await;
            });
        }
    }
}

/// Keeps what is set aside, and looks whether the key is still good.
#[derive(Debug)]
pub(crate) struct Watch {
    store: Arc<Store>,
    user: UserId,
    api_key: Option<ApiKeyId>,
    reservation: Option<ReservationId>,
    runtime: Handle,
    is_over: oneshot::Receiver<()>,
}

impl Watch {
    /// Until the reply is over; one whose key was revoked is stopped and `fail` is told.
    pub(crate) fn keep(
        mut self,
        control: Control,
        fail: impl FnOnce(GenerateError) + Send + 'static,
    ) {
        if self.api_key.is_none() && self.reservation.is_none() {
            return;
        }
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            for n_looks in 1.. {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    _ = &mut self.is_over => return,
                }
                let now = now();
                if let Some(api_key) = self.api_key
                    && let Ok(state) = self.store.api_key_state(api_key, now).await
                    && state != ApiKeyState::Live
                {
                    control.stop();
                    let reason = "it was revoked or has expired".to_owned();
                    fail(GenerateError::InvalidRequest { field: "api_key", reason });
                    return;
                }
                if let Some(reservation) = self.reservation
                    && n_looks % EXTEND_EVERY == 0
                    && let Ok(false) =
                        self.store.extend(self.user, reservation, now, now.plus_ms(HOLD_MS)).await
                {
                    return;
                }
            }
        });
    }
}

async fn count_prompt(generate: &Arc<dyn Generate>, request: &Request) -> Result<u64, Refused> {
    let (generate, request) = (Arc::clone(generate), request.clone());
    let n_bytes: usize = request.messages.iter().map(|message| message.content.len()).sum();
    let counted = tokio::task::spawn_blocking(move || generate.count_prompt_tokens(&request)).await;
    match counted {
        Ok(Ok(Some(n_tokens))) => Ok(u64::from(n_tokens)),
        Ok(Err(error)) => Err(Refused::Generate(error)),
        // About what tokenizers make of text.
        Ok(Ok(None)) | Err(_) => Ok(n_bytes as u64 / 3 + 16),
    }
}

/// The most that a reply can use.
fn estimate(request: &Request, prompt_tokens: u64, context_tokens: u32) -> Estimate {
    let budget: u64 = match request.thinking_budget {
        _ if request.mode == Mode::Fast => 0,
        ThinkingBudget::None => 0,
        ThinkingBudget::Low => 256,
        ThinkingBudget::Medium => 1024,
        ThinkingBudget::High => 4096,
        ThinkingBudget::Tokens(n_tokens) => u64::from(n_tokens),
    };
    let context_tokens = u64::from(context_tokens);
    let thinking_tokens = budget.min(context_tokens);
    let tokens = prompt_tokens + u64::from(request.max_tokens) + thinking_tokens;
    Estimate { tokens: tokens.min(context_tokens.max(prompt_tokens)), thinking_tokens }
}

/// The plans of a person as the pages show them.
pub(crate) fn plan_form(id: &str, plan: &Plan) -> serde_json::Value {
    let Plan { name, requests_a_day, tokens_a_day, thinking_tokens_a_day, .. } = plan;
    serde_json::json!({
        "id": id,
        "name": name,
        "limits": {
            "requests": requests_a_day,
            "tokens": tokens_a_day,
            "thinking_tokens": thinking_tokens_a_day,
            "concurrent": plan.concurrent_replies,
        },
        "prices": plan.prices,
    })
}

/// When a day of UTC ends.
pub(crate) fn day_end(at: UnixMs) -> UnixMs {
    at.day_start().plus_ms(UnixMs::DAY_MS)
}
