//! A foreign network made fit for encryption: polynomials in the place of its activations, mean or sum in the place of max pooling.

use candle_core::Tensor;
use subrosa_network::Polynomial;

use crate::architectures::Choice;
use crate::batches;
use crate::data::DataSet;
use crate::error::TrainError;
use crate::model::{Activation, Array, Function, Model, Node, Op, Pooling, Source};
use crate::runner::Runner;

/// Samples of the training part from which ranges are learned.
const OBSERVED: usize = 1024;

/// A batch norm's, where one is put in.
const EPSILON: f32 = 1e-3;

/// What is put in the place of what.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    /// The layer.
    pub layer: String,
    /// What was there and what is there now.
    pub what: String,
}

/// Puts `choice` in the place of every activation of `original` that is no polynomial, and `pooling` in that of max pooling.
///
/// A learned quadratic starts as the best one for each channel on what the channel shows for samples of `data`, behind a batch norm that is
/// put in where the network has none there: fine-tuning starts from something near the original. What is pooled
/// is brought to the mean and deviation that max pooling gave.
///
/// # Errors
/// A choice that is no polynomial.
pub(crate) fn replace(
    original: &Model,
    data: &DataSet,
    choice: &Choice,
    pooling: Pooling,
    least: f32,
) -> Result<(Model, Vec<Replacement>), TrainError> {
    if let Choice::Fixed(Activation::Function(_)) = choice {
        return Err(TrainError::Option(
            "--from needs an activation that encryption can evaluate: quadratic, square, x2+2x, none, a polynomial or a fit".into(),
        ));
    }
    if pooling == Pooling::Max {
        return Err(TrainError::Option(
            "--from needs --pool mean or sum: no encryption can evaluate max pooling".into(),
        ));
    }
    let seen = observe(original, data)?;
    let mut model = Model { nodes: Vec::new(), ..original.clone() };
    let mut places: Vec<Source> = Vec::with_capacity(original.nodes.len());
    let mut made = Vec::new();
    for (node, seen) in original.nodes.iter().zip(&seen) {
        let inputs: Vec<Source> = node
            .inputs
            .iter()
            .map(|source| match source {
                Source::Node(index) => places.get(*index).copied().unwrap_or(Source::Input),
                Source::Input => Source::Input,
            })
            .collect();
        let place = match (&node.op, seen) {
            (Op::Activation(Activation::Function(function)), Some(seen)) => {
                let behind_norm = matches!(last_op(&model, &inputs), Some(Op::BatchNorm { .. }));
                made.push(Replacement {
                    layer: node.name.clone(),
                    what: format!("{} becomes {}", function.name(), wording(choice)),
                });
                let norm = free_name(original, &model, format!("{}-norm", node.name));
                let place = Place { node, inputs, norm: (!behind_norm).then_some(norm) };
                activation(&mut model, place, *function, choice, seen, least)
            }
            (Op::Pool { pooling: Pooling::Max, window }, Some(seen)) => {
                made.push(Replacement {
                    layer: node.name.clone(),
                    what: format!("max pooling becomes {}", if pooling == Pooling::Mean { "mean" } else { "sum" }),
                });
                model.push_from(node.name.clone(), Op::Pool { pooling, window: *window }, inputs);
                let (scale, bias) = matched(seen, pooling, window.size[0] * window.size[1]);
                let name = free_name(original, &model, format!("{}-matched", node.name));
                let array = |values: Vec<f32>| Array { shape: vec![values.len()], values };
                model.parameters.insert(format!("{name}.scale"), array(scale));
                model.parameters.insert(format!("{name}.bias"), array(bias));
                model.push(name, Op::Affine)
            }
            _ => model.push_from(node.name.clone(), node.op.clone(), inputs),
        };
        places.push(place);
    }
    Ok((model, made))
}

fn wording(choice: &Choice) -> String {
    match choice {
        Choice::None => "nothing".into(),
        Choice::Quadratic => "a learned quadratic for each channel".into(),
        Choice::Fixed(_) => choice.to_string(),
    }
}

fn last_op<'a>(model: &'a Model, inputs: &[Source]) -> Option<&'a Op> {
    match inputs.first() {
        Some(Source::Node(index)) => model.nodes.get(*index).map(|node| &node.op),
        _ => None,
    }
}

