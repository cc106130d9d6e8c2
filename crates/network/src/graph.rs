//! An ONNX graph, validated: nodes in topological order, constants decoded, shapes known.

use std::collections::{BTreeSet, HashMap, HashSet};

use rten_onnx::onnx::{AttributeProto, DataType, GraphProto, ModelProto, NodeProto, TensorProto};
use subrosa_plain::{PlainNetwork, check_structure};

use crate::error::NetworkError;
use crate::layers;
use crate::sizes;

/// A constant tensor; integers and doubles are kept as the nearest float32.
#[derive(Debug, Clone)]
pub struct Constant {
    /// Its axes; none for a single number.
    pub shape: Vec<usize>,
    /// Row-major; empty if they are of another type than float32, double, bool, int32 and int64.
    pub values: Vec<f32>,
    /// Whether it is a weight (float), not an integer of shape arithmetic.
    pub float: bool,
}

/// An attribute of the kinds that matter here.
#[derive(Debug, Clone)]
pub(crate) enum Attribute {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
    Text(String),
    Other,
}

/// A node that the output depends on and that depends on the input.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name, or that of its first output if it has none.
    pub name: String,
    /// The ONNX operator.
    pub op: String,
    /// Tensors it reads; empty names are inputs left out.
    pub inputs: Vec<String>,
    /// Tensors it writes.
    pub outputs: Vec<String>,
    pub(crate) attributes: HashMap<String, Attribute>,
}

impl Node {
    /// The tensor it reads at this place, an empty name if none.
    pub fn input(&self, index: usize) -> &str {
        self.inputs.get(index).map_or("", String::as_str)
    }

    /// The first output, the only one that matters for the operators understood here.
    pub fn output(&self) -> &str {
        self.outputs.first().map_or("", String::as_str)
    }

    /// An attribute that is an integer.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// An attribute that is a number.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// An attribute that is a list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// An attribute that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(Attribute::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// The part of an ONNX graph between its input and its output, to look at; nodes that see constants only are constants.
#[derive(Debug)]
pub struct Graph {
    /// In topological order.
    pub(crate) nodes: Vec<Node>,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) constants: HashMap<String, Constant>,
    /// Shapes at batch 1 of every tensor that a node here writes, and of the input.
    shapes: HashMap<String, Vec<usize>>,
    uses: HashMap<String, Vec<usize>>,
    producers: HashMap<String, usize>,
}

