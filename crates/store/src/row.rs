//! Reading rows: each column as the type it was written from.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::{Error, UnixMs};

/// Columns by name. A column that does not parse is [`Error::Corrupt`]; one that is missing or of
/// another type is a fault of the statement.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Result<String, Error>;
    fn maybe_text(&self, column: &str) -> Result<Option<String>, Error>;
    fn int(&self, column: &str) -> Result<i64, Error>;
    fn maybe_int(&self, column: &str) -> Result<Option<i64>, Error>;

    fn flag(&self, column: &str) -> Result<bool, Error> {
        Ok(self.int(column)? != 0)
    }

    /// A count, which the schema keeps from being negative.
    fn count(&self, column: &str) -> Result<u64, Error> {
        Ok(self.int(column)?.max(0) as u64)
    }

    fn time(&self, column: &str) -> Result<UnixMs, Error> {
        self.int(column).map(UnixMs)
    }

    fn maybe_time(&self, column: &str) -> Result<Option<UnixMs>, Error> {
        Ok(self.maybe_int(column)?.map(UnixMs))
    }

    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, Error> {
        parse(column, self.text(column)?)
    }

    fn maybe_parsed<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, Error> {
        self.maybe_text(column)?.map(|text| parse(column, text)).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Error> {
        from_json(column, self.text(column)?)
    }

    fn maybe_json<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Error> {
        self.maybe_text(column)?.map(|text| from_json(column, text)).transpose()
    }
}

fn parse<T: FromStr>(what: &'static str, text: String) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Corrupt { what, found: text })
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: String) -> Result<T, Error> {
    serde_json::from_str(&text).map_err(|_| Error::Corrupt { what, found: text })
}

impl Columns for AnyRow {
    fn text(&self, column: &str) -> Result<String, Error> {
        Ok(self.try_get(column)?)
    }

    fn maybe_text(&self, column: &str) -> Result<Option<String>, Error> {
        Ok(self.try_get(column)?)
    }

    fn int(&self, column: &str) -> Result<i64, Error> {
        Ok(self.try_get(column)?)
    }

    fn maybe_int(&self, column: &str) -> Result<Option<i64>, Error> {
        Ok(self.try_get(column)?)
    }
}

/// Text as both databases can hold it: Postgres refuses NUL, so it becomes U+FFFD on both.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

/// A document as text. JSON writes NUL as an escape.
pub(crate) fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("documents have text keys and no failing parts")
}

/// Writes a value of another crate, which knows no serde, as its text.
pub(crate) fn text_of<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[expect(clippy::ref_option, reason = "the signature serde asks for")]
pub(crate) fn maybe_text_of<T: std::fmt::Display, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}
