//! How a text is written, in numbers: each a pure function of the text, with its source.
//!
//! These describe; none says that more or less of something is better. English only, except for
//! length, emoji, lists and the question at the end.

use unicode_segmentation::UnicodeSegmentation;

/// The measures of one text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    pub n_words: usize,
    pub n_sentences: usize,
    /// Flesch Reading Ease (Flesch 1948): about 100 is very easy, below 30 very hard; `None` without
    /// words.
    pub reading_ease: Option<f64>,
    /// Formal minus informal markers per word, -1 to 1.
    pub formality: f64,
    /// Politeness markers (Danescu-Niculescu-Mizil et al. 2013: gratitude, please, greeting,
    /// apology, indirect request) per sentence.
    pub politeness: f64,
    /// Hedges (Hyland 1998: modal and lexical markers of doubt) per word.
    pub hedging: f64,
    /// The share of lines that are items of a list.
    pub list_density: f64,
    /// Emoji per word.
    pub emoji_density: f64,
    pub ends_with_question: bool,
    /// Exclamation marks per sentence.
    pub exclamations: f64,
}

impl Measures {
    pub fn of(text: &str) -> Self {
        let words = words(text);
        let n_sentences = sentences(text);
        let per_word = |n: usize| ratio(n as f64, words.len());
        let per_sentence = |n: usize| ratio(n as f64, n_sentences);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let n_items = lines.iter().filter(|line| is_list_item(line)).count();
        let count = |markers: &[&str]| count_phrases(&words, markers);
        let formal = count(FORMAL) as f64 - count(INFORMAL) as f64;
        let contractions = words.iter().filter(|word| word.contains('\'')).count() as f64;
        Self {
            n_words: words.len(),
            n_sentences,
            reading_ease: reading_ease(&words, n_sentences),
            formality: ratio(formal - contractions, words.len()).clamp(-1.0, 1.0),
            politeness: per_sentence(count(POLITE)),
            hedging: per_word(count(HEDGES)),
            list_density: ratio(n_items as f64, lines.len()),
            emoji_density: per_word(n_emoji(text)),
            ends_with_question: text.trim_end().ends_with(['?', '？']),
            exclamations: per_sentence(text.matches(['!', '！']).count()),
        }
    }
}

fn ratio(part: f64, n: usize) -> f64 {
    if n == 0 { 0.0 } else { part / n as f64 }
}

/// Words in lower case, with straight apostrophes.
pub fn words(text: &str) -> Vec<String> {
    text.unicode_words().map(|word| word.replace('\u{2019}', "'").to_lowercase()).collect()
}

/// Runs of text that end with a full stop, a question or exclamation mark, or a line; at least one
/// where there is a word.
pub(crate) fn sentences(text: &str) -> usize {
    text.split(['.', '!', '?', '。', '！', '？', '\n'])
        .filter(|part| part.chars().any(char::is_alphanumeric))
        .count()
}

fn is_list_item(line: &str) -> bool {
    let line = line.trim_start();
    let after_number = line.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let is_numbered = after_number.len() < line.len()
        && after_number.starts_with([')', '.'])
        && after_number[1..].starts_with(' ');
    is_numbered || ["- ", "* ", "• ", "+ "].iter().any(|bullet| line.starts_with(bullet))
}

pub(crate) fn n_emoji(text: &str) -> usize {
    let is_emoji = |character: char| {
        matches!(u32::from(character),
            0x1f300..=0x1faff | 0x2600..=0x27bf | 0x1f1e6..=0x1f1ff | 0x2b50 | 0x2b55)
    };
    text.graphemes(true).filter(|grapheme| grapheme.chars().any(is_emoji)).count()
}

pub(crate) fn count_phrases(words: &[String], phrases: &[&str]) -> usize {
    phrases
        .iter()
        .map(|phrase| {
            let phrase: Vec<&str> = phrase.split(' ').collect();
            words.windows(phrase.len()).filter(|run| run.iter().eq(phrase.iter())).count()
        })
        .sum()
}

/// Flesch Reading Ease, `206.835 - 1.015 words/sentences - 84.6 syllables/words`.
fn reading_ease(words: &[String], n_sentences: usize) -> Option<f64> {
    if words.is_empty() || n_sentences == 0 {
        return None;
    }
    let n_words = words.len() as f64;
    let n_syllables: usize = words.iter().map(|word| syllables(word)).sum();
    Some(206.835 - 1.015 * n_words / n_sentences as f64 - 84.6 * n_syllables as f64 / n_words)
}

