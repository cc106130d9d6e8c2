//! Whole networks through both command lines: simulated before anything is encrypted, explained, measured layer by layer.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Owner, fixture};
use serde_json::Value;

const DIGITS: &str = "../../data/mnist-test-1000-images-idx3-ubyte.gz";
const LABELS: &str = "../../data/mnist-test-1000-labels-idx1-ubyte.gz";

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("no number '{key}' in {report}"))
}

/// The arguments that say how the network like CryptoNets' is protected.
fn cryptonets(command: &str) -> Vec<String> {
    let model = fixture("../mnist-cryptonets.onnx");
    let (digits, labels) = (fixture(DIGITS), fixture(LABELS));
    let how = ["--scope", "all", "--input", "plain", "--preprocess", "scale=1/255", "--calibrate", &digits];
    [&[command, &model][..], &how, &["--labels", &labels]].concat().into_iter().map(str::to_owned).collect()
}

fn with<'a>(arguments: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    arguments.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn a_whole_network_is_simulated_explained_and_measured_layer_by_layer() {
    let owner = Owner::new();
    let simulated = owner.json(&with(&cryptonets("inspect"), &["--simulate", "--limit", "40"]));
    assert_eq!((&simulated["samples"], &simulated["noise_in"]), (&40.into(), &"every step".into()));
    assert!(number(&simulated, "agreement") >= 0.975, "{simulated}");
    assert!(number(&simulated, "accuracy_simulated") >= 0.9, "{simulated}");
    let (error, forecast) = (number(&simulated, "max_abs_error"), number(&simulated["forecast"], "max_abs_error"));
    assert!(error > 0.0 && error < forecast, "{error} {forecast}");
    assert_eq!(owner.json(&["models"])["models"], serde_json::json!([]), "nothing is stored");

    let protected = owner.json(&with(&cryptonets("protect"), &["--name", "digits", "--explain"]));
    let plan = &protected["plan"];
    let layers = plan["layers"].as_array().unwrap();
    let names: Vec<&str> = layers.iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let steps: u64 = layers.iter().map(|l| l["steps"].as_u64().unwrap()).sum();
    assert_eq!(steps as usize, plan["steps"].as_array().unwrap().len(), "every step is some layer's");
    let seconds: f64 = layers.iter().map(|l| number(&l["work"], "seconds")).sum();
    assert!((seconds / number(&plan["predicted"]["infer"], "seconds") - 1.0).abs() < 1e-6);
    let bytes: u64 = layers.iter().map(|l| l["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, protected["model_bytes"]);
    // Nothing but some headers is missing in the predicted sizes.
    let packed = number(&protected, "model_bytes") + number(&protected, "key_bytes");
    let predicted = |plan: &Value, what: &str| {
        let sizes = &plan["predicted"][what];
        number(sizes, "key_bytes") + number(sizes, "weight_bytes")
    };
    assert!((predicted(plan, "bundle") / packed - 1.0).abs() < 1e-2, "{packed}");
    // Another preference is planned for, and told.
    let lean = owner.json(&with(&cryptonets("protect"), &["--name", "lean", "--prefer", "memory", "--explain"]));
    assert_eq!((&plan["prefer"], &lean["plan"]["prefer"]), (&"speed".into(), &"memory".into()));
    assert!(predicted(&lean["plan"], "memory") < predicted(plan, "memory"));
    let shown = String::from_utf8(owner.run(&["show", "lean"]).stdout).unwrap();
    let told = shown.lines().any(|l| l.contains("settings.prefer") && l.contains("memory"));
    assert!(told, "{shown}");
    for layer in layers {
        assert!(number(layer, "precision_bits") > 5.0, "{layer}");
        let levels = layer["levels"].as_array().unwrap();
        assert!(levels[0].as_u64() >= levels[1].as_u64() && levels[1].as_u64() >= Some(1), "{layer}");
    }

    // What was simulated is what happens.
    owner.json(&["deploy", "digits", "--out", "net.srb"]);
    let (bundle, results, digits) = (owner.shown("net.srb"), owner.shown("net.srr"), fixture(DIGITS));
    let arguments = ["infer", &bundle, "--input", &digits, "--limit", "40", "--out", &results, "--profile"];
    let inferred = owner.edge(&arguments);
    let measured = inferred["profile_layers"].as_array().unwrap();
    let measured_names: Vec<&str> = measured.iter().map(|l| l["layer"].as_str().unwrap()).collect();
    assert_eq!(measured_names, names);
    let steps: f64 = inferred["profile"].as_array().unwrap().iter().map(|s| number(s, "seconds")).sum();
    let layers: f64 = measured.iter().map(|l| number(l, "seconds")).sum();
    assert!((layers / steps - 1.0).abs() < 1e-9);
    // The prediction is the plan's, for a machine whose NTTs take so many times longer.
    let scale = number(&inferred, "predicted_scale");
    for (measured, planned) in measured.iter().zip(plan["layers"].as_array().unwrap()) {
        let (found, expected) = (number(measured, "predicted_seconds"), number(&planned["work"], "seconds"));
        assert!((found / (scale * expected) - 1.0).abs() < 1e-2, "{measured} {planned}");
    }
    let verified = owner.json(&["verify", "digits", "--input", &digits, "--limit", "40"]);
    let found = number(&verified, "max_abs_error");
    assert!(found < forecast && found < 8.0 * error && error < 8.0 * found, "simulated {error}, measured {found}");
}

#[test]
fn a_chain_of_dense_layers_is_simulated_with_its_forecast_noise() {
    let owner = Owner::new();
    let (model, data) = (fixture("torch-tabular.onnx"), fixture("torch-tabular.input.npy"));
    let simulated = owner.json(&["inspect", &model, "--simulate", "--calibrate", &data, "--samples", &data]);
    assert_eq!((&simulated["samples"], &simulated["noise_in"]), (&20.into(), &"outputs".into()));
    assert_eq!(number(&simulated, "agreement"), 1.0);
    let (error, forecast) = (number(&simulated, "max_abs_error"), number(&simulated["forecast"], "max_abs_error"));
    assert!(error > 0.0 && error < forecast, "{error} {forecast}");
    let text = String::from_utf8(owner.run(&["inspect", &model, "--simulate", "--calibrate", &data]).stdout).unwrap();
    assert!(text.contains("simulated agrees with approximated"), "{text}");
}

#[test]
fn wishes_to_simulate_that_cannot_be_granted_are_refused() {
    let owner = Owner::new();
    let (model, data) = (fixture("torch-tabular.onnx"), fixture("torch-tabular.input.npy"));
    let other = fixture("torch-mlp-poly.input.npy");
    let refused = |arguments: &[&str], part: &str| {
        let output = owner.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    };
    refused(&["inspect", &model, "--simulate"], "--calibrate");
    refused(&["inspect", &model, "--calibrate", &data], "add --simulate");
    refused(
        &["inspect", &model, "--simulate", "--calibrate", &other],
        "torch-mlp-poly.input.npy: the input does not fit",
    );
    let arguments = ["inspect", &model, "--simulate", "--calibrate", &data, "--samples", &other];
    refused(&arguments, "torch-mlp-poly.input.npy: the input does not fit");
    let unknown = ["inspect", &model, "--simulate", "--calibrate", &data, "--scope", "from:nowhere"];
    refused(&unknown, "no layer is called 'nowhere'");
}

#[test]
fn the_demo_tells_the_whole_life_cycle_of_its_digits() {
    let report = Owner::new().json(&["demo", "--images", "3"]);
    for key in [
        "images",
        "agreement",
        "accuracy_plain",
        "accuracy_encrypted",
        "max_abs_error",
        "protect_seconds",
        "infer_seconds",
        "bundle_bytes",
        "security_bits",
    ] {
        assert!(report[key].is_number(), "no '{key}' in {report}");
    }
    assert_eq!((&report["images"], number(&report, "agreement")), (&3.into(), 1.0));
    let inputs: Vec<&str> = report["modes"].as_array().unwrap().iter().map(|m| m["input"].as_str().unwrap()).collect();
    assert_eq!(inputs, ["plain", "encrypted"]);
}
