//! The walk over the graph that turns tensors into forms and curves, and curves into layers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::form::{Curve, Form, Value};
use super::places::{default_places, input_places};
use super::sparse::SparseMatrix;
use super::{Place, Source};
use crate::activation::{ActivationKind, Substitutions};
use crate::error::NetworkError;
use crate::fit::ScalarFunction;
use crate::graph::{Constant, Graph, Node};
use crate::layers::layer_name;
use crate::region::Expression;
use crate::split::Replaced;

/// Entries one matrix may have: 2^28 take 3 GiB.
pub(crate) const MAX_NONZEROS: usize = 1 << 28;
/// Values a tensor may have for a sample.
const MAX_VALUES: usize = 1 << 24;
/// Work of a product up to which it is made without counting its entries first.
const SMALL_WORK: usize = 1_000_000;
/// Work of a product beyond which it is not even counted.
const LARGE_WORK: usize = 1 << 28;
/// A product with more than so many times the entries of its factors is not made.
const GROWTH: usize = 4;

/// A layer as it is traced.
pub(crate) struct Draft {
    pub form: Arc<Form>,
    pub curve: Arc<Curve>,
    pub places: Arc<Vec<Place>>,
    pub origin: Option<usize>,
    /// The layer's values as a form.
    pub value: Arc<Form>,
}

/// The state of the walk.
pub(crate) struct Tracer<'g> {
    pub graph: &'g Graph,
    pub substitutions: &'g Substitutions,
    pub drafts: Vec<Draft>,
    pub replaced: Vec<Replaced>,
    values: HashMap<String, Value>,
    /// Names of the weights used.
    consumed: HashSet<String>,
    /// Nodes that a written-out function has covered.
    covered: HashSet<usize>,
}

/// A node with its index.
#[derive(Clone, Copy)]
pub(crate) struct At<'g> {
    pub index: usize,
    pub node: &'g Node,
}

impl At<'_> {
    /// The error that this node cannot be part of a circuit.
    pub fn refuse(&self, why: impl Into<String>, remedy: impl Into<String>) -> NetworkError {
        NetworkError::Operator {
            node: self.node.name.clone(),
            op: self.node.op.clone(),
            why: why.into(),
            remedy: remedy.into(),
        }
    }

    /// The error that this node mixes samples.
    pub fn batch(&self) -> NetworkError {
        self.refuse(
            "moves or mixes the first axis, the batch",
            "keep the batch first and untouched: export the network for a batch of one sample per row",
        )
    }

    /// Checks the entries of a matrix before it is built.
    pub fn fits(&self, entries: Option<usize>) -> Result<usize, NetworkError> {
        self.at_most(entries, MAX_NONZEROS, "weights")
    }

    fn at_most(&self, count: Option<usize>, limit: usize, what: &str) -> Result<usize, NetworkError> {
        count.filter(|&count| count <= limit).ok_or_else(|| NetworkError::TooLarge {
            node: self.node.name.clone(),
            op: self.node.op.clone(),
            size: count.map_or_else(|| format!("more than 2^64 {what}"), |count| format!("{count} {what}")),
            limit,
        })
    }
}

/// Remedy where a value is not known when the network is read.
pub(crate) const RUN_TIME: &str =
    "export the network with fixed shapes and constants, or simplify the file with onnxsim";

impl<'g> Tracer<'g> {
    /// A walk that begins at the tensor `start`, whose values stand at `places`.
    pub fn new(graph: &'g Graph, substitutions: &'g Substitutions, start: &str, places: Vec<Place>) -> Self {
        let input =
            Value { sole: true, ..Value::linear(Form::identity(Source::Input, graph.elements(start)), places, None) };
        Tracer {
            graph,
            substitutions,
            drafts: Vec::new(),
            replaced: Vec::new(),
            values: HashMap::from([(start.to_owned(), input)]),
            consumed: HashSet::new(),
            covered: HashSet::new(),
        }
    }

    /// Traces the nodes with these indices, in topological order.
    pub fn run(&mut self, order: &[usize]) -> Result<(), NetworkError> {
        for &index in order {
            self.step(index)?;
        }
        Ok(())
    }

    fn step(&mut self, index: usize) -> Result<(), NetworkError> {
        let graph = self.graph;
        let Some(node) = graph.node(index).filter(|_| !self.covered.contains(&index)) else {
            return Ok(());
        };
        let at = At { index, node };
        if self.written_out_function(at)? {
            return Ok(());
        }
        self.visit(at)
    }

    /// Where the input's values stand, by the first operator over channels that reads them.
    pub fn input_hint(&mut self, start: &str, order: &[usize]) -> Option<Vec<Place>> {
        for &index in order {
            let node = self.graph.node(index)?;
            let from = node.input(0);
            let shape = self.graph.shape(from);
            let channels = matches!(
                node.op.as_str(),
                "Conv" | "AveragePool" | "MaxPool" | "GlobalAveragePool" | "GlobalMaxPool" | "BatchNormalization"
            );
            if channels && shape.len() >= 3 {
                return input_places(self.values.get(from)?, shape, self.graph.elements(start));
            }
            if matches!(node.op.as_str(), "MatMul" | "Gemm") || !self.drafts.is_empty() {
                return None;
            }
            self.step(index).ok()?;
        }
        None
    }

