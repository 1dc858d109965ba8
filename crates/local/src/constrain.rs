//! Answers in a form that was asked for: JSON by a schema, a regular expression, a grammar.
//!
//! The `llguidance` crate says which tokens may come next, over a trie of the model's own
//! vocabulary. It is given only what is within the limits here, and everything fails closed: a
//! format that cannot be used is an error before there is any token, and one that is lost on the
//! way ends the reply with an error. There is no way from a format to free text.
//!
//! What is not here: a check of finished answers (the mask is the check), reading of schemas from
//! files or from the net (a reference goes within its schema), any taste of our own about schemas.
//!
//! Start reading at [`prepare`], then [`Constrained`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, SimpleVob, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use rapport_engine::Constraint;
use rapport_model::tokenizer::{TokenKind, Tokenizer};
use rapport_types::{FormatError, FormatKind, GenerateError, OutputFormat, Tools};
use serde_json::{Value, json};

use crate::Language;
use crate::tools;

/// The longest schema or grammar read; those of large public APIs have some 100 kB.
pub(crate) const MAX_SOURCE_BYTES: usize = 256 << 10;
/// The longest regular expression read: each of its characters may become many states.
const MAX_REGEX_BYTES: usize = 8 << 10;
/// Of brackets, braces and parentheses.
const MAX_LEVELS: usize = 64;

/// Work for one format, in the units of `llguidance`. The defaults take schemas of several
/// megabytes; with these, the worst takes well below [`MAX_PREPARATION`].
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    // About 5 ms and 1 ms for one token at worst.
    step_lexer_fuel: 70_000,
    step_max_items: 20_000,
    max_lexer_states: 50_000,
    max_grammar_size: 100_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// For what the units of work do not count.
const MAX_PREPARATION: Duration = Duration::from_secs(2);
/// Formats being prepared at once; one that takes too long counts until it really ends.
const MAX_PREPARING: usize = 4;
/// Schemas nest, and what reads them recurses: room for [`MAX_LEVELS`] many times over.
const STACK_BYTES: usize = 64 << 20;

/// The longest token that the trie holds; a longer one is not used in constrained answers.
const MAX_TOKEN_BYTES: usize = 512;

/// What all formats of a model share. Empty until the first format is asked for.
#[derive(Default)]
pub(crate) struct Grammars {
    vocabulary: OnceLock<Result<ConstrainedVocabulary, String>>,
    n_preparing: AtomicUsize,
}

struct ConstrainedVocabulary {
    factory: ParserFactory,
    /// Control tokens: a grammar may name them, and an answer must not have them.
    forbidden: SimpleVob,
}

impl ConstrainedVocabulary {
    fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let n_vocab = tokenizer.n_vocab() as u32;
        let words: Vec<Vec<u8>> = (0..n_vocab).map(|token| trie_word(tokenizer, token)).collect();
        let end_ids = tokenizer.end_ids();
        let info = TokRxInfo::new(n_vocab, end_ids.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !end_ids.is_empty() {
            trie = trie.with_eos_tokens(end_ids);
        }
        let mut forbidden = trie.alloc_token_set();
        let is_forbidden = |&token: &u32| tokenizer.is_control(token) && !tokenizer.is_end(token);
        (0..n_vocab).filter(is_forbidden).for_each(|token| forbidden.allow_token(token));
        let environment = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&(environment as _)).map_err(|error| reason(&error))?;
        *factory.quiet().limits_mut() = LIMITS;
        Ok(Self { factory, forbidden })
    }
}

/// A token as the trie takes it: its bytes, or for structure its text behind a byte that no text
/// has. Tokens that mean nothing are empty and never allowed.
fn trie_word(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(token).unwrap_or_default();
    if bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
        return Vec::new();
    }
    match tokenizer.kind(token) {
        _ if tokenizer.needs_trust(token) || tokenizer.is_end(token) => {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
        }
        None | Some(TokenKind::Unknown | TokenKind::Unused) => Vec::new(),
        Some(_) => bytes.to_vec(),
    }
}

