//! The filters of Jinja2 that chat templates use.

use std::cmp::Ordering;
use std::rc::Rc;

use super::fault::Fault;
use super::format::JsonStyle;
use super::interpreter::{Call, Interpreter};
use super::methods::{self, Case};
use super::predicates;
use super::text::{Origin, Text, Writer};
use super::value::{Number, Value};

/// `value | name(call)`
pub(super) fn apply(
    interpreter: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    call: &Call,
) -> Result<Value, Fault> {
    match name {
        "default" | "d" => {
            let for_false = call.get(1, "boolean").is_some_and(Value::is_true);
            if matches!(value, Value::Undefined(_)) || (for_false && !value.is_true()) {
                match call.get(0, "default_value") {
                    Some(default) => Ok(default.clone()),
                    None => Value::template_text("", &mut interpreter.budget),
                }
            } else {
                Ok(value.clone())
            }
        }
        "length" | "count" => {
            if let Value::Text(text) = value {
                interpreter.budget.spend_scan(text.len())?;
            }
            Ok(Value::Integer(value.length()? as i64))
        }
        "list" => {
            let items = value.items(&mut interpreter.budget)?;
            Value::list(items, &mut interpreter.budget)
        }
        "items" => match value {
            Value::Dict(_) => methods::call(interpreter, value, "items", &Call::default()),
            Value::Undefined(_) => Value::list(Vec::new(), &mut interpreter.budget),
            _ => Err(value.cannot("be taken apart into entries")),
        },
        "first" | "last" => ends(interpreter, name, value),
        "join" => join(interpreter, value, call),
        "map" => map(interpreter, value, call),
        "select" | "reject" | "selectattr" | "rejectattr" => select(interpreter, name, value, call),
        "sort" | "unique" | "min" | "max" => order(interpreter, name, value, call),
        "dictsort" => dictsort(interpreter, value, call),
        "reverse" if !matches!(value, Value::Text(_)) => {
            let mut items = value.items(&mut interpreter.budget)?;
            items.reverse();
            Value::list(items, &mut interpreter.budget)
        }
        "sum" => sum(interpreter, value, call),
        "attr" => match call.get(0, "name") {
            Some(Value::Text(name)) => interpreter.attribute(value, name.as_str()),
            _ => Err(Fault::Operation("`attr` takes a name".to_owned())),
        },
        "tojson" => {
            let style = json_style(interpreter, call)?;
            let mut writer = Writer::new(&mut interpreter.budget);
            writer.push_json(value, &style)?;
            Ok(Value::text(writer.finish()))
        }
        "int" | "float" | "abs" | "round" => number(interpreter, name, value, call),
        _ => text_filter(interpreter, name, value, call),
    }
}

/// `value` as text: itself, or what printing it gives.
fn as_text(interpreter: &mut Interpreter<'_>, value: &Value) -> Result<Rc<Text>, Fault> {
    if let Value::Text(text) = value {
        return Ok(Rc::clone(text));
    }
    let mut writer = Writer::new(&mut interpreter.budget);
    writer.push_value(value)?;
    Ok(Rc::new(writer.finish()))
}

