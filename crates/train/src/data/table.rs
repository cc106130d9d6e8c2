//! CSV tables: columns of numbers and of categories, and one that holds the class.

use std::collections::BTreeMap;
use std::path::Path;

use subrosa_input::{LABEL_COLUMNS, Table};

use super::{Found, Options, Part, Samples, entries, fault, fault_at, list, name, text};
use crate::error::TrainError;
use crate::model::Shape;

/// Classes, and categories of a column, at most: more are no categories but numbers or names.
const MAX_CATEGORIES: usize = 1000;

/// Whole numbers up to 2^53 are exact as f64.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

pub(super) fn read(path: &Path, options: &Options) -> Result<Found, TrainError> {
    let (train_file, test_file) = if path.is_dir() {
        let (train, test) = (path.join("train.csv"), path.join("test.csv"));
        if !train.is_file() {
            let there: Vec<String> = entries(path)?.iter().map(|entry| name(entry)).collect();
            let what = match there.as_slice() {
                [] => "the folder is empty".to_owned(),
                _ => format!("it has no train.csv, only {}", list(&there)),
            };
            return Err(fault(path, what, "call the table train.csv, or give the file itself with --data"));
        }
        (train, Some(test).filter(|test| test.is_file()))
    } else {
        (path.to_owned(), None)
    };
    let table = open(&train_file)?;
    let encoding = Encoding::of(&train_file, &table, options)?;
    let train = encoding.apply(&train_file, &table)?;
    drop(table);
    let test = match test_file {
        None => None,
        Some(file) => {
            let table = open(&file)?;
            encoding.check_header(&file, &table)?;
            Some(encoding.apply(&file, &table)?)
        }
    };
    let columns = encoding.names();
    Ok(Found {
        shape: Shape::Flat(columns.len()),
        classes: encoding.classes,
        train,
        validation: None,
        test,
        columns: Some(columns),
    })
}

/// A table whose columns have names, each its own.
fn open(file: &Path) -> Result<Table, TrainError> {
    let table = Table::read(text(file)?)?;
    let header: Vec<&str> = table.header().collect();
    for (index, name) in header.iter().enumerate() {
        if name.is_empty() {
            let what = format!("column {} has no name", index + 1);
            return Err(fault(file, what, "name it in the header line"));
        }
        if header.iter().take(index).any(|earlier| earlier == name) {
            let what = format!("several columns are called '{name}'");
            return Err(fault(file, what, format!("give each its own name; its columns are {}", list(&header))));
        }
    }
    Ok(table)
}

/// How rows become values and classes.
struct Encoding {
    header: Vec<String>,
    target: usize,
    classes: Vec<String>,
    /// By the text that stands in the table.
    class_of: BTreeMap<String, u32>,
    features: Vec<Feature>,
}

struct Feature {
    /// Column of the table.
    column: usize,
    /// Of a category: its values and their place.
    values: Option<Vec<String>>,
}

impl Encoding {
    fn of(file: &Path, table: &Table, options: &Options) -> Result<Self, TrainError> {
        let header: Vec<String> = table.header().map(str::to_owned).collect();
        let find = |flag: &str, name: &str| {
            header.iter().position(|column| column == name).ok_or_else(|| {
                let cure = format!("give {flag} one of its columns: {}", list(&header));
                fault(file, format!("it has no column '{name}'"), cure)
            })
        };
        let target = match &options.target {
            Some(name) => find("--target", name)?,
            None => default_target(file, &header, &options.drop)?,
        };
        let dropped = options.drop.iter().map(|name| find("--drop", name)).collect::<Result<Vec<_>, _>>()?;
        let categorical =
            options.categorical.iter().map(|name| find("--categorical", name)).collect::<Result<Vec<_>, _>>()?;
        let both = |text: String| Err(TrainError::Option(text));
        let target_name = header.get(target).cloned().unwrap_or_default();
        if dropped.contains(&target) {
            return both(format!("'{target_name}' is the class, it cannot be in --drop; name another --target"));
        }
        if categorical.contains(&target) {
            return both(format!("'{target_name}' is the class, leave it out of --categorical"));
        }
        if let Some(name) = options.categorical.iter().find(|name| options.drop.contains(name)) {
            return both(format!("'{name}' is in --drop and in --categorical; keep one of them"));
        }
        let (classes, class_of) = classes(file, &target_name, table.column(target))?;
        let mut features = Vec::new();
        for (column, name) in header.iter().enumerate() {
            if column == target || dropped.contains(&column) {
                continue;
            }
            let values = match categorical.contains(&column) {
                true => Some(categories(file, name, table.column(column))?),
                false if is_label(name) => {
                    return Err(fault(
                        file,
                        format!("column '{name}' is not the target, but readers of tables take it for the class"),
                        "leave it out with --drop, or rename it",
                    ));
                }
                false => None,
            };
            features.push(Feature { column, values });
        }
        if features.is_empty() {
            let what = format!("no column is left beside the class '{target_name}'");
            return Err(fault(file, what, "drop fewer columns"));
        }
        Ok(Encoding { header, target, classes, class_of, features })
    }

