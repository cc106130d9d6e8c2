//! Small ONNX networks, written node by node.
#![allow(dead_code)] // each test file uses its part

use std::cell::RefCell;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
use subrosa_network::Circuit;
use subrosa_plain::PlainNetwork;

pub struct Builder {
    pub graph: GraphProto,
    counter: usize,
}

pub fn tensor(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(values.iter().flat_map(|v| v.to_le_bytes()).collect())),
        ..TensorProto::default()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..AttributeProto::default()
    }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(value),
        r#type: Some(AttributeType::FLOAT),
        ..AttributeProto::default()
    }
}

pub fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("batch".into()), dim_value: None };
    let fixed = shape.iter().map(|&size| Dimension { dim_value: Some(size as i64), dim_param: None });
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(DataType::FLOAT),
                shape: Some(TensorShapeProto { dim: std::iter::once(batch).chain(fixed).collect() }),
            }),
            ..TypeProto::default()
        }),
    }
}

impl Builder {
    /// A graph with the input `x` of `shape`.
    pub fn new(shape: &[usize]) -> Self {
        let graph = GraphProto { input: vec![value("x", shape)], ..GraphProto::default() };
        Builder { graph, counter: 0 }
    }

    fn fresh(&mut self, what: &str) -> String {
        self.counter += 1;
        format!("{what}_{}", self.counter)
    }

    /// An initializer.
    pub fn weights(&mut self, dims: &[usize], values: &[f32]) -> String {
        let name = self.fresh("w");
        self.graph.initializer.push(tensor(&name, dims, values));
        name
    }

    /// A Constant node with a scalar.
    pub fn scalar(&mut self, value: f32) -> String {
        let name = self.fresh("c");
        let attribute = AttributeProto {
            name: Some("value".into()),
            t: Some(tensor("", &[], &[value])),
            r#type: Some(AttributeType::TENSOR),
            ..AttributeProto::default()
        };
        self.graph.node.push(NodeProto {
            op_type: Some("Constant".into()),
            output: vec![name.clone()],
            attribute: vec![attribute],
            ..NodeProto::default()
        });
        name
    }

    /// A node with one output, whose name is returned.
    pub fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let name = self.fresh(op);
        self.graph.node.push(NodeProto {
            name: Some(format!("net/{}/{op}", name.to_lowercase())),
            op_type: Some(op.into()),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![name.clone()],
            attribute,
            ..NodeProto::default()
        });
        name
    }

    pub fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.node(op, inputs, vec![])
    }

    /// `input` times `cols x rows` weights, plus a bias.
    pub fn dense(&mut self, input: &str, rows: usize, cols: usize, mut draw: impl FnMut() -> f32) -> String {
        let w: Vec<f32> = (0..rows * cols).map(|_| draw()).collect();
        let b: Vec<f32> = (0..rows).map(|_| draw()).collect();
        let (w, b) = (self.weights(&[cols, rows], &w), self.weights(&[rows], &b));
        let product = self.op("MatMul", &[input, &w]);
        self.op("Add", &[&product, &b])
    }

    /// The file, with `output` as the network's output.
    pub fn finish(mut self, output: &str) -> Vec<u8> {
        self.graph.output.push(ValueInfoProto { name: Some(output.into()), r#type: None });
        self.file()
    }

    pub fn file(self) -> Vec<u8> {
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(15) }],
            ..ModelProto::default()
        };
        model.write_buf().unwrap()
    }
}

/// Largest difference between `a` and `b`, relative to the largest value.
pub fn relative_difference(a: &[f64], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    let differences = a.iter().zip(b).map(|(a, &b)| (a - f64::from(b)).abs());
    differences.fold(0.0, f64::max) / largest
}

/// What a network's output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    Scores,
    Softmax,
}

/// A circuit from the input on against the runtime, on random inputs.
pub fn compare(name: &str, onnx: &[u8], circuit: &Circuit, oracle: Oracle, samples: usize) {
    let plain = PlainNetwork::load(onnx, 1).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    assert_eq!((circuit.inputs(), circuit.outputs()), (plain.input_len(), plain.output_len()), "{name}");
    for _ in 0..samples {
        let input: Vec<f32> = (0..plain.input_len()).map(|_| rng.random_range(-1.0..1.0)).collect();
        let expected = plain.run(1, &input).unwrap();
        let exact: Vec<f64> = input.iter().map(|&v| v.into()).collect();
        let mut scores = circuit.eval(&exact);
        if oracle == Oracle::Softmax {
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            scores.iter_mut().for_each(|s| *s = (*s - largest).exp() / sum);
        }
        let difference = relative_difference(&scores, &expected);
        assert!(difference < 1e-4, "{name}: off by {difference}: {scores:?} instead of {expected:?}");
    }
}
