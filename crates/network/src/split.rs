//! Cutting a network into a plain front part and a protected chain of dense layers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
use serde::{Deserialize, Serialize};

use crate::activation::{Activation, ActivationKind, Substitutions};
use crate::chain::{Chain, Dense};
use crate::error::NetworkError;
use crate::graph::Graph;
use crate::layers::layer_name;
use crate::polynomial::Polynomial;
use crate::segment::{Affine, Fc, Next, Obstacle, Segment, Step};

/// How much of a network is protected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// The last FC layer alone.
    Last,
    /// The longest chain of FC layers at the end, with the activations between them.
    #[default]
    Classifier,
    /// Everything from the input on.
    All,
    /// The chain of FC layers from the one of this name on.
    From(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Last => f.write_str("last"),
            Scope::Classifier => f.write_str("classifier"),
            Scope::All => f.write_str("all"),
            Scope::From(name) => write!(f, "from:{name}"),
        }
    }
}

/// A text that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a scope: use last, classifier, all or from:LAYER")]
pub struct ParseScopeError(String);

impl FromStr for Scope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "last" => Ok(Scope::Last),
            "classifier" => Ok(Scope::Classifier),
            "all" => Ok(Scope::All),
            other => match other.strip_prefix("from:") {
                Some(name) if !name.is_empty() => Ok(Scope::From(name.to_owned())),
                _ => Err(ParseScopeError(text.to_owned())),
            },
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = ParseScopeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

/// A network cut in two.
#[derive(Debug, Clone)]
pub struct Split {
    /// ONNX of the plain part: the network's input to `[batch, features]`, in the order of the
    /// first protected layer's columns. `None` if the chain takes the network's input, flattened
    /// row-major. Holds none of the chain's weights.
    pub front: Option<Vec<u8>>,
    /// Values the chain takes for a sample.
    pub features: usize,
    /// The protected part. A final Softmax or LogSoftmax is left out: scores are before it.
    pub chain: Chain,
    /// Substitutions made in the chain.
    pub replaced: Vec<Replaced>,
}

/// An activation in whose place another one was put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replaced {
    /// The layer before it.
    pub layer: String,
    /// What was there.
    pub from: ActivationKind,
    /// What is there now.
    pub to: Polynomial,
}

/// The chain of FC layers at the network's end.
pub(crate) struct Classifier {
    /// Its layers, as indices into the list of all FC layers, with what follows each.
    pub links: Vec<(usize, Segment)>,
    /// What lies between the network's input and the first layer, if that is affine: then
    /// nothing stands before the chain.
    pub preamble: Option<Segment>,
}

impl Classifier {
    /// Finds the chain; the obstacle says what follows the last FC layer if there is none.
    pub fn find(graph: &Graph, layers: &[Fc]) -> Result<Self, Obstacle> {
        let mut segments: Vec<Option<Segment>> = Vec::with_capacity(layers.len());
        let mut last_obstacle = None;
        for fc in layers {
            segments.push(match Segment::follow(graph, layers, &fc.output) {
                Ok(segment) => Some(segment),
                Err(obstacle) => {
                    last_obstacle = Some(format!("after layer '{}': {}", fc.name, obstacle.0));
                    None
                }
            });
        }
        let mut links = Vec::new();
        let mut wanted = Next::End;
        while let Some(index) = segments.iter().position(|s| s.as_ref().is_some_and(|s| s.next == wanted)) {
            let Some(segment) = segments.get_mut(index).and_then(Option::take) else {
                break;
            };
            links.push((index, segment));
            wanted = Next::Fc(index);
        }
        links.reverse();
        let Some(&(first, _)) = links.first() else {
            return Err(Obstacle(last_obstacle.unwrap_or_else(|| {
                "the network has no FC layer (Gemm or MatMul with constant weights on one row of values a sample)"
                    .into()
            })));
        };
        let preamble = Segment::follow(graph, layers, &graph.input)
            .ok()
            .filter(|s| s.next == Next::Fc(first) && s.activation == Step::None);
        Ok(Classifier { links, preamble })
    }
}

/// Cuts the network of `onnx`, parsed as `graph`.
pub(crate) fn split(
    onnx: &[u8],
    graph: &Graph,
    scope: &Scope,
    substitutions: &Substitutions,
) -> Result<Split, NetworkError> {
    let layers = Fc::all(graph);
    let classifier = Classifier::find(graph, &layers).map_err(|o| NetworkError::NoDenseEnd(o.0))?;
    let start = first_link(graph, &layers, &classifier, scope)?;
    let links = classifier.links.get(start..).unwrap_or_default();
    let whole = start == 0 && classifier.preamble.is_some();
    let preamble = classifier.preamble.filter(|_| whole).map(|s| s.before);
    let (chain, replaced) = build(graph, &layers, links, preamble, substitutions)?;
    let front = match links.first().and_then(|&(index, _)| layers.get(index)) {
        Some(first) if !whole => Some(cut(onnx, graph, &first.input)?),
        _ => None,
    };
    Ok(Split { front, features: chain.inputs(), chain, replaced })
}

