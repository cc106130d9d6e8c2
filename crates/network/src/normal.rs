//! Writes out attributes that ONNX lets a file leave out and that the runtime needs; joins several outputs into one.

use std::borrow::Cow;
use std::collections::HashMap;

use rten_onnx::onnx::{AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use subrosa_plain::check_structure;

use crate::graph::Graph;

/// Name of the output that several were joined into.
pub(crate) const JOINED: &str = "subrosa/outputs";

/// The same network with the kernel's shape in every convolution and the strides in every pooling operator, and with one output, which
/// holds several one behind the other; what cannot be read is given back for the parser to say why.
pub(crate) fn written_out(onnx: &[u8]) -> Cow<'_, [u8]> {
    match rewritten(onnx) {
        Some(file) => Cow::Owned(file),
        None => Cow::Borrowed(onnx),
    }
}

fn rewritten(onnx: &[u8]) -> Option<Vec<u8>> {
    check_structure(onnx).ok()?;
    let mut model = ModelProto::parse_buf(onnx).ok()?;
    let graph = model.graph.as_mut()?;
    let shapes: HashMap<&str, &[i64]> =
        graph.initializer.iter().filter_map(|t| Some((t.name.as_deref()?, t.dims.as_slice()))).collect();
    let mut changed = false;
    for node in &mut graph.node {
        let has = |node: &NodeProto, name: &str| node.attribute.iter().any(|a| a.name.as_deref() == Some(name));
        match node.op_type.as_deref() {
            Some("Conv" | "ConvTranspose") if !has(node, "kernel_shape") => {
                let weights = node.input.get(1).and_then(|name| shapes.get(name.as_str()));
                if let Some(kernel) = weights.and_then(|shape| shape.get(2..)) {
                    node.attribute.push(ints("kernel_shape", kernel.to_vec()));
                    changed = true;
                }
            }
            Some("AveragePool" | "MaxPool") if !has(node, "strides") => {
                let kernel = node.attribute.iter().find(|a| a.name.as_deref() == Some("kernel_shape"));
                if let Some(axes) = kernel.map(|kernel| kernel.ints.len()) {
                    node.attribute.push(ints("strides", vec![1; axes]));
                    changed = true;
                }
            }
            _ => {}
        }
    }
    changed |= joined(graph);
    if changed { model.write_buf().ok() } else { None }
}

/// Flattens several outputs and puts them one behind the other.
fn joined(graph: &mut GraphProto) -> bool {
    let names: Vec<String> = graph.output.iter().filter_map(|value| value.name.clone()).collect();
    if names.len() < 2 || graph.node.iter().flat_map(|node| &node.output).any(|name| name.starts_with(JOINED)) {
        return false;
    }
    let node = |op: &str, input: Vec<String>, output: &str, axis| NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(op.to_owned()),
        input,
        output: vec![output.to_owned()],
        attribute: vec![AttributeProto {
            name: Some("axis".to_owned()),
            i: Some(axis),
            r#type: Some(AttributeType::INT),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    };
    let flat: Vec<String> = (0..names.len()).map(|number| format!("{JOINED}/{number}")).collect();
    graph.node.extend(names.into_iter().zip(&flat).map(|(name, flat)| node("Flatten", vec![name], flat, 1)));
    graph.node.push(node("Concat", flat, JOINED, 1));
    graph.output = vec![ValueInfoProto { name: Some(JOINED.to_owned()), r#type: None }];
    true
}

/// The same network with explicit pads in the place of `SAME_LOWER`, which the runtime takes for `SAME_UPPER`; `None` if
/// there is none of it.
pub(crate) fn with_explicit_pads(onnx: &[u8], graph: &Graph) -> Option<Vec<u8>> {
    if !graph.nodes().iter().any(|node| node.text("auto_pad") == Some("SAME_LOWER")) {
        return None;
    }
    let mut model = ModelProto::parse_buf(onnx).ok()?;
    for node in &mut model.graph.as_mut()?.node {
        let traced = node.output.first().and_then(|output| graph.node(graph.producer(output)?));
        let Some(traced) = traced.filter(|traced| traced.text("auto_pad") == Some("SAME_LOWER")) else {
            continue;
        };
        let sizes = |tensor: &str| graph.shape(tensor).get(2..).unwrap_or_default();
        let at = |name: &str, axis: usize| {
            traced
                .ints(name)
                .and_then(|values| values.get(axis))
                .map_or(1, |&value| usize::try_from(value).unwrap_or(1))
        };
        let axes = sizes(traced.input(0)).iter().zip(sizes(traced.output())).enumerate();
        let totals: Vec<i64> = axes
            .map(|(axis, (&input, &output))| {
                let reach =
                    at("dilations", axis).saturating_mul(at("kernel_shape", axis).saturating_sub(1)).saturating_add(1);
                let span = output.saturating_sub(1).saturating_mul(at("strides", axis)).saturating_add(reach);
                i64::try_from(span.saturating_sub(input)).unwrap_or(0)
            })
            .collect();
        let begins = totals.iter().map(|total| total - total / 2);
        let pads = begins.chain(totals.iter().map(|total| total / 2)).collect();
        node.attribute.retain(|a| !matches!(a.name.as_deref(), Some("auto_pad" | "pads")));
        node.attribute.push(ints("pads", pads));
    }
    model.write_buf().ok()
}

fn ints(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values,
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}