fn text_filter(
    interpreter: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    call: &Call,
) -> Result<Value, Fault> {
    let text = as_text(interpreter, value)?;
    let string = text.as_str();
    let mut writer = Writer::new(&mut interpreter.budget);
    match name {
        "string" | "safe" => return Ok(Value::Text(text)),
        "trim" => {
            let characters = match call.get(0, "chars") {
                None | Some(Value::None) => None,
                Some(Value::Text(characters)) => Some(characters.as_str()),
                Some(other) => return Err(other.cannot("be the characters to trim")),
            };
            writer.push_range(&text, methods::stripped(string, characters, true, true))?;
        }
        "upper" => methods::recase(&mut writer, &text, Case::Upper)?,
        "lower" => methods::recase(&mut writer, &text, Case::Lower)?,
        "title" => methods::recase(&mut writer, &text, Case::TitleWords)?,
        "capitalize" => methods::recase(&mut writer, &text, Case::Capitalized)?,
        "replace" => {
            let (Some(Value::Text(old)), Some(Value::Text(new))) =
                (call.get(0, "old"), call.get(1, "new"))
            else {
                return Err(Fault::Operation("`replace` takes two strings".to_owned()));
            };
            methods::replace(&mut writer, &text, old, new, call.get(2, "count"))?;
        }
        "indent" => indent(&mut writer, &text, call)?,
        "center" => {
            let width = match call.get(0, "width") {
                None => 80,
                Some(Value::Integer(width)) => usize::try_from(*width).unwrap_or(0),
                Some(other) => return Err(other.cannot("be a width")),
            };
            let n_spaces = width.saturating_sub(string.chars().count());
            // Python puts the odd space on the left of an even width, on the right of an odd one.
            let n_left = n_spaces / 2 + (n_spaces & width & 1);
            push_spaces(&mut writer, n_left)?;
            writer.push(&text)?;
            push_spaces(&mut writer, n_spaces - n_left)?;
        }
        "reverse" => {
            writer.budget().spend_items(string.len() / 8)?;
            let characters: Vec<_> = text.chars().collect();
            for (character, origin) in characters.into_iter().rev() {
                writer.push_char(character, origin)?;
            }
        }
        "escape" | "e" => {
            for (character, origin) in text.chars() {
                match character {
                    '&' => writer.push_str("&amp;", origin)?,
                    '<' => writer.push_str("&lt;", origin)?,
                    '>' => writer.push_str("&gt;", origin)?,
                    '\'' => writer.push_str("&#39;", origin)?,
                    '"' => writer.push_str("&#34;", origin)?,
                    _ => writer.push_char(character, origin)?,
                }
            }
        }
        "format" => {
            let arguments = Value::sequence(call.positional.clone(), true, writer.budget())?;
            writer.push_percent(&text, &arguments)?;
        }
        "wordcount" => {
            writer.budget().spend_scan(string.len())?;
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let n_words = string.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count();
            return Ok(Value::Integer(n_words as i64));
        }
        _ => return Err(Fault::Unsupported(format!("the filter `{name}`"))),
    }
    Ok(Value::text(writer.finish()))
}

fn push_spaces(writer: &mut Writer<'_>, n: usize) -> Result<(), Fault> {
    for _ in 0..n {
        writer.push_str(" ", Origin::Template)?;
    }
    Ok(())
}

fn indent(writer: &mut Writer<'_>, text: &Text, call: &Call) -> Result<(), Fault> {
    let width = match call.get(0, "width") {
        None => Rc::new(Text::new("    ", Origin::Template)),
        Some(Value::Text(width)) => Rc::clone(width),
        Some(Value::Integer(width)) => {
            let width = usize::try_from(*width).unwrap_or(0);
            writer.budget().spend_bytes(width)?;
            Rc::new(Text::new(" ".repeat(width), Origin::Template))
        }
        Some(other) => return Err(other.cannot("be an indentation")),
    };
    let indent_first = call.get(1, "first").is_some_and(Value::is_true);
    let indent_blank = call.get(2, "blank").is_some_and(Value::is_true);
    if indent_first {
        writer.push(&width)?;
    }
    let lines = methods::lines(text.as_str());
    for (index, line) in lines.iter().enumerate() {
        if index > 0 && (indent_blank || !line.content.is_empty()) {
            writer.push(&width)?;
        }
        writer.push_range(text, line.content.clone())?;
        // Every line's end becomes a newline; it stays with whoever ended the line.
        if line.end > line.content.end {
            writer.push_str("\n", methods::origin_at(text, line.content.end))?;
        }
    }
    if indent_blank && lines.last().is_some_and(|line| line.end > line.content.end) {
        writer.push(&width)?;
    }
    Ok(())
}

fn ends(interpreter: &mut Interpreter<'_>, name: &str, value: &Value) -> Result<Value, Fault> {
    let items = value.items(&mut interpreter.budget)?;
    let found = if name == "first" { items.first() } else { items.last() };
    Ok(found.cloned().unwrap_or_else(|| Value::undefined(&format!("the {name} item"))))
}

