//! Which networks leave results that cannot be told from any ciphertexts: their owner is warned.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;
#[path = "../../network/tests/common/mod.rs"]
mod networks;

use common::{Home, root};
use networks::Builder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use subrosa_network::Scope;
use subrosa_owner::release::ReleaseAgent;
use subrosa_owner::{ProtectRequest, Silent};

/// One layer.
fn layer(features: usize, outputs: usize) -> Vec<u8> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut net = Builder::new(&[1, features]);
    let y = net.dense("x", outputs, features, || rng.random_range(-0.1..0.1));
    net.finish(&y)
}

/// Protects one layer as a whole network; the warning, and the strength of the check.
fn protected(onnx: &[u8], encrypted_input: bool, plain_weights: bool) -> (Option<String>, f64) {
    let home = Home::new();
    let request =
        ProtectRequest { scope: Scope::All, encrypted_input, plain_weights, ..ProtectRequest::new(onnx, "layer") };
    let report = home.owner.protect(&request, &home.vault, &Silent).unwrap();
    let agent = ReleaseAgent::load(&home.owner, &report.id, &home.vault).unwrap();
    (agent.warning(), agent.structure_strength())
}

#[test]
fn who_protects_one_wide_layer_is_warned_and_others_are_not() {
    // As many features as the ring has coefficients: each result is some input's.
    let wide = layer(4096, 1);
    let fixture = root().join("models/fixtures/wide/layer.onnx");
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        std::fs::write(&fixture, &wide).unwrap();
    }
    assert!(std::fs::read(fixture).unwrap() == wide, "run with WRITE_FIXTURES=1 to write it anew");
    let (warning, strength) = protected(&wide, true, false);
    let text = warning.unwrap();
    assert!(text.contains("any ciphertexts of the right form") && !text.contains('\n'), "{text}");
    // But for a weight here and there that happens to be as good as nothing.
    assert!(strength < 0.005, "{strength}");
    // Of weights in the clear nothing is to be learned.
    assert_eq!(protected(&wide, true, true).0, None);
    // A quarter of the ring leaves three quarters to be checked.
    let (warning, strength) = protected(&layer(1024, 1), true, false);
    assert_eq!(warning, None);
    assert!((strength - 0.75).abs() < 0.01, "{strength}");
}
