//! `kill -9` in the middle of `protect`.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Owner, borrowed, fixture, protect_tabular};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::process::Stdio;
use std::time::{Duration, Instant};

const SEED: u64 = 9;
const KILLS: usize = 10;

#[test]
fn a_killed_protect_leaves_the_old_state_or_the_new_one() {
    println!("seed {SEED}");
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    let owner = Owner::new();
    owner.json(&borrowed(&protect_tabular("first", "plain")));
    let model = fixture("torch-mlp-poly.onnx");
    let data = fixture("torch-mlp-poly.input.npy");
    let protect = ["protect", &model, "--name", "second", "--calibrate", &data];
    let start = Instant::now();
    owner.json(&protect);
    let whole = start.elapsed();

    let mut versions = 1;
    let mut interrupted = 0;
    for _ in 0..KILLS {
        let mut child = owner.command(&protect).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Most of the moments lie in the work, some behind its end.
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * rng.random_range(0.05..1.1)));
        child.kill().unwrap();
        interrupted += usize::from(!child.wait().unwrap().success());
        let listed = owner.json(&["models"]);
        let models = listed["models"].as_array().unwrap();
        let seconds = models.iter().filter(|m| m["name"] == "second").count();
        assert!(seconds == versions || seconds == versions + 1, "{seconds} after {versions}");
        versions = seconds;
        // Every network that is listed has its files and its secret key.
        let keys = owner.vault().list().unwrap();
        for id in models.iter().map(|m| m["id"].as_str().unwrap()) {
            assert!(keys.iter().any(|k| k.ends_with(id)), "{id} has no key");
            owner.json(&["deploy", id, "--out", "again.srb"]);
        }
        let staged = std::fs::read_dir(owner.home().join("staging")).unwrap().count();
        assert_eq!(staged, 0, "staged files were left");
    }
    // The rest of a busy machine decides how many; without any this would test nothing.
    assert!(interrupted >= 2, "only {interrupted} of {KILLS} were interrupted");
    owner.json(&protect);
    let results = owner.json(&["verify", "second", "--input", &data, "--limit", "2"]);
    assert_eq!(results["agreement"], 1.0);
}
