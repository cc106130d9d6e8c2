//! NumPy's .npy arrays: float32 (and float64, rounded) as raw data, uint8 as pixels.

use std::io::Read;

use npyz::{DType, NpyFile, Order, TypeChar};

use crate::{Dataset, InputError, Samples, check_finite, checked_bytes, read_records};

/// Headers of plain arrays take about a hundred bytes.
const MAX_HEADER: usize = 4096;
/// Mark, version and length before the header.
const PREFIX: usize = 10;

pub(crate) fn read(path: &str, reader: impl Read, limit: usize) -> Result<Dataset, InputError> {
    let (header, reader) = Header::read(path, reader)?;
    let (total, shape) = match header.shape.split_first() {
        Some((&total, shape)) if !shape.is_empty() => (total, shape.to_vec()),
        _ => {
            return Err(InputError::file(
                path,
                format!("the array has shape {:?}, where the first axis must be the sample", header.shape),
                "save it with shape [samples, …], for example array[None]",
            ));
        }
    };
    let size = shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis)).unwrap_or(usize::MAX);
    let count = total.min(limit);
    if count == 0 || size == 0 {
        return Err(crate::empty(path));
    }
    let samples = match header.kind {
        (TypeChar::Float, 4 | 8) => {
            let data: Vec<f32> = header.values(path, reader, count, size)?;
            check_finite(path, &data, size)?;
            Samples::Raw { shape, data }
        }
        (TypeChar::Uint, 1) => {
            let (height, width, channels) = match shape.as_slice() {
                &[features] => (1, features, 1),
                &[height, width] => (height, width, 1),
                &[height, width, channels @ (1 | 3)] => (height, width, channels),
                other => {
                    return Err(InputError::file(
                        path,
                        format!("uint8 samples of shape {other:?} are no images"),
                        "save uint8 arrays as [samples, height, width] or [samples, height, width, 1 or 3], \
                         or save the network's own input as float32",
                    ));
                }
            };
            Samples::Pixels { height, width, channels, data: read_records(path, reader, count, size)? }
        }
        _ => {
            return Err(InputError::file(
                path,
                format!("it holds values of type {}", header.dtype),
                "save it as float32 (the network's own input) or as uint8 (pixels)",
            ));
        }
    };
    Ok(Dataset { count, samples, labels: None, names: None })
}

/// An array of `count` samples of this shape; `data` are little-endian.
pub(crate) fn write(dtype: &str, count: usize, shape: &[usize], data: impl Iterator<Item = u8>) -> Vec<u8> {
    let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({count}, {axes}), }}");
    // The header ends in a newline at a multiple of 64 bytes.
    let padded = (PREFIX + header.len() + 1).next_multiple_of(64) - PREFIX - 1;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&((padded + 1) as u16).to_le_bytes());
    out.extend_from_slice(format!("{header:padded$}\n").as_bytes());
    out.extend(data);
    out
}

/// A one-axis array of integers that are classes.
pub(crate) fn read_labels(path: &str, reader: impl Read) -> Result<Vec<u32>, InputError> {
    let (header, reader) = Header::read(path, reader)?;
    let count = match header.shape.as_slice() {
        &[count] | &[count, 1] => count,
        other => {
            return Err(InputError::file(
                path,
                format!("labels must be one number a sample, but the array has shape {other:?}"),
                "save the class numbers, for example one_hot.argmax(axis=1)",
            ));
        }
    };
    let width = match header.kind {
        (TypeChar::Int | TypeChar::Uint, width @ (1 | 2 | 4 | 8)) => width,
        _ => {
            return Err(InputError::file(
                path,
                format!("labels must be integers, but it holds {}", header.dtype),
                "save them as int64 or uint8",
            ));
        }
    };
    let signed = header.kind.0 == TypeChar::Int;
    let data = read_records(path, reader, count, width)?;
    data.chunks_exact(width)
        .enumerate()
        .map(|(index, bytes)| {
            let mut word = [0u8; 8];
            let bytes: Vec<u8> = match header.big_endian {
                true => bytes.iter().rev().copied().collect(),
                false => bytes.to_vec(),
            };
            let negative = signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            for (to, from) in word.iter_mut().zip(&bytes) {
                *to = *from;
            }
            u32::try_from(u64::from_le_bytes(word)).ok().filter(|_| !negative).ok_or_else(|| {
                InputError::record(path, index, "the label is negative or too large", "number the classes from 0")
            })
        })
        .collect()
}

