//! Choosing the fixed point: what rounding does to the outputs, measured on samples.

use super::network::{FixedPoint, IntegerError, IntegerNetwork};
use crate::chain::{Post, Stage, Trace, norm};

/// Samples whose gradients are followed.
const FOLLOWED: usize = 16;
/// Deviation of a rounding error, in units of the last place.
const ROUNDING: f64 = 0.288_675_134_594_812_9;
/// Factors are powers of two to this part.
const STEPS: f64 = 4.0;

/// How much the rounding of one kind of value moves the outputs: deviation of the worst output over the worst of the samples, for values
/// that are rounded to integers without a factor.
#[derive(Debug, Clone)]
pub(crate) struct Sensitivity {
    /// The features, then the weights of each layer.
    of: Vec<f64>,
    /// How often each factor enters the unit of the outputs: squares double.
    multiplicity: Vec<f64>,
}

impl Sensitivity {
    /// Follows gradients from each output back through `stages`; `traces` are the stages' values on samples.
    pub fn measure(stages: &[Stage], traces: &[Vec<Trace>]) -> Self {
        let mut of = vec![0.0f64; stages.len() + 1];
        let outputs = stages.last().map_or(0, |s| s.rows);
        let samples = traces.first().map_or(0, Vec::len).min(FOLLOWED);
        for sample in 0..samples {
            for output in 0..outputs {
                let mut adjoint: Vec<f64> = (0..outputs).map(|r| if r == output { 1.0 } else { 0.0 }).collect();
                for (i, stage) in stages.iter().enumerate().rev() {
                    let Some(trace) = traces.get(i).and_then(|t| t.get(sample)) else { continue };
                    if stage.post == Post::Square && i + 1 < stages.len() {
                        adjoint.iter_mut().zip(&trace.linear).for_each(|(a, z)| *a *= 2.0 * z);
                    }
                    if let Some(of) = of.get_mut(i + 1) {
                        *of = of.max(ROUNDING * norm(&adjoint) * norm(&trace.input));
                    }
                    let mut back = vec![0.0; stage.cols];
                    for (row, a) in stage.weights.chunks(stage.cols.max(1)).zip(&adjoint) {
                        back.iter_mut().zip(row).for_each(|(b, w)| *b += a * w);
                    }
                    adjoint = back;
                }
                if let Some(of) = of.first_mut() {
                    *of = of.max(ROUNDING * norm(&adjoint));
                }
            }
        }
        let mut multiplicity = vec![1.0; stages.len() + 1];
        for (i, stage) in stages.iter().enumerate().filter(|(i, s)| s.post == Post::Square && i + 1 < stages.len()) {
            let _ = stage;
            multiplicity.iter_mut().take(i + 2).for_each(|m| *m *= 2.0);
        }
        Self { of, multiplicity }
    }

    /// The factors with which roundings move no output by more than a deviation of `error`, and whose product in the outputs' unit is
    /// least: each kind's part of the variance is as its multiplicity.
    pub fn fixed_point(&self, error: f64) -> FixedPoint {
        let total: f64 = self.multiplicity.iter().sum();
        let factors = self.of.iter().zip(&self.multiplicity).map(|(of, m)| {
            let exact = of / (error * (m / total).sqrt());
            ((exact.max(1.0).log2() * STEPS).ceil() / STEPS).exp2()
        });
        let mut factors = factors.collect::<Vec<_>>().into_iter();
        FixedPoint { input: factors.next().unwrap_or(1.0), weights: factors.collect() }
    }

    /// Deviation of the worst output for given factors.
    pub fn deviation(&self, fixed: &FixedPoint) -> f64 {
        let factors = std::iter::once(&fixed.input).chain(&fixed.weights);
        self.of.iter().zip(factors).map(|(of, factor)| (of / factor).powi(2)).sum::<f64>().sqrt()
    }
}

/// The share of answers that an error of this deviation on every output is expected to change: over the samples, the mean of the bound
/// exp(-d^2/2)/2 of the tail of a normal distribution, d the distance of the best two outputs over the deviation of their difference.
pub(crate) fn expected_changes(traces: &[Vec<Trace>], deviation: f64) -> f64 {
    let Some(last) = traces.last().filter(|last| !last.is_empty()) else { return 0.0 };
    let changed = |t: &Trace| {
        let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        for &v in &t.linear {
            (first, second) = if v > first { (v, first) } else { (first, second.max(v)) };
        }
        let distance = (first - second) / (std::f64::consts::SQRT_2 * deviation);
        if distance.is_finite() { 0.5 * (-0.5 * distance * distance).exp() } else { 0.0 }
    };
    last.iter().map(changed).sum::<f64>() / last.len() as f64
}

/// What a fixed point does on samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Largest difference of an output.
    pub max_abs_error: f64,
    /// Samples whose top output is another.
    pub disagreements: usize,
}

/// Compares the integer network with the stages it was made of. f64 serves: integers beyond 2^53 lose far less than the rounding of weights.
pub(crate) fn measure(stages: &[Stage], traces: &[Vec<Trace>], fixed: &FixedPoint) -> Result<Measured, IntegerError> {
    let network = IntegerNetwork::of(stages, fixed)?;
    let mut measured = Measured { max_abs_error: 0.0, disagreements: 0 };
    let (Some(first), Some(last)) = (traces.first(), traces.last()) else { return Ok(measured) };
    let layers: Vec<(Vec<f64>, Vec<f64>)> = network
        .stages
        .iter()
        .map(|s| (s.weights.iter().map(|&w| w as f64).collect(), s.bias.iter().map(|&b| b as f64).collect()))
        .collect();
    for (input, expected) in first.iter().zip(last) {
        let mut values: Vec<f64> = input.input.iter().map(|x| (x * fixed.input).round()).collect();
        for (stage, (weights, bias)) in network.stages.iter().zip(&layers) {
            let rows = weights.chunks(stage.cols.max(1)).zip(bias);
            let linear = rows.map(|(row, b)| row.iter().zip(&values).map(|(w, x)| w * x).sum::<f64>() + b);
            values = linear.map(|z| if stage.square { z * z } else { z }).collect();
        }
        values.iter_mut().for_each(|v| *v *= network.output_unit());
        for (v, e) in values.iter().zip(&expected.linear) {
            measured.max_abs_error = measured.max_abs_error.max((v - e).abs());
        }
        measured.disagreements += usize::from(top(&values) != top(&expected.linear));
    }
    Ok(measured)
}

fn top(values: &[f64]) -> Option<usize> {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i)
}