fn join(interpreter: &mut Interpreter<'_>, value: &Value, call: &Call) -> Result<Value, Fault> {
    let mut items = value.items(&mut interpreter.budget)?;
    if let Some(path) = call.get(1, "attribute") {
        for item in &mut items {
            *item = follow(interpreter, item, path)?;
        }
    }
    let mut writer = Writer::new(&mut interpreter.budget);
    for (index, item) in items.iter().enumerate() {
        if let Some(separator) = call.get(0, "d")
            && index > 0
        {
            writer.push_value(separator)?;
        }
        writer.push_value(item)?;
    }
    Ok(Value::text(writer.finish()))
}

/// The attribute at a dotted path.
fn follow(interpreter: &mut Interpreter<'_>, value: &Value, path: &Value) -> Result<Value, Fault> {
    let Value::Text(path) = path else { return interpreter.item(value, path) };
    let mut value = value.clone();
    for part in path.as_str().split('.') {
        let key = match part.parse() {
            Ok(index) => Value::Integer(index),
            Err(_) => Value::template_text(part, &mut interpreter.budget)?,
        };
        value = interpreter.item(&value, &key)?;
    }
    Ok(value)
}

/// The items of a value, none of them if it is false: templates select from tools that are `none`.
fn items_if_any(interpreter: &mut Interpreter<'_>, value: &Value) -> Result<Vec<Value>, Fault> {
    if value.is_true() { value.items(&mut interpreter.budget) } else { Ok(Vec::new()) }
}

/// `call` without its first `n` arguments: the call of the filter or test named by them.
fn rest(call: &Call, n: usize) -> Call {
    Call {
        positional: call.positional.get(n..).unwrap_or_default().to_vec(),
        named: call.named.clone(),
    }
}

fn map(interpreter: &mut Interpreter<'_>, value: &Value, call: &Call) -> Result<Value, Fault> {
    let items = items_if_any(interpreter, value)?;
    let mut mapped = Vec::with_capacity(items.len());
    for item in &items {
        interpreter.budget.spend_steps(1)?;
        mapped.push(match (call.positional.first(), call.get(usize::MAX, "attribute")) {
            (Some(Value::Text(filter)), _) => {
                apply(interpreter, filter.as_str(), item, &rest(call, 1))?
            }
            (None, Some(path)) => match follow(interpreter, item, path)? {
                Value::Undefined(name) => {
                    let default = call.get(usize::MAX, "default").cloned();
                    default.unwrap_or(Value::Undefined(name))
                }
                found => found,
            },
            _ => return Err(Fault::Operation("`map` takes a filter or an attribute".to_owned())),
        });
    }
    Value::list(mapped, &mut interpreter.budget)
}

fn select(
    interpreter: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    call: &Call,
) -> Result<Value, Fault> {
    let by_attribute = name.ends_with("attr");
    let wanted = name.starts_with("select");
    let n_before = usize::from(by_attribute);
    let test = match call.positional.get(n_before) {
        None => None,
        Some(Value::Text(test)) => Some((test.as_str(), rest(call, n_before + 1))),
        Some(other) => return Err(other.cannot("be the name of a test")),
    };
    let mut kept = Vec::new();
    for item in items_if_any(interpreter, value)? {
        interpreter.budget.spend_steps(1)?;
        let subject = match call.positional.first() {
            Some(path) if by_attribute => follow(interpreter, &item, path)?,
            None if by_attribute => {
                return Err(Fault::Operation(format!("`{name}` takes an attribute")));
            }
            _ => item.clone(),
        };
        let passed = match &test {
            Some((test, call)) => predicates::passes(interpreter, test, &subject, call)?,
            None => subject.is_true(),
        };
        if passed == wanted {
            kept.push(item);
        }
    }
    Value::list(kept, &mut interpreter.budget)
}

/// What values are ordered by: unless case matters, strings by their lower case.
fn sort_key(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    case_sensitive: bool,
) -> Result<Value, Fault> {
    match value {
        Value::Text(text) if !case_sensitive => {
            let mut writer = Writer::new(&mut interpreter.budget);
            methods::recase(&mut writer, text, Case::Lower)?;
            Ok(Value::text(writer.finish()))
        }
        _ => Ok(value.clone()),
    }
}

