//! The list of layers that `inspect` shows.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::activation::ActivationKind;
use crate::graph::{Graph, Node};
use crate::polynomial::Polynomial;
use crate::region::Expression;
use crate::segment::{Fc, Step};
use crate::split::Classifier;

/// One layer as a person would name it; several ONNX nodes may make it up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// The name to use in `--scope from:NAME`.
    pub name: String,
    /// Conv, FC, BatchNorm, MaxPool, ReLU, x^2+2x, Polynomial(3), Flatten, Softmax, …
    pub op: String,
    /// Output shape without the batch.
    pub shape: Vec<usize>,
    /// Trained and other float constants it holds.
    pub parameters: usize,
    /// Whether `--scope classifier` encrypts it or folds it into what is encrypted.
    pub protectable: bool,
    /// What has to be known about it; may be empty.
    pub note: String,
}

/// A short name for a node's layer: that of its weights in PyTorch (`fc1` of `fc1.weight`), else
/// the part of the node's path that names the layer (`dense_1` of `model/dense_1/MatMul`).
pub(crate) fn layer_name(graph: &Graph, index: usize) -> String {
    let Some(node) = graph.node(index) else {
        return String::new();
    };
    let module = node
        .inputs
        .iter()
        .filter(|name| graph.constants.contains_key(*name))
        .find_map(|name| name.strip_suffix(".weight"))
        .filter(|name| !name.is_empty());
    if let Some(module) = module {
        return module.to_owned();
    }
    let path: Vec<&str> = node.name.split('/').filter(|part| !part.is_empty()).collect();
    match path.as_slice() {
        [] => node.op.clone(),
        [only] => (*only).to_owned(),
        [.., layer, _] => (*layer).to_owned(),
    }
}

/// `name`, or with a number after it if it is taken.
pub(crate) fn unique_name(name: String, taken: impl Fn(&str) -> bool) -> String {
    if !taken(&name) {
        return name;
    }
    (2..).map(|k: u32| format!("{name}:{k}")).find(|numbered| !taken(numbered)).unwrap_or(name)
}

/// Lists a network's layers in the order in which they are computed.
pub(crate) fn list(graph: &Graph) -> Vec<LayerInfo> {
    list_with_nodes(graph).into_iter().map(|(_, row)| row).collect()
}

/// The same, each with the index of its first node.
pub(crate) fn list_with_nodes(graph: &Graph) -> Vec<(usize, LayerInfo)> {
    let layers = Fc::all(graph);
    let classifier = Classifier::find(graph, &layers);
    let mut listing = Listing {
        graph,
        covered: HashSet::new(),
        counted: HashSet::new(),
        protected: HashMap::new(),
        layers: &layers,
        rows: Vec::new(),
    };
    let obstacle = match &classifier {
        Ok(classifier) => {
            let first = classifier.links.first().and_then(|&(index, _)| layers.get(index));
            if let (Some(preamble), Some(first)) = (&classifier.preamble, first) {
                for &node in &preamble.nodes {
                    let note = format!("folded into '{}'", first.name);
                    listing.protected.insert(node, note);
                }
            }
            for (index, segment) in &classifier.links {
                let Some(fc) = layers.get(*index) else {
                    continue;
                };
                let name = &fc.name;
                let note = match &segment.activation {
                    Step::Function(kind) => format!("after '{name}': needs --activation {kind}=…"),
                    _ => format!("folded into '{name}'"),
                };
                for &node in &segment.nodes {
                    listing.protected.insert(node, note.clone());
                }
                if let Some(node) = segment.dropped {
                    let note = "left to the owner: scores are taken before it".to_owned();
                    listing.protected.insert(node, note);
                }
                listing.protected.insert(fc.node, String::new());
            }
            None
        }
        Err(obstacle) => Some(obstacle.0.clone()),
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        if !listing.covered.contains(&index) {
            listing.visit(index, node, obstacle.as_deref());
        }
    }
    listing.rows
}

