//! Whole networks as circuits: linear maps between which each value passes an activation.
//!
//! [`Network::circuit`](crate::Network::circuit) traces the graph: each tensor is held as a linear form in the
//! circuit's input and in earlier layers, with a polynomial on each value. Linear operators (convolutions, FC layers,
//! mean pooling, moves of values) compose matrices; elementwise arithmetic acts on the polynomials; a layer ends where
//! a polynomial of degree 2 or more, or a function, meets a linear operator.

mod arithmetic;
mod finish;
mod form;
mod moves;
mod places;
mod products;
mod scope;
mod sparse;
mod trace;
mod windows;

use serde::{Deserialize, Serialize};

use crate::activation::ActivationKind;
use crate::fit::ScalarFunction;
use crate::polynomial::Polynomial;
use crate::split::Replaced;

pub(crate) use scope::circuit;
pub use sparse::{SparseMatrix, TOGETHER};

/// Where a value stands: channel, row, column, from 0. Value `i` of a flat vector has `(i, 0, 0)`, position `x` of a
/// sequence `(channel, 0, x)`.
pub type Place = [u32; 3];

/// What a layer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The circuit's input.
    Input,
    /// The values of the layer with this index, after its activation.
    Layer(usize),
}

/// One of the linear maps that add up to a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// What it maps.
    pub source: Source,
    /// As many rows as the layer has values, as many columns as the source has.
    pub matrix: SparseMatrix,
}

/// What is applied to each value of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerActivation {
    /// Nothing.
    Identity,
    /// On value `i` the polynomial `polynomials[of[i]]`; at least one is of degree 2 or more.
    Polynomial {
        /// The different polynomials.
        polynomials: Vec<Polynomial>,
        /// Which of them each value takes.
        of: Vec<u32>,
    },
    /// A function that is no polynomial yet: to be replaced before the circuit is encrypted.
    Function(ActivationKind),
}

impl LayerActivation {
    /// One polynomial on all of `size` values, `None` below degree 2.
    pub fn uniform(polynomial: Polynomial, size: usize) -> Option<Self> {
        (polynomial.degree() >= 2)
            .then(|| LayerActivation::Polynomial { polynomials: vec![polynomial], of: vec![0; size] })
    }

    /// The highest degree; 1 for the identity and for functions.
    pub fn degree(&self) -> usize {
        match self {
            LayerActivation::Polynomial { polynomials, .. } => {
                polynomials.iter().map(Polynomial::degree).max().unwrap_or(1)
            }
            _ => 1,
        }
    }

    /// Value number `at`, which is `x` before the activation; NaN where a function has no set parameters.
    pub fn eval(&self, at: usize, x: f64) -> f64 {
        match self {
            LayerActivation::Identity => x,
            LayerActivation::Polynomial { polynomials, of } => {
                let polynomial = of.get(at).and_then(|&which| polynomials.get(which as usize));
                polynomial.map_or(x, |polynomial| polynomial.eval(x))
            }
            LayerActivation::Function(kind) => kind.eval(x).unwrap_or(f64::NAN),
        }
    }
}

/// A linear map of earlier values with an activation: `activation(sum of terms + bias)`.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitLayer {
    /// The network's layer it comes from, the last one if several were folded into it; unique in a circuit.
    pub name: String,
    /// Where each of its values stands.
    pub places: Vec<Place>,
    /// The linear maps, at most one from each source; none if the values are constant.
    pub terms: Vec<Term>,
    /// One number for each value.
    pub bias: Vec<f64>,
    /// What is applied to each value.
    pub activation: LayerActivation,
}

impl CircuitLayer {
    /// Values it gives.
    pub fn size(&self) -> usize {
        self.bias.len()
    }
}

/// What each layer of a circuit gives for one input, before and after its activation.
pub type LayerValues = Vec<(Vec<f64>, Vec<f64>)>;

/// A whole network, or its end, as linear maps and activations.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    /// Where each value of the input stands; the input is in the order of the network's own tensor, row-major.
    pub input_places: Vec<Place>,
    /// Each reads the input and layers before it. The last one gives the scores; a final Softmax is left out.
    pub layers: Vec<CircuitLayer>,
    /// Weights and biases of the network that went into it, each counted once.
    pub weights: usize,
}

