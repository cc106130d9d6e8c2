//! Random networks as ONNX files, and inputs as they come out of a ReLU and a pooling.

use crate::failure::failure;
use rand::{Rng, RngExt};
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
use std::cell::RefCell;
use subrosa_network::NetworkError;
use subrosa_terminal::Failure;

/// Share of inputs that a ReLU has set to zero.
const ZEROS: f64 = 0.6;
const BIAS_BOUND: f32 = 0.1;

/// FC layers of these sizes with a ReLU between each two (for `protect` to replace); weights have variance 1 / inputs.
pub(super) fn onnx(sizes: &[usize], rng: &mut impl Rng) -> Result<Vec<u8>, Failure> {
    let mut layers = Layers::new(rng);
    let mut last = "input".to_owned();
    for (layer, pair) in sizes.windows(2).enumerate() {
        let &[cols, rows] = pair else { continue };
        if layer > 0 {
            last = layers.node("Relu", &[&last], format!("activation{layer}"));
        }
        last = layers.dense(&last, &format!("fc{layer}"), [cols, rows]);
    }
    let (first, classes) = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
    model(layers.finish(), ("input", &[first]), (&last, classes))
}

/// One input: most values zero, the others uniform in 0 .. 1.
pub(super) fn input(len: usize, rng: &mut impl Rng) -> Vec<f32> {
    (0..len).map(|_| if rng.random_bool(ZEROS) { 0.0 } else { rng.random_range(0.0..1.0) }).collect()
}

/// A graph that grows layer by layer, with random weights.
pub(super) struct Layers<'a, R> {
    graph: GraphProto,
    rng: &'a mut R,
}

impl<'a, R: Rng> Layers<'a, R> {
    pub fn new(rng: &'a mut R) -> Self {
        Self { graph: GraphProto::default(), rng }
    }

    pub fn finish(self) -> GraphProto {
        self.graph
    }

    /// An operator without attributes; gives the name of its output.
    pub fn node(&mut self, op: &str, inputs: &[&str], output: String) -> String {
        self.operator(op, inputs, output, Vec::new())
    }

    /// A fully connected layer: MatMul, Add.
    pub fn dense(&mut self, input: &str, name: &str, [cols, rows]: [usize; 2]) -> String {
        let (weights, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.constant(&weights, &[cols, rows], deviation_one_over(cols));
        self.constant(&bias, &[rows], BIAS_BOUND);
        let product = self.node("MatMul", &[input, &weights], format!("{name}.product"));
        self.node("Add", &[&product, &bias], name.to_owned())
    }

    /// A square convolution, zero-padded to keep the image's size or not at all.
    pub fn convolution(
        &mut self,
        input: &str,
        name: &str,
        [filters, channels, kernel]: [usize; 3],
        padded: bool,
    ) -> String {
        let (weights, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.constant(&weights, &[filters, channels, kernel, kernel], deviation_one_over(channels * kernel * kernel));
        self.constant(&bias, &[filters], BIAS_BOUND);
        let pad = if padded { kernel as i64 / 2 } else { 0 };
        let attributes = vec![integers("kernel_shape", &[kernel as i64; 2]), integers("pads", &[pad; 4])];
        self.operator("Conv", &[input, &weights, &bias], name.to_owned(), attributes)
    }

    /// The largest of each 2 x 2 pixels.
    pub fn max_pool(&mut self, input: &str, name: String) -> String {
        self.operator("MaxPool", &[input], name, vec![integers("kernel_shape", &[2, 2]), integers("strides", &[2, 2])])
    }

    fn operator(&mut self, op: &str, inputs: &[&str], output: String, attribute: Vec<AttributeProto>) -> String {
        self.graph.node.push(NodeProto {
            name: Some(output.clone()),
            op_type: Some(op.into()),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.clone()],
            attribute,
            ..NodeProto::default()
        });
        output
    }

    /// Values uniform in -`bound` .. `bound`.
    fn constant(&mut self, name: &str, dims: &[usize], bound: f32) {
        let count = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.rng.random_range(-bound..bound)).collect();
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: Some(DataType::FLOAT),
            raw_data: Some(RefCell::new(values.iter().flat_map(|v| v.to_le_bytes()).collect())),
            ..TensorProto::default()
        });
    }
}

/// A graph with its input of this shape (without the batch) and its vector of outputs, as a file.
pub(super) fn model(
    mut graph: GraphProto,
    (input, shape): (&str, &[usize]),
    (output, len): (&str, usize),
) -> Result<Vec<u8>, Failure> {
    graph.input.push(value(input, shape));
    graph.output.push(value(output, &[len]));
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(15) }],
        ..ModelProto::default()
    };
    model.write_buf().map_err(|e| failure(NetworkError::Malformed(e.to_string())))
}

/// Bound of a uniform distribution with variance 1 / inputs.
fn deviation_one_over(inputs: usize) -> f32 {
    (3.0 / inputs as f32).sqrt()
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}

fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("batch".into()), dim_value: None };
    let fixed = shape.iter().map(|&len| Dimension { dim_value: Some(len as i64), dim_param: None });
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(DataType::FLOAT),
                shape: Some(TensorShapeProto { dim: [batch].into_iter().chain(fixed).collect() }),
            }),
            ..TypeProto::default()
        }),
    }
}