    /// What is left of the walk when it is done.
    pub fn into_parts(self) -> (Vec<Draft>, Vec<Replaced>) {
        (self.drafts, self.replaced)
    }

    fn visit(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        for output in &at.node.outputs {
            at.at_most(Some(self.graph.elements(output)), MAX_VALUES, "values")?;
        }
        match at.node.op.as_str() {
            "Conv" => self.convolution(at),
            "AveragePool" | "GlobalAveragePool" | "MaxPool" | "GlobalMaxPool" => self.pool(at),
            "Gemm" => self.gemm(at),
            "MatMul" => self.matmul(at),
            "ReduceMean" | "ReduceSum" => self.reduce(at),
            "BatchNormalization" => self.batch_norm(at),
            "Add" | "Sub" | "Mul" | "Div" => self.binary(at),
            "Sum" | "Mean" => self.sum(at),
            "Neg" => self.negate(at),
            "Pow" => self.power(at),
            "Identity" | "Dropout" | "Cast" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => self.rename(at),
            "Transpose" => self.transpose(at),
            "Pad" => self.pad(at),
            "Concat" => self.concat(at),
            "Slice" => self.slice(at),
            "Split" => self.split(at),
            "Gather" => self.pick(at),
            "Expand" => self.expand(at),
            "DepthToSpace" => self.depth_to_space(at),
            "Softmax" | "LogSoftmax" => self.final_softmax(at),
            _ => self.function(at),
        }
    }

    /// The value of a tensor; the error is that of a value that only running the network gives.
    pub fn value(&self, at: At<'_>, tensor: &str) -> Result<Value, NetworkError> {
        self.values
            .get(tensor)
            .cloned()
            .ok_or_else(|| at.refuse(format!("reads '{tensor}', which is known only when the network runs"), RUN_TIME))
    }

    /// Whether a tensor depends on the circuit's input.
    pub fn is_traced(&self, tensor: &str) -> bool {
        self.values.contains_key(tensor)
    }

    /// The value of a tensor as a linear form; a curve that is none becomes a layer.
    pub fn linear(&mut self, at: At<'_>, tensor: &str) -> Result<Value, NetworkError> {
        let value = self.value(at, tensor)?;
        Ok(self.flat(value))
    }

    /// The same value as a linear form.
    pub fn flat(&mut self, value: Value) -> Value {
        match value.curve.as_affine() {
            _ if value.curve.is_identity() => value,
            Some((a, b)) => {
                let form = value.form.affine(a, b);
                Value { form: Arc::new(form), curve: Arc::new(Curve::identity()), sole: true, ..value }
            }
            None => {
                let layer = self.layer(value);
                match layer.curve.as_affine() {
                    Some((a, b)) if !layer.curve.is_identity() => {
                        let form = layer.form.affine(a, b);
                        Value { form: Arc::new(form), curve: Arc::new(Curve::identity()), ..layer }
                    }
                    _ => layer,
                }
            }
        }
    }

    /// Makes a value a layer, or an affine function of one that there is already.
    pub fn layer(&mut self, value: Value) -> Value {
        let known = self.drafts.iter().find_map(|draft| {
            if !Arc::ptr_eq(&draft.form, &value.form) {
                return None;
            }
            // Functions of one kind may differ in their parameters.
            let same = Arc::ptr_eq(&draft.curve, &value.curve).then(|| (vec![1.0], vec![0.0]));
            let (a, b) = same.or_else(|| value.curve.in_terms_of(&draft.curve))?;
            let curve = Expression(vec![b, a]);
            Some(Value {
                form: draft.value.clone(),
                curve: Arc::new(Curve::Polynomial(curve)),
                sole: false,
                ..value.clone()
            })
        });
        if let Some(known) = known {
            return known;
        }
        let form = Arc::new(Form::identity(Source::Layer(self.drafts.len()), value.size()));
        self.drafts.push(Draft {
            form: value.form,
            curve: value.curve,
            places: value.places.clone(),
            origin: value.origin,
            value: form.clone(),
        });
        // Another tensor may be a curve on the layer too, so nothing is folded into its form.
        Value { form, curve: Arc::new(Curve::identity()), sole: false, ..value }
    }

