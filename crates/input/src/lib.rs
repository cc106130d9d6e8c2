//! Readers for input files and the declared preprocessing, used by both sides.
//!
//! [`read`] takes `.npy`, IDX (gzipped or not), CIFAR-10 binary, CSV with a header line, a
//! directory of images, a single image, or NDJSON. Float data is *raw*: the network's own input,
//! unchanged. 8-bit data are *pixels* and go through a declared [`Preprocess`]. Nothing is ever
//! guessed: what does not fit is an error that says what to do.

mod cifar;
mod error;
mod idx;
mod images;
mod ndjson;
mod npy;
mod preprocess;
mod table;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

pub use error::InputError;
pub use images::{Image, image_files};
pub use preprocess::{Layout, Preprocess};
pub use table::{LABEL_COLUMNS, Table, read_labels};

/// Samples read from a file, with what else the file told.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Samples.
    pub count: usize,
    /// Their values.
    pub samples: Samples,
    /// Classes, if the file carries them, one a sample.
    pub labels: Option<Vec<u32>>,
    /// File names, if the samples are image files, one a sample.
    pub names: Option<Vec<String>>,
}

impl Dataset {
    /// Keeps the first `count` samples with what belongs to them.
    pub fn truncate(&mut self, count: usize) {
        let count = count.min(self.count);
        let kept = |len: usize| len / self.count.max(1) * count;
        match &mut self.samples {
            Samples::Raw { data, .. } => data.truncate(kept(data.len())),
            Samples::Pixels { data, .. } => data.truncate(kept(data.len())),
            Samples::Images(images) => images.truncate(count),
        }
        self.labels.iter_mut().for_each(|l| l.truncate(count));
        self.names.iter_mut().for_each(|n| n.truncate(count));
        self.count = count;
    }
}

/// Values of samples, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// Float data, finite, `count` times the product of `shape`, row-major.
    Raw {
        /// Shape of one sample.
        shape: Vec<usize>,
        /// All values.
        data: Vec<f32>,
    },
    /// 8-bit data of one size, height x width x channels for each sample.
    Pixels {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// 1 for grey, 3 for RGB.
        channels: usize,
        /// All values.
        data: Vec<u8>,
    },
    /// Images of differing sizes.
    Images(Vec<Image>),
}

impl Dataset {
    /// The sample at `index` alone, without its label.
    pub fn sample(&self, index: usize) -> Option<Self> {
        let part = |size: usize| index.checked_mul(size).and_then(|from| Some(from..from.checked_add(size)?));
        let samples = match &self.samples {
            Samples::Raw { shape, data } => {
                Samples::Raw { shape: shape.clone(), data: data.get(part(shape.iter().product())?)?.to_vec() }
            }
            &Samples::Pixels { height, width, channels, ref data } => {
                Samples::Pixels { height, width, channels, data: data.get(part(height * width * channels)?)?.to_vec() }
            }
            Samples::Images(images) => Samples::Images(vec![images.get(index)?.clone()]),
        };
        let names = self.names.as_ref().and_then(|names| Some(vec![names.get(index)?.clone()]));
        (index < self.count).then_some(Self { count: 1, samples, labels: None, names })
    }

    /// A `.npy` array of the samples that [`read_bytes`] reads back; `None` of images of differing sizes.
    pub fn to_npy(&self) -> Option<Vec<u8>> {
        match &self.samples {
            Samples::Raw { shape, data } => {
                let bytes = data.iter().flat_map(|v| v.to_le_bytes());
                Some(npy::write("<f4", self.count, shape, bytes))
            }
            Samples::Pixels { height, width, channels, data } => {
                Some(npy::write("|u1", self.count, &[*height, *width, *channels], data.iter().copied()))
            }
            Samples::Images(images) => match images.as_slice() {
                [one] => Some(npy::write("|u1", 1, &[one.height, one.width, one.channels], one.data.iter().copied())),
                _ => None,
            },
        }
    }
}

/// Bytes of values that are read from one input at most: 16 GiB.
const MAX_BYTES: usize = 1 << 34;

/// Reads samples from `path`, or from standard input as NDJSON if it is `-`; at most `limit` of
/// them, without reading on.
///
/// # Errors
/// Unknown or damaged formats, ragged records, NaN or infinity, no sample at all; the text names
/// the file, the record and the cure.
pub fn read(path: &str, limit: Option<usize>) -> Result<Dataset, InputError> {
    let limit = limit.unwrap_or(usize::MAX);
    if limit == 0 {
        return Err(InputError::file(path, "a limit of 0 samples leaves nothing to do", "use --limit 1 or more"));
    }
    if path == "-" {
        return ndjson::read("standard input", std::io::stdin().lock(), limit);
    }
    let metadata = std::fs::metadata(path).map_err(|e| InputError::io(path, e))?;
    if metadata.is_dir() {
        return images::read_directory(path, limit);
    }
    if metadata.is_file() && metadata.len() == 0 {
        return Err(empty(path));
    }
    let (head, reader) = open(path)?;
    match format_of(path, &head) {
        Some(Format::Image) => {
            let file = File::open(path).map_err(|e| InputError::io(path, e))?;
            images::read_one(path, BufReader::new(file))
        }
        format => parse(path, format, reader, limit),
    }
}

