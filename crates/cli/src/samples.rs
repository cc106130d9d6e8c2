//! Samples and their classes from files, and the owner's progress on bars.

use crate::failure::{failure, io};
use std::path::Path;
use subrosa_input::{Dataset, Samples};
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

/// Writes samples as an `.npy` file: float32 as they are, images of one size as uint8.
pub(crate) fn write_npy(path: &Path, samples: &Samples) -> Result<(), Failure> {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (kind, shape, bytes, values): (_, _, Vec<u8>, _) = match samples {
        Samples::Raw { shape, data } => ("<f4", shape.clone(), floats(data), data.len()),
        Samples::Pixels { height, width, channels, data } => {
            let shape = if *channels == 1 { vec![*height, *width] } else { vec![*height, *width, *channels] };
            ("|u1", shape, data.clone(), data.len())
        }
        Samples::Images(_) => return Err(Failure::usage("images of several sizes do not fit into one array")),
    };
    // The header is padded so that the data begin at a multiple of 64 bytes (NumPy Enhancement Proposal 1).
    const PREFIX: usize = 10;
    let count = values / shape.iter().product::<usize>().max(1);
    let shape = shape.iter().map(|len| format!(", {len}")).collect::<String>();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({count}{shape}), }}");
    let padding = (PREFIX + header.len() + 1).next_multiple_of(64) - (PREFIX + header.len() + 1);
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).map_err(Failure::failed)?.to_le_bytes());
    file.extend(header.bytes());
    file.extend(bytes);
    std::fs::write(path, file).map_err(io("write", path))
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
