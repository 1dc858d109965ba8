//! Files of one JSON value a line, read whole with errors that name the line.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a file of lines cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: std::io::Error },
    #[error("{}, line {line}: {source}", file.display())]
    Line { file: PathBuf, line: usize, source: serde_json::Error },
    #[error("{} has no lines", file.display())]
    Empty { file: PathBuf },
}

/// Every line as a value; blank lines are passed over.
///
/// # Errors
/// If the file cannot be read, a line is not what is expected, or there is none.
pub fn read<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>, JsonlError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| JsonlError::Io { file: file.to_owned(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let values: Result<Vec<T>, _> = lines
        .map(|(idx, line)| {
            serde_json::from_str(line).map_err(|source| JsonlError::Line {
                file: file.to_owned(),
                line: idx + 1,
                source,
            })
        })
        .collect();
    match values {
        Ok(values) if values.is_empty() => Err(JsonlError::Empty { file: file.to_owned() }),
        values => values,
    }
}

/// Writes one line a value, into a file that is new or whole again.
///
/// # Errors
/// If the file cannot be written.
pub fn write<T: Serialize>(file: &Path, values: &[T]) -> Result<(), JsonlError> {
    let mut text = String::new();
    for (idx, value) in values.iter().enumerate() {
        let line = serde_json::to_string(value).map_err(|source| JsonlError::Line {
            file: file.to_owned(),
            line: idx + 1,
            source,
        })?;
        text.push_str(&line);
        text.push('\n');
    }
    std::fs::write(file, text).map_err(|source| JsonlError::Io { file: file.to_owned(), source })
}
