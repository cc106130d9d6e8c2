//! Errors of a vector on its way through the layers, as standard deviations in the units of the values: a bound over all
//! inputs in the range, and, where calibration data is at hand, the deviation in every value of every sample.

use crate::chain::{Ranges, Stage, Trace};
use crate::forecast::{Deviations, quadrature};

/// Samples whose errors are followed value by value.
const FOLLOWED: usize = 16;
/// Real inputs may have values this much larger than the samples'.
const SAMPLE_MARGIN: f64 = 2.0;

/// Deviations of the errors of a vector. In a slot, of the complex modulus.
#[derive(Debug, Clone)]
pub(crate) struct Errors {
    /// For any value and any input in the range.
    pub bound: f64,
    /// For each followed sample. Empty if none are followed.
    samples: Vec<Variances>,
}

/// Variances of the errors of one sample's values.
#[derive(Debug, Clone)]
enum Variances {
    /// The same for all values.
    Same(f64),
    /// Value by value.
    Each(Vec<f64>),
}

impl Variances {
    fn plus(&self, variance: f64) -> Self {
        match self {
            Self::Same(v) => Self::Same(v + variance),
            Self::Each(all) => Self::Each(all.iter().map(|v| v + variance).collect()),
        }
    }

    /// Each value's new variance from its old one and the value itself.
    fn map(&self, values: &[f64], f: impl Fn(f64, f64) -> f64) -> Self {
        Self::Each(match self {
            Self::Same(v) => values.iter().map(|y| f(*v, *y)).collect(),
            Self::Each(all) => all.iter().zip(values).map(|(v, y)| f(*v, *y)).collect(),
        })
    }

    /// `sum_j w_ij^2 v_j` for every row, and `sum_j v_j`.
    fn through(&self, stage: &Stage) -> (Vec<f64>, f64) {
        match self {
            Self::Same(v) => (stage.row_norms.iter().map(|n| n * n * v).collect(), v * stage.cols as f64),
            Self::Each(all) => {
                let row = |row: &[f64]| row.iter().zip(all).map(|(w, v)| w * w * v).sum();
                (stage.weights.chunks(stage.cols).map(row).collect(), all.iter().sum())
            }
        }
    }

    fn largest(&self) -> f64 {
        match self {
            Self::Same(v) => *v,
            Self::Each(all) => all.iter().copied().fold(0.0, f64::max),
        }
    }
}

impl Errors {
    /// The same deviation everywhere, followed on the samples of `traces`.
    pub fn uniform(deviation: f64, traces: &[Trace]) -> Self {
        let samples = traces.iter().take(FOLLOWED).map(|_| Variances::Same(deviation * deviation)).collect();
        Self { bound: deviation, samples }
    }

    /// With an independent error of this deviation in every value.
    pub fn plus(&self, deviation: f64) -> Self {
        self.plus_each(deviation, deviation)
    }

    /// With an independent error in every value, of one deviation for any input and another for the samples.
    pub fn plus_each(&self, any: f64, sampled: f64) -> Self {
        let samples = self.samples.iter().map(|v| v.plus(sampled * sampled)).collect();
        Self { bound: quadrature(&[self.bound, any]), samples }
    }

    /// Errors of `W x` by diagonals: the weights' noise `weight_error` (in each slot) and the errors of `x`. The conjugation counts
    /// a slot's complex error twice, with half its variance in the real part each: a factor of 2 in the variance.
    pub fn product(&self, stage: &Stage, range: &Ranges, traces: &[Trace], weight_error: f64) -> Self {
        let bound = std::f64::consts::SQRT_2
            * quadrature(&[
                weight_error * range.input_norm,
                self.bound * stage.max_row_norm,
                weight_error * self.bound * (stage.cols as f64).sqrt(),
            ]);
        let rows = |variances: &Variances, t: &Trace| {
            let (rows, total) = variances.through(stage);
            let own = 2.0 * weight_error * weight_error * (t.input.iter().map(|x| x * x).sum::<f64>() + total);
            Variances::Each(rows.iter().map(|v| own + 2.0 * v).collect())
        };
        Self { bound, samples: self.samples.iter().zip(traces).map(|(v, t)| rows(v, t)).collect() }
    }

    /// Errors of `y^2`.
    pub fn squared(&self, largest: f64, traces: &[Trace]) -> Self {
        let square = |(variances, t): (&Variances, &Trace)| variances.map(&t.linear, |v, y| 4.0 * y * y * v + v * v);
        let bound = 2.0 * largest * self.bound + self.bound * self.bound;
        Self { bound, samples: self.samples.iter().zip(traces).map(square).collect() }
    }

    /// Errors of a polynomial of the values, |value| at most `largest`: its slope times theirs.
    pub fn mapped(&self, coefficients: &[f64], largest: f64, traces: &[Trace]) -> Self {
        let slope = |y: f64, size: fn(f64) -> f64| {
            let terms = coefficients.iter().enumerate().skip(1).rev();
            terms.fold(0.0, |acc, (k, c)| acc * y + k as f64 * size(*c))
        };
        let map = |(variances, t): (&Variances, &Trace)| variances.map(&t.linear, |v, y| slope(y, |c| c).powi(2) * v);
        let bound = slope(largest + self.bound, f64::abs) * self.bound;
        Self { bound, samples: self.samples.iter().zip(traces).map(map).collect() }
    }

    /// Errors of inner products in the coefficients: `weight_error` times the norm of the input, and the errors of the input.
    pub fn inner_product(&self, stage: &Stage, range: &Ranges, traces: &[Trace], weight_error: f64) -> Self {
        let bound = quadrature(&[weight_error * range.input_norm, self.bound * stage.max_row_norm]);
        let rows = |variances: &Variances, t: &Trace| {
            let energy: f64 = t.input.iter().map(|x| x * x).sum();
            let (rows, _) = variances.through(stage);
            Variances::Each(rows.iter().map(|v| v + weight_error * weight_error * energy).collect())
        };
        Self { bound, samples: self.samples.iter().zip(traces).map(|(v, t)| rows(v, t)).collect() }
    }

    /// The bound that the error of `outputs` values exceeds with probability at most 2^-40.
    pub fn forecast(&self, deviations: &Deviations, outputs: usize) -> f64 {
        let any = deviations.tail(self.bound, outputs);
        let sampled = self.samples.iter().map(Variances::largest).fold(0.0, f64::max).sqrt();
        if self.samples.is_empty() { any } else { any.min(SAMPLE_MARGIN * deviations.tail(sampled, outputs)) }
    }
}

/// The largest linear value of the samples with their margin; `None` without samples.
pub(crate) fn sampled_size(traces: &[Trace]) -> Option<f64> {
    let largest = traces.iter().flat_map(|t| &t.linear).map(|y| y.abs()).reduce(f64::max)?;
    Some(SAMPLE_MARGIN * largest)
}