    fn column_name(&self, column: usize) -> &str {
        self.header.get(column).map_or("", String::as_str)
    }

    /// Names of the values that a row becomes.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for feature in &self.features {
            let column = self.column_name(feature.column);
            match &feature.values {
                None => names.push(column.to_owned()),
                Some(values) => names.extend(values.iter().map(|value| format!("{column}={value}"))),
            }
        }
        names
    }

    /// The test table must have the training table's columns.
    fn check_header(&self, file: &Path, table: &Table) -> Result<(), TrainError> {
        let header: Vec<&str> = table.header().collect();
        if header == self.header {
            return Ok(());
        }
        let what = match self.header.iter().find(|name| !header.contains(&name.as_str())) {
            Some(name) => format!("it has no column '{name}', which train.csv has"),
            None => match header.iter().find(|name| self.header.iter().all(|known| known != *name)) {
                Some(name) => format!("it has a column '{name}', which train.csv has not"),
                None => "its columns are in another order than those of train.csv".to_owned(),
            },
        };
        Err(fault(file, what, "give both tables the same columns in the same order"))
    }

    fn apply(&self, file: &Path, table: &Table) -> Result<Part, TrainError> {
        let labels = self.labels(file, table)?;
        let width = self.names().len();
        let mut data = vec![0f32; table.count() * width];
        let mut start = 0;
        for feature in &self.features {
            let name = self.column_name(feature.column);
            let cells = table.column(feature.column).zip(data.chunks_exact_mut(width)).enumerate();
            match &feature.values {
                None => {
                    for (index, (cell, row)) in cells {
                        let value = number(file, index, name, cell)?;
                        if let Some(place) = row.get_mut(start) {
                            *place = value;
                        }
                    }
                    start += 1;
                }
                Some(values) => {
                    for (index, (cell, row)) in cells {
                        present(file, index, name, cell)?;
                        let Some(place) = values.iter().position(|value| value == cell) else {
                            return Err(fault_at(
                                file,
                                index,
                                format!("'{cell}' in column '{name}' does not occur in train.csv"),
                                "take the row out, or move one with this category to train.csv",
                            ));
                        };
                        if let Some(place) = row.get_mut(start + place) {
                            *place = 1.0;
                        }
                    }
                    start += values.len();
                }
            }
        }
        Ok(Part { samples: Samples::Values(data), labels })
    }

    fn labels(&self, file: &Path, table: &Table) -> Result<Vec<u32>, TrainError> {
        let name = self.column_name(self.target);
        let one = |(index, cell): (usize, &str)| {
            present(file, index, name, cell)?;
            let whole = || whole(cell).and_then(|number| self.class_of.get(&number.to_string()));
            self.class_of.get(cell).or_else(whole).copied().ok_or_else(|| {
                fault_at(
                    file,
                    index,
                    format!("class '{cell}' in column '{name}' does not occur in train.csv"),
                    format!("the classes are {}; take the row out", list(&self.classes)),
                )
            })
        };
        table.column(self.target).enumerate().map(one).collect()
    }
}

fn is_label(name: &str) -> bool {
    LABEL_COLUMNS.contains(&name.to_ascii_lowercase().as_str())
}

/// The one column that is called label, target or class.
fn default_target(file: &Path, header: &[String], dropped: &[String]) -> Result<usize, TrainError> {
    let named: Vec<(usize, &String)> =
        header.iter().enumerate().filter(|(_, name)| is_label(name) && !dropped.contains(name)).collect();
    match named.as_slice() {
        [(index, _)] => Ok(*index),
        [] => {
            let cure = format!("name the one that holds the class with --target: {}", list(header));
            Err(fault(file, "none of its columns is called label, target or class", cure))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(_, name)| name.as_str()).collect();
            let what = format!("several columns could be the class: {}", list(&names));
            Err(fault(file, what, "name one with --target and leave the others out with --drop"))
        }
    }
}

