//! Whether a reply reads the person's feeling.

use super::Known;
use super::specific::{general_share, is_general, n_taken_up};
use super::text::Text;

/// Feelings that want the same of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Sorrow,
    Fear,
    Anger,
    Shame,
    Joy,
    Pride,
    Fondness,
    Fun,
    Wonder,
    Neutral,
}

impl Family {
    /// The family of one of [`crate::reading::labels::FEELINGS`]; of any other word, [`Family::Neutral`].
    pub fn of(feeling: &str) -> Self {
        match feeling {
            "sadness" | "grief" | "disappointment" => Self::Sorrow,
            "fear" | "nervousness" => Self::Fear,
            "anger" | "annoyance" | "disapproval" | "disgust" => Self::Anger,
            "embarrassment" | "remorse" => Self::Shame,
            "joy" | "excitement" | "relief" | "gratitude" | "optimism" => Self::Joy,
            "pride" | "admiration" | "approval" => Self::Pride,
            "love" | "caring" | "desire" => Self::Fondness,
            "amusement" => Self::Fun,
            "curiosity" | "confusion" | "surprise" | "realization" => Self::Wonder,
            _ => Self::Neutral,
        }
    }

    pub(super) fn is_low(self) -> bool {
        matches!(self, Self::Sorrow | Self::Fear | Self::Anger | Self::Shame)
    }

    pub(super) fn is_high(self) -> bool {
        matches!(self, Self::Joy | Self::Pride | Self::Fun)
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Sorrow => &[
                "ache",
                "aches",
                "alone",
                "blow",
                "cry",
                "crying",
                "deflating",
                "disappointed",
                "disappointing",
                "disappointment",
                "empty",
                "gone",
                "grief",
                "grieving",
                "hard",
                "heartbreaking",
                "heavy",
                "hurt",
                "hurting",
                "hurts",
                "let down",
                "lonely",
                "lose",
                "losing",
                "loss",
                "lost",
                "low",
                "miss",
                "missed",
                "missing",
                "mourn",
                "rough",
                "sad",
                "sadness",
                "sore",
                "sorrow",
                "sting",
                "stings",
                "tears",
                "tired",
                "unfair",
                "worn",
            ],
            Self::Fear => &[
                "afraid",
                "alarming",
                "anxious",
                "danger",
                "dread",
                "fear",
                "frightened",
                "frightening",
                "knot",
                "nerves",
                "nervous",
                "panic",
                "scared",
                "scary",
                "shaking",
                "shaky",
                "tense",
                "uncertain",
                "unsettling",
                "waiting",
                "worried",
                "worry",
                "worrying",
            ],
            Self::Anger => &[
                "anger",
                "angry",
                "annoyed",
                "annoying",
                "betrayal",
                "betrayed",
                "cheek",
                "cross",
                "disgusting",
                "disrespect",
                "fed up",
                "frustrated",
                "frustrating",
                "furious",
                "gall",
                "grim",
                "infuriating",
                "insult",
                "irritating",
                "mad",
                "maddening",
                "mean",
                "nerve",
                "patience",
                "rage",
                "rude",
                "unfair",
                "wrong",
            ],
            Self::Shame => &[
                "apologise",
                "apologize",
                "ashamed",
                "awkward",
                "blush",
                "blushing",
                "conscience",
                "cringe",
                "embarrassed",
                "embarrassing",
                "forgive",
                "guilt",
                "guilty",
                "mistake",
                "mortifying",
                "regret",
                "shame",
                "sting",
                "stings",
                "undo",
            ],
            Self::Joy => &[
                "at last",
                "breathe",
                "celebrate",
                "congratulations",
                "delight",
                "delighted",
                "excited",
                "exciting",
                "finally",
                "glad",
                "good news",
                "grateful",
                "great",
                "happy",
                "hooray",
                "hurray",
                "joy",
                "joyful",
                "lovely",
                "lucky",
                "marvellous",
                "nice",
                "relief",
                "relieved",
                "splendid",
                "sweet",
                "thankful",
                "thrilled",
                "well done",
                "wonderful",
            ],
            Self::Pride => &[
                "achieved",
                "achievement",
                "bravo",
                "brave",
                "congratulations",
                "deserve",
                "deserved",
                "earned",
                "good for",
                "hard work",
                "nicely done",
                "pride",
                "proud",
                "well done",
            ],
            Self::Fondness => &[
                "care", "cares", "caring", "close", "dear", "fond", "gentle", "hope", "hoping",
                "kind", "long", "longing", "love", "loved", "loves", "loving", "miss", "tender",
                "want", "wanting", "wish",
            ],
            Self::Fun => &[
                "absurd",
                "cheeky",
                "comic",
                "funny",
                "giggle",
                "grin",
                "ha",
                "haha",
                "hilarious",
                "joke",
                "laugh",
                "laughing",
                "ridiculous",
                "silly",
            ],
            Self::Wonder | Self::Neutral => &[],
        }
    }

    /// Phrases that answer the opposite of this feeling.
    pub(super) fn opposed(self) -> &'static [&'static str] {
        if self.is_low() {
            &[
                "a pleasure",
                "an honor",
                "an honour",
                "congratulations",
                "enjoy your",
                "exciting",
                "fantastic",
                "glad to hear",
                "great job",
                "great news",
                "happy for you",
                "happy to hear",
                "hooray",
                "how exciting",
                "how lovely",
                "how wonderful",
                "sounds fun",
                "sounds great",
                "that's great",
                "that's fantastic",
                "that's wonderful",
                "wonderful news",
                "wonderful to hear",
                "beautiful day",
            ]
        } else if self.is_high() {
            &[
                "condolences",
                "difficult time",
                "hard time",
                "i apologize",
                "i'm sorry",
                "must be difficult",
                "must be hard",
                "so sorry",
                "sorry for your loss",
                "sorry to hear",
                "tough time",
                "unfortunate",
                "unfortunately",
            ]
        } else {
            &[]
        }
    }
}

