//! The test part as files that inference and verification read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;

use super::{DataSet, Samples};
use crate::error::TrainError;
use crate::model::Shape;

/// Where the test part was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFiles {
    /// Samples, for `--input`: `test.npy` (bytes: samples, height, width, channels) or `test.csv`.
    pub input: PathBuf,
    /// Classes, for `--labels`: `test-labels.npy`; of a table the same file, whose column `label` has them.
    pub labels: PathBuf,
}

/// Writes the test part into `folder`, which is made if need be; what is there is overwritten.
///
/// Pictures have the size that training saw, tables the columns that it saw (categories as zeros and ones), and classes
/// are numbers.
///
/// # Errors
/// The folder or a file in it cannot be written.
pub fn write_test(data: &DataSet, folder: &Path) -> Result<TestFiles, TrainError> {
    std::fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    match (&data.test.samples, data.shape) {
        (Samples::Pixels(pixels), shape) => {
            let axes = match shape {
                Shape::Image { height, width, channels } => vec![data.test.len(), height, width, channels],
                Shape::Flat(units) => vec![data.test.len(), units],
            };
            let files = TestFiles { input: folder.join("test.npy"), labels: folder.join("test-labels.npy") };
            npy(&files.input, &axes, pixels)?;
            npy(&files.labels, &[data.test.len()], &data.test.labels)?;
            Ok(files)
        }
        (Samples::Values(values), shape) => {
            let file = folder.join("test.csv");
            let units = shape.elements();
            let names = match &data.columns {
                Some(columns) => columns.clone(),
                None => (0..units).map(|unit| format!("x{unit}")).collect(),
            };
            table(&file, &names, values, &data.test.labels).map_err(|error| failed(&file, error.into()))?;
            Ok(TestFiles { input: file.clone(), labels: file })
        }
    }
}

fn failed(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Io { path: path.display().to_string(), source }
}

fn npy<T: npyz::AutoSerialize + Copy>(file: &Path, axes: &[usize], values: &[T]) -> Result<(), TrainError> {
    let axes: Vec<u64> = axes.iter().map(|&axis| axis as u64).collect();
    let write = || {
        let mut out = BufWriter::new(File::create(file)?);
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&axes).writer(&mut out).begin_nd()?;
        writer.extend(values.iter().copied())?;
        writer.finish()?;
        out.flush()
    };
    write().map_err(|source| failed(file, source))
}

fn table(file: &Path, names: &[String], values: &[f32], labels: &[u32]) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_path(file)?;
    writer.write_record(names.iter().map(String::as_str).chain(["label"]))?;
    for (row, label) in values.chunks_exact(names.len().max(1)).zip(labels) {
        writer.write_record(row.iter().map(f32::to_string).chain([label.to_string()]))?;
    }
    writer.flush()?;
    Ok(())
}