/// Classes in their order and the number of each: whole numbers by value, else text by the alphabet.
#[allow(clippy::type_complexity)] // names, and their numbers
fn classes<'a>(
    file: &Path,
    name: &str,
    cells: impl Iterator<Item = &'a str>,
) -> Result<(Vec<String>, BTreeMap<String, u32>), TrainError> {
    let mut distinct: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, cell) in cells.enumerate() {
        present(file, index, name, cell)?;
        distinct.entry(cell).or_insert(index);
    }
    let wholes: Option<Vec<i64>> = distinct.keys().map(|cell| whole(cell)).collect();
    let classes: Vec<String> = match wholes {
        Some(mut numbers) => {
            numbers.sort_unstable();
            numbers.dedup();
            numbers.iter().map(i64::to_string).collect()
        }
        None => {
            if distinct.keys().all(|cell| cell.parse::<f64>().is_ok())
                && let Some((cell, index)) = distinct.iter().find(|(cell, _)| whole(cell).is_none())
            {
                return Err(fault_at(
                    file,
                    *index,
                    format!("'{cell}' in the class column '{name}' is no class but a measured number"),
                    "name a column of classes with --target; numbers cannot be predicted, only classes",
                ));
            }
            distinct.keys().map(|&cell| cell.to_owned()).collect()
        }
    };
    if classes.len() > MAX_CATEGORIES {
        return Err(fault(
            file,
            format!("column '{name}' has {} classes, more than {MAX_CATEGORIES}", classes.len()),
            "name a column of classes with --target",
        ));
    }
    let class_of = classes.iter().cloned().zip(0u32..).collect();
    Ok((classes, class_of))
}

/// Values of a category in their order: numbers by value, else text by the alphabet.
fn categories<'a>(file: &Path, name: &str, cells: impl Iterator<Item = &'a str>) -> Result<Vec<String>, TrainError> {
    let mut distinct: BTreeMap<&str, ()> = BTreeMap::new();
    for (index, cell) in cells.enumerate() {
        present(file, index, name, cell)?;
        distinct.insert(cell, ());
    }
    if distinct.len() > MAX_CATEGORIES {
        return Err(fault(
            file,
            format!("column '{name}' has {} categories, more than {MAX_CATEGORIES}", distinct.len()),
            "leave it out with --drop",
        ));
    }
    let mut values: Vec<String> = distinct.keys().map(|&value| value.to_owned()).collect();
    let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse().ok()).collect();
    if numbers.is_some() {
        let number = |value: &String| value.parse::<f64>().unwrap_or_default();
        values.sort_by(|a, b| number(a).total_cmp(&number(b)));
    }
    Ok(values)
}

/// A whole number, also written as 3.0.
fn whole(cell: &str) -> Option<i64> {
    let number: f64 = cell.parse().ok()?;
    (number.fract() == 0.0 && number.abs() <= MAX_WHOLE).then_some(number as i64)
}

/// A cell that holds something.
fn present(file: &Path, index: usize, column: &str, cell: &str) -> Result<(), TrainError> {
    if cell.is_empty() || cell.eq_ignore_ascii_case("nan") {
        let what = match cell {
            "" => format!("the cell in column '{column}' is empty"),
            _ => format!("the cell in column '{column}' is {cell}"),
        };
        let cure = "fill it, take the row out, or leave the column out with --drop";
        return Err(fault_at(file, index, what, cure));
    }
    Ok(())
}

fn number(file: &Path, index: usize, column: &str, cell: &str) -> Result<f32, TrainError> {
    present(file, index, column, cell)?;
    match cell.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(fault_at(
            file,
            index,
            format!("'{cell}' in column '{column}' is no finite float32 number"),
            "replace it, take the row out, or leave the column out with --drop",
        )),
        Err(_) => Err(fault_at(
            file,
            index,
            format!("'{cell}' in column '{column}' is no number"),
            format!("make its values columns with --categorical '{column}', or leave it out with --drop '{column}'"),
        )),
    }
}
