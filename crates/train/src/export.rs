//! Writing a network as an ONNX file that onnxruntime, rten and `subrosa-network` read.

mod proto;

use std::collections::{BTreeMap, HashSet};

use prost::Message;

use crate::error::TrainError;
use crate::model::{Activation, Array, Function, Model, Node, Op, Order, Pooling, Shape, Source, Window};
use proto::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// What ONNX 1.12 introduced, of 2022: new enough for every operator here, old enough for every runtime.
const IR_VERSION: i64 = 8;
const OPERATOR_SET: i64 = 17;

/// The ONNX file of `model` (IR version 8, operator set 17), with `metadata` as its metadata properties.
///
/// The batch is the first axis and dynamic, under the name `batch`. An image enters as `[batch, C, H, W]` or
/// `[batch, H, W, C]`, as the input's order says. An operator is a node of its name, or several called `NAME/OPERATOR`;
/// its parameters keep their names. Polynomials are written by Horner's rule, without zero terms and factors of one.
/// Dropout is left out.
///
/// # Errors
/// Operators that do not fit together, an output that is no list of scores, parameters that are missing, of another shape
/// or not finite.
pub fn to_onnx(model: &Model, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, TrainError> {
    check_parameters(model)?;
    let shapes = model.shapes()?;
    let outputs = model.outputs()?;
    let input = Value {
        name: model.input.name.clone(),
        shape: model.input.shape,
        rows_first: matches!((model.input.shape, model.input.order), (Shape::Image { .. }, Order::Hwc)),
    };
    let mut writer = Writer::new(model);
    let mut values: Vec<Value> = Vec::with_capacity(model.nodes.len());
    for (node, &shape) in model.nodes.iter().zip(&shapes) {
        let operands: Vec<Value> = node
            .inputs
            .iter()
            .filter_map(|source| match source {
                Source::Input => Some(input.clone()),
                Source::Node(index) => values.get(*index).cloned(),
            })
            .collect();
        let value = writer.operator(model, node, &operands, shape)?;
        values.push(value);
    }
    let last = values.last().map_or(input.name.as_str(), |value| value.name.as_str()).to_owned();
    writer.finish_as(&last, &model.input.name, &model.output);
    let sample = match (model.input.shape, model.input.order) {
        (Shape::Flat(units), _) => vec![units],
        (Shape::Image { height, width, channels }, Order::Chw) => vec![channels, height, width],
        (Shape::Image { height, width, channels }, Order::Hwc) => vec![height, width, channels],
    };
    let file = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "subrosa".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: "A network for inference, written by Subrosa's Training Agent.".into(),
        graph: GraphProto {
            node: writer.nodes,
            name: "network".into(),
            initializer: writer.initializers,
            input: vec![value_info(&model.input.name, &sample)],
            output: vec![value_info(&model.output, &[outputs])],
        },
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
        metadata_props: metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() })
            .collect(),
    };
    Ok(file.encode_to_vec())
}

fn check_parameters(model: &Model) -> Result<(), TrainError> {
    for (name, shape) in model.expected_parameters()? {
        let array = model.parameter(&name)?;
        if array.shape != shape || array.values.len() != shape.iter().product::<usize>() {
            return Err(TrainError::Model(format!(
                "parameter '{name}' has shape {:?} and {} values, where its layer needs {shape:?}",
                array.shape,
                array.values.len()
            )));
        }
        if let Some(value) = array.values.iter().find(|value| !value.is_finite()) {
            return Err(TrainError::Model(format!(
                "parameter '{name}' holds {value}; the training has diverged, train again with a lower --learning-rate"
            )));
        }
    }
    Ok(())
}

fn value_info(name: &str, sample: &[usize]) -> ValueInfoProto {
    let batch = DimensionProto { dim_value: None, dim_param: Some("batch".into()) };
    let fixed = |&size: &usize| DimensionProto { dim_value: Some(size as i64), dim_param: None };
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(sample.iter().map(fixed)).collect() };
    let tensor_type = TensorTypeProto { elem_type: FLOAT, shape };
    ValueInfoProto { name: name.into(), r#type: TypeProto { tensor_type } }
}

/// A value in the file.
#[derive(Debug, Clone)]
struct Value {
    name: String,
    shape: Shape,
    /// An image whose channels lie last: the network's input, until an operator needs them first.
    rows_first: bool,
}

