//! Daily limits that hold: what a reply may use is set aside before it starts.
//!
//! A reply reserves its estimate, which is what it can use at most; the ledger and the open
//! reservations together never pass a limit. The user's row is locked while that is checked, so
//! several servers on one database share one quota. A reservation that nobody ends (its server
//! died) expires, or goes when the next server [attends](Store::attend) alone; a long reply
//! [extends](Store::extend) its own.

use serde::Serialize;
use sqlx::{Any, Transaction};

use crate::row::Columns;
use crate::{Error, ReservationId, Store, UnixMs, UserId};

/// What a plan allows in a day (UTC); `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub requests: Option<u64>,
    /// Prompt, answer and thought together.
    pub tokens: Option<u64>,
    pub thinking_tokens: Option<u64>,
    /// At the same time.
    pub concurrent: Option<u64>,
}

/// The most a reply can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Prompt, answer and thought together.
    pub tokens: u64,
    pub thinking_tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Requests,
    Tokens,
    ThinkingTokens,
    Concurrent,
}

/// Something set aside for one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub id: ReservationId,
    pub expires_at: UnixMs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    Granted(Reservation),
    /// Nothing was set aside.
    Denied {
        limit: Limit,
        /// What the plan allows of it.
        allowed: u64,
        /// What is used and set aside already.
        used: u64,
        /// When it can be different: the day's end, or the first end of a running reply.
        retry_after_ms: u64,
    },
}

/// What a user has used today, and what is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Meter {
    pub requests: u64,
    pub tokens: u64,
    pub thinking_tokens: u64,
    pub cost_micros: u64,
    pub reserved_requests: u64,
    pub reserved_tokens: u64,
    pub reserved_thinking_tokens: u64,
    /// When the day ends.
    pub resets_at: UnixMs,
}

/// How soon to ask again when a running reply may end at any moment.
const RETRY_RUNNING_MS: u64 = 1_000;

impl Store {
    /// Sets aside what a reply can use, unless that would pass a limit.
    pub async fn reserve(
        &self,
        user: UserId,
        estimate: Estimate,
        limits: &Limits,
        now: UnixMs,
        expires_at: UnixMs,
    ) -> Result<Reserved, Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(self.dialect.lock_user())
            .bind(user.to_string())
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or(Error::NotFound { what: "user" })?;
        let meter = read_meter(&mut transaction, user, now).await?;
        if let Some(denied) = meter.check(estimate, limits, now) {
            return Ok(denied);
        }
        let reservation = Reservation { id: ReservationId::new(now), expires_at };
        sqlx::query("DELETE FROM reservations WHERE user_id = $1 AND expires_at_ms <= $2")
            .bind(user.to_string())
            .bind(now.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO reservations
                 (id, user_id, tokens, thinking_tokens, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(reservation.id.to_string())
        .bind(user.to_string())
        .bind(storable_count(estimate.tokens))
        .bind(storable_count(estimate.thinking_tokens))
        .bind(now.0)
        .bind(expires_at.0)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Reserved::Granted(reservation))
    }

