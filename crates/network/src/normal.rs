//! Writes out attributes that ONNX lets a file leave out and that the runtime needs.

use std::borrow::Cow;
use std::collections::HashMap;

use rten_onnx::onnx::{AttributeProto, AttributeType, ModelProto, NodeProto};
use subrosa_plain::check_structure;

/// The same network with the kernel's shape in every convolution and the strides in every pooling operator; what cannot
/// be read is given back for the parser to say why.
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
    if changed { model.write_buf().ok() } else { None }
}

fn ints(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values,
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}
