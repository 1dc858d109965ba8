//! How the makers of a model would have it sampled.
//!
//! A GGUF file says it in `general.sampling.*`, as llama.cpp reads them; an adapter's folder in
//! `generation_config.json`, as `transformers` writes it. Penalties of presence and frequency, and the
//! order of the samplers, are not read.

use std::io;
use std::path::{Path, PathBuf};

use rapport_types::{InvalidSampling, SamplingDraft};
use serde::{Deserialize, Serialize};

use crate::gguf::{GgufError, Metadata};

/// The file beside an adapter.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// Why advice cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum AdviceError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: {source}", file.display())]
    Json { file: PathBuf, source: serde_json::Error },
    #[error("{}: {source}", file.display())]
    Value { file: PathBuf, source: InvalidSampling },
}

/// What was said; `None` leaves a setting as it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SamplingAdvice {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
}

#[derive(Serialize)]
struct Written {
    do_sample: bool,
    #[serde(flatten)]
    advice: SamplingAdvice,
}

impl SamplingAdvice {
    /// What a GGUF file says.
    ///
    /// # Errors
    /// A key holds something else than a number.
    pub fn of_gguf(metadata: Metadata<'_>) -> Result<Self, GgufError> {
        let number = |name: &str| metadata.optional_f32(&format!("general.sampling.{name}"));
        Ok(Self {
            temperature: number("temp")?,
            top_k: metadata.optional_u32("general.sampling.top_k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("penalty_repeat")?,
        })
    }

    /// What stands beside an adapter: nothing, where there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON of this form, or a number is outside its range.
    pub fn of_folder(folder: &Path) -> Result<Self, AdviceError> {
        let file = folder.join(GENERATION_CONFIG);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(AdviceError::Io { file, source }),
        };
        let advice: Self = match serde_json::from_str(&text) {
            Ok(advice) => advice,
            Err(source) => return Err(AdviceError::Json { file, source }),
        };
        match advice.over(SamplingDraft::default()).validate() {
            Ok(_) => Ok(advice),
            Err(source) => Err(AdviceError::Value { file, source }),
        }
    }

    /// Writes it for [`SamplingAdvice::of_folder`] and `transformers`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(self, folder: &Path) -> Result<(), AdviceError> {
        let file = folder.join(GENERATION_CONFIG);
        // `transformers` samples only where it is told to.
        let written = Written { do_sample: self.temperature != Some(0.0), advice: self };
        let text = serde_json::to_string_pretty(&written)
            .map_err(|source| AdviceError::Json { file: file.clone(), source })?;
        std::fs::write(&file, text + "\n").map_err(|source| AdviceError::Io { file, source })
    }

    /// The settings with what was said in their place.
    #[must_use]
    pub fn over(self, settings: SamplingDraft) -> SamplingDraft {
        SamplingDraft {
            temperature: self.temperature.unwrap_or(settings.temperature),
            top_k: self.top_k.unwrap_or(settings.top_k),
            top_p: self.top_p.unwrap_or(settings.top_p),
            min_p: self.min_p.unwrap_or(settings.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(settings.repetition_penalty),
            ..settings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_what_it_says_and_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(SamplingAdvice::of_folder(folder.path()).unwrap(), SamplingAdvice::default());

        let text = r#"{ "temperature": 0.3, "do_sample": true, "eos_token_id": [2] }"#;
        std::fs::write(folder.path().join(GENERATION_CONFIG), text).unwrap();
        let advice = SamplingAdvice::of_folder(folder.path()).unwrap();
        advice.save(folder.path()).unwrap();
        assert_eq!(SamplingAdvice::of_folder(folder.path()).unwrap(), advice);
        let expected = SamplingDraft { temperature: 0.3, ..SamplingDraft::default() };
        assert_eq!(advice.over(SamplingDraft::default()), expected);
    }

    #[test]
    fn what_cannot_be_followed_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(GENERATION_CONFIG);
        for (text, expected) in [
            ("{ \"temperature\": 3.5 }", "`temperature` is 3.5: it must be from 0 to 2"),
            ("{ \"top_p\": \"much\" }", "invalid type: string \"much\", expected f32"),
            ("{", "EOF while parsing"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = SamplingAdvice::of_folder(folder.path()).unwrap_err().to_string();
            assert!(error.starts_with(&*file.to_string_lossy()), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }
}