/// The nodes and initializers so far.
struct Writer {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Taken by values, initializers among them.
    value_names: HashSet<String>,
    node_names: HashSet<String>,
    /// The input with its channels first, once an operator has needed it.
    channels_first: Option<String>,
}

impl Writer {
    fn new(model: &Model) -> Self {
        Writer {
            nodes: Vec::new(),
            initializers: Vec::new(),
            value_names: HashSet::from([model.input.name.clone(), model.output.clone()]),
            node_names: model.nodes.iter().map(|node| node.name.clone()).collect(),
            channels_first: None,
        }
    }

    /// Writes one operator of the model; `shape` is its result's.
    fn operator(&mut self, model: &Model, node: &Node, operands: &[Value], shape: Shape) -> Result<Value, TrainError> {
        let missing = || TrainError::Model(format!("layer '{}' reads a later one's value", node.name));
        let first = operands.first().ok_or_else(missing)?;
        if let Op::Flatten(order) = node.op {
            return Ok(Value { name: self.flatten(node, first, order), shape, rows_first: false });
        }
        if let Op::Dropout { .. } = node.op {
            return Ok(first.clone());
        }
        let x = self.with_channels_first(first);
        let parameter = |part: &str| model.parameter(&format!("{}.{part}", node.name));
        let name = match &node.op {
            Op::Conv { window, bias, .. } => {
                let weight = filters_first(parameter("weight")?);
                let mut inputs = vec![x, self.initializer(&format!("{}.weight", node.name), &weight)];
                if *bias {
                    inputs.push(self.initializer(&format!("{}.bias", node.name), parameter("bias")?));
                }
                self.node("Conv", &node.name, inputs, window_attributes(window))
            }
            Op::Dense { bias, .. } => {
                let weight = transposed(parameter("weight")?);
                let mut inputs = vec![x, self.initializer(&format!("{}.weight", node.name), &weight)];
                if *bias {
                    inputs.push(self.initializer(&format!("{}.bias", node.name), parameter("bias")?));
                }
                self.node("Gemm", &node.name, inputs, vec![AttributeProto::int("transB", 1)])
            }
            Op::BatchNorm { epsilon } => {
                let mut inputs = vec![x];
                for part in ["scale", "bias", "mean", "variance"] {
                    inputs.push(self.initializer(&format!("{}.{part}", node.name), parameter(part)?));
                }
                let epsilon = AttributeProto::float("epsilon", *epsilon);
                self.node("BatchNormalization", &node.name, inputs, vec![epsilon])
            }
            Op::Affine => {
                let terms = [("bias", &parameter("bias")?.values), ("scale", &parameter("scale")?.values)];
                let terms = terms.map(|(part, values)| (part.to_owned(), values.clone()));
                self.horner(&node.name, x, shape, &terms)
            }
            Op::Activation(Activation::Function(function)) => {
                let (operator, attributes) = function_operator(*function);
                self.node(operator, &node.name, vec![x], attributes)
            }
            Op::Activation(Activation::Polynomial(polynomial)) => {
                let values = polynomial.coefficients().iter().map(|&c| vec![c as f32]);
                let terms: Vec<_> = values.enumerate().map(|(power, c)| (format!("c{power}"), c)).collect();
                self.horner(&node.name, x, shape, &terms)
            }
            Op::Activation(Activation::Learned { .. }) => {
                let rows = parameter("coefficients")?.values.chunks(shape.channels().max(1));
                let terms: Vec<_> = rows.enumerate().map(|(power, row)| (format!("c{power}"), row.to_vec())).collect();
                self.horner(&node.name, x, shape, &terms)
            }
            Op::Pool { pooling, window } => self.pool(&node.name, x, *pooling, window),
            Op::GlobalMean => {
                let mean = self.step("GlobalAveragePool", &node.name, vec![x], vec![]);
                self.step("Flatten", &node.name, vec![mean], vec![AttributeProto::int("axis", 1)])
            }
            Op::Add => {
                let second = operands.get(1).ok_or_else(missing)?;
                let second = self.with_channels_first(second);
                self.node("Add", &node.name, vec![x, second], vec![])
            }
            // Taken above.
            Op::Flatten(_) | Op::Dropout { .. } => x,
        };
        Ok(Value { name, shape, rows_first: false })
    }

