//! Features whose sizes differ much are brought to one range: by public offsets and factors on the edge, and the opposite in the weights
//! of the layers that read them. Else one feature in the thousands would take the precision of all others.

use subrosa_network::{Chain, Circuit, Source, SparseMatrix};
use subrosa_plan::InputRange;

/// Features are normalised where that makes the bound of the first layer's result (norm of the features times norm of a row) smaller by
/// this factor: so much precision is lost otherwise.
const WORTHWHILE: f64 = 8.0;
/// Normalised features may be this much larger on the edge than on the calibration data.
const MARGIN: f64 = 2.0;
/// What a feature varies by is taken to be at least this share of its size.
const LEAST_SPREAD: f64 = 1e-3;

/// What is subtracted from each feature, and what it is multiplied by then.
#[derive(Debug, Clone)]
pub(crate) struct Normalisation {
    /// Offset and factor of each feature.
    pub of_feature: Vec<(f64, f64)>,
    /// Range of normalised features, margin included.
    pub input: InputRange,
    /// The feature vectors that are kept, normalised.
    pub features: Vec<Vec<f64>>,
}

/// Smallest and largest value of each feature.
pub(crate) struct Spread(Vec<(f64, f64)>);

impl Spread {
    pub fn new(features: usize) -> Self {
        Self(vec![(f64::INFINITY, f64::NEG_INFINITY); features])
    }

    pub fn add(&mut self, sample: &[f64]) {
        for ((low, high), x) in self.0.iter_mut().zip(sample) {
            (*low, *high) = (low.min(*x), high.max(*x));
        }
    }

    /// Offsets and factors that bring every feature to -1..1.
    fn offsets_and_factors(&self) -> Vec<(f64, f64)> {
        let size = |(low, high): &(f64, f64)| low.abs().max(high.abs());
        let of = |range: &(f64, f64)| {
            let (low, high) = *range;
            let spread = (0.5 * (high - low)).max(LEAST_SPREAD * size(range));
            // A feature that is always zero stays as it is. In 32 bits, so that the numbers in the bundle are short.
            let spread = if spread > 0.0 { f64::from(spread as f32) } else { 1.0 };
            (f64::from((0.5 * (low + high)) as f32), 1.0 / spread)
        };
        self.0.iter().map(of).collect()
    }
}

impl Normalisation {
    /// For features of this spread, whose `samples` are all that there are and `kept` those that are kept. `row_norm` gives the
    /// largest norm of a row of the layers that read them, each weight multiplied by its feature's number. `None` if it is not
    /// worthwhile.
    pub fn new(
        spread: &Spread,
        samples: impl Iterator<Item = Vec<f64>>,
        kept: &[Vec<f64>],
        row_norm: impl Fn(&dyn Fn(usize) -> f64) -> f64,
    ) -> Option<Self> {
        let of_feature = spread.offsets_and_factors();
        let normalised = |x: &[f64]| -> Vec<f64> {
            x.iter().zip(&of_feature).map(|(x, (offset, factor))| (x - offset) * factor).collect()
        };
        let mut input = InputRange { max_abs: 0.0, max_norm: 0.0 };
        let mut largest_norm = 0.0f64;
        for sample in samples {
            largest_norm = largest_norm.max(sample.iter().map(|v| v * v).sum::<f64>().sqrt());
            let x = normalised(&sample);
            input.max_abs = x.iter().fold(input.max_abs, |m, v| m.max(MARGIN * v.abs()));
            input.max_norm = input.max_norm.max(MARGIN * x.iter().map(|v| v * v).sum::<f64>().sqrt());
        }
        let factor = |column: usize| of_feature.get(column).map_or(1.0, |f| 1.0 / f.1);
        let (before, after) = (largest_norm * row_norm(&|_| 1.0), input.max_norm / MARGIN * row_norm(&factor));
        if before.is_nan() || before <= WORTHWHILE * after {
            return None;
        }
        let features = kept.iter().map(|x| normalised(x)).collect();
        Some(Self { of_feature, input, features })
    }