impl Graph {
    pub(crate) fn parse(onnx: &[u8]) -> Result<Self, NetworkError> {
        check_structure(onnx).map_err(NetworkError::Malformed)?;
        let model = ModelProto::parse_buf(onnx)
            .map_err(|error| NetworkError::Malformed(format!("{error}; export it again")))?;
        let proto = model.graph.ok_or_else(|| NetworkError::Malformed("it holds no network graph".into()))?;
        if model.opset_import.is_empty() {
            return Err(NetworkError::Malformed(
                "it names no operator set, so its end is missing; export it again".into(),
            ));
        }
        let mut constants = decode_constants(&proto)?;
        let (input, output) = ends(&proto, &constants)?;
        let nodes = sorted_nodes(&proto, &input, &constants)?;
        let nodes = live_nodes(nodes, &output);
        sizes::check(&nodes, (&input, declared_shape(&proto, &input)), &constants)?;

        let names: Vec<&str> = nodes
            .iter()
            .flat_map(|node| &node.outputs)
            .map(String::as_str)
            .chain([input.as_str()])
            .filter(|name| !name.is_empty())
            .collect();
        let probes = PlainNetwork::probe(onnx, &names)?;
        let mut shapes = HashMap::new();
        let mut values = HashMap::new();
        for (name, probe) in names.iter().zip(probes) {
            if let Some(probe) = probe {
                shapes.insert((*name).to_owned(), probe.shape.clone());
                values.insert((*name).to_owned(), probe);
            }
        }
        // Nodes that see constants only are constants themselves: Transpose of a weight and such.
        let mut dynamic = Vec::new();
        for node in nodes {
            let fixed = node.inputs.iter().all(|name| name.is_empty() || constants.contains_key(name));
            if !fixed {
                dynamic.push(node);
                continue;
            }
            for name in node.outputs.iter().filter(|name| !name.is_empty()) {
                let probe = values.remove(name);
                let (shape, data) = probe.map_or((Vec::new(), None), |p| (p.shape, p.data));
                let float = data.is_some();
                let values = data.unwrap_or_default();
                check_finite(name, &values)?;
                constants.insert(name.clone(), Constant { shape, values, float });
            }
        }
        let mut uses: HashMap<String, Vec<usize>> = HashMap::new();
        let mut producers = HashMap::new();
        for (index, node) in dynamic.iter().enumerate() {
            for name in &node.outputs {
                producers.insert(name.clone(), index);
            }
            // Shape looks at no values, so it does not stand in the way of a protected tensor.
            if matches!(node.op.as_str(), "Shape" | "Size") {
                continue;
            }
            for name in &node.inputs {
                let list = uses.entry(name.clone()).or_default();
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        Ok(Graph { nodes: dynamic, input, output, constants, shapes, uses, producers })
    }

    /// The nodes, each behind those whose tensors it reads.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The tensor that the network takes.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The tensor that the network gives.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// A short name for a node's layer, as in [`LayerInfo`](crate::LayerInfo): that of its weights in PyTorch, else the part
    /// of the node's path that names the layer. Several nodes may have one.
    pub fn layer_name(&self, index: usize) -> String {
        layers::layer_name(self, index)
    }

    /// The node with this index in [`nodes`](Self::nodes).
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// Shape at batch 1, batch axis included; empty if unknown.
    pub fn shape(&self, tensor: &str) -> &[usize] {
        self.shapes.get(tensor).map_or(&[], Vec::as_slice)
    }

    /// Values of one sample.
    pub fn elements(&self, tensor: &str) -> usize {
        self.shape(tensor).iter().product()
    }

    /// Nodes that read a tensor's values.
    pub fn uses(&self, tensor: &str) -> &[usize] {
        self.uses.get(tensor).map_or(&[], Vec::as_slice)
    }

    /// The node that writes a tensor.
    pub fn producer(&self, tensor: &str) -> Option<usize> {
        self.producers.get(tensor).copied()
    }

    /// The only node that reads a tensor, if nothing else does and it is not the output.
    pub fn single_use(&self, tensor: &str) -> Option<usize> {
        match self.uses(tensor) {
            [only] if tensor != self.output => Some(*only),
            _ => None,
        }
    }

    /// A constant tensor whose values are known.
    pub fn constant(&self, name: &str) -> Option<&Constant> {
        self.constants.get(name).filter(|c| !c.values.is_empty())
    }
}

fn decode_constants(proto: &GraphProto) -> Result<HashMap<String, Constant>, NetworkError> {
    let mut constants = HashMap::new();
    for tensor in &proto.initializer {
        let name = tensor.name.clone().unwrap_or_default();
        let constant = decode(tensor, &name)?;
        if constants.insert(name.clone(), constant).is_some() {
            return Err(NetworkError::Malformed(format!("two initializers are called '{name}'")));
        }
    }
    for node in proto.node.iter().filter(|n| op(n) == "Constant") {
        let Some(name) = node.output.first() else {
            continue;
        };
        let Some(attribute) = node.attribute.first() else {
            return Err(NetworkError::Malformed(format!("the Constant node for '{name}' has no value")));
        };
        constants.insert(name.clone(), decode_attribute(attribute, name)?);
    }
    Ok(constants)
}

fn decode_attribute(attribute: &AttributeProto, name: &str) -> Result<Constant, NetworkError> {
    if let Some(tensor) = &attribute.t {
        return decode(tensor, name);
    }
    let (shape, values, float) = match attribute.name.as_deref() {
        Some("value_float") => (vec![], attribute.f.into_iter().collect(), true),
        Some("value_floats") => (vec![attribute.floats.len()], attribute.floats.clone(), true),
        Some("value_int") => (vec![], attribute.i.iter().map(|&i| i as f32).collect(), false),
        Some("value_ints") => (vec![attribute.ints.len()], attribute.ints.iter().map(|&i| i as f32).collect(), false),
        _ => (vec![], vec![], false),
    };
    check_finite(name, &values)?;
    Ok(Constant { shape, values, float })
}

/// Decodes float32, double, bool, int32 and int64 tensors; others keep their shape but no values.
fn decode(tensor: &TensorProto, name: &str) -> Result<Constant, NetworkError> {
    if !tensor.external_data.is_empty() || tensor.data_location.is_some_and(|l| l.0 != 0) {
        return Err(NetworkError::Unsupported(format!(
            "the weights '{name}' lie in an external file; export one self-contained .onnx file \
             (onnx.save_model(model, path, save_as_external_data=False))"
        )));
    }
    let malformed = |what: &str| NetworkError::Malformed(format!("the tensor '{name}' {what}"));
    let shape: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| malformed("has a negative size")))
        .collect::<Result<_, _>>()?;
    let elements = shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .ok_or_else(|| malformed("has an impossible size"))?;
    let raw = tensor.raw_data.as_ref().map(|raw| raw.borrow());
    let raw = raw.as_deref().map(Vec::as_slice);
    let (values, float): (Vec<f32>, bool) = match (tensor.data_type, raw) {
        (Some(DataType::FLOAT), Some(raw)) => (words(raw, f32::from_le_bytes), true),
        (Some(DataType::FLOAT), None) => (tensor.float_data.clone(), true),
        (Some(DataType::DOUBLE), Some(raw)) => (words(raw, |b| f64::from_le_bytes(b) as f32), true),
        (Some(DataType::DOUBLE), None) => (tensor.double_data.iter().map(|&v| v as f32).collect(), true),
        (Some(DataType::INT32), Some(raw)) => (words(raw, |b| i32::from_le_bytes(b) as f32), false),
        (Some(DataType::INT32), None) => (tensor.int32_data.iter().map(|&v| v as f32).collect(), false),
        (Some(DataType::BOOL), Some(raw)) => (raw.iter().map(|&byte| f32::from(byte)).collect(), false),
        (Some(DataType::BOOL), None) => (tensor.int32_data.iter().map(|&v| v as f32).collect(), false),
        (Some(DataType::INT64), Some(raw)) => (words(raw, |b| i64::from_le_bytes(b) as f32), false),
        (Some(DataType::INT64), None) => (tensor.int64_data.iter().map(|&v| v as f32).collect(), false),
        _ => {
            return Ok(Constant { shape, values: Vec::new(), float: false });
        }
    };
    if values.len() != elements {
        return Err(malformed(&format!(
            "declares {elements} values but holds {}; the file is damaged or was cut off",
            values.len()
        )));
    }
    check_finite(name, &values)?;
    Ok(Constant { shape, values, float })
}

