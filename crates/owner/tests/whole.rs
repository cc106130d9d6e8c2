//! Whole networks through all agents: convolutions, residual blocks, pooling, everything encrypted.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;

use common::{Encrypted, Home, fixture, root};
use subrosa_edge_agent::{Options, Processor};
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Samples, read};
use subrosa_network::Scope;
use subrosa_owner::{ProtectRequest, Reveal, Silent};

/// The fixture with its first samples only.
fn few(name: &str, count: usize) -> common::Fixture {
    let mut f = fixture(name);
    let kept = |data: &mut Vec<f32>, all: usize| data.truncate(data.len() / all * count);
    match &mut f.data.samples {
        Samples::Raw { data, .. } => kept(data, f.data.count),
        other => panic!("{other:?}"),
    }
    f.data.labels.as_mut().unwrap().truncate(count);
    f.data.count = count;
    f
}

#[test]
fn a_residual_network_agrees_with_itself_under_encryption() {
    let home = Home::new();
    let all = fixture("torch-residual-cnn");
    let f = few("torch-residual-cnn", 4);
    let activation = "relu=0.15x^2+0.5x+0.1;max=mean";
    for encrypted in [Encrypted::Both, Encrypted::Weights, Encrypted::Input] {
        let (report, found) = home.protect_and_verify_encrypted(
            &f,
            Some(&all.data),
            &Scope::All,
            activation,
            encrypted,
            SecurityLevel::Bits128,
        );
        println!("{}\n{}", serde_json::to_string(&report).unwrap(), serde_json::to_string(&found).unwrap());
        assert_eq!(report.input, if encrypted == Encrypted::Weights { "plain" } else { "encrypted" });
        assert_eq!(report.weights_encrypted, encrypted != Encrypted::Input);
        assert_eq!(report.ciphertexts == 0, encrypted == Encrypted::Input);
        assert_eq!(found.agreement, 1.0);
        assert!(found.max_abs_error <= report.forecast.max_abs_error, "{found:?}");
        assert!(found.max_abs_error <= 1e-2 * found.largest_output, "{found:?}");
    }
}

/// Scores that came back from an edge, one list a sample.
fn scores_from_the_edge(name: &str, encrypted_input: bool) -> (Vec<Vec<f64>>, f64) {
    let home = Home::new();
    let path = |suffix: &str| root().join(format!("models/fixtures/{name}{suffix}"));
    let onnx = std::fs::read(path(".onnx")).unwrap();
    let data = read(path(".input.npy").to_str().unwrap(), None).unwrap();
    let request = ProtectRequest {
        scope: Scope::All,
        encrypted_input,
        calibrate: Some(&data),
        ..ProtectRequest::new(&onnx, name)
    };
    let report = home.owner.protect(&request, &home.vault, &Silent).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (bundle, results) = (dir.path().join("bundle.srb"), dir.path().join("results.srr"));
    home.owner.deploy(&report.id, &bundle, &home.identity).unwrap();
    let edge = Processor::load(&bundle, &Options::default()).unwrap();
    let samples = edge.preprocess(&data).unwrap();
    let mut out = edge.results(&results).unwrap();
    for features in samples.data.chunks(edge.feature_count()) {
        out.push(edge.parameters(), &edge.infer(&edge.prepare(features).unwrap()).unwrap()).unwrap();
    }
    out.finish().unwrap();
    let decrypted = home.owner.decrypt(&results, Reveal::Scores, &home.vault).unwrap();
    let plain = home.owner.plain_outputs(&report.id, &data).unwrap();
    let scores: Vec<Vec<f64>> = decrypted.predictions.into_iter().map(|p| p.scores.unwrap()).collect();
    let pairs = scores.iter().flatten().zip(plain.iter().flatten());
    let error = pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
    let forecast = report.forecast.max_abs_error;
    println!("{name}, {} input: off by {error:.2e}, forecast {forecast:.2e}", report.input);
    assert!(error <= forecast, "{error} {forecast}");
    (scores, report.forecast.max_abs_error)
}

#[test]
fn regressions_and_networks_with_several_outputs_come_back_in_every_value() {
    // Power in kW and excess temperature in K of a machine; the scores of a digit and its ink.
    for (name, outputs) in [("torch-regression", 2), ("torch-two-heads", 11)] {
        let expected = read(root().join(format!("models/fixtures/{name}.output.npy")).to_str().unwrap(), None).unwrap();
        let Samples::Raw { shape, data: expected } = expected.samples else { panic!("outputs are floats") };
        assert_eq!(shape, [outputs]);
        for encrypted_input in [true, false] {
            let (scores, forecast) = scores_from_the_edge(name, encrypted_input);
            assert_eq!(scores.len(), 20);
            for (found, expected) in scores.iter().flatten().zip(&expected) {
                // The file's own framework computes in float32.
                let error = (found - f64::from(*expected)).abs();
                assert!(error <= forecast + 1e-3, "{name}: {found} {expected}");
            }
        }
    }
}
