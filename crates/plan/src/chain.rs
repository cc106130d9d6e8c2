//! The protected layers as the planner sees them: linear maps with at most one squaring (or polynomial) between, and
//! the ranges of every value.

use serde::{Deserialize, Serialize};
use subrosa_network::{Activation, Chain};

/// The range of the features that the plan must cover; the edge refuses features outside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct InputRange {
    /// Largest absolute value of a feature.
    pub max_abs: f64,
    /// Largest Euclidean norm of the feature vector.
    pub max_norm: f64,
}

/// What follows a linear map.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Post {
    /// Nothing.
    Identity,
    /// One squaring.
    Square,
    /// A polynomial of degree three or more, ascending coefficients.
    Polynomial(Vec<f64>),
}

/// A linear map (row-major weights and a bias) and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub rows: usize,
    pub cols: usize,
    pub weights: Vec<f64>,
    pub bias: Vec<f64>,
    pub post: Post,
}

/// Bounds of the values around a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ranges {
    /// Largest absolute input value.
    pub input_max: f64,
    /// Largest Euclidean norm of the input vector.
    pub input_norm: f64,
    /// Largest sum of absolute values of the input vector.
    pub input_l1: f64,
    /// Largest absolute value of the linear map's result.
    pub linear_max: f64,
    /// Largest norm of the linear map's result.
    pub linear_norm: f64,
}

impl Stage {
    pub fn weight(&self, row: usize, col: usize) -> f64 {
        self.weights.get(row * self.cols + col).copied().unwrap_or(0.0)
    }

    /// Largest norm of a row.
    pub fn max_row_norm(&self) -> f64 {
        self.weights.chunks(self.cols).map(norm).fold(0.0, f64::max)
    }

    /// Largest absolute weight.
    pub fn max_weight(&self) -> f64 {
        self.weights.iter().fold(0.0, |m, w| m.max(w.abs()))
    }

    /// An upper estimate of the spectral norm: power iteration on W^T W, with 5 % to spare, never above the Frobenius norm.
    pub fn spectral_norm(&self) -> f64 {
        let frobenius = norm(&self.weights);
        let mut v: Vec<f64> = (0..self.cols).map(|i| 1.0 + ((i * 7919) % 101) as f64 / 101.0).collect();
        let mut sigma = 0.0;
        for _ in 0..60 {
            let scale = norm(&v);
            if scale == 0.0 {
                return 0.0;
            }
            v.iter_mut().for_each(|x| *x /= scale);
            let image: Vec<f64> = self.weights.chunks(self.cols).map(|row| dot(row, &v)).collect();
            sigma = norm(&image);
            let mut back = vec![0.0; self.cols];
            for (row, y) in self.weights.chunks(self.cols).zip(&image) {
                back.iter_mut().zip(row).for_each(|(b, w)| *b += w * y);
            }
            v = back;
        }
        (1.05 * sigma).min(frobenius)
    }
}

/// Rewrites a chain so that a quadratic activation `a z^2 + b z + c` becomes one squaring: `a (z + b/2a)^2 + (c - b^2/4a)`, the
/// shift in this layer's bias, the factor and the constant in the next layer's weights and bias. Linear activations go
/// into the next layer too. The activation after the last layer is left to the owner.
pub(crate) fn stages(chain: &Chain) -> Vec<Stage> {
    let mut out: Vec<Stage> = Vec::with_capacity(chain.layers.len());
    // What the activation before contributes: next input = factor * carried value + constant.
    let (mut factor, mut constant) = (1.0, 0.0);
    for (i, layer) in chain.layers.iter().enumerate() {
        let mut bias: Vec<f64> = layer.bias.clone();
        for (b, row) in bias.iter_mut().zip(layer.weights.chunks(layer.cols.max(1))) {
            *b += constant * row.iter().sum::<f64>();
        }
        let weights = layer.weights.iter().map(|w| w * factor).collect();
        (factor, constant) = (1.0, 0.0);
        let mut post = Post::Identity;
        let last = i + 1 == chain.layers.len();
        if let (Activation::Polynomial(p), false) = (&layer.activation, last) {
            match trimmed(p.coefficients()) {
                [] => factor = 0.0,
                [c] => (factor, constant) = (0.0, *c),
                [c, b] => (factor, constant) = (*b, *c),
                [c, b, a] => {
                    bias.iter_mut().for_each(|x| *x += b / (2.0 * a));
                    (factor, constant) = (*a, c - b * b / (4.0 * a));
                    post = Post::Square;
                }
                all => post = Post::Polynomial(all.to_vec()),
            }
        }
        out.push(Stage { rows: layer.rows, cols: layer.cols, weights, bias, post });
    }
    out
}

