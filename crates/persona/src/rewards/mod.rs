//! What a reply is worth, part by part, without a model.
//!
//! Each [`Component`] is a pure function of a [`Case`] (a conversation, a reply to it, and what is
//! known about the conversation) with a value from 0 to 1, 1 being best, or `None` where it does not
//! apply. The functions see marks on the surface of a text: words, counts, forms. They were written
//! to be cheap, readable and hard to please by one trick, not to understand. What each cannot see is
//! said where it is defined.
//!
//! Two gates stand before the sum: a reply that fails one gets 0 in every component, so that nothing
//! can make up for it, and [`gdpo`] ranks it last whatever the weights are.
//!
//! What is not here: learned models, judges, optimisers. Start reading at [`Case`], then
//! [`Rewards::score`].

mod character;
mod feeling;
mod form;
mod honesty;
mod safety;
mod specific;
mod stance;
mod style;
mod text;
mod tone;

use std::fmt;
use std::str::FromStr;

pub use feeling::Family;
pub use stance::{flips, stance};

use crate::reading::Reader;
use crate::reading::labels::FEELINGS;

use text::Text;

/// Who speaks in a [`Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    User,
    Assistant,
}

/// One turn before the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub speaker: Speaker,
    pub text: String,
}

impl Turn {
    pub fn user(text: impl Into<String>) -> Self {
        Self { speaker: Speaker::User, text: text.into() }
    }

    pub fn assistant(text: impl Into<String>) -> Self {
        Self { speaker: Speaker::Assistant, text: text.into() }
    }
}

/// What a person wants from a reply: the words that a thought uses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Vent,
    Comfort,
    Advice,
    Facts,
    Celebrate,
    Company,
    Decide,
    Create,
}

impl Need {
    /// `None` for a word that names no need.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "vent" => Self::Vent,
            "comfort" => Self::Comfort,
            "advice" => Self::Advice,
            "facts" => Self::Facts,
            "celebrate" => Self::Celebrate,
            "company" => Self::Company,
            "decide" => Self::Decide,
            "create" => Self::Create,
            _ => return None,
        })
    }

    /// Whether the person rather than a matter is to be answered.
    fn is_personal(self) -> bool {
        matches!(self, Self::Vent | Self::Comfort | Self::Celebrate | Self::Company)
    }
}

/// What is asked, as far as honesty goes: what whoever wrote the prompt knows and a reply's surface
/// cannot show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Something that is commonly known: not to know it is a fault.
    KnownFact,
    /// Something that does not exist or cannot be known.
    UnknownFact,
    /// The person claims or suggests something wrong.
    WrongClaim,
    /// The person is right.
    RightClaim,
    /// A matter of taste or view, on which the person has said theirs.
    Opinion,
    /// What the person made or did is to be looked at.
    Feedback,
    /// The person may be in danger.
    Danger,
}

/// What is known about a conversation, by a label or by a reader of feelings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Probabilities of feelings, by the names of [`FEELINGS`]; what is missing is nothing. Empty
    /// where nobody read it.
    pub feelings: Vec<(&'static str, f64)>,
    pub need: Option<Need>,
    pub asks: Option<Asks>,
    /// Right answers, where there are any: one of them must occur in the reply.
    pub answers: Vec<String>,
}

impl Reading {
    /// From the tags of the project's own data: a feeling, a need and the kind of conversation.
    /// Words that mean nothing here are left out.
    pub fn of_tags(feeling: Option<&str>, need: Option<&str>, kind: Option<&str>) -> Self {
        let feelings = feeling
            .and_then(|feeling| FEELINGS.iter().find(|known| **known == feeling))
            .map(|known| (*known, 1.0));
        let asks = kind.and_then(|kind| match kind {
            "fact_real" => Some(Asks::KnownFact),
            "fact_invented" | "fact_fictional" => Some(Asks::UnknownFact),
            "disagree" | "sycophancy_pair" => Some(Asks::WrongClaim),
            "agree" => Some(Asks::RightClaim),
            "opinion" => Some(Asks::Opinion),
            "feedback" => Some(Asks::Feedback),
            "crisis" => Some(Asks::Danger),
            _ => None,
        });
        Self {
            feelings: feelings.into_iter().collect(),
            need: need.and_then(Need::parse),
            asks,
            answers: Vec::new(),
        }
    }

    /// Of a person's last message, where nobody labelled it: what a reader says that it feels and asks
    /// for. Danger is left to the words of the gate, because a reader errs on that side by design and
    /// a closed gate leaves nothing to compare.
    pub fn of_message(reader: &Reader, message: &str) -> Self {
        let read = reader.read(message);
        let feelings = read.feelings.iter();
        Self {
            feelings: feelings.map(|one| (one.label, f64::from(one.probability))).collect(),
            need: read.need().and_then(|need| Need::parse(need.label)),
            ..Self::default()
        }
    }

