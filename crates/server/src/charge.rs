//! Who pays: plans, and what each reply may use and has used.
//!
//! A reply that belongs to an account sets aside what it can use at most before it starts
//! ([`Hold::take`]), and at its end is charged once for what it used ([`Hold::settle`]); one that
//! fails is given back. The person at this machine and the server's own key pay nothing.
//!
//! What is not here: sums and locks (the store has those).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rapport_store::{
    ApiKey, ApiKeyId, ApiKeyState, Charge, Estimate, Finished, Limit, Limits, NewMessage, Plan,
    ReplyId, ReservationId, Reserved, UnixMs, User, UserId,
};
use rapport_types::{
    BuildId, Caller, Control, Event, FinishReason, Generate, GenerateError, Mode, Outcome, Request,
    ThinkingBudget, Timings, Usage,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::App;
use crate::error::ApiError;
use crate::stored::Owner;
use crate::web::Accounts;

/// A key while replies are made with it.
#[derive(Clone, Debug)]
pub(crate) struct OpenKey {
    pub(crate) id: ApiKeyId,
    expires_at: Option<UnixMs>,
    is_closed: Arc<AtomicBool>,
}

impl OpenKey {
    /// Whether the next token may still go to whoever shows this key.
    fn is_open(&self, now: UnixMs) -> bool {
        !self.is_closed.load(Ordering::Acquire) && self.expires_at.is_none_or(|end| now < end)
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}

/// The keys that replies are being made with, so that one that is revoked here ends its replies
/// before their next token. Those revoked elsewhere are found by [`Watch`].
#[derive(Debug, Default)]
pub(crate) struct OpenKeys {
    by_id: Mutex<HashMap<ApiKeyId, (UserId, Weak<AtomicBool>)>>,
}

impl OpenKeys {
    fn open(&self, key: &ApiKey) -> OpenKey {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_id.get(&key.id).and_then(|(_, is_closed)| is_closed.upgrade());
        let is_closed = known.unwrap_or_else(|| {
            by_id.retain(|_, (_, is_closed)| is_closed.strong_count() > 0);
            let is_closed = Arc::default();
            by_id.insert(key.id, (key.user, Arc::downgrade(&is_closed)));
            is_closed
        });
        OpenKey { id: key.id, expires_at: key.expires_at, is_closed }
    }

    /// Ends the replies of one key.
    pub(crate) fn close(&self, id: ApiKeyId) {
        self.close_where(|key, _| key == id);
    }

    /// Ends the replies of every key of a user.
    pub(crate) fn close_all_of(&self, user: UserId) {
        self.close_where(|_, owner| owner == user);
    }

    fn close_where(&self, is_meant: impl Fn(ApiKeyId, UserId) -> bool) {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        by_id.retain(|id, (user, is_closed)| {
            if !is_meant(*id, *user) {
                return true;
            }
            if let Some(is_closed) = is_closed.upgrade() {
                is_closed.store(true, Ordering::Release);
            }
            // A key that is let in again begins anew.
            false
        });
    }
}

/// What ends a reply whose key is no longer good.
pub(crate) fn closed_key() -> GenerateError {
    let reason = "it was revoked or has expired".to_owned();
    GenerateError::InvalidRequest { field: "api_key", reason }
}

/// The account that stands behind a request.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) user: UserId,
    pub(crate) api_key: Option<OpenKey>,
    pub(crate) plan: Plan,
    pub(crate) caller: Caller,
}

impl Holder {
    pub(crate) fn of(accounts: &Accounts, user: &User, api_key: Option<OpenKey>) -> Self {
        let plan = accounts.plans.get_or_least(&user.plan);
        let key = Sha256::new()
            .chain_update(accounts.secret)
            .chain_update("caller")
            .chain_update(user.id.to_string())
            .finalize()
            .into();
        let caller = Caller { key, priority: plan.priority, ..Caller::default() };
        Self { user: user.id, api_key, plan, caller }
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

/// Whose the work of this task is.
pub(crate) fn owner() -> Owner {
    HOLDER.try_with(|holder| holder.user).ok()
}

/// The account that stands behind the work of this task.
pub(crate) fn holder_of_task() -> Option<Holder> {
    HOLDER.try_with(Clone::clone).ok()
}

/// What a key can open: `api` all of the protocols, `read` what only reads.
pub const SCOPES: [&str; 2] = ["api", "read"];
/// When a key or person was last seen is good to a minute.
pub(crate) const SEEN_STEP_MS: i64 = 60_000;

/// Whose key this is; `None` for one that opens nothing.
pub(crate) async fn holder(
    accounts: &Accounts,
    secret: &str,
    is_reading: bool,
) -> Result<Option<Holder>, ApiError> {
    let busy = |_| ApiError::store_busy();
    let now = accounts.now();
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
    Ok(Some(Holder::of(accounts, &user, Some(accounts.keys.open(&key)))))
}

/// Says in headers what is left of a plan today, in OpenAI's words.
pub(crate) async fn tell_limits(accounts: &Accounts, holder: &Holder, headers: &mut HeaderMap) {
    let limits = holder.plan.limits;
    if limits.requests.is_none() && limits.tokens.is_none() {
        return;
    }
    let now = accounts.now();
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
/// In looks.
const EXTEND_EVERY: u32 = 30;
/// How often it is looked whether somebody else has revoked a key while its reply is made.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    accounts: Arc<Accounts>,
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
    let holder = holder_of_task();
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

/// Sets aside tokens that are only read, if whoever asks is an account.
pub(crate) async fn hold_tokens(
    app: &App,
    generate: &Arc<dyn Generate>,
    n_tokens: u64,
) -> Result<Option<Hold>, ApiError> {
    let holder = holder_of_task();
    let (Some(accounts), Some(holder)) = (&app.accounts, holder) else { return Ok(None) };
    let mut hold = Hold::new(accounts, &holder, generate);
    let limits = holder.plan.limits;
    if limits != Limits::default() {
        let estimate = Estimate { tokens: n_tokens, thinking_tokens: 0 };
        hold.reserve(estimate, &limits).await?;
    }
    Ok(Some(hold))
}

/// What tokens that were only read are charged by.
pub(crate) fn only_read(n_tokens: u32, build: BuildId) -> Outcome {
    Outcome {
        reason: FinishReason::Stop,
        stop: None,
        usage: Usage { prompt_tokens: n_tokens, ..Usage::default() },
        timings: Timings::default(),
        build,
    }
}

impl Hold {
    fn new(accounts: &Arc<Accounts>, holder: &Holder, generate: &Arc<dyn Generate>) -> Self {
        Self {
            accounts: Arc::clone(accounts),
            holder: holder.clone(),
            model: generate.model().name,
            reply: ReplyId::new(accounts.now()),
            reservation: None,
            runtime: Handle::current(),
            is_settled: false,
            kept: None,
        }
    }

    /// Sets aside so much.
    async fn reserve(&mut self, estimate: Estimate, limits: &Limits) -> Result<(), Refused> {
        let at = self.accounts.now();
        let store = &self.accounts.store;
        let reserved = store.reserve(self.holder.user, estimate, limits, at, at.plus_ms(HOLD_MS));
        match reserved.await.map_err(Refused::Store)? {
            Reserved::Granted(reservation) => {
                self.reservation = Some(reservation.id);
                Ok(())
            }
            Reserved::Denied { limit, allowed, used, retry_after_ms } => {
                let plan = self.holder.plan.name.clone();
                Err(Refused::Limit { limit, allowed, used, retry_after_ms, plan })
            }
        }
    }

    /// Sets aside what a reply can use. One whose mode is free to choose does not think where the
    /// plan has no thinking tokens left.
    pub(crate) async fn take(
        accounts: &Arc<Accounts>,
        holder: &Holder,
        generate: &Arc<dyn Generate>,
        request: &mut Request,
    ) -> Result<Self, Refused> {
        generate.check_ready().map_err(Refused::Generate)?;
        let limits = holder.plan.limits;
        let mut hold = Self::new(accounts, holder, generate);
        if limits == Limits::default() {
            return Ok(hold);
        }
        let needs_count = limits.tokens.is_some();
        let prompt_tokens = if needs_count { count_prompt(generate, request).await? } else { 0 };
        let context_tokens = generate.model().context_tokens;
        loop {
            let estimate = estimate(request, prompt_tokens, context_tokens);
            match hold.reserve(estimate, &limits).await {
                Ok(()) => return Ok(hold),
                Err(Refused::Limit { limit: Limit::ThinkingTokens, .. })
                    if request.mode == Mode::Auto =>
                {
                    request.mode = Mode::Fast;
                }
                Err(refused) => return Err(refused),
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
            accounts: Arc::clone(&self.accounts),
            user: self.holder.user,
            api_key: self.holder.api_key.clone(),
            reservation: self.reservation,
            runtime: self.runtime.clone(),
        }
    }

    /// Whether the next token may still go to whoever asked.
    pub(crate) fn is_open(&self) -> bool {
        let now = self.accounts.now();
        self.holder.api_key.as_ref().is_none_or(|key| key.is_open(now))
    }

    /// What the reply is charged.
    pub(crate) fn charge(&self, outcome: &Outcome) -> Charge {
        Charge {
            reply: self.reply,
            api_key: self.holder.api_key.as_ref().map(|key| key.id),
            plan: self.holder.plan.id.clone(),
            model: self.model.clone(),
            build: outcome.build.to_string(),
            usage: outcome.usage,
            cost_micros: self.holder.plan.price.cost_micros(&outcome.usage),
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
            let now = self.accounts.now();
            let finished = Finished { charge: &charge, message, reservation: self.reservation };
            match self.accounts.store.finish_reply(self.holder.user, finished, now).await {
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
            let (store, user) = (Arc::clone(&self.accounts.store), self.holder.user);
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
    accounts: Arc<Accounts>,
    user: UserId,
    api_key: Option<OpenKey>,
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
            for n_looks in 0.. {
                let now = self.accounts.now();
                // At once too: the key may have been revoked while the reply was begun.
                if let Some(key) = &self.api_key
                    && !self.is_good(key, now).await
                {
                    key.close();
                    control.stop();
                    fail(closed_key());
                    return;
                }
                if let Some(reservation) = self.reservation
                    && n_looks % EXTEND_EVERY == EXTEND_EVERY - 1
                    && let Ok(false) = {
                        let until = now.plus_ms(HOLD_MS);
                        self.accounts.store.extend(self.user, reservation, now, until).await
                    }
                {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    _ = &mut self.is_over => return,
                }
            }
        });
    }

    async fn is_good(&self, key: &OpenKey, now: UnixMs) -> bool {
        if !key.is_open(now) {
            return false;
        }
        let state = self.accounts.store.api_key_state(key.id, now).await;
        // A store that does not answer says nothing about the key.
        state.map_or(true, |state| state == ApiKeyState::Live)
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

/// A plan as the pages show it.
pub(crate) fn plan_form(plan: &Plan) -> serde_json::Value {
    let Plan { id, name, limits, price, .. } = plan;
    serde_json::json!({
        "id": id,
        "name": name,
        "limits": {
            "requests": limits.requests,
            "tokens": limits.tokens,
            "thinking_tokens": limits.thinking_tokens,
            "concurrent": limits.concurrent,
        },
        "prices": {
            "prompt_microdollars": price.prompt_micros,
            "cached_microdollars": price.cached_micros,
            "completion_microdollars": price.completion_micros,
        },
    })
}

/// When a day of UTC ends.
pub(crate) fn day_end(at: UnixMs) -> UnixMs {
    at.day_start().plus_ms(UnixMs::DAY_MS)
}
