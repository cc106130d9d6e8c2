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

/// A linear map (row-major weights and a bias) and what follows it. Made by [`Stage::new`], not changed afterwards.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub rows: usize,
    pub cols: usize,
    pub weights: Vec<f64>,
    pub bias: Vec<f64>,
    pub post: Post,
    /// The norm of every row.
    pub row_norms: Vec<f64>,
    /// Largest norm of a row.
    pub max_row_norm: f64,
    /// Largest absolute weight.
    pub max_weight: f64,
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
    pub fn new((rows, cols): (usize, usize), weights: Vec<f64>, bias: Vec<f64>, post: Post) -> Self {
        let row_norms: Vec<f64> = weights.chunks(cols.max(1)).map(norm).collect();
        let max_row_norm = row_norms.iter().copied().fold(0.0, f64::max);
        let max_weight = weights.iter().fold(0.0f64, |m, w| m.max(w.abs()));
        Self { rows, cols, weights, bias, post, row_norms, max_row_norm, max_weight }
    }

    pub fn weight(&self, row: usize, col: usize) -> f64 {
        self.weights.get(row * self.cols + col).copied().unwrap_or(0.0)
    }

    /// Largest absolute bias.
    pub fn max_bias(&self) -> f64 {
        self.bias.iter().fold(0.0f64, |m, b| m.max(b.abs()))
    }

    /// An upper estimate of the spectral norm: power iteration on W^T W, with 5 % to spare, never above the Frobenius norm. It
    /// ends early where the estimate has settled, or is above `enough` already (it never falls).
    pub fn spectral_norm(&self, enough: f64) -> f64 {
        let frobenius = norm(&self.row_norms);
        if self.max_weight == 0.0 {
            return 0.0;
        }
        // In f32, relative to the largest weight: half the memory to walk through, and precise far beyond the 5 %.
        let weights: Vec<f32> = self.weights.iter().map(|w| (w / self.max_weight) as f32).collect();
        let mut v: Vec<f32> = (0..self.cols).map(|i| 1.0 + ((i * 7919) % 101) as f32 / 101.0).collect();
        let mut sigma = 0.0;
        for _ in 0..POWER_ITERATIONS {
            let scale = dot32(&v, &v).sqrt();
            if scale == 0.0 {
                break;
            }
            v.iter_mut().for_each(|x| *x /= scale);
            let mut back = vec![0.0f32; self.cols];
            let mut energy = 0.0f64;
            for row in weights.chunks(self.cols) {
                let y = dot32(row, &v);
                energy += f64::from(y) * f64::from(y);
                back.iter_mut().zip(row).for_each(|(b, w)| *b += w * y);
            }
            let before = sigma;
            sigma = energy.sqrt() * self.max_weight;
            if 1.05 * sigma >= enough || sigma - before < SETTLED * sigma {
                break;
            }
            v = back;
        }
        (1.05 * sigma).min(frobenius)
    }
}

/// Rounds of the power iteration, and the relative growth in one of them below which it has settled.
const POWER_ITERATIONS: usize = 60;
const SETTLED: f64 = 1e-5;

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
        out.push(Stage::new((layer.rows, layer.cols), weights, bias, post));
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
        // Row by row for all samples: the weights are the larger part and are read once.
        let mut linear = vec![Vec::with_capacity(stage.rows); inputs.len()];
        for (row, b) in stage.weights.chunks(stage.cols).zip(&stage.bias) {
            for (x, y) in inputs.iter().zip(&mut linear) {
                y.push(dot(row, x) + b);
            }
        }
        let traced: Vec<Trace> =
            inputs.into_iter().zip(linear).map(|(input, linear)| Trace { input, linear }).collect();
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
        let rows = stage.weights.chunks(stage.cols).zip(&stage.row_norms).zip(&stage.bias);
        let linear_max = rows
            .map(|((row, row_norm), b)| {
                let (row_l1, row_max) = row.iter().fold((0.0, 0.0f64), |(l1, m), w| (l1 + w.abs(), m.max(w.abs())));
                (row_norm * input_norm).min(row_l1 * input_max).min(row_max * input_l1) + b.abs()
            })
            .fold(0.0, f64::max);
        let limit = |safe: f64, seen: f64| if seen > 0.0 { safe.min(OBSERVED_MARGIN * seen) } else { safe };
        let largest = traced.iter().flat_map(|t| &t.linear).fold(0.0f64, |m, v| m.max(v.abs()));
        let largest_norm = traced.iter().map(|t| norm(&t.linear)).fold(0.0, f64::max);
        let by_values = limit(linear_max * (stage.rows as f64).sqrt(), largest_norm);
        let bias_norm = norm(&stage.bias);
        let spectral_norm = stage.spectral_norm((by_values - bias_norm) / input_norm);
        let linear_norm = (spectral_norm * input_norm + bias_norm).min(by_values);
        let linear_max = limit(linear_max, largest);
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
    dot(v, v).sqrt()
}

/// Sums side by side, which the compiler can put into vectors.
const LANES: usize = 8;

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (heads, tails) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, y) in heads.0.iter().zip(tails.0) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f64>() + heads.1.iter().zip(tails.1).map(|(x, y)| x * y).sum::<f64>()
}

fn dot32(a: &[f32], b: &[f32]) -> f32 {
    let (heads, tails) = (a.as_chunks::<{ 2 * LANES }>(), b.as_chunks::<{ 2 * LANES }>());
    let mut sums = [0.0; 2 * LANES];
    for (x, y) in heads.0.iter().zip(tails.0) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f32>() + heads.1.iter().zip(tails.1).map(|(x, y)| x * y).sum::<f32>()
}