/// Where in the chain the protected part begins.
pub(crate) fn first_link(
    graph: &Graph,
    layers: &[Fc],
    classifier: &Classifier,
    scope: &Scope,
) -> Result<usize, NetworkError> {
    match scope {
        Scope::Last => Ok(classifier.links.len().saturating_sub(1)),
        Scope::Classifier => Ok(0),
        Scope::All if classifier.preamble.is_some() => Ok(0),
        Scope::All => {
            let convolution = graph.nodes.iter().any(|n| matches!(n.op.as_str(), "Conv" | "ConvTranspose"));
            Err(NetworkError::NotAllDense(if convolution {
                "convolutions".into()
            } else {
                let why = Segment::follow(graph, layers, &graph.input)
                    .err()
                    .map_or_else(String::new, |o| format!(" (from the input: {})", o.0));
                format!("the layers before the FC layers{why}")
            }))
        }
        Scope::From(name) => {
            let matches = |index: usize| {
                layers
                    .get(index)
                    .is_some_and(|fc| fc.name == *name || graph.node(fc.node).is_some_and(|node| node.name == *name))
            };
            if let Some(at) = classifier.links.iter().position(|&(i, _)| matches(i)) {
                return Ok(at);
            }
            let known: Vec<&str> =
                classifier.links.iter().filter_map(|&(i, _)| layers.get(i)).map(|fc| fc.name.as_str()).collect();
            let known = known.join(", ");
            let elsewhere = (0..layers.len()).find(|&i| matches(i)).and_then(|i| layers.get(i));
            let other =
                graph.nodes.iter().enumerate().find(|(i, node)| node.name == *name || layer_name(graph, *i) == *name);
            match (elsewhere, other) {
                (Some(fc), _) => {
                    let why = match Segment::follow(graph, layers, &fc.output) {
                        Err(obstacle) => obstacle.0,
                        Ok(_) => "a layer further on is not protectable".into(),
                    };
                    Err(NetworkError::NotInChain { name: name.clone(), why, known })
                }
                (None, Some((_, node))) => Err(NetworkError::NotInChain {
                    name: name.clone(),
                    why: format!("it is a {} and no FC layer", node.op),
                    known,
                }),
                (None, None) => Err(NetworkError::UnknownLayer { name: name.clone(), known }),
            }
        }
    }
}

/// Turns linked FC layers into dense layers with everything affine folded in.
fn build(
    graph: &Graph,
    layers: &[Fc],
    links: &[(usize, Segment)],
    preamble: Option<Affine>,
    substitutions: &Substitutions,
) -> Result<(Chain, Vec<Replaced>), NetworkError> {
    let mut chain = Chain { layers: Vec::new() };
    let mut replaced = Vec::new();
    let mut incoming = preamble.unwrap_or_else(Affine::identity);
    for (index, segment) in links {
        let Some(fc) = layers.get(*index) else {
            continue;
        };
        let name = fc.name.clone();
        let last = segment.next == Next::End;
        let mut polynomial = match &segment.activation {
            Step::None => Polynomial::identity(),
            Step::Polynomial(polynomial) => polynomial.clone(),
            Step::Function(kind) => match substitutions.get(*kind) {
                Some(polynomial) => {
                    replaced.push(Replaced { layer: name.clone(), from: *kind, to: polynomial.clone() });
                    polynomial.clone()
                }
                None if last => {
                    return Err(NetworkError::FinalActivation { layer: name, kind: *kind });
                }
                None => {
                    return Err(NetworkError::NeedsSubstitution { layer: name, kind: *kind });
                }
            },
        };
        let mut before = segment.before.clone();
        let mut after = segment.after.clone();
        if polynomial.degree() <= 1 {
            let c = polynomial.coefficients();
            let step = Affine { a: vec![c.get(1).copied().unwrap_or(0.0)], b: vec![c.first().copied().unwrap_or(0.0)] };
            before = before.then(&step).then(&after);
            after = Affine::identity();
            polynomial = Polynomial::identity();
        } else if last {
            // No layer follows that could take up a scale; one for all outputs goes into the polynomial.
            let ([a], [b]) = (after.a.as_slice(), after.b.as_slice()) else {
                return Err(NetworkError::UnevenOutput(name));
            };
            let mut c: Vec<f64> = polynomial.coefficients().iter().map(|c| c * a).collect();
            if let Some(c0) = c.first_mut() {
                *c0 += b;
            }
            polynomial = Polynomial::new(c);
        }
        let mut dense = Dense {
            name,
            rows: fc.rows,
            cols: fc.cols,
            weights: fc.weights(graph),
            bias: fc.bias(graph),
            activation: if polynomial.is_identity() {
                Activation::Identity
            } else {
                Activation::Polynomial(polynomial)
            },
        };
        fold_columns(&mut dense, &incoming);
        fold_rows(&mut dense, &before);
        if dense.weights.iter().chain(&dense.bias).any(|v| !v.is_finite()) {
            return Err(NetworkError::Overflow(dense.name));
        }
        incoming = after;
        chain.layers.push(dense);
    }
    Ok((chain, replaced))
}

