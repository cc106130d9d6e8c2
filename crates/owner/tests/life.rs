//! The demo network through all agents.

mod common;

use common::{Home, digits, fixture};
use subrosa_edge_agent::{Options, Processor};
use subrosa_fhe::security::SecurityLevel;
use subrosa_network::Scope;
use subrosa_owner::Silent;

#[test]
fn the_demo_network_agrees_with_itself_under_encryption() {
    let home = Home::new();
    let f = digits(50);
    let calibration = Some(&f.data);
    for encrypted_input in [false, true] {
        let (report, found) =
            home.protect_and_verify(&f, calibration, &Scope::Classifier, "", encrypted_input, SecurityLevel::Bits128);
        println!("{}\n{}", serde_json::to_string(&report).unwrap(), serde_json::to_string(&found).unwrap());
        assert_eq!(found.agreement, 1.0);
        assert!(found.max_abs_error <= report.forecast.max_abs_error, "{found:?}");
        assert!(found.max_abs_error <= 1e-3 * found.largest_output, "{found:?}");
    }
}

#[test]
fn without_calibration_data_real_inputs_stay_in_range_and_agree() {
    let home = Home::new();
    for name in ["", "torch-small-cnn", "keras-small-cnn", "torch-mlp-noact", "torch-tabular"] {
        let f = if name.is_empty() { digits(100) } else { fixture(name) };
        let (report, found) = home.protect_and_verify(&f, None, &Scope::Classifier, "", true, SecurityLevel::Bits128);
        println!(
            "{name}: {:?} N=2^{} {:?} {found:?}",
            report.calibration.largest_output, report.log_n, report.moduli_bits
        );
        assert!(report.calibration.synthetic);
        assert_eq!(found.agreement, 1.0, "{name}");
        assert!(found.max_abs_error <= report.forecast.max_abs_error, "{found:?}");
        assert!(found.max_abs_error <= 1e-3 * found.largest_output, "{found:?}");
    }
}

#[test]
fn a_deep_chain_without_calibration_data_is_refused_with_the_cure() {
    let f = fixture("torch-mlp-poly");
    let request = subrosa_owner::ProtectRequest::new(&f.onnx, "deep");
    let home = Home::new();
    let text = home.owner.plan(&request).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(text.contains("--calibrate"), "{text}");
    assert!(home.owner.registry().list().unwrap().is_empty());
}

#[test]
fn results_decrypt_to_labels_names_and_what_the_policy_reveals() {
    let f = fixture("torch-tabular");
    let home = Home::new();
    let request = |classes: &[&str]| subrosa_owner::ProtectRequest {
        encrypted_input: false,
        calibrate: Some(&f.data),
        classes: Some(classes.iter().map(ToString::to_string).collect()),
        ..subrosa_owner::ProtectRequest::new(&f.onnx, "tumours")
    };
    let refused = home.owner.protect(&request(&["malignant"]), &home.vault, &Silent).map(|_| ());
    assert!(refused.is_err_and(|e| e.to_string().contains("2 outputs")));
    let report = home.owner.protect(&request(&["malignant", "benign"]), &home.vault, &Silent).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let (bundle, results) = (dir.path().join("bundle.srb"), dir.path().join("results.srr"));
    home.owner.deploy(&report.id, &bundle, &home.identity).unwrap();
    let edge =
        Processor::load(&bundle, &Options { trust: Some(home.identity.signer()), ..Options::default() }).unwrap();
    let samples = edge.preprocess(&f.data).unwrap();
    let mut out = edge.results(&results).unwrap();
    for features in edge.features(samples.count, &samples.data).unwrap().chunks(edge.feature_count()) {
        out.push(edge.parameters(), &edge.infer(&edge.prepare(features).unwrap()).unwrap()).unwrap();
    }
    out.finish().unwrap();

    let labels = f.data.labels.as_ref().unwrap();
    let decrypt = |reveal: &str| home.owner.decrypt(&results, reveal.parse().unwrap(), &home.vault).unwrap();
    let found = decrypt("label");
    assert_eq!(found.count, labels.len());
    let right = found.predictions.iter().zip(labels).filter(|(p, l)| p.label == **l as usize).count();
    assert!(right * 10 >= labels.len() * 9, "{right} of {}", labels.len());
    for p in &found.predictions {
        assert_eq!(p.name.as_deref(), Some(["malignant", "benign"][p.label]));
        assert!(p.top.is_none() && p.scores.is_none(), "more than the label was revealed");
    }
    let top = &decrypt("top:1").predictions[0];
    assert!(
        top.scores.is_none() && top.top.as_ref().is_some_and(|t| t.len() == 1 && t[0].0 == top.label && t[0].1 > 0.5)
    );
    assert_eq!(decrypt("scores").predictions[0].scores.as_ref().map(Vec::len), Some(2));
}
