//! What a reader has learned: for each question ("which feelings?") a linear model over hashed
//! features, and the file that holds them.
//!
//! A text's features weigh as in TF-IDF: the rarer in training the heavier, all together of length
//! one. A score is their sum under an output's weights; Platt's line (Platt 1999) makes it a
//! probability, and a threshold a decision. Weights are 8-bit with one scale an output.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// The first bytes of the file.
const MAGIC: &[u8; 8] = b"rapread1";
/// Steps of the stored weight of a feature.
const STEPS_PER_IDF: f32 = 16.0;

/// Why a file is no reader.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReaderError {
    #[error("this is no reader's file: it does not begin with `rapread1`")]
    Magic,
    #[error("the reader's file ends inside {part}: it was cut; bring or train it again")]
    Cut { part: &'static str },
    #[error("the reader's file is damaged in {part}; bring or train it again")]
    Damaged { part: &'static str },
    #[error("the reader has no head `{name}`; train it with the recipe of this version")]
    Missing { name: &'static str },
}

/// One output of a [`Head`].
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub label: String,
    /// What a weight of 1 means.
    pub(super) scale: f32,
    pub(super) bias: f32,
    /// Platt's line: the log-odds are `slope * score + offset`.
    pub(super) slope: f32,
    pub(super) offset: f32,
    /// The probability from which on it is said.
    pub threshold: f32,
}

impl Output {
    pub(super) fn probability(&self, score: f32) -> f32 {
        1.0 / (1.0 + (-(self.slope * score + self.offset)).exp())
    }
}

/// A linear model over hashed features, with several outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub(super) outputs: Vec<Output>,
    /// Hashes of the features that count, ascending.
    pub(super) features: Vec<u32>,
    /// The weight of each feature in a text before normalising, in steps.
    pub(super) idf: Vec<u8>,
    /// (feature, output), row-major.
    pub(super) weights: Vec<i8>,
}

/// The stored weight of a feature that `n_documents` of `n` texts have.
pub(super) fn idf_steps(n: usize, n_documents: u32) -> u8 {
    let idf = (n as f32 / n_documents as f32).ln() + 1.0;
    (idf * STEPS_PER_IDF).round().clamp(1.0, 255.0) as u8
}

/// The features of a text that `known` has, as places in it and values; the values have length one.
pub(super) fn vector(known: &[u32], idf: &[u8], features: &[u32]) -> Vec<(u32, f32)> {
    let mut vector: Vec<(u32, f32)> = features
        .iter()
        .filter_map(|feature| known.binary_search(feature).ok())
        .map(|at| (at as u32, f32::from(idf[at])))
        .collect();
    let length = vector.iter().map(|(_, value)| value * value).sum::<f32>().sqrt().max(1.0);
    for (_, value) in &mut vector {
        *value /= length;
    }
    vector
}

