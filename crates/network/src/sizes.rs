//! A look at how large a network's tensors will be, before anything is run.

use std::collections::HashMap;

use crate::error::NetworkError;
use crate::graph::{Constant, Node};

/// Values one tensor may have for a sample: 2^28 floats are 1 GiB.
pub(crate) const MAX_ELEMENTS: usize = 1 << 28;

/// Refuses networks with a tensor of more than 2^28 values for a sample, as far as shapes follow from weights and
/// attributes; `nodes` are in topological order, `input` is the input's shape at batch 1.
pub(crate) fn check(
    nodes: &[Node],
    input: (&str, Vec<usize>),
    constants: &HashMap<String, Constant>,
) -> Result<(), NetworkError> {
    let mut shapes: HashMap<&str, Vec<usize>> = HashMap::from([input]);
    for node in nodes {
        let known = |index: usize| -> Option<&[usize]> {
            let name = node.input(index);
            let constant = constants.get(name).map(|c| c.shape.as_slice());
            shapes.get(name).map(Vec::as_slice).or(constant)
        };
        let integers = |index: usize| -> Option<Vec<usize>> {
            let values = constants.get(node.input(index)).filter(|c| !c.values.is_empty())?.values.iter();
            Some(values.map(|&v| if v < 0.0 { 0 } else { v as usize }).collect())
        };
        let Some(shape) = output_shape(node, &known, &integers) else {
            continue;
        };
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            return Err(NetworkError::Unsupported(format!(
                "node '{}' ({}) gives values of shape {shape:?} for a sample, where {MAX_ELEMENTS} are the most; \
                 use fewer channels or smaller pictures, or check the file's weights and attributes",
                node.name, node.op
            )));
        }
        if let Some(output) = node.outputs.first() {
            shapes.insert(output, shape);
        }
    }
    Ok(())
}

/// The shape that a node gives, where it follows from what is known.
fn output_shape<'a>(
    node: &Node,
    known: &dyn Fn(usize) -> Option<&'a [usize]>,
    integers: &dyn Fn(usize) -> Option<Vec<usize>>,
) -> Option<Vec<usize>> {
    let first = known(0);
    match node.op.as_str() {
        "Relu" | "LeakyRelu" | "Elu" | "Sigmoid" | "Tanh" | "Softplus" | "Clip" | "Identity" | "Dropout" | "Cast"
        | "BatchNormalization" | "Neg" | "Softmax" | "LogSoftmax" | "PRelu" | "Gelu" => Some(first?.to_vec()),
        "Conv" => {
            let ([batch, _, sizes @ ..], [out, _, kernel @ ..]) = (first?, known(1)?) else {
                return None;
            };
            Some([vec![*batch, *out], window(node, sizes, kernel)?].concat())
        }
        "AveragePool" | "MaxPool" => {
            let [batch, channels, sizes @ ..] = first? else {
                return None;
            };
            let kernel = sizes_of(node.ints("kernel_shape")?);
            Some([vec![*batch, *channels], window(node, sizes, &kernel)?].concat())
        }
        "GlobalAveragePool" | "GlobalMaxPool" => {
            let axes = first?.iter().enumerate();
            Some(axes.map(|(axis, &size)| if axis < 2 { size } else { 1 }).collect())
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => broadcast(first?, known(1)?),
        "Expand" => broadcast(first?, &integers(1)?),
        "ConstantOfShape" => integers(0),
        "Tile" => {
            let repeats = integers(1)?;
            first?.iter().zip(&repeats).map(|(size, repeat)| size.checked_mul(*repeat)).collect()
        }
        "Pad" => {
            let pads = node.ints("pads").map(sizes_of).or_else(|| integers(1))?;
            let (begins, ends) = pads.split_at_checked(first?.len())?;
            let axes = first?.iter().zip(begins).zip(ends);
            Some(axes.map(|((size, begin), end)| size.saturating_add(*begin).saturating_add(*end)).collect())
        }
        "Transpose" => {
            let order = node.ints("perm")?;
            order.iter().map(|&axis| first?.get(usize::try_from(axis).ok()?).copied()).collect()
        }
        "Gemm" => {
            let columns = known(1)?.get(usize::from(node.int("transB", 0) == 0)).copied()?;
            Some(vec![first?.first().copied()?, columns])
        }
        "MatMul" if known(1)?.len() == 2 => {
            let (_, outer) = first?.split_last()?;
            Some([outer, known(1)?.get(1..)?].concat())
        }
        "Flatten" if node.int("axis", 1) == 1 => {
            let (batch, inner) = first?.split_first()?;
            Some(vec![*batch, inner.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?])
        }
        _ => None,
    }
}

/// The sizes that a window gives on axes of these sizes.
fn window(node: &Node, sizes: &[usize], kernel: &[usize]) -> Option<Vec<usize>> {
    let number = |name: &str, at: usize, default: usize| -> Option<usize> {
        node.ints(name).map_or(Some(default), |values| usize::try_from(*values.get(at)?).ok())
    };
    let same = node.text("auto_pad").is_some_and(|mode| mode.starts_with("SAME"));
    let axes = sizes.iter().zip(kernel).enumerate();
    axes.map(|(axis, (&size, &kernel))| {
        let stride = number("strides", axis, 1)?.max(1);
        if same {
            return Some(size.div_ceil(stride));
        }
        let pads = number("pads", axis, 0)?.saturating_add(number("pads", axis + sizes.len(), 0)?);
        let reach = number("dilations", axis, 1)?.saturating_mul(kernel.saturating_sub(1)).saturating_add(1);
        Some(size.saturating_add(pads).saturating_sub(reach) / stride + 1)
    })
    .collect()
}

fn broadcast(one: &[usize], two: &[usize]) -> Option<Vec<usize>> {
    let rank = one.len().max(two.len());
    let at =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).and_then(|at| shape.get(at).copied());
    Some((0..rank).map(|axis| at(one, axis).unwrap_or(1).max(at(two, axis).unwrap_or(1))).collect())
}

fn sizes_of(values: &[i64]) -> Vec<usize> {
    values.iter().map(|&value| usize::try_from(value).unwrap_or(0)).collect()
}
