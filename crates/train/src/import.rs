//! Reading a foreign ONNX file into the form that is trained.
//!
//! The graph is walked once, each node behind those it reads. A tensor of the file becomes a [`Value`]: an operator's result,
//! how its axes lie, and a polynomial of it that is not written down yet. So transposes and reshapes only change the axes, and
//! elementwise arithmetic only changes the polynomial, until an operator needs the values: then the polynomial becomes one
//! [`Op::Affine`] or one activation.

mod arithmetic;
mod layers;
mod value;

use std::collections::{HashMap, HashSet};

use subrosa_network::{Expression, Graph, Network, Node as OnnxNode};

use crate::error::TrainError;
use crate::model::{Activation, Function, Input, Model, Op, Order, Shape, Source};
use value::{Axis, ROW, Value};

/// Reads a network that Keras (by tf2onnx) or PyTorch exported.
///
/// The input keeps its name and the order of its axes, the output its name, so that
/// [`to_onnx`](crate::to_onnx) writes a network that takes and gives the same; but an input `[batch, H, W]` becomes
/// `[batch, H, W, 1]`. Batch norms that are written as arithmetic, and other arithmetic with one number for each channel,
/// become [`Op::Affine`] or part of a polynomial activation. A final Softmax or LogSoftmax is left out, as
/// [`Network::split`] does: scores are before it. Operators keep their layers' names as [`Network::layers`] lists them,
/// with a number behind a name that is taken.
///
/// # Errors
/// As [`Network::from_onnx`]; operators that cannot be trained here, by name.
pub fn from_onnx(onnx: &[u8]) -> Result<Model, TrainError> {
    let network = Network::from_onnx(onnx)?;
    let graph = network.graph();
    let mut failure: Option<Failure> = None;
    for (shape, order, axes) in readings(graph)? {
        match Importer::new(graph, shape, order, axes).run() {
            Ok(model) => return Ok(model),
            Err(found) if failure.as_ref().is_none_or(|first| found.nodes > first.nodes) => failure = Some(found),
            Err(_) => {}
        }
    }
    Err(failure.map_or_else(|| TrainError::Import("the network cannot be read".into()), |failure| *failure.error))
}

/// How the input's axes can be read, the likelier way first: its shape says little, what follows decides.
fn readings(graph: &Graph) -> Result<Vec<(Shape, Order, Vec<Axis>)>, TrainError> {
    match *graph.shape(graph.input()) {
        [_, units] => Ok(vec![(Shape::Flat(units), Order::Chw, ROW.to_vec())]),
        [_, height, width] => {
            let axes = vec![Axis::Batch, Axis::Row, Axis::Column];
            Ok(vec![(Shape::Image { height, width, channels: 1 }, Order::Hwc, axes)])
        }
        [_, first, second, third] => {
            let shape = |order| match order {
                Order::Chw => Shape::Image { height: second, width: third, channels: first },
                Order::Hwc => Shape::Image { height: first, width: second, channels: third },
            };
            let orders = if third < first { [Order::Hwc, Order::Chw] } else { [Order::Chw, Order::Hwc] };
            Ok(orders.map(|order| (shape(order), order, Axis::of_image(order).to_vec())).to_vec())
        }
        ref other => Err(TrainError::Import(format!(
            "its input '{}' has shape {other:?} for one sample; images [batch, C, H, W] or [batch, H, W, C] and rows \
             [batch, values] can be trained on",
            graph.input()
        ))),
    }
}

/// An import that came so many nodes far.
struct Failure {
    nodes: usize,
    error: Box<TrainError>,
}

/// A node that cannot be imported.
fn refuse(node: &OnnxNode, what: impl std::fmt::Display) -> TrainError {
    TrainError::Import(format!("node '{}' ({}) {what}", node.name, node.op))
}

struct Importer<'a> {
    graph: &'a Graph,
    model: Model,
    values: HashMap<String, Value>,
    /// Tensors that hold shapes, not values.
    arithmetic_of_shapes: HashSet<&'a str>,
    /// Nodes taken up with an earlier one: the Add of a bias.
    done: HashSet<usize>,
}

impl<'a> Importer<'a> {
    fn new(graph: &'a Graph, shape: Shape, order: Order, axes: Vec<Axis>) -> Self {
        let input = Value { base: Source::Input, shape, axes, expression: Expression::x() };
        let mut model = Model::new(Input { name: graph.input().to_owned(), shape, order });
        graph.output().clone_into(&mut model.output);
        Importer {
            graph,
            model,
            values: HashMap::from([(graph.input().to_owned(), input)]),
            arithmetic_of_shapes: HashSet::new(),
            done: HashSet::new(),
        }
    }