/// Makes the constraint of a format; `None` for free text.
///
/// # Errors
/// The format cannot be used, or too many are being prepared.
pub(crate) fn prepare(
    language: &Arc<Language>,
    format: &OutputFormat,
    offered: &Tools,
) -> Result<Option<Constrained>, GenerateError> {
    if offered.is_callable() {
        let source = tools::grammar(&language.tokenizer, format, offered)?;
        let grammar = TopLevelGrammar::from_lark(source);
        return compile(language, FormatKind::JsonSchema, grammar).map(Some);
    }
    let (kind, grammar) = match format {
        OutputFormat::Text => return Ok(None),
        OutputFormat::JsonObject => (FormatKind::JsonSchema, schema(json!({"type": "object"}))),
        OutputFormat::JsonSchema(source) => (FormatKind::JsonSchema, schema(read_schema(source)?)),
        OutputFormat::Regex(source) => {
            check_size(FormatKind::Regex, source, MAX_REGEX_BYTES)?;
            (FormatKind::Regex, TopLevelGrammar::from_regex(source))
        }
        OutputFormat::Lark(source) => {
            check_size(FormatKind::Lark, source, MAX_SOURCE_BYTES)?;
            (FormatKind::Lark, TopLevelGrammar::from_lark(source.clone()))
        }
    };
    compile(language, kind, grammar).map(Some)
}

/// A schema's grammar. White space is as people write JSON on one line and no choice: small models
/// fill answers with it where they may.
fn schema(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(on_one_line(schema))
}

/// A schema that asks for JSON as people write it on one line.
pub(crate) fn on_one_line(schema: Value) -> Value {
    let mut schema = if schema == json!(true) { json!({}) } else { schema };
    if let Value::Object(entries) = &mut schema {
        let options = json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
        });
        entries.insert("x-guidance".to_owned(), options);
    }
    schema
}

/// Reads a schema within the limits.
///
/// # Errors
/// It is too long, too deep, or no JSON.
pub(crate) fn read_schema(source: &str) -> Result<Value, FormatError> {
    check_size(FormatKind::JsonSchema, source, MAX_SOURCE_BYTES)?;
    serde_json::from_str(source).map_err(|error| FormatError::NotJson { reason: error.to_string() })
}

fn check_size(kind: FormatKind, source: &str, limit_bytes: usize) -> Result<(), FormatError> {
    let found_bytes = source.len();
    if found_bytes > limit_bytes {
        return Err(FormatError::TooLong { kind, found_bytes, limit_bytes });
    }
    if deepest_level(kind, source) > MAX_LEVELS {
        return Err(FormatError::TooDeep { kind, limit_levels: MAX_LEVELS });
    }
    Ok(())
}