/// A name that no operator has.
fn free_name(original: &Model, model: &Model, mut name: String) -> String {
    let taken = |name: &str| original.nodes.iter().chain(&model.nodes).any(|node| node.name == name);
    while taken(&name) {
        name.push('\'');
    }
    name
}

/// Where an activation stands.
struct Place<'a> {
    node: &'a Node,
    inputs: Vec<Source>,
    /// The name of the batch norm to put before it; `None` where there is one.
    norm: Option<String>,
}

/// Puts the choice in the place of a function.
fn activation(
    model: &mut Model,
    place: Place<'_>,
    function: Function,
    choice: &Choice,
    seen: &Seen,
    least: f32,
) -> Source {
    let Place { node, mut inputs, norm } = place;
    let op = match choice {
        Choice::None => Op::Activation(Activation::Polynomial(Polynomial::identity())),
        Choice::Fixed(activation) => Op::Activation(activation.clone()),
        Choice::Quadratic => Op::Activation(Activation::Learned { degree: 2, constant: true }),
    };
    if *choice == Choice::Quadratic {
        let channels = seen.operands.len();
        let normalise = norm.is_some();
        if let Some(name) = norm {
            let (mean, variance): (Vec<f32>, Vec<f32>) = seen.operands.iter().map(|v| moments(v)).unzip();
            let array = |values: Vec<f32>| Array { shape: vec![channels], values };
            model.parameters.insert(format!("{name}.scale"), Array::filled(channels, 1.0));
            model.parameters.insert(format!("{name}.bias"), Array::filled(channels, 0.0));
            model.parameters.insert(format!("{name}.mean"), array(mean));
            model.parameters.insert(format!("{name}.variance"), array(variance));
            inputs = vec![model.push_from(name, Op::BatchNorm { epsilon: EPSILON }, inputs)];
        }
        let mut coefficients = vec![0.0; 3 * channels];
        for (channel, values) in seen.operands.iter().enumerate() {
            let (mean, variance) = if normalise { moments(values) } else { (0.0, 1.0 - EPSILON) };
            let deviation = (variance + EPSILON).sqrt();
            let pairs = values.iter().map(|x| (f64::from((x - mean) / deviation), f64::from(function.value(*x))));
            for (power, c) in quadratic(pairs, f64::from(least)).into_iter().enumerate() {
                if let Some(cell) = coefficients.get_mut(power * channels + channel) {
                    *cell = c as f32;
                }
            }
        }
        let array = Array { shape: vec![3, channels], values: coefficients };
        model.parameters.insert(format!("{}.coefficients", node.name), array);
    }
    model.push_from(node.name.clone(), op, inputs)
}

/// The factor and shift for each channel that give a mean or sum the mean and deviation of the largest.
fn matched(seen: &Seen, pooling: Pooling, window: usize) -> (Vec<f32>, Vec<f32>) {
    let factor = if pooling == Pooling::Sum { window as f32 } else { 1.0 };
    let pairs = seen.results.iter().zip(&seen.means).map(|(largest, means)| {
        let ((mean, variance), (own_mean, own_variance)) = (moments(largest), moments(means));
        let scale = (variance / own_variance.max(1e-12)).sqrt().clamp(0.1, 10.0);
        (scale / factor, mean - scale * own_mean)
    });
    pairs.unzip()
}

/// Mean and variance.
fn moments(values: &[f32]) -> (f32, f32) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count;
    (mean as f32, variance as f32)
}

/// c0, c1, c2 of the quadratic nearest to the pairs; |c2| is `least` at least.
fn quadratic(pairs: impl Iterator<Item = (f64, f64)>, least: f64) -> [f64; 3] {
    // Normal equations, drawn a little towards 0 so that a channel that never moves has a solution too.
    let (mut powers, mut products, mut count) = ([0.0; 5], [0.0; 3], 0.0);
    for (x, y) in pairs {
        let mut power = 1.0;
        for (k, sum) in powers.iter_mut().enumerate() {
            *sum += power;
            if let Some(product) = products.get_mut(k) {
                *product += power * y;
            }
            power *= x;
        }
        count += 1.0;
    }
    let ridge = 1e-4 * f64::max(count, 1.0);
    let [s0, s1, s2, s3, s4] = powers;
    let solve = |rows: [[f64; 4]; 3]| {
        let [a, b, c] = rows;
        let det = |p: [f64; 3], q: [f64; 3], r: [f64; 3]| {
            p[0] * (q[1] * r[2] - q[2] * r[1]) - p[1] * (q[0] * r[2] - q[2] * r[0]) + p[2] * (q[0] * r[1] - q[1] * r[0])
        };
        let column = |k: usize| [a[k], b[k], c[k]];
        let (x, y, z, w) = (column(0), column(1), column(2), column(3));
        let whole = det(x, y, z);
        [det(w, y, z) / whole, det(x, w, z) / whole, det(x, y, w) / whole]
    };
    let [p0, p1, p2] = products;
    let mut found = solve([[s0 + ridge, s1, s2, p0], [s1, s2 + ridge, s3, p1], [s2, s3, s4 + ridge, p2]]);
    if found[2].abs() < least {
        found[2] = if found[2] < 0.0 { -least } else { least };
    }
    found
}

