//! Whole networks as circuits compute what the runtime computes.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too
mod common;

use std::path::{Path, PathBuf};

use common::{Builder, compare, ints, relative_difference, value, with_mean_pooling, without_softmax};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use subrosa_network::{ActivationKind, Circuit, LayerActivation, Network, Scope, Source, Substitutions};
use subrosa_plain::PlainNetwork;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn model(name: &str) -> Vec<u8> {
    std::fs::read(models().join(format!("{name}.onnx"))).unwrap()
}

/// Layers as `name(values)<-sources activation`.
fn shape(circuit: &Circuit) -> Vec<String> {
    let layer = |layer: &subrosa_network::CircuitLayer| {
        let sources: Vec<String> = layer
            .terms
            .iter()
            .map(|term| match term.source {
                Source::Input => "in".into(),
                Source::Layer(index) => circuit.layers[index].name.clone(),
            })
            .collect();
        let activation = match &layer.activation {
            LayerActivation::Identity => String::new(),
            LayerActivation::Polynomial { polynomials, .. } if polynomials.len() == 1 => {
                format!(" {}", polynomials[0])
            }
            LayerActivation::Polynomial { polynomials, .. } => format!(" {} polynomials", polynomials.len()),
            LayerActivation::Function(kind) => format!(" {kind}"),
        };
        format!("{}({})<-{}{activation}", layer.name, layer.size(), sources.join("+"))
    };
    circuit.layers.iter().map(layer).collect()
}