impl Circuit {
    /// Values of one input.
    pub fn inputs(&self) -> usize {
        self.input_places.len()
    }

    /// Scores for one input.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, CircuitLayer::size)
    }

    /// Weights and biases of the network that went into it, each counted once however often it is used: a convolution's
    /// kernel and not the entries of its matrix.
    pub fn parameters(&self) -> usize {
        self.weights
    }

    /// The scores for one input. Functions count as [`ActivationKind::eval`] has them, NaN where it has none.
    pub fn eval(&self, input: &[f64]) -> Vec<f64> {
        self.eval_trace(input).pop().map(|(_, values)| values).unwrap_or_default()
    }

    /// What every layer gives for one input, before and after its activation.
    pub fn eval_trace(&self, input: &[f64]) -> LayerValues {
        self.eval_traces(&[input]).pop().unwrap_or_default()
    }

    /// The same for each of some inputs, which takes little longer than one for up to [`TOGETHER`] of them.
    pub fn eval_traces(&self, inputs: &[&[f64]]) -> Vec<LayerValues> {
        let mut traces: Vec<LayerValues> = vec![Vec::with_capacity(self.layers.len()); inputs.len()];
        for layer in &self.layers {
            let mut linear = vec![layer.bias.clone(); inputs.len()];
            for term in &layer.terms {
                let sources: Vec<&[f64]> = match term.source {
                    Source::Input => inputs.to_vec(),
                    Source::Layer(at) => traces.iter().map(|t| t.get(at).map_or(&[][..], |(_, v)| v)).collect(),
                };
                for (sums, values) in linear.iter_mut().zip(term.matrix.apply_each(&sources)) {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
            for (trace, linear) in traces.iter_mut().zip(linear) {
                let values = linear.iter().enumerate().map(|(at, &x)| layer.activation.eval(at, x)).collect();
                trace.push((linear, values));
            }
        }
        traces
    }

    /// The activations that are no polynomials yet: index and name of the layer, and the function.
    pub fn functions(&self) -> impl Iterator<Item = (usize, &str, ActivationKind)> {
        self.layers.iter().enumerate().filter_map(|(index, layer)| match layer.activation {
            LayerActivation::Function(kind) => Some((index, layer.name.as_str(), kind)),
            _ => None,
        })
    }

    /// Puts `polynomial` in the place of a layer's activation. One of degree 1 or less goes into the layer's weights.
    pub fn substitute(&mut self, layer: usize, polynomial: &Polynomial) {
        let Some(layer) = self.layers.get_mut(layer) else {
            return;
        };
        if let Some(activation) = LayerActivation::uniform(polynomial.clone(), layer.size()) {
            layer.activation = activation;
            return;
        }
        let coefficient = |k: usize| polynomial.coefficients().get(k).copied().unwrap_or(0.0);
        let (shift, factor) = (coefficient(0), coefficient(1));
        for term in &mut layer.terms {
            let matrix = std::mem::replace(&mut term.matrix, SparseMatrix::zero(0, 0));
            term.matrix = matrix.scale_rows(&[factor]);
        }
        for bias in &mut layer.bias {
            *bias = factor * *bias + shift;
        }
        layer.activation = LayerActivation::Identity;
    }
}

/// A network cut into a plain front part and a protected circuit.
#[derive(Debug, Clone)]
pub struct CircuitSplit {
    /// ONNX of the plain part: from the network's input to the tensor that the circuit takes, batch first. `None` if the
    /// circuit takes the network's input. Holds none of the circuit's weights.
    pub front: Option<Vec<u8>>,
    /// Values the circuit takes for a sample, row-major as the front gives them.
    pub features: usize,
    /// The protected part. A final Softmax or LogSoftmax is left out: scores are before it.
    pub circuit: Circuit,
    /// Substitutions made in the circuit.
    pub replaced: Vec<Replaced>,
    /// Those of the circuit's functions that are known functions of one number, with their parameters: index of the
    /// layer, and the function.
    pub functions: Vec<(usize, ScalarFunction)>,
}
