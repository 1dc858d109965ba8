//! Tokens that are cut out of text before it is tokenised: control tokens of trusted text and
//! user-defined tokens of any.
//!
//! Which tokens those are and in which order they are looked for is as in llama.cpp
//! (`tokenizer_st_partition` and the lists in `llama_vocab::impl::load`): the longest first,
//! through the whole text, then the next. Differences, each to be stricter about what a user's
//! text may turn into:
//!
//! - A user-defined token of the form `<|...|>` is taken for a control token, and so is
//!   `<start_of_turn>` of any type.
//! - Markup is cut out of trusted text only: user-defined tokens that give a conversation its
//!   structure, as `<think>` and `<tool_call>` do. Such a token has the form `<...>` or `[...]`
//!   and either a chat template of the file writes it or its counterpart (`<x>` and `</x>`), or it
//!   is one of [`KNOWN_MARKUP`]. It stays user-defined otherwise: a reply shows it. All other
//!   user-defined tokens, as runs of spaces and the HTML elements of Gemma, are cut out of any
//!   text. A vocabulary without a chat template has no markup: there is no conversation whose
//!   structure could be forged.
//! - `</s>` ends a reply only if the file calls it a control token or names it by id; llama.cpp
//!   goes by its text, also where it closes an HTML element.
//!
//! Not here: the spaces that Phi-3's special tokens swallow in llama.cpp.

use std::ops::Range;

use memchr::memmem::Finder;

use super::TokenId;
use super::vocabulary::{SpecialIds, TokenKind};
use crate::chat_template::THOUGHT_TAGS;

/// A stretch of text, cut at special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Token(TokenId),
}

/// The special tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Specials {
    /// Sorted by text, for the search at a place.
    sorted: Vec<Special>,
    /// Places in `sorted`, the longest text first.
    priority: Vec<usize>,
    /// The part of `sorted` that starts with each byte.
    with_first_byte: Box<[Range<usize>; 256]>,
}

#[derive(Debug)]
struct Special {
    text: Box<[u8]>,
    id: TokenId,
    only_trusted: bool,
}

impl Specials {
    /// `templates` are the chat templates of the file.
    pub(super) fn new(texts: &[&str], kinds: &[TokenKind], templates: &[&str]) -> Self {
        let mut sorted: Vec<Special> = (0..)
            .zip(texts.iter().zip(kinds))
            .filter_map(|(id, (&text, &kind))| {
                let only_trusted = match kind {
                    TokenKind::Control | TokenKind::Unknown => true,
                    TokenKind::UserDefined => false,
                    TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
                };
                (!text.is_empty()).then(|| Special {
                    text: text.as_bytes().into(),
                    id,
                    only_trusted,
                })
            })
            .collect();
        sorted.sort_by(|one, other| one.text.cmp(&other.text));

        let mut priority: Vec<usize> = (0..sorted.len()).collect();
        priority.sort_by_key(|&at| (std::cmp::Reverse(sorted[at].text.len()), sorted[at].id));

        let with_first_byte = std::array::from_fn(|byte| {
            let start = sorted.partition_point(|special| usize::from(special.text[0]) < byte);
            let end = sorted.partition_point(|special| usize::from(special.text[0]) <= byte);
            start..end
        });
        let mut specials = Self { sorted, priority, with_first_byte: Box::new(with_first_byte) };
        if !templates.is_empty() {
            specials.distrust_markup(templates);
        }
        specials
    }

    fn distrust_markup(&mut self, templates: &[&str]) {
        let mut is_structure: Vec<bool> =
            self.sorted.iter().map(|special| is_known_markup(&special.text)).collect();
        for template in templates {
            let is_written = self.present_in(template.as_bytes(), true);
            for at in (0..self.sorted.len()).filter(|&at| is_written[at]) {
                is_structure[at] = true;
                let counterpart = counterpart(&self.sorted[at].text);
                if let Some(at) = counterpart.and_then(|text| self.position(&text)) {
                    is_structure[at] = true;
                }
            }
        }
        for (special, is_structure) in self.sorted.iter_mut().zip(is_structure) {
            special.only_trusted |= is_structure && has_tag_form(&special.text);
        }
    }

    /// The tokens that only trusted text becomes.
    pub(super) fn only_trusted(&self) -> impl Iterator<Item = TokenId> {
        self.sorted.iter().filter(|special| special.only_trusted).map(|special| special.id)
    }

    pub(super) fn find(&self, text: &[u8]) -> Option<TokenId> {
        Some(self.sorted[self.position(text)?].id)
    }

    fn position(&self, text: &[u8]) -> Option<usize> {
        self.sorted.binary_search_by(|special| (*special.text).cmp(text)).ok()
    }

