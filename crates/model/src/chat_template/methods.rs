//! The methods of Python's strings and dicts that templates call, and the operations on text that
//! methods and filters share.

use std::ops::Range;

use super::fault::Fault;
use super::interpreter::{Call, Interpreter};
use super::predicates::is_cased;
use super::text::{Origin, Text, Writer, is_space};
use super::value::Value;

const TEXT: [&str; 30] = [
    "capitalize",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isdigit",
    "islower",
    "isspace",
    "isupper",
    "join",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
];
const DICT: [&str; 8] = ["get", "items", "keys", "values", "copy", "pop", "update", "setdefault"];
const LIST: [&str; 9] =
    ["count", "index", "append", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// Whether `value.name` is a method.
pub(super) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) => TEXT.contains(&name),
        Value::Dict(_) => DICT.contains(&name),
        Value::List(_) => LIST.contains(&name),
        Value::Loop(_) => name == "cycle",
        _ => false,
    }
}

/// `value.name(call)`
pub(super) fn call(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    name: &str,
    call: &Call,
) -> Result<Value, Fault> {
    let budget = &mut interpreter.budget;
    match (value, name) {
        (Value::Text(text), _) => text_method(interpreter, text, name, call),
        (Value::Dict(dict), "get") => {
            let found = match call.get(0, "key") {
                Some(key) => dict.get(key, budget)?,
                None => return Err(takes("get", "a key")),
            };
            let found = found.or_else(|| call.get(1, "default"));
            Ok(found.cloned().unwrap_or(Value::None))
        }
        (Value::Dict(dict), "items") => {
            let mut pairs = Vec::with_capacity(dict.entries.len());
            for (key, value) in &dict.entries {
                pairs.push(Value::sequence(vec![key.clone(), value.clone()], true, budget)?);
            }
            Value::list(pairs, budget)
        }
        (Value::Dict(_), "keys") => {
            let keys = value.items(budget)?;
            Value::list(keys, budget)
        }
        (Value::Dict(dict), "values") => {
            let values = dict.entries.iter().map(|(_, value)| value.clone()).collect();
            Value::list(values, budget)
        }
        (Value::Dict(_), "copy") => Ok(value.clone()),
        (Value::List(list), "count") => {
            let wanted = call.get(0, "value").ok_or_else(|| takes("count", "a value"))?;
            let mut n = 0;
            for item in &list.items {
                n += i64::from(item.equals(wanted, budget)?);
            }
            Ok(Value::Integer(n))
        }
        (Value::List(list), "index") => {
            let wanted = call.get(0, "value").ok_or_else(|| takes("index", "a value"))?;
            for (index, item) in list.items.iter().enumerate() {
                if item.equals(wanted, budget)? {
                    return Ok(Value::Integer(index as i64));
                }
            }
            Err(Fault::Operation("the value is not in the list".to_owned()))
        }
        (Value::Loop(state), "cycle") if !call.positional.is_empty() => {
            Ok(call.positional[state.index0 % call.positional.len()].clone())
        }
        // The rest would change their value, which Jinja2's sandbox refuses as well.
        _ => Err(Fault::Unsupported(format!("changing {} by `{name}`", value.kind()))),
    }
}

fn takes(name: &str, what: &str) -> Fault {
    Fault::Operation(format!("`{name}` takes {what}"))
}

