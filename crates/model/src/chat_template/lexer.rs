//! Template source to tokens, white space included, exactly as Jinja2 cuts it with `trim_blocks`,
//! `lstrip_blocks` and no trailing newline: the settings models' templates are written for.

use super::fault::TemplateError;
use super::text::is_space;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text outside of tags.
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Integer(i64),
    Float(f64),
    String(String),
    Operator(&'static str),
}

impl Token {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Data(_) => "text".to_owned(),
            Self::PrintBegin => "`{{`".to_owned(),
            Self::PrintEnd => "`}}`".to_owned(),
            Self::BlockBegin => "`{%`".to_owned(),
            Self::BlockEnd => "`%}`".to_owned(),
            Self::Name(name) => format!("`{name}`"),
            Self::Integer(value) => format!("`{value}`"),
            Self::Float(value) => format!("`{value}`"),
            Self::String(_) => "a string".to_owned(),
            Self::Operator(operator) => format!("`{operator}`"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) line: u32,
}

/// Longer ones first: the first that fits is taken.
const OPERATORS: [&str; 26] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

pub(super) fn tokenize(source: &str) -> Result<Vec<Lexeme>, TemplateError> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer =
        Lexer { source: &source, position: 0, line: 1, at_line_start: true, lexemes: Vec::new() };
    while lexer.position < source.len() {
        lexer.data()?;
    }
    Ok(lexer.lexemes)
}

struct Lexer<'s> {
    source: &'s str,
    position: usize,
    line: u32,
    /// Whether the last tag took the end of its line with it.
    at_line_start: bool,
    lexemes: Vec<Lexeme>,
}

/// How a tag treats the white space on one side of it.
#[derive(Clone, Copy, PartialEq)]
enum Trim {
    /// `-`: all of it goes.
    All,
    /// `+`: all of it stays.
    Nothing,
    /// No sign: what `trim_blocks` and `lstrip_blocks` say.
    Usual,
}

