//! `bench classifier`: fully connected layers with random weights, measured from protection to decryption.

use super::archive::Archive;
use super::{Conditions, finish, kernel, network, peer, ratio, runs};
use crate::arguments::{ClassifierFlags, Peer, Shape};
use crate::failure::{failure, io};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde::Serialize;
use std::fmt;
use std::time::Instant;
use subrosa_edge_agent::{Options, Processor};
use subrosa_fhe::{Kernel, Scheme, wire};
use subrosa_input::{Dataset, Samples};
use subrosa_network::{ActivationKind, Network, Polynomial, Scope, Substitutions};
use subrosa_owner::{Owner, ProtectRequest, Reveal, Silent};
use subrosa_plan::CostModel;
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};
use subrosa_terminal::machine::median;
use subrosa_terminal::{Failure, Terminal, text};

/// All weights and inputs come from it.
const SEED: u64 = 20_190_501;
/// Samples that the ranges are taken from.
const CALIBRATION: usize = 32;
/// Times that a bundle is loaded.
const LOADS: usize = 3;
/// What the peer's script measures, as a shape.
const PEER_SHAPE: [usize; 2] = [512, 10];

#[derive(Serialize)]
struct BenchReport {
    #[serde(flatten)]
    conditions: Conditions,
    seed: u64,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<peer::Comparison>,
}

/// One measurement; sizes are those of the setting.
#[derive(Serialize)]
struct Row {
    what: &'static str,
    setting: String,
    security_bits: u32,
    threads: usize,
    kernel: String,
    runs: usize,
    median_seconds: f64,
    /// What the plan predicts on one thread, with costs measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_seconds: Option<f64>,
    log_n: u32,
    model_bytes: u64,
    key_bytes: u64,
    bundle_bytes: u64,
    input_ciphertext_bytes: u64,
    result_bytes: u64,
    /// Largest difference of a decrypted output from f64, over all runs.
    max_abs_error: f64,
    forecast_max_abs_error: f64,
}

/// What one setting is.
struct Setting<'a> {
    shape: &'a Shape,
    activation: &'a Polynomial,
    encrypted_input: bool,
    wanted: &'a ClassifierFlags,
    threads: usize,
    kernel: Kernel,
    costs: &'a CostModel,
}

pub(crate) fn classifier(terminal: &mut Terminal, wanted: &ClassifierFlags) -> Result<(), Failure> {
    let archive =
        Archive::find(wanted.archive, if wanted.peer.is_some() { "classifier-with-tenseal" } else { "classifier" })?;
    let kernel = kernel()?;
    let threads = terminal.flags().threads();
    let conditions = Conditions::now(kernel, threads)?;
    let costs = &CostModel::measure(kernel).map_err(Failure::failed)?;
    let mut rows = Vec::new();
    let measure = |shape, encrypted_input| -> Result<Vec<Row>, Failure> {
        Setting { shape, activation: &wanted.activation, encrypted_input, wanted, threads, kernel, costs }.measure()
    };
    for encrypted_input in [false, true] {
        rows.extend(measure(&wanted.shape, encrypted_input)?);
    }
    let peer = match wanted.peer {
        Some(Peer::Tenseal) => {
            let layer = Shape(PEER_SHAPE.to_vec());
            if wanted.shape != layer {
                rows.extend(measure(&layer, false)?);
            }
            let setting = format!("{layer}, plain input");
            let ours: Vec<&Row> = rows.iter().filter(|r| r.setting == setting).collect();
            let seconds = |what| ours.iter().find(|r| r.what == what).map_or(0.0, |r| r.median_seconds);
            Some(peer::layer(peer::Layer {
                seconds: seconds("prepare") + seconds("infer"),
                ring_degree: ours.first().map_or(0, |r| 1 << r.log_n),
                max_abs_error: ours.iter().map(|r| r.max_abs_error).fold(0.0, f64::max),
                threads: threads as u64,
            })?)
        }
        None => None,
    };
    finish(terminal, archive, &BenchReport { conditions, seed: SEED, rows, peer })
}