/// Syllables of an English word by its vowel groups: a final silent `e` is none, a final `le` after
/// a consonant is one. At least one.
pub fn syllables(word: &str) -> usize {
    let letters: Vec<char> = word.chars().filter(|letter| letter.is_alphabetic()).collect();
    let is_vowel = |letter: char| matches!(letter, 'a' | 'e' | 'i' | 'o' | 'u' | 'y');
    let mut n_groups = 0;
    let mut was_vowel = false;
    for &letter in &letters {
        n_groups += usize::from(is_vowel(letter) && !was_vowel);
        was_vowel = is_vowel(letter);
    }
    let ends = |suffix: &str| word.ends_with(suffix);
    let before_le = letters.iter().rev().nth(2).copied();
    let is_silent = (ends("e") && !(ends("le") && before_le.is_some_and(|l| !is_vowel(l))))
        || ends("es")
            && !["ses", "zes", "ches", "shes", "xes", "ges", "ces"].iter().any(|s| ends(s))
        || ends("ed") && !ends("ted") && !ends("ded");
    let has_other = n_groups > 1;
    // A double vowel at the end, as in `tree`, is spoken.
    let ends_in_two = letters.iter().rev().take(2).filter(|letter| is_vowel(**letter)).count() == 2;
    (n_groups - usize::from(is_silent && has_other && !ends_in_two)).max(1)
}

/// Language style matching of two texts, 0 to 1 (Ireland and Pennebaker 2010): for each category
/// of function words `1 - |p1 - p2| / (p1 + p2 + 0.0001)` with percentages of all words, averaged
/// over the nine categories. `None` if a text has no words.
///
/// The categories are those of the paper; the words are our own lists, so values lie near those of
/// LIWC and are not the same.
pub fn style_matching(one: &str, other: &str) -> Option<f64> {
    let (one, other) = (words(one), words(other));
    if one.is_empty() || other.is_empty() {
        return None;
    }
    let percent = |words: &[String], category: &[&str]| {
        let n = words.iter().filter(|word| category.contains(&word.as_str())).count();
        100.0 * n as f64 / words.len() as f64
    };
    let sum: f64 = FUNCTION_WORDS
        .iter()
        .map(|category| {
            let (p1, p2) = (percent(&one, category), percent(&other, category));
            1.0 - (p1 - p2).abs() / (p1 + p2 + 0.0001)
        })
        .sum();
    Some(sum / FUNCTION_WORDS.len() as f64)
}

pub(crate) const FUNCTION_WORDS: [&[&str]; 9] = [
    // Articles.
    &["a", "an", "the"],
    // Prepositions.
    &[
        "about", "above", "across", "after", "against", "along", "among", "around", "at", "before",
        "behind", "below", "beneath", "beside", "between", "beyond", "by", "down", "during",
        "except", "for", "from", "in", "inside", "into", "like", "near", "of", "off", "on", "onto",
        "out", "outside", "over", "past", "since", "through", "to", "toward", "towards", "under",
        "until", "up", "upon", "with", "within", "without",
    ],
    // Auxiliary verbs.
    &[
        "am", "are", "be", "been", "being", "can", "could", "did", "do", "does", "had", "has",
        "have", "having", "i'd", "i'll", "i'm", "i've", "is", "it's", "may", "might", "must",
        "shall", "should", "that's", "there's", "they're", "was", "we're", "were", "will", "would",
        "you'll", "you're", "you've",
    ],
    // Common adverbs.
    &[
        "again",
        "almost",
        "already",
        "also",
        "always",
        "back",
        "even",
        "ever",
        "here",
        "just",
        "maybe",
        "much",
        "now",
        "often",
        "only",
        "perhaps",
        "quite",
        "really",
        "so",
        "sometimes",
        "soon",
        "still",
        "then",
        "there",
        "too",
        "very",
        "well",
        "when",
        "where",
        "why",
        "yet",
    ],
    // Conjunctions.
    &[
        "although", "and", "as", "because", "but", "if", "or", "since", "than", "though", "unless",
        "whereas", "whether", "while",
    ],
    // Personal pronouns.
    &[
        "he",
        "her",
        "hers",
        "herself",
        "him",
        "himself",
        "his",
        "i",
        "i'd",
        "i'll",
        "i'm",
        "i've",
        "me",
        "mine",
        "my",
        "myself",
        "our",
        "ours",
        "ourselves",
        "she",
        "their",
        "theirs",
        "them",
        "themselves",
        "they",
        "they're",
        "us",
        "we",
        "we're",
        "you",
        "you'll",
        "you're",
        "you've",
        "your",
        "yours",
        "yourself",
    ],
    // Impersonal pronouns.
    &[
        "another",
        "anybody",
        "anyone",
        "anything",
        "everybody",
        "everyone",
        "everything",
        "it",
        "it's",
        "its",
        "itself",
        "nobody",
        "nothing",
        "one",
        "other",
        "others",
        "somebody",
        "someone",
        "something",
        "that",
        "that's",
        "these",
        "this",
        "those",
        "what",
        "which",
        "who",
        "whom",
        "whose",
    ],
    // Negations.
    &[
        "ain't",
        "can't",
        "cannot",
        "couldn't",
        "didn't",
        "doesn't",
        "don't",
        "hadn't",
        "hasn't",
        "haven't",
        "isn't",
        "never",
        "no",
        "nobody",
        "none",
        "nor",
        "not",
        "nothing",
        "nowhere",
        "shouldn't",
        "wasn't",
        "weren't",
        "won't",
        "wouldn't",
    ],
    // Quantifiers.
    &[
        "all", "any", "both", "each", "enough", "every", "few", "half", "least", "less", "lot",
        "lots", "many", "more", "most", "much", "none", "several", "some", "whole",
    ],
];