    fn run(mut self) -> Result<Model, Failure> {
        for (index, node) in self.graph.nodes().iter().enumerate() {
            self.node(index, node).map_err(|error| Failure { nodes: index, error: Box::new(error) })?;
        }
        let nodes = self.graph.nodes().len();
        self.finish().map_err(|error| Failure { nodes, error: Box::new(error) })
    }

    fn finish(mut self) -> Result<Model, TrainError> {
        let output = self.graph.output().to_owned();
        let missing = || TrainError::Import(format!("its output '{output}' does not depend on its input's values"));
        let value = self.values.get(&output).cloned().ok_or_else(missing)?;
        let written = self.graph.producer(&output).and_then(|index| Some((index, self.graph.node(index)?)));
        if let Some((index, node)) = written {
            self.settle(index, node, &value)?;
        }
        self.model.outputs()?;
        Ok(self.model)
    }

    fn node(&mut self, index: usize, node: &'a OnnxNode) -> Result<(), TrainError> {
        if self.done.contains(&index) {
            return Ok(());
        }
        if self.handles_shapes(node) {
            self.arithmetic_of_shapes.extend(node.outputs.iter().map(String::as_str));
            return Ok(());
        }
        let value = match node.op.as_str() {
            "Identity" | "Dropout" => self.read(node, 0)?.clone(),
            "Cast" if matches!(node.int("to", 0), 1 | 11) => self.read(node, 0)?.clone(),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(index, node)?,
            "Transpose" => self.read(node, 0)?.transposed(node.ints("perm")).ok_or_else(|| {
                refuse(node, "moves the batch or an unknown axis; export the network with the batch as the first axis")
            })?,
            "Add" | "Sum" | "Sub" | "Mul" | "Div" | "Neg" | "Pow" => self.arithmetic(index, node)?,
            "Conv" => self.convolution(index, node)?,
            "Gemm" | "MatMul" => self.dense(index, node)?,
            "BatchNormalization" => self.batch_norm(index, node)?,
            "MaxPool" | "AveragePool" => self.pool(index, node)?,
            "GlobalAveragePool" | "ReduceMean" => self.global_mean(index, node)?,
            "Softmax" | "LogSoftmax" => self.softmax(node)?,
            _ => {
                let function = self.function(node)?;
                let x = self.settled(index, node, 0)?;
                self.push(index, node, Op::Activation(Activation::Function(function)), vec![x.base], x.axes)?
            }
        };
        self.values.insert(node.output().to_owned(), value);
        Ok(())
    }

    /// Whether a node computes with shapes: the chains before a Reshape of tf2onnx.
    fn handles_shapes(&self, node: &OnnxNode) -> bool {
        let of_shapes = |name: &String| {
            name.is_empty() || self.arithmetic_of_shapes.contains(name.as_str()) || self.graph.constant(name).is_some()
        };
        matches!(node.op.as_str(), "Shape" | "Size") || node.inputs.iter().all(of_shapes)
    }

    /// The value that a node reads at this place.
    fn read(&self, node: &OnnxNode, place: usize) -> Result<&Value, TrainError> {
        let name = node.input(place);
        self.values.get(name).ok_or_else(|| match self.graph.constant(name) {
            Some(_) => refuse(node, format!("reads the constant '{name}' where the network's values are expected")),
            None => refuse(
                node,
                format!("reads '{name}', which is no value that can be trained; export the network for inference"),
            ),
        })
    }

    /// As [`read`](Self::read), as an operator's result.
    fn settled(&mut self, index: usize, node: &OnnxNode, place: usize) -> Result<Value, TrainError> {
        let value = self.read(node, place)?.clone();
        let name = node.input(place);
        // The arithmetic has the name of the node that wrote it.
        let writer = self.graph.producer(name).and_then(|writer| Some((writer, self.graph.node(writer)?)));
        let (writer, written) = writer.unwrap_or((index, node));
        let value = self.settle(writer, written, &value)?;
        self.values.insert(name.to_owned(), value.clone());
        Ok(value)
    }

