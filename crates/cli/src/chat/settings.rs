//! What a person can set about the next reply, and the names they set it by.
//!
//! Not here: the conversation itself (`session`), how commands are written (`command`).

use std::num::NonZeroU32;
use std::str::FromStr;

use rapport_types::{AdapterChoice, Mode, OutputFormat, Sampling, SamplingDraft, ThinkingBudget};

/// How replies are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub mode: Mode,
    pub thinking_budget: ThinkingBudget,
    pub sampling: Sampling,
    /// At most this many tokens of answer.
    pub max_tokens: NonZeroU32,
    /// An answer ends before any of these.
    pub stop: Vec<String>,
    /// What every answer must look like.
    pub format: OutputFormat,
    /// With what is added to the model.
    pub adapter: AdapterChoice,
}

impl Settings {
    pub const DEFAULT_MAX_TOKENS: NonZeroU32 = NonZeroU32::new(512).expect("512 is not zero");

    /// Auto mode at the default sampling.
    pub fn new(sampling: Sampling) -> Self {
        Self {
            mode: Mode::Auto,
            thinking_budget: ThinkingBudget::Medium,
            sampling,
            max_tokens: Self::DEFAULT_MAX_TOKENS,
            stop: Vec::new(),
            format: OutputFormat::Text,
            adapter: AdapterChoice::Default,
        }
    }

    /// Changes one setting; nothing changes on an error.
    ///
    /// # Errors
    /// `text` is not a value of that kind, or is outside the range.
    pub fn set(&mut self, key: SettingKey, text: &str) -> Result<(), SettingError> {
        let mut draft = SamplingDraft::clone(&self.sampling);
        match key {
            SettingKey::Temperature => draft.temperature = number(key, text)?,
            SettingKey::TopP => draft.top_p = number(key, text)?,
            SettingKey::TopK => draft.top_k = number(key, text)?,
            SettingKey::MinP => draft.min_p = number(key, text)?,
            SettingKey::RepetitionPenalty => draft.repetition_penalty = number(key, text)?,
            SettingKey::PresencePenalty => draft.presence_penalty = number(key, text)?,
            SettingKey::FrequencyPenalty => draft.frequency_penalty = number(key, text)?,
            SettingKey::Seed if text == "none" => draft.seed = None,
            SettingKey::Seed => draft.seed = Some(number(key, text)?),
            SettingKey::MaxTokens => self.max_tokens = number(key, text)?,
        }
        self.sampling = draft.validate().map_err(|error| SettingError::OutOfRange {
            key,
            expected: error.expected,
            found: text.to_owned(),
        })?;
        Ok(())
    }

    /// Goes on with another model: what stands as the one before had it becomes as the next has it.
    pub(super) fn follow(&mut self, before: &SamplingDraft, next: &SamplingDraft) {
        fn follow<T: Copy + PartialEq>(mine: &mut T, before: T, next: T) {
            if *mine == before {
                *mine = next;
            }
        }
        let mut draft = SamplingDraft::clone(&self.sampling);
        follow(&mut draft.temperature, before.temperature, next.temperature);
        follow(&mut draft.top_k, before.top_k, next.top_k);
        follow(&mut draft.top_p, before.top_p, next.top_p);
        follow(&mut draft.min_p, before.min_p, next.min_p);
        follow(&mut draft.repetition_penalty, before.repetition_penalty, next.repetition_penalty);
        self.sampling = draft.validate().expect("both were valid");
    }

    /// The value as [`Settings::set`] takes it.
    pub fn get(&self, key: SettingKey) -> String {
        let sampling = &self.sampling;
        match key {
            SettingKey::Temperature => sampling.temperature.to_string(),
            SettingKey::TopP => sampling.top_p.to_string(),
            SettingKey::TopK => sampling.top_k.to_string(),
            SettingKey::MinP => sampling.min_p.to_string(),
            SettingKey::RepetitionPenalty => sampling.repetition_penalty.to_string(),
            SettingKey::PresencePenalty => sampling.presence_penalty.to_string(),
            SettingKey::FrequencyPenalty => sampling.frequency_penalty.to_string(),
            SettingKey::Seed => sampling.seed.map_or("none".to_owned(), |seed| seed.to_string()),
            SettingKey::MaxTokens => self.max_tokens.to_string(),
        }
    }
}

