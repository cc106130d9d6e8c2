//! CIFAR-10's binary files: records of a label byte and 32 x 32 red, green and blue planes.

use std::io::Read;

use crate::{Dataset, InputError, Samples};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;
const CLASSES: u8 = 10;

pub(crate) fn read(path: &str, mut reader: impl Read, limit: usize) -> Result<Dataset, InputError> {
    let mut data = Vec::new();
    let mut labels = Vec::new();
    let mut record = Vec::with_capacity(RECORD);
    while labels.len() < limit {
        record.clear();
        (&mut reader).take(RECORD as u64).read_to_end(&mut record).map_err(|e| InputError::io(path, e))?;
        let Some((&label, planes)) = record.split_first() else {
            break;
        };
        let bad = |what: String| {
            InputError::record(
                path,
                labels.len(),
                what,
                "give a CIFAR-10 file of the binary version (data_batch_1.bin, test_batch.bin)",
            )
        };
        if record.len() < RECORD {
            return Err(bad(format!("it ends after {} of {RECORD} bytes", record.len())));
        }
        if label >= CLASSES {
            return Err(bad(format!("label {label} is not one of CIFAR-10's 10 classes")));
        }
        labels.push(u32::from(label));
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for ((red, green), blue) in red.iter().zip(green).zip(blue) {
            data.extend([*red, *green, *blue]);
        }
    }
    if labels.is_empty() {
        return Err(crate::empty(path));
    }
    Ok(Dataset {
        count: labels.len(),
        samples: Samples::Pixels { height: SIDE, width: SIDE, channels: 3, data },
        labels: Some(labels),
        names: None,
    })
}
