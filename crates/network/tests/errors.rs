//! Bad files and impossible wishes end in an error that says what to do, never in a panic.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too
mod common;

use common::{Builder, tensor, value};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rten_onnx::onnx::{DataLocation, NodeProto, StringStringEntryProto};
use subrosa_network::{Network, Scope, Substitutions};

fn import_error(onnx: &[u8]) -> String {
    Network::from_onnx(onnx).unwrap_err().to_string()
}

fn split_error(onnx: &[u8], scope: &str) -> String {
    let network = Network::from_onnx(onnx).unwrap();
    network.split(&scope.parse().unwrap(), &Substitutions::none()).unwrap_err().to_string()
}

fn two_layers(middle: fn(&mut Builder, &str) -> String) -> Vec<u8> {
    let mut b = Builder::new(&[3]);
    let x = b.dense("x", 4, 3, || 0.5);
    let x = middle(&mut b, &x);
    let output = b.dense(&x, 2, 4, || 0.25);
    b.finish(&output)
}

#[test]
fn files_that_are_no_networks_say_why() {
    assert_eq!(import_error(b""), "not a usable ONNX file: it is empty");
    assert!(import_error(b"PK\x03\x04 not onnx").contains("damaged or cut off near byte"));
    assert!(import_error(&[0x08, 0x07]).contains("it holds no network graph"));
    let sound = two_layers(|b, x| b.op("Mul", &[x, x]));
    assert!(Network::from_onnx(&sound).is_ok());

    let mut b = Builder::new(&[3]);
    let output = b.op("Add", &["x", "nowhere"]);
    let error = import_error(&b.finish(&output));
    assert!(error.contains("reads 'nowhere', which is neither"), "{error}");

    let mut b = Builder::new(&[3]);
    for (from, to) in [("b", "a"), ("a", "b")] {
        b.graph.node.push(NodeProto {
            name: Some(to.into()),
            op_type: Some("Add".into()),
            input: vec!["x".into(), from.into()],
            output: vec![to.into()],
            ..NodeProto::default()
        });
    }
    assert!(import_error(&b.finish("a")).contains("the graph has a cycle"));

    let mut b = Builder::new(&[3]);
    let w = b.weights(&[3], &[1.0, f32::NAN, 2.0]);
    let output = b.op("Add", &["x", &w]);
    let error = import_error(&b.finish(&output));
    assert!(error.contains("the weights 'w_1' hold NaN at position 1"), "{error}");

    let mut b = Builder::new(&[3]);
    b.graph.initializer.push(tensor("w", &[3, 1 << 40, 1 << 40], &[1.0]));
    let output = b.op("Add", &["x", "w"]);
    assert!(import_error(&b.finish(&output)).contains("impossible size"));

    let mut b = Builder::new(&[3]);
    b.graph.initializer.push(tensor("w", &[3, 1 << 30], &[1.0]));
    let output = b.op("Add", &["x", "w"]);
    assert!(import_error(&b.finish(&output)).contains("declares 3221225472 values but holds 1"));

    let mut b = Builder::new(&[3]);
    let mut external = tensor("w", &[3], &[]);
    external.data_location = Some(DataLocation(1));
    external
        .external_data
        .push(StringStringEntryProto { key: Some("location".into()), value: Some("/etc/passwd".into()) });
    b.graph.initializer.push(external);
    let output = b.op("Add", &["x", "w"]);
    assert!(import_error(&b.finish(&output)).contains("lie in an external file"));

    let mut b = Builder::new(&[3]);
    b.graph.input.push(value("y", &[3]));
    let output = b.op("Add", &["x", "y"]);
    assert!(import_error(&b.finish(&output)).contains("it has 2 inputs (x, y)"));

    let mut b = Builder::new(&[3]);
    let output = b.op("NoSuchOperator", &["x"]);
    assert!(import_error(&b.finish(&output)).contains("cannot be loaded"));
}

#[test]
fn wishes_that_cannot_be_met_name_layer_and_flag() {
    let relu = two_layers(|b, x| b.op("Relu", &[x]));
    assert_eq!(
        split_error(&relu, "classifier"),
        "the relu after layer 'matmul_3' is no polynomial and cannot be evaluated on encrypted values: \
         train the network with a polynomial in its place, give --activation relu=x2+2x (or another polynomial), \
         or protect less with --scope last"
    );
    assert_eq!(
        split_error(&relu, "from:nothing"),
        "no layer is called 'nothing'; the FC layers that can be protected are: matmul_3, matmul_8"
    );
    let odd = two_layers(|b, x| {
        let y = b.op("Softmax", &[x]);
        b.op("Mul", &[x, &y])
    });
    let error = split_error(&odd, "from:matmul_3");
    assert!(
        error.starts_with("'matmul_3' cannot be the first protected layer: its values are read in several places"),
        "{error}"
    );
    let network = Network::from_onnx(&odd).unwrap();
    let split = network.split(&Scope::Classifier, &Substitutions::none()).unwrap();
    assert_eq!(split.chain.layers.len(), 1, "the chain is what can be protected");
    assert!(split.front.is_some());

    let mut b = Builder::new(&[3]);
    let x = b.dense("x", 4, 3, || 0.5);
    let output = b.op("Sigmoid", &[&x]);
    let onnx = b.finish(&output);
    assert!(split_error(&onnx, "last").contains("--activation sigmoid=none"));

    let mut b = Builder::new(&[3]);
    let output = b.op("Relu", &["x"]);
    assert!(split_error(&b.finish(&output), "last").contains("the network has no FC layer"));
    assert!("from:".parse::<Scope>().is_err());
}

#[test]
fn weights_that_the_plain_part_shares_are_not_protected_in_vain() {
    let mut b = Builder::new(&[3]);
    let shared = b.weights(&[3, 3], &[0.5, 0.25, -0.5, 0.125, 1.0, 0.0, 0.5, -1.0, 0.75]);
    let x = b.op("MatMul", &["x", &shared]);
    let x = b.op("Relu", &[&x]);
    let output = b.op("MatMul", &[&x, &shared]);
    let onnx = b.finish(&output);
    assert_eq!(
        split_error(&onnx, "last"),
        format!(
            "the weights '{shared}' are used in the plain part too, so the edge would get them in the clear: \
             protect from an earlier layer on, or export the network with a copy of them for each use"
        )
    );
}

#[test]
fn no_damage_to_a_file_makes_the_import_panic() {
    let seed = 11;
    println!("seed {seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let sound = two_layers(|b, x| b.op("Mul", &[x, x]));
    for length in 0..sound.len() {
        let error = import_error(&sound[..length]);
        assert!(!error.is_empty());
    }
    for _ in 0..2000 {
        let mut damaged = sound.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..damaged.len());
            damaged[at] = rng.random();
        }
        if let Ok(network) = Network::from_onnx(&damaged) {
            let _ = network.layers();
            let _ = network.split(&Scope::Classifier, &Substitutions::none());
        }
    }
}
