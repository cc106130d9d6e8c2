//! Whole networks through all agents: convolutions, residual blocks, pooling, everything encrypted.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;

use common::{Encrypted, Home, fixture};
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::Samples;
use subrosa_network::Scope;

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
