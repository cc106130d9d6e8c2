//! CSV tables, and labels in any of their formats.

use std::io::Read;

use csv::StringRecord;

use crate::{Dataset, Format, InputError, Samples, empty, format_of, idx, npy, open};

/// Column names, in lower case, that hold the class.
pub const LABEL_COLUMNS: [&str; 3] = ["label", "target", "class"];

/// Reads a table with a header line: a column called label, target or class is the class, all
/// others are features in their order.
pub(crate) fn read(path: &str, reader: impl Read, limit: usize) -> Result<Dataset, InputError> {
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
    let header = header(path, &mut table)?;
    let label_columns: Vec<usize> = header
        .iter()
        .enumerate()
        .filter(|(_, name)| LABEL_COLUMNS.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(index, _)| index)
        .collect();
    let label_column = match label_columns.as_slice() {
        [] => None,
        [one] => Some(*one),
        _ => {
            return Err(InputError::file(
                path,
                "several columns are called label, target or class",
                "keep one of them",
            ));
        }
    };
    let features = header.len() - usize::from(label_column.is_some());
    if features == 0 {
        return Err(InputError::file(
            path,
            "it has no feature column",
            "give labels with --labels and features with --input",
        ));
    }
    let mut data = Vec::new();
    let mut labels = Vec::new();
    let mut count = 0;
    for row in table.records().take(limit) {
        let row = row.map_err(|e| csv_error(path, count, &e))?;
        for (column, cell) in row.iter().enumerate() {
            if Some(column) == label_column {
                labels.push(label(path, count, cell)?);
                continue;
            }
            let value = cell.parse::<f32>().ok().filter(|value| value.is_finite());
            data.push(value.ok_or_else(|| {
                let name = header.get(column).unwrap_or_default();
                InputError::record(
                    path,
                    count,
                    format!("'{cell}' in column '{name}' is not a finite number"),
                    "encode categories as numbers and fill or drop missing values",
                )
            })?);
        }
        count += 1;
    }
    if count == 0 {
        return Err(no_rows(path));
    }
    Ok(Dataset {
        count,
        samples: Samples::Raw { shape: vec![features], data },
        labels: label_column.map(|_| labels),
        names: None,
    })
}

/// The line of column names.
fn header(path: &str, table: &mut csv::Reader<impl Read>) -> Result<StringRecord, InputError> {
    let header = table.headers().map_err(|e| csv_error(path, 0, &e))?.clone();
    if header.is_empty() {
        return Err(empty(path));
    }
    if header.iter().all(|name| name.parse::<f64>().is_ok()) {
        return Err(InputError::file(
            path,
            "its first line holds numbers, where the column names must be",
            "add a header line",
        ));
    }
    Ok(header)
}

fn no_rows(path: &str) -> InputError {
    InputError::file(path, "it has a header line but no rows", "give a file with at least one sample")
}

/// A CSV file as text: column names, and rows of as many cells. Blanks around cells are taken off.
#[derive(Debug, Clone)]
pub struct Table {
    header: StringRecord,
    rows: Vec<StringRecord>,
}

impl Table {
    /// Reads a table with a header line and at least one row, whatever its cells hold.
    ///
    /// # Errors
    /// No such file, no header line, no row, rows of differing lengths, text that is not UTF-8.
    pub fn read(path: &str) -> Result<Self, InputError> {
        let file = std::fs::File::open(path).map_err(|e| InputError::io(path, e))?;
        let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
        let header = header(path, &mut table)?;
        let rows: Vec<StringRecord> = table
            .records()
            .enumerate()
            .map(|(index, row)| row.map_err(|e| csv_error(path, index, &e)))
            .collect::<Result<_, _>>()?;
        if rows.is_empty() {
            return Err(no_rows(path));
        }
        Ok(Table { header, rows })
    }

    /// Names of the columns.
    pub fn header(&self) -> impl Iterator<Item = &str> {
        self.header.iter()
    }

    /// Rows below the header line.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Cells of a column from the first row to the last.
    pub fn column(&self, index: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().map(move |row| row.get(index).unwrap_or_default())
    }
}

/// Reads classes, one a sample: IDX (.gz), `.npy` of integers, CIFAR-10 binary, a CSV's label
/// column, or text with one number a line (a first line that is no number is a header).
///
/// # Errors
/// As [`read`](crate::read); negative or fractional numbers.
pub fn read_labels(path: &str) -> Result<Vec<u32>, InputError> {
    let metadata = std::fs::metadata(path).map_err(|e| InputError::io(path, e))?;
    if metadata.is_dir() {
        return Err(InputError::file(path, "it is a directory", "give the file that holds the labels"));
    }
    let (head, reader) = open(path)?;
    let labels = match format_of(path, &head) {
        Some(Format::Npy) => npy::read_labels(path, reader)?,
        Some(Format::Idx) => idx::read_labels(path, reader)?,
        Some(Format::IdxGz) => idx::read_labels(path, flate2::read::MultiGzDecoder::new(reader))?,
        Some(Format::Cifar) => crate::cifar::read(path, reader, usize::MAX)?.labels.unwrap_or_default(),
        Some(Format::Image | Format::Ndjson) => {
            return Err(InputError::file(
                path,
                "it is no file of labels",
                "use IDX, .npy of integers, or text with one number a line",
            ));
        }
        Some(Format::Csv) | None => column(path, reader)?,
    };
    if labels.is_empty() {
        return Err(empty(path));
    }
    Ok(labels)
}

/// The label column of a table, or its only column.
fn column(path: &str, reader: impl Read) -> Result<Vec<u32>, InputError> {
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).has_headers(false).from_reader(reader);
    let mut labels = Vec::new();
    let mut wanted = 0;
    for (line, row) in table.records().enumerate() {
        let row = row.map_err(|e| csv_error(path, labels.len(), &e))?;
        if line == 0 {
            let names = row.iter().map(str::to_ascii_lowercase);
            let named = names.enumerate().find(|(_, n)| LABEL_COLUMNS.contains(&n.as_str()));
            match (named, row.len()) {
                (Some((index, _)), _) => {
                    wanted = index;
                    continue;
                }
                (None, 1) if row.iter().all(|cell| cell.parse::<f64>().is_err()) => continue,
                (None, 1) => {}
                (None, columns) => {
                    return Err(InputError::file(
                        path,
                        format!("it has {columns} columns and none is called label, target or class"),
                        "keep one column, or name the one that holds the classes 'label'",
                    ));
                }
            }
        }
        labels.push(label(path, labels.len(), row.get(wanted).unwrap_or_default())?);
    }
    Ok(labels)
}

fn label(path: &str, index: usize, cell: &str) -> Result<u32, InputError> {
    let number = cell.parse::<f64>().ok().filter(|v| v.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(v));
    match number {
        Some(number) => Ok(number as u32),
        None => Err(InputError::record(
            path,
            index,
            format!("label '{cell}' is not a class number"),
            "number the classes from 0",
        )),
    }
}

fn csv_error(path: &str, index: usize, error: &csv::Error) -> InputError {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => InputError::record(
            path,
            index,
            format!("it has {len} cells, the lines before have {expected_len}"),
            "give every row the same number of cells",
        ),
        csv::ErrorKind::Io(source) => InputError::io(path, source.kind().into()),
        _ => InputError::record(path, index, error.to_string(), "save the table as UTF-8 CSV"),
    }
}
