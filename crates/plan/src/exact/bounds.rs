//! Proven bounds of integer outputs, from weights and the declared range of the features.
//!
//! All sums are of exact integers or bounded from above; a relative 1e-6 is added for the roundings of f64.

use super::network::{IntegerNetwork, IntegerStage};
use super::spectrum::largest_eigenvalue;
use crate::chain::{InputRange, dot};

/// What the roundings of f64 may amount to in all.
const ROUNDINGS: f64 = 1.0 + 1e-6;

/// Bounds of a vector for every input in the range.
struct Bounds {
    /// Of each value.
    low: Vec<f64>,
    high: Vec<f64>,
    /// Of its Euclidean norm.
    norm: f64,
}

/// The largest absolute value of an output, for any features in the range.
pub(crate) fn output_bound(network: &IntegerNetwork, input: InputRange) -> f64 {
    let Some(first) = network.stages.first() else { return 0.0 };
    // Rounding moves each feature by at most a half.
    let factor = network.fixed_point().input;
    let max = (input.max_abs * factor + 0.5).floor();
    let features = first.cols as f64;
    let norm = (input.max_norm * factor + 0.5 * features.sqrt()).min(max * features.sqrt());
    let mut bounds = Bounds { low: vec![-max; first.cols], high: vec![max; first.cols], norm };
    let mut before: Option<Squared> = None;
    for stage in &network.stages {
        let next = stage.linear(&bounds, before.as_ref());
        before = (stage.square && stage.rows <= MOST_ROWS).then(|| Squared {
            gram: stage.gram(),
            bias: stage.bias.iter().map(|b| *b as f64).collect(),
            input_norm: bounds.norm,
        });
        bounds = if stage.square { next.squared() } else { next };
    }
    bounds.low.iter().chain(&bounds.high).fold(0.0f64, |m, v| m.max(v.abs())) * ROUNDINGS + 1.0
}

/// The map z = W x + b whose results were squared.
struct Squared {
    /// W W^T.
    gram: Vec<f64>,
    bias: Vec<f64>,
    /// Bound of the norm of x.
    input_norm: f64,
}

impl Squared {
    /// A bound of sum_j d_j z_j^2, d_j >= 0: with D the diagonal of d it is |D^(1/2) (W x + b)|^2, and |D^(1/2) W|^2 the largest eigenvalue
    /// of D^(1/2) W W^T D^(1/2).
    fn form(&self, d: &[f64]) -> f64 {
        // Rows with a factor of zero are left out.
        let kept: Vec<(usize, f64)> = d.iter().copied().enumerate().filter(|(_, d)| *d > 0.0).collect();
        let entry = |i: usize, j: usize| self.gram.get(i * d.len() + j).copied().unwrap_or(0.0);
        let row =
            |&(i, a): &(usize, f64)| kept.iter().map(move |&(j, b)| (a * b).sqrt() * entry(i, j)).collect::<Vec<_>>();
        let matrix: Vec<f64> = kept.iter().flat_map(row).collect();
        let bias = self.bias.iter().zip(d).map(|(b, d)| d * b * b).sum::<f64>().sqrt();
        (largest_eigenvalue(&matrix, kept.len()).sqrt() * self.input_norm + bias).powi(2)
    }
}

impl IntegerStage {
    /// Bounds of W x + b: from the interval of every x, from norms, and behind a square from the quadratic form that it is.
    fn linear(&self, x: &Bounds, square: Option<&Squared>) -> Bounds {
        let l1 = x.low.iter().zip(&x.high).map(|(l, h)| l.abs().max(h.abs())).sum::<f64>();
        let (mut low, mut high) = (Vec::with_capacity(self.rows), Vec::with_capacity(self.rows));
        for (row, bias) in self.weights.chunks(self.cols.max(1)).zip(&self.bias) {
            let (mut least, mut most, mut energy, mut largest) = (0.0, 0.0, 0.0f64, 0.0f64);
            for ((&w, l), h) in row.iter().zip(&x.low).zip(&x.high) {
                let w = w as f64;
                let (a, b) = (w * l, w * h);
                least += a.min(b);
                most += a.max(b);
                energy += w * w;
                largest = largest.max(w.abs());
            }
            let mut limits = [(energy.sqrt() * x.norm).min(largest * l1); 2];
            if let Some(square) = square {
                for (limit, sign) in limits.iter_mut().zip([-1.0, 1.0]) {
                    let parts: Vec<f64> = row.iter().map(|&w| (sign * w as f64).max(0.0)).collect();
                    *limit = limit.min(square.form(&parts));
                }
            }
            let bias = *bias as f64;
            let [below, above] = limits;
            low.push(least.max(-below) + bias);
            high.push(most.min(above) + bias);
        }
        let by_values = low.iter().zip(&high).map(|(l, h)| l.abs().max(h.abs()).powi(2)).sum::<f64>().sqrt();
        let bias = self.bias.iter().map(|b| (*b as f64).powi(2)).sum::<f64>().sqrt();
        Bounds { low, high, norm: by_values.min(self.spectral_bound() * x.norm + bias) }
    }

    /// W W^T, without what is beyond `rows`.
    fn gram(&self) -> Vec<f64> {
        let rows: Vec<Vec<f64>> =
            self.weights.chunks(self.cols.max(1)).map(|row| row.iter().map(|&w| w as f64).collect()).collect();
        let mut out = vec![0.0; rows.len() * rows.len()];
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate().take(i + 1) {
                let product = dot(a, b);
                for at in [i * rows.len() + j, j * rows.len() + i] {
                    if let Some(place) = out.get_mut(at) {
                        *place = product;
                    }
                }
            }
        }
        out
    }

    /// A bound of the spectral norm.
    fn spectral_bound(&self) -> f64 {
        let frobenius = self.weights.iter().map(|&w| (w as f64).powi(2)).sum::<f64>().sqrt();
        if self.rows > MOST_ROWS {
            return frobenius;
        }
        largest_eigenvalue(&self.gram(), self.rows).sqrt().min(frobenius)
    }
}

/// Rows from which on W W^T costs more than it is worth.
const MOST_ROWS: usize = 2048;

impl Bounds {
    fn squared(self) -> Self {
        let largest = |(l, h): (&f64, &f64)| l.abs().max(h.abs());
        let max = self.low.iter().zip(&self.high).map(largest).fold(0.0, f64::max);
        let high: Vec<f64> = self.low.iter().zip(&self.high).map(|pair| largest(pair).powi(2)).collect();
        let least = |(&l, &h): (&f64, &f64)| if l <= 0.0 && h >= 0.0 { 0.0 } else { l.abs().min(h.abs()).powi(2) };
        let low = self.low.iter().zip(&self.high).map(least).collect();
        Self { low, high, norm: max * self.norm }
    }
}