struct Listing<'a> {
    graph: &'a Graph,
    /// Nodes that are part of a row already.
    covered: HashSet<usize>,
    /// Constants that were counted in a row already.
    counted: HashSet<&'a str>,
    /// Nodes of the chain with the note that explains their part.
    protected: HashMap<usize, String>,
    layers: &'a [Fc],
    /// Rows, each with the index of its first node.
    rows: Vec<(usize, LayerInfo)>,
}

impl<'a> Listing<'a> {
    fn visit(&mut self, index: usize, node: &'a Node, obstacle: Option<&str>) {
        let plain = "runs in the clear";
        if let Some(fc) = self.layers.iter().find(|fc| fc.node == index) {
            let nodes: Vec<usize> = [Some(index), fc.bias_node].into_iter().flatten().collect();
            let note = match (self.protected.contains_key(&index), obstacle) {
                (true, _) => String::new(),
                (false, Some(obstacle)) => format!("not protectable: {obstacle}"),
                (false, None) => format!("{plain}: not in the chain of FC layers at the end"),
            };
            return self.push("FC".into(), &nodes, note);
        }
        match node.op.as_str() {
            "Shape" | "Size" | "Gather" | "Slice" | "Concat" | "Cast" | "Unsqueeze" | "Squeeze" | "Identity"
            | "Transpose" | "Range" | "Expand"
                if self.is_plumbing(node) => {}
            "Dropout" => {}
            "Reshape" | "Flatten" => {
                let (from, to) = (self.graph.shape(node.input(0)), self.graph.shape(node.output()));
                if from.len() > 2 && to.len() == 2 {
                    self.push("Flatten".into(), &[index], String::new());
                }
            }
            "Conv" | "ConvTranspose" => {
                let mut nodes = vec![index];
                if node.input(2).is_empty()
                    && let Some(add) = self.graph.single_use(node.output())
                    && self.adds_vector(add)
                {
                    nodes.push(add);
                }
                let note = format!("{plain} unless --scope all is given");
                self.push(node.op.clone(), &nodes, note);
            }
            _ => self.visit_elementwise(index, node, plain),
        }
    }

    fn visit_elementwise(&mut self, index: usize, node: &'a Node, plain: &str) {
        let note = |protected: Option<&String>| protected.map_or(plain.to_owned(), String::clone);
        let base = node.inputs.iter().find(|name| !self.graph.constants.contains_key(*name));
        if let Some(base) = base {
            if !self.begins_polynomial(index, base)
                && let Some(nodes) = self.scale_and_shift(index, base)
            {
                return self.push("BatchNorm".into(), &nodes, note(self.protected.get(&index)));
            }
            if let Some(region) = self.graph.polynomial_region(base)
                && region.nodes.contains(&index)
                && let Some(expression) = &region.expression
                && expression.degree() >= 2
            {
                let (op, note) = self.describe(expression, index, plain);
                return self.push(op, &region.nodes, note);
            }
            if self.graph.uses(base).len() > 1
                && let Some((region, kind)) = self.graph.function_region(base)
                && region.nodes.contains(&index)
            {
                let op = display_op(&kind.to_string());
                return self.push(op, &region.nodes, note(self.protected.get(&index)));
            }
        }
        self.push(display_op(&node.op), &[index], note(self.protected.get(&index)));
    }

    /// Name and note of a polynomial activation.
    fn describe(&self, expression: &Expression, index: usize, plain: &str) -> (String, String) {
        // Coefficients come from float32, so its shortest decimals are what was written.
        let round = |c: f64| (c as f32).to_string().parse().unwrap_or(c);
        let text = expression.is_uniform().then(|| {
            let c = expression.0.iter().filter_map(|c| c.first().copied());
            Polynomial::new(c.map(round).collect()).to_string()
        });
        let place = match self.protected.get(&index) {
            Some(_) => "evaluated on encrypted values",
            None => plain,
        };
        let degree = format!("Polynomial({})", expression.degree());
        match text {
            Some(text) if text.len() <= 10 => (text, place.to_owned()),
            Some(text) => (degree, format!("{place}: {text}")),
            None => (degree, format!("{place}: differs from unit to unit")),
        }
    }

