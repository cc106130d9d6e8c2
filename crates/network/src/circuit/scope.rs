//! Where the network is cut, and which nodes are behind the cut.

use std::collections::HashSet;

use super::places::guessed_places;
use super::trace::{At, Tracer};
use super::{CircuitSplit, Source};
use crate::activation::Substitutions;
use crate::error::NetworkError;
use crate::graph::{Graph, Node};
use crate::layers;
use crate::segment::Fc;
use crate::split::{Classifier, Scope, cut, first_link};

/// Cuts the network of `onnx`, parsed as `graph`, before the part that `scope` names and traces that part.
pub(crate) fn circuit(
    onnx: &[u8],
    graph: &Graph,
    scope: &Scope,
    substitutions: &Substitutions,
) -> Result<CircuitSplit, NetworkError> {
    let (start, name) = start(graph, scope)?;
    let start = if only_moves(graph, &start) { graph.input().to_owned() } else { start };
    let order = behind(graph, &start).map_err(|crossing| several_paths(graph, &name, crossing))?;
    let guess = guessed_places(graph.shape(&start));
    let none = Substitutions::none();
    let hint = Tracer::new(graph, &none, &start, guess.clone()).input_hint(&start, &order);
    let places = hint.unwrap_or(guess);
    let mut tracer = Tracer::new(graph, substitutions, &start, places.clone());
    tracer.run(&order)?;
    let output = match order.last().and_then(|&index| Some(At { index, node: graph.node(index)? })) {
        Some(at) => tracer.value(at, graph.output())?,
        None => {
            return Err(NetworkError::Unsupported(format!(
                "nothing lies between '{start}' and its output that could be protected"
            )));
        }
    };
    let (circuit, replaced, functions) = tracer.finish(&output, places)?;
    if !circuit.layers.iter().any(|layer| layer.terms.iter().any(|term| matches!(term.source, Source::Input))) {
        return Err(NetworkError::Unsupported("its output does not depend on its input".into()));
    }
    let front = if start == graph.input() { None } else { Some(cut(onnx, graph, &start)?) };
    Ok(CircuitSplit { front, features: graph.elements(&start), circuit, replaced, functions })
}

/// The tensor that the scope's first layer reads, and that layer's name.
fn start(graph: &Graph, scope: &Scope) -> Result<(String, String), NetworkError> {
    match scope {
        Scope::All => Ok((graph.input().to_owned(), String::new())),
        Scope::Last | Scope::Classifier => {
            let layers = Fc::all(graph);
            let classifier = Classifier::find(graph, &layers).map_err(|o| NetworkError::NoDenseEnd(o.0))?;
            let link = first_link(graph, &layers, &classifier, scope)?;
            let whole = link == 0 && classifier.preamble.is_some();
            let first = classifier.links.get(link).and_then(|&(index, _)| layers.get(index));
            match first {
                Some(first) if !whole => Ok((first.input.clone(), first.name.clone())),
                _ => Ok((graph.input().to_owned(), String::new())),
            }
        }
        Scope::From(name) => {
            let listed = layers::list_with_nodes(graph);
            let by_row = listed.iter().find(|(_, row)| row.name == *name).map(|(index, _)| *index);
            let by_node = graph.nodes().iter().position(|node| node.name == *name);
            let by_layer = (0..graph.nodes().len()).find(|&index| graph.layer_name(index) == *name);
            let index = by_row.or(by_node).or(by_layer).ok_or_else(|| NetworkError::NoSuchLayer {
                name: name.clone(),
                known: listed.iter().map(|(_, row)| row.name.as_str()).collect::<Vec<_>>().join(", "),
            })?;
            match graph.node(index).map(|node| single_input(graph, node)) {
                Some(Ok(Some(tensor))) => Ok((tensor.to_owned(), name.clone())),
                Some(Err(crossing)) => Err(several_paths(graph, name, crossing)),
                _ => {
                    let text = format!("layer '{name}' does not depend on the network's input");
                    Err(NetworkError::Unsupported(text))
                }
            }
        }
    }
}

/// The tensors that a node reads values from, not shapes or indices.
fn data_inputs<'a>(graph: &'a Graph, node: &'a Node) -> impl Iterator<Item = &'a str> {
    let count = match node.op.as_str() {
        "Reshape" | "Slice" | "Pad" | "Squeeze" | "Unsqueeze" | "ReduceMean" | "ReduceSum" | "Expand" | "Split"
        | "Tile" | "Resize" | "Dropout" => 1,
        "Shape" | "Size" => 0,
        _ => usize::MAX,
    };
    let names = node.inputs.iter().take(count).map(String::as_str);
    names.filter(|name| !name.is_empty() && !graph.constants.contains_key(*name))
}

/// The one tensor that a node reads values from.
fn single_input<'a>(graph: &'a Graph, node: &'a Node) -> Result<Option<&'a str>, Crossing> {
    let mut names = data_inputs(graph, node);
    let first = names.next();
    match names.find(|name| Some(*name) != first) {
        Some(other) => Err(Crossing { reader: node.name.clone(), tensor: other.to_owned() }),
        None => Ok(first),
    }
}

/// Whether a tensor holds the network's input, only moved or reshaped.
fn only_moves(graph: &Graph, tensor: &str) -> bool {
    let mut at = tensor;
    loop {
        if at == graph.input() {
            return true;
        }
        match graph.producer(at).and_then(|index| graph.node(index)) {
            Some(node) if node.op == "Transpose" || graph.keeps_order(node) => at = node.input(0),
            _ => return false,
        }
    }
}

/// A node behind the cut that reads a tensor from before it.
struct Crossing {
    reader: String,
    tensor: String,
}

/// The nodes that the output needs from the tensor `start` on, in topological order.
fn behind(graph: &Graph, start: &str) -> Result<Vec<usize>, Crossing> {
    let before = ancestors(graph, start);
    let mut wanted: HashSet<&str> = HashSet::from([graph.output()]);
    let mut order = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if !node.outputs.iter().any(|name| wanted.contains(name.as_str())) {
            continue;
        }
        if before.contains(&index) {
            continue;
        }
        order.push(index);
        for name in data_inputs(graph, node).filter(|name| *name != start) {
            let crossing = name == graph.input() || graph.producer(name).is_some_and(|index| before.contains(&index));
            if crossing {
                return Err(Crossing { reader: node.name.clone(), tensor: name.to_owned() });
            }
            wanted.insert(name);
        }
    }
    order.reverse();
    Ok(order)
}

/// The nodes that a tensor depends on.
fn ancestors(graph: &Graph, tensor: &str) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut waiting = vec![tensor];
    while let Some(tensor) = waiting.pop() {
        if let Some(index) = graph.producer(tensor)
            && found.insert(index)
            && let Some(node) = graph.node(index)
        {
            waiting.extend(node.inputs.iter().map(String::as_str));
        }
    }
    found
}

fn several_paths(graph: &Graph, name: &str, crossing: Crossing) -> NetworkError {
    let known: Vec<String> = layers::list_with_nodes(graph)
        .into_iter()
        .filter(|(index, _)| {
            let tensor = graph.node(*index).map(|node| single_input(graph, node));
            matches!(tensor, Some(Ok(Some(tensor))) if behind(graph, tensor).is_ok())
        })
        .map(|(_, row)| row.name)
        .collect();
    NetworkError::SeveralPaths {
        name: name.to_owned(),
        reader: crossing.reader,
        tensor: crossing.tensor,
        known: known.join(", "),
    }
}
