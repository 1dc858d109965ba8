//! What was used and what it costs: one row a reply, added once and never changed.
//!
//! Money is whole millionths of the operator's currency; there is no float on its way.

use rapport_types::Usage;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use crate::messages::insert_message;
use crate::row::{Columns, storable};
use crate::turns::{complete_reply, release};
use crate::{ApiKeyId, Error, NewMessage, ReplyId, ReservationId, Store, UnixMs, UserId};

/// What a plan asks for a million tokens, in millionths of the currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    pub prompt_micros: u64,
    /// For the part of the prompt that was cached.
    pub cached_micros: u64,
    /// For answers and thoughts.
    pub completion_micros: u64,
}

impl Price {
    /// The cost of a reply in millionths, rounded once, half up.
    pub fn cost_micros(&self, usage: &Usage) -> u64 {
        const PER: u128 = 1_000_000;
        let cached_tokens = usage.cached_tokens.min(usage.prompt_tokens);
        let part = |price: u64, n_tokens: u32| u128::from(price) * u128::from(n_tokens);
        let sum = part(self.prompt_micros, usage.prompt_tokens - cached_tokens)
            + part(self.cached_micros, cached_tokens)
            + part(self.completion_micros, usage.completion_tokens)
            + part(self.completion_micros, usage.reasoning_tokens);
        u64::try_from((sum + PER / 2) / PER).unwrap_or(u64::MAX)
    }
}

/// A reply that was made and is paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Charged once, however often it is sent.
    pub reply: ReplyId,
    pub api_key: Option<ApiKeyId>,
    pub plan: String,
    pub model: String,
    pub build: String,
    pub usage: Usage,
    pub cost_micros: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charged {
    Now,
    Before,
}

/// Everything that becomes true when a reply is complete.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    pub charge: &'a Charge,
    /// Where the reply belongs to a conversation of ours: completes the row that was begun for it,
    /// or adds one.
    pub message: Option<&'a NewMessage>,
    /// What was held back for it.
    pub reservation: Option<ReservationId>,
}

/// What was used in one day (UTC) of one model through one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    pub day_start: UnixMs,
    /// `None` in a summary of everybody, for users who are gone.
    pub user: Option<UserId>,
    pub model: String,
    /// `None` for the web page.
    pub api_key: Option<ApiKeyId>,
    pub n_replies: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    pub cost_micros: u64,
}

/// What a user owes for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invoice {
    pub user: UserId,
    /// From this time on,
    pub from: UnixMs,
    /// and before this one.
    pub until: UnixMs,
    pub lines: Vec<InvoiceLine>,
    pub total_micros: u64,
}

/// One plan and model of an [`Invoice`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InvoiceLine {
    pub plan: String,
    pub model: String,
    pub n_replies: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    pub cost_micros: u64,
}

impl Store {
    /// Stores a reply's message, charges it and gives back what was reserved: all or nothing, and
    /// once, however often it is called. A failed reply never comes here: it is
    /// [failed](Store::fail_reply), or its reservation [released](Store::release).
    ///
    /// # Errors
    /// [`Error::Conflict`] when the message is there with another text, as when its lease ran out,
    /// or the reply was charged to another user: nothing is charged then.
    pub async fn finish_reply(
        &self,
        user: UserId,
        finished: Finished<'_>,
        now: UnixMs,
    ) -> Result<Charged, Error> {
        let mut transaction = self.begin().await?;
        if let Some(message) = finished.message
            && !complete_reply(&mut transaction, user, message, now).await?
        {
            insert_message(&mut transaction, self.dialect, user, message, now).await?;
        }
        let charged = insert_charge(&mut transaction, user, finished.charge, now).await?;
        if let Some(reservation) = finished.reservation {
            release(&mut transaction, user, reservation).await?;
        }
        transaction.commit().await?;
        Ok(charged)
    }

    /// What was used from `from` on and before `until`, by one user or by everybody.
    pub async fn usage(
        &self,
        user: Option<UserId>,
        from: UnixMs,
        until: UnixMs,
    ) -> Result<Vec<UsageRow>, Error> {
        let rows = sqlx::query(
            "SELECT charged_at_ms / 86400000 AS day, user_id, model, api_key_id,
                 COUNT(*) AS n_replies,
                 CAST(SUM(prompt_tokens) AS BIGINT) AS prompt_tokens,
                 CAST(SUM(cached_tokens) AS BIGINT) AS cached_tokens,
                 CAST(SUM(completion_tokens) AS BIGINT) AS completion_tokens,
                 CAST(SUM(reasoning_tokens) AS BIGINT) AS reasoning_tokens,
                 CAST(SUM(cost_micros) AS BIGINT) AS cost_micros
             FROM ledger WHERE ($1 IS NULL OR user_id = $1)
             AND charged_at_ms >= $2 AND charged_at_ms < $3
             GROUP BY 1, user_id, model, api_key_id
             ORDER BY 1, COALESCE(user_id, ''), model, COALESCE(api_key_id, '')",
        )
        .bind(user.map(|user| user.to_string()))
        .bind(from.0)
        .bind(until.0)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_usage).collect()
    }

    pub async fn invoice(
        &self,
        user: UserId,
        from: UnixMs,
        until: UnixMs,
    ) -> Result<Invoice, Error> {
        let rows = sqlx::query(
            "SELECT plan, model, COUNT(*) AS n_replies,
                 CAST(SUM(prompt_tokens) AS BIGINT) AS prompt_tokens,
                 CAST(SUM(cached_tokens) AS BIGINT) AS cached_tokens,
                 CAST(SUM(completion_tokens) AS BIGINT) AS completion_tokens,
                 CAST(SUM(reasoning_tokens) AS BIGINT) AS reasoning_tokens,
                 CAST(SUM(cost_micros) AS BIGINT) AS cost_micros
             FROM ledger WHERE user_id = $1 AND charged_at_ms >= $2 AND charged_at_ms < $3
             GROUP BY plan, model ORDER BY plan, model",
        )
        .bind(user.to_string())
        .bind(from.0)
        .bind(until.0)
        .fetch_all(&self.read)
        .await?;
        let lines = rows.iter().map(read_line).collect::<Result<Vec<_>, Error>>()?;
        let total_micros = lines.iter().map(|line| line.cost_micros).sum();
        Ok(Invoice { user, from, until, lines, total_micros })
    }
}