/// Reads samples from bytes that arrived by another way than a file; `name` stands for the path, in error texts and where the
/// format shows in a name's ending only.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], limit: Option<usize>) -> Result<Dataset, InputError> {
    if bytes.is_empty() {
        return Err(empty(name));
    }
    let head = bytes.get(..6).unwrap_or(bytes);
    match format_of(name, head) {
        Some(Format::Image) => images::read_one(name, std::io::Cursor::new(bytes)),
        format => parse(name, format, bytes, limit.unwrap_or(usize::MAX)),
    }
}

/// Reads samples of any format but images.
fn parse(path: &str, format: Option<Format>, reader: impl Read, limit: usize) -> Result<Dataset, InputError> {
    match format {
        Some(Format::Npy) => npy::read(path, reader, limit),
        Some(Format::Idx) => idx::read(path, reader, limit),
        Some(Format::IdxGz) => idx::read(path, flate2::read::MultiGzDecoder::new(reader), limit),
        Some(Format::Cifar) => cifar::read(path, reader, limit),
        Some(Format::Csv) => table::read(path, reader, limit),
        Some(Format::Ndjson) => ndjson::read(path, reader, limit),
        Some(Format::Image) | None => Err(InputError::file(
            path,
            "it is of no format known here",
            "use .npy, IDX (.gz), CIFAR-10 .bin, .csv, .ndjson, .png, .jpg or a directory of images",
        )),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Npy,
    Idx,
    IdxGz,
    Cifar,
    Csv,
    Ndjson,
    Image,
}

/// The format by the first bytes where they tell, else by the name's ending.
fn format_of(path: &str, head: &[u8]) -> Option<Format> {
    let ending =
        Path::new(path).extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match (ending.as_str(), head) {
        (_, [0x93, b'N', b'U', b'M', b'P', b'Y', ..]) | ("npy", _) => Some(Format::Npy),
        (_, [0x1f, 0x8b, ..]) => Some(Format::IdxGz),
        (_, [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..]) | ("png" | "jpg" | "jpeg", _) => Some(Format::Image),
        ("bin", _) => Some(Format::Cifar),
        ("csv", _) => Some(Format::Csv),
        ("ndjson" | "jsonl", _) => Some(Format::Ndjson),
        (_, [0, 0, 0x08..=0x0e, 1..=8, ..]) => Some(Format::Idx),
        _ => None,
    }
}

/// Opens a file and looks at its first six bytes without consuming them.
fn open(path: &str) -> Result<(Vec<u8>, impl Read), InputError> {
    let mut file = File::open(path).map_err(|e| InputError::io(path, e))?;
    let mut head = Vec::with_capacity(6);
    (&mut file).take(6).read_to_end(&mut head).map_err(|e| InputError::io(path, e))?;
    let magic = head.clone();
    let reader = BufReader::new(std::io::Cursor::new(head).chain(file));
    Ok((magic, reader))
}

fn empty(path: &str) -> InputError {
    InputError::file(path, "it is empty", "give a file with at least one sample")
}

/// Reads `records` records of `size` bytes each; the error names the first that is cut off.
fn read_records(path: &str, reader: impl Read, records: usize, size: usize) -> Result<Vec<u8>, InputError> {
    let bytes = checked_bytes(path, records, size)?;
    let mut data = Vec::new();
    // Grows with what is there, so that a header that lies about its size costs nothing.
    reader.take(bytes as u64).read_to_end(&mut data).map_err(|e| InputError::io(path, e))?;
    if data.len() < bytes {
        return Err(InputError::record(
            path,
            data.len() / size.max(1),
            format!("the file ends here, though it declares {records} records or more"),
            "fetch the file again, or use --limit to stop before it",
        ));
    }
    Ok(data)
}

/// `records * size`, if it stays below what is read at most.
fn checked_bytes(path: &str, records: usize, size: usize) -> Result<usize, InputError> {
    records.checked_mul(size).filter(|&bytes| bytes <= MAX_BYTES).ok_or_else(|| {
        InputError::file(
            path,
            format!("it declares {records} records of {size} bytes, more than 16 GiB"),
            "check that it is not damaged, or use --limit",
        )
    })
}

/// Checks that all values are finite; `size` values make a record.
fn check_finite(path: &str, values: &[f32], size: usize) -> Result<(), InputError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(InputError::record(
            path,
            at / size.max(1),
            format!("value {} is {}", at % size.max(1) + 1, values.get(at).copied().unwrap_or_default()),
            "replace it by a finite float32 number or leave the record out",
        )),
    }
}
