//! NDJSON: one array a line, nested arrays give the shape.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use crate::{Dataset, InputError, Samples};

/// Bytes of one line at most.
const MAX_LINE: u64 = 1 << 28;

pub(crate) fn read(path: &str, reader: impl Read, limit: usize) -> Result<Dataset, InputError> {
    let mut reader = BufReader::new(reader);
    let mut shape: Option<Vec<usize>> = None;
    let mut data = Vec::new();
    let mut count = 0;
    let mut line = Vec::new();
    while count < limit {
        line.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(|e| InputError::io(path, e))?;
        if read == 0 {
            break;
        }
        let bad = |what: String, cure: &str| InputError::record(path, count, what, cure);
        if read as u64 == MAX_LINE {
            return Err(bad("the line is longer than 256 MiB".into(), "write one sample a line"));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value: Value = serde_json::from_slice(&line)
            .map_err(|e| bad(format!("it is no JSON ({e})"), "write one array of finite numbers a line"))?;
        let own = shape_of(&value);
        if own.is_empty() || own.contains(&0) {
            return Err(bad(
                "it is no array of numbers".into(),
                "write each sample as an array, for example [0.1, 0.2]",
            ));
        }
        let first = shape.get_or_insert_with(|| own.clone());
        if *first != own {
            return Err(bad(
                format!("its shape {own:?} differs from {first:?} before"),
                "give every sample the same shape",
            ));
        }
        flatten(&value, first, &mut data)
            .map_err(|what| bad(what, "write arrays of equal length with finite numbers"))?;
        count += 1;
    }
    match shape {
        Some(shape) => Ok(Dataset { count, samples: Samples::Raw { shape, data }, labels: None, names: None }),
        None => Err(crate::empty(path)),
    }
}

/// The shape by the first element at each depth.
fn shape_of(value: &Value) -> Vec<usize> {
    let mut shape = Vec::new();
    let mut at = Some(value);
    while let Some(Value::Array(items)) = at {
        shape.push(items.len());
        at = items.first();
    }
    shape
}

fn flatten(value: &Value, shape: &[usize], data: &mut Vec<f32>) -> Result<(), String> {
    match (value, shape.split_first()) {
        (Value::Array(items), Some((&length, inner))) => {
            if items.len() != length {
                return Err(format!("an inner array has {} elements, others {length}", items.len()));
            }
            items.iter().try_for_each(|item| flatten(item, inner, data))
        }
        (Value::Number(number), None) => {
            let value = number.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
            data.push(value.ok_or_else(|| format!("{number} is beyond float32"))?);
            Ok(())
        }
        (other, _) => {
            let text: String = other.to_string().chars().take(40).collect();
            Err(format!("{text} stands where a number or an array of another depth belongs"))
        }
    }
}
