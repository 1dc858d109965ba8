//! Search in one's own conversations.
//!
//! A substring search over folded text: the same on both databases, and the one form of search
//! that finds Japanese without a dictionary (word indexes do not split it, and three-letter
//! indexes miss its two-letter words). It reads the messages of one person only; a full-text index
//! would have to pay for itself against that.

use serde::Serialize;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable};
use crate::{ConversationId, Error, MessageId, Store, UnixMs, UserId};

/// A search has at most this many words, and this many characters in all.
const MAX_WORDS: usize = 6;
const MAX_CHARACTERS: usize = 200;
/// How much of a message a hit shows, in characters.
const SNIPPET_CHARACTERS: usize = 160;

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    pub conversation: ConversationId,
    pub title: String,
    /// `None` when the title was found.
    pub message: Option<MessageId>,
    /// The text around the first word found, that between U+0002 and U+0003; empty for a title.
    pub snippet: String,
    pub at: UnixMs,
}

impl Store {
    /// The newest titles, then the newest messages, that hold every word of `text`, without regard
    /// to case or full width. At most `limit` of each.
    pub async fn search(&self, owner: UserId, text: &str, limit: u32) -> Result<Vec<Hit>, Error> {
        let folded: String = fold(&storable(text)).chars().take(MAX_CHARACTERS).collect();
        let words: Vec<&str> = folded.split_whitespace().take(MAX_WORDS).collect();
        let Some(first) = words.first() else { return Ok(Vec::new()) };
        let pattern = |idx: usize| words.get(idx).map_or_else(|| "%".to_owned(), |word| like(word));
        let bind_words = |mut query: sqlx::query::Query<'static, sqlx::Any, _>| {
            query = query.bind(owner.to_string()).bind(i64::from(limit));
            (0..MAX_WORDS).fold(query, |query: sqlx::query::Query<'static, _, _>, idx| {
                query.bind(pattern(idx))
            })
        };

        let titles = bind_words(sqlx::query(
            r"SELECT id AS conversation_id, title, updated_at_ms AS at_ms FROM conversations
              WHERE owner_id = $1
              AND title_key LIKE $3 ESCAPE '\' AND title_key LIKE $4 ESCAPE '\'
              AND title_key LIKE $5 ESCAPE '\' AND title_key LIKE $6 ESCAPE '\'
              AND title_key LIKE $7 ESCAPE '\' AND title_key LIKE $8 ESCAPE '\'
              ORDER BY updated_at_ms DESC, id DESC LIMIT $2",
        ))
        .fetch_all(&self.read)
        .await?;
        let messages = bind_words(sqlx::query(
            r"SELECT messages.id, conversation_id, title, content, messages.created_at_ms AS at_ms
              FROM messages JOIN conversations ON conversations.id = conversation_id
              WHERE messages.owner_id = $1 AND role <> 'system'
              AND COALESCE(search_key, content) LIKE $3 ESCAPE '\'
              AND COALESCE(search_key, content) LIKE $4 ESCAPE '\'
              AND COALESCE(search_key, content) LIKE $5 ESCAPE '\'
              AND COALESCE(search_key, content) LIKE $6 ESCAPE '\'
              AND COALESCE(search_key, content) LIKE $7 ESCAPE '\'
              AND COALESCE(search_key, content) LIKE $8 ESCAPE '\'
              ORDER BY messages.created_at_ms DESC, messages.id DESC LIMIT $2",
        ))
        .fetch_all(&self.read)
        .await?;

        let title_hit = |row: &AnyRow| {
            Ok(Hit {
                conversation: row.parsed("conversation_id")?,
                title: row.text("title")?,
                message: None,
                snippet: String::new(),
                at: row.time("at_ms")?,
            })
        };
        let message_hit = |row: &AnyRow| {
            Ok(Hit {
                message: Some(row.parsed("id")?),
                snippet: snippet(&row.text("content")?, first),
                ..title_hit(row)?
            })
        };
        titles.iter().map(title_hit).chain(messages.iter().map(message_hit)).collect()
    }
}

