//! Networks as ONNX files: what the export writes is what the network computes, for every reader; what Keras and PyTorch
//! export is read back as what they compute.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{difference, evaluate, fill, operators};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use subrosa_input::Samples;
use subrosa_network::{Network, Polynomial, Scope, Substitutions};
use subrosa_plain::PlainNetwork;
use subrosa_train::{
    Activation, Function, Input, Model, Op, Order, Pooling, Shape, Source, Window, from_onnx, to_onnx,
};

const SEED: u64 = 2026;

fn image(height: usize, width: usize, channels: usize, order: Order) -> Input {
    Input { name: "image".into(), shape: Shape::Image { height, width, channels }, order }
}

fn conv(window: Window, filters: usize, bias: bool) -> Op {
    Op::Conv { window, filters, bias }
}

fn pool(pooling: Pooling, window: Window) -> Op {
    Op::Pool { pooling, window }
}

fn function(function: Function) -> Op {
    Op::Activation(Activation::Function(function))
}

fn polynomial(coefficients: &[f64]) -> Op {
    Op::Activation(Activation::Polynomial(Polynomial::new(coefficients.to_vec())))
}

fn learned(degree: usize) -> Op {
    Op::Activation(Activation::Learned { degree, constant: true })
}

/// Every operator on images, with windows of every kind, and a residual.
fn pictures(order: Order, flatten: Order) -> Model {
    let mut model = Model::new(image(11, 9, 3, order));
    model.push("normalise", Op::Affine);
    let uneven = Window { size: [3, 2], stride: [2, 1], before: [1, 0], after: [0, 1] };
    model.push("conv1", conv(uneven, 5, false));
    model.push("norm1", Op::BatchNorm { epsilon: 1e-3 });
    let first = model.push("relu", function(Function::Relu));
    model.push("conv2", conv(Window::same(3), 5, true));
    let second = model.push("square", learned(2));
    model.push_from("add", Op::Add, vec![first, second]);
    let padded = Window { size: [3, 3], stride: [1, 1], before: [1, 1], after: [1, 1] };
    model.push("sum", pool(Pooling::Sum, padded));
    model.push("tanh", function(Function::Tanh));
    model.push("mean", pool(Pooling::Mean, padded));
    model.push("cubic", polynomial(&[0.25, -1.0, 0.0, 0.125]));
    model.push("largest", pool(Pooling::Max, Window { size: [2, 3], stride: [1, 2], before: [0, 1], after: [1, 1] }));
    model.push("dropout", Op::Dropout { rate: 0.25 });
    model.push("flatten", Op::Flatten(flatten));
    model.push("dense1", Op::Dense { units: 12, bias: true });
    model.push("quadratic", learned(2));
    model.push("dense2", Op::Dense { units: 4, bias: true });
    model
}

/// Every operator on flat values.
fn rows() -> Model {
    let mut model = Model::new(Input { name: "row".into(), shape: Shape::Flat(7), order: Order::Chw });
    model.push("standardise", Op::Affine);
    model.push("dense1", Op::Dense { units: 6, bias: false });
    model.push("norm", Op::BatchNorm { epsilon: 1e-5 });
    model.push("leaky", function(Function::LeakyRelu { slope: 0.125 }));
    let here = model.push("elu", function(Function::Elu { alpha: 0.75 }));
    model.push("dense2", Op::Dense { units: 6, bias: true });
    let there = model.push("softplus", function(Function::Softplus));
    model.push_from("add", Op::Add, vec![here, there]);
    model.push("sigmoid", function(Function::Sigmoid));
    model.push("learned", learned(4));
    model.push("square", polynomial(&[0.0, 0.0, 1.0]));
    model.push("identity", polynomial(&[0.0, 1.0]));
    model.push("line", polynomial(&[0.5, -2.0]));
    model.push("scores", Op::Dense { units: 3, bias: true });
    model
}