/// The entry for `unit` of a coefficient that may be written once for all units.
fn at(coefficient: &[f64], unit: usize) -> f64 {
    match coefficient {
        [one] => *one,
        several => several.get(unit).copied().unwrap_or(0.0),
    }
}

/// `W (a x + b) + c` as a layer in `x`.
fn fold_columns(dense: &mut Dense, incoming: &Affine) {
    let rows = dense.weights.chunks_mut(dense.cols.max(1));
    for (row, bias) in rows.zip(&mut dense.bias) {
        for (unit, weight) in row.iter_mut().enumerate() {
            *bias += *weight * at(&incoming.b, unit);
            *weight *= at(&incoming.a, unit);
        }
    }
}

/// `a (W x + c) + b` as a layer.
fn fold_rows(dense: &mut Dense, outgoing: &Affine) {
    let rows = dense.weights.chunks_mut(dense.cols.max(1));
    for (unit, (row, bias)) in rows.zip(&mut dense.bias).enumerate() {
        let a = at(&outgoing.a, unit);
        for weight in row {
            *weight *= a;
        }
        *bias = *bias * a + at(&outgoing.b, unit);
    }
}

/// The ONNX file of everything before the tensor `end`, with nothing else in it: no weights of protected
/// layers, no metadata.
pub(crate) fn cut(onnx: &[u8], graph: &Graph, end: &str) -> Result<Vec<u8>, NetworkError> {
    let malformed = |error: &dyn fmt::Display| NetworkError::Malformed(error.to_string());
    let model = ModelProto::parse_buf(onnx).map_err(|e| malformed(&e))?;
    let proto = model.graph.ok_or_else(|| malformed(&"it holds no network graph"))?;
    let mut needed: HashSet<String> = HashSet::from([end.to_owned()]);
    let mut waiting = vec![end.to_owned()];
    let mut kept = HashSet::new();
    let writer: HashMap<&str, usize> = proto
        .node
        .iter()
        .enumerate()
        .flat_map(|(index, node)| node.output.iter().map(move |name| (name.as_str(), index)))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    while let Some(tensor) = waiting.pop() {
        let Some(&index) = writer.get(tensor.as_str()) else {
            continue;
        };
        if !kept.insert(index) {
            continue;
        }
        for name in proto.node.get(index).map_or(&[][..], |n| n.input.as_slice()) {
            if needed.insert(name.clone()) {
                waiting.push(name.clone());
            }
        }
    }
    // Weights that both sides use would leave in the clear.
    let behind =
        proto.node.iter().enumerate().filter(|(index, _)| !kept.contains(index)).flat_map(|(_, node)| &node.input);
    let is_weight = |name: &&String| graph.constant(name).is_some_and(|c| c.float && c.values.len() > 1);
    if let Some(tied) = behind.filter(|name| needed.contains(*name)).find(is_weight) {
        return Err(NetworkError::TiedWeights(tied.clone()));
    }
    let node =
        proto.node.iter().enumerate().filter(|(index, _)| kept.contains(index)).map(|(_, node)| node.clone()).collect();
    let holds = |name: &Option<String>| name.as_ref().is_some_and(|name| needed.contains(name));
    let front = GraphProto {
        node,
        initializer: proto.initializer.into_iter().filter(|t| holds(&t.name)).collect(),
        input: proto.input.into_iter().filter(|v| v.name.as_deref() == Some(graph.input.as_str())).collect(),
        output: vec![cut_output(graph, end)],
        value_info: Vec::new(),
    };
    ModelProto { graph: Some(front), metadata_props: Vec::new(), ..model }.write_buf().map_err(|e| malformed(&e))
}

fn cut_output(graph: &Graph, end: &str) -> ValueInfoProto {
    let batch = Dimension { dim_value: None, dim_param: Some("batch".into()) };
    let sizes = graph.shape(end).iter().skip(1);
    let sizes = sizes.map(|&size| Dimension { dim_value: i64::try_from(size).ok(), dim_param: None });
    ValueInfoProto {
        name: Some(end.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(DataType::FLOAT),
                shape: Some(TensorShapeProto { dim: std::iter::once(batch).chain(sizes).collect() }),
            }),
            ..TypeProto::default()
        }),
    }
}