fn trimmed(coefficients: &[f64]) -> &[f64] {
    let len = coefficients.iter().rposition(|c| *c != 0.0).map_or(0, |i| i + 1);
    coefficients.get(..len).unwrap_or(coefficients)
}

/// What calibration data showed may be exceeded by this factor behind the first layer.
const OBSERVED_MARGIN: f64 = 8.0;

/// What one stage computes for one sample.
pub(crate) struct Trace {
    pub input: Vec<f64>,
    pub linear: Vec<f64>,
}

/// Evaluates the stages on samples of the features: for each stage, its values sample by sample.
pub(crate) fn traces(stages: &[Stage], samples: &[Vec<f64>]) -> Vec<Vec<Trace>> {
    let mut inputs = samples.to_vec();
    let mut out = Vec::with_capacity(stages.len());
    for stage in stages {
        let linear = |x: &Vec<f64>| -> Vec<f64> {
            stage.weights.chunks(stage.cols).zip(&stage.bias).map(|(row, b)| dot(row, x) + b).collect()
        };
        let traced: Vec<Trace> = inputs.into_iter().map(|x| Trace { linear: linear(&x), input: x }).collect();
        let post = |y: &f64| match &stage.post {
            Post::Identity => *y,
            Post::Square => y * y,
            Post::Polynomial(c) => c.iter().rev().fold(0.0, |acc, k| acc * y + k),
        };
        inputs = traced.iter().map(|t| t.linear.iter().map(post).collect()).collect();
        out.push(traced);
    }
    out
}

/// Bounds through the stages from the range of the features: safe ones by Cauchy-Schwarz and the spectral norm, or, where
/// they are smaller, eight times what the samples of calibration data show.
pub(crate) fn ranges(stages: &[Stage], input: InputRange, traces: &[Vec<Trace>]) -> Vec<Ranges> {
    let (mut input_max, mut input_norm) = (input.max_abs, input.max_norm);
    let mut input_l1 = input_norm * stages.first().map_or(0.0, |s| (s.cols as f64).sqrt());
    let mut out = Vec::with_capacity(stages.len());
    for (stage, traced) in stages.iter().zip(traces) {
        let rows = stage.weights.chunks(stage.cols).zip(&stage.bias);
        let linear_max = rows
            .map(|(row, b)| {
                let row_l1: f64 = row.iter().map(|w| w.abs()).sum();
                let row_max = row.iter().fold(0.0f64, |m, w| m.max(w.abs()));
                (norm(row) * input_norm).min(row_l1 * input_max).min(row_max * input_l1) + b.abs()
            })
            .fold(0.0, f64::max);
        let linear_norm =
            (stage.spectral_norm() * input_norm + norm(&stage.bias)).min(linear_max * (stage.rows as f64).sqrt());
        let limit = |safe: f64, seen: f64| if seen > 0.0 { safe.min(OBSERVED_MARGIN * seen) } else { safe };
        let largest = traced.iter().flat_map(|t| &t.linear).fold(0.0f64, |m, v| m.max(v.abs()));
        let largest_norm = traced.iter().map(|t| norm(&t.linear)).fold(0.0, f64::max);
        let (linear_max, linear_norm) = (limit(linear_max, largest), limit(linear_norm, largest_norm));
        out.push(Ranges { input_max, input_norm, input_l1, linear_max, linear_norm });
        (input_max, input_norm) = match &stage.post {
            Post::Identity => (linear_max, linear_norm),
            Post::Square => (linear_max * linear_max, linear_max * linear_norm),
            Post::Polynomial(c) => {
                let at = |x: f64| c.iter().rev().fold(0.0, |acc, k| acc * x + k.abs());
                let slope = c.iter().skip(1).rev().fold(0.0, |acc, k| acc * linear_max + k.abs());
                let constant = c.first().map_or(0.0, |k| k.abs()) * (stage.rows as f64).sqrt();
                (at(linear_max), (slope * linear_norm + constant).min(at(linear_max) * (stage.rows as f64).sqrt()))
            }
        };
        input_l1 = input_norm * (stage.rows as f64).sqrt();
        if stage.post == Post::Square {
            input_l1 = input_l1.min(linear_norm * linear_norm);
        }
    }
    out
}

pub(crate) fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
