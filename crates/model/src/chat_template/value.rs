//! The values of a running template, with Python's truth, equality and order.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;

use super::budget::Budget;
use super::fault::{Fault, TemplateLimit};
use super::text::{Origin, Text};

/// Lists within lists; bounds every walk over a value.
const MAX_DEPTH: u32 = 32;

#[derive(Clone)]
pub(super) enum Value {
    /// A name or an attribute that is not there, and its name.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Rc<Text>),
    List(Rc<List>),
    Dict(Rc<Dict>),
    Namespace(Rc<RefCell<Vec<(String, Value)>>>),
    Loop(Rc<Loop>),
    /// Where the interpreter keeps it.
    Macro(usize),
    Function(Function),
    /// `value.name`, about to be called.
    Method(Rc<(Value, String)>),
}

/// A Python list or tuple.
pub(super) struct List {
    pub(super) items: Vec<Value>,
    pub(super) is_tuple: bool,
    depth: u32,
}

/// A Python dict: its entries in the order they were made. Looked up from end to end, because the
/// dicts of chat templates have a handful of keys.
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    depth: u32,
}

/// The variable `loop`.
pub(super) struct Loop {
    pub(super) items: Rc<Vec<Value>>,
    pub(super) index0: usize,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Function {
    Range,
    Namespace,
    Dict,
    RaiseException,
    StrftimeNow,
}

impl Value {
    pub(super) fn template_text(string: &str, budget: &mut Budget) -> Result<Self, Fault> {
        budget.spend_bytes(string.len())?;
        Ok(Self::Text(Rc::new(Text::new(string, Origin::Template))))
    }

    pub(super) fn text(text: Text) -> Self {
        Self::Text(Rc::new(text))
    }

    pub(super) fn undefined(name: &str) -> Self {
        Self::Undefined(name.into())
    }

    pub(super) fn list(items: Vec<Self>, budget: &mut Budget) -> Result<Self, Fault> {
        Self::sequence(items, false, budget)
    }

    pub(super) fn sequence(
        items: Vec<Self>,
        is_tuple: bool,
        budget: &mut Budget,
    ) -> Result<Self, Fault> {
        budget.spend_items(items.len())?;
        let depth = depth_above(items.iter())?;
        Ok(Self::List(Rc::new(List { items, is_tuple, depth })))
    }

    /// A dict; of entries with equal keys the last is kept, at the place of the first.
    pub(super) fn dict(
        entries: impl IntoIterator<Item = (Self, Self)>,
        budget: &mut Budget,
    ) -> Result<Self, Fault> {
        let mut unique: Vec<(Self, Self)> = Vec::new();
        for (key, value) in entries {
            budget.spend_items(2)?;
            if matches!(key, Self::List(_) | Self::Dict(_)) {
                return Err(Fault::Unsupported("a list or dict as a key".to_owned()));
            }
            let mut same = None;
            for (index, (present, _)) in unique.iter().enumerate() {
                if present.equals(&key, budget)? {
                    same = Some(index);
                }
            }
            match same {
                Some(index) => unique[index].1 = value,
                None => unique.push((key, value)),
            }
        }
        let depth = depth_above(unique.iter().map(|(_, value)| value))?;
        Ok(Self::Dict(Rc::new(Dict { entries: unique, depth })))
    }