#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Print,
    Block,
    Comment,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.position..]
    }

    fn advance(&mut self, n_bytes: usize) {
        let passed = &self.source[self.position..self.position + n_bytes];
        self.line += passed.bytes().filter(|&byte| byte == b'\n').count() as u32;
        self.position += n_bytes;
    }

    fn push(&mut self, token: Token) {
        self.lexemes.push(Lexeme { token, line: self.line });
    }

    fn syntax(&self, expected: &str, found: impl Into<String>) -> TemplateError {
        TemplateError::Syntax {
            line: self.line,
            expected: expected.to_owned(),
            found: found.into(),
        }
    }

    /// Text up to a tag, and that tag.
    fn data(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let Some((tag_start, tag)) = find_tag(rest) else {
            self.push(Token::Data(rest.to_owned()));
            self.advance(rest.len());
            return Ok(());
        };
        let before = &rest[..tag_start];
        let sign = rest[tag_start + 2..].chars().next();
        let (trim, sign_bytes) = match sign {
            Some('-') => (Trim::All, 1),
            // In a comment a plus belongs to the tag only by Jinja2's own reading of it.
            Some('+') => (Trim::Nothing, 1),
            _ => (Trim::Usual, 0),
        };
        let kept = self.strip_before(before, tag, trim);
        if !kept.is_empty() {
            self.push(Token::Data(kept.to_owned()));
        }
        self.advance(tag_start + 2 + sign_bytes);
        match tag {
            Tag::Comment => self.comment(),
            Tag::Print => self.inside(Tag::Print),
            Tag::Block => match raw_begin(self.rest()) {
                Some(n_bytes) => {
                    self.advance(n_bytes);
                    self.raw()
                }
                None => self.inside(Tag::Block),
            },
        }
    }

    fn strip_before<'t>(&self, before: &'t str, tag: Tag, trim: Trim) -> &'t str {
        match trim {
            Trim::All => before.trim_end_matches(is_space),
            Trim::Usual if tag != Tag::Print => {
                let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
                let blank = before[line_start..].chars().all(is_space);
                if blank && (line_start > 0 || self.at_line_start) {
                    &before[..line_start]
                } else {
                    before
                }
            }
            Trim::Usual | Trim::Nothing => before,
        }
    }

    /// Passes a tag's end and the white space it takes.
    fn end_tag(&mut self, end: TagEnd) {
        let taken = &self.rest()[..end.n_bytes];
        self.at_line_start = taken.ends_with('\n');
        self.advance(end.n_bytes);
    }

    fn comment(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let Some(close) = rest.find("#}") else {
            return Err(self.syntax("`#}`", "the end of the template"));
        };
        let body = if rest[..close].ends_with(['-', '+']) { close - 1 } else { close };
        self.advance(body);
        if let Some(end) = tag_end(self.rest(), Tag::Comment) {
            self.end_tag(end);
        }
        Ok(())
    }

    fn raw(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let mut search = 0;
        while let Some(found) = rest[search..].find("{%") {
            let tag_start = search + found;
            let after = &rest[tag_start + 2..];
            let (trim, sign_bytes) = match after.chars().next() {
                Some('-') => (Trim::All, 1),
                Some('+') => (Trim::Nothing, 1),
                _ => (Trim::Usual, 0),
            };
            if let Some(name_bytes) = keyword(&after[sign_bytes..], "endraw") {
                let name_end = tag_start + 2 + sign_bytes + name_bytes;
                if let Some(end) = tag_end(&rest[name_end..], Tag::Block) {
                    let kept = self.strip_before(&rest[..tag_start], Tag::Block, trim);
                    if !kept.is_empty() {
                        self.push(Token::Data(kept.to_owned()));
                    }
                    self.advance(name_end);
                    self.end_tag(end);
                    return Ok(());
                }
            }
            search = tag_start + 2;
        }
        Err(self.syntax("`{% endraw %}`", "the end of the template"))
    }

    /// The inside of a print or block tag, its end included.
    fn inside(&mut self, tag: Tag) -> Result<(), TemplateError> {
        let (begin, end) = match tag {
            Tag::Block => (Token::BlockBegin, Token::BlockEnd),
            Tag::Print | Tag::Comment => (Token::PrintBegin, Token::PrintEnd),
        };
        let close_name = end.describe();
        self.push(begin);
        let mut brackets: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            if brackets.is_empty()
                && let Some(tag_end) = tag_end(rest, tag)
            {
                self.push(end);
                self.end_tag(tag_end);
                return Ok(());
            }
            let Some(next) = rest.chars().next() else {
                return Err(self.syntax(&close_name, "the end of the template"));
            };
            if is_space(next) {
                let n_bytes = rest.len() - rest.trim_start_matches(is_space).len();
                self.advance(n_bytes);
            } else if next.is_ascii_digit() {
                self.number()?;
            } else if next.is_alphanumeric() || next == '_' {
                let n_bytes =
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.push(Token::Name(rest[..n_bytes].to_owned()));
                self.advance(n_bytes);
            } else if next == '\'' || next == '"' {
                self.string(next)?;
            } else {
                self.operator(&mut brackets)?;
            }
        }
    }

    fn operator(&mut self, brackets: &mut Vec<&'static str>) -> Result<(), TemplateError> {
        let rest = self.rest();
        let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator))
        else {
            let found = rest.chars().next().map_or(String::new(), |c| format!("`{c}`"));
            return Err(self.syntax("a name, a value or an operator", found));
        };
        match operator {
            "(" => brackets.push(")"),
            "[" => brackets.push("]"),
            "{" => brackets.push("}"),
            ")" | "]" | "}" => match brackets.pop() {
                Some(expected) if expected != operator => {
                    return Err(self.syntax(&format!("`{expected}`"), format!("`{operator}`")));
                }
                Some(_) => {}
                None => return Err(self.syntax("an expression", format!("`{operator}`"))),
            },
            _ => {}
        }
        self.push(Token::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let digits = |text: &str| text.len() - text.trim_start_matches(is_digit).len();
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => Some(16),
            Some("0o" | "0O") => Some(8),
            Some("0b" | "0B") => Some(2),
            _ => None,
        };
        if let Some(radix) = radix {
            let body = &rest[2..];
            let n_bytes = body.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let text = &body[..n_bytes.unwrap_or(body.len())];
            return match i64::from_str_radix(&text.replace('_', ""), radix) {
                Ok(value) => {
                    self.push(Token::Integer(value));
                    self.advance(2 + text.len());
                    Ok(())
                }
                Err(_) => Err(self.syntax("a 64-bit integer", format!("`{}`", &rest[..2]))),
            };
        }
        let mut n_bytes = digits(rest);
        let mut is_float = false;
        // `messages.0.content` is an index, not a fraction.
        let after_dot =
            matches!(self.lexemes.last(), Some(Lexeme { token: Token::Operator("."), .. }));
        let starts_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        if !after_dot && rest[n_bytes..].starts_with('.') && starts_with_digit(&rest[n_bytes + 1..])
        {
            n_bytes += 1 + digits(&rest[n_bytes + 1..]);
            is_float = true;
        }
        if !after_dot && rest[n_bytes..].starts_with(['e', 'E']) {
            let exponent = rest[n_bytes + 1..].strip_prefix(['+', '-']);
            let exponent = exponent.unwrap_or(&rest[n_bytes + 1..]);
            if starts_with_digit(exponent) {
                n_bytes = rest.len() - exponent.len() + digits(exponent);
                is_float = true;
            }
        }
        let text = rest[..n_bytes].replace('_', "");
        let token = if is_float {
            text.parse().ok().map(Token::Float)
        } else {
            text.parse().ok().map(Token::Integer)
        };
        match token {
            Some(token) => {
                self.push(token);
                self.advance(n_bytes);
                Ok(())
            }
            None => Err(self.syntax("a 64-bit number", format!("{} digits", text.len()))),
        }
    }

    fn string(&mut self, quote: char) -> Result<(), TemplateError> {
        let body = &self.rest()[1..];
        let mut value = String::new();
        let mut chars = body.char_indices();
        loop {
            let Some((index, character)) = chars.next() else {
                return Err(self.syntax("the end of the string", "the end of the template"));
            };
            if character == quote {
                self.push(Token::String(value));
                self.advance(index + 2);
                return Ok(());
            }
            if character == '\\' {
                self.escape(&mut chars, &mut value)?;
            } else {
                value.push(character);
            }
        }
    }

    /// What follows a backslash in a string, as in Python.
    fn escape(
        &self,
        chars: &mut std::str::CharIndices<'_>,
        value: &mut String,
    ) -> Result<(), TemplateError> {
        let Some((_, character)) = chars.next() else {
            return Err(self.syntax("the end of the string", "the end of the template"));
        };
        let mut hexadecimal = |n_digits: usize| {
            let digits = chars.as_str().get(..n_digits);
            let code = digits
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .and_then(char::from_u32);
            for _ in 0..n_digits {
                chars.next();
            }
            code.ok_or_else(|| {
                self.syntax("the code of a character", format!("`\\{character}` without one"))
            })
        };
        match character {
            '\n' => {}
            'n' => value.push('\n'),
            't' => value.push('\t'),
            'r' => value.push('\r'),
            'a' => value.push('\x07'),
            'b' => value.push('\x08'),
            'f' => value.push('\x0c'),
            'v' => value.push('\x0b'),
            '\\' | '\'' | '"' => value.push(character),
            'x' => value.push(hexadecimal(2)?),
            'u' => value.push(hexadecimal(4)?),
            'U' => value.push(hexadecimal(8)?),
            '0'..='7' => {
                let mut code = character.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let next = chars.as_str().chars().next().and_then(|c| c.to_digit(8));
                    let Some(digit) = next else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                value.extend(char::from_u32(code));
            }
            other => value.extend(['\\', other]),
        }
        Ok(())
    }
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit() || character == '_'
}

