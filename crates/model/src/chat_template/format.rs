//! Values as text: Python's `str` and `repr`, JSON as Python's `json` writes it, `%` and `format`.

use super::fault::Fault;
use super::text::{Origin, Text, Writer};
use super::value::{Number, Value};

use Origin::Template;

impl Writer<'_> {
    /// What `{{ value }}` prints.
    pub(super) fn push_value(&mut self, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Undefined(_) => Ok(()),
            Value::Text(text) => self.push(text),
            _ => self.push_repr(value),
        }
    }

    /// Python's `repr`.
    fn push_repr(&mut self, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Undefined(_) => self.push_str("Undefined", Template),
            Value::None => self.push_str("None", Template),
            Value::Bool(true) => self.push_str("True", Template),
            Value::Bool(false) => self.push_str("False", Template),
            Value::Integer(value) => self.push_str(&value.to_string(), Template),
            Value::Float(value) => self.push_str(&float(*value), Template),
            Value::Text(text) => self.push_repr_text(text),
            Value::List(list) => {
                let (open, close) = match (list.is_tuple, list.items.len()) {
                    (true, 1) => ("(", ",)"),
                    (true, _) => ("(", ")"),
                    (false, _) => ("[", "]"),
                };
                self.push_str(open, Template)?;
                for (index, item) in list.items.iter().enumerate() {
                    self.push_str(if index > 0 { ", " } else { "" }, Template)?;
                    self.push_repr(item)?;
                }
                self.push_str(close, Template)
            }
            Value::Dict(dict) => {
                self.push_str("{", Template)?;
                for (index, (key, value)) in dict.entries.iter().enumerate() {
                    self.push_str(if index > 0 { ", " } else { "" }, Template)?;
                    self.push_repr(key)?;
                    self.push_str(": ", Template)?;
                    self.push_repr(value)?;
                }
                self.push_str("}", Template)
            }
            Value::Namespace(_)
            | Value::Loop(_)
            | Value::Macro(_)
            | Value::Function(_)
            | Value::Method(_) => Err(Fault::Unsupported(format!("printing {}", value.kind()))),
        }
    }

    fn push_repr_text(&mut self, text: &Text) -> Result<(), Fault> {
        let quote =
            if text.as_str().contains('\'') && !text.as_str().contains('"') { '"' } else { '\'' };
        self.push_char(quote, Template)?;
        for (character, origin) in text.chars() {
            match character {
                '\n' => self.push_str("\\n", origin)?,
                '\r' => self.push_str("\\r", origin)?,
                '\t' => self.push_str("\\t", origin)?,
                '\\' => self.push_str("\\\\", origin)?,
                _ if character == quote => {
                    self.push_str("\\", origin)?;
                    self.push_char(character, origin)?;
                }
                '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' => {
                    self.push_str(&format!("\\x{:02x}", character as u32), origin)?;
                }
                _ => self.push_char(character, origin)?,
            }
        }
        self.push_char(quote, Template)
    }

    /// JSON as Python's `json.dumps` writes it.
    pub(super) fn push_json(&mut self, value: &Value, style: &JsonStyle) -> Result<(), Fault> {
        self.push_json_at(value, style, 1)
    }

    fn push_json_at(
        &mut self,
        value: &Value,
        style: &JsonStyle,
        depth: usize,
    ) -> Result<(), Fault> {
        match value {
            Value::None => self.push_str("null", Template),
            Value::Bool(value) => self.push_str(if *value { "true" } else { "false" }, Template),
            Value::Float(value) if value.is_nan() => self.push_str("NaN", Template),
            Value::Float(value) if value.is_infinite() => {
                self.push_str(if *value > 0.0 { "Infinity" } else { "-Infinity" }, Template)
            }
            Value::Integer(_) | Value::Float(_) => self.push_repr(value),
            Value::Text(text) => self.push_json_text(text, style),
            Value::List(list) if list.items.is_empty() => self.push_str("[]", Template),
            Value::List(list) => {
                self.push_str("[", Template)?;
                for (index, item) in list.items.iter().enumerate() {
                    self.push_json_gap(style, index > 0, depth)?;
                    self.push_json_at(item, style, depth + 1)?;
                }
                self.push_json_end(style, "]", depth - 1)
            }
            Value::Dict(dict) if dict.entries.is_empty() => self.push_str("{}", Template),
            Value::Dict(dict) => {
                let mut entries: Vec<_> = dict.entries.iter().collect();
                if style.sort_keys {
                    self.budget().spend_items(entries.len())?;
                    entries.sort_by(|(a, _), (b, _)| key_order(a).cmp(key_order(b)));
                }
                self.push_str("{", Template)?;
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.push_json_gap(style, index > 0, depth)?;
                    match key {
                        Value::Text(text) => self.push_json_text(text, style)?,
                        Value::None | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                            self.push_str("\"", Template)?;
                            self.push_json_at(key, style, depth)?;
                            self.push_str("\"", Template)?;
                        }
                        _ => return Err(key.cannot("be a key in JSON")),
                    }
                    self.push_str(&style.key_separator, Template)?;
                    self.push_json_at(value, style, depth + 1)?;
                }
                self.push_json_end(style, "}", depth - 1)
            }
            _ => Err(value.cannot("be written as JSON")),
        }
    }

    fn push_json_gap(
        &mut self,
        style: &JsonStyle,
        after_item: bool,
        depth: usize,
    ) -> Result<(), Fault> {
        self.push_str(if after_item { &style.item_separator } else { "" }, Template)?;
        self.push_json_indent(style, depth)
    }

    fn push_json_end(&mut self, style: &JsonStyle, close: &str, depth: usize) -> Result<(), Fault> {
        self.push_json_indent(style, depth)?;
        self.push_str(close, Template)
    }

    fn push_json_indent(&mut self, style: &JsonStyle, depth: usize) -> Result<(), Fault> {
        let Some(indent) = &style.indent else { return Ok(()) };
        self.push_str("\n", Template)?;
        for _ in 0..depth {
            self.push_str(indent, Template)?;
        }
        Ok(())
    }

    fn push_json_text(&mut self, text: &Text, style: &JsonStyle) -> Result<(), Fault> {
        self.push_str("\"", Template)?;
        for (character, origin) in text.chars() {
            match character {
                '"' => self.push_str("\\\"", origin)?,
                '\\' => self.push_str("\\\\", origin)?,
                '\n' => self.push_str("\\n", origin)?,
                '\r' => self.push_str("\\r", origin)?,
                '\t' => self.push_str("\\t", origin)?,
                '\x0c' => self.push_str("\\f", origin)?,
                '\x08' => self.push_str("\\b", origin)?,
                '\0'..='\x1f' => {
                    self.push_str(&format!("\\u{:04x}", character as u32), origin)?;
                }
                _ if style.ensure_ascii && !character.is_ascii() => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.push_str(&format!("\\u{unit:04x}"), origin)?;
                    }
                }
                _ => self.push_char(character, origin)?,
            }
        }
        self.push_str("\"", Template)
    }

    /// `format % arguments`
    pub(super) fn push_percent(&mut self, format: &Text, arguments: &Value) -> Result<(), Fault> {
        let arguments = match arguments {
            Value::List(list) if list.is_tuple => list.items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut arguments = arguments.iter();
        let source = format.as_str();
        let mut position = 0;
        while let Some(found) = source[position..].find('%') {
            let percent = position + found;
            self.push_range(format, position..percent)?;
            let specification = &source[percent + 1..];
            let digits = specification.strip_prefix('.').map(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                &rest[..end]
            });
            let conversion_at = digits.map_or(0, |digits| 1 + digits.len());
            let Some(conversion) = specification[conversion_at..].chars().next() else {
                return Err(Fault::Operation("a format string ends after `%`".to_owned()));
            };
            position = percent + 1 + conversion_at + conversion.len_utf8();
            if conversion == '%' {
                self.push_str("%", Template)?;
                continue;
            }
            let Some(value) = arguments.next() else {
                return Err(Fault::Operation("not enough values for a format string".to_owned()));
            };
            match (conversion, value.as_number(), digits) {
                ('s', _, None) => self.push_value(value)?,
                ('d' | 'i', Some(Number::Integer(whole)), None) => {
                    self.push_str(&whole.to_string(), Template)?;
                }
                ('d' | 'i', Some(Number::Float(number)), None) => {
                    self.push_str(&format!("{:.0}", number.trunc()), Template)?;
                }
                ('f', Some(number), _) => {
                    // More digits than this say nothing about a 64-bit float.
                    let n_digits = digits.map_or(Ok(6), str::parse).unwrap_or(usize::MAX);
                    if n_digits > 64 {
                        return Err(Fault::Unsupported("more than 64 decimals".to_owned()));
                    }
                    self.push_str(&format!("{:.n_digits$}", number.as_float()), Template)?;
                }
                ('s' | 'd' | 'i' | 'f', ..) => {
                    return Err(value.cannot(&format!("be formatted as `%{conversion}`")));
                }
                _ => return Err(Fault::Unsupported(format!("the format `%{conversion}`"))),
            }
        }
        self.push_range(format, position..format.len())?;
        if arguments.next().is_some() && !source.is_empty() {
            return Err(Fault::Operation("too many values for a format string".to_owned()));
        }
        Ok(())
    }

    /// `format.format(positional..., named...)`, with plain `{}`, `{0}` and `{name}`.
    pub(super) fn push_braces(
        &mut self,
        format: &Text,
        positional: &[Value],
        named: &[(String, Value)],
    ) -> Result<(), Fault> {
        let source = format.as_str();
        let mut position = 0;
        let mut automatic = 0;
        while let Some(found) = source[position..].find(['{', '}']) {
            let brace = position + found;
            self.push_range(format, position..brace)?;
            let rest = &source[brace..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                self.push_range(format, brace..brace + 1)?;
                position = brace + 2;
                continue;
            }
            let (true, Some(end)) = (rest.starts_with('{'), rest.find('}')) else {
                return Err(Fault::Operation("single brace in a format string".to_owned()));
            };
            let field = &rest[1..end];
            position = brace + end + 1;
            let value = if field.is_empty() {
                automatic += 1;
                positional.get(automatic - 1)
            } else if let Ok(index) = field.parse::<usize>() {
                positional.get(index)
            } else if field.contains(['.', '[', '!', ':', '{']) {
                return Err(Fault::Unsupported(format!("the format field `{{{field}}}`")));
            } else {
                named.iter().find(|(name, _)| name == field).map(|(_, value)| value)
            };
            match value {
                Some(value) => self.push_value(value)?,
                None => {
                    return Err(Fault::Operation(format!("no value for `{{{field}}}`")));
                }
            }
        }
        self.push_range(format, position..format.len())
    }
}

/// The arguments of Python's `json.dumps` that templates use.
pub(super) struct JsonStyle {
    pub(super) ensure_ascii: bool,
    pub(super) sort_keys: bool,
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
}

fn key_order(key: &Value) -> &str {
    match key {
        Value::Text(text) => text.as_str(),
        _ => "",
    }
}

/// Python's `repr` of a float: the shortest digits that read back as the same number.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() };
    }
    let exponent = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(magnitude) => ('-', magnitude),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (1e300, "1e+300"),
        ];
        for (value, printed) in cases {
            assert_eq!(float(value), printed);
        }
    }
}