fn global(order: Order) -> Model {
    let mut model = Model::new(image(6, 6, 2, order));
    model.push("conv", conv(Window::square(3, 1), 8, true));
    model.push("square", polynomial(&[0.0, 2.0, 1.0]));
    model.push("global", Op::GlobalMean);
    model.push("flat", Op::Flatten(Order::Hwc));
    model.push("hidden", Op::Dense { units: 8, bias: true });
    model.push("norm", Op::BatchNorm { epsilon: 1e-3 });
    model.push("quadratic", learned(2));
    model.push("scores", Op::Dense { units: 5, bias: true });
    model
}

/// All of them, with random parameters.
fn networks() -> Vec<(&'static str, Model)> {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    let mut flat = Model::new(image(3, 2, 2, Order::Hwc));
    flat.push("flatten", Op::Flatten(Order::Hwc));
    flat.push("dropout", Op::Dropout { rate: 0.5 });
    let mut nothing = Model::new(Input { name: "row".into(), shape: Shape::Flat(3), order: Order::Chw });
    nothing.push("flatten", Op::Flatten(Order::Chw));
    let mut networks = vec![
        ("chw-chw", pictures(Order::Chw, Order::Chw)),
        ("chw-hwc", pictures(Order::Chw, Order::Hwc)),
        ("hwc-chw", pictures(Order::Hwc, Order::Chw)),
        ("hwc-hwc", pictures(Order::Hwc, Order::Hwc)),
        ("rows", rows()),
        ("global-chw", global(Order::Chw)),
        ("global-hwc", global(Order::Hwc)),
        ("flat", flat),
        ("nothing", nothing),
    ];
    for (_, model) in &mut networks {
        fill(model, &mut rng);
    }
    networks
}

fn exported(model: &Model) -> Vec<u8> {
    to_onnx(model, &BTreeMap::from([("subrosa.seed".to_owned(), SEED.to_string())])).unwrap()
}

fn samples(count: usize, size: usize) -> Vec<f32> {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED + 1);
    (0..count * size).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Runs the file and compares it with the network; several samples at a time.
fn check_file(name: &str, model: &Model, onnx: &[u8], input: &[f32], tolerance: f64) {
    let size = model.input.shape.elements();
    let plain = PlainNetwork::load(onnx, 1).unwrap();
    let outputs = plain.run(input.len() / size, input).unwrap();
    for (sample, output) in input.chunks(size).zip(outputs.chunks(plain.output_len())) {
        let output: Vec<f64> = output.iter().map(|&v| f64::from(v)).collect();
        let found = difference(&output, &evaluate(model, sample));
        assert!(found < tolerance, "{name}: differs by {found}");
    }
}

#[test]
fn the_exported_file_computes_what_the_network_does() {
    for (name, model) in networks() {
        let onnx = exported(&model);
        if let Ok(folder) = std::env::var("SUBROSA_KEEP_ONNX") {
            keep(&folder, name, &model, &onnx);
        }
        check_file(name, &model, &onnx, &samples(3, model.input.shape.elements()), 1e-5);
    }
}

/// Writes the file with samples and outputs, for runtimes that are not linked here.
fn keep(folder: &str, name: &str, model: &Model, onnx: &[u8]) {
    let size = model.input.shape.elements();
    let samples = samples(3, size);
    let outputs: Vec<Vec<f64>> = samples.chunks(size).map(|sample| evaluate(model, sample)).collect();
    std::fs::write(format!("{folder}/{name}.onnx"), onnx).unwrap();
    let text = serde_json::json!({ "input": samples, "output": outputs }).to_string();
    std::fs::write(format!("{folder}/{name}.json"), text).unwrap();
}