/// The first tag of `source` and what it is.
fn find_tag(source: &str) -> Option<(usize, Tag)> {
    source.match_indices('{').find_map(|(index, _)| {
        let tag = match source.as_bytes().get(index + 1)? {
            b'{' => Tag::Print,
            b'%' => Tag::Block,
            b'#' => Tag::Comment,
            _ => return None,
        };
        Some((index, tag))
    })
}

/// The bytes a tag's end takes, white space behind it included.
#[derive(Clone, Copy)]
struct TagEnd {
    n_bytes: usize,
}

fn tag_end(source: &str, tag: Tag) -> Option<TagEnd> {
    let close = match tag {
        Tag::Print => "}}",
        Tag::Block => "%}",
        Tag::Comment => "#}",
    };
    let spaces = |text: &str| text.len() - text.trim_start_matches(is_space).len();
    if let Some(after) = source.strip_prefix('-').and_then(|rest| rest.strip_prefix(close)) {
        return Some(TagEnd { n_bytes: 3 + spaces(after) });
    }
    if tag != Tag::Print && source.strip_prefix('+').is_some_and(|rest| rest.starts_with(close)) {
        return Some(TagEnd { n_bytes: 3 });
    }
    let after = source.strip_prefix(close)?;
    let takes_newline = tag != Tag::Print && after.starts_with('\n');
    Some(TagEnd { n_bytes: 2 + usize::from(takes_newline) })
}

/// The bytes of white space, `name` and white space at the start of `source`.
fn keyword(source: &str, name: &str) -> Option<usize> {
    let after = source.trim_start_matches(is_space).strip_prefix(name)?;
    Some(source.len() - after.trim_start_matches(is_space).len())
}

/// The bytes of the rest of a `{% raw %}` tag, if that is what this is.
fn raw_begin(source: &str) -> Option<usize> {
    let name_bytes = keyword(source, "raw")?;
    let after = &source[name_bytes..];
    // Unlike other blocks, `raw` keeps the newline behind it.
    if after.starts_with("-%}") {
        return tag_end(after, Tag::Block).map(|end| name_bytes + end.n_bytes);
    }
    after.starts_with("%}").then_some(name_bytes + 2)
}
