//! Samples and their classes from files, and the owner's progress on bars.

use crate::failure::failure;
use subrosa_input::Dataset;
use subrosa_owner::Progress;
use subrosa_terminal::{Bars, Failure};

/// Reads samples, and their classes where a file of them is given.
pub(crate) fn read(path: &str, labels: Option<&str>, limit: Option<usize>) -> Result<Dataset, Failure> {
    let mut samples = subrosa_input::read(path, limit).map_err(failure)?;
    if let Some(file) = labels {
        let mut labels = subrosa_input::read_labels(file).map_err(failure)?;
        if labels.len() < samples.count || (limit.is_none() && labels.len() > samples.count) {
            return Err(Failure::usage(format!(
                "{file} holds {} labels, {path} holds {} samples: give the labels of these samples, in their order",
                labels.len(),
                samples.count
            )));
        }
        labels.truncate(samples.count);
        samples.labels = Some(labels);
    }
    Ok(samples)
}

/// The owner's progress, shown on bars.
pub(crate) struct OnBars(pub Bars);

impl Progress for OnBars {
    fn begin(&self, task: &str, total: usize) {
        self.0.begin(task, total);
    }
    fn advance(&self, parts: usize) {
        self.0.advance(parts);
    }
    fn end(&self) {
        self.0.end();
    }
}