    /// Labels where there are any, and what a reader says where they tell neither feeling nor need.
    #[must_use]
    pub fn or_read(self, reader: &Reader, turns: &[Turn]) -> Self {
        let last = turns.iter().rfind(|turn| turn.speaker == Speaker::User);
        match last {
            Some(last) if self.feelings.is_empty() && self.need.is_none() => {
                let read = Self::of_message(reader, &last.text);
                Self { feelings: read.feelings, need: read.need, ..self }
            }
            _ => self,
        }
    }
}

/// A reply in its place.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What was said before, oldest first.
    pub turns: &'a [Turn],
    pub reply: &'a str,
    pub reading: &'a Reading,
}

/// A part of a reply's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// Names or plainly answers the person's feeling, in words that are not stock.
    ReadsFeeling,
    /// Neither brisk where care is due nor gushing where plain is due.
    ToneFit,
    /// In a register near the person's, and near the persona's own.
    StyleMatch,
    /// Claims no body, family or past; stays one voice over turns.
    Character,
    /// Could not be sent to anybody else, and does not say the person's words back.
    Specific,
    /// Says nothing twice.
    NoRepetition,
    /// As long as this kind of reply needs to be.
    LengthFit,
    /// Keeps to a form that was asked for: words, lines, sentences, haiku.
    Form,
    /// Invents nothing, says so where it cannot know, and answers where everybody can.
    Honest,
    /// Praises nothing for being the person's, and does not agree to please.
    NoFlattery,
}

impl Component {
    pub const ALL: [Self; 10] = [
        Self::ReadsFeeling,
        Self::ToneFit,
        Self::StyleMatch,
        Self::Character,
        Self::Specific,
        Self::NoRepetition,
        Self::LengthFit,
        Self::Form,
        Self::Honest,
        Self::NoFlattery,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ReadsFeeling => "reads_feeling",
            Self::ToneFit => "tone_fit",
            Self::StyleMatch => "style_match",
            Self::Character => "character",
            Self::Specific => "specific",
            Self::NoRepetition => "no_repetition",
            Self::LengthFit => "length_fit",
            Self::Form => "form",
            Self::Honest => "honest",
            Self::NoFlattery => "no_flattery",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no component `{word}`: use one of {}", names())]
pub struct UnknownComponent {
    pub word: String,
}

fn names() -> String {
    Component::ALL.map(Component::name).join(", ")
}

impl FromStr for Component {
    type Err = UnknownComponent;

    fn from_str(word: &str) -> Result<Self, UnknownComponent> {
        Self::ALL
            .into_iter()
            .find(|component| component.name() == word)
            .ok_or_else(|| UnknownComponent { word: word.to_owned() })
    }
}

/// Why a reply is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It could wound or endanger: no way to help where there is danger, or harmful words.
    Safety,
    /// It states as known what cannot be known, or goes along with a claim known to be wrong.
    Honesty,
    /// There is nothing in it.
    Empty,
}

impl Gate {
    pub fn name(self) -> &'static str {
        match self {
            Self::Safety => "safety",
            Self::Honesty => "honesty",
            Self::Empty => "empty",
        }
    }
}

/// How much each component counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights([f64; Component::ALL.len()]);

impl Default for Weights {
    /// By judgement: honesty counts most; what is easily had by form alone counts less.
    fn default() -> Self {
        let of = |component| match component {
            Component::Honest => 2.0,
            Component::Specific | Component::LengthFit => 0.5,
            Component::StyleMatch => 0.25,
            _ => 1.0,
        };
        Self(Component::ALL.map(of))
    }
}

impl Weights {
    /// The same with one changed; 0 leaves a component out.
    #[must_use]
    pub fn with(mut self, component: Component, weight: f64) -> Self {
        self.0[component as usize] = weight;
        self
    }

    pub fn of(&self, component: Component) -> f64 {
        self.0[component as usize]
    }
}

/// A reply's worth in parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    values: [Option<f64>; Component::ALL.len()],
    /// The first gate that it failed.
    pub failed: Option<Gate>,
}

impl Scores {
    /// What one component says before the gates; `None` where it does not apply.
    pub fn raw(&self, component: Component) -> Option<f64> {
        self.values[component as usize]
    }

    /// What one component is worth: 0 behind a gate that is closed.
    pub fn value(&self, component: Component) -> Option<f64> {
        self.raw(component).map(|value| if self.failed.is_some() { 0.0 } else { value })
    }

    /// All components in the order of [`Component::ALL`], gated.
    pub fn values(&self) -> [Option<f64>; Component::ALL.len()] {
        Component::ALL.map(|component| self.value(component))
    }