    /// Whether a node is a polynomial's inner step by Horner's rule: another step multiplies by `base` again.
    fn begins_polynomial(&self, index: usize, base: &str) -> bool {
        let readers = self.graph.uses(base);
        readers.len() > 1
            && self.graph.polynomial_region(base).is_some_and(|region| {
                region.nodes.contains(&index)
                    && readers.iter().filter(|reader| region.nodes.contains(reader)).count() > 1
                    && region.expression.is_some_and(|expression| expression.degree() >= 2)
            })
    }

    /// A batch norm written as a Mul and an Add that differ from channel to channel.
    fn scale_and_shift(&self, index: usize, base: &str) -> Option<Vec<usize>> {
        let node = self.graph.node(index)?;
        let step = self.graph.affine_step(node, base)?;
        if node.op == "BatchNormalization" {
            return Some(vec![index]);
        }
        if step.coefficient(1).len() == 1 {
            return None;
        }
        let add = self.graph.single_use(node.output())?;
        self.adds_vector(add).then(|| vec![index, add])
    }

    fn adds_vector(&self, index: usize) -> bool {
        self.graph.node(index).is_some_and(|node| {
            matches!(node.op.as_str(), "Add" | "Sub")
                && node.inputs.iter().any(|name| self.graph.constant(name).is_some_and(|c| c.values.len() > 1))
        })
    }

    /// Whether a node handles shapes or only renames values.
    fn is_plumbing(&self, node: &Node) -> bool {
        matches!(
            node.op.as_str(),
            "Shape" | "Size" | "Cast" | "Unsqueeze" | "Squeeze" | "Identity" | "Transpose" | "Range"
        ) || self.graph.shape(node.output()).len() <= 1
    }

    /// Adds a row for a layer made of `nodes`; the first names it, the last gives its shape.
    fn push(&mut self, op: String, nodes: &[usize], note: String) {
        let (Some(&first), Some(&last)) = (nodes.first(), nodes.last()) else {
            return;
        };
        let mut parameters = 0;
        for node in nodes.iter().filter_map(|&index| self.graph.node(index)) {
            for name in &node.inputs {
                // Single numbers in elementwise arithmetic are settings, not weights.
                if let Some(constant) = self.graph.constant(name)
                    && constant.float
                    && (constant.values.len() > 1 || matches!(op.as_str(), "FC" | "Conv"))
                    && self.counted.insert(name)
                {
                    parameters += constant.values.len();
                }
            }
        }
        let shape = self.graph.node(last).map_or(&[][..], |n| self.graph.shape(n.output()));
        let fc = self.layers.iter().find(|fc| fc.node == first);
        let name = match fc {
            Some(fc) => fc.name.clone(),
            None => unique_name(layer_name(self.graph, first), |name| {
                let listed = self.rows.iter().any(|(_, row)| row.name == name);
                listed || self.layers.iter().any(|fc| fc.name == name)
            }),
        };
        self.covered.extend(nodes);
        let row = LayerInfo {
            name,
            op,
            shape: shape.get(1..).unwrap_or_default().to_vec(),
            parameters,
            protectable: self.protected.contains_key(&first),
            note,
        };
        self.rows.push((first, row));
    }
}

fn display_op(op: &str) -> String {
    match op {
        "Relu" | "relu" => "ReLU".into(),
        "LeakyRelu" => "LeakyReLU".into(),
        "AveragePool" => "AvgPool".into(),
        "GlobalAveragePool" | "ReduceMean" => "GlobalAvgPool".into(),
        other => match other.parse::<ActivationKind>() {
            Ok(ActivationKind::Gelu) => "GELU".into(),
            Ok(ActivationKind::Swish) => "Swish".into(),
            Ok(ActivationKind::HardSwish) => "HardSwish".into(),
            Ok(ActivationKind::Mish) => "Mish".into(),
            _ => other.into(),
        },
    }
}