    /// Keeps a reservation for longer; `false` when it has ended.
    pub async fn extend(
        &self,
        user: UserId,
        reservation: ReservationId,
        now: UnixMs,
        expires_at: UnixMs,
    ) -> Result<bool, Error> {
        let done = sqlx::query(
            "UPDATE reservations SET expires_at_ms = $1
             WHERE id = $2 AND user_id = $3 AND expires_at_ms > $4",
        )
        .bind(expires_at.0)
        .bind(reservation.to_string())
        .bind(user.to_string())
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives back what was set aside for a reply that failed: nothing is charged. `false` when it
    /// was given back before.
    pub async fn release(&self, user: UserId, reservation: ReservationId) -> Result<bool, Error> {
        let done = sqlx::query("DELETE FROM reservations WHERE id = $1 AND user_id = $2")
            .bind(reservation.to_string())
            .bind(user.to_string())
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    pub async fn meter(&self, user: UserId, now: UnixMs) -> Result<Meter, Error> {
        let mut transaction = self.begin_snapshot().await?;
        read_meter(&mut transaction, user, now).await
    }
}

impl Meter {
    fn check(&self, estimate: Estimate, limits: &Limits, now: UnixMs) -> Option<Reserved> {
        let until_reset_ms = (self.resets_at.0 - now.0).max(0) as u64;
        let requests = (Limit::Requests, limits.requests, self.requests, self.reserved_requests, 1);
        let tokens =
            (Limit::Tokens, limits.tokens, self.tokens, self.reserved_tokens, estimate.tokens);
        let thinking = (
            Limit::ThinkingTokens,
            limits.thinking_tokens,
            self.thinking_tokens,
            self.reserved_thinking_tokens,
            estimate.thinking_tokens,
        );
        let concurrent = (Limit::Concurrent, limits.concurrent, 0, self.reserved_requests, 1);
        for (limit, allowed, used, reserved, wanted) in [requests, tokens, thinking, concurrent] {
            let Some(allowed) = allowed else { continue };
            let taken = used.saturating_add(reserved);
            if wanted == 0 || taken.saturating_add(wanted) <= allowed {
                continue;
            }
            // Running replies may use less than was set aside for them.
            let may_fit_soon = reserved > 0 && used.saturating_add(wanted) <= allowed;
            let retry_after_ms =
                if may_fit_soon { RETRY_RUNNING_MS.min(until_reset_ms) } else { until_reset_ms };
            return Some(Reserved::Denied { limit, allowed, used: taken, retry_after_ms });
        }
        None
    }
}

async fn read_meter(
    transaction: &mut Transaction<'_, Any>,
    user: UserId,
    now: UnixMs,
) -> Result<Meter, Error> {
    let day_start = now.day_start();
    let resets_at = day_start.plus_ms(UnixMs::DAY_MS);
    // One statement sees one state: a reply that ends between two of them would be in neither sum.
    let row = sqlx::query(
        "SELECT used.*, held.* FROM
         (SELECT COUNT(*) AS requests,
             CAST(COALESCE(SUM(prompt_tokens + completion_tokens + reasoning_tokens), 0) AS BIGINT)
                 AS tokens,
             CAST(COALESCE(SUM(reasoning_tokens), 0) AS BIGINT) AS thinking_tokens,
             CAST(COALESCE(SUM(cost_micros), 0) AS BIGINT) AS cost_micros
          FROM ledger WHERE user_id = $1 AND charged_at_ms >= $2 AND charged_at_ms < $3) AS used,
         (SELECT COUNT(*) AS reserved_requests,
             CAST(COALESCE(SUM(tokens), 0) AS BIGINT) AS reserved_tokens,
             CAST(COALESCE(SUM(thinking_tokens), 0) AS BIGINT) AS reserved_thinking_tokens
          FROM reservations WHERE user_id = $1 AND expires_at_ms > $4) AS held",
    )
    .bind(user.to_string())
    .bind(day_start.0)
    .bind(resets_at.0)
    .bind(now.0)
    .fetch_one(&mut **transaction)
    .await?;
    Ok(Meter {
        requests: row.count("requests")?,
        tokens: row.count("tokens")?,
        thinking_tokens: row.count("thinking_tokens")?,
        cost_micros: row.count("cost_micros")?,
        reserved_requests: row.count("reserved_requests")?,
        reserved_tokens: row.count("reserved_tokens")?,
        reserved_thinking_tokens: row.count("reserved_thinking_tokens")?,
        resets_at,
    })
}

/// An estimate as a number that sums of it do not overflow.
fn storable_count(count: u64) -> i64 {
    count.min(u64::from(u32::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const METER: Meter = Meter {
        requests: 3,
        tokens: 70,
        thinking_tokens: 0,
        cost_micros: 0,
        reserved_requests: 1,
        reserved_tokens: 20,
        reserved_thinking_tokens: 0,
        resets_at: UnixMs(UnixMs::DAY_MS),
    };

    fn check(limits: Limits, tokens: u64) -> Option<(Limit, u64)> {
        let estimate = Estimate { tokens, thinking_tokens: 0 };
        match METER.check(estimate, &limits, UnixMs(UnixMs::DAY_MS - 5_000)) {
            Some(Reserved::Denied { limit, retry_after_ms, .. }) => Some((limit, retry_after_ms)),
            _ => None,
        }
    }

    #[test]
    fn a_limit_may_be_reached_and_not_passed() {
        let limits = Limits { tokens: Some(100), ..Limits::default() };
        assert_eq!(check(limits, 10), None);
        assert_eq!(check(limits, 11), Some((Limit::Tokens, 1_000)));
        assert_eq!(check(limits, 31), Some((Limit::Tokens, 5_000)));
        assert_eq!(check(Limits::default(), u64::MAX), None);
    }

    #[test]
    fn each_limit_says_its_name() {
        let requests = Limits { requests: Some(3), ..Limits::default() };
        assert_eq!(check(requests, 1), Some((Limit::Requests, 5_000)));
        let concurrent = Limits { concurrent: Some(1), ..Limits::default() };
        assert_eq!(check(concurrent, 1), Some((Limit::Concurrent, 1_000)));
    }

    #[test]
    fn a_reply_that_does_not_think_needs_no_thinking_tokens() {
        let limits = Limits { thinking_tokens: Some(0), ..Limits::default() };
        assert_eq!(check(limits, 1), None);
    }
}
