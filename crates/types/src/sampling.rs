//! How the next token is chosen. [`SamplingDraft`] is what a caller writes, [`Sampling`] what the
//! engine reads: the only way from one to the other is [`SamplingDraft::validate`].

/// One entry of a logit bias: added to the token's logit before anything else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitBias {
    pub token: u32,
    pub bias: f32,
}

/// Sampling settings as a caller writes them; [`SamplingDraft::default`] is greedy-free chat.
///
/// Ranges follow the OpenAI API where it has the field.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingDraft {
    /// `0` is greedy. `0..=2`.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; `0` keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probabilities add up to `top_p`. `(0, 1]`.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely one. `[0, 1)`.
    pub min_p: f32,
    /// Divide (or multiply, when negative) the logits of seen tokens. `1` is off; `(0, 10]`.
    pub repetition_penalty: f32,
    /// Subtract this from the logits of tokens already written. `-2..=2`.
    pub presence_penalty: f32,
    /// Subtract this times its count from the logit of a token already written. `-2..=2`.
    pub frequency_penalty: f32,
    pub logit_bias: Vec<LogitBias>,
    /// Same seed, same text. `None` draws one; the reply says which.
    pub seed: Option<u64>,
    /// How many alternatives to report for each token: `None` reports no log-probabilities,
    /// `Some(0)` only the chosen token's. At most 20.
    pub top_logprobs: Option<u32>,
}

impl Default for SamplingDraft {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            top_logprobs: None,
        }
    }
}

/// Valid sampling settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    draft: SamplingDraft,
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { draft: SamplingDraft { temperature: 0.0, top_p: 1.0, ..SamplingDraft::default() } }
    }

    /// The same settings with another seed.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        Self { draft: SamplingDraft { seed: Some(seed), ..self.draft.clone() } }
    }

    pub fn is_greedy(&self) -> bool {
        self.draft.temperature == 0.0
    }
}

impl std::ops::Deref for Sampling {
    type Target = SamplingDraft;

    fn deref(&self) -> &SamplingDraft {
        &self.draft
    }
}

/// A sampling setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is {found}: it must be {expected}")]
pub struct InvalidSampling {
    /// The field's name, the same in every API.
    pub field: &'static str,
    pub expected: &'static str,
    /// As it was written, to the precision of `f32`.
    pub found: String,
}

impl SamplingDraft {
    /// Checks every range.
    ///
    /// # Errors
    /// The first field outside its range, NaN and infinities included.
    pub fn validate(self) -> Result<Sampling, InvalidSampling> {
        let check = |field, value: f32, valid: bool, expected| {
            if valid && value.is_finite() {
                Ok(())
            } else {
                Err(InvalidSampling { field, expected, found: value.to_string() })
            }
        };
        let within = |value: f32, low: f32, high: f32| (low..=high).contains(&value);

        let d = &self;
        check("temperature", d.temperature, within(d.temperature, 0.0, 2.0), "from 0 to 2")?;
        let top_p_valid = d.top_p > 0.0 && d.top_p <= 1.0;
        check("top_p", d.top_p, top_p_valid, "above 0 and at most 1")?;
        let min_p_valid = (0.0..1.0).contains(&d.min_p);
        check("min_p", d.min_p, min_p_valid, "from 0 to below 1")?;
        let repetition_valid = d.repetition_penalty > 0.0 && d.repetition_penalty <= 10.0;
        check("repetition_penalty", d.repetition_penalty, repetition_valid, "above 0, at most 10")?;
        let presence_valid = within(d.presence_penalty, -2.0, 2.0);
        check("presence_penalty", d.presence_penalty, presence_valid, "from -2 to 2")?;
        let frequency_valid = within(d.frequency_penalty, -2.0, 2.0);
        check("frequency_penalty", d.frequency_penalty, frequency_valid, "from -2 to 2")?;
        for entry in &d.logit_bias {
            check("logit_bias", entry.bias, within(entry.bias, -100.0, 100.0), "from -100 to 100")?;
        }
        if let Some(n @ 21..) = d.top_logprobs {
            return Err(InvalidSampling {
                field: "top_logprobs",
                expected: "at most 20",
                found: n.to_string(),
            });
        }
        Ok(Sampling { draft: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid() {
        SamplingDraft::default().validate().unwrap();
    }

    #[test]
    fn an_error_shows_the_number_that_was_written() {
        let error = SamplingDraft { temperature: 3.1, ..SamplingDraft::default() }.validate();
        let expected = "`temperature` is 3.1: it must be from 0 to 2";
        assert_eq!(error.unwrap_err().to_string(), expected);
    }

    #[test]
    fn every_field_rejects_values_outside_its_range() {
        let base = SamplingDraft::default;
        let cases: Vec<(&str, SamplingDraft)> = vec![
            ("temperature", SamplingDraft { temperature: -0.1, ..base() }),
            ("temperature", SamplingDraft { temperature: f32::NAN, ..base() }),
            ("temperature", SamplingDraft { temperature: f32::INFINITY, ..base() }),
            ("top_p", SamplingDraft { top_p: 0.0, ..base() }),
            ("top_p", SamplingDraft { top_p: 1.5, ..base() }),
            ("min_p", SamplingDraft { min_p: 1.0, ..base() }),
            ("repetition_penalty", SamplingDraft { repetition_penalty: 0.0, ..base() }),
            ("presence_penalty", SamplingDraft { presence_penalty: 2.5, ..base() }),
            ("frequency_penalty", SamplingDraft { frequency_penalty: -3.0, ..base() }),
            (
                "logit_bias",
                SamplingDraft { logit_bias: vec![LogitBias { token: 1, bias: 1e9 }], ..base() },
            ),
            ("top_logprobs", SamplingDraft { top_logprobs: Some(21), ..base() }),
        ];
        for (field, draft) in cases {
            assert_eq!(draft.validate().unwrap_err().field, field);
        }
    }
}
