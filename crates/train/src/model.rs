//! A network as the Training Agent sees it: operators in the order of computing, and their parameters.
//!
//! The description knows no training library: architectures build it, an ONNX import fills it, the trainer runs it,
//! checkpoints and the ONNX export write it.
//!
//! Images lie height x width x channels while training, whatever the file says; [`Op::Flatten`] names the order in which
//! the units of the layer behind it count them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use subrosa_network::Polynomial;

use crate::error::TrainError;

/// Shape of one value of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A picture or a feature map.
    Image {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Values for each point.
        channels: usize,
    },
    /// So many values without a place.
    Flat(usize),
}

impl Shape {
    /// Values in all.
    pub fn elements(self) -> usize {
        match self {
            Shape::Image { height, width, channels } => height * width * channels,
            Shape::Flat(units) => units,
        }
    }

    /// Channels of an image, units of a flat value.
    pub fn channels(self) -> usize {
        match self {
            Shape::Image { channels, .. } => channels,
            Shape::Flat(units) => units,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Image { height, width, channels } => write!(f, "{height} x {width} x {channels}"),
            Shape::Flat(units) => write!(f, "{units} values"),
        }
    }
}

/// Order of an image's values in the ONNX file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Channels, rows, columns: PyTorch, and ONNX's own operators.
    Chw,
    /// Rows, columns, channels: Keras.
    Hwc,
}

/// What a network takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its name in the ONNX file.
    pub name: String,
    /// One sample.
    pub shape: Shape,
    /// How images lie in the ONNX file.
    pub order: Order,
}

/// A window that moves over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Rows, columns.
    pub size: [usize; 2],
    /// Step in rows, in columns.
    pub stride: [usize; 2],
    /// Zeros before the first row and column.
    pub before: [usize; 2],
    /// Zeros behind the last row and column.
    pub after: [usize; 2],
}

impl Window {
    /// A square window without padding that moves by `stride`.
    pub fn square(size: usize, stride: usize) -> Self {
        Window { size: [size; 2], stride: [stride; 2], before: [0; 2], after: [0; 2] }
    }

    /// A square window that moves point by point, padded so that the image keeps its size.
    pub fn same(size: usize) -> Self {
        let all = size.saturating_sub(1);
        Window { size: [size; 2], stride: [1; 2], before: [all / 2; 2], after: [all - all / 2; 2] }
    }

    /// Rows and columns of the result, `None` if the window does not fit in.
    pub fn over(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        let along = |axis: usize, length: usize| {
            let (size, stride) = (self.size[axis], self.stride[axis]);
            let room = (length + self.before[axis] + self.after[axis]).checked_sub(size)?;
            (size > 0 && stride > 0).then(|| room / stride + 1)
        };
        Some([along(0, height)?, along(1, width)?])
    }
}

/// How a window becomes one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The largest value; no encryption can evaluate it.
    Max,
    /// The mean.
    Mean,
    /// The sum.
    Sum,
}

/// A function of each value alone that is no polynomial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Function {
    /// max(x, 0).
    Relu,
    /// x, or `slope` x below 0.
    LeakyRelu {
        /// Below 0.
        slope: f32,
    },
    /// x, or `alpha` (e^x - 1) below 0.
    Elu {
        /// Minus the limit for small x.
        alpha: f32,
    },
    /// ln(1 + e^x).
    Softplus,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
}

impl Function {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Function::Relu => "relu",
            Function::LeakyRelu { .. } => "leaky-relu",
            Function::Elu { .. } => "elu",
            Function::Softplus => "softplus",
            Function::Sigmoid => "sigmoid",
            Function::Tanh => "tanh",
        }
    }
}

/// A function of each value alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// No polynomial.
    Function(Function),
    /// One polynomial for all channels, never trained.
    Polynomial(Polynomial),
    /// A polynomial of this degree for each channel, in the parameter `NAME.coefficients`, shape
    /// `[degree + 1, channels]`, lowest power first.
    Learned {
        /// 2 or more.
        degree: usize,
        /// Whether the constant term is trained; if not, it stays what it is at the start.
        constant: bool,
    },
}