    /// Cuts `text`. Tokens that need trust are found only inside one of the `trusted` ranges,
    /// which are in order and do not touch.
    pub(super) fn partition(&self, text: &str, trusted: &[Range<usize>]) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(0..text.len()));
        }
        let is_present = self.present_in(text.as_bytes(), !trusted.is_empty());
        for &at in self.priority.iter().filter(|&&at| is_present[at]) {
            let special = &self.sorted[at];
            let finder = Finder::new(&special.text);
            let allows = |range: &Range<usize>| !special.only_trusted || is_within(trusted, range);
            fragments = fragments
                .into_iter()
                .flat_map(|fragment| match fragment {
                    Fragment::Text(range) => cut(text.as_bytes(), range, special, &finder, allows),
                    token @ Fragment::Token(_) => vec![token],
                })
                .collect();
        }
        fragments
    }

    /// Which of the special tokens occur at all, so that the others (a vocabulary may have
    /// thousands) cost one pass over the text together.
    fn present_in(&self, text: &[u8], any_trusted: bool) -> Vec<bool> {
        let mut is_present = vec![false; self.sorted.len()];
        for (start, &first) in text.iter().enumerate() {
            let mut range = self.with_first_byte[usize::from(first)].clone();
            let mut depth = 1;
            while !range.is_empty() {
                let with_prefix = &self.sorted[range.clone()];
                if with_prefix[0].text.len() == depth {
                    is_present[range.start] = any_trusted || !with_prefix[0].only_trusted;
                }
                let Some(&next) = text.get(start + depth) else { break };
                let byte_at = |special: &Special| special.text.get(depth).copied();
                let before = with_prefix.partition_point(|special| byte_at(special) < Some(next));
                let until = with_prefix.partition_point(|special| byte_at(special) <= Some(next));
                range = range.start + before..range.start + until;
                depth += 1;
            }
        }
        is_present
    }
}

fn cut(
    text: &[u8],
    range: Range<usize>,
    special: &Special,
    finder: &Finder<'_>,
    allows: impl Fn(&Range<usize>) -> bool,
) -> Vec<Fragment> {
    let mut fragments = Vec::new();
    let mut rest = range.start;
    let mut from = range.start;
    while let Some(offset) = finder.find(&text[from..range.end]) {
        let found = from + offset..from + offset + special.text.len();
        if !allows(&found) {
            from = found.start + 1;
            continue;
        }
        if rest < found.start {
            fragments.push(Fragment::Text(rest..found.start));
        }
        fragments.push(Fragment::Token(special.id));
        rest = found.end;
        from = found.end;
    }
    if rest < range.end {
        fragments.push(Fragment::Text(rest..range.end));
    }
    fragments
}

fn is_within(ranges: &[Range<usize>], inner: &Range<usize>) -> bool {
    let next = ranges.partition_point(|range| range.start <= inner.start);
    next > 0 && inner.end <= ranges[next - 1].end
}

/// Markup whether or not a chat template writes it: models are trained to write these themselves,
/// and templates may put them together from pieces. The tags of thoughts are markup as well.
const KNOWN_MARKUP: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
    "<function_call>",
    "</function_call>",
    "<answer>",
    "</answer>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
];

fn is_known_markup(text: &[u8]) -> bool {
    KNOWN_MARKUP.iter().any(|tag| tag.as_bytes() == text)
        || THOUGHT_TAGS
            .iter()
            .any(|(open, close)| [open, close].map(|tag| tag.as_bytes()).contains(&text))
}

/// `<...>` or `[...]`, with something in between and no space.
fn has_tag_form(text: &[u8]) -> bool {
    matches!(text, [b'<', _, .., b'>'] | [b'[', _, .., b']'])
        && !text.iter().any(u8::is_ascii_whitespace)
}

/// `</x>` for `<x>` and the other way round.
fn counterpart(text: &[u8]) -> Option<Vec<u8>> {
    let (&first, rest) = text.split_first()?;
    Some(match rest.strip_prefix(b"/") {
        Some(name) => [&[first], name].concat(),
        None => [&[first, b'/'], rest].concat(),
    })
}

/// Texts that are control tokens and end a reply, whatever type the file gives them.
const ENDS_BY_TEXT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    // Of code models: the end of a gap filled in, and the start of another file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Ends a reply if the file calls it a control token.
const END_IF_CONTROL: &str = "</s>";

/// Texts that are control tokens, whatever type the file gives them.
const CONTROL_BY_TEXT: &[&str] = &[
    "<start_of_turn>",
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
];

/// The kind a token has in use, given the one the file says.
pub(super) fn kind_in_use(text: &str, kind: TokenKind) -> TokenKind {
    let is_tag = text.len() > 4 && text.starts_with("<|") && text.ends_with("|>");
    if ENDS_BY_TEXT.contains(&text)
        || CONTROL_BY_TEXT.contains(&text)
        || (kind == TokenKind::UserDefined && is_tag)
    {
        TokenKind::Control
    } else {
        kind
    }
}

/// The tokens after which nothing more of a reply comes, in the order of ids.
pub(super) fn end_ids(
    specials: &Specials,
    kinds: &[TokenKind],
    named: &SpecialIds,
) -> Vec<TokenId> {
    let by_text = ENDS_BY_TEXT.iter().chain([&END_IF_CONTROL]).filter_map(|text| {
        let id = specials.find(text.as_bytes())?;
        (kinds[id as usize] == TokenKind::Control).then_some(id)
    });
    let mut ids: Vec<TokenId> =
        by_text.chain([named.eos, named.eot, named.eom].into_iter().flatten()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