#[test]
fn the_exported_file_is_listed_and_its_classifier_split() {
    for (name, model) in networks().into_iter().filter(|(name, _)| name.contains("hw")) {
        let network = Network::from_onnx(&exported(&model)).unwrap();
        let layers = network.layers();
        let listed = |layer: &str| layers.iter().find(|l| l.name == layer).map(|l| (l.op.as_str(), l.protectable));
        assert_eq!(listed("quadratic"), Some(("Polynomial(2)", true)), "{name}: {layers:?}");
        assert_eq!(network.input_shape().len(), 3);
        let split = network.split(&Scope::Classifier, &Substitutions::default()).unwrap();
        assert_eq!(split.chain.layers.len(), 2);
        assert!(split.replaced.is_empty());
        let size = model.input.shape.elements();
        let input = samples(3, size);
        let front = PlainNetwork::load(&split.front.unwrap(), 1).unwrap();
        let features = front.run(3, &input).unwrap();
        for (sample, features) in input.chunks(size).zip(features.chunks(split.features)) {
            let features: Vec<f64> = features.iter().map(|&v| f64::from(v)).collect();
            let found = difference(&split.chain.eval(&features), &evaluate(&model, sample));
            assert!(found < 1e-5, "{name}: differs by {found}");
        }
    }
}

#[test]
fn layers_keep_their_names_and_parameters() {
    let (_, model) = networks().swap_remove(0);
    let network = Network::from_onnx(&exported(&model)).unwrap();
    let names: Vec<String> = network.layers().into_iter().map(|layer| layer.name).collect();
    let expected = [
        "normalise",
        "conv1",
        "norm1",
        "relu",
        "conv2",
        "square",
        "add",
        "sum",
        "sum:2",
        "tanh",
        "mean",
        "cubic",
        "largest",
        "flatten",
        "dense1",
        "quadratic",
        "dense2",
    ];
    assert_eq!(names, expected);
    assert_eq!(network.parameters(), model.count_parameters());
}