    /// The value's name, with its channels before its rows if it is an image.
    fn with_channels_first(&mut self, value: &Value) -> String {
        if !value.rows_first {
            return value.name.clone();
        }
        if let Some(name) = &self.channels_first {
            return name.clone();
        }
        let perm = AttributeProto::ints("perm", vec![0, 3, 1, 2]);
        let name = self.step("Transpose", &value.name, vec![value.name.clone()], vec![perm]);
        self.channels_first = Some(name.clone());
        name
    }

    fn flatten(&mut self, node: &Node, value: &Value, order: Order) -> String {
        let Shape::Image { height, width, channels } = value.shape else {
            return value.name.clone();
        };
        // One channel or one point lies alike in both orders.
        let alike = channels == 1 || height * width == 1;
        let axis = AttributeProto::int("axis", 1);
        let x = match (order, value.rows_first) {
            (Order::Hwc, true) => value.name.clone(),
            _ if alike => value.name.clone(),
            (Order::Chw, _) => self.with_channels_first(value),
            (Order::Hwc, false) => {
                let perm = AttributeProto::ints("perm", vec![0, 2, 3, 1]);
                let rows_first = self.step("Transpose", &node.name, vec![value.name.clone()], vec![perm]);
                return self.step("Flatten", &node.name, vec![rows_first], vec![axis]);
            }
        };
        self.node("Flatten", &node.name, vec![x], vec![axis])
    }

    fn pool(&mut self, name: &str, x: String, pooling: Pooling, window: &Window) -> String {
        let mut attributes = window_attributes(window);
        if pooling == Pooling::Max {
            return self.node("MaxPool", name, vec![x], attributes);
        }
        let padding = i64::from(pooling == Pooling::Sum);
        attributes.push(AttributeProto::int("count_include_pad", padding));
        if pooling == Pooling::Mean {
            return self.node("AveragePool", name, vec![x], attributes);
        }
        let mean = self.step("AveragePool", name, vec![x], attributes);
        let points = (window.size[0] * window.size[1]) as f32;
        let points = self.initializer(&format!("{name}.points"), &Array { shape: vec![], values: vec![points] });
        self.step("Mul", name, vec![mean, points], vec![])
    }

    /// Writes a polynomial of `x` by Horner's rule. `terms` holds a name for each coefficient, lowest power first, and its
    /// values: one for all channels, or one for each.
    fn horner(&mut self, name: &str, x: String, shape: Shape, terms: &[(String, Vec<f32>)]) -> String {
        let is = |values: &[f32], number: f32| values.iter().all(|&value| value == number);
        let degree = terms.iter().rposition(|(_, values)| !is(values, 0.0)).unwrap_or(0);
        let mut result: Option<String> = None;
        for (power, (part, values)) in terms.iter().enumerate().take(degree + 1).rev() {
            result = match result {
                // The leading coefficient enters with its power of x below.
                None if power == degree && power > 0 => Some(match is(values, 1.0) {
                    true => x.clone(),
                    false => {
                        let factor = self.coefficient(name, part, values, shape);
                        self.step("Mul", name, vec![x.clone(), factor], vec![])
                    }
                }),
                None => None,
                Some(sum) if is(values, 0.0) => Some(sum),
                Some(sum) => {
                    let term = self.coefficient(name, part, values, shape);
                    Some(self.step("Add", name, vec![sum, term], vec![]))
                }
            };
            if let Some(sum) = &result
                && power > 0
                && power < degree
            {
                result = Some(self.step("Mul", name, vec![sum.clone(), x.clone()], vec![]));
            }
        }
        result.unwrap_or_else(|| self.constant_result(name, x, shape, terms))
    }

    /// A polynomial of degree 0: the network keeps its shape, the values are the constants.
    fn constant_result(&mut self, name: &str, x: String, shape: Shape, terms: &[(String, Vec<f32>)]) -> String {
        let zero = self.coefficient(name, "zero", &[0.0], shape);
        let nothing = self.step("Mul", name, vec![x, zero], vec![]);
        match terms.first() {
            Some((part, values)) => {
                let term = self.coefficient(name, part, values, shape);
                self.step("Add", name, vec![nothing, term], vec![])
            }
            None => nothing,
        }
    }

