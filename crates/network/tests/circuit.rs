//! Whole networks as circuits compute what the runtime computes.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too
mod common;

use std::path::{Path, PathBuf};

use common::{Oracle, compare};
use subrosa_network::{Circuit, LayerActivation, Network, Scope, Source, Substitutions};

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
                format!(" degree {}", polynomials[0].degree())
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
    for (name, softmax) in [
        ("mnist-quadratic", Oracle::Scores),
        ("cifar10-quadratic", Oracle::Scores),
        ("ai4i-mlp", Oracle::Scores),
        ("fixtures/keras-mlp-relu", Oracle::Softmax),
        ("fixtures/keras-small-cnn", Oracle::Softmax),
        ("fixtures/torch-ai4i", Oracle::Scores),
        ("fixtures/torch-mlp-noact", Oracle::Scores),
        ("fixtures/torch-mlp-poly", Oracle::Scores),
        ("fixtures/torch-mlp-sigmoid", Oracle::Scores),
        ("fixtures/torch-mlp-tanh", Oracle::Scores),
        ("fixtures/torch-residual-cnn", Oracle::Scores),
        ("fixtures/torch-small-cnn", Oracle::Scores),
        ("fixtures/torch-tabular", Oracle::Scores),
    ] {
        let onnx = model(name);
        let network = Network::from_onnx(&onnx).unwrap();
        let split = network.circuit(&Scope::All, &Substitutions::none()).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{name} {} parameters: {:#?}", split.circuit.parameters(), shape(&split.circuit));
        assert!(split.front.is_none());
        compare(name, &onnx, &split.circuit, softmax, 3);
    }
}