#[test]
fn trained_networks_become_circuits() {
    let cases: &[(&str, usize, &[&str])] = &[
        (
            "mnist-quadratic",
            893_354,
            &[
                "conv1(25088)<-in 32 polynomials",
                "conv2(21632)<-conv1 32 polynomials",
                "conv3(10816)<-conv2 64 polynomials",
                "conv4(7744)<-conv3 64 polynomials",
                "dense5(512)<-conv4 512 polynomials",
                "scores(10)<-dense5",
            ],
        ),
        (
            "cifar10-quadratic",
            1_255_280,
            &[
                "conv1(32768)<-in 32 polynomials",
                "conv2(28800)<-conv1 32 polynomials",
                "conv3(14400)<-conv2 64 polynomials",
                "conv4(10816)<-conv3 64 polynomials",
                "dense5(512)<-conv4 512 polynomials",
                "scores(10)<-dense5",
            ],
        ),
        (
            "ai4i-mlp",
            1106,
            &["dense1(32)<-in 32 polynomials", "dense2(16)<-dense1 16 polynomials", "scores(2)<-dense2"],
        ),
        ("fixtures/keras-mlp-relu", 101_770, &["hidden_1(128)<-in relu", "logits_1(10)<-hidden_1"]),
        (
            "fixtures/keras-small-cnn",
            38_986,
            &[
                "Conv__30(1152)<-in relu",
                "conv2d_1_2(2304)<-Conv__30 relu",
                "hidden_1(64)<-conv2d_1_2 x^2+2x",
                "logits_1(10)<-hidden_1",
            ],
        ),
        ("fixtures/torch-ai4i", 866, &["1(32)<-in x^2+2x", "3(16)<-1 x^2", "5(2)<-3"]),
        ("fixtures/torch-mlp-noact", 79_910, &["2(10)<-in"]),
        ("fixtures/torch-mlp-poly", 3327, &[]),
        ("fixtures/torch-mlp-sigmoid", 2410, &["0(32)<-in sigmoid", "2(10)<-0"]),
        ("fixtures/torch-mlp-tanh", 2410, &["0(32)<-in tanh", "2(10)<-0"]),
        ("fixtures/torch-tabular", 0, &[]),
        ("fixtures/torch-small-cnn", 0, &[]),
        ("fixtures/torch-residual-cnn", 0, &[]),
    ];
    for (name, parameters, layers) in cases {
        let onnx = model(name);
        let network = Network::from_onnx(&onnx).unwrap();
        let substitutions = "max=mean".parse().unwrap();
        let split = network.circuit(&Scope::All, &substitutions).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{name} {} parameters: {:#?}", split.circuit.parameters(), shape(&split.circuit));
        assert!(split.front.is_none());
        assert_eq!(split.features, split.circuit.inputs());
        compare(name, &with_mean_pooling(&onnx), &split.circuit, 3);
        if *parameters > 0 {
            assert_eq!(split.circuit.parameters(), *parameters, "{name}");
        }
        if !layers.is_empty() {
            assert_eq!(shape(&split.circuit), *layers, "{name}");
        }
    }
}

/// The front and the circuit behind it against the whole network, on random inputs.
fn check_cut(name: &str, onnx: &[u8], scope: &Scope, substitutions: &Substitutions) -> Vec<String> {
    let network = Network::from_onnx(onnx).unwrap();
    let split = network.circuit(scope, substitutions).unwrap_or_else(|e| panic!("{name}, {scope}: {e}"));
    let whole = PlainNetwork::load(&without_softmax(onnx), 1).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    for _ in 0..2 {
        let input: Vec<f32> = (0..whole.input_len()).map(|_| rng.random_range(-1.0..1.0)).collect();
        let expected = whole.run(1, &input).unwrap();
        let features = match &split.front {
            Some(front) => PlainNetwork::load(front, 1).unwrap().run(1, &input).unwrap(),
            None => input,
        };
        assert_eq!(features.len(), split.features, "{name}");
        let features: Vec<f64> = features.iter().map(|&v| v.into()).collect();
        let difference = relative_difference(&split.circuit.eval(&features), &expected);
        assert!(difference < 1e-4, "{name}, {scope}: off by {difference}");
    }
    shape(&split.circuit)
}

#[test]
fn networks_are_cut_at_any_layer_that_all_later_ones_need() {
    let none = Substitutions::none();
    check_cut("CIFAR-10", &model("cifar10-quadratic"), &Scope::From("conv4".into()), &none);
    for name in ["fixtures/torch-residual-cnn", "fixtures/keras-small-cnn"] {
        let onnx = with_mean_pooling(&model(name));
        let network = Network::from_onnx(&onnx).unwrap();
        let mut cuts = 0;
        for layer in network.layers() {
            match network.circuit(&Scope::From(layer.name.clone()), &none) {
                Ok(_) => {
                    cuts += 1;
                    let layers = check_cut(name, &onnx, &Scope::From(layer.name.clone()), &none);
                    println!("{name} from {} ({}): {} layers", layer.name, layer.op, layers.len());
                }
                Err(error) => println!("{name} from {} ({}): {error}", layer.name, layer.op),
            }
        }
        assert!(cuts >= 6, "{name}: {cuts}");
        check_cut(name, &onnx, &Scope::Classifier, &none);
        check_cut(name, &onnx, &Scope::Last, &none);
    }
}

#[test]
fn functions_are_replaced_while_tracing_or_after() {
    let network = Network::from_onnx(&model("fixtures/torch-residual-cnn")).unwrap();
    let circuit = |text: &str| network.circuit(&Scope::All, &text.parse().unwrap()).unwrap();
    let open = circuit("max=mean");
    let functions: Vec<(usize, &str, ActivationKind)> = open.circuit.functions().collect();
    assert_eq!(functions.iter().map(|f| f.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!((functions[2].1, functions[2].2), ("2.second", ActivationKind::Relu));
    assert_eq!(open.replaced.len(), 1);
    assert_eq!(open.replaced[0].from, ActivationKind::Max);

    let traced = circuit("max=mean;relu=0.25x^2+0.5x");
    assert_eq!((traced.circuit.functions().count(), traced.replaced.len()), (0, 6));
    let mut after = open.circuit.clone();
    for layer in 0..5 {
        after.substitute(layer, &"0.25x^2+0.5x".parse().unwrap());
    }
    assert_eq!(after, traced.circuit);

    // A replacement of degree 1 goes into the weights.
    let mut linear = open.circuit.clone();
    for layer in 0..5 {
        linear.substitute(layer, &"0.5x+1".parse().unwrap());
    }
    let folded = circuit("max=mean;relu=0.5x+1").circuit;
    assert!(folded.layers.len() < linear.layers.len());
    let input: Vec<f64> = (0..folded.inputs()).map(|k| (k as f64).sin()).collect();
    for (a, b) in folded.eval(&input).iter().zip(linear.eval(&input)) {
        assert!((a - b).abs() < 1e-9 * (1.0 + a.abs()), "{a} instead of {b}");
    }
    assert!(folded.eval(&input) != traced.circuit.eval(&input));
}

#[test]
fn several_outputs_stand_one_behind_the_other() {
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let mut b = Builder::new(&[2, 4, 4]);
    let mut draw = |count: usize| (0..count).map(|_| rng.random_range(-0.5..0.5)).collect::<Vec<f32>>();
    let w = b.weights(&[3, 2, 3, 3], &draw(54));
    let x = b.node("Conv", &["x", &w], vec![ints("pads", &[1, 1, 1, 1])]);
    let x = b.op("Mul", &[&x, &x]);
    let w = b.weights(&[2, 3, 1, 1], &draw(6));
    let map = b.op("Conv", &[&x, &w]);
    let pooled = b.op("GlobalAveragePool", &[&x]);
    let flat = b.op("Flatten", &[&pooled]);
    let mut rng = ChaCha20Rng::seed_from_u64(13);
    let scores = b.dense(&flat, 5, 3, || rng.random_range(-0.5..0.5));
    b.graph.output.push(value(&map, &[2, 4, 4]));
    let network = Network::from_onnx(&b.finish(&scores)).unwrap();
    assert_eq!(network.output_parts(), [(map.as_str(), 32), (scores.as_str(), 5)]);
    assert_eq!(network.outputs(), 37);
    let circuit = network.circuit(&Scope::All, &Substitutions::none()).unwrap().circuit;
    compare("two outputs", network.onnx(), &circuit, 5);
}