    /// The chain on normalised features.
    pub fn chain(&self, chain: &Chain) -> Chain {
        opposite(chain, &self.of_feature)
    }

    /// The circuit on normalised features.
    pub fn circuit(&self, circuit: &Circuit) -> Circuit {
        let mut circuit = circuit.clone();
        for layer in &mut circuit.layers {
            for term in layer.terms.iter_mut().filter(|t| t.source == Source::Input) {
                let matrix = &term.matrix;
                let of = |column: u32| self.of_feature.get(column as usize).copied().unwrap_or((0.0, 1.0));
                for (row, bias) in layer.bias.iter_mut().enumerate() {
                    *bias += matrix.row(row).map(|(column, weight)| weight * of(column).0).sum::<f64>();
                }
                let scaled = |row| matrix.row(row).map(|(column, weight)| (column, weight / of(column).1)).collect();
                let rows: Vec<Vec<(u32, f64)>> = (0..matrix.rows()).map(scaled).collect();
                if let Some(made) = SparseMatrix::from_rows(matrix.cols(), rows) {
                    term.matrix = made;
                }
            }
        }
        circuit
    }
}

/// The chain for features of which an offset is subtracted and which are multiplied by a factor then.
pub(crate) fn opposite(chain: &Chain, of_feature: &[(f64, f64)]) -> Chain {
    let mut chain = chain.clone();
    if let Some(first) = chain.layers.first_mut() {
        for (row, bias) in first.weights.chunks_mut(first.cols.max(1)).zip(&mut first.bias) {
            for (weight, (offset, factor)) in row.iter_mut().zip(of_feature) {
                *bias += *weight * offset;
                *weight /= factor;
            }
        }
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use subrosa_network::{Activation, Dense};

    fn spread(samples: &[Vec<f64>]) -> Spread {
        let mut spread = Spread::new(samples[0].len());
        samples.iter().for_each(|x| spread.add(x));
        spread
    }

    #[test]
    fn pixels_stay_as_they_are() {
        let images: Vec<Vec<f64>> = (0..4).map(|i| vec![0.0, 0.25 * f64::from(i), 1.0, 0.01]).collect();
        let norm = |factor: &dyn Fn(usize) -> f64| (0..4).map(factor).map(|f| f * f).sum::<f64>().sqrt();
        assert!(Normalisation::new(&spread(&images), images.iter().cloned(), &images, norm).is_none());
    }

    #[test]
    fn a_chain_gives_the_same_on_normalised_features() {
        // A temperature, a speed, a flag, and something that never changes.
        let samples: Vec<Vec<f64>> =
            (0..5).map(|i| vec![300.0 + f64::from(i), 1500.0 - 90.0 * f64::from(i), f64::from(i % 2), 0.0]).collect();
        let norm = |factor: &dyn Fn(usize) -> f64| 0.1 * factor(0).hypot(0.02 * factor(1)).hypot(30.0 * factor(2));
        let normal = Normalisation::new(&spread(&samples), samples.iter().cloned(), &samples, norm).unwrap();
        assert!(normal.input.max_abs <= 2.0 + 1e-6 && normal.input.max_norm <= 4.0 + 1e-6);
        let layer = Dense {
            name: "fc".into(),
            rows: 2,
            cols: 4,
            weights: vec![0.1, -0.002, 3.0, 1.0, 0.01, 0.001, -1.0, 2.0],
            bias: vec![0.5, -30.0],
            activation: Activation::Identity,
        };
        let chain = Chain { layers: vec![layer] };
        let changed = normal.chain(&chain);
        for (x, y) in samples.iter().zip(&normal.features) {
            for (a, b) in chain.layers[0].linear(x).iter().zip(changed.layers[0].linear(y)) {
                assert!((a - b).abs() < 1e-9, "{a} {b}");
            }
        }
    }
}
