//! The protected part of a network: dense layers with polynomial activations, and its plaintext
//! evaluation in f64, the oracle for every encrypted result.

use serde::{Deserialize, Serialize};

use crate::activation::Activation;

/// One dense layer `y = activation(W x + b)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dense {
    /// The layer's name in the network.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Weights, row-major `rows x cols`.
    pub weights: Vec<f64>,
    /// One bias a row.
    pub bias: Vec<f64>,
    /// What follows on each output.
    pub activation: Activation,
}

/// Dense layers, the first one first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// Layers; each takes as many values as the one before gives.
    pub layers: Vec<Dense>,
}

/// What one layer computes for an input.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTrace {
    /// `W x + b`.
    pub pre_activation: Vec<f64>,
    /// `activation(W x + b)`.
    pub output: Vec<f64>,
}

impl Dense {
    /// `W x + b`; inputs that are missing count as zero.
    pub fn linear(&self, input: &[f64]) -> Vec<f64> {
        self.weights
            .chunks(self.cols.max(1))
            .zip(&self.bias)
            .map(|(row, bias)| row.iter().zip(input).map(|(w, x)| w * x).sum::<f64>() + bias)
            .collect()
    }
}

impl Chain {
    /// The outputs for one input of `layers[0].cols` values.
    pub fn eval(&self, input: &[f64]) -> Vec<f64> {
        self.layers.iter().fold(input.to_vec(), |values, layer| {
            let mut values = layer.linear(&values);
            for value in &mut values {
                *value = layer.activation.eval(*value);
            }
            values
        })
    }

    /// As [`eval`](Self::eval), with the values of every layer, for ranges and error analysis.
    pub fn eval_trace(&self, input: &[f64]) -> Vec<LayerTrace> {
        let mut traces: Vec<LayerTrace> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let values = traces.last().map_or(input, |trace| trace.output.as_slice());
            let pre_activation = layer.linear(values);
            let output = pre_activation.iter().map(|&x| layer.activation.eval(x)).collect();
            traces.push(LayerTrace { pre_activation, output });
        }
        traces
    }

    /// The same function with consecutive layers that have no activation between them multiplied
    /// into one wherever that lessens the number of weights, the greatest saving first.
    pub fn folded(&self) -> Chain {
        let mut layers = self.layers.clone();
        while let Some(index) = best_fold(&layers) {
            let first = layers.remove(index);
            if let Some(second) = layers.get_mut(index) {
                *second = multiply(&first, second);
            }
        }
        Chain { layers }
    }

    /// Weights and biases.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|layer| layer.weights.len() + layer.bias.len()).sum()
    }

    /// Values the chain takes; 0 if it has no layer.
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.cols)
    }

    /// Values the chain gives; 0 if it has no layer.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.rows)
    }
}

/// Where folding saves most weights, if it saves any.
fn best_fold(layers: &[Dense]) -> Option<usize> {
    layers
        .windows(2)
        .enumerate()
        .filter_map(|(index, pair)| match pair {
            [first, second] if first.activation == Activation::Identity => {
                let apart = first.weights.len() + second.weights.len();
                let saved = apart.checked_sub(second.rows * first.cols)?;
                (saved > 0).then_some((saved, index))
            }
            _ => None,
        })
        .max_by_key(|&(saved, index)| (saved, std::cmp::Reverse(index)))
        .map(|(_, index)| index)
}

/// `second(first(x))` as one layer.
fn multiply(first: &Dense, second: &Dense) -> Dense {
    let mut weights = Vec::with_capacity(second.rows * first.cols);
    for row in second.weights.chunks(second.cols.max(1)) {
        let mut product = vec![0.0; first.cols];
        for (factor, inner) in row.iter().zip(first.weights.chunks(first.cols.max(1))) {
            for (sum, weight) in product.iter_mut().zip(inner) {
                *sum += factor * weight;
            }
        }
        weights.extend(product);
    }
    Dense {
        name: format!("{}+{}", first.name, second.name),
        rows: second.rows,
        cols: first.cols,
        weights,
        bias: second.linear(&first.bias),
        activation: second.activation.clone(),
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::polynomial::Polynomial;

    fn dense(rng: &mut ChaCha20Rng, rows: usize, cols: usize, activation: Activation) -> Dense {
        let mut draw = |n: usize| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
        Dense { name: format!("{rows}x{cols}"), rows, cols, weights: draw(rows * cols), bias: draw(rows), activation }
    }

    #[test]
    fn folding_keeps_the_function_and_only_ever_saves_weights() {
        let seed = 7;
        println!("seed {seed}");
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let square = Activation::Polynomial(Polynomial::square());
        let chain = Chain {
            layers: vec![
                dense(&mut rng, 40, 6, Activation::Identity),
                dense(&mut rng, 5, 40, square.clone()),
                dense(&mut rng, 2, 5, Activation::Identity), // a bottleneck: folding it would cost
                dense(&mut rng, 9, 2, square),
                dense(&mut rng, 3, 9, Activation::Identity),
                dense(&mut rng, 3, 3, Activation::Identity),
            ],
        };
        let folded = chain.folded();
        let shapes: Vec<_> = folded.layers.iter().map(|l| (l.rows, l.cols)).collect();
        assert_eq!(shapes, [(5, 6), (2, 5), (9, 2), (3, 9)]);
        for _ in 0..20 {
            let input: Vec<f64> = (0..6).map(|_| rng.random_range(-1.0..1.0)).collect();
            let expected = chain.eval(&input);
            for (a, b) in expected.iter().zip(folded.eval(&input)) {
                assert!((a - b).abs() < 1e-9 * (1.0 + a.abs()));
            }
            let trace = chain.eval_trace(&input);
            assert_eq!(trace.last().unwrap().output, expected);
            assert_eq!(
                trace[1].pre_activation[0].powi(2),
                trace[1].output[0],
                "the activation acts on the linear part"
            );
        }
    }
}
