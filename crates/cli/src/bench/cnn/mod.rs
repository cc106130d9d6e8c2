//! `bench cnn`: whole networks, every layer encrypted, each step in a process of its own.

mod networks;
mod report;

use super::archive::Archive;
use super::steps::{Run, Steps, text};
use super::{Conditions, finish, kernel};
use crate::arguments::{CnnFlags, CnnNetwork, InputMode};
use crate::failure::{failure, io};
use clap::ValueEnum;
use networks::Subject;
use report::{CnnReport, Network};
use subrosa_fhe::SecurityLevel;
use subrosa_owner::{COST_MODEL_FILE, Owner};
use subrosa_plan::CostModel;
use subrosa_terminal::{Failure, Terminal};

/// A network in one setting.
struct Setting<'a> {
    subject: &'a Subject,
    input: InputMode,
    weights: InputMode,
    security: SecurityLevel,
    threads: usize,
    costs: &'a CostModel,
}

pub(super) fn cnn(terminal: &mut Terminal, wanted: &CnnFlags) -> Result<(), Failure> {
    let archive = Archive::find(wanted.archive, "cnn")?;
    let kernel = kernel()?;
    let threads = terminal.flags().threads();
    let bars = terminal.bars();
    let chosen: &[CnnNetwork] = match (&wanted.model, wanted.network.as_slice()) {
        (Some(_), _) => &[],
        (None, []) => CnnNetwork::value_variants(),
        (None, some) => some,
    };
    let own = wanted.model.iter().map(|model| (Some(model), None));
    let subjects: Vec<_> = own.chain(chosen.iter().map(|network| (None, Some(*network)))).collect();
    let conditions = Conditions::now(kernel, threads)?;
    let costs = &CostModel::measure(kernel).map_err(Failure::failed)?;
    let mut networks = Vec::new();
    let modes: Vec<(InputMode, InputMode)> = wanted
        .weights
        .iter()
        .flat_map(|weights| wanted.input.iter().map(|input| (*weights, *input)))
        .filter(|both| *both != (InputMode::Plain, InputMode::Plain))
        .collect();
    if modes.is_empty() {
        return Err(Failure::usage("plain weights with plain input protect nothing: encrypt one of them"));
    }
    bars.begin("measuring whole networks", subjects.len() * modes.len() * wanted.security.len());
    for (model, network) in subjects {
        let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
        let subject = match (model, network) {
            (Some(model), _) => Subject::given(model, wanted, directory.path())?,
            (None, Some(network)) => Subject::of_repository(network, wanted, directory.path())?,
            (None, None) => continue,
        };
        for &security in &wanted.security {
            for &(weights, input) in &modes {
                let setting = Setting { subject: &subject, input, weights, security, threads, costs };
                networks.push(setting.measure(&conditions)?);
                bars.advance(1);
            }
        }
    }
    bars.end();
    finish(terminal, archive, &CnnReport::new(conditions, networks))
}

impl Setting<'_> {
    /// From protection to decryption; every answer is held against the same network in plaintext.
    fn measure(&self, conditions: &Conditions) -> Result<Network, Failure> {
        let home = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
        let costs = home.path().join(COST_MODEL_FILE);
        self.costs.save(&costs).map_err(Failure::failed)?;
        let (security, subject) = (self.security.bits().to_string(), self.subject);
        let (file, calibration) = (text(&subject.file), text(&subject.calibration));
        let mut protect = vec![file.as_str(), "--scope", "all", "--calibrate", &calibration];
        protect.extend(["--security", &security, "--input", self.input.name(), "--weights", self.weights.name()]);
        protect.extend(subject.flags.iter().map(String::as_str));
        let run = Steps { home: home.path(), threads: self.threads }.run(&protect, &subject.samples)?;
        let owner = Owner::open(home.path()).map_err(failure)?;
        let id = run.protected["id"].as_str().unwrap_or_default();
        let expected = owner.plain_outputs(id, &subject.dataset).map_err(failure)?;
        Network::new(self, &run, &expected, conditions)
    }

    fn name(&self) -> String {
        let weights = if self.weights == InputMode::Plain { ", plain weights" } else { "" };
        format!("{}, {} input{weights}", self.subject.name, self.input.name())
    }
}

/// Answers beside those of the same network in plaintext.
struct Answers {
    /// Largest difference of an output.
    max_abs_error: f64,
    largest_output: f64,
    /// Share of samples with the same top class.
    agreement: f64,
}

impl Answers {
    /// Errors: a difference beyond the forecast, and answers that are missing.
    fn new(run: &Run, expected: &[Vec<f64>]) -> Result<Self, Failure> {
        let scores = |sample: usize| -> Vec<f64> {
            let scores = run.decrypted["predictions"][sample]["scores"].as_array();
            scores.into_iter().flatten().filter_map(serde_json::Value::as_f64).collect()
        };
        let found: Vec<Vec<f64>> = (0..expected.len()).map(scores).collect();
        if found.iter().zip(expected).any(|(f, e)| f.len() != e.len()) {
            return Err(Failure::failed("a decrypted answer has another number of outputs than the network"));
        }
        let pairs = || found.iter().flatten().zip(expected.iter().flatten());
        let max_abs_error = pairs().map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
        let forecast = super::steps::number(&run.protected["forecast"], "max_abs_error")?;
        if max_abs_error > forecast {
            return Err(Failure::failed(format!(
                "a result is off by {max_abs_error:.2e}, more than the forecast {forecast:.2e}: no time is worth printing"
            )));
        }
        let top = |scores: &[f64]| scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(class, _)| class);
        let same = found.iter().zip(expected).filter(|(f, e)| top(f) == top(e)).count();
        let largest_output = pairs().map(|(_, e)| e.abs()).fold(0.0, f64::max);
        Ok(Self { max_abs_error, largest_output, agreement: same as f64 / expected.len().max(1) as f64 })
    }
}