    /// What an error message calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "an undefined value",
            Self::None => "none",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::List(list) if list.is_tuple => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Namespace(_) => "a namespace",
            Self::Loop(_) => "a loop",
            Self::Macro(_) => "a macro",
            Self::Function(_) => "a function",
            Self::Method(_) => "a method",
        }
    }

    /// Whether it may be put into a list, a dict or a namespace. The others refer to each other,
    /// and a cycle or an endless chain of them must not arise.
    pub(super) fn check_storable(&self) -> Result<(), Fault> {
        match self {
            Self::Namespace(_) | Self::Loop(_) | Self::Macro(_) | Self::Method(_) => {
                Err(Fault::Unsupported(format!("{} within another value", self.kind())))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Integer(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    /// As a number, as Python counts: `true` is 1.
    pub(super) fn as_number(&self) -> Option<Number> {
        match self {
            Self::Bool(value) => Some(Number::Integer(i64::from(*value))),
            Self::Integer(value) => Some(Number::Integer(*value)),
            Self::Float(value) => Some(Number::Float(*value)),
            _ => None,
        }
    }

    pub(super) fn equals(&self, other: &Self, budget: &mut Budget) -> Result<bool, Fault> {
        budget.spend_steps(1)?;
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(a), Self::Text(b)) => {
                budget.spend_scan(a.len().min(b.len()))?;
                a == b
            }
            (Self::List(a), Self::List(b)) => {
                if a.is_tuple != b.is_tuple || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Dict(a), Self::Dict(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    let same = match b.get(key, budget)? {
                        Some(other) => value.equals(other, budget)?,
                        None => false,
                    };
                    if !same {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Namespace(a), Self::Namespace(b)) => Rc::ptr_eq(a, b),
            (Self::Function(a), Self::Function(b)) => a == b,
            _ => match (self.as_number(), other.as_number()) {
                (Some(a), Some(b)) => a.compare(b) == Some(Ordering::Equal),
                _ => false,
            },
        })
    }

    /// The order of two numbers or two strings; `None` when one is NaN.
    pub(super) fn order(
        &self,
        other: &Self,
        budget: &mut Budget,
    ) -> Result<Option<Ordering>, Fault> {
        if let (Self::Text(a), Self::Text(b)) = (self, other) {
            budget.spend_scan(a.len().min(b.len()))?;
            return Ok(Some(a.as_str().cmp(b.as_str())));
        }
        match (self.as_number(), other.as_number()) {
            (Some(a), Some(b)) => Ok(a.compare(b)),
            _ => Err(self.cannot(&format!("be ordered against {}", other.kind()))),
        }
    }

    /// The values a `for` over it sees.
    pub(super) fn items(&self, budget: &mut Budget) -> Result<Vec<Self>, Fault> {
        match self {
            Self::Undefined(_) => Ok(Vec::new()),
            Self::List(list) => {
                budget.spend_items(list.items.len())?;
                Ok(list.items.clone())
            }
            Self::Dict(dict) => {
                budget.spend_items(dict.entries.len())?;
                Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect())
            }
            Self::Text(text) => {
                budget.spend_items(text.len())?;
                Ok(text
                    .chars()
                    .map(|(character, origin)| Self::text(Text::new(character, origin)))
                    .collect())
            }
            _ => Err(self.cannot("be iterated over")),
        }
    }

    pub(super) fn length(&self) -> Result<usize, Fault> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Text(text) => Ok(text.as_str().chars().count()),
            Self::List(list) => Ok(list.items.len()),
            Self::Dict(dict) => Ok(dict.entries.len()),
            _ => Err(self.cannot("be measured")),
        }
    }

    /// `needle in self`
    pub(super) fn contains(&self, needle: &Self, budget: &mut Budget) -> Result<bool, Fault> {
        match self {
            Self::Text(text) => match needle {
                Self::Text(needle) => {
                    budget.spend_scan(text.len())?;
                    Ok(text.as_str().contains(needle.as_str()))
                }
                _ => Err(needle.cannot("be looked for in a string")),
            },
            Self::Dict(dict) => Ok(dict.get(needle, budget)?.is_some()),
            Self::List(list) => {
                for item in &list.items {
                    if item.equals(needle, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Undefined(_) => Ok(false),
            _ => Err(self.cannot("contain anything")),
        }
    }

    /// The fault of doing something with the wrong kind of value; Jinja2 tells apart what is
    /// missing from what is of another kind, and so does this.
    pub(super) fn cannot(&self, what: &str) -> Fault {
        match self {
            Self::Undefined(name) => Fault::Undefined(format!("`{name}`")),
            _ => Fault::Operation(format!("{} cannot {what}", self.kind())),
        }
    }
}

impl Dict {
    pub(super) fn get(&self, key: &Value, budget: &mut Budget) -> Result<Option<&Value>, Fault> {
        for (present, value) in &self.entries {
            if present.equals(key, budget)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|(present, _)| matches!(present, Value::Text(text) if text.as_str() == key))
            .map(|(_, value)| value)
    }
}

#[derive(Clone, Copy)]
pub(super) enum Number {
    Integer(i64),
    Float(f64),
}

impl Number {
    pub(super) fn as_float(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(&b)),
            (a, b) => a.as_float().partial_cmp(&b.as_float()),
        }
    }
}

/// The depth of a list of `items`.
fn depth_above<'v>(items: impl Iterator<Item = &'v Value>) -> Result<u32, Fault> {
    let mut deepest = 0;
    for item in items {
        item.check_storable()?;
        deepest = deepest.max(match item {
            Value::List(list) => list.depth,
            Value::Dict(dict) => dict.depth,
            _ => 0,
        });
    }
    if deepest >= MAX_DEPTH { Err(Fault::Limit(TemplateLimit::Depth)) } else { Ok(deepest + 1) }
}