#[test]
fn a_polynomial_with_zeros_and_ones_has_no_idle_steps() {
    let operators = |coefficients: &[f64]| {
        let mut model = Model::new(Input { name: "x".into(), shape: Shape::Flat(2), order: Order::Chw });
        model.push("p", polynomial(coefficients));
        let network = Network::from_onnx(&exported(&model)).unwrap();
        let found = rten_onnx::onnx::ModelProto::parse_buf(network.onnx()).unwrap().graph.unwrap();
        let found: Vec<String> = found.node.into_iter().filter_map(|node| node.op_type).collect();
        found.join(" ")
    };
    assert_eq!(operators(&[0.0, 1.0]), "Identity");
    assert_eq!(operators(&[0.0, 0.0, 1.0]), "Mul");
    assert_eq!(operators(&[0.0, 2.0, 1.0]), "Add Mul");
    assert_eq!(operators(&[0.1, 0.5, 0.25]), "Mul Add Mul Add");
    assert_eq!(operators(&[0.0, 0.0, 0.0, 2.0]), "Mul Mul Mul");
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let (_, sound) = networks().swap_remove(0);
    let refusal = |change: &dyn Fn(&mut Model)| {
        let mut model = sound.clone();
        change(&mut model);
        to_onnx(&model, &BTreeMap::new()).unwrap_err().to_string()
    };
    let missing = refusal(&|model| drop(model.parameters.remove("conv2.bias")));
    assert!(missing.contains("'conv2.bias' is missing"), "{missing}");
    let nan = refusal(&|model| model.parameters.get_mut("dense1.bias").unwrap().values[3] = f32::NAN);
    assert!(nan.contains("'dense1.bias' holds NaN"), "{nan}");
    let shape = refusal(&|model| model.parameters.get_mut("norm1.mean").unwrap().values.truncate(4));
    assert!(shape.contains("'norm1.mean' has shape [5] and 4 values"), "{shape}");
    let later = refusal(&|model| model.nodes[0].inputs = vec![Source::Node(1)]);
    assert!(later.contains("'normalise' cannot take"), "{later}");
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn array(name: &str) -> (usize, Vec<f32>) {
    let path = models().join(format!("fixtures/{name}.npy"));
    let dataset = subrosa_input::read(path.to_str().unwrap(), None).unwrap();
    match dataset.samples {
        Samples::Raw { data, .. } => (dataset.count, data),
        other => panic!("{other:?}"),
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    scores.iter().map(|s| (s - largest).exp() / sum).collect()
}

/// Every fixture: whether it ends in a softmax, and its operators.
const FIXTURES: [(&str, bool, &str); 10] = [
    ("keras-mlp-relu", true, "flatten-hwc dense relu dense"),
    ("keras-small-cnn", true, "conv relu conv relu affine mean flatten-hwc dense poly2 dense"),
    ("torch-ai4i", true, "affine dense poly2 dense poly2 dense"),
    ("torch-mlp-noact", false, "dense norm dense"),
    ("torch-mlp-poly", false, "dense poly2 dense poly2 dense"),
    ("torch-mlp-sigmoid", false, "dense sigmoid dense"),
    ("torch-mlp-tanh", false, "dense tanh dense"),
    (
        "torch-residual-cnn",
        false,
        "conv relu conv relu conv add relu max conv relu conv add relu global dense poly2 dense",
    ),
    ("torch-small-cnn", false, "conv relu max conv relu norm max flatten-chw dense poly2 dense"),
    ("torch-tabular", false, "dense poly2 dense"),
];

#[test]
fn fixtures_are_read_as_what_they_compute_and_written_again() {
    for (name, has_softmax, expected_operators) in FIXTURES {
        let onnx = std::fs::read(models().join(format!("fixtures/{name}.onnx"))).unwrap();
        let model = from_onnx(&onnx).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(operators(&model), expected_operators, "{name}");
        let (count, input) = array(&format!("{name}.input"));
        let (_, outputs) = array(&format!("{name}.output"));
        let size = model.input.shape.elements();
        for (sample, output) in input.chunks(size).zip(outputs.chunks(outputs.len() / count)) {
            let scores = evaluate(&model, sample);
            let found = if has_softmax { softmax(&scores) } else { scores };
            let output: Vec<f64> = output.iter().map(|&v| f64::from(v)).collect();
            let found = difference(&found, &output);
            assert!(found < 1e-4, "{name}: differs by {found}");
        }
        let written = exported(&model);
        check_file(name, &model, &written, &input, 1e-4);
        let [before, after] = [onnx, written.clone()].map(|onnx| Network::from_onnx(&onnx).unwrap());
        assert_eq!(before.input_shape(), after.input_shape(), "{name}");
        assert_eq!(before.graph().input(), after.graph().input());
        assert_eq!(before.graph().output(), after.graph().output());
        assert_eq!(from_onnx(&written).unwrap(), model, "{name}: read back");
        if let Ok(folder) = std::env::var("SUBROSA_KEEP_ONNX") {
            keep(&folder, name, &model, &written);
        }
    }
}

#[test]
fn the_demo_network_is_read_as_what_it_computes() {
    let onnx = std::fs::read(models().join("mnist-cnn.onnx")).unwrap();
    let model = from_onnx(&onnx).unwrap();
    assert_eq!(operators(&model), "conv relu conv relu max conv relu conv relu max flatten-hwc dense poly2 dense");
    let (_, input) = array("keras-small-cnn.input");
    let input = &input[..3 * 784];
    let outputs = PlainNetwork::load(&onnx, 1).unwrap().run(3, input).unwrap();
    for (sample, output) in input.chunks(784).zip(outputs.chunks(10)) {
        let output: Vec<f64> = output.iter().map(|&v| f64::from(v)).collect();
        let found = difference(&softmax(&evaluate(&model, sample)), &output);
        assert!(found < 1e-4, "differs by {found}");
    }
    check_file("mnist-cnn", &model, &exported(&model), input, 1e-4);
}

#[test]
fn what_was_exported_is_read_back() {
    // The one without operators is no network.
    for (name, model) in networks().into_iter().filter(|(name, _)| *name != "nothing") {
        let read = from_onnx(&exported(&model)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((&read.input, &read.output), (&model.input, &model.output), "{name}");
        for sample in samples(3, model.input.shape.elements()).chunks(model.input.shape.elements()) {
            let found = difference(&evaluate(&read, sample), &evaluate(&model, sample));
            assert!(found < 1e-5, "{name}: differs by {found}");
        }
    }
}
