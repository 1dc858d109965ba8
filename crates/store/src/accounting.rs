//! What was used, by day and by month, as people and spreadsheets read it.

use std::fmt::Write as _;
use std::str::FromStr;

use serde::Serialize;

use crate::row::Columns;
use crate::{Error, Invoice, Store, UnixMs, UserId};

/// What a user used in one day (UTC).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageDay {
    /// As `2026-11-26`.
    pub day: String,
    pub n_replies: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    pub cost_micros: u64,
}

/// A month of UTC, as `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Month {
    year: i64,
    /// From 1 on.
    month: i64,
}

/// A text that is not a month.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a month: write it as 2026-11")]
pub struct InvalidMonth {
    pub found: String,
}

impl FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, InvalidMonth> {
        let invalid = || InvalidMonth { found: text.to_owned() };
        let is_form = text.len() == 7
            && text
                .bytes()
                .enumerate()
                .all(|(idx, byte)| if idx == 4 { byte == b'-' } else { byte.is_ascii_digit() });
        if !is_form {
            return Err(invalid());
        }
        let year = text[..4].parse().map_err(|_| invalid())?;
        let month = text[5..].parse().map_err(|_| invalid())?;
        if year < 1970 || !(1..=12).contains(&month) {
            return Err(invalid());
        }
        Ok(Self { year, month })
    }
}

impl Month {
    /// When it begins, and when the next one does.
    pub fn range(self) -> (UnixMs, UnixMs) {
        let (next_year, next) =
            if self.month == 12 { (self.year + 1, 1) } else { (self.year, self.month + 1) };
        let start = |year, month| UnixMs(days_from_civil(year, month, 1) * UnixMs::DAY_MS);
        (start(self.year, self.month), start(next_year, next))
    }
}

impl UnixMs {
    /// The day (UTC) of this time, as `2026-11-26`.
    pub fn day_text(self) -> String {
        let (year, month, day) = civil_from_days(self.0.div_euclid(Self::DAY_MS));
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// Days since 1970 of a date; H. Hinnant, "chrono-compatible low-level date algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl Store {
    /// What a user used on each day from `from` on and before `until`; days without use are left
    /// out.
    pub async fn usage_days(
        &self,
        user: UserId,
        from: UnixMs,
        until: UnixMs,
    ) -> Result<Vec<UsageDay>, Error> {
        let rows = sqlx::query(
            "SELECT charged_at_ms / 86400000 AS day, COUNT(*) AS n_replies,
                 CAST(SUM(prompt_tokens) AS BIGINT) AS prompt_tokens,
                 CAST(SUM(cached_tokens) AS BIGINT) AS cached_tokens,
                 CAST(SUM(completion_tokens) AS BIGINT) AS completion_tokens,
                 CAST(SUM(reasoning_tokens) AS BIGINT) AS reasoning_tokens,
                 CAST(SUM(cost_micros) AS BIGINT) AS cost_micros
             FROM ledger WHERE user_id = $1 AND charged_at_ms >= $2 AND charged_at_ms < $3
             GROUP BY 1 ORDER BY 1",
        )
        .bind(user.to_string())
        .bind(from.0)
        .bind(until.0)
        .fetch_all(&self.read)
        .await?;
        let read = |row: &sqlx::any::AnyRow| {
            Ok(UsageDay {
                day: UnixMs(row.int("day")? * UnixMs::DAY_MS).day_text(),
                n_replies: row.count("n_replies")?,
                prompt_tokens: row.count("prompt_tokens")?,
                cached_tokens: row.count("cached_tokens")?,
                completion_tokens: row.count("completion_tokens")?,
                reasoning_tokens: row.count("reasoning_tokens")?,
                cost_micros: row.count("cost_micros")?,
            })
        };
        rows.iter().map(read).collect()
    }
}

/// Days of usage as CSV (RFC 4180), with a line of names.
pub fn usage_csv(days: &[UsageDay]) -> String {
    let mut csv = "day,requests,prompt_tokens,cached_tokens,completion_tokens,reasoning_tokens,\
                   cost_dollars\r\n"
        .to_owned();
    for day in days {
        let cells = [
            day.day.clone(),
            day.n_replies.to_string(),
            day.prompt_tokens.to_string(),
            day.cached_tokens.to_string(),
            day.completion_tokens.to_string(),
            day.reasoning_tokens.to_string(),
            dollars(day.cost_micros),
        ];
        write_line(&mut csv, &cells);
    }
    csv
}

impl Invoice {
    /// The invoice as CSV (RFC 4180): a line of names, a line for each plan and model, the total.
    pub fn csv(&self) -> String {
        let mut csv = "from,until,plan,model,requests,prompt_tokens,cached_tokens,\
                       completion_tokens,reasoning_tokens,cost_dollars\r\n"
            .to_owned();
        let (from, until) = (self.from.day_text(), self.until.day_text());
        for line in &self.lines {
            let cells = [
                from.clone(),
                until.clone(),
                line.plan.clone(),
                line.model.clone(),
                line.n_replies.to_string(),
                line.prompt_tokens.to_string(),
                line.cached_tokens.to_string(),
                line.completion_tokens.to_string(),
                line.reasoning_tokens.to_string(),
                dollars(line.cost_micros),
            ];
            write_line(&mut csv, &cells);
        }
        let mut total: [String; 10] = Default::default();
        total[0] = from;
        total[1] = until;
        "total".clone_into(&mut total[2]);
        total[9] = dollars(self.total_micros);
        write_line(&mut csv, &total);
        csv
    }
}

/// Millionths as dollars, exactly.
fn dollars(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn write_line(csv: &mut String, cells: &[String]) {
    for (idx, cell) in cells.iter().enumerate() {
        let separator = if idx == 0 { "" } else { "," };
        let _infallible = write!(csv, "{separator}{}", escape(cell));
    }
    csv.push_str("\r\n");
}

/// A cell that is read as text: what a spreadsheet would take for a formula is quoted.
fn escape(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn dates_go_there_and_back(days in -1_000_000_i64..1_000_000) {
            let (year, month, day) = civil_from_days(days);
            prop_assert_eq!(days_from_civil(year, month, day), days);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
        }
    }

    #[test]
    fn months_end_where_the_next_begins() {
        assert_eq!(UnixMs(951_782_400_000).day_text(), "2000-02-29");
        let month = |text: &str| text.parse::<Month>().map(Month::range);
        let (from, until) = month("2024-02").unwrap();
        assert_eq!((from.day_text(), until.day_text()), ("2024-02-01".into(), "2024-03-01".into()));
        assert_eq!(month("2025-12").unwrap().1, month("2026-01").unwrap().0);
        for bad in ["2026-13", "2026-00", "2026-1", "26-11", "2026-１", "1969-12", ""] {
            assert!(month(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_cell_is_a_formula_or_breaks_its_line() {
        assert_eq!(escape("=1+1"), "'=1+1");
        assert_eq!(escape("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(dollars(12_000_288), "12.000288");
    }
}
