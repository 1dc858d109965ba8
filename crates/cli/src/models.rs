//! `rapport models`: which models there are, and which are on this machine.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::pull::{Catalog, Condition, Paths, PullError, Record, find_adapter, size};

/// A model of the catalogue or of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelRow {
    pub name: String,
    /// Empty for a model that is not in the catalogue.
    pub description: String,
    /// `None` for a model that is not in the catalogue: its file may say.
    pub licence: Option<String>,
    pub size_bytes: u64,
    pub state: ModelState,
    /// Where its file is or was; of one that is another with an adapter, the adapter's.
    pub path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    Pulled,
    NotPulled,
    /// The file is not what it was when it was pulled.
    Changed,
    /// It was pulled, but its file is gone.
    Missing,
}

impl ModelState {
    fn describe(self) -> &'static str {
        match self {
            Self::Pulled => "pulled",
            Self::NotPulled => "not pulled",
            Self::Changed => "changed",
            Self::Missing => "missing",
        }
    }
}

/// The models of the catalogue in its order, then those of the cache by name.
///
/// # Errors
/// A catalogue that cannot be read or is not valid.
pub fn list(paths: &Paths) -> Result<Vec<ModelRow>, PullError> {
    let catalog = Catalog::load(&paths.user_catalog)?;
    let mut rows: Vec<ModelRow> = catalog
        .entries
        .iter()
        .map(|entry| {
            let (state, path) = find(paths, &entry.name);
            ModelRow {
                name: entry.name.clone(),
                description: entry.description.clone(),
                licence: Some(entry.licence.clone()),
                size_bytes: entry.size_bytes,
                state,
                path,
            }
        })
        .collect();
    rows.extend(catalog.adapted.iter().map(|adapted| {
        let (base_state, _) = find(paths, &adapted.base);
        let adapter = find_adapter(adapted, paths).ok();
        let base = catalog.get(&adapted.base).map_or(0, |entry| entry.size_bytes);
        let own = adapter.as_ref().and_then(|file| file.metadata().ok());
        ModelRow {
            name: adapted.name.clone(),
            description: adapted.description.clone(),
            licence: Some(adapted.licence.clone()),
            size_bytes: base + own.map_or(0, |file| file.len()),
            state: if adapter.is_some() { base_state } else { ModelState::Missing },
            path: adapter.filter(|_| base_state == ModelState::Pulled),
        }
    }));
    let folders = std::fs::read_dir(paths.cache.join("models"));
    let mut others: Vec<ModelRow> = folders
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|folder| {
            let name = folder.file_name().into_string().ok()?;
            let record = Record::load(&folder.path())?;
            if catalog.get(&name).is_some() || catalog.adapted(&name).is_some() {
                return None;
            }
            let (state, path) = find(paths, &name);
            let (description, licence) = (String::new(), None);
            Some(ModelRow {
                name,
                description,
                licence,
                size_bytes: record.size_bytes,
                state,
                path,
            })
        })
        .collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    rows.append(&mut others);
    Ok(rows)
}

fn find(paths: &Paths, name: &str) -> (ModelState, Option<PathBuf>) {
    let folder = paths.model_folder(name);
    let Some(record) = Record::load(&folder) else { return (ModelState::NotPulled, None) };
    let state = match record.condition(&folder) {
        Condition::Same => ModelState::Pulled,
        Condition::Touched | Condition::Different => ModelState::Changed,
        Condition::Missing => ModelState::Missing,
    };
    (state, Some(record.path(&folder)))
}

/// The rows as a table for a person.
pub fn table(rows: &[ModelRow]) -> String {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let place = row.path.as_ref().map(|path| path.display().to_string());
            [
                row.name.clone(),
                size(row.size_bytes),
                row.licence.clone().unwrap_or_else(|| "-".to_owned()),
                row.state.describe().to_owned(),
                place.unwrap_or_else(|| row.description.clone()),
            ]
        })
        .collect();
    let heads = ["NAME", "SIZE", "LICENCE", "STATE", "WHERE"].map(str::to_owned);
    let mut widths = [0; 5];
    for line in std::iter::once(&heads).chain(&cells) {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for [name, size, licence, state, place] in std::iter::once(&heads).chain(&cells) {
        let [name_width, size_width, licence_width, state_width, _] = widths;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:name_width$}  {size:>size_width$}  {licence:licence_width$}  \
             {state:state_width$}  {place}"
        );
    }
    text
}

/// The rows as JSON for a program.
pub fn json(rows: &[ModelRow]) -> String {
    // A row is strings and numbers; a path that is not UTF-8 is the one thing that could fail.
    serde_json::to_string_pretty(rows)
        .unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }).to_string())
}