    /// `matrix value + bias` of a linear value. If the product has far more entries than its factors, the value becomes
    /// a layer first.
    pub fn map(
        &mut self,
        at: At<'_>,
        value: Value,
        matrix: &Arc<SparseMatrix>,
        bias: &[f64],
    ) -> Result<Form, NetworkError> {
        at.fits(Some(matrix.nonzeros()))?;
        let grows = value.form.terms.iter().any(|(_, own)| {
            let work = matrix.work(own);
            if work <= SMALL_WORK || own.is_identity() {
                return false;
            }
            let entries = if work <= LARGE_WORK { matrix.product_nonzeros(own) } else { work };
            entries > MAX_NONZEROS || entries > SMALL_WORK && entries / GROWTH > matrix.nonzeros() + own.nonzeros()
        });
        let value = if grows { self.layer(value) } else { value };
        let moved = matrix.apply(&value.form.bias);
        let bias = moved.iter().enumerate().map(|(row, moved)| moved + super::sparse::one_or_each(bias, row, 0.0));
        let bias = bias.collect();
        let product = |own: &Arc<SparseMatrix>| {
            if own.is_identity() { matrix.clone() } else { Arc::new(matrix.times(own)) }
        };
        let terms = value.form.terms.iter().map(|(source, own)| (*source, product(own))).collect();
        Ok(Form { terms, bias })
    }

    /// Sets the result of a node.
    pub fn set(&mut self, tensor: &str, value: Value) {
        if !tensor.is_empty() {
            self.values.insert(tensor.to_owned(), value);
        }
    }

    /// Sets the result of a node that keeps its first input's values and their order.
    pub fn pass(&mut self, at: At<'_>) -> Result<(), NetworkError> {
        let tensor = at.node.input(0);
        let value = self.value(at, tensor)?;
        let sole = value.sole && self.graph.single_use(tensor).is_some();
        self.set(at.node.output(), Value { sole, ..value });
        Ok(())
    }

    /// Sets the result of a node that maps linearly, in a tensor whose places are as ONNX has them.
    pub fn set_linear(&mut self, at: At<'_>, form: Form, places: Option<Vec<Place>>) {
        let shape = self.graph.shape(at.node.output());
        let places = places.unwrap_or_else(|| default_places(shape));
        self.set(at.node.output(), Value::linear(form, places, Some(at.index)));
    }

    /// A constant that a node needs.
    pub fn constant(&mut self, at: At<'_>, input: usize) -> Result<&'g Constant, NetworkError> {
        let name = at.node.input(input);
        let found = self.graph.constant(name);
        found.inspect(|constant| self.consume(at, name, constant)).ok_or_else(|| {
            at.refuse(format!("takes its input {input} ('{name}') from values that are no constants"), RUN_TIME)
        })
    }

    /// A constant that a node may leave out.
    pub fn optional(&mut self, at: At<'_>, input: usize) -> Result<Option<&'g Constant>, NetworkError> {
        if at.node.input(input).is_empty() { Ok(None) } else { self.constant(at, input).map(Some) }
    }

    fn consume(&mut self, at: At<'_>, name: &str, constant: &Constant) {
        // Single numbers in elementwise arithmetic are settings, not weights.
        let weighs = constant.values.len() > 1 || matches!(at.node.op.as_str(), "Conv" | "Gemm" | "MatMul");
        if constant.float && weighs {
            self.consumed.insert(name.to_owned());
        }
    }

    /// Numbers in the weights used.
    pub fn weights(&self) -> usize {
        self.consumed.iter().filter_map(|name| self.graph.constant(name)).map(|c| c.values.len()).sum()
    }

    /// The name of the layer that a value becomes.
    pub fn name(&self, origin: Option<usize>) -> String {
        origin.map_or_else(|| "input".to_owned(), |index| layer_name(self.graph, index))
    }

    /// A function of each value alone: its substitute, or itself.
    pub fn apply_function(
        &mut self,
        at: At<'_>,
        tensor: &str,
        (kind, scalar): (ActivationKind, Option<ScalarFunction>),
        output: &str,
    ) -> Result<(), NetworkError> {
        let value = self.linear(at, tensor)?;
        let curve = match self.substitutions.get(kind) {
            Some(polynomial) => {
                let layer = self.name(value.origin);
                self.replaced.push(Replaced { layer, from: kind, to: polynomial.clone() });
                Curve::of(polynomial)
            }
            None => Curve::Function(kind, scalar),
        };
        let sole = value.sole && self.graph.single_use(tensor).is_some();
        self.set(output, Value { curve: Arc::new(curve), sole, ..value });
        Ok(())
    }

    /// An activation written out as several nodes, of which this is the first.
    fn written_out_function(&mut self, at: At<'g>) -> Result<bool, NetworkError> {
        let graph = self.graph;
        let Some(base) = at.node.inputs.iter().find(|name| self.is_traced(name) && graph.uses(name).len() > 1) else {
            return Ok(false);
        };
        let Some((region, kind)) = graph.function_region(base).filter(|(region, _)| region.nodes.contains(&at.index))
        else {
            return Ok(false);
        };
        // Sums of a function and its operand need no polynomial for the whole.
        if kind == ActivationKind::Other && self.substitutions.get(kind).is_none() {
            return Ok(false);
        }
        self.apply_function(at, base, (kind, ScalarFunction::try_from(kind).ok()), &region.exit)?;
        self.covered.extend(region.nodes);
        Ok(true)
    }
}
