//! Figures of the Training Agent: accuracy against epochs, and what the approximations of an activation look like.
//!
//! Every figure is written three times, beside each other: as SVG, as PNG, and as CSV with the values that are drawn. The
//! PNG is the SVG, rasterised with a font that is linked in, so all machines draw the same.

mod accuracy;
mod approximations;
mod canvas;

use std::path::{Path, PathBuf};

pub use accuracy::{Column, Epoch, Series, accuracy};
pub use approximations::approximations;

/// Why a figure cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum FigureError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A training log that is none.
    #[error("{path}: {what}", path = path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        what: String,
    },
    /// A figure with nothing on it.
    #[error("nothing to draw: {0}")]
    Empty(String),
    /// A fit that cannot be made.
    #[error(transparent)]
    Fit(#[from] subrosa_network::FitError),
    /// A library for drawing failed.
    #[error("the figure cannot be drawn: {0}")]
    Drawing(String),
}

impl FigureError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| FigureError::Io { path, source }
    }
}

/// Writes a figure's three files, the names of which are `stem` with an extension, and returns their paths.
fn write(stem: &Path, svg: &str, csv: &[u8]) -> Result<Vec<PathBuf>, FigureError> {
    let png = canvas::png(svg)?;
    if let Some(directory) = stem.parent() {
        std::fs::create_dir_all(directory).map_err(FigureError::io(directory))?;
    }
    let mut paths = Vec::new();
    for (extension, content) in [("svg", svg.as_bytes()), ("png", &png), ("csv", csv)] {
        // Appended, since a stem may have a point in it.
        let mut path = stem.as_os_str().to_owned();
        path.push(format!(".{extension}"));
        let path = PathBuf::from(path);
        std::fs::write(&path, content).map_err(FigureError::io(&path))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Rows of a CSV file, the header first.
fn table<R: IntoIterator<Item = Vec<String>>>(header: &[&str], rows: R) -> Result<Vec<u8>, FigureError> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let drawing = |e: csv::Error| FigureError::Drawing(e.to_string());
    table.write_record(header).map_err(drawing)?;
    for row in rows {
        table.write_record(row).map_err(drawing)?;
    }
    table.into_inner().map_err(|e| FigureError::Drawing(e.to_string()))
}
