//! Foreign networks node by node: what is read computes the same as the file does, what cannot be read is named.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;
#[path = "../../network/tests/common/mod.rs"]
mod foreign;

use std::collections::BTreeMap;

use common::{difference, evaluate, operators};
use foreign::{Builder, float, int};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rten_onnx::onnx::{AttributeProto, AttributeType};
use subrosa_plain::PlainNetwork;
use subrosa_train::{Model, Op, Order, Pooling, Shape, Window, from_onnx, to_onnx};

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    let (name, r#type) = (Some(name.into()), Some(AttributeType::INTS));
    AttributeProto { name, ints: values.to_vec(), r#type, ..AttributeProto::default() }
}

fn text(name: &str, value: &str) -> AttributeProto {
    let (name, r#type) = (Some(name.into()), Some(AttributeType::STRING));
    AttributeProto { name, s: Some(value.into()), r#type, ..AttributeProto::default() }
}

struct Random(ChaCha20Rng);

impl Random {
    fn new() -> Self {
        Random(ChaCha20Rng::seed_from_u64(7))
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.random_range(-1.0..1.0)).collect()
    }

    /// An initializer.
    fn weights(&mut self, net: &mut Builder, dims: &[usize]) -> String {
        let values = self.values(dims.iter().product());
        net.weights(dims, &values)
    }
}

/// The runtime wants all of the window although ONNX has it by default.
fn convolution(net: &mut Builder, x: &str, filters: &str, strides: [i64; 2], more: Vec<AttributeProto>) -> String {
    let mut attributes = vec![ints("strides", &strides), ints("dilations", &[1, 1]), ints("pads", &[0; 4])];
    if more.iter().any(|attribute| attribute.s.is_some()) {
        attributes.truncate(2);
    }
    attributes.extend(more);
    net.node("Conv", &[x, filters], attributes)
}

/// Reads the file; what was read and what is written of it compute what the file does.
fn read(onnx: &[u8]) -> Model {
    let model = from_onnx(onnx).unwrap();
    let size = model.input.shape.elements();
    let input = Random::new().values(4 * size);
    let written = to_onnx(&model, &BTreeMap::new()).unwrap();
    for file in [onnx, &written] {
        let network = PlainNetwork::load(file, 1).unwrap();
        let outputs = network.run(4, &input).unwrap();
        for (sample, output) in input.chunks(size).zip(outputs.chunks(network.output_len())) {
            let output: Vec<f64> = output.iter().map(|&v| f64::from(v)).collect();
            let found = difference(&evaluate(&model, sample), &output);
            assert!(found < 1e-5, "{}: differs by {found}", operators(&model));
        }
    }
    model
}

#[test]
fn keras_axes_vanish() {
    let (mut net, mut random) = (Builder::new(&[7, 6, 3]), Random::new());
    let mean = random.weights(&mut net, &[3]);
    let deviation = net.weights(&[1, 1, 1, 3], &[2.0, 0.5, 1.5]);
    let centred = net.op("Sub", &["x", &mean]);
    let normal = net.op("Div", &[&centred, &deviation]);
    let first = net.node("Transpose", &[&normal], vec![ints("perm", &[0, 3, 1, 2])]);
    let filters = random.weights(&mut net, &[4, 3, 3, 2]);
    let conv = convolution(&mut net, &first, &filters, [2, 1], vec![text("auto_pad", "SAME_UPPER")]);
    let bias = random.weights(&mut net, &[1, 4, 1, 1]);
    let conv = net.op("Add", &[&conv, &bias]);
    let largest = net.node(
        "MaxPool",
        &[&conv],
        vec![text("auto_pad", "SAME_UPPER"), ints("kernel_shape", &[2, 2]), ints("strides", &[1, 1])],
    );
    let slope = net.weights(&[4, 1, 1], &[0.25; 4]);
    let leaky = net.op("PRelu", &[&largest, &slope]);
    let last = net.node("Transpose", &[&leaky], vec![ints("perm", &[0, 2, 3, 1])]);
    let (scale, shift) = (random.weights(&mut net, &[4]), random.weights(&mut net, &[4]));
    let scaled = net.op("Mul", &[&scale, &last]);
    let shifted = net.op("Add", &[&scaled, &shift]);
    let global = net.node("ReduceMean", &[&shifted], vec![ints("axes", &[1, 2]), int("keepdims", 0)]);
    let dense = net.dense(&global, 5, 4, || random.values(1)[0]);
    let model = read(&net.finish(&dense));
    assert_eq!(operators(&model), "affine conv max leakyrelu { slope: 0.25 } affine global dense");
    assert_eq!(model.input.order, Order::Hwc);
    assert_eq!(model.input.shape, Shape::Image { height: 7, width: 6, channels: 3 });
}

/// Three rows and as many channels: only the convolution tells which axis is which.
#[test]
fn the_axes_of_the_input_follow_from_what_reads_it() {
    for (order, shape) in [(Order::Chw, [5, 4, 3]), (Order::Hwc, [3, 4, 5])] {
        let (mut net, mut random) = (Builder::new(&shape), Random::new());
        let perm = match order {
            Order::Chw => vec![0, 1, 2, 3],
            Order::Hwc => vec![0, 3, 1, 2],
        };
        let first = net.node("Transpose", &["x"], vec![ints("perm", &perm)]);
        let filters = random.weights(&mut net, &[2, 5, 2, 2]);
        let conv = convolution(&mut net, &first, &filters, [1, 1], vec![]);
        let flat = net.op("Flatten", &[&conv]);
        let shape = if order == Order::Chw { (4, 3) } else { (3, 4) };
        let dense = net.dense(&flat, 2, 2 * (shape.0 - 1) * (shape.1 - 1), || random.values(1)[0]);
        let model = read(&net.finish(&dense));
        assert_eq!(
            (model.input.order, model.input.shape),
            (order, Shape::Image { height: shape.0, width: shape.1, channels: 5 })
        );
        assert_eq!(operators(&model), "conv flatten-chw dense");
    }
}

#[test]
fn arithmetic_becomes_affine_steps_and_polynomials() {
    let (mut net, mut random) = (Builder::new(&[6]), Random::new());
    let weights = random.weights(&mut net, &[6, 5]);
    let bias = random.weights(&mut net, &[5]);
    let gemm = net.node("Gemm", &["x", &weights, &bias], vec![float("alpha", 0.5), float("beta", 2.0)]);
    // 1 - 2 x^3 / 4, negated, times a number for each unit.
    let (three, two, four, one) = (net.scalar(3.0), net.scalar(2.0), net.scalar(4.0), net.scalar(1.0));
    let cube = net.op("Pow", &[&gemm, &three]);
    let twice = net.op("Mul", &[&two, &cube]);
    let half = net.op("Div", &[&twice, &four]);
    let rest = net.op("Sub", &[&one, &half]);
    let minus = net.op("Neg", &[&rest]);
    let scale = random.weights(&mut net, &[1, 5]);
    let cubic = net.op("Mul", &[&minus, &scale]);
    let square = random.weights(&mut net, &[5, 5]);
    let branch = net.op("MatMul", &[&cubic, &square]);
    // The branch, half of what it came from, and a bias.
    let halved = net.op("Div", &[&cubic, &two]);
    let sum = net.op("Sum", &[&branch, &halved, &bias]);
    let difference = net.op("Sub", &[&sum, &gemm]);
    let (zero, none) = (net.scalar(0.0), String::new());
    let clipped = net.op("Clip", &[&difference, &zero, &none]);
    let sigmoid = net.op("Sigmoid", &[&clipped]);
    let dense = net.dense(&sigmoid, 3, 5, || random.values(1)[0]);
    let model = read(&net.finish(&dense));
    assert_eq!(operators(&model), "dense learned3 dense affine add affine affine add relu sigmoid dense");
}

#[test]
fn padding_that_counts_is_a_sum() {
    let (mut net, mut random) = (Builder::new(&[2, 5, 5]), Random::new());
    let attributes = |count| {
        vec![
            ints("kernel_shape", &[3, 3]),
            ints("strides", &[2, 2]),
            ints("pads", &[1; 4]),
            int("count_include_pad", count),
        ]
    };
    let counted = net.node("AveragePool", &["x"], attributes(1));
    let plain = net.node("AveragePool", &["x"], attributes(0));
    let sum = net.op("Add", &[&counted, &plain]);
    let flat = net.op("Flatten", &[&sum]);
    let dense = net.dense(&flat, 2, 18, || random.values(1)[0]);
    assert_eq!(operators(&read(&net.finish(&dense))), "sum mean affine add flatten-chw dense");
}

/// The runtime pads for SAME_LOWER as for SAME_UPPER, so it cannot tell.
#[test]
fn the_odd_zero_lies_before_or_behind() {
    for (auto_pad, before, after) in [("SAME_LOWER", [1, 1], [1, 0]), ("SAME_UPPER", [1, 0], [1, 1])] {
        let mut net = Builder::new(&[2, 5, 6]);
        let window = vec![text("auto_pad", auto_pad), ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2])];
        let pooled = net.node("MaxPool", &["x"], window);
        let global = net.op("GlobalAveragePool", &[&pooled]);
        let flat = net.op("Flatten", &[&global]);
        let model = from_onnx(&net.finish(&flat)).unwrap();
        let window = Window { size: [3, 3], stride: [2, 2], before, after };
        assert_eq!(model.nodes[0].op, Op::Pool { pooling: Pooling::Max, window });
    }
}

