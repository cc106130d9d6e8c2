//! Small networks of all sizes and forms: what is planned has room for its results and its constants, is protected, and decrypts right
//! up to its declared range; what is not planned is refused with a reason.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;
#[path = "../../network/tests/common/mod.rs"]
mod networks;

use common::{Encrypted, Home};
use networks::{Builder, ints};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Dataset, Samples};
use subrosa_network::Scope;
use subrosa_owner::{OwnerError, ProtectRequest, Silent, VerifyRequest};
use subrosa_plain::PlainNetwork;

const ENCRYPTED: [Encrypted; 3] = [Encrypted::Both, Encrypted::Weights, Encrypted::Input];

/// What a network is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// One layer.
    Dense,
    /// Two layers, squares between them.
    Squares,
    /// Two layers and nothing between them.
    Linear,
    /// One layer for each of three steps of a sequence.
    Sequence,
    /// One convolution of a square image.
    Convolution,
    /// A convolution, then a dense layer.
    Convolved,
}

const FORMS: [Form; 6] = [Form::Dense, Form::Squares, Form::Linear, Form::Sequence, Form::Convolution, Form::Convolved];
/// Values between two layers; as many as no network has features.
const HIDDEN: usize = 19;
const STEPS: usize = 3;
const CALIBRATION_SEED: u64 = 2;

/// One combination.
#[derive(Debug, Clone)]
struct Case {
    form: Form,
    features: usize,
    outputs: usize,
    scope: Scope,
    encrypted: Encrypted,
    security: SecurityLevel,
    calibrated: bool,
    /// What weights and biases are multiplied by.
    size: f32,
    /// What is added to each bias.
    shift: f32,
}

impl Case {
    fn shape(&self) -> Vec<usize> {
        let side = (self.features as f64).sqrt() as usize;
        match self.form {
            Form::Sequence => vec![STEPS, self.features],
            Form::Convolution | Form::Convolved => vec![1, side.max(3), side.max(3)],
            _ => vec![self.features],
        }
    }

    fn length(&self) -> usize {
        self.shape().iter().product()
    }

    fn network(&self) -> Vec<u8> {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let shape = self.shape();
        let mut net = Builder::new(&shape);
        let mut layer = |net: &mut Builder, input: &str, rows: usize, cols: usize| {
            let most = self.size / (cols as f32).sqrt();
            let mut weights = rows * cols;
            let draw = || {
                // The biases come last.
                let shift = if weights == 0 { self.size * self.shift } else { 0.0 };
                weights = weights.saturating_sub(1);
                rng.random_range(-most..most) + shift
            };
            net.dense(input, rows, cols, draw)
        };
        let output = match self.form {
            Form::Dense | Form::Sequence => layer(&mut net, "x", self.outputs, self.features),
            Form::Squares | Form::Linear => {
                let mut y = layer(&mut net, "x", HIDDEN, self.features);
                if self.form == Form::Squares {
                    y = net.op("Mul", &[&y, &y]);
                }
                layer(&mut net, &y, self.outputs, HIDDEN)
            }
            Form::Convolution | Form::Convolved => {
                let alone = self.form == Form::Convolution;
                let channels = if alone { self.outputs.min(4) } else { 2 };
                let mut values = |count: usize, shift: f32| -> Vec<f32> {
                    let next = |_| self.size * (rng.random_range(-0.3f32..0.3) + shift);
                    (0..count).map(next).collect()
                };
                let w = net.weights(&[channels, 1, 3, 3], &values(9 * channels, 0.0));
                let b = net.weights(&[channels], &values(channels, self.shift));
                let y = net.node("Conv", &["x", &w, &b], vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2])]);
                let y = net.op("Flatten", &[&y]);
                let out = (shape[1] - 3) / 2 + 1;
                if alone {
                    y
                } else {
                    let cols = channels * out * out;
                    let w = net.weights(&[cols, self.outputs], &values(cols * self.outputs, 0.0));
                    let b = net.weights(&[self.outputs], &values(self.outputs, self.shift));
                    let product = net.op("MatMul", &[&y, &w]);
                    net.op("Add", &[&product, &b])
                }
            }
        };
        net.finish(&output)
    }

    fn data(&self, data: Vec<f32>) -> Dataset {
        let count = data.len() / self.length();
        Dataset { count, samples: Samples::Raw { shape: self.shape(), data }, labels: None, names: None }
    }

    /// Samples with values between -1 and 1.
    fn samples(&self, count: usize, seed: u64) -> Dataset {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        self.data((0..count * self.length()).map(|_| rng.random_range(-1.0..1.0)).collect())
    }

    /// A sample within `max_abs` and `max_norm` whose largest output is as close to `largest` as they permit.
    fn filling(&self, plain: &PlainNetwork, max_abs: f64, max_norm: f64, largest: f64) -> Dataset {
        let length = self.length();
        let output = |x: &[f32]| plain.run(1, x).unwrap();
        let base = output(&vec![0.0; length]);
        // Against each feature the sign with which it enters the first output.
        let mut x: Vec<f32> = (0..length)
            .map(|i| {
                let mut unit = vec![0.0; length];
                unit[i] = 1.0;
                if output(&unit)[0] < base[0] { -1.0 } else { 1.0 }
            })
            .collect();
        let at = |by: f64| x.iter().map(|v| (f64::from(*v) * by) as f32).collect::<Vec<f32>>();
        let most = |by: f64| output(&at(by)).iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
        let (mut low, mut high) = (0.0, 0.99 * max_abs.min(max_norm / (length as f64).sqrt()));
        if most(high) > largest {
            for _ in 0..20 {
                let middle = 0.5 * (low + high);
                if most(middle) > largest { high = middle } else { low = middle }
            }
            high = low;
        }
        x = at(high);
        self.data(x)
    }

    /// Plans, protects and verifies: what was found, or what is wrong.
    fn run(&self, home: &Home) -> Result<String, String> {
        let onnx = self.network();
        let calibrate = self.samples(32, CALIBRATION_SEED);
        let request = ProtectRequest {
            scope: self.scope.clone(),
            encrypted_input: self.encrypted != Encrypted::Weights,
            plain_weights: self.encrypted == Encrypted::Input,
            calibrate: self.calibrated.then_some(&calibrate),
            security: self.security,
            ..ProtectRequest::new(&onnx, "small")
        };
        let planned = match home.owner.plan(&request) {
            Ok(planned) => planned,
            // Not all forms have a classifier.
            Err(OwnerError::Network(e)) if self.scope != Scope::All => return Ok(format!("not this part: {e}")),
            Err(e) => return Err(format!("refused: {e}")),
        };
        let (program, forecast) = (&planned.plan().program, planned.plan().forecast);
        let (budget, forecast) = (forecast.remaining_budget_bits, forecast.max_abs_error);
        if budget.is_nan() || budget <= 0.0 {
            return Err(format!("{budget} bits of budget"));
        }
        let output_max = program.output.max_abs;
        let ranges = (program.input.max_abs, program.input.max_norm);
        let front = planned.plan().program.input.features != self.length();
        let report = home.owner.protect_planned(&request, planned, &home.vault, &Silent);
        let report = report.map_err(|e| format!("protect: {e}"))?;
        let verified = |data: &Dataset| {
            let verify = VerifyRequest { id: &report.id, data, threads: 1 };
            home.owner.verify(&verify, &home.vault, &home.identity, &Silent).map_err(|e| format!("verify: {e}"))
        };
        let found = verified(&self.samples(3, CALIBRATION_SEED))?;
        let error = found.max_abs_error;
        if error > forecast {
            return Err(format!("error {error:.1e} of {forecast:.1e}"));
        }
        let mut filled = String::new();
        if !front {
            let plain = PlainNetwork::load(&onnx, 1).unwrap();
            let found = verified(&self.filling(&plain, ranges.0, ranges.1, 0.95 * output_max))?;
            let (error, largest) = (found.max_abs_error, found.largest_output);
            if error > 0.02 * output_max {
                return Err(format!("error {error:.1e} on outputs up to {largest:.1e} of {output_max:.1e}"));
            }
            filled = format!("; {error:.1e} where {:.2} of the range is filled", largest / output_max);
        }
        Ok(format!(
            "2^{} {:?} bits, {budget:.1} left, error {error:.1e} of {forecast:.1e}{filled}",
            report.log_n, report.moduli_bits
        ))
    }
}

