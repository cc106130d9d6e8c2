//! IDX, the format of MNIST: two zero bytes, a type byte, the number of axes, the axes' sizes as
//! big-endian 32-bit numbers, the values (<http://yann.lecun.com/exdb/mnist/>).

use std::io::Read;

use crate::{Dataset, InputError, Samples, check_finite, checked_bytes, read_records};

const UNSIGNED_BYTE: u8 = 0x08;
const FLOAT: u8 = 0x0d;

pub(crate) fn read(path: &str, mut reader: impl Read, limit: usize) -> Result<Dataset, InputError> {
    let (kind, axes) = header(path, &mut reader)?;
    let (total, shape) = axes.split_first().map_or((0, &[][..]), |(n, rest)| (*n, rest));
    let size = shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis)).unwrap_or(usize::MAX);
    let count = total.min(limit);
    if count == 0 || size == 0 {
        return Err(crate::empty(path));
    }
    let samples = match (kind, shape) {
        (_, []) => {
            return Err(InputError::file(
                path,
                "it holds one number a sample: these are labels",
                "give it with --labels and the images with --input",
            ));
        }
        (FLOAT, shape) => {
            let bytes = read_records(path, reader, count, checked_bytes(path, size, 4)?)?;
            let words = bytes.as_chunks::<4>().0;
            let data: Vec<f32> = words.iter().map(|&word| f32::from_be_bytes(word)).collect();
            check_finite(path, &data, size)?;
            Samples::Raw { shape: shape.to_vec(), data }
        }
        (UNSIGNED_BYTE, shape) => {
            let (height, width, channels) = match *shape {
                [features] => (1, features, 1),
                [height, width] => (height, width, 1),
                [height, width, channels @ (1 | 3)] => (height, width, channels),
                _ => {
                    return Err(InputError::file(
                        path,
                        format!("bytes of shape {shape:?} a sample are no images"),
                        "the axes must be samples, height, width and at most 3 channels",
                    ));
                }
            };
            Samples::Pixels { height, width, channels, data: read_records(path, reader, count, size)? }
        }
        (other, _) => {
            return Err(InputError::file(
                path,
                format!("IDX values of type {other:#04x} are not handled"),
                "use unsigned bytes (0x08) or float32 (0x0d)",
            ));
        }
    };
    Ok(Dataset { count, samples, labels: None, names: None })
}

pub(crate) fn read_labels(path: &str, mut reader: impl Read) -> Result<Vec<u32>, InputError> {
    match header(path, &mut reader)? {
        (UNSIGNED_BYTE, axes) if axes.len() == 1 => {
            let count = axes.first().copied().unwrap_or(0);
            let bytes = read_records(path, reader, count, 1)?;
            Ok(bytes.into_iter().map(u32::from).collect())
        }
        (kind, axes) => Err(InputError::file(
            path,
            format!("labels must be one byte a sample, but it holds type {kind:#04x} of shape {axes:?}"),
            "give the labels' own file",
        )),
    }
}

/// The type byte and the axes' sizes.
fn header(path: &str, reader: &mut impl Read) -> Result<(u8, Vec<usize>), InputError> {
    let mut word = || -> Result<[u8; 4], InputError> {
        let mut word = [0u8; 4];
        reader.read_exact(&mut word).map_err(|_| {
            InputError::file(path, "its IDX header is cut off or not properly compressed", "fetch the file again")
        })?;
        Ok(word)
    };
    let [0, 0, kind, axes @ 1..=8] = word()? else {
        return Err(InputError::file(
            path,
            "it does not begin like an IDX file",
            "check that it is an IDX file; other gzipped formats must be unpacked first",
        ));
    };
    let sizes: Result<Vec<usize>, InputError> =
        (0..axes).map(|_| Ok(usize::try_from(u32::from_be_bytes(word()?)).unwrap_or(usize::MAX))).collect();
    Ok((kind, sizes?))
}