    /// An initializer that ONNX broadcasts over the batch and the image.
    fn coefficient(&mut self, layer: &str, part: &str, values: &[f32], shape: Shape) -> String {
        let axes = match (values.len(), shape) {
            (1, _) => vec![],
            (channels, Shape::Image { .. }) => vec![channels, 1, 1],
            (units, Shape::Flat(_)) => vec![units],
        };
        self.initializer(&format!("{layer}.{part}"), &Array { shape: axes, values: values.to_vec() })
    }

    fn initializer(&mut self, name: &str, array: &Array) -> String {
        let name = unique(name, &mut self.value_names);
        self.initializers.push(TensorProto {
            dims: array.shape.iter().map(|&size| size as i64).collect(),
            data_type: FLOAT,
            name: name.clone(),
            raw_data: array.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
        name
    }

    /// A node that is all of the operator `name`.
    fn node(&mut self, operator: &str, name: &str, inputs: Vec<String>, attributes: Vec<AttributeProto>) -> String {
        let output = unique(name, &mut self.value_names);
        self.nodes.push(NodeProto {
            input: inputs,
            output: vec![output.clone()],
            name: name.to_owned(),
            op_type: operator.to_owned(),
            attribute: attributes,
        });
        output
    }

    /// One of several nodes that make up the operator `layer`.
    fn step(&mut self, operator: &str, layer: &str, inputs: Vec<String>, attributes: Vec<AttributeProto>) -> String {
        let name = unique(&format!("{layer}/{operator}"), &mut self.node_names);
        self.node(operator, &name, inputs, attributes)
    }

    /// Gives the value `last` the output's name.
    fn finish_as(&mut self, last: &str, input: &str, output: &str) {
        if last == input {
            let name = unique("identity", &mut self.node_names);
            self.node("Identity", &name, vec![last.to_owned()], vec![]);
            let written = self.nodes.last_mut().and_then(|node| node.output.first_mut());
            if let Some(written) = written {
                output.clone_into(written);
            }
            return;
        }
        let names = self.nodes.iter_mut().flat_map(|node| node.output.iter_mut().chain(&mut node.input));
        for name in names.filter(|name| *name == last) {
            output.clone_into(name);
        }
    }
}

/// `name`, or with a number behind it if it is taken; takes it.
fn unique(name: &str, taken: &mut HashSet<String>) -> String {
    let mut found = name.to_owned();
    let mut number = 2u64;
    while !taken.insert(found.clone()) {
        found = format!("{name}:{number}");
        number += 1;
    }
    found
}

fn window_attributes(window: &Window) -> Vec<AttributeProto> {
    let ints = |name: &str, values: &[usize]| AttributeProto::ints(name, values.iter().map(|&v| v as i64).collect());
    let mut attributes = vec![ints("kernel_shape", &window.size), ints("strides", &window.stride)];
    let pads = [window.before, window.after].concat();
    if pads.iter().any(|&pad| pad != 0) {
        attributes.push(ints("pads", &pads));
    }
    attributes
}

fn function_operator(function: Function) -> (&'static str, Vec<AttributeProto>) {
    match function {
        Function::Relu => ("Relu", vec![]),
        Function::LeakyRelu { slope } => ("LeakyRelu", vec![AttributeProto::float("alpha", slope)]),
        Function::Elu { alpha } => ("Elu", vec![AttributeProto::float("alpha", alpha)]),
        Function::Softplus => ("Softplus", vec![]),
        Function::Sigmoid => ("Sigmoid", vec![]),
        Function::Tanh => ("Tanh", vec![]),
    }
}

/// `[rows, columns, channels, filters]` as `[filters, channels, rows, columns]`.
fn filters_first(weight: &Array) -> Array {
    let &[rows, columns, channels, filters] = weight.shape.as_slice() else {
        return weight.clone();
    };
    let mut values = Vec::with_capacity(weight.values.len());
    for filter in 0..filters {
        for channel in 0..channels {
            let points = weight.values.iter().skip(channel * filters + filter).step_by(channels * filters);
            values.extend(points);
        }
    }
    Array { shape: vec![filters, channels, rows, columns], values }
}

/// `[in, out]` as `[out, in]`.
fn transposed(weight: &Array) -> Array {
    let &[inputs, units] = weight.shape.as_slice() else {
        return weight.clone();
    };
    let column = |unit: usize| weight.values.iter().skip(unit).step_by(units.max(1)).copied();
    Array { shape: vec![units, inputs], values: (0..units).flat_map(column).collect() }
}