fn words<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    raw.as_chunks::<N>().0.iter().map(|&word| read(word)).collect()
}

fn check_finite(name: &str, values: &[f32]) -> Result<(), NetworkError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(NetworkError::Malformed(format!(
            "the weights '{name}' hold {} at position {index}; the training has diverged, train again",
            values.get(index).copied().unwrap_or_default()
        ))),
    }
}

/// The one input that is not an initializer, and the one output.
fn ends(proto: &GraphProto, constants: &HashMap<String, Constant>) -> Result<(String, String), NetworkError> {
    let inputs: Vec<&str> = proto
        .input
        .iter()
        .filter_map(|value| value.name.as_deref())
        .filter(|name| !constants.contains_key(*name))
        .collect();
    let outputs: Vec<&str> = proto.output.iter().filter_map(|value| value.name.as_deref()).collect();
    match (inputs.as_slice(), outputs.as_slice()) {
        ([input], [output]) => Ok(((*input).to_owned(), (*output).to_owned())),
        (inputs, [_]) => Err(NetworkError::Unsupported(format!(
            "it has {} inputs ({}), where one is needed; export it with a single input tensor",
            inputs.len(),
            inputs.join(", ")
        ))),
        (_, outputs) => Err(NetworkError::Unsupported(format!(
            "it has {} outputs ({}), where one is needed; export it with the class scores as its only output",
            outputs.len(),
            outputs.join(", ")
        ))),
    }
}

