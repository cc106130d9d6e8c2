//! Networks really exported by Keras and PyTorch: front and chain together are the network.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

use std::path::{Path, PathBuf};

use rten_onnx::onnx::ModelProto;
use subrosa_input::Samples;
use subrosa_network::{Network, NetworkError, Scope, Split, Substitutions};
use subrosa_plain::PlainNetwork;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(models().join(format!("fixtures/{name}.onnx"))).unwrap()
}

fn array(name: &str) -> (usize, Vec<f32>) {
    let path = models().join(format!("fixtures/{name}.npy"));
    let dataset = subrosa_input::read(path.to_str().unwrap(), None).unwrap();
    match dataset.samples {
        Samples::Raw { data, .. } => (dataset.count, data),
        other => panic!("{other:?}"),
    }
}

fn log_softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    scores.iter().map(|s| s - largest - sum.ln()).collect()
}

/// Front and chain on the fixture's samples against what onnxruntime gave for them.
fn check_split(name: &str, split: &Split, softmax: bool) {
    let (count, input) = array(&format!("{name}.input"));
    let (_, expected) = array(&format!("{name}.output"));
    let features = match &split.front {
        Some(front) => {
            let front = PlainNetwork::load(front, 1).unwrap();
            assert_eq!(front.output_len(), split.features);
            front.run(count, &input).unwrap()
        }
        None => input,
    };
    assert_eq!(features.len(), count * split.features);
    for (row, expected) in features.chunks(split.features).zip(expected.chunks(expected.len() / count)) {
        let row: Vec<f64> = row.iter().map(|&v| v.into()).collect();
        let mut scores = split.chain.eval(&row);
        let mut expected: Vec<f64> = expected.iter().map(|&v| v.into()).collect();
        if softmax {
            scores = log_softmax(&scores);
            expected = expected.iter().map(|p| p.ln()).collect();
        }
        let largest = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        for (score, expected) in scores.iter().zip(&expected) {
            let difference = (score - expected).abs() / largest;
            assert!(difference < 1e-4, "{name}: {score} instead of {expected}");
        }
    }
}

/// Float values in a file, to see that the front holds none of the chain's.
fn floats(onnx: &[u8]) -> usize {
    let model = ModelProto::parse_buf(onnx).unwrap();
    let elements = |dims: &[i64]| dims.iter().product::<i64>() as usize;
    let graph = model.graph.unwrap();
    graph.initializer.iter().map(|t| elements(&t.dims)).sum()
}

#[test]
fn front_and_chain_are_the_network() {
    // Name, layers in the classifier, whether it begins at the input, softmax at the end.
    for (name, layers, whole, softmax) in [
        ("keras-small-cnn", 2, false, true),
        ("torch-small-cnn", 2, false, false),
        ("torch-residual-cnn", 2, false, false),
        ("torch-mlp-noact", 2, true, false),
        ("torch-mlp-poly", 3, true, false),
        ("torch-tabular", 2, true, false),
        ("torch-ai4i", 3, true, true),
    ] {
        let onnx = fixture(name);
        let network = Network::from_onnx(&onnx).unwrap();
        for scope in [Scope::Last, Scope::Classifier, Scope::All] {
            let split = match network.split(&scope, &Substitutions::none()) {
                Ok(split) => split,
                Err(NetworkError::NotAllDense(what)) if scope == Scope::All => {
                    assert!(!whole, "{name}");
                    assert_eq!(what, "convolutions");
                    continue;
                }
                Err(error) => panic!("{name}, {scope}: {error}"),
            };
            let expected = if scope == Scope::Last { 1 } else { layers };
            assert_eq!(split.chain.layers.len(), expected, "{name}");
            assert_eq!(split.front.is_none(), whole && scope != Scope::Last, "{name}");
            assert_eq!(split.chain.outputs(), network.outputs());
            check_split(name, &split, softmax);
            let front = split.front.as_deref().map_or(0, floats);
            assert!(front + split.chain.parameters() <= floats(&onnx) + 200, "{name}: weights left in the front");
            // The same cut by the name of its first layer.
            let by_name = Scope::From(split.chain.layers[0].name.clone());
            let again = network.split(&by_name, &Substitutions::none()).unwrap();
            assert_eq!(again.chain, split.chain);
            let json = serde_json::to_string(&split.chain).unwrap();
            assert_eq!(serde_json::from_str::<subrosa_network::Chain>(&json).unwrap(), split.chain);
        }
    }
}

#[test]
fn other_activations_ask_for_a_substitution_or_stay_in_the_front() {
    for (name, kind, softmax) in
        [("keras-mlp-relu", "relu", true), ("torch-mlp-tanh", "tanh", false), ("torch-mlp-sigmoid", "sigmoid", false)]
    {
        let network = Network::from_onnx(&fixture(name)).unwrap();
        let error = network.split(&Scope::All, &Substitutions::none()).unwrap_err().to_string();
        assert!(error.contains(&format!("the {kind} after layer")), "{error}");
        assert!(error.contains(&format!("--activation {kind}=")), "{error}");
        check_split(name, &network.split(&Scope::Last, &Substitutions::none()).unwrap(), softmax);
        let substitutions = format!("{kind}=x2+2x").parse().unwrap();
        let split = network.split(&Scope::All, &substitutions).unwrap();
        assert_eq!(split.chain.layers[0].activation.to_string(), "x^2+2x");
        assert_eq!(split.replaced.len(), 1);
    }
}

#[test]
fn the_demo_network_is_listed_as_its_readme_says() {
    let onnx = std::fs::read(models().join("mnist-cnn.onnx")).unwrap();
    let network = Network::from_onnx(&onnx).unwrap();
    assert_eq!(network.input_shape(), [28, 28, 1]);
    assert_eq!((network.outputs(), network.parameters()), (10, 889_834));
    let layers = network.layers();
    let rows: Vec<(&str, bool)> = layers.iter().map(|l| (l.op.as_str(), l.protectable)).collect();
    assert_eq!(
        rows,
        [
            ("Conv", false),
            ("ReLU", false),
            ("Conv", false),
            ("ReLU", false),
            ("MaxPool", false),
            ("Conv", false),
            ("ReLU", false),
            ("Conv", false),
            ("ReLU", false),
            ("MaxPool", false),
            ("Flatten", false),
            ("FC", true),
            ("x^2+2x", true),
            ("FC", true),
            ("Softmax", true),
        ]
    );
    let split = network.split(&Scope::Classifier, &Substitutions::none()).unwrap();
    assert_eq!((split.features, split.chain.layers[0].rows), (1600, 512));
}