/// What an operator saw, value by value for each channel.
#[derive(Default)]
struct Seen {
    /// Its operand.
    operands: Vec<Vec<f32>>,
    /// Its result; only for max pooling.
    results: Vec<Vec<f32>>,
    /// The mean in the place of the largest; only for max pooling.
    means: Vec<Vec<f32>>,
}

/// Runs the network on some samples and keeps what stands before its activations and at its max poolings.
fn observe(model: &Model, data: &DataSet) -> Result<Vec<Option<Seen>>, TrainError> {
    let mut runner = Runner::new(model)?;
    let mut seen: Vec<Option<Seen>> = model.nodes.iter().map(|_| None).collect();
    let count = data.train.labels.len();
    let order = batches::shuffled(count, &mut batches::random(0, 0, 3));
    let indices: Vec<usize> = order.into_iter().take(OBSERVED).collect();
    for input in batches::inputs(data, &data.train, &indices) {
        let mut at = 0;
        runner.run(&input?, None, |node, operand| {
            let slot = seen.get_mut(at);
            at += 1;
            let Some(slot) = slot else { return Ok(()) };
            match &node.op {
                Op::Activation(Activation::Function(_)) => {
                    let seen = slot.get_or_insert_default();
                    collect(&mut seen.operands, operand)?;
                }
                Op::Pool { pooling: Pooling::Max, window } => {
                    let seen = slot.get_or_insert_default();
                    for (pooling, list) in [(Pooling::Max, &mut seen.results), (Pooling::Mean, &mut seen.means)] {
                        let pooled = operand.apply_op1(crate::ops::Pool { pooling, window: *window })?;
                        collect(list, &pooled)?;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(seen)
}

/// Values kept for each channel at most.
const KEPT: usize = 1 << 14;

fn collect(lists: &mut Vec<Vec<f32>>, values: &Tensor) -> Result<(), TrainError> {
    let channels = values.dims().last().copied().unwrap_or(1).max(1);
    lists.resize_with(channels, Vec::new);
    let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
    // Spread over all samples: a row is taken, the next ones are passed over.
    let rows = values.len() / channels;
    let step = (rows * (OBSERVED / 128) / KEPT).max(1);
    for row in values.chunks_exact(channels).step_by(step) {
        for (list, value) in lists.iter_mut().zip(row) {
            list.push(*value);
        }
    }
    Ok(())
}

/// The smallest and largest operand of each polynomial on training samples, for the report.
pub(crate) fn ranges(runner: &mut Runner, data: &DataSet) -> Result<Vec<Range>, TrainError> {
    let mut found: Vec<Range> = Vec::new();
    let indices: Vec<usize> = (0..data.train.len().min(2048)).collect();
    for input in batches::inputs(data, &data.train, &indices) {
        runner.run(&input?, None, |node, operand| {
            if let Op::Activation(Activation::Polynomial(_) | Activation::Learned { .. }) = &node.op {
                let low = f64::from(operand.detach().flatten_all()?.min(0)?.to_scalar::<f32>()?);
                let high = f64::from(operand.detach().flatten_all()?.max(0)?.to_scalar::<f32>()?);
                match found.iter_mut().find(|range| range.layer == node.name) {
                    Some(range) => (range.low, range.high) = (range.low.min(low), range.high.max(high)),
                    None => found.push(Range { layer: node.name.clone(), low, high }),
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// What a polynomial's operand ranged over.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Range {
    /// The activation.
    pub layer: String,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}