/// The shape that the file declares for an input, with 1 for axes that vary.
fn declared_shape(proto: &GraphProto, input: &str) -> Vec<usize> {
    let value = proto.input.iter().find(|value| value.name.as_deref() == Some(input));
    let tensor = value.and_then(|value| value.r#type.as_ref()?.tensor_type.as_ref());
    let dimensions = tensor.and_then(|tensor| tensor.shape.as_ref()).map_or(&[][..], |shape| shape.dim.as_slice());
    dimensions.iter().map(|d| d.dim_value.and_then(|size| usize::try_from(size).ok()).unwrap_or(1)).collect()
}

fn op(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or_default()
}

/// All nodes but Constants in an order in which each comes after what it reads.
fn sorted_nodes(
    proto: &GraphProto,
    input: &str,
    constants: &HashMap<String, Constant>,
) -> Result<Vec<Node>, NetworkError> {
    let mut waiting: Vec<Node> = Vec::new();
    let mut written: HashSet<&str> = HashSet::new();
    for node in proto.node.iter().filter(|n| op(n) != "Constant") {
        if node.attribute.iter().any(|a| a.g.is_some()) {
            return Err(NetworkError::Unsupported(format!(
                "node '{}' ({}) branches or loops at run time; export the network for inference without control flow",
                node.name.as_deref().unwrap_or_default(),
                op(node)
            )));
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if !written.insert(name) || name == input || constants.contains_key(name) {
                return Err(NetworkError::Malformed(format!("the tensor '{name}' is written twice")));
            }
        }
        waiting.push(import(node));
    }
    for node in &waiting {
        for name in node.inputs.iter().filter(|name| !name.is_empty()) {
            if name != input && !constants.contains_key(name) && !written.contains(name.as_str()) {
                return Err(NetworkError::Malformed(format!(
                    "node '{}' ({}) reads '{name}', which is neither an initializer nor written by a node; \
                     the file is incomplete, export it again",
                    node.name, node.op
                )));
            }
        }
    }
    // Kahn's algorithm; the file's own order is kept where it is sound.
    let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
    let mut missing = vec![0usize; waiting.len()];
    for (index, node) in waiting.iter().enumerate() {
        for name in &node.inputs {
            if written.contains(name.as_str()) {
                readers.entry(name.clone()).or_default().push(index);
                if let Some(count) = missing.get_mut(index) {
                    *count += 1;
                }
            }
        }
    }
    let mut ready: BTreeSet<usize> =
        missing.iter().enumerate().filter_map(|(index, &count)| (count == 0).then_some(index)).collect();
    let total = waiting.len();
    let mut slots: Vec<Option<Node>> = waiting.into_iter().map(Some).collect();
    let mut sorted = Vec::with_capacity(total);
    while let Some(index) = ready.pop_first() {
        let Some(node) = slots.get_mut(index).and_then(Option::take) else {
            continue;
        };
        for name in &node.outputs {
            for &reader in readers.get(name).map_or(&[][..], Vec::as_slice) {
                if let Some(count) = missing.get_mut(reader) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(reader);
                    }
                }
            }
        }
        sorted.push(node);
    }
    if let Some(node) = slots.into_iter().flatten().next() {
        return Err(NetworkError::Malformed(format!(
            "node '{}' ({}) depends on its own result: the graph has a cycle",
            node.name, node.op
        )));
    }
    Ok(sorted)
}

fn import(node: &NodeProto) -> Node {
    let attributes = node
        .attribute
        .iter()
        .map(|a| {
            let value = if let Some(i) = a.i {
                Attribute::Int(i)
            } else if let Some(f) = a.f {
                Attribute::Float(f)
            } else if !a.ints.is_empty() {
                Attribute::Ints(a.ints.clone())
            } else if let Some(s) = &a.s {
                Attribute::Text(s.clone())
            } else {
                Attribute::Other
            };
            (a.name.clone().unwrap_or_default(), value)
        })
        .collect();
    let name = match node.name.as_deref() {
        Some(name) if !name.is_empty() => name,
        _ => node.output.first().map_or("", String::as_str),
    };
    Node {
        name: name.to_owned(),
        op: op(node).to_owned(),
        inputs: node.input.clone(),
        outputs: node.output.clone(),
        attributes,
    }
}

/// The nodes that the output needs, in the same order.
fn live_nodes(nodes: Vec<Node>, output: &str) -> Vec<Node> {
    let mut needed: HashSet<String> = HashSet::from([output.to_owned()]);
    let mut live: Vec<Node> = Vec::with_capacity(nodes.len());
    for node in nodes.into_iter().rev() {
        if node.outputs.iter().any(|name| needed.contains(name)) {
            needed.extend(node.inputs.iter().cloned());
            live.push(node);
        }
    }
    live.reverse();
    live
}