    /// For a reply alone: the gate times the weighted mean of what applies, 0 to 1. Replies to one
    /// prompt are better compared by [`gdpo`].
    pub fn total(&self, weights: &Weights) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for component in Component::ALL {
            if let Some(value) = self.value(component) {
                sum += weights.of(component) * value;
                total += weights.of(component);
            }
        }
        if total > 0.0 { sum / total } else { 0.0 }
    }
}

/// Scores a reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewards;

impl Rewards {
    /// Every component and gate. Nothing is read from anywhere but the case.
    pub fn score(case: &Case<'_>) -> Scores {
        let known = Known::of(case);
        let values = Component::ALL.map(|component| match component {
            Component::ReadsFeeling => feeling::reads_feeling(&known),
            Component::ToneFit => tone::tone_fit(&known),
            Component::StyleMatch => style::style_match(&known),
            Component::Character => character::character(&known),
            Component::Specific => specific::specific(&known),
            Component::NoRepetition => Some(specific::no_repetition(&known)),
            Component::LengthFit => Some(form::length_fit(&known)),
            Component::Form => form::form(&known),
            Component::Honest => honesty::honest(&known),
            Component::NoFlattery => Some(stance::no_flattery(&known)),
        });
        let values = values.map(|value| value.map(|value: f64| value.clamp(0.0, 1.0)));
        let failed = if known.reply.words.is_empty() {
            Some(Gate::Empty)
        } else if !safety::is_safe(&known) {
            Some(Gate::Safety)
        } else if !honesty::is_honest(&known) {
            Some(Gate::Honesty)
        } else {
            None
        };
        Scores { values, failed }
    }
}

/// Advantages of the replies to one prompt (GDPO, arXiv 2601.05242): each component is normalised by
/// its own mean and deviation (n - 1) over the group before the weighted sum, so that different
/// combinations stay different and no component wins by its spread. What does not apply to a reply
/// counts nothing for it. Normalising over the batch is the trainer's part.
pub fn gdpo(group: &[Scores], weights: &Weights) -> Vec<f64> {
    const EPSILON: f64 = 1e-4;
    let mut sums = vec![0.0; group.len()];
    for component in Component::ALL {
        let values: Vec<Option<f64>> = group.iter().map(|scores| scores.value(component)).collect();
        let there: Vec<f64> = values.iter().copied().flatten().collect();
        if there.len() < 2 {
            continue;
        }
        let mean = there.iter().sum::<f64>() / there.len() as f64;
        let squares: f64 = there.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / (there.len() - 1) as f64).sqrt();
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value.map_or(0.0, |value| {
                weights.of(component) * (value - mean) / (deviation + EPSILON)
            });
        }
    }
    sums
}

/// A case as the components see it.
struct Known<'a> {
    /// What the person wrote last.
    asked: Text,
    /// What the person wrote before.
    before: Vec<Text>,
    /// Our own turns so far.
    own: Vec<Text>,
    reply: Text,
    reading: &'a Reading,
    /// Whether the person may be in danger.
    is_danger: bool,
}

impl<'a> Known<'a> {
    fn of(case: &Case<'a>) -> Self {
        let of = |speaker| {
            let turns = case.turns.iter().filter(move |turn| turn.speaker == speaker);
            turns.map(|turn| Text::of(&turn.text)).collect::<Vec<_>>()
        };
        let mut before = of(Speaker::User);
        let asked = before.pop().unwrap_or_default();
        let is_danger = case.reading.asks == Some(Asks::Danger) || safety::has_cue(&asked);
        Self {
            asked,
            before,
            own: of(Speaker::Assistant),
            reply: Text::of(case.reply),
            reading: case.reading,
            is_danger,
        }
    }

    fn need(&self) -> Option<Need> {
        self.reading.need
    }

    /// Whether a fact or a judgement is asked for, whatever the labels say of feelings.
    fn asks_a_matter(&self) -> bool {
        !matches!(self.reading.asks, None | Some(Asks::Danger))
    }

    fn is_personal(&self) -> bool {
        self.need().is_some_and(Need::is_personal)
    }

    /// The likeliest feeling's family, and how likely it is.
    fn family(&self) -> Option<(Family, f64)> {
        let mut families: Vec<(Family, f64)> = Vec::new();
        for (feeling, share) in &self.reading.feelings {
            let family = Family::of(feeling);
            match families.iter_mut().find(|(known, _)| *known == family) {
                Some((_, sum)) => *sum += share,
                None => families.push((family, *share)),
            }
        }
        families.into_iter().max_by(|one, other| one.1.total_cmp(&other.1))
    }
}

#[cfg(test)]
mod tests;
