//! The demo network through all agents.

mod common;

use common::{Home, digits, fixture};
use subrosa_fhe::security::SecurityLevel;
use subrosa_network::Scope;

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
    let request = subrosa_owner::ProtectRequest {
        onnx: &f.onnx,
        name: "deep",
        scope: Scope::Classifier,
        encrypted_input: true,
        substitutions: Default::default(),
        preprocess: None,
        calibrate: None,
        security: SecurityLevel::Bits128,
        force: false,
    };
    let home = Home::new();
    let text = home.owner.plan(&request).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(text.contains("--calibrate"), "{text}");
    assert!(home.owner.registry().list().unwrap().is_empty());
}
