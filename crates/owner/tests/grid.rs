//! Every combination of scope, activation, input and security, and chains of other depths and degrees, on real networks.

mod common;

use common::{Home, fixture};
use subrosa_fhe::security::SecurityLevel;
use subrosa_network::Scope;

#[test]
fn every_scope_activation_input_and_security_decrypts_correctly() {
    let home = Home::new();
    for (network, activation) in
        [("torch-mlp-noact", "none"), ("torch-small-cnn", "square"), ("keras-small-cnn", "x2+2x")]
    {
        for scope in [Scope::Last, Scope::Classifier] {
            for encrypted_input in [false, true] {
                for security in SecurityLevel::ALL {
                    let what = format!("{network} ({activation}) {scope} encrypted {encrypted_input} {security}");
                    let f = fixture(network);
                    let (report, found) =
                        home.protect_and_verify(&f, Some(&f.data), &scope, "", encrypted_input, security);
                    println!(
                        "{what}: N=2^{} {:?} digits; error {:.1e} of {:.1e}, largest output {:.1}, {:.1} ms, {} bytes",
                        report.log_n,
                        report.moduli_bits,
                        found.max_abs_error,
                        report.forecast.max_abs_error,
                        found.largest_output,
                        1e3 * found.median_infer_seconds,
                        found.bundle_bytes
                    );
                    assert_eq!(found.agreement, 1.0, "{what}");
                    assert!(found.max_abs_error <= report.forecast.max_abs_error, "{what}: {found:?}");
                    assert!(found.max_abs_error <= 1e-3 * found.largest_output, "{what}: {found:?}");
                    assert!(
                        report.forecast.table_slack_bits >= 0.0 && report.forecast.remaining_budget_bits > 0.0,
                        "{what}"
                    );
                }
            }
        }
    }
}

#[test]
fn deeper_chains_and_higher_degrees_decrypt_correctly() {
    let home = Home::new();
    for (network, activation) in [
        ("torch-mlp-poly", ""),
        ("torch-ai4i", ""),
        ("torch-tabular", ""),
        ("torch-mlp-tanh", "tanh=poly:0,0.9,0,-0.1"),
        ("torch-mlp-sigmoid", "sigmoid=poly:0.5,0.23,0,-0.008,0.001"),
        ("torch-mlp-tanh", "tanh=poly:0,0.97,0,-0.2,0,0.03,0,-0.002"),
    ] {
        for encrypted_input in [false, true] {
            let f = fixture(network);
            let (report, found) = home.protect_and_verify(
                &f,
                Some(&f.data),
                &Scope::Classifier,
                activation,
                encrypted_input,
                SecurityLevel::Bits128,
            );
            println!(
                "{network} {activation} encrypted {encrypted_input}: N=2^{} {:?}; error {:.1e} of {:.1e}, largest {:.1}, {:.1} ms",
                report.log_n,
                report.moduli_bits,
                found.max_abs_error,
                report.forecast.max_abs_error,
                found.largest_output,
                1e3 * found.median_infer_seconds,
            );
            assert_eq!(found.agreement, 1.0, "{network}");
            assert!(found.max_abs_error <= report.forecast.max_abs_error, "{network}: {found:?}");
        }
    }
}
