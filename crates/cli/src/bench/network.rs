//! Random classifiers as ONNX files, and inputs as they come out of a ReLU and a pooling.

use crate::failure::failure;
use rand::{Rng, RngExt};
use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, TypeProtoTensor, ValueInfoProto,
};
use std::cell::RefCell;
use subrosa_network::NetworkError;
use subrosa_terminal::Failure;

/// Share of inputs that a ReLU has set to zero.
const ZEROS: f64 = 0.6;

/// FC layers of these sizes with a ReLU between each two (for `protect` to replace); weights have variance 1 / inputs.
pub(super) fn onnx(sizes: &[usize], rng: &mut impl Rng) -> Result<Vec<u8>, Failure> {
    let mut graph = GraphProto::default();
    let mut last = "input".to_owned();
    for (layer, pair) in sizes.windows(2).enumerate() {
        let &[cols, rows] = pair else { continue };
        if layer > 0 {
            last = node(&mut graph, "Relu", &[&last], format!("activation{layer}"));
        }
        let bound = (3.0 / cols as f32).sqrt();
        let mut draw =
            |count: usize, bound: f32| (0..count).map(|_| rng.random_range(-bound..bound)).collect::<Vec<f32>>();
        let (weights, bias) = (format!("fc{layer}.weight"), format!("fc{layer}.bias"));
        graph.initializer.push(tensor(&weights, &[cols, rows], &draw(rows * cols, bound)));
        graph.initializer.push(tensor(&bias, &[rows], &draw(rows, 0.1)));
        let product = node(&mut graph, "MatMul", &[&last, &weights], format!("product{layer}"));
        last = node(&mut graph, "Add", &[&product, &bias], format!("fc{layer}"));
    }
    graph.input.push(value("input", sizes.first().copied().unwrap_or(1)));
    graph.output.push(value(&last, sizes.last().copied().unwrap_or(1)));
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(15) }],
        ..ModelProto::default()
    };
    model.write_buf().map_err(|e| failure(NetworkError::Malformed(e.to_string())))
}

/// One input: most values zero, the others uniform in 0 .. 1.
pub(super) fn input(len: usize, rng: &mut impl Rng) -> Vec<f32> {
    (0..len).map(|_| if rng.random_bool(ZEROS) { 0.0 } else { rng.random_range(0.0..1.0) }).collect()
}

fn node(graph: &mut GraphProto, op: &str, inputs: &[&str], output: String) -> String {
    graph.node.push(NodeProto {
        name: Some(output.clone()),
        op_type: Some(op.into()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.clone()],
        ..NodeProto::default()
    });
    output
}

fn tensor(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(values.iter().flat_map(|v| v.to_le_bytes()).collect())),
        ..TensorProto::default()
    }
}

fn value(name: &str, len: usize) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("batch".into()), dim_value: None };
    let fixed = Dimension { dim_value: Some(len as i64), dim_param: None };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(DataType::FLOAT),
                shape: Some(TensorShapeProto { dim: vec![batch, fixed] }),
            }),
            ..TypeProto::default()
        }),
    }
}