pub(crate) const FORMAL: &[&str] = &[
    "accordingly",
    "additionally",
    "appropriate",
    "assistance",
    "concerning",
    "consequently",
    "ensure",
    "furthermore",
    "hence",
    "however",
    "inquire",
    "moreover",
    "nevertheless",
    "obtain",
    "provide",
    "purchase",
    "regarding",
    "request",
    "require",
    "sincerely",
    "subsequently",
    "sufficient",
    "therefore",
    "thus",
    "upon",
    "whom",
];
pub(crate) const INFORMAL: &[&str] = &[
    "awesome", "btw", "bro", "cool", "cuz", "dude", "gonna", "gotta", "guys", "haha", "hey", "hi",
    "kinda", "lol", "nah", "ok", "okay", "omg", "pretty", "sorta", "stuff", "super", "tbh",
    "thing", "wanna", "wow", "ya", "yeah", "yep", "yup",
];
const POLITE: &[&str] = &[
    "please",
    "thank you",
    "thanks",
    "i appreciate",
    "sorry",
    "excuse me",
    "could you",
    "would you",
    "may i",
    "hello",
    "good morning",
    "good evening",
    "would you mind",
    "you're welcome",
];
const HEDGES: &[&str] = &[
    "about",
    "almost",
    "apparently",
    "appears",
    "around",
    "could",
    "i believe",
    "i guess",
    "i suppose",
    "i think",
    "in general",
    "kind of",
    "likely",
    "may",
    "maybe",
    "might",
    "mostly",
    "not sure",
    "often",
    "perhaps",
    "possible",
    "possibly",
    "probably",
    "roughly",
    "seem",
    "seems",
    "sort of",
    "sometimes",
    "somewhat",
    "suggest",
    "tend to",
    "usually",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The formula by hand, on counts that are plain to see.
    #[test]
    fn reading_ease_follows_its_formula() {
        let ease = Measures::of("The cat sat on the mat.").reading_ease.unwrap();
        assert!((ease - (206.835 - 1.015 * 6.0 - 84.6)).abs() < 1e-9, "{ease}");
        let hard =
            Measures::of("Institutional accountability necessitates comprehensive documentation.");
        assert!(hard.reading_ease.unwrap() < 0.0);
    }

    #[test]
    fn syllables_are_heard() {
        for (word, n) in [
            ("cat", 1),
            ("table", 2),
            ("tree", 1),
            ("stopped", 1),
            ("wanted", 2),
            ("houses", 2),
            ("rhythm", 1),
            ("beautiful", 3),
            ("the", 1),
            ("makes", 1),
            ("little", 2),
            ("bee", 1),
        ] {
            assert_eq!(syllables(word), n, "{word}");
        }
    }

    /// By hand: of nine categories only articles differ, 50 % against 0.
    #[test]
    fn style_matching_follows_its_formula() {
        let value = style_matching("the cat", "cat").unwrap();
        let articles = 1.0 - 50.0 / 50.0001;
        assert!((value - (8.0 + articles) / 9.0).abs() < 1e-12, "{value}");
        let text = "I don't really know what you mean by that, but I like it a lot.";
        assert!((style_matching(text, text).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(style_matching("", "cat"), None);
    }

    #[test]
    fn marks_of_style_are_counted() {
        let list = Measures::of("Three things:\n- milk\n- eggs\n2. bread\n");
        assert!((list.list_density - 0.75).abs() < 1e-12, "{list:?}");
        let emoji = Measures::of("well done 🎉 👩‍🚀");
        assert!((emoji.emoji_density - 1.0).abs() < 1e-12, "a joined emoji is one: {emoji:?}");
        assert!(Measures::of("Shall we?").ends_with_question);
        assert!(Measures::of("行きますか？").ends_with_question);
        let formal = Measures::of("Furthermore, we require assistance regarding the matter.");
        let casual = Measures::of("yeah we're gonna need some stuff lol");
        assert!(formal.formality > 0.3 && casual.formality < -0.3, "{formal:?} {casual:?}");
        assert!(Measures::of("Perhaps it might rain.").hedging > Measures::of("It rains.").hedging);
        assert!(Measures::of("Could you help, please?").politeness >= 2.0);
    }

    proptest! {
        #[test]
        fn any_text_has_finite_measures(text in ".{0,200}", other in ".{0,80}") {
            let measures = Measures::of(&text);
            for value in [
                measures.formality, measures.politeness, measures.hedging, measures.list_density,
                measures.emoji_density, measures.exclamations, measures.reading_ease.unwrap_or(0.0),
            ] {
                prop_assert!(value.is_finite());
            }
            if let Some(value) = style_matching(&text, &other) {
                prop_assert!((0.0..=1.0).contains(&value));
                let back = style_matching(&other, &text);
                prop_assert!(back.is_some_and(|back| (back - value).abs() < 1e-12));
            }
        }
    }
}