/// Sorts by keys that are all numbers or all strings.
fn sort_by_keys(
    interpreter: &mut Interpreter<'_>,
    items: &mut [(Value, Value)],
    reverse: bool,
) -> Result<(), Fault> {
    // A comparison within the sort cannot fail, so it is checked and paid for before.
    let n_rounds = u64::from(items.len().max(2).ilog2() + 1);
    for pair in items.windows(2) {
        pair[0].0.order(&pair[1].0, &mut interpreter.budget)?;
    }
    for (key, _) in items.iter() {
        let n_bytes = if let Value::Text(text) = key { text.len() } else { 0 };
        for _ in 0..n_rounds {
            interpreter.budget.spend_scan(n_bytes)?;
        }
    }
    let compare = |a: &Value, b: &Value| match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.as_str().cmp(b.as_str()),
        _ => match (a.as_number(), b.as_number()) {
            (Some(Number::Integer(a)), Some(Number::Integer(b))) => a.cmp(&b),
            (Some(a), Some(b)) => a.as_float().total_cmp(&b.as_float()),
            _ => Ordering::Equal,
        },
    };
    // Stable both ways, as Python's: equal ones keep their order in reverse too.
    items.sort_by(|(a, _), (b, _)| if reverse { compare(b, a) } else { compare(a, b) });
    Ok(())
}

fn order(
    interpreter: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    call: &Call,
) -> Result<Value, Fault> {
    let (case_index, attribute_index) = if name == "sort" { (1, 2) } else { (0, 1) };
    let case_sensitive = call.get(case_index, "case_sensitive").is_some_and(Value::is_true);
    let path = call.get(attribute_index, "attribute").filter(|path| !matches!(path, Value::None));
    let mut items = Vec::new();
    for item in value.items(&mut interpreter.budget)? {
        let subject = match path {
            Some(path) => follow(interpreter, &item, path)?,
            None => item.clone(),
        };
        items.push((sort_key(interpreter, &subject, case_sensitive)?, item));
    }
    if name == "unique" {
        let mut kept: Vec<(Value, Value)> = Vec::new();
        for (key, item) in items {
            let mut is_new = true;
            for (seen, _) in &kept {
                if seen.equals(&key, &mut interpreter.budget)? {
                    is_new = false;
                    break;
                }
            }
            if is_new {
                kept.push((key, item));
            }
        }
        items = kept;
    } else {
        let reverse =
            name == "max" || (name == "sort" && call.get(0, "reverse").is_some_and(Value::is_true));
        sort_by_keys(interpreter, &mut items, reverse)?;
    }
    let mut items = items.into_iter().map(|(_, item)| item);
    match name {
        "min" | "max" => Ok(items.next().unwrap_or_else(|| Value::undefined("an item"))),
        _ => Value::list(items.collect(), &mut interpreter.budget),
    }
}

fn dictsort(interpreter: &mut Interpreter<'_>, value: &Value, call: &Call) -> Result<Value, Fault> {
    let Value::Dict(dict) = value else { return Err(value.cannot("be sorted by its keys")) };
    let case_sensitive = call.get(0, "case_sensitive").is_some_and(Value::is_true);
    let by_value = matches!(call.get(1, "by"), Some(Value::Text(by)) if by.as_str() == "value");
    let mut items = Vec::new();
    for (key, value) in &dict.entries {
        let subject = if by_value { value } else { key };
        let sort_key = sort_key(interpreter, subject, case_sensitive)?;
        let pair = vec![key.clone(), value.clone()];
        items.push((sort_key, Value::sequence(pair, true, &mut interpreter.budget)?));
    }
    let reverse = call.get(2, "reverse").is_some_and(Value::is_true);
    sort_by_keys(interpreter, &mut items, reverse)?;
    Value::list(items.into_iter().map(|(_, item)| item).collect(), &mut interpreter.budget)
}

