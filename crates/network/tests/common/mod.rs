//! Small ONNX networks, written node by node.
#![allow(dead_code)] // each test file uses its part

use std::cell::RefCell;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
use subrosa_network::{Circuit, Network};
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

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}

pub fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        s: Some(value.into()),
        r#type: Some(AttributeType::STRING),
        ..AttributeProto::default()
    }
}

/// A tensor of 64-bit integers.
pub fn int_tensor(name: &str, dims: &[usize], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(DataType::INT64),
        raw_data: Some(RefCell::new(values.iter().flat_map(|v| v.to_le_bytes()).collect())),
        ..TensorProto::default()
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

    /// An initializer of integers, one axis.
    pub fn integers(&mut self, values: &[i64]) -> String {
        let name = self.fresh("i");
        self.graph.initializer.push(int_tensor(&name, &[values.len()], values));
        name
    }

    /// A node with several outputs.
    pub fn node_with_outputs(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attribute: Vec<AttributeProto>,
    ) -> Vec<String> {
        let first = self.node(op, inputs, attribute);
        let node = self.graph.node.last_mut().unwrap();
        node.output = (0..outputs).map(|k| format!("{first}.{k}")).collect();
        node.output.clone()
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

    /// As [`finish`](Self::finish), for another version of the operators.
    pub fn finish_opset(mut self, output: &str, opset: i64) -> Vec<u8> {
        self.graph.output.push(ValueInfoProto { name: Some(output.into()), r#type: None });
        self.file_of_opset(opset)
    }

    /// The file, with `output` as the network's output.
    pub fn finish(mut self, output: &str) -> Vec<u8> {
        self.graph.output.push(ValueInfoProto { name: Some(output.into()), r#type: None });
        self.file()
    }

    pub fn file(self) -> Vec<u8> {
        self.file_of_opset(15)
    }

    pub fn file_of_opset(self, opset: i64) -> Vec<u8> {
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
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

/// A network without the Softmax at its end.
pub fn without_softmax(onnx: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::parse_buf(onnx).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let output = graph.output[0].name.clone().unwrap();
    let last = graph.node.iter().find(|node| node.output.contains(&output)).unwrap();
    if matches!(last.op_type.as_deref(), Some("Softmax" | "LogSoftmax")) {
        graph.output[0] = ValueInfoProto { name: Some(last.input[0].clone()), r#type: None };
    }
    model.write_buf().unwrap()
}

/// A network with mean pooling in the place of each MaxPool.
pub fn with_mean_pooling(onnx: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::parse_buf(onnx).unwrap();
    for node in &mut model.graph.as_mut().unwrap().node {
        if node.op_type.as_deref() == Some("MaxPool") {
            node.op_type = Some("AveragePool".into());
            node.attribute.retain(|a| !matches!(a.name.as_deref(), Some("dilations" | "storage_order")));
        }
    }
    model.write_buf().unwrap()
}

/// A circuit from the input on against the runtime, on random inputs.
pub fn compare(name: &str, onnx: &[u8], circuit: &Circuit, samples: usize) {
    let network = Network::from_onnx(onnx).unwrap();
    let plain = PlainNetwork::load(&without_softmax(network.onnx()), 1).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    assert_eq!((circuit.inputs(), circuit.outputs()), (plain.input_len(), plain.output_len()), "{name}");
    for _ in 0..samples {
        let input: Vec<f32> = (0..plain.input_len()).map(|_| rng.random_range(-1.0..1.0)).collect();
        let expected = plain.run(1, &input).unwrap();
        let exact: Vec<f64> = input.iter().map(|&v| v.into()).collect();
        let scores = circuit.eval(&exact);
        let difference = relative_difference(&scores, &expected);
        assert!(difference < 1e-4, "{name}: off by {difference}: {scores:?} instead of {expected:?}");
    }
}
