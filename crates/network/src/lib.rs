//! What is computed: ONNX import, layer list, polynomial activations, plaintext reference.
//!
//! [`Network::from_onnx`] reads what Keras and PyTorch export, [`Network::layers`] lists it, and
//! [`Network::split`] cuts it into a plain front part (ONNX again, run by `subrosa-plain`) and a
//! [`Chain`] of dense layers with polynomial activations, which is what gets encrypted. The cut is
//! at the tensor that enters the first protected layer, so the network's own operators flatten it
//! in the right order; batch norms and other affine steps are folded into the dense layers.

mod activation;
mod chain;
mod circuit;
mod error;
pub mod fit;
mod graph;
mod layers;
mod normal;
mod polynomial;
mod region;
mod segment;
mod sizes;
mod split;

pub use activation::{Activation, ActivationKind, ParseSubstitutionsError, Substitute, Substitutions};
pub use chain::{Chain, Dense, LayerTrace};
pub use circuit::{
    Circuit, CircuitLayer, CircuitSplit, LayerActivation, LayerValues, Place, Source, SparseMatrix, TOGETHER, Term,
};
pub use error::NetworkError;
pub use fit::{Fit, FitChoice, FitError, FitErrors, FitMethod, Interval, ScalarFunction, SignDegrees};
pub use graph::{Constant, Graph, Node};
pub use layers::LayerInfo;
pub use polynomial::{MAX_DEGREE, ParsePolynomialError, Polynomial};
pub use region::Expression;
pub use split::{ParseScopeError, Replaced, Scope, Split};

/// A trained network, read from an ONNX file and checked.
#[derive(Debug)]
pub struct Network {
    onnx: Vec<u8>,
    graph: Graph,
}

impl Network {
    /// Reads an ONNX file that holds its weights, with one float32 input whose first axis is the
    /// batch and one output of scores; several outputs are joined into one, see [`output_parts`](Self::output_parts).
    ///
    /// Runs it once on zeros to learn all shapes. Memory stays in proportion to the file and to
    /// what running it takes.
    ///
    /// # Errors
    /// Damaged files, weights that are missing, external or not finite, cycles, control flow,
    /// several inputs, operators that the runtime lacks.
    pub fn from_onnx(onnx: &[u8]) -> Result<Network, NetworkError> {
        let onnx = normal::written_out(onnx);
        let graph = Graph::parse(&onnx)?;
        if graph.elements(&graph.output) == 0 {
            return Err(NetworkError::Unsupported("its output has no values for a sample".into()));
        }
        let explicit = normal::with_explicit_pads(&onnx, &graph);
        Ok(Network { onnx: explicit.unwrap_or_else(|| onnx.into_owned()), graph })
    }

    /// Shape of one input, without the batch.
    pub fn input_shape(&self) -> &[usize] {
        self.graph.shape(&self.graph.input).get(1..).unwrap_or_default()
    }

    /// Scores for one input.
    pub fn outputs(&self) -> usize {
        self.graph.elements(&self.graph.output)
    }

    /// The file's outputs with their numbers of values: several are joined, one behind the other.
    pub fn output_parts(&self) -> Vec<(&str, usize)> {
        let whole = || vec![(self.graph.output.as_str(), self.outputs())];
        if self.graph.output != normal::JOINED {
            return whole();
        }
        let Some(joined) = self.graph.producer(normal::JOINED).and_then(|at| self.graph.node(at)) else {
            return whole();
        };
        let mut parts = Vec::with_capacity(joined.inputs.len());
        for flat in &joined.inputs {
            let flattened = self.graph.producer(flat).and_then(|at| self.graph.node(at));
            parts.push((flattened.map_or(flat.as_str(), |node| node.input(0)), self.graph.elements(flat)));
        }
        parts
    }

    /// Float constants in all layers: weights, biases, batch norm statistics.
    pub fn parameters(&self) -> usize {
        self.layers().iter().map(|layer| layer.parameters).sum()
    }

    /// The layers, in the order in which they are computed; shape arithmetic is left out.
    pub fn layers(&self) -> Vec<LayerInfo> {
        layers::list(&self.graph)
    }

    /// Cuts the network where `scope` says.
    ///
    /// # Errors
    /// A scope that this network has not, or an activation in the chain that is no polynomial and
    /// has no substitution; the text names the layer and the flag.
    pub fn split(&self, scope: &Scope, substitutions: &Substitutions) -> Result<Split, NetworkError> {
        split::split(&self.onnx, &self.graph, scope, substitutions)
    }

    /// Cuts the network where `scope` says and turns everything from there on into a [`Circuit`]: convolutions, FC
    /// layers, branches and whatever else is linear, with activations on each value between. `Scope::From` may name any
    /// layer at which one tensor holds all that the layers behind it need.
    ///
    /// Activations that are no polynomials and have no substitution stay in the circuit as
    /// [`LayerActivation::Function`].
    ///
    /// # Errors
    /// A scope that this network has not, operators that encryption cannot evaluate, matrices of more than 2^28
    /// entries; the text names the node and what to do.
    pub fn circuit(&self, scope: &Scope, substitutions: &Substitutions) -> Result<CircuitSplit, NetworkError> {
        circuit::circuit(&self.onnx, &self.graph, scope, substitutions)
    }

    /// Its nodes and constants, to look at.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The ONNX file it was read from. Kernel shapes and strides left to their defaults and the pads of `SAME_LOWER`,
    /// which the runtime does not know, are written out.
    pub fn onnx(&self) -> &[u8] {
        &self.onnx
    }
}
