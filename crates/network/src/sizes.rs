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
        let integers = |index: usize| -> Option<Vec<i64>> {
            let constant = constants.get(node.input(index)).filter(|c| !c.values.is_empty())?;
            Some(constant.values.iter().map(|&v| v as i64).collect())
        };
        let Some(shape) = output_shape(node, &known, &integers) else {
            continue;
        };
        let elements = product(&shape);
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            return Err(NetworkError::Unsupported(format!(
                "node '{}' ({}) gives values of shape {shape:?} for a sample, where {MAX_ELEMENTS} are the most; \
                 use fewer channels or smaller pictures, or check the file's weights and attributes",
                node.name, node.op
            )));
        }
        // The parts of a Split are at most as large as the whole.
        for output in node.outputs.iter().take(if node.op == "Split" { usize::MAX } else { 1 }) {
            shapes.insert(output, shape.clone());
        }
    }
    Ok(())
}

/// The shape that a node gives at most, where it follows from what is known.
fn output_shape<'a>(
    node: &Node,
    known: &dyn Fn(usize) -> Option<&'a [usize]>,
    integers: &dyn Fn(usize) -> Option<Vec<i64>>,
) -> Option<Vec<usize>> {
    let first = known(0);
    match node.op.as_str() {
        "Relu" | "LeakyRelu" | "Elu" | "Sigmoid" | "Tanh" | "Softplus" | "Clip" | "Identity" | "Dropout" | "Cast"
        | "BatchNormalization" | "Neg" | "Softmax" | "LogSoftmax" | "PRelu" | "Gelu" | "Slice" | "Split" => {
            Some(first?.to_vec())
        }
        "Concat" => {
            let mut shape = first?.to_vec();
            let axis = node.int("axis", 0);
            let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).ok()?;
            let sizes = (0..node.inputs.len()).map(|input| known(input)?.get(axis).copied());
            *shape.get_mut(axis)? = sizes.sum::<Option<usize>>()?;
            Some(shape)
        }
        "Reshape" => {
            let elements = product(first?)?;
            let wanted: Vec<i64> = integers(1)?;
            let mut shape = Vec::with_capacity(wanted.len());
            for (axis, &size) in wanted.iter().enumerate() {
                shape.push(match size {
                    0 => first?.get(axis).copied()?,
                    size => usize::try_from(size).unwrap_or(1),
                });
            }
            let rest = elements / product(&shape)?.max(1);
            let open = wanted.iter().position(|&size| size < 0);
            if let Some(slot) = open.and_then(|axis| shape.get_mut(axis)) {
                *slot = rest;
            }
            Some(shape)
        }
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
        // What these give is large even if their input is small.
        "Expand" => broadcast(first.unwrap_or_default(), &sizes_of(&integers(1)?)),
        "ConstantOfShape" => Some(sizes_of(&integers(0)?)),
        "Tile" => {
            let repeats = sizes_of(&integers(1)?);
            let sizes = first.map_or_else(|| vec![1; repeats.len()], <[usize]>::to_vec);
            Some(sizes.iter().zip(&repeats).map(|(size, repeat)| size.saturating_mul(*repeat)).collect())
        }
        "Pad" => {
            let pads = sizes_of(&node.ints("pads").map(<[i64]>::to_vec).or_else(|| integers(1))?);
            let (begins, ends) = pads.split_at_checked(pads.len() / 2)?;
            let sizes = first.map_or_else(|| vec![1; begins.len()], <[usize]>::to_vec);
            let axes = sizes.iter().zip(begins).zip(ends);
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
            Some(vec![*batch, product(inner)?])
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

fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

fn sizes_of(values: &[i64]) -> Vec<usize> {
    values.iter().map(|&value| usize::try_from(value).unwrap_or(0)).collect()
}