impl Setting<'_> {
    /// Protects, loads, prepares, infers and decrypts; every result is held against f64.
    fn measure(&self) -> Result<Vec<Row>, Failure> {
        let mut rng = ChaCha20Rng::seed_from_u64(SEED);
        let onnx = network::onnx(&self.shape.0, &mut rng)?;
        let features = self.shape.0.first().copied().unwrap_or(1);
        let calibration = Dataset {
            count: CALIBRATION,
            samples: Samples::Raw {
                shape: vec![features],
                data: (0..CALIBRATION).flat_map(|_| network::input(features, &mut rng)).collect(),
            },
            labels: None,
            names: None,
        };
        let mut substitutions = Substitutions::none();
        substitutions.insert(ActivationKind::Relu, self.activation.clone());

        let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
        let place = directory.path();
        let owner = Owner::open(place).map_err(failure)?;
        let passphrase = Passphrase::new("bench".to_owned()).map_err(failure)?;
        let vault = Vault::create_or_open(place, &passphrase).map_err(failure)?;
        let identity = OwnerIdentity::load_or_create(&vault).map_err(failure)?;
        let request = ProtectRequest {
            scope: Scope::All,
            encrypted_input: self.encrypted_input,
            substitutions: substitutions.clone(),
            calibrate: Some(&calibration),
            security: self.wanted.security,
            fold: !self.wanted.unfolded,
            costs: Some(self.costs),
            scheme: self.wanted.scheme,
            ..ProtectRequest::new(&onnx, "bench")
        };
        let protected = owner.protect(&request, &vault, &Silent).map_err(failure)?;
        let bundle = place.join("bench.srb");
        let deployed = owner.deploy(&protected.id, &bundle, &identity).map_err(failure)?;

        let mut times = Vec::with_capacity(LOADS);
        let mut load = || {
            let start = Instant::now();
            let options = Options { trust: Some(identity.signer()), threads: self.threads, kernel: Some(self.kernel) };
            let processor = Processor::load(&bundle, &options).map_err(failure);
            times.push(start.elapsed().as_secs_f64());
            processor
        };
        let mut processor = load()?;
        for _ in 1..LOADS {
            // The old one first, so that two are never in memory.
            drop(processor);
            processor = load()?;
        }
        let load_seconds = median(&mut times);

        let network = Network::from_onnx(&onnx).map_err(failure)?;
        let chain = network.split(&Scope::All, &substitutions).map_err(failure)?.chain;
        let runs = usize::from(self.wanted.runs);
        let path = place.join("bench.srr");
        let mut results = processor.results(&path).map_err(failure)?;
        let (mut prepare_times, mut infer_times) = (Vec::new(), Vec::new());
        let mut input_ciphertext_bytes = 0;
        let mut again = rng.clone();
        for _ in 0..runs {
            let x = network::input(features, &mut rng);
            let start = Instant::now();
            let input = processor.prepare(&x).map_err(failure)?;
            prepare_times.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let result = processor.infer(&input).map_err(failure)?;
            infer_times.push(start.elapsed().as_secs_f64());
            input_ciphertext_bytes = input.ciphertext_bytes(processor.parameters()) as u64;
            results.push(processor.parameters(), &result).map_err(failure)?;
        }
        results.finish().map_err(failure)?;
        // Not between the runs: an edge's caches don't hold the network in the clear.
        let mut expected = || {
            let x = network::input(features, &mut again);
            chain.eval(&x.into_iter().map(f64::from).collect::<Vec<_>>())
        };
        let expected: Vec<Vec<f64>> = (0..runs).map(|_| expected()).collect();
        let decrypted = owner.decrypt(&path, Reveal::Scores, &vault).map_err(failure)?;
        let errors = decrypted
            .predictions
            .iter()
            .zip(&expected)
            .flat_map(|(p, want)| p.scores.iter().flatten().zip(want).map(|(got, want)| (got - want).abs()));
        let max_abs_error = errors.fold(0.0, f64::max);
        let forecast_max_abs_error = protected.forecast.max_abs_error;
        if max_abs_error > forecast_max_abs_error {
            return Err(Failure::failed(format!(
                "a result is off by {max_abs_error:.2e}, more than the forecast {forecast_max_abs_error:.2e}: no time is worth printing"
            )));
        }

        let output = &processor.program().output;
        let result_bytes = processor.program().channel_count()
            * output.registers.len()
            * wire::ciphertext_len(processor.parameters(), output.level, output.degree);
        let predicted = |what| match what {
            "prepare" => Some(protected.forecast.prepare_seconds),
            "infer" => Some(protected.forecast.infer_seconds),
            _ => None,
        };
        let row = |what, runs, median_seconds| Row {
            predicted_seconds: predicted(what),
            what,
            setting: self.name(),
            security_bits: protected.security_bits,
            threads: self.threads,
            kernel: self.kernel.to_string(),
            runs,
            median_seconds,
            log_n: protected.log_n,
            model_bytes: protected.model_bytes,
            key_bytes: protected.key_bytes,
            bundle_bytes: deployed.bundle_bytes,
            input_ciphertext_bytes,
            result_bytes: result_bytes as u64,
            max_abs_error,
            forecast_max_abs_error,
        };
        Ok(vec![
            row("plan", 1, protected.plan_seconds),
            // Keys, encryption and writing.
            row("protect", 1, protected.protect_seconds - protected.plan_seconds),
            row("load", LOADS, load_seconds),
            row("prepare", runs, median(&mut prepare_times)),
            row("infer", runs, median(&mut infer_times)),
            // One results file, its time shared out.
            row("decrypt", 1, decrypted.seconds / runs as f64),
        ])
    }

    fn name(&self) -> String {
        let input = if self.encrypted_input { "encrypted" } else { "plain" };
        let activation = match self.shape.0.len() > 2 {
            true if self.activation.is_identity() => " without activation".into(),
            true => format!(" {}", self.activation),
            false => String::new(),
        };
        let unfolded = if self.wanted.unfolded { ", unfolded" } else { "" };
        let exact = if self.wanted.scheme == Scheme::Bgv { ", exact integers" } else { "" };
        format!("{}{activation}{unfolded}, {input} input{exact}", self.shape)
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}seed {}", self.conditions, self.seed)?;
        for setting in self.rows.chunk_by(|a, b| a.setting == b.setting) {
            let Some(first) = setting.first() else { continue };
            writeln!(
                f,
                "\n{}, {} bits of security, ring degree 2^{}",
                first.setting, first.security_bits, first.log_n
            )?;
            let times = setting.iter().map(|r| {
                let predicted = r.predicted_seconds.map_or_else(String::new, |p| {
                    format!("{} of the predicted {}", ratio(r.median_seconds / p), text::seconds(p))
                });
                [format!("  {}", r.what), text::seconds(r.median_seconds), runs(r.runs), predicted]
            });
            f.write_str(&text::table(&times.collect::<Vec<_>>()))?;
            writeln!(
                f,
                "  model {}, keys {}, bundle {}, encrypted input {}, result {}",
                text::bytes(first.model_bytes),
                text::bytes(first.key_bytes),
                text::bytes(first.bundle_bytes),
                text::bytes(first.input_ciphertext_bytes),
                text::bytes(first.result_bytes)
            )?;
            writeln!(
                f,
                "  largest error against f64 {:.2e}, forecast at most {:.2e}",
                first.max_abs_error, first.forecast_max_abs_error
            )?;
        }
        match &self.peer {
            Some(peer) => write!(f, "\n{peer}"),
            None => Ok(()),
        }
    }
}