impl Head {
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The score of each output.
    fn scores(&self, features: &[u32]) -> Vec<f32> {
        let mut sums = vec![0.0; self.outputs.len()];
        for (at, value) in vector(&self.features, &self.idf, features) {
            let row = &self.weights[at as usize * sums.len()..][..sums.len()];
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += value * f32::from(*weight);
            }
        }
        let scores = sums.iter().zip(&self.outputs);
        scores.map(|(sum, output)| sum * output.scale + output.bias).collect()
    }

    /// The probability of each output, each on its own.
    pub fn probabilities(&self, features: &[u32]) -> Vec<f32> {
        let scores = self.scores(features);
        self.outputs.iter().zip(scores).map(|(output, score)| output.probability(score)).collect()
    }

    /// Probabilities of outputs of which exactly one is right: they sum to one.
    pub fn shares(&self, features: &[u32]) -> Vec<f32> {
        let mut shares = self.probabilities(features);
        let sum = shares.iter().sum::<f32>().max(f32::MIN_POSITIVE);
        for share in &mut shares {
            *share /= sum;
        }
        shares
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        push_u32(bytes, self.outputs.len());
        for output in &self.outputs {
            push_text(bytes, &output.label);
            for number in [output.scale, output.bias, output.slope, output.offset, output.threshold]
            {
                bytes.extend(number.to_le_bytes());
            }
        }
        push_u32(bytes, self.features.len());
        bytes.extend(self.features.iter().flat_map(|feature| feature.to_le_bytes()));
        bytes.extend(&self.idf);
        bytes.extend(self.weights.iter().map(|weight| weight.cast_unsigned()));
    }

    fn read(bytes: &mut Bytes<'_>) -> Result<Self, ReaderError> {
        let n_outputs = bytes.u32("the number of outputs")? as usize;
        let mut outputs = Vec::new();
        for _ in 0..n_outputs {
            let label = bytes.text("an output's label")?;
            let mut number = || bytes.f32("an output's numbers");
            let (scale, bias, slope) = (number()?, number()?, number()?);
            let (offset, threshold) = (number()?, number()?);
            if [scale, bias, slope, offset, threshold].iter().any(|number| !number.is_finite()) {
                return Err(ReaderError::Damaged { part: "an output's numbers" });
            }
            outputs.push(Output { label, scale, bias, slope, offset, threshold });
        }
        let n_features = bytes.u32("the number of features")? as usize;
        let features = bytes.take(n_features.saturating_mul(4), "the features")?;
        let features: Vec<u32> =
            features.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        if !features.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(ReaderError::Damaged { part: "the features" });
        }
        let idf = bytes.take(n_features, "the features' weights")?.to_vec();
        let weights = bytes.take(n_features.saturating_mul(n_outputs), "the weights")?;
        let weights = weights.iter().map(|weight| weight.cast_signed()).collect();
        Ok(Self { outputs, features, idf, weights })
    }
}

/// All that a reader has learned, by the question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heads(pub BTreeMap<String, Head>);

impl Heads {
    /// The file: heads by name, then the SHA-256 of all before.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        push_u32(&mut bytes, self.0.len());
        for (name, head) in &self.0 {
            push_text(&mut bytes, name);
            head.write(&mut bytes);
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    /// # Errors
    /// If this is not the whole of a reader's file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReaderError> {
        if !bytes.starts_with(MAGIC) {
            return Err(ReaderError::Magic);
        }
        let (body, digest) = bytes
            .split_at_checked(bytes.len().saturating_sub(32))
            .ok_or(ReaderError::Cut { part: "its checksum" })?;
        let mut rest = Bytes(body.strip_prefix(MAGIC).ok_or(ReaderError::Magic)?);
        let n_heads = rest.u32("the number of heads")?;
        let mut heads = BTreeMap::new();
        for _ in 0..n_heads {
            let name = rest.text("a head's name")?;
            heads.insert(name, Head::read(&mut rest)?);
        }
        if !rest.0.is_empty() || Sha256::digest(body)[..] != *digest {
            return Err(ReaderError::Damaged { part: "its checksum" });
        }
        Ok(Self(heads))
    }

    pub(super) fn take(&mut self, name: &'static str) -> Result<Head, ReaderError> {
        self.0.remove(name).ok_or(ReaderError::Missing { name })
    }
}

fn push_u32(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend((number as u32).to_le_bytes());
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    push_u32(bytes, text.len());
    bytes.extend(text.as_bytes());
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize, part: &'static str) -> Result<&'a [u8], ReaderError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(ReaderError::Cut { part })?;
        self.0 = rest;
        Ok(taken)
    }

    fn word(&mut self, part: &'static str) -> Result<[u8; 4], ReaderError> {
        let word = self.take(4, part)?;
        word.first_chunk().copied().ok_or(ReaderError::Cut { part })
    }

    fn u32(&mut self, part: &'static str) -> Result<u32, ReaderError> {
        self.word(part).map(u32::from_le_bytes)
    }

    fn f32(&mut self, part: &'static str) -> Result<f32, ReaderError> {
        self.word(part).map(f32::from_le_bytes)
    }

    fn text(&mut self, part: &'static str) -> Result<String, ReaderError> {
        let n = self.u32(part)? as usize;
        let text = self.take(n, part)?.to_vec();
        String::from_utf8(text).map_err(|_| ReaderError::Damaged { part })
    }
}