fn text_method(
    interpreter: &mut Interpreter<'_>,
    text: &Text,
    name: &str,
    call: &Call,
) -> Result<Value, Fault> {
    let budget = &mut interpreter.budget;
    budget.spend_scan(text.len())?;
    let string = text.as_str();
    let argument = || match call.positional.first() {
        Some(Value::Text(argument)) => Ok(argument.as_str()),
        Some(other) => Err(other.cannot(&format!("be the argument of `{name}`"))),
        None => Err(takes(name, "a string")),
    };
    let mut cut = |range: Range<usize>| -> Result<Value, Fault> {
        let mut writer = Writer::new(budget);
        writer.push_range(text, range)?;
        Ok(Value::text(writer.finish()))
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let characters = match call.positional.first() {
                None | Some(Value::None) => None,
                Some(_) => Some(argument()?),
            };
            cut(stripped(string, characters, name != "rstrip", name != "lstrip"))
        }
        "removeprefix" => {
            let prefix = argument()?;
            cut(if string.starts_with(prefix) { prefix.len() } else { 0 }..string.len())
        }
        "removesuffix" => {
            let suffix = argument()?;
            let end = if string.ends_with(suffix) { suffix.len() } else { 0 };
            cut(0..string.len() - end)
        }
        "split" | "rsplit" => {
            let separator = match call.get(0, "sep") {
                None | Some(Value::None) => None,
                Some(Value::Text(separator)) if !separator.is_empty() => Some(separator.as_str()),
                Some(other) => return Err(other.cannot("separate the parts of a string")),
            };
            let n_splits = match call.get(1, "maxsplit") {
                None => usize::MAX,
                Some(Value::Integer(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                Some(other) => return Err(other.cannot("be a number of splits")),
            };
            let ranges = split(string, separator, n_splits, name == "rsplit");
            let parts = ranges.into_iter().map(cut).collect::<Result<_, _>>()?;
            Value::list(parts, budget)
        }
        "splitlines" => {
            let parts = lines(string).into_iter().map(|line| cut(line.content));
            let parts = parts.collect::<Result<_, _>>()?;
            Value::list(parts, budget)
        }
        "partition" | "rpartition" => {
            let separator = argument()?;
            let found = match name {
                "partition" => string.find(separator),
                _ => string.rfind(separator),
            };
            let (end, length) = (string.len(), separator.len());
            let ranges = match (found, name) {
                (Some(at), _) => [0..at, at..at + length, at + length..end],
                (None, "partition") => [0..end, end..end, end..end],
                (None, _) => [0..0, 0..0, 0..end],
            };
            let parts = ranges.into_iter().map(cut).collect::<Result<_, _>>()?;
            Value::sequence(parts, true, budget)
        }
        "startswith" | "endswith" => {
            let matches = |affix: &Value| match affix {
                Value::Text(affix) if name == "startswith" => {
                    Ok(string.starts_with(affix.as_str()))
                }
                Value::Text(affix) => Ok(string.ends_with(affix.as_str())),
                other => Err(other.cannot(&format!("be the argument of `{name}`"))),
            };
            match call.positional.first() {
                Some(Value::List(list)) if list.is_tuple => {
                    budget.spend_steps(list.items.len() as u64)?;
                    for affix in &list.items {
                        if matches(affix)? {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                Some(affix) => Ok(Value::Bool(matches(affix)?)),
                None => Err(takes(name, "a string")),
            }
        }
        "find" | "rfind" | "index" | "rindex" => {
            let needle = argument()?;
            let found =
                if name.starts_with('r') { string.rfind(needle) } else { string.find(needle) };
            match found {
                Some(at) => Ok(Value::Integer(string[..at].chars().count() as i64)),
                None if name.ends_with("find") => Ok(Value::Integer(-1)),
                None => Err(Fault::Operation("the substring is not there".to_owned())),
            }
        }
        "count" => Ok(Value::Integer(string.matches(argument()?).count() as i64)),
        "replace" => {
            let (Some(Value::Text(old)), Some(Value::Text(new))) =
                (call.positional.first(), call.positional.get(1))
            else {
                return Err(takes("replace", "two strings"));
            };
            let mut writer = Writer::new(budget);
            replace(&mut writer, text, old, new, call.get(2, "count"))?;
            Ok(Value::text(writer.finish()))
        }
        "join" => {
            let items = match call.positional.first() {
                Some(iterable) => iterable.items(budget)?,
                None => return Err(takes("join", "a list")),
            };
            let mut writer = Writer::new(budget);
            for (index, item) in items.iter().enumerate() {
                let Value::Text(item) = item else { return Err(item.cannot("be joined")) };
                if index > 0 {
                    writer.push(text)?;
                }
                writer.push(item)?;
            }
            Ok(Value::text(writer.finish()))
        }
        "format" => {
            let mut writer = Writer::new(budget);
            writer.push_braces(text, &call.positional, &call.named)?;
            Ok(Value::text(writer.finish()))
        }
        "upper" | "lower" | "title" | "capitalize" => {
            let case = match name {
                "upper" => Case::Upper,
                "lower" => Case::Lower,
                "title" => Case::Title,
                _ => Case::Capitalized,
            };
            let mut writer = Writer::new(budget);
            recase(&mut writer, text, case)?;
            Ok(Value::text(writer.finish()))
        }
        "isupper" | "islower" => Ok(Value::Bool(is_cased(string, name == "isupper"))),
        "isdigit" | "isalpha" | "isalnum" | "isspace" => {
            let belongs: fn(char) -> bool = match name {
                "isdigit" => |c| c.is_numeric(),
                "isalpha" => char::is_alphabetic,
                "isalnum" => char::is_alphanumeric,
                _ => is_space,
            };
            Ok(Value::Bool(!string.is_empty() && string.chars().all(belongs)))
        }
        _ => Err(Fault::Unsupported(format!("the method `{name}` of a string"))),
    }
}

/// What is left after Python's `strip`: of white space, or of any of `characters`.
pub(super) fn stripped(
    string: &str,
    characters: Option<&str>,
    left: bool,
    right: bool,
) -> Range<usize> {
    let goes =
        |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let start = if left { string.len() - string.trim_start_matches(goes).len() } else { 0 };
    let end =
        if right { start + string[start..].trim_end_matches(goes).len() } else { string.len() };
    start..end
}

fn split(
    string: &str,
    separator: Option<&str>,
    n_splits: usize,
    from_right: bool,
) -> Vec<Range<usize>> {
    let range_of = |part: &str| {
        let start = part.as_ptr().addr() - string.as_ptr().addr();
        start..start + part.len()
    };
    if let Some(separator) = separator {
        let n_parts = n_splits.saturating_add(1);
        return if from_right {
            let mut parts: Vec<_> = string.rsplitn(n_parts, separator).map(range_of).collect();
            parts.reverse();
            parts
        } else {
            string.splitn(n_parts, separator).map(range_of).collect()
        };
    }
    let mut parts = Vec::new();
    let mut rest = 0..string.len();
    loop {
        let trimmed = stripped(&string[rest.clone()], None, !from_right, from_right);
        rest = rest.start + trimmed.start..rest.start + trimmed.end;
        if rest.is_empty() {
            break;
        }
        if parts.len() == n_splits {
            // What is not split keeps the white space on its far side.
            parts.push(rest);
            break;
        }
        let words = &string[rest.clone()];
        if from_right {
            let start = rest.start + words.trim_end_matches(|c| !is_space(c)).len();
            parts.push(start..rest.end);
            rest.end = start;
        } else {
            let end = rest.start + words.find(is_space).unwrap_or(words.len());
            parts.push(rest.start..end);
            rest.start = end;
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

pub(super) struct Line {
    pub(super) content: Range<usize>,
    /// The end of the line, with what ends it.
    pub(super) end: usize,
}

/// The lines of Python's `str.splitlines`.
pub(super) fn lines(string: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut start = 0;
    while start < string.len() {
        let rest = &string[start..];
        let Some(at) = rest.find(is_line_end) else {
            lines.push(Line { content: start..string.len(), end: string.len() });
            break;
        };
        let width = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(Line { content: start..start + at, end: start + at + width });
        start += at + width;
    }
    lines
}

fn is_line_end(character: char) -> bool {
    matches!(
        character,
        '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// Python's `str.replace`.
pub(super) fn replace(
    writer: &mut Writer<'_>,
    text: &Text,
    old: &Text,
    new: &Text,
    count: Option<&Value>,
) -> Result<(), Fault> {
    let n_most = match count {
        None | Some(Value::None) => usize::MAX,
        Some(Value::Integer(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
        Some(other) => return Err(other.cannot("be a number of replacements")),
    };
    let mut position = 0;
    for (at, _) in text.as_str().match_indices(old.as_str()).take(n_most) {
        writer.push_range(text, position..at)?;
        writer.push(new)?;
        position = at + old.len();
    }
    writer.push_range(text, position..text.len())
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Case {
    Upper,
    Lower,
    /// Every run of letters begins with a capital.
    Title,
    /// As Jinja2's filter of that name: what follows white space, a hyphen or an opening bracket.
    TitleWords,
    Capitalized,
}

/// Writes `text` in another case.
pub(super) fn recase(writer: &mut Writer<'_>, text: &Text, case: Case) -> Result<(), Fault> {
    let mut at_start = true;
    for (character, origin) in text.chars() {
        let upper = match case {
            Case::Upper => true,
            Case::Lower => false,
            Case::Title | Case::TitleWords | Case::Capitalized => at_start,
        };
        at_start = match case {
            Case::Title => !character.is_alphabetic(),
            Case::TitleWords => is_space(character) || "-({[<".contains(character),
            _ => false,
        };
        if upper {
            for character in character.to_uppercase() {
                writer.push_char(character, origin)?;
            }
        } else {
            for character in character.to_lowercase() {
                writer.push_char(character, origin)?;
            }
        }
    }
    Ok(())
}

/// The origin of the byte at `position`: what is made in its place is its author's.
pub(super) fn origin_at(text: &Text, position: usize) -> Origin {
    text.pieces(position..position + 1).next().map_or(Origin::Template, |(_, origin)| origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(string: &str, n_splits: usize, from_right: bool) -> Vec<&str> {
        split(string, None, n_splits, from_right).into_iter().map(|r| &string[r]).collect()
    }

    #[test]
    fn splits_at_white_space_as_python() {
        assert_eq!(parts("  a  b c ", usize::MAX, false), ["a", "b", "c"]);
        assert_eq!(parts("  a  b c ", usize::MAX, true), ["a", "b", "c"]);
        assert_eq!(parts("  a  b c ", 1, false), ["a", "b c "]);
        assert_eq!(parts("  a  b c ", 1, true), ["  a  b", "c"]);
        assert_eq!(parts("  a  b c ", 0, false), ["a  b c "]);
        assert_eq!(parts("  a  b c ", 0, true), ["  a  b c"]);
        assert!(parts("   ", 3, false).is_empty());
        assert_eq!(parts("a b", 1, false), ["a", "b"]);
        assert_eq!(parts("a b ", 1, false), ["a", "b "]);
        assert_eq!(parts("a b ", 2, false), ["a", "b"]);
    }

    #[test]
    fn lines_end_where_python_ends_them() {
        let text = "a\r\nb\rc\n\nd\u{2028}e";
        let found: Vec<_> = lines(text).into_iter().map(|line| &text[line.content]).collect();
        assert_eq!(found, ["a", "b", "c", "", "d", "e"]);
    }
}