#[test]
fn what_cannot_be_trained_is_named() {
    type Part = fn(&mut Builder, &mut Random) -> String;
    let pictures: [(&str, Part); 8] = [
        ("(HardSigmoid) is an operator that the Training Agent does not know", |net, _| net.op("HardSigmoid", &["x"])),
        ("(Conv) convolves groups of channels apart", |net, random| {
            let filters = random.weights(net, &[4, 1, 3, 3]);
            convolution(net, "x", &filters, [1, 1], vec![int("group", 4)])
        }),
        ("(Conv) has a dilated window", |net, random| {
            let filters = random.weights(net, &[4, 4, 2, 2]);
            net.node(
                "Conv",
                &["x", &filters],
                vec![ints("strides", &[1, 1]), ints("pads", &[0; 4]), ints("dilations", &[2, 2])],
            )
        }),
        ("(MaxPool) gives a result of shape [1, 4, 4, 4], which rounds its size up", |net, _| {
            net.node(
                "MaxPool",
                &["x"],
                vec![ints("kernel_shape", &[2; 2]), ints("strides", &[2; 2]), int("ceil_mode", 1)],
            )
        }),
        ("(Mul) multiplies two values of the network", |net, _| {
            let gate = net.op("Sigmoid", &["x"]);
            net.op("Mul", &["x", &gate])
        }),
        ("(Clip) holds values between 0 and 6", |net, _| {
            let (low, high) = (net.scalar(0.0), net.scalar(6.0));
            net.op("Clip", &["x", &low, &high])
        }),
        ("(Add) has a constant of shape [7, 7] that differs within a channel", |net, random| {
            let mean = random.weights(net, &[7, 7]);
            net.op("Add", &["x", &mean])
        }),
        ("(Softmax) is not the network's last step", |net, _| {
            let weights = net.op("Softmax", &["x"]);
            net.op("Relu", &[&weights])
        }),
    ];
    for (expected, part) in pictures {
        let (mut net, mut random) = (Builder::new(&[4, 7, 7]), Random::new());
        let last = part(&mut net, &mut random);
        let global = net.op("GlobalAveragePool", &[&last]);
        let flat = net.op("Flatten", &[&global]);
        let error = from_onnx(&net.finish(&flat)).unwrap_err().to_string();
        assert!(error.contains("node 'net/") && error.contains(expected), "{error}");
    }
    let mut net = Builder::new(&[2, 3, 4, 5]);
    let flat = net.op("Flatten", &["x"]);
    let error = from_onnx(&net.finish(&flat)).unwrap_err().to_string();
    assert!(error.contains("its input 'x' has shape [1, 2, 3, 4, 5]"), "{error}");
}