fn number<T: FromStr>(key: SettingKey, text: &str) -> Result<T, SettingError> {
    text.parse().map_err(|_| SettingError::NotAValue { key, found: text.to_owned() })
}

/// A setting by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKey {
    Temperature,
    TopP,
    TopK,
    MinP,
    RepetitionPenalty,
    PresencePenalty,
    FrequencyPenalty,
    Seed,
    MaxTokens,
}

impl SettingKey {
    pub const ALL: [Self; 9] = [
        Self::Temperature,
        Self::TopP,
        Self::TopK,
        Self::MinP,
        Self::RepetitionPenalty,
        Self::PresencePenalty,
        Self::FrequencyPenalty,
        Self::Seed,
        Self::MaxTokens,
    ];

    /// The name every API uses for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::TopK => "top_k",
            Self::MinP => "min_p",
            Self::RepetitionPenalty => "repetition_penalty",
            Self::PresencePenalty => "presence_penalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::Seed => "seed",
            Self::MaxTokens => "max_tokens",
        }
    }

    fn expects(self) -> &'static str {
        match self {
            Self::TopK => "a whole number, 0 for all",
            Self::Seed => "a whole number, or none to draw one for each reply",
            Self::MaxTokens => "a whole number above 0",
            _ => "a number",
        }
    }
}

/// Why a setting stays as it was.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingError {
    #[error("`{}` takes {}, not `{found}`", key.as_str(), key.expects())]
    NotAValue { key: SettingKey, found: String },
    #[error("`{}` must be {expected}, not {found}", key.as_str())]
    OutOfRange { key: SettingKey, expected: &'static str, found: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(SamplingDraft::default().validate().unwrap())
    }

    #[test]
    fn every_setting_takes_what_it_shows() {
        for key in SettingKey::ALL {
            let mut changed = settings();
            changed.set(key, &settings().get(key)).unwrap();
            assert_eq!(changed, settings(), "{key:?}");

            let value =
                if matches!(key, SettingKey::TopP | SettingKey::MinP) { "0.5" } else { "2" };
            changed.set(key, value).unwrap();
            assert_eq!(changed.get(key), value);
            assert_ne!(changed, settings(), "{key:?}");
        }
    }

    #[test]
    fn another_model_brings_its_own_settings_and_leaves_what_was_set() {
        let mut settings = settings();
        settings.set(SettingKey::TopP, "0.5").unwrap();
        let before = SamplingDraft::default();
        let next = SamplingDraft { temperature: 0.3, top_p: 0.9, top_k: 40, ..before.clone() };
        settings.follow(&before, &next);
        let now = |key| settings.get(key);
        assert_eq!(now(SettingKey::Temperature), "0.3");
        assert_eq!(now(SettingKey::TopK), "40");
        assert_eq!(now(SettingKey::TopP), "0.5");
    }

    #[test]
    fn refused_values_change_nothing_and_say_what_fits() {
        let cases = [
            (SettingKey::Temperature, "warm", "`temperature` takes a number, not `warm`"),
            (SettingKey::Temperature, "2.5", "`temperature` must be from 0 to 2, not 2.5"),
            (SettingKey::Temperature, "NaN", "`temperature` must be from 0 to 2, not NaN"),
            (SettingKey::TopK, "-1", "`top_k` takes a whole number, 0 for all, not `-1`"),
            (SettingKey::MaxTokens, "0", "`max_tokens` takes a whole number above 0, not `0`"),
        ];
        for (key, value, message) in cases {
            let mut changed = settings();
            assert_eq!(changed.set(key, value).unwrap_err().to_string(), message);
            assert_eq!(changed, settings());
        }
    }
}
