//! Whether a reply stays who it is.

use super::style::register;
use super::{Known, Need};

/// A body, a family, a past, feelings of one's own.
const CLAIMS: &[&str] = &[
    "as a cat",
    "as a dog",
    "as a father",
    "as a friend",
    "as a furry",
    "as a human",
    "as a mother",
    "as a parent",
    "as a person",
    "breaks my heart",
    "i am crying",
    "i am human",
    "i am so happy",
    "i am so proud",
    "i ate",
    "i cried",
    "i feel great",
    "i feel sad",
    "i feel so",
    "i feel the same",
    "i feel very",
    "i feel your pain",
    "i felt",
    "i grew up",
    "i had a",
    "i love you",
    "i loved",
    "i miss you",
    "i miss my",
    "i once",
    "i remember when",
    "i remember how",
    "i remember my",
    "i saw",
    "i tried it",
    "i used to",
    "i visited",
    "i was born",
    "i was sad",
    "i was so",
    "i was there",
    "i went",
    "i'm crying",
    "i'm human",
    "i'm literally",
    "i'm sobbing",
    "i'm so happy",
    "i'm so excited",
    "i'm very happy",
    "i've always wanted",
    "i've been there",
    "i've been to",
    "i've felt",
    "i've lived",
    "last week i",
    "last year i",
    "makes me cry",
    "makes me happy",
    "makes me sad",
    "makes my day",
    "my baby",
    "my boss",
    "my boyfriend",
    "my brother",
    "my cat",
    "my childhood",
    "my children",
    "my colleagues",
    "my dad",
    "my daughter",
    "my dog",
    "my family",
    "my father",
    "my friend",
    "my friends",
    "my girlfriend",
    "my grandmother",
    "my heart",
    "my house",
    "my husband",
    "my job",
    "my kids",
    "my life",
    "my mom",
    "my mother",
    "my mum",
    "my own brother",
    "my own experience",
    "my own experiences",
    "my parents",
    "my personal",
    "my previous",
    "my school",
    "my sister",
    "my son",
    "my wife",
    "we haven't talked",
    "when i was",
    "yesterday i",
];
const BOILERPLATE: &[&str] = &[
    "ai assistant",
    "ai language",
    "as a chatbot",
    "as a language model",
    "as an ai",
    "artificial intelligence",
    "digital assistant",
    "i'm a chatbot",
    "i'm just a",
    "language model",
    "my knowledge cutoff",
    "my programming",
    "my training data",
    "virtual assistant",
];

/// `1 - 0.8 c - 0.4 b - 0.4 max(0, drift - 0.3)`: *c* is a claim of body, family, past or feeling,
/// *b* the boilerplate of a machine that was not asked for, *drift* how far the reply's register lies from the mean of
/// our own earlier turns. `None` for creative writing, whose "I" is somebody else; what stands in
/// quotation marks is not ours either.
///
/// After the consistency rewards of arXiv 2511.00222 (prompt to line, line to line), by words
/// instead of a judge: a claim in words that are not in the list is not seen, and a contradiction of
/// what we said before only where [`super::Component::NoFlattery`] sees it.
pub(super) fn character(known: &Known<'_>) -> Option<f64> {
    let is_play = known.asked.has(&["a joke", "a lie", "if you were", "poem", "pretend", "story"]);
    if known.need() == Some(Need::Create) || is_play {
        return None;
    }
    let own = known.reply.unquoted();
    let mut value = 1.0;
    if own.has(CLAIMS) {
        value -= 0.8;
    }
    let asks_what = known.asked.has(&[
        "a bot",
        "a chatbot",
        "a computer",
        "a human",
        "a person",
        "a robot",
        "ai",
        "are you real",
        "language model",
        "machine",
        "what are you",
        "who are you",
    ]);
    if own.has(BOILERPLATE) && !asks_what {
        value -= 0.4;
    }
    if !known.own.is_empty() {
        let mean = known.own.iter().map(register).sum::<f64>() / known.own.len() as f64;
        value -= 0.4 * ((register(&known.reply) - mean).abs() - 0.3).max(0.0);
    }
    Some(value)
}
