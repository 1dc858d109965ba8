//! Copies of the whole database that either kind of database can read.
//!
//! A dump is JSON lines: the schema's version, then every row of every table as
//! `{"table": .., "row": {column: value}}`, values being texts, integers and null. It moves an
//! installation from SQLite to Postgres and back. Postgres' own `pg_dump` is the quicker backup
//! where there is no move.

use std::io::{BufRead, Write};

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::any::{AnyRow, AnyTypeInfoKind};
use sqlx::{AssertSqlSafe, Column as _, Row as _, ValueRef as _};

use crate::row::Columns;
use crate::{Error, Store, schema};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Header { rapport_dump: i64 },
    Row { table: String, row: Map<String, Value> },
}

impl Store {
    /// Writes one state of the whole database; returns how many rows. Secrets are in it as the
    /// hashes they are stored as.
    pub async fn dump(&self, out: &mut (dyn Write + Send)) -> Result<u64, Error> {
        let mut transaction = self.begin_snapshot().await?;
        write_line(out, &Line::Header { rapport_dump: schema::VERSION })?;
        let mut n_rows = 0;
        for &table in schema::TABLES {
            let statement = AssertSqlSafe(format!("SELECT * FROM {table}"));
            let mut rows = sqlx::query(statement).fetch(&mut *transaction);
            while let Some(row) = rows.try_next().await? {
                write_line(out, &Line::Row { table: table.to_owned(), row: read_any(&row)? })?;
                n_rows += 1;
            }
        }
        out.flush()?;
        Ok(n_rows)
    }

    /// Fills an empty database from a dump, all or nothing; returns how many rows.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the database has users; [`Error::Dump`] with the line at fault;
    /// [`Error::Newer`] for a dump of a newer program.
    pub async fn restore(&self, dump: &mut (dyn BufRead + Send)) -> Result<u64, Error> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query("SELECT COUNT(*) AS n_users FROM users")
            .fetch_one(&mut *transaction)
            .await?;
        if row.int("n_users")? > 0 {
            return Err(Error::Conflict { what: "restore", problem: "the database is not empty" });
        }
        let mut n_rows = 0;
        let mut text = String::new();
        for line in 1.. {
            let at = |problem: String| Error::Dump { line, problem };
            text.clear();
            if dump.read_line(&mut text)? == 0 {
                break;
            }
            let parsed = serde_json::from_str(&text).map_err(|error| at(error.to_string()))?;
            match (line, parsed) {
                // Rows of every earlier version fit: no table that had rows has changed since.
                (1, Line::Header { rapport_dump })
                    if (1..=schema::VERSION).contains(&rapport_dump) => {}
                (1, Line::Header { rapport_dump: found }) => {
                    return Err(Error::Newer { found, supported: schema::VERSION });
                }
                (2.., Line::Row { table, row }) => {
                    let table = schema::TABLES
                        .iter()
                        .find(|&&known| known == table)
                        .ok_or_else(|| at(format!("there is no table `{table}`")))?;
                    let statement = insert_statement(table, &row).map_err(at)?;
                    let mut query = sqlx::query(AssertSqlSafe(statement));
                    for value in row.into_values() {
                        query = match value {
                            Value::String(text) => query.bind(text),
                            Value::Number(number) => query.bind(number.as_i64()),
                            // Left out of the statement.
                            _ => query,
                        };
                    }
                    query
                        .execute(&mut *transaction)
                        .await
                        .map_err(|error| at(error.to_string()))?;
                    n_rows += 1;
                }
                _ => return Err(at("the first line, and no other, names the version".to_owned())),
            }
        }
        transaction.commit().await?;
        Ok(n_rows)
    }
}

/// An INSERT of the columns that are not null. Column names are checked, since they come from a
/// file: the values are bound.
fn insert_statement(table: &str, row: &Map<String, Value>) -> Result<String, String> {
    let mut columns = Vec::new();
    let mut places = Vec::new();
    for (column, value) in row {
        let is_name = column.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_value = match value {
            Value::Null => continue,
            Value::String(text) => !text.contains('\0'),
            Value::Number(number) => number.is_i64(),
            _ => false,
        };
        if column.is_empty() || !is_name || !is_value {
            return Err(format!("`{column}` is not a column of texts or integers"));
        }
        columns.push(column.as_str());
        places.push(format!("${}", columns.len()));
    }
    if columns.is_empty() {
        return Err("the row is empty".to_owned());
    }
    Ok(format!("INSERT INTO {table} ({}) VALUES ({})", columns.join(", "), places.join(", ")))
}

fn read_any(row: &AnyRow) -> Result<Map<String, Value>, Error> {
    let mut values = Map::new();
    for column in row.columns() {
        let name = column.name();
        let raw = row.try_get_raw(name)?;
        let value = if raw.is_null() {
            Value::Null
        } else if raw.type_info().kind() == AnyTypeInfoKind::Text {
            Value::String(row.text(name)?)
        } else {
            Value::from(row.int(name)?)
        };
        values.insert(name.to_owned(), value);
    }
    Ok(values)
}

fn write_line(out: &mut (dyn Write + Send), line: &Line) -> Result<(), Error> {
    let mut text = crate::row::to_json(line);
    text.push('\n');
    Ok(out.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_cannot_smuggle_statements_in() {
        let row = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        for bad in [
            r#"{"id) VALUES (1); DROP TABLE users; --": 1}"#,
            r#"{"id": 1.5}"#,
            r#"{"id": [1]}"#,
            r#"{"": 1}"#,
            "{}",
        ] {
            assert!(insert_statement("users", &row(bad)).is_err(), "{bad}");
        }
        let good = insert_statement("users", &row(r#"{"id": "a", "email": null, "n_ms": 3}"#));
        assert_eq!(good.unwrap(), "INSERT INTO users (id, n_ms) VALUES ($1, $2)");
    }
}
