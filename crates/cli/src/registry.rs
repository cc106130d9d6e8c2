//! `models`, `show`, `remove`: the Trained and Protected DNN Database.

use crate::arguments::HomeFlags;
use crate::failure::failure;
use serde::Serialize;
use std::fmt;
use subrosa_registry::Record;
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct Models {
    models: Vec<Record>,
}

/// One record, everything that is known of it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    record: Record,
}

#[derive(Serialize)]
struct Removed {
    id: String,
    name: String,
    version: u32,
}

pub(crate) fn models(terminal: &mut Terminal, home: &HomeFlags) -> Result<(), Failure> {
    let directory = home.directory()?;
    terminal.detail(format!("home {}", directory.display()));
    // Where there is no home there are no networks, and looking makes none.
    let models = if directory.is_dir() { home.owner()?.registry().list().map_err(failure)? } else { Vec::new() };
    terminal.report(&Models { models })
}

pub(crate) fn show(terminal: &mut Terminal, home: &HomeFlags, id: &str) -> Result<(), Failure> {
    let record = home.owner()?.registry().get(id).map_err(failure)?;
    terminal.report(&Shown { record })
}

pub(crate) fn remove(terminal: &mut Terminal, home: &HomeFlags, id: &str) -> Result<(), Failure> {
    let owner = home.owner()?;
    owner.registry().get(id).map_err(failure)?;
    let record = owner.remove(id, &home.vault()?).map_err(failure)?;
    terminal.report(&Removed { id: record.id.to_string(), name: record.name, version: record.version })
}

impl fmt::Display for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.models.is_empty() {
            return write!(f, "no protected networks yet: 'subrosa protect' makes one");
        }
        let head = ["id", "name", "scope", "input", "security", "ring", "model", "keys"].map(str::to_owned);
        let size =
            |r: &Record, key| r.report.get(key).and_then(serde_json::Value::as_u64).map_or("?".into(), text::bytes);
        let rows = self.models.iter().map(|r| {
            let (security, ring) = (format!("{} bits", r.security_bits), format!("2^{}", r.log_n));
            let (id, name) = (r.id.to_string(), r.versioned_name());
            [id, name, r.scope.clone(), r.input.clone(), security, ring, size(r, "model_bytes"), size(r, "key_bytes")]
        });
        f.write_str(&text::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.record.versioned_name(), self.record.id)?;
        let mut rows = Vec::new();
        flatten("", &self.record.report, &mut rows);
        f.write_str(&text::table(&rows))
    }
}

/// Leaves of a JSON value with their paths.
fn flatten(path: &str, value: &serde_json::Value, rows: &mut Vec<[String; 2]>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, rows);
            }
        }
        serde_json::Value::Null => {}
        serde_json::Value::String(text) => rows.push([path.to_owned(), text.clone()]),
        other => rows.push([path.to_owned(), other.to_string()]),
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "removed {}@{} ({}) and its secret key", self.name, self.version, self.id)
    }
}
