//! Plans: what an account may use in a day and what it costs, read from TOML.
//!
//! The store keeps only a plan's id with each user and each charge; what it means is here, so that
//! an operator can change it in a file. `plans.toml` beside this crate is what there is without one.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Limits, Price};

const BUILT_IN: &str = include_str!("../plans.toml");
/// The greatest price that is taken for meant.
const MAX_DOLLARS: f64 = 1_000_000.0;
const DEFAULT_DOLLARS: f64 = 5.0;
const CACHED_SHARE: f64 = 0.25;

/// One plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// As accounts and charges name it.
    pub id: String,
    /// As people see it.
    pub name: String,
    pub limits: Limits,
    pub price: Price,
    /// Higher goes first when there is a queue.
    pub priority: i8,
}

/// Every plan there is, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans(BTreeMap<String, Plan>);

/// A file of plans that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlans {
    #[error("the plans are not valid TOML of plans: {problem}")]
    Form { problem: String },
    #[error("there is no plan: give at least one, as `[free]`")]
    Empty,
    #[error("plan `{plan}`: `{key}` is {found}: give dollars from 0 to 1000000")]
    Price { plan: String, key: &'static str, found: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanForm {
    name: Option<String>,
    requests_per_day: Option<u64>,
    tokens_per_day: Option<u64>,
    thinking_tokens_per_day: Option<u64>,
    concurrent_streams: Option<u64>,
    dollars_per_million_tokens: Option<f64>,
    dollars_per_million_cached_tokens: Option<f64>,
    /// For answers and thoughts, where they cost something else than the prompt.
    dollars_per_million_completion_tokens: Option<f64>,
    #[serde(default)]
    priority: i8,
}

impl Plans {
    /// Reads plans: a table each.
    ///
    /// # Errors
    /// [`InvalidPlans`] with what is wrong; an unknown key is.
    pub fn parse(text: &str) -> Result<Self, InvalidPlans> {
        let forms: BTreeMap<String, PlanForm> = toml::from_str(text)
            .map_err(|error| InvalidPlans::Form { problem: error.to_string() })?;
        if forms.is_empty() {
            return Err(InvalidPlans::Empty);
        }
        let read = |(id, form): (String, PlanForm)| Ok((id.clone(), form.plan(id)?));
        forms.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub fn get(&self, id: &str) -> Option<&Plan> {
        self.0.get(id)
    }

    /// The plan of this id; for one that is no longer there, the one that allows least.
    pub fn get_or_least(&self, id: &str) -> Plan {
        let unlimited = u64::MAX;
        let allows = |plan: &&Plan| {
            let Limits { requests, tokens, thinking_tokens, concurrent } = plan.limits;
            [tokens, requests, thinking_tokens, concurrent].map(|limit| limit.unwrap_or(unlimited))
        };
        let found = self.get(id).or_else(|| self.iter().min_by_key(allows));
        found.cloned().expect("there is at least one plan")
    }

    /// By id.
    pub fn iter(&self) -> impl Iterator<Item = &Plan> {
        self.0.values()
    }
}

/// The plans that come with Rapport: `free`, `premium`, `per-token` and `unlimited`.
impl Default for Plans {
    fn default() -> Self {
        Self::parse(BUILT_IN).expect("a test reads it")
    }
}

impl PlanForm {
    fn plan(self, id: String) -> Result<Plan, InvalidPlans> {
        let micros = |key, dollars: f64| {
            if !(0.0..=MAX_DOLLARS).contains(&dollars) {
                let found = dollars.to_string();
                return Err(InvalidPlans::Price { plan: id.clone(), key, found });
            }
            Ok((dollars * 1e6).round() as u64)
        };
        let dollars = self.dollars_per_million_tokens.unwrap_or(DEFAULT_DOLLARS);
        let cached = self.dollars_per_million_cached_tokens.unwrap_or(CACHED_SHARE * dollars);
        let completion = self.dollars_per_million_completion_tokens.unwrap_or(dollars);
        let each_micros = micros("dollars_per_million_tokens", dollars)?;
        let price = Price {
            prompt_micros: each_micros,
            cached_micros: micros("dollars_per_million_cached_tokens", cached)?,
            completion_micros: micros("dollars_per_million_completion_tokens", completion)?,
        };
        let limits = Limits {
            requests: self.requests_per_day,
            tokens: self.tokens_per_day,
            thinking_tokens: self.thinking_tokens_per_day,
            concurrent: self.concurrent_streams,
        };
        let priority = self.priority;
        Ok(Plan { name: self.name.unwrap_or_else(|| id.clone()), id, limits, price, priority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plans_that_come_along() {
        let plans = Plans::default();
        let ids: Vec<_> = plans.iter().map(|plan| plan.id.as_str()).collect();
        assert_eq!(ids, ["free", "per-token", "premium", "unlimited"]);
        let per_token = plans.get("per-token").unwrap();
        assert_eq!(
            (per_token.price.prompt_micros, per_token.price.cached_micros),
            (5_000_000, 1_250_000)
        );
        assert_eq!(plans.get("unlimited").unwrap().limits, Limits::default());
        assert_eq!(plans.get("free").unwrap().limits.thinking_tokens, Some(20_000));
        assert!(plans.get("premium").unwrap().priority > plans.get("free").unwrap().priority);
        assert_eq!(plans.get_or_least("gone").id, "free");
    }

    #[test]
    fn five_dollars_unless_told_otherwise() {
        let plans = Plans::parse("[x]").unwrap();
        let price = plans.get("x").unwrap().price;
        assert_eq!((price.completion_micros, price.cached_micros), (5_000_000, 1_250_000));
    }

    #[test]
    fn bad_plans_say_what_is_wrong() {
        assert_eq!(Plans::parse(""), Err(InvalidPlans::Empty));
        for (text, expected) in [
            ("[x]\nrequests = 3", "requests"),
            ("[x]\ntokens_per_day = -1", "-1"),
            ("[x]\ndollars_per_million_tokens = -1", "plan `x`"),
            ("[x]\ndollars_per_million_completion_tokens = 1e7", "completion"),
            ("[x]\npriority = 200", "200"),
            ("[x]\ndollars_per_million_cached_tokens = nan", "NaN"),
            ("x = 1", "x"),
        ] {
            let error = Plans::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
