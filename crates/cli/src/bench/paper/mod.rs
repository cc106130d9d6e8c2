//! `bench paper`: the experiment of the paper's section 5, with random weights, beside its published figures.

mod chart;
mod network;
mod place;
mod published;
mod report;

use super::archive::Archive;
use super::steps::{Run, number};
use super::{Conditions, finish, kernel};
use crate::arguments::{PaperFlags, PaperNetwork, PaperSetting};
use crate::failure::{failure, io};
use crate::samples::write_npy;
use clap::ValueEnum;
use place::Place;
use published::Step;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use report::{AnyRow, PaperReport, PlainReference, Row};
use serde_json::Value;
use std::path::Path;
use subrosa_fhe::{Scheme, SecurityLevel};
use subrosa_input::Samples;
use subrosa_network::{ActivationKind, Network, Polynomial, Scope, Substitutions};
use subrosa_plain::PlainNetwork;
use subrosa_terminal::{Failure, Terminal};

/// All weights and images come from it.
const SEED: u64 = 20_190_501;
/// Images that the ranges are taken from.
const CALIBRATION: usize = 32;
/// Images that each process classifies; its time is their median.
const IMAGES: usize = 5;

/// What is encrypted, and how.
pub(super) struct Experiment {
    network: PaperNetwork,
    setting: PaperSetting,
    encrypted_input: bool,
    security: SecurityLevel,
    scheme: Scheme,
}

pub(super) fn paper(terminal: &mut Terminal, wanted: &PaperFlags) -> Result<(), Failure> {
    let networks = wanted.network.each();
    if wanted.svg.is_some() && !networks.contains(&PaperNetwork::Cifar) {
        return Err(Failure::usage(
            "--svg draws the CIFAR-10 network, which the paper's figures are of: give --network cifar or all",
        ));
    }
    if let Some(parent) =
        wanted.svg.as_deref().and_then(Path::parent).filter(|p| !p.as_os_str().is_empty() && !p.is_dir())
    {
        // Told now, not after minutes of measuring.
        return Err(Failure::usage(format!("there is no directory {} for the chart: make it first", parent.display())));
    }
    let name = if wanted.scheme == Scheme::Bgv { "paper-bgv" } else { "paper" };
    let archive = Archive::find(wanted.archive, name)?;
    let kernel = kernel()?;
    let threads = terminal.flags().threads();
    let conditions = Conditions::now(kernel, threads)?;
    let settings = if wanted.setting.is_empty() { PaperSetting::value_variants() } else { &wanted.setting };
    // The price of exactness is seen beside what is not exact.
    let schemes: &[Scheme] = match wanted.scheme {
        Scheme::Bgv => &[Scheme::Bgv, Scheme::Ckks],
        Scheme::Ckks => &[Scheme::Ckks],
    };
    let bars = terminal.bars();
    let runs = usize::from(wanted.runs);
    let mut rows = Vec::new();
    for &network in networks {
        let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
        let place = Place { directory: directory.path().into(), threads };
        let samples = lay_out(network, &place)?;
        let reference: Result<Vec<Value>, Failure> = (0..runs).map(|_| place.plain()).collect();
        let reference = PlainReference::new(network, threads, &reference?)?;
        let mut steps = Vec::new();
        bars.begin(
            "repeating the paper's experiment",
            settings.len() * wanted.security.len() * 2 * schemes.len() * runs,
        );
        for &setting in settings {
            let expected = expected(&place, setting, &samples, threads)?;
            for &security in &wanted.security {
                for (encrypted_input, &scheme) in
                    [false, true].iter().flat_map(|input| schemes.iter().map(move |s| (*input, s)))
                {
                    let experiment = Experiment { network, setting, encrypted_input, security, scheme };
                    let mut done = Vec::with_capacity(runs);
                    for _ in 0..runs {
                        done.push(place.run(&experiment)?);
                        bars.advance(1);
                    }
                    let error = check(&done, &expected)?;
                    for step in [Step::Protect, Step::Infer, Step::Decrypt] {
                        let row = Row::new(&experiment, step, &done, &reference, error, &conditions);
                        steps.push(AnyRow::Step(Box::new(row?)));
                    }
                }
            }
        }
        bars.end();
        rows.push(AnyRow::Plain(reference));
        rows.append(&mut steps);
    }
    let report = PaperReport { conditions, seed: SEED, images: IMAGES, rows };
    if let Some(path) = &wanted.svg {
        chart::draw(&report, wanted.scheme, path)?;
        terminal.note(format!("drawn in {}", path.display()));
    }
    finish(terminal, archive, &report)
}

/// Writes the network and its samples; gives those to classify.
fn lay_out(network: PaperNetwork, place: &Place) -> Result<Vec<f32>, Failure> {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    let onnx = network::onnx(network, &mut rng)?;
    let shape = network::image(network);
    let path = place.network();
    std::fs::write(&path, onnx).map_err(io("write", &path))?;
    let raw = |data: Vec<f32>| Samples::Raw { shape: shape.to_vec(), data };
    write_npy(&place.calibration(), &raw(network::images(network, CALIBRATION, &mut rng)))?;
    let samples = network::images(network, IMAGES, &mut rng);
    write_npy(&place.samples(), &raw(samples.clone()))?;
    Ok(samples)
}

/// The approximated network's outputs for each sample, in f64.
fn expected(place: &Place, setting: PaperSetting, samples: &[f32], threads: usize) -> Result<Vec<Vec<f64>>, Failure> {
    let (scope, activation) = match setting {
        PaperSetting::Square => (Scope::Classifier, Some(Polynomial::new(vec![0.0, 2.0, 1.0]))),
        PaperSetting::None | PaperSetting::NoneFolded => (Scope::Classifier, Some(Polynomial::new(vec![0.0, 1.0]))),
        PaperSetting::Last => (Scope::Last, None),
    };
    let mut substitutions = Substitutions::none();
    if let Some(activation) = activation {
        substitutions.insert(ActivationKind::Relu, activation);
    }
    let path = place.network();
    let onnx = std::fs::read(&path).map_err(io("read", &path))?;
    let network = Network::from_onnx(&onnx).map_err(failure)?;
    let split = network.split(&scope, &substitutions).map_err(failure)?;
    let front = split.front.ok_or_else(|| Failure::failed("the network has no plain part"))?;
    let features = PlainNetwork::load(&front, threads).map_err(failure)?.run(IMAGES, samples).map_err(failure)?;
    let features = features.chunks(split.features.max(1));
    Ok(features.map(|x| split.chain.eval(&x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())).collect())
}

/// The largest error of all runs, which is within each run's forecast.
fn check(runs: &[Run], expected: &[Vec<f64>]) -> Result<f64, Failure> {
    let mut largest = 0f64;
    for run in runs {
        let scores = |image: usize| run.decrypted["predictions"][image]["scores"].as_array();
        let found: Vec<f64> = (0..expected.len()).filter_map(scores).flatten().filter_map(Value::as_f64).collect();
        let wanted: Vec<f64> = expected.iter().flatten().copied().collect();
        if found.len() != wanted.len() {
            return Err(Failure::failed(format!("{} outputs were decrypted, not {}", found.len(), wanted.len())));
        }
        let error = found.iter().zip(&wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f64::max);
        let forecast = number(&run.protected["forecast"], "max_abs_error")?;
        if error > forecast {
            return Err(Failure::failed(format!(
                "a result is off by {error:.2e}, more than the forecast {forecast:.2e}: no time is worth printing"
            )));
        }
        largest = largest.max(error);
    }
    Ok(largest)
}