fn sweep(cases: &[Case]) {
    let mut wrong = Vec::new();
    // A home for some, so that few networks are on the disk at once.
    let mut home = Home::new();
    for (i, case) in cases.iter().enumerate() {
        if i % 100 == 99 {
            home = Home::new();
        }
        let start = std::time::Instant::now();
        let found = case.run(&home);
        println!("{:5.2} {case:?}: {found:?}", start.elapsed().as_secs_f64());
        if let Err(e) = found {
            wrong.push(format!("{case:?}: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// All combinations.
fn all(features: &[usize], outputs: &[usize], forms: &[Form]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &form in forms {
        for &features in features {
            for &outputs in outputs {
                for scope in [Scope::Last, Scope::Classifier, Scope::All] {
                    for encrypted in ENCRYPTED {
                        for calibrated in [false, true] {
                            let security = SecurityLevel::Bits128;
                            let scope = scope.clone();
                            cases.push(Case {
                                form,
                                features,
                                outputs,
                                scope,
                                encrypted,
                                security,
                                calibrated,
                                size: 1.0,
                                shift: 0.0,
                            });
                        }
                    }
                }
            }
        }
    }
    cases
}

/// The same in other securities, with weights and biases of other sizes: one for each combination.
fn varied(mut cases: Vec<Case>) -> Vec<Case> {
    for (i, case) in cases.iter_mut().enumerate() {
        case.security = SecurityLevel::ALL[i % 3];
        case.size = [1.0, 1e-3, 1e3, 1.0][i / 3 % 4];
        case.shift = [0.0, 10.0, -1e3][i / 2 % 3];
    }
    cases
}

#[test]
fn small_networks_have_room_for_their_results() {
    let cases = all(&[1, 3, 8, 64, 1024], &[1, 2, 10], &FORMS);
    // Every so many, so that each choice meets each other.
    let some: Vec<Case> = cases.into_iter().step_by(11).collect();
    let others = varied(all(&[2, 17, 512], &[1, 10], &FORMS)).into_iter().step_by(13);
    let all: Vec<Case> = some.into_iter().chain(others).collect();
    sweep(&all);
}

#[test]
#[ignore = "minutes: every combination"]
fn networks_of_all_sizes_have_room_for_their_results() {
    let features = [1, 2, 3, 8, 17, 64, 512, 1000, 1024, 3000, 4096];
    let dense = all(&features, &[1, 2, 10, 100], &[Form::Dense, Form::Squares]);
    let others = all(&[8, 64, 1024, 3000], &[2, 10], &FORMS);
    let varied = varied(all(&features, &[1, 10], &FORMS));
    sweep(&[dense, others, varied].concat());
}