/// One operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Convolution: `NAME.weight` `[rows, columns, channels in, filters]`, and `NAME.bias` `[filters]` if there is one.
    Conv {
        /// Its window.
        window: Window,
        /// Channels of the result.
        filters: usize,
        /// Whether it adds a bias.
        bias: bool,
    },
    /// Fully connected: `NAME.weight` `[units in, units]`, and `NAME.bias` `[units]` if there is one.
    Dense {
        /// Values of the result.
        units: usize,
        /// Whether it adds a bias.
        bias: bool,
    },
    /// Batch normalisation over each channel: `NAME.scale`, `NAME.bias` (trained), `NAME.mean`, `NAME.variance`
    /// (running), all `[channels]`.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// a x + b for each channel, never trained: `NAME.scale`, `NAME.bias`, both `[channels]`. Normalises inputs.
    Affine,
    /// A function of each value.
    Activation(Activation),
    /// Pooling; padding counts as nothing for max and as zeros for sum; a mean divides by the values inside the image.
    Pool {
        /// What becomes of a window.
        pooling: Pooling,
        /// Its window.
        window: Window,
    },
    /// The mean of each channel: an image becomes flat.
    GlobalMean,
    /// An image becomes flat, its values in this order. Flat values pass.
    Flatten(Order),
    /// While training, values become 0 with this probability and the others are scaled up.
    Dropout {
        /// From 0 to below 1.
        rate: f32,
    },
    /// The sum of two values of one shape.
    Add,
}

/// Where an operator's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The network's input.
    Input,
    /// The result of the operator with this index, an earlier one.
    Node(usize),
}

/// An operator in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique; parameters are named after it.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Where its values come from: one, for [`Op::Add`] two.
    pub inputs: Vec<Source>,
}

/// An array of parameters, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its axes.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl Array {
    /// An array of one axis, all alike.
    pub fn filled(length: usize, value: f32) -> Self {
        Array { shape: vec![length], values: vec![value; length] }
    }
}

/// A network: the last operator's value is its output, the scores of the classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// What it takes.
    pub input: Input,
    /// Its operators, each behind those it reads.
    pub nodes: Vec<Node>,
    /// Name of the output in the ONNX file.
    pub output: String,
    /// Names of the classes, if known.
    pub classes: Option<Vec<String>>,
    /// All parameters by name.
    #[serde(skip)]
    pub parameters: BTreeMap<String, Array>,
}

impl Model {
    /// A network without operators.
    pub fn new(input: Input) -> Self {
        Model { input, nodes: Vec::new(), output: "scores".into(), classes: None, parameters: BTreeMap::new() }
    }

    /// Adds an operator behind the last one.
    pub fn push(&mut self, name: impl Into<String>, op: Op) -> Source {
        let last = self.last();
        self.push_from(name, op, vec![last])
    }

    /// Adds an operator that reads `inputs`.
    pub fn push_from(&mut self, name: impl Into<String>, op: Op, inputs: Vec<Source>) -> Source {
        self.nodes.push(Node { name: name.into(), op, inputs });
        self.last()
    }

    /// The last operator, or the input.
    pub fn last(&self) -> Source {
        self.nodes.len().checked_sub(1).map_or(Source::Input, Source::Node)
    }

