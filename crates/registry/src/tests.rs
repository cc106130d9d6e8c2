//! One module for each property's home.

#[cfg(unix)]
mod crash;
mod registry;
mod vault;

use std::path::Path;

use crate::{NewModel, Registry, Staging};

fn model(name: &str) -> NewModel {
    NewModel {
        name: name.to_owned(),
        scheme: "ckks".to_owned(),
        security_bits: 128,
        scope: "classifier".to_owned(),
        input: "encrypted".to_owned(),
        log_n: 14,
        report: serde_json::json!({ "weights": 421_642, "name": "to be replaced" }),
    }
}

/// A staged model with two files, one of them in a folder of its own.
fn staged(registry: &Registry) -> Staging {
    let staging = registry.begin().unwrap();
    std::fs::write(staging.dir().join("network.onnx"), FILE).unwrap();
    std::fs::create_dir(staging.dir().join("extra")).unwrap();
    std::fs::write(staging.dir().join("extra/notes"), FILE).unwrap();
    staging
}

const FILE: &[u8] = b"some bytes of a network";

/// What must hold whenever nobody is at work: files and rows fit each other, and nothing is left over.
fn assert_consistent(home: &Path) {
    let registry = Registry::open(home).unwrap();
    let mut rows: Vec<String> = registry.list().unwrap().iter().map(|record| record.id.to_string()).collect();
    rows.sort();
    assert_eq!(file_names(&home.join("models")), rows);
    assert!(file_names(&home.join("staging")).is_empty());
    for record in registry.list().unwrap() {
        assert_eq!(std::fs::read(registry.file(&record, "network.onnx").unwrap()).unwrap(), FILE);
        assert_eq!(record.report["id"], record.id.to_string());
    }
}

/// Sorted.
fn file_names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