struct Header {
    shape: Vec<usize>,
    kind: (TypeChar, usize),
    big_endian: bool,
    dtype: String,
}

impl Header {
    fn read<R: Read>(path: &str, mut reader: R) -> Result<(Self, impl Read + use<R>), InputError> {
        let damaged = |what: String| {
            InputError::file(path, format!("it is no sound .npy file ({what})"), "save it again with numpy.save")
        };
        // The header is a Python literal: bound it before a recursive parser sees it.
        let mut fixed = [0u8; 10];
        reader.read_exact(&mut fixed).map_err(|_| damaged("the header is cut off".into()))?;
        let [magic @ .., major, _, low, high] = fixed;
        if magic != *b"\x93NUMPY" {
            return Err(damaged("it does not begin with NumPy's signature".into()));
        }
        let mut head = fixed.to_vec();
        let mut length = usize::from(u16::from_le_bytes([low, high]));
        if major >= 2 {
            let mut more = [0u8; 2];
            reader.read_exact(&mut more).map_err(|_| damaged("the header is cut off".into()))?;
            head.extend(more);
            length |= usize::from(u16::from_le_bytes(more)) << 16;
        }
        if length > MAX_HEADER {
            return Err(damaged("the header is too long".into()));
        }
        let start = head.len();
        (&mut reader).take(length as u64).read_to_end(&mut head).map_err(|e| InputError::io(path, e))?;
        let text = head.get(start..).unwrap_or_default();
        let brackets = text.iter().filter(|c| matches!(c, b'(' | b'[' | b'{'));
        if text.len() < length || brackets.count() > 2 {
            return Err(damaged("the header does not describe a plain array".into()));
        }
        let file = NpyFile::new(head.as_slice()).map_err(|e| damaged(e.to_string()))?;
        if file.order() == Order::Fortran && file.shape().len() > 1 {
            return Err(InputError::file(
                path,
                "the array is stored column by column (Fortran order)",
                "save it with numpy.save(path, numpy.ascontiguousarray(array))",
            ));
        }
        let shape: Option<Vec<usize>> = file.shape().iter().map(|&axis| usize::try_from(axis).ok()).collect();
        let dtype = file.dtype();
        let DType::Plain(kind) = &dtype else {
            return Err(damaged("the header does not describe a plain array".into()));
        };
        let text = kind.to_string();
        let header = Header {
            shape: shape.ok_or_else(|| damaged("its shape is impossible".into()))?,
            kind: (kind.type_char(), usize::try_from(kind.size_field()).unwrap_or(usize::MAX)),
            big_endian: text.contains('>'),
            dtype: text.trim_matches(['\'', '<', '|']).to_owned(),
        };
        Ok((header, reader))
    }

    /// Floats of 4 or 8 bytes as float32.
    fn values(&self, path: &str, reader: impl Read, count: usize, size: usize) -> Result<Vec<f32>, InputError> {
        let width = self.kind.1;
        let bytes = read_records(path, reader, count, checked_bytes(path, size, width)?)?;
        let big = self.big_endian;
        Ok(match width {
            4 => words(&bytes, |w| match big {
                true => f32::from_be_bytes(w),
                false => f32::from_le_bytes(w),
            }),
            _ => words(&bytes, |w| match big {
                true => f64::from_be_bytes(w) as f32,
                false => f64::from_le_bytes(w) as f32,
            }),
        })
    }
}

fn words<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&word| read(word)).collect()
}
