//! Metadata: ordered keys with typed values, read in place.
//!
//! Nothing is copied: a vocabulary of 250,000 strings stays where it is in the header, and
//! [`Strings`] walks it.

use std::fmt;
use std::ops::Range;

use super::Gguf;
use super::cursor::{Cursor, Short};
use super::error::{FoundType, GgufError, GgufProblem};

/// Arrays in arrays go at most this deep; no known file has any.
pub(super) const MAX_ARRAY_DEPTH: u32 = 4;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// In the order of their ids in the file, from 0.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The type's number in the file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of a number or bool; the fewest bytes that a string or an array can have.
    const fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// A metadata value, borrowed from the file's header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Should be UTF-8; the format does not promise it.
    String(&'a [u8]),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
        }
    }

    pub(super) fn wrong_type(&self, key: &str, expected: &'static str) -> GgufProblem {
        let found = match self {
            Self::Array(array) => FoundType::ArrayOf(array.element_type),
            scalar => FoundType::Scalar(scalar.value_type()),
        };
        GgufProblem::WrongValueType { key: key.to_owned(), expected, found }
    }

    /// An integer of any width.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// A float of either width, rounded to the shorter one.
    fn float(&self) -> Option<f32> {
        match *self {
            Self::F32(value) => Some(value),
            Self::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// The next value of the cursor; checks everything inside it.
    pub(super) fn read(
        cursor: &mut Cursor<'a>,
        value_type: ValueType,
        depth: u32,
    ) -> Result<Self, ValueFault> {
        Ok(match value_type {
            ValueType::U8 => Self::U8(u8::from_le_bytes(cursor.array()?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(cursor.array()?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(cursor.array()?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(cursor.array()?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(cursor.array()?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(cursor.array()?)),
            ValueType::U64 => Self::U64(u64::from_le_bytes(cursor.array()?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(cursor.array()?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(cursor.array()?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(cursor.array()?)),
            ValueType::Bool => match cursor.array::<1>()? {
                [bit @ 0..=1] => Self::Bool(bit == 1),
                [found] => return Err(ValueFault::InvalidBool { found }),
            },
            ValueType::String => Self::String(cursor.string()?),
            ValueType::Array => Self::Array(Array::read(cursor, depth)?),
        })
    }
}

/// Why a value cannot be read; the caller knows the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueFault {
    Short(Short),
    UnknownType { found: u32 },
    InvalidBool { found: u8 },
    NestedTooDeep,
}

impl From<Short> for ValueFault {
    fn from(short: Short) -> Self {
        Self::Short(short)
    }
}

pub(super) fn read_value_type(cursor: &mut Cursor<'_>) -> Result<ValueType, ValueFault> {
    let found = cursor.u32()?;
    ValueType::from_id(found).ok_or(ValueFault::UnknownType { found })
}

/// An array of values of one type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element_type: ValueType,
    len: u64,
    /// The elements as the file has them, already checked.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    pub fn len(&self) -> usize {
        // Every element has at least one byte in memory, so this cannot lose anything.
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as the file has them: numbers little-endian, strings with their lengths.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::over(self.bytes);
        let element_type = self.element_type;
        // Depth counts from the outermost array, which `read` has checked.
        (0..self.len).map_while(move |_| Value::read(&mut cursor, element_type, 0).ok())
    }

    /// The elements of an array of strings.
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.element_type == ValueType::String)
            .then(|| Strings { cursor: Cursor::over(self.bytes), n_left: self.len() })
    }

    fn read(cursor: &mut Cursor<'a>, depth: u32) -> Result<Self, ValueFault> {
        if depth == MAX_ARRAY_DEPTH {
            return Err(ValueFault::NestedTooDeep);
        }
        let element_type = read_value_type(cursor)?;
        let len = cursor.u64()?;
        let mut elements = cursor.clone();
        let min_bytes = len.saturating_mul(element_type.min_bytes());
        if matches!(element_type, ValueType::String | ValueType::Array) {
            let available_bytes = elements.available_bytes();
            if min_bytes > available_bytes {
                return Err(Short::OfFile { needed_bytes: min_bytes, available_bytes }.into());
            }
            for _ in 0..len {
                Value::read(&mut elements, element_type, depth + 1)?;
            }
        } else {
            let bytes = elements.take(min_bytes)?;
            if element_type == ValueType::Bool
                && let Some(&found) = bytes.iter().find(|&&bit| bit > 1)
            {
                return Err(ValueFault::InvalidBool { found });
            }
        }
        let bytes = cursor.take((elements.position() - cursor.position()) as u64)?;
        Ok(Self { element_type, len, bytes })
    }

    /// An array that [`Array::read`] has checked and that is all of `payload`.
    fn decode(payload: &'a [u8]) -> Result<Self, ValueFault> {
        let mut cursor = Cursor::over(payload);
        let element_type = read_value_type(&mut cursor)?;
        let len = cursor.u64()?;
        let bytes = cursor.take(cursor.available_bytes())?;
        Ok(Self { element_type, len, bytes })
    }
}

/// The strings of an array, as raw bytes: vocabularies may hold invalid UTF-8.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    cursor: Cursor<'a>,
    n_left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.n_left = self.n_left.checked_sub(1)?;
        self.cursor.string().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.n_left, Some(self.n_left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// A key and where its value is in the header.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) value_type: ValueType,
    pub(super) payload: Range<usize>,
}

impl Entry {
    pub(super) fn value<'a>(&self, header: &'a [u8]) -> Value<'a> {
        let payload = &header[self.payload.clone()];
        let value = match self.value_type {
            // An array's extent is known by now: do not walk it again.
            ValueType::Array => Array::decode(payload).map(Value::Array),
            value_type => Value::read(&mut Cursor::over(payload), value_type, 0),
        };
        value.expect("the value was read once already and the header does not change")
    }
}

/// The metadata of a file. Getters name the key, and the type expected and found.
///
/// Each `optional_` form gives `None` only for a key that is missing; a value of a wrong type is
/// an error there too.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    gguf: &'a Gguf,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(gguf: &'a Gguf) -> Self {
        Self { gguf }
    }

    pub fn len(self) -> usize {
        self.gguf.directory.entries.len()
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Keys and values in the order of the file.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let gguf = self.gguf;
        gguf.directory.entries.iter().map(|entry| (&*entry.key, entry.value(gguf.header())))
    }

    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let entry_idx = *self.gguf.directory.entry_indices.get(key)?;
        Some(self.gguf.directory.entries[entry_idx].value(self.gguf.header()))
    }

    pub fn string(self, key: &str) -> Result<&'a str, GgufError> {
        self.required(key, Self::optional_string)
    }

    pub fn optional_string(self, key: &str) -> Result<Option<&'a str>, GgufError> {
        let Some(bytes) = self.optional_bytes(key)? else { return Ok(None) };
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let valid_bytes = error.valid_up_to();
            self.error(GgufProblem::ValueNotUtf8 { key: key.to_owned(), valid_bytes })
        })?;
        Ok(Some(text))
    }

    /// A string whose bytes may be anything.
    pub fn bytes(self, key: &str) -> Result<&'a [u8], GgufError> {
        self.required(key, Self::optional_bytes)
    }

    pub fn optional_bytes(self, key: &str) -> Result<Option<&'a [u8]>, GgufError> {
        self.optional(key, "string", |value| match value {
            Value::String(bytes) => Some(bytes),
            _ => None,
        })
    }

    /// An integer of any width whose value fits.
    pub fn u32(self, key: &str) -> Result<u32, GgufError> {
        self.required(key, Self::optional_u32)
    }

    pub fn optional_u32(self, key: &str) -> Result<Option<u32>, GgufError> {
        self.optional_integer(key, "u32")
    }

    /// An integer of any width whose value fits.
    pub fn u64(self, key: &str) -> Result<u64, GgufError> {
        self.required(key, Self::optional_u64)
    }

    pub fn optional_u64(self, key: &str) -> Result<Option<u64>, GgufError> {
        self.optional_integer(key, "u64")
    }

    /// A float of either width, rounded to f32.
    pub fn f32(self, key: &str) -> Result<f32, GgufError> {
        self.required(key, Self::optional_f32)
    }

    pub fn optional_f32(self, key: &str) -> Result<Option<f32>, GgufError> {
        self.optional(key, "f32", |value| value.float())
    }

    pub fn bool(self, key: &str) -> Result<bool, GgufError> {
        self.required(key, Self::optional_bool)
    }

    pub fn optional_bool(self, key: &str) -> Result<Option<bool>, GgufError> {
        self.optional(key, "bool", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// An array of strings, in place.
    pub fn strings(self, key: &str) -> Result<Strings<'a>, GgufError> {
        self.required(key, Self::optional_strings)
    }

    pub fn optional_strings(self, key: &str) -> Result<Option<Strings<'a>>, GgufError> {
        self.optional(key, "array of string", |value| match value {
            Value::Array(array) => array.strings(),
            _ => None,
        })
    }

    /// An array of floats of either width, rounded to f32.
    pub fn f32s(self, key: &str) -> Result<Vec<f32>, GgufError> {
        self.required(key, Self::optional_f32s)
    }

    pub fn optional_f32s(self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.optional(key, "array of f32", |value| match value {
            Value::Array(array) => array.values().map(|value| value.float()).collect(),
            _ => None,
        })
    }

    /// An array of integers of any width whose values fit.
    pub fn i32s(self, key: &str) -> Result<Vec<i32>, GgufError> {
        self.required(key, Self::optional_i32s)
    }

    pub fn optional_i32s(self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.optional_integers(key, "array of i32")
    }

    /// An array of integers of any width whose values fit.
    pub fn u32s(self, key: &str) -> Result<Vec<u32>, GgufError> {
        self.required(key, Self::optional_u32s)
    }

    pub fn optional_u32s(self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.optional_integers(key, "array of u32")
    }

    pub fn bools(self, key: &str) -> Result<Vec<bool>, GgufError> {
        self.required(key, Self::optional_bools)
    }

    pub fn optional_bools(self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.optional(key, "array of bool", |value| match value {
            Value::Array(array) if array.element_type == ValueType::Bool => {
                Some(array.bytes.iter().map(|&bit| bit == 1).collect())
            }
            _ => None,
        })
    }

    fn required<T>(
        self,
        key: &str,
        optional: impl FnOnce(Self, &str) -> Result<Option<T>, GgufError>,
    ) -> Result<T, GgufError> {
        optional(self, key)?
            .ok_or_else(|| self.error(GgufProblem::MissingKey { key: key.to_owned() }))
    }

    fn optional<T>(
        self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.wrong_type(key, expected, value)),
        }
    }

    fn optional_integer<T: TryFrom<i128>>(
        self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let integer = value.integer().ok_or_else(|| self.wrong_type(key, expected, value))?;
        self.fitting(key, expected, integer).map(Some)
    }

    fn optional_integers<T: TryFrom<i128>>(
        self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(array) = value else { return Err(self.wrong_type(key, expected, value)) };
        let integers = array.values().map(|element| {
            let integer = element.integer().ok_or_else(|| self.wrong_type(key, expected, value))?;
            self.fitting(key, expected, integer)
        });
        integers.collect::<Result<_, _>>().map(Some)
    }

    fn fitting<T: TryFrom<i128>>(
        self,
        key: &str,
        expected: &'static str,
        found: i128,
    ) -> Result<T, GgufError> {
        T::try_from(found).map_err(|_| {
            self.error(GgufProblem::OutOfRange { key: key.to_owned(), expected, found })
        })
    }

    fn wrong_type(self, key: &str, expected: &'static str, value: Value<'_>) -> GgufError {
        self.error(value.wrong_type(key, expected))
    }

    fn error(self, problem: GgufProblem) -> GgufError {
        self.gguf.error(problem)
    }
}