/// The deepest nesting of brackets. Those in the strings of JSON do not count; in the others no
/// quoting is looked at, which counts too many at worst.
fn deepest_level(kind: FormatKind, source: &str) -> usize {
    let (mut level, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in source.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' if kind == FormatKind::JsonSchema => in_string = !in_string,
            _ if in_string => {}
            b'(' | b'[' | b'{' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b')' | b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Counts a format as being prepared for as long as it lives.
struct Preparing(Arc<Language>);

impl Preparing {
    fn begin(language: &Arc<Language>) -> Result<Self, GenerateError> {
        let counter = &language.grammars.n_preparing;
        let preparing = Self(Arc::clone(language));
        // Dropping `preparing` takes back what is counted here, in the refusal too.
        if counter.fetch_add(1, Ordering::AcqRel) >= MAX_PREPARING {
            return Err(GenerateError::Overloaded);
        }
        Ok(preparing)
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        self.0.grammars.n_preparing.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Compiles a grammar on a thread of its own, for its stack and for the time limit.
fn compile(
    language: &Arc<Language>,
    kind: FormatKind,
    grammar: TopLevelGrammar,
) -> Result<Constrained, GenerateError> {
    let preparing = Preparing::begin(language)?;
    let (sender, receiver) = channel();
    let work = move || {
        let constrained = Constrained::new(&preparing.0, grammar);
        drop(preparing);
        // Nobody waits any more if it took too long.
        let _ = sender.send(constrained);
    };
    std::thread::Builder::new()
        .name("rapport-format".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(|_| GenerateError::Overloaded)?;
    let unusable = |reason| FormatError::Unusable { kind, reason };
    let result = match receiver.recv_timeout(MAX_PREPARATION) {
        Ok(result) => result.map_err(unusable),
        Err(RecvTimeoutError::Timeout) => {
            let limit_ms = MAX_PREPARATION.as_millis() as u64;
            Err(FormatError::TooSlow { kind, limit_ms })
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(unusable("reading it failed; simplify it".to_owned()))
        }
    };
    Ok(result?)
}

/// Why a format was lost, once it is.
pub(crate) type FormatLoss = Arc<OnceLock<String>>;

/// Keeps an answer to its format.
pub(crate) struct Constrained {
    language: Arc<Language>,
    matcher: Matcher,
    /// The first mask is computed with the grammar, so that one that fails at once is refused.
    first_mask: Option<SimpleVob>,
    loss: FormatLoss,
}

impl Constrained {
    fn new(language: &Arc<Language>, grammar: TopLevelGrammar) -> Result<Self, String> {
        let mut constrained = Self {
            language: Arc::clone(language),
            matcher: {
                let vocabulary = vocabulary(language)?;
                Matcher::new(vocabulary.factory.create_parser(grammar))
            },
            first_mask: None,
            loss: FormatLoss::default(),
        };
        constrained.first_mask = Some(constrained.allowed()?);
        Ok(constrained)
    }

    pub(crate) fn loss(&self) -> FormatLoss {
        Arc::clone(&self.loss)
    }

    /// The tokens that may come next; at least one.
    fn allowed(&mut self) -> Result<SimpleVob, String> {
        let mut allowed = self.matcher.compute_mask().map_err(|error| reason(&error))?;
        allowed.sub(&vocabulary(&self.language)?.forbidden);
        if !self.matcher.is_accepting().map_err(|error| reason(&error))? {
            for &end in self.language.tokenizer.end_ids() {
                allowed.disallow_token(end);
            }
        }
        if allowed.is_zero() {
            return Err("no token of the model may come next".to_owned());
        }
        Ok(allowed)
    }

    /// From here on the reply has failed; which of the tokens comes does not matter.
    fn lose(&self, reason: String) {
        // The first reason is the one that counts.
        let _ = self.loss.set(reason);
    }
}

fn vocabulary(language: &Language) -> Result<&ConstrainedVocabulary, String> {
    let vocabulary = &language.grammars.vocabulary;
    vocabulary
        .get_or_init(|| ConstrainedVocabulary::new(&language.tokenizer))
        .as_ref()
        .map_err(Clone::clone)
}

impl Constraint for Constrained {
    fn mask(&mut self, logits: &mut [f32]) {
        let allowed = match self.first_mask.take() {
            Some(allowed) => Ok(allowed),
            None => self.allowed(),
        };
        match allowed {
            Ok(allowed) => allowed.iter_unset_entries(|token| {
                if let Some(logit) = logits.get_mut(token) {
                    *logit = f32::NEG_INFINITY;
                }
            }),
            Err(reason) => self.lose(reason),
        }
    }

    fn accept(&mut self, token: u32) {
        if self.loss.get().is_some() {
            return;
        }
        let is_end = self.language.tokenizer.is_end(token);
        match self.matcher.is_accepting() {
            // Only a broken model (no finite logits) chooses what the mask forbids.
            Ok(false) if is_end => self.lose("the model ended its turn too early".to_owned()),
            Ok(_) if is_end => {}
            Ok(_) => {
                if let Err(error) = self.matcher.consume_token(token) {
                    self.lose(reason(&error));
                }
            }
            Err(error) => self.lose(reason(&error)),
        }
    }

    fn is_complete(&self) -> bool {
        self.loss.get().is_some() || self.matcher.is_stopped()
    }
}

/// What `llguidance` says, in one line and without the parser's state.
fn reason(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("no reason given");
    // Regular expressions are shown with a mark under the place; what is wrong comes last.
    let last = lines.find_map(|line| line.strip_prefix("error: "));
    let reason = match (first, last) {
        ("NoExtension" | "NoExtensionBias", _) => "there is no text of this form".to_owned(),
        (first, Some(last)) => format!("{first} {last}"),
        (first, None) => first.to_owned(),
    };
    reason.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use rapport_model::chat_template::{ChatTemplate, TemplateTokens};
    use rapport_model::tokenizer::Vocabulary;

    use super::*;
    use crate::slots::SlotTokens;

    #[test]
    fn nesting_is_counted_outside_json_strings() {
        let level = |source: &str| deepest_level(FormatKind::JsonSchema, source);
        assert_eq!(level(r#"{"a": [{"b": "[[[[\"[["}], "c": {}}"#), 3);
        assert_eq!(level(&"[".repeat(10_000)), 10_000);
        assert_eq!(level("]]]["), 1);
        assert_eq!(deepest_level(FormatKind::Regex, r"((a)\()[b]"), 2);
        assert_eq!(deepest_level(FormatKind::Lark, "start: (\"a\" (\"b\")?)*"), 2);
    }

    /// A model's language with a token for each byte and one that ends a reply.
    fn language() -> Arc<Language> {
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre: "gpt-2",
            tokens: vec![b"a", b"b", b"ab", b"<|im_end|>", b"<|im_start|>", b"<think>"],
            token_types: vec![1, 1, 1, 3, 3, 4],
            templates: vec!["<think>"],
            ..Vocabulary::default()
        };
        let tokenizer = Tokenizer::new(&vocabulary).unwrap();
        let template = ChatTemplate::parse("x", TemplateTokens::default()).unwrap();
        let slots = Arc::new(SlotTokens::new(&tokenizer));
        Arc::new(Language {
            tokenizer,
            template,
            slots,
            grammars: Grammars::default(),
            auto: Arc::new(crate::WordRule),
        })
    }

    fn regex(language: &Arc<Language>, source: &str) -> Constrained {
        prepare(language, &OutputFormat::Regex(source.to_owned()), &Tools::default())
            .unwrap()
            .unwrap()
    }

    fn allowed(constrained: &mut Constrained) -> Vec<u32> {
        let mut logits = [0.0; 6];
        constrained.mask(&mut logits);
        (0..).zip(logits).filter(|(_, logit)| *logit == 0.0).map(|(token, _)| token).collect()
    }

    #[test]
    fn tokens_across_parts_of_a_grammar_are_taken_and_the_end_only_where_it_may_come() {
        let mut constrained = regex(&language(), "(ab){1,2}b?");
        assert_eq!(allowed(&mut constrained), [0, 2]);
        constrained.accept(2);
        assert_eq!(allowed(&mut constrained), [0, 1, 2, 3]);
        constrained.accept(0);
        assert_eq!(allowed(&mut constrained), [1]);
        constrained.accept(1);
        assert_eq!(allowed(&mut constrained), [1, 3]);
        assert!(!constrained.is_complete());
        constrained.accept(1);
        assert!(constrained.is_complete() && constrained.loss().get().is_none());
    }

    #[test]
    fn structure_never_comes_as_text() {
        let language = language();
        let mut constrained = regex(&language, "(?s:.*)");
        assert_eq!(allowed(&mut constrained), [0, 1, 2, 3]);
        let named = OutputFormat::Lark("start: <|im_start|> \"a\"".to_owned());
        let error = prepare(&language, &named, &Tools::default()).map(|_| ()).unwrap_err();
        assert!(matches!(error, GenerateError::Format(FormatError::Unusable { .. })), "{error}");
    }

    #[test]
    fn what_the_mask_forbids_loses_the_format_for_good() {
        for forbidden in [1, 3, 4, 99] {
            let mut constrained = regex(&language(), "ab");
            assert_eq!(allowed(&mut constrained), [0, 2]);
            constrained.accept(forbidden);
            assert!(constrained.is_complete(), "{forbidden}");
            let reason = constrained.loss().get().cloned();
            constrained.accept(2);
            assert_eq!(constrained.loss().get().cloned(), reason);
            assert!(reason.is_some_and(|reason| !reason.is_empty()));
        }
    }

    #[test]
    fn formats_that_the_vocabulary_cannot_write_are_refused() {
        let error = prepare(&language(), &OutputFormat::JsonObject, &Tools::default())
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(error, GenerateError::Format(FormatError::Unusable { .. })), "{error}");
    }

    #[test]
    fn only_so_many_formats_are_prepared_at_once() {
        let language = language();
        let running: Vec<_> =
            (0..MAX_PREPARING).map(|_| Preparing::begin(&language).ok().unwrap()).collect();
        let format = OutputFormat::Regex("a".to_owned());
        let refused = prepare(&language, &format, &Tools::default()).map(|_| ()).unwrap_err();
        assert_eq!(refused, GenerateError::Overloaded);
        drop(running);
        assert!(prepare(&language, &format, &Tools::default()).is_ok());
        assert_eq!(language.grammars.n_preparing.load(Ordering::Acquire), 0);
    }

    #[test]
    fn errors_are_one_line() {
        assert_eq!(reason(&"\n  what\nstate"), "what");
        assert_eq!(
            reason(&"parse error:\n    (a\n    ^\nerror: unclosed group"),
            "parse error: unclosed group"
        );
        assert_eq!(reason(&"NoExtensionBias"), "there is no text of this form");
        assert_eq!(reason(&""), "no reason given");
        assert_eq!(reason(&"x".repeat(1000)).len(), 300);
    }
}