async fn insert_charge(
    transaction: &mut Transaction<'_, Any>,
    user: UserId,
    charge: &Charge,
    now: UnixMs,
) -> Result<Charged, Error> {
    let usage = &charge.usage;
    let done = sqlx::query(
        "INSERT INTO ledger (reply_id, user_id, api_key_id, plan, model, build, prompt_tokens,
             cached_tokens, completion_tokens, reasoning_tokens, cost_micros, charged_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (reply_id) DO NOTHING",
    )
    .bind(charge.reply.to_string())
    .bind(user.to_string())
    .bind(charge.api_key.map(|key| key.to_string()))
    .bind(storable(&charge.plan))
    .bind(storable(&charge.model))
    .bind(storable(&charge.build))
    .bind(i64::from(usage.prompt_tokens))
    .bind(i64::from(usage.cached_tokens))
    .bind(i64::from(usage.completion_tokens))
    .bind(i64::from(usage.reasoning_tokens))
    .bind(i64::try_from(charge.cost_micros).unwrap_or(i64::MAX))
    .bind(now.0)
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(Charged::Now);
    }
    let row = sqlx::query("SELECT user_id FROM ledger WHERE reply_id = $1")
        .bind(charge.reply.to_string())
        .fetch_one(&mut **transaction)
        .await?;
    if row.maybe_parsed("user_id")? != Some(user) {
        return Err(Error::Conflict { what: "reply", problem: "it was charged to another user" });
    }
    Ok(Charged::Before)
}

fn read_usage(row: &AnyRow) -> Result<UsageRow, Error> {
    Ok(UsageRow {
        day_start: UnixMs(row.int("day")? * UnixMs::DAY_MS),
        user: row.maybe_parsed("user_id")?,
        model: row.text("model")?,
        api_key: row.maybe_parsed("api_key_id")?,
        n_replies: row.count("n_replies")?,
        prompt_tokens: row.count("prompt_tokens")?,
        cached_tokens: row.count("cached_tokens")?,
        completion_tokens: row.count("completion_tokens")?,
        reasoning_tokens: row.count("reasoning_tokens")?,
        cost_micros: row.count("cost_micros")?,
    })
}

fn read_line(row: &AnyRow) -> Result<InvoiceLine, Error> {
    Ok(InvoiceLine {
        plan: row.text("plan")?,
        model: row.text("model")?,
        n_replies: row.count("n_replies")?,
        prompt_tokens: row.count("prompt_tokens")?,
        cached_tokens: row.count("cached_tokens")?,
        completion_tokens: row.count("completion_tokens")?,
        reasoning_tokens: row.count("reasoning_tokens")?,
        cost_micros: row.count("cost_micros")?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIVE: Price =
        Price { prompt_micros: 5_000_000, cached_micros: 1_250_000, completion_micros: 5_000_000 };

    #[test]
    fn five_a_million_is_five_millionths_a_token() {
        let usage = Usage {
            prompt_tokens: 100,
            cached_tokens: 60,
            completion_tokens: 10,
            reasoning_tokens: 7,
        };
        assert_eq!(FIVE.cost_micros(&usage), 40 * 5 + 75 + 10 * 5 + 7 * 5);
    }

    #[test]
    fn half_a_millionth_rounds_up_once() {
        let price = Price { prompt_micros: 250_000, ..Price::default() };
        let cost = |prompt_tokens| price.cost_micros(&Usage { prompt_tokens, ..Usage::default() });
        assert_eq!([cost(1), cost(2), cost(3), cost(4), cost(6)], [0, 1, 1, 1, 2]);
    }

    proptest! {
        #[test]
        fn a_cost_never_overflows_nor_grows_with_the_cache(
            prompt: u32, cached: u32, completion: u32, reasoning: u32, micros in 0..=u64::MAX
        ) {
            let price = Price { prompt_micros: micros, cached_micros: micros / 4, completion_micros: micros };
            let usage = |cached_tokens| Usage {
                prompt_tokens: prompt, cached_tokens, completion_tokens: completion, reasoning_tokens: reasoning,
            };
            prop_assert!(price.cost_micros(&usage(cached)) <= price.cost_micros(&usage(0)));
        }
    }
}
