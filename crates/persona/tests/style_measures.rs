//! Measures of style against implementations that share no code with them
//! (`scripts/reference/style_measures.py`).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use rapport_persona::measures::{Measures, style_matching};
use rapport_persona::reading::score::correlation;
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    texts: Vec<Text>,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "text")]
    written: String,
    n_words: usize,
    textstat_words: usize,
    textstat_sentences: usize,
    textstat_reading_ease: f64,
    convokit_polite: usize,
    convokit_hedges: usize,
    list_density: f64,
    n_emoji: usize,
    ends_with_question: bool,
}

#[derive(Deserialize)]
struct Pair {
    one: usize,
    other: usize,
    same_lists: f64,
    convokit: f64,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("fixtures/style_measures.json")).unwrap()
}

#[test]
fn counts_are_those_of_others() {
    for text in reference().texts {
        let measures = Measures::of(&text.written);
        assert_eq!(measures.n_words, text.n_words, "{}", text.written);
        assert_eq!(measures.n_words, text.textstat_words, "{}", text.written);
        assert!((measures.list_density - text.list_density).abs() < 1e-12, "{}", text.written);
        let n_emoji = (measures.emoji_density * measures.n_words as f64).round() as usize;
        assert_eq!(n_emoji, text.n_emoji, "{}", text.written);
        assert_eq!(measures.ends_with_question, text.ends_with_question, "{}", text.written);
        // A line break ends a sentence here and not there.
        if !text.written.contains('\n') {
            assert_eq!(measures.n_sentences, text.textstat_sentences, "{}", text.written);
        }
    }
}

/// Syllables are heard in vowel groups here and in hyphenation points there, which misses some of
/// them (`rea-ly`): single texts differ, and the order of texts is the same.
#[test]
fn reading_ease_orders_texts_as_textstat_does() {
    let (ours, theirs): (Vec<f64>, Vec<f64>) = reference()
        .texts
        .iter()
        .filter(|text| !text.written.contains('\n'))
        .map(|text| (Measures::of(&text.written).reading_ease.unwrap(), text.textstat_reading_ease))
        .unzip();
    assert!(correlation(&ours, &theirs) > 0.95, "{ours:?} {theirs:?}");
}

#[test]
fn markers_are_found_where_others_find_them() {
    for text in reference().texts {
        let measures = Measures::of(&text.written);
        assert_eq!(measures.politeness > 0.0, text.convokit_polite > 0, "{}", text.written);
        if text.convokit_hedges > 0 {
            assert!(measures.hedging > 0.0, "{}", text.written);
        }
    }
}

/// The formula over the same lists is the same; over ConvoKit's categories it goes the same way.
#[test]
fn style_matching_is_the_published_one() {
    let reference = reference();
    let (mut ours, mut convokit) = (Vec::new(), Vec::new());
    for pair in &reference.pairs {
        let text = |at: usize| reference.texts[at].written.as_str();
        let value = style_matching(text(pair.one), text(pair.other)).unwrap();
        assert!((value - pair.same_lists).abs() < 1e-9, "{} {}", pair.one, pair.other);
        ours.push(value);
        convokit.push(pair.convokit);
    }
    assert!(correlation(&ours, &convokit) > 0.6);
}
