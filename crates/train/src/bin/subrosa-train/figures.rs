//! The figures of the paper, from the logs of trainings.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use subrosa_terminal::{Failure, Terminal};
use subrosa_train::figures::{self, Column, FigureError, Series};

/// Figures, with the data set whose logs they show.
const ACCURACIES: [(&str, &str, &str); 2] = [
    ("figure11", "mnist", "MNIST: ReLU before the last layer replaced (Figure 11 of the paper)"),
    ("figure12", "cifar10", "CIFAR-10: ReLU before the last layer replaced (Figure 12 of the paper)"),
];

/// What is drawn, by the names of the logs.
const SERIES: [(&str, &str); 5] = [
    ("relu", "ReLU"),
    ("last-x2+2x", "last: x²+2x"),
    ("last-none", "last: none"),
    ("quadratic", "all polynomial, mean pooling"),
    ("adapted", "ReLU network adapted: all polynomial"),
];

/// What was drawn.
#[derive(Serialize)]
struct Drawn {
    files: Vec<PathBuf>,
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.iter().try_for_each(|file| writeln!(f, "{}", file.display()))
    }
}

fn failure(error: &FigureError) -> Failure {
    Failure::of(error)
}

/// Draws all figures into `out`.
pub(crate) fn draw(terminal: &mut Terminal<'_>, logs: &Path, out: &Path) -> Result<(), Failure> {
    let names = names(logs)?;
    fs::create_dir_all(out).map_err(|e| Failure::usage(format!("--out {}: {e}", out.display())))?;
    let mut files = Vec::new();
    for (stem, dataset, title) in ACCURACIES {
        let mut series = Vec::new();
        for (part, name) in SERIES {
            let of = format!("{dataset}-{part}-");
            let runs: Vec<PathBuf> = names.iter().filter(|n| is_run(n, &of)).map(|n| logs.join(n)).collect();
            if !runs.is_empty() {
                series.push(Series::read(name, Column::Test, &runs).map_err(|e| failure(&e))?);
            }
        }
        if series.is_empty() {
            terminal.warn(format!("no logs of {dataset} in {}; {stem} is not drawn", logs.display()));
            continue;
        }
        files.extend(figures::accuracy(title, &series, &out.join(stem)).map_err(|e| failure(&e))?);
    }
    files.extend(figures::approximations(out).map_err(|e| failure(&e))?);
    terminal.report(&Drawn { files })
}

/// Whether a log's name is `of`, a number, and the ending.
fn is_run(name: &str, of: &str) -> bool {
    let seed = name.strip_prefix(of).and_then(|rest| rest.strip_suffix(".log.csv"));
    seed.is_some_and(|seed| !seed.is_empty() && seed.bytes().all(|b| b.is_ascii_digit()))
}

/// Names of the files in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::usage(format!("--logs {}: {error}; give the folder of the trainings' logs", folder.display()))
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