fn sum(interpreter: &mut Interpreter<'_>, value: &Value, call: &Call) -> Result<Value, Fault> {
    let mut total = call.get(1, "start").cloned().unwrap_or(Value::Integer(0));
    for item in value.items(&mut interpreter.budget)? {
        let item = match call.get(0, "attribute") {
            Some(path) => follow(interpreter, &item, path)?,
            None => item,
        };
        total = interpreter.arithmetic(super::syntax::Arithmetic::Add, &total, &item)?;
    }
    Ok(total)
}

fn json_style(interpreter: &mut Interpreter<'_>, call: &Call) -> Result<JsonStyle, Fault> {
    let is_set = |index, name| call.get(index, name).is_some_and(Value::is_true);
    let indent = match call.get(1, "indent") {
        None | Some(Value::None) => None,
        Some(Value::Text(indent)) => Some(indent.as_str().to_owned()),
        Some(Value::Integer(width)) => {
            let width = usize::try_from(*width).unwrap_or(0);
            interpreter.budget.spend_bytes(width)?;
            Some(" ".repeat(width))
        }
        Some(other) => return Err(other.cannot("be an indentation")),
    };
    let (item_separator, key_separator) = match call.get(2, "separators") {
        None | Some(Value::None) => {
            (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned())
        }
        Some(Value::List(list)) => match &list.items[..] {
            [Value::Text(item), Value::Text(key)] => {
                (item.as_str().to_owned(), key.as_str().to_owned())
            }
            _ => return Err(Fault::Operation("`separators` takes two strings".to_owned())),
        },
        Some(other) => return Err(other.cannot("be the separators of JSON")),
    };
    Ok(JsonStyle {
        ensure_ascii: is_set(0, "ensure_ascii"),
        sort_keys: is_set(3, "sort_keys"),
        indent,
        item_separator,
        key_separator,
    })
}

fn number(
    interpreter: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    call: &Call,
) -> Result<Value, Fault> {
    let parsed = match value {
        Value::Text(text) => {
            interpreter.budget.spend_scan(text.len())?;
            let string = &text.as_str()[methods::stripped(text.as_str(), None, true, true)];
            match string.parse() {
                Ok(integer) => Some(Number::Integer(integer)),
                Err(_) => string.parse().ok().map(Number::Float),
            }
        }
        _ => value.as_number(),
    };
    match name {
        "int" => Ok(match parsed {
            Some(Number::Integer(integer)) => Value::Integer(integer),
            Some(Number::Float(float)) if float.is_finite() => Value::Integer(float as i64),
            _ => call.get(0, "default").cloned().unwrap_or(Value::Integer(0)),
        }),
        "float" => Ok(match parsed {
            Some(number) => Value::Float(number.as_float()),
            None => call.get(0, "default").cloned().unwrap_or(Value::Float(0.0)),
        }),
        "abs" => match value.as_number() {
            Some(Number::Integer(integer)) => integer
                .checked_abs()
                .map(Value::Integer)
                .ok_or_else(|| Fault::Operation("a number does not fit into 64 bits".to_owned())),
            Some(Number::Float(float)) => Ok(Value::Float(float.abs())),
            None => Err(value.cannot("have a magnitude")),
        },
        _ => round(value, call),
    }
}

fn round(value: &Value, call: &Call) -> Result<Value, Fault> {
    let Some(number) = value.as_number() else { return Err(value.cannot("be rounded")) };
    let float = number.as_float();
    let n_digits = match call.get(0, "precision") {
        None => 0,
        // More digits than this say nothing about a 64-bit float.
        Some(Value::Integer(n_digits @ 0..=64)) => *n_digits as usize,
        Some(other) => return Err(other.cannot("be a number of decimals")),
    };
    let scale = 10f64.powi(n_digits as i32);
    Ok(match (call.get(1, "method"), number) {
        (Some(Value::Text(method)), _) if method.as_str() == "ceil" => {
            Value::Float((float * scale).ceil() / scale)
        }
        (Some(Value::Text(method)), _) if method.as_str() == "floor" => {
            Value::Float((float * scale).floor() / scale)
        }
        (_, Number::Integer(integer)) => Value::Integer(integer),
        // Python rounds the exact decimal value, ties to even: what printing does.
        (_, Number::Float(float)) => {
            Value::Float(format!("{float:.n_digits$}").parse().unwrap_or(float))
        }
    })
}