/// Phrases that fit everybody and so speak to nobody.
pub(super) const STOCK: &[&str] = &[
    "be kind to yourself",
    "completely valid",
    "don't be so hard on yourself",
    "don't hesitate",
    "every step",
    "everything happens for",
    "feel free to",
    "feelings are valid",
    "great question",
    "healing journey",
    "here for you",
    "here to help",
    "here to listen",
    "human experience",
    "i understand how",
    "i understand that",
    "it's important to",
    "it's normal to",
    "it's not uncommon",
    "it's okay to",
    "it's understandable",
    "life goes on",
    "look on the bright side",
    "must be difficult",
    "must be hard",
    "must be so",
    "must be very",
    "must have been",
    "not alone",
    "one day at a time",
    "part of life",
    "perfectly normal",
    "perfectly valid",
    "powerful reminder",
    "reach out",
    "reminder of",
    "reminder that",
    "rollercoaster",
    "self care",
    "silver lining",
    "sorry for your loss",
    "sorry that you're",
    "sorry to hear",
    "stay positive",
    "stay strong",
    "take care of yourself",
    "tapestry",
    "testament to",
    "time heals",
    "tomorrow is a new day",
    "totally valid",
    "we all make mistakes",
    "you've got this",
    "your feelings are",
];

/// `E_f[v(f)]` over the feelings of the reading, neutral ones left out; for one feeling
/// `v = 0.5 + 0.3 named (0.15 beside a stock phrase) + 0.1 min(details, 2) - 0.2 min(stock, 2) -
/// 0.6 opposed - 0.4 general`, where *named* is a word of the feeling's family in one of the first
/// three sentences, *details* the person's own words taken up, *stock* the number of stock phrases,
/// *opposed* a phrase that answers the opposite feeling, *general* the share of sentences about
/// things in general; a word in such a sentence neither names nor takes up. Halved for what is no
/// prose. `None` where nobody read a feeling, it asks for none to be answered, or the person asks for
/// a fact or a judgement.
///
/// After the rubric of EQ-Bench 3 (demonstrated empathy, validating); the words are ours. It does
/// not see a feeling that is shown and not named, irony, or whose feeling is meant. Reading the
/// reply's own feelings with [`crate::reading`] instead of *named* was measured and is worse
/// (`docs/rewards.md`): comments that sound sad are not replies that see sadness.
pub(super) fn reads_feeling(known: &Known<'_>) -> Option<f64> {
    if !known.is_personal() && known.need().is_some() && !known.is_danger || known.asks_a_matter() {
        return None;
    }
    let sentences = known.reply.sentences();
    let named_in: Vec<&Text> =
        sentences.iter().take(3).filter(|sentence| !is_general(sentence)).collect();
    let n_details = n_taken_up(&known.reply, &known.asked).min(2) as f64;
    let n_stock = known.reply.count(STOCK).min(2) as f64;
    let general = general_share(&known.reply);
    let (mut sum, mut total) = (0.0, 0.0);
    for (feeling, share) in &known.reading.feelings {
        let family = Family::of(feeling);
        if matches!(family, Family::Neutral | Family::Wonder) {
            continue;
        }
        let is_named = named_in.iter().any(|sentence| sentence.has(family.words()));
        let named = f64::from(u8::from(is_named));
        let opposed = f64::from(u8::from(known.reply.has(family.opposed())));
        let value = 0.5 + (if n_stock > 0.0 { 0.15 } else { 0.3 }) * named + 0.1 * n_details
            - 0.2 * n_stock
            - 0.6 * opposed
            - 0.4 * general;
        sum += share * value.clamp(0.0, 1.0);
        total += share;
    }
    let prose = if known.reply.is_prose() { 1.0 } else { 0.5 };
    (total > 0.25).then(|| prose * sum / total)
}