/// Text without the differences search ignores: lower case, and full-width forms as narrow ones.
pub(crate) fn fold(text: &str) -> String {
    text.chars().flat_map(fold_character).collect()
}

fn fold_character(character: char) -> impl Iterator<Item = char> {
    const FULL_WIDTH_TO_ASCII: u32 = 0xFEE0;
    let narrow = match character {
        '\u{FF01}'..='\u{FF5E}' => {
            char::from_u32(u32::from(character) - FULL_WIDTH_TO_ASCII).unwrap_or(character)
        }
        '\u{3000}' => ' ',
        other => other,
    };
    narrow.to_lowercase()
}

/// The folded text, or `None` where it equals the text and need not be stored twice.
pub(crate) fn search_key(text: &str) -> Option<String> {
    let folded = fold(text);
    (folded != text).then_some(folded)
}

/// A pattern that matches texts that contain `word`, whatever is in it.
fn like(word: &str) -> String {
    let mut pattern = "%".to_owned();
    for character in word.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// What stands before and after a word that was found.
const MARKS: [char; 2] = ['\u{2}', '\u{3}'];

/// The part of `text` around the first place where it folds to `word`, whole characters, that place
/// between [`MARKS`].
fn snippet(text: &str, word: &str) -> String {
    // Folding may change lengths, so places are counted in folded characters that remember theirs.
    let characters: Vec<char> = text.chars().collect();
    let folded: Vec<(char, usize)> = characters
        .iter()
        .enumerate()
        .flat_map(|(idx, &character)| fold_character(character).map(move |folded| (folded, idx)))
        .collect();
    let word: Vec<char> = word.chars().collect();
    let place = folded
        .windows(word.len().max(1))
        .find(|window| window.iter().map(|&(folded, _)| folded).eq(word.iter().copied()))
        .map(|window| (window[0].1, window[window.len() - 1].1 + 1));
    let (first, last) = place.unwrap_or((0, 0));
    let start = first.saturating_sub(SNIPPET_CHARACTERS / 4);
    let end = characters.len().min(start + SNIPPET_CHARACTERS);
    let last = last.min(end);
    // Marks that were typed would be taken for ours.
    let part = |from: usize, to: usize| {
        characters[from..to]
            .iter()
            .filter(|character| !MARKS.contains(character))
            .collect::<String>()
    };
    if place.is_none() {
        return part(start, end);
    }
    let [open, close] = MARKS;
    format!("{}{open}{}{close}{}", part(start, first), part(first, last), part(last, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn folding_ignores_case_and_width() {
        assert_eq!(fold("ＡＢＣ　Ünïcode 東京"), "abc ünïcode 東京");
        assert_eq!(search_key("東京 tower"), None);
    }

    #[test]
    fn a_pattern_takes_nothing_as_a_wildcard() {
        assert_eq!(like(r"50%_a\b"), r"%50\%\_a\\b%");
    }

    #[test]
    fn a_snippet_holds_the_word() {
        let text = format!("{}İstanbul と東京タワー{}", "あ".repeat(300), "い".repeat(300));
        let snippet = snippet(&text, "東京");
        assert!(snippet.contains("\u{2}東京\u{3}タワー"));
        assert_eq!(snippet.chars().count(), SNIPPET_CHARACTERS + MARKS.len());
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in "\\PC{0,40}") {
            prop_assert_eq!(fold(&fold(&text)), fold(&text));
        }

        #[test]
        fn no_text_breaks_a_snippet(text in "\\PC{0,400}", word in "\\PC{1,5}") {
            let n_characters = snippet(&text, &word).chars().count();
            prop_assert!(n_characters <= SNIPPET_CHARACTERS + MARKS.len());
        }
    }
}
