//! A network of the shape of ResNet-8, with batch norms and quadratic activations, on random weights: through all agents, everything
//! encrypted.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;
#[path = "../../network/tests/common/mod.rs"]
mod onnx;

use common::{Encrypted, Fixture, Home};
use onnx::{Builder, ints};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::time::Instant;
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Dataset, Samples};
use subrosa_network::Scope;

/// Rows and columns of an image, and channels of the three groups; ResNet-8 for CIFAR-10 has 32, and 16, 32, 64.
const SIDE: usize = 8;
const CHANNELS: [usize; 3] = [4, 6, 8];
const CLASSES: usize = 5;
const CALIBRATED: usize = 40;
const VERIFIED: usize = 3;

struct Draw {
    builder: Builder,
    rng: ChaCha20Rng,
}

impl Draw {
    fn values(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        (0..count).map(|_| self.rng.random_range(low..high)).collect()
    }

    /// A convolution without bias and a batch norm.
    fn normed(&mut self, x: &str, (from, to): (usize, usize), size: usize, stride: i64) -> String {
        let bound = (3.0 / (from * size * size) as f32).sqrt();
        let kernel = self.values(to * from * size * size, -bound, bound);
        let kernel = self.builder.weights(&[to, from, size, size], &kernel);
        let pad = size as i64 / 2;
        let attributes = vec![ints("strides", &[stride, stride]), ints("pads", &[pad, pad, pad, pad])];
        let convolved = self.builder.node("Conv", &[x, &kernel], attributes);
        let norm = [(0.8, 1.2), (-0.1, 0.1), (-0.1, 0.1), (0.7, 1.4)].map(|(low, high)| {
            let values = self.values(to, low, high);
            self.builder.weights(&[to], &values)
        });
        let [gamma, beta, mean, variance] = &norm;
        self.builder.op("BatchNormalization", &[&convolved, gamma, beta, mean, variance])
    }

    /// Two convolutions beside a shortcut, which is one of size 1 where the channels change.
    fn block(&mut self, x: &str, (from, to): (usize, usize), stride: i64) -> String {
        let inner = self.normed(x, (from, to), 3, stride);
        let inner = self.builder.op("Relu", &[&inner]);
        let inner = self.normed(&inner, (to, to), 3, 1);
        let shortcut = if from == to { x.to_owned() } else { self.normed(x, (from, to), 1, stride) };
        let sum = self.builder.op("Add", &[&inner, &shortcut]);
        self.builder.op("Relu", &[&sum])
    }
}

/// Stem, three blocks, mean, one dense layer; and random images.
fn network() -> Fixture {
    let mut draw = Draw { builder: Builder::new(&[3, SIDE, SIDE]), rng: ChaCha20Rng::seed_from_u64(8) };
    let [first, second, third] = CHANNELS;
    let stem = draw.normed("x", (3, first), 3, 1);
    let mut x = draw.builder.op("Relu", &[&stem]);
    for (channels, stride) in [((first, first), 1), ((first, second), 2), ((second, third), 2)] {
        x = draw.block(&x, channels, stride);
    }
    let pooled = draw.builder.op("GlobalAveragePool", &[&x]);
    let flat = draw.builder.op("Flatten", &[&pooled]);
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let scores = draw.builder.dense(&flat, CLASSES, third, || rng.random_range(-1.0..1.0));
    let data = draw.values(CALIBRATED * 3 * SIDE * SIDE, -1.0, 1.0);
    let samples = Samples::Raw { shape: vec![3, SIDE, SIDE], data };
    let data = Dataset { count: CALIBRATED, samples, labels: None, names: None };
    Fixture { onnx: draw.builder.finish(&scores), data, preprocess: "" }
}

#[test]
fn a_network_like_resnet_8_agrees_with_itself_under_encryption() {
    let mut f = network();
    let calibrate = f.data.clone();
    let Samples::Raw { data, .. } = &mut f.data.samples else { panic!("no floats") };
    data.truncate(VERIFIED * 3 * SIDE * SIDE);
    f.data.count = VERIFIED;
    let home = Home::new();
    let start = Instant::now();
    let (report, found) = home.protect_and_verify_encrypted(
        &f,
        Some(&calibrate),
        &Scope::All,
        "relu=0.15x^2+0.5x+0.1",
        Encrypted::Both,
        SecurityLevel::Bits128,
    );
    println!(
        "2^{}, {} levels, {} ciphertexts, weights {:.0} MB, keys {:.0} MB; {:.1} s; {}",
        report.log_n,
        report.levels,
        report.ciphertexts,
        report.model_bytes as f64 / 1e6,
        report.key_bytes as f64 / 1e6,
        start.elapsed().as_secs_f64(),
        serde_json::to_string(&found).unwrap()
    );
    assert_eq!((found.agreement, found.count), (1.0, VERIFIED));
    assert!(found.max_abs_error <= report.forecast.max_abs_error, "{found:?}");
    assert!(found.max_abs_error <= 1e-2 * found.largest_output, "{found:?}");
}