    /// Shapes of the operators' results.
    ///
    /// # Errors
    /// Operators whose values do not fit together.
    pub fn shapes(&self) -> Result<Vec<Shape>, TrainError> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let inputs: Option<Vec<Shape>> = node
                .inputs
                .iter()
                .map(|source| match source {
                    Source::Input => Some(self.input.shape),
                    Source::Node(index) => shapes.get(*index).copied(),
                })
                .collect();
            let found = inputs.as_deref().and_then(|inputs| result_shape(&node.op, inputs));
            shapes.push(found.ok_or_else(|| {
                let got = inputs.map_or_else(|| "a later one's value".to_owned(), |inputs| describe(&inputs));
                TrainError::Model(format!("layer '{}' cannot take {got}", node.name))
            })?);
        }
        Ok(shapes)
    }

    /// Values of the output.
    ///
    /// # Errors
    /// As [`shapes`](Self::shapes); an output that is not flat.
    pub fn outputs(&self) -> Result<usize, TrainError> {
        match self.shapes()?.last() {
            Some(Shape::Flat(units)) => Ok(*units),
            _ => Err(TrainError::Model("its output is no list of scores".into())),
        }
    }

    /// Names and shapes of the parameters that the operators read.
    ///
    /// # Errors
    /// As [`shapes`](Self::shapes).
    pub fn expected_parameters(&self) -> Result<Vec<(String, Vec<usize>)>, TrainError> {
        let shapes = self.shapes()?;
        let mut expected = Vec::new();
        for node in &self.nodes {
            let channels = match node.inputs.first() {
                Some(Source::Node(index)) => shapes.get(*index).map_or(0, |shape| shape.channels()),
                _ => self.input.shape.channels(),
            };
            let mut add = |part: &str, shape: Vec<usize>| expected.push((format!("{}.{part}", node.name), shape));
            match &node.op {
                Op::Conv { window, filters, bias } => {
                    add("weight", vec![window.size[0], window.size[1], channels, *filters]);
                    if *bias {
                        add("bias", vec![*filters]);
                    }
                }
                Op::Dense { units, bias } => {
                    add("weight", vec![channels, *units]);
                    if *bias {
                        add("bias", vec![*units]);
                    }
                }
                Op::BatchNorm { .. } => {
                    for part in ["scale", "bias", "mean", "variance"] {
                        add(part, vec![channels]);
                    }
                }
                Op::Affine => {
                    add("scale", vec![channels]);
                    add("bias", vec![channels]);
                }
                Op::Activation(Activation::Learned { degree, .. }) => add("coefficients", vec![degree + 1, channels]),
                Op::Activation(_)
                | Op::Pool { .. }
                | Op::GlobalMean
                | Op::Flatten(_)
                | Op::Dropout { .. }
                | Op::Add => {}
            }
        }
        Ok(expected)
    }

    /// The parameter of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn parameter(&self, name: &str) -> Result<&Array, TrainError> {
        self.parameters.get(name).ok_or_else(|| TrainError::Model(format!("parameter '{name}' is missing")))
    }

    /// Numbers in all parameters.
    pub fn count_parameters(&self) -> usize {
        self.parameters.values().map(|array| array.values.len()).sum()
    }
}

fn result_shape(op: &Op, inputs: &[Shape]) -> Option<Shape> {
    let &first = inputs.first()?;
    if inputs.len() != if matches!(op, Op::Add) { 2 } else { 1 } {
        return None;
    }
    match (op, first) {
        (Op::Conv { window, filters, .. }, Shape::Image { height, width, .. }) => {
            let [height, width] = window.over(height, width)?;
            Some(Shape::Image { height, width, channels: *filters })
        }
        (Op::Pool { window, .. }, Shape::Image { height, width, channels }) => {
            let [height, width] = window.over(height, width)?;
            Some(Shape::Image { height, width, channels })
        }
        (Op::GlobalMean, Shape::Image { channels, .. }) => Some(Shape::Flat(channels)),
        (Op::Flatten(_), shape) => Some(Shape::Flat(shape.elements())),
        (Op::Dense { units, .. }, Shape::Flat(_)) => Some(Shape::Flat(*units)),
        (Op::BatchNorm { .. } | Op::Affine | Op::Activation(_) | Op::Dropout { .. }, shape) => Some(shape),
        (Op::Add, shape) if inputs.get(1) == Some(&shape) => Some(shape),
        _ => None,
    }
}

fn describe(shapes: &[Shape]) -> String {
    shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