    /// Adds an operator named after the layer of node `index`. Its value lies in the file along `axes`.
    fn push(
        &mut self,
        index: usize,
        node: &OnnxNode,
        op: Op,
        inputs: Vec<Source>,
        axes: Vec<Axis>,
    ) -> Result<Value, TrainError> {
        let name = self.layer_name(index);
        let base = self.model.push_from(name, op, inputs);
        let shapes = self.model.shapes()?;
        let shape = shapes.last().copied().ok_or_else(|| refuse(node, "has no result"))?;
        Ok(Value { base, shape, axes, expression: Expression::x() })
    }

    /// The layer's name, with a number behind it if an operator has it already.
    fn layer_name(&self, index: usize) -> String {
        let name = self.graph.layer_name(index);
        let taken = |name: &str| self.model.nodes.iter().any(|node| node.name == name);
        let mut found = name.clone();
        let mut number = 2u64;
        while taken(&found) {
            found = format!("{name}:{number}");
            number += 1;
        }
        found
    }

    fn reshape(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let dims = self.graph.shape(node.output());
        let value = self.read(node, 0)?.clone();
        if let Some(axes) = value.axes_in(dims) {
            return Ok(Value { axes, ..value });
        }
        let flat = Axis::of_list(dims);
        match (value.shape, flat) {
            (Shape::Image { .. }, Some(axes)) => {
                let order = value.order().ok_or_else(|| {
                    refuse(
                        node,
                        "flattens an image whose rows and columns are swapped; export it without that transpose",
                    )
                })?;
                let x = self.settled(index, node, 0)?;
                self.push(index, node, Op::Flatten(order), vec![x.base], axes)
            }
            _ => Err(refuse(
                node,
                format!(
                    "turns values of shape {:?} into {dims:?}; only images can be flattened to rows of values, so export the \
                     network with images as its input",
                    self.graph.shape(node.input(0))
                ),
            )),
        }
    }

    /// A Softmax on the scores is left out: they are before it.
    fn softmax(&mut self, node: &OnnxNode) -> Result<Value, TrainError> {
        let value = self.read(node, 0)?.clone();
        let mut end = node.output();
        while end != self.graph.output() {
            let passed = self.graph.single_use(end).and_then(|next| self.graph.node(next));
            match passed {
                Some(next) if self.graph.keeps_order(next) => end = next.output(),
                _ => return Err(refuse(node, "is not the network's last step and cannot be trained")),
            }
        }
        let axes = value.axes.len() as i64;
        let along = value.channel_axis().map(|axis| axis as i64);
        let axis = node.int("axis", -1);
        let over_scores = along.is_none_or(|along| axis == along || axis + axes == along);
        if !over_scores || !self.graph.uses(end).is_empty() {
            return Err(refuse(
                node,
                "is not over the scores; export the network with the scores of the classes as output",
            ));
        }
        Ok(value)
    }

    /// The activation that a node computes.
    fn function(&self, node: &OnnxNode) -> Result<Function, TrainError> {
        let bound = |place: usize, attribute: &str, missing: f32| {
            let constant = self.graph.constant(node.input(place)).and_then(|c| c.values.first().copied());
            constant.unwrap_or_else(|| node.float(attribute, missing))
        };
        match node.op.as_str() {
            "Relu" => Ok(Function::Relu),
            "LeakyRelu" => Ok(Function::LeakyRelu { slope: node.float("alpha", 0.01) }),
            "Elu" => Ok(Function::Elu { alpha: node.float("alpha", 1.0) }),
            "Softplus" => Ok(Function::Softplus),
            "Sigmoid" => Ok(Function::Sigmoid),
            "Tanh" => Ok(Function::Tanh),
            "PRelu" => match self.graph.constant(node.input(1)).map(|c| c.values.as_slice()) {
                Some([slope, others @ ..]) if others.iter().all(|other| other == slope) => {
                    Ok(Function::LeakyRelu { slope: *slope })
                }
                _ => Err(refuse(node, "has slopes that differ; train it with one slope, or with another activation")),
            },
            "Clip" => match (bound(1, "min", f32::MIN), bound(2, "max", f32::MAX)) {
                (0.0, f32::MAX) => Ok(Function::Relu),
                (low, high) => Err(refuse(
                    node,
                    format!(
                        "holds values between {low} and {high} (ReLU6 between 0 and 6); train it with ReLU instead"
                    ),
                )),
            },
            _ => Err(refuse(
                node,
                "is an operator that the Training Agent does not know; it adapts networks of convolutions, dense layers, batch \
                 norms, poolings, sums of two branches, and the activations Relu, LeakyRelu, Elu, Softplus, Sigmoid, Tanh and \
                 polynomials",
            )),
        }
    }
}
