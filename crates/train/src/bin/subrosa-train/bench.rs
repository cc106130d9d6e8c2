//! How fast this machine trains, and a peer beside it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use subrosa_terminal::text::table;
use subrosa_terminal::{Failure, Terminal, machine};
use subrosa_train::data::{DataSet, Normalisation, Part, Samples, Scaling};
use subrosa_train::{Architecture, Choice, Job, Observer, Pooling, Recipe, Schedule, Shape, TrainError};

const SCRIPT: &str = include_str!("../../../../../models/peer_training.py");
const VARIABLE: &str = "SUBROSA_PEER_PYTHON";

/// What the same network is trained by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// TensorFlow with Keras
    Tensorflow,
    /// PyTorch
    Torch,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Tensorflow => "tensorflow",
            Peer::Torch => "torch",
        }
    }
}

/// What the peer's script prints.
#[derive(Deserialize)]
struct Theirs {
    peer: String,
    version: String,
    samples_per_second: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct Row {
    what: String,
    threads: usize,
    samples_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_samples_per_second: Option<f64>,
    /// Above 1: ours is faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    machine: String,
    samples: usize,
    batch: usize,
    rows: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: keras-cnn on {} images of 32 x 32 x 3, batches of {}",
            self.machine, self.samples, self.batch
        )?;
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let mut cells = vec![
                    row.what.clone(),
                    format!("{} threads", row.threads),
                    format!("{:.0} images/s", row.samples_per_second),
                ];
                if let (Some(peer), Some(theirs), Some(ratio)) = (&row.peer, row.peer_samples_per_second, row.ratio) {
                    cells.push(format!("{peer} {theirs:.0} images/s"));
                    cells.push(format!("ratio {ratio:.2}"));
                }
                cells
            })
            .collect();
        f.write_str(&table(&rows))
    }
}

struct Nobody;
impl Observer for Nobody {}

/// Trains the paper's network on random images, and has the peer do the same before.
pub(crate) fn bench(terminal: &mut Terminal<'_>, samples: usize, peer: Option<Peer>) -> Result<(), Failure> {
    let threads = terminal.flags().threads();
    let batch = Schedule::default().batch;
    let theirs = peer.map(|peer| ask(peer, samples, batch, threads)).transpose()?;
    let mut rows = Vec::new();
    for (what, activation, pooling) in
        [("relu, max", "relu", Pooling::Max), ("quadratic, mean", "quadratic", Pooling::Mean)]
    {
        let rate = measure(activation, pooling, samples).map_err(|error| crate::failure(&error))?;
        let peer_rate = theirs.as_ref().and_then(|t| t.samples_per_second.get(what).copied());
        rows.push(Row {
            what: what.to_owned(),
            threads,
            samples_per_second: rate,
            peer: theirs.as_ref().map(|t| format!("{} {}", t.peer, t.version)),
            peer_samples_per_second: peer_rate,
            ratio: peer_rate.map(|theirs| rate / theirs),
        });
    }
    terminal.report(&Report { machine: machine::cpu_model(), samples, batch, rows })
}

/// Samples a second of the second epoch.
fn measure(activation: &str, pooling: Pooling, samples: usize) -> Result<f64, TrainError> {
    let shape = Shape::Image { height: 32, width: 32, channels: 3 };
    // Any pixels will do: nothing is learned from them.
    let pixels = |count: usize| {
        (0..count * shape.elements()).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    };
    let part = |count: usize| Part {
        samples: Samples::Pixels(pixels(count)),
        labels: (0..count as u32).map(|i| i % 10).collect(),
    };
    let data = DataSet {
        shape,
        classes: (0..10).map(|class| class.to_string()).collect(),
        train: part(samples),
        validation: part(10),
        test: part(10),
        normalisation: Normalisation { mean: vec![0.5; 3], deviation: vec![0.25; 3] },
        scaling: Scaling::unit(3),
        columns: None,
        test_rows: None,
    };
    let recipe = Recipe {
        architecture: Architecture::KerasCnn,
        activations: vec![activation.parse::<Choice>()?],
        last_activation: None,
        pooling,
        batch_norm: true,
        dropout: 0.0,
        seed: 1,
    };
    let model = subrosa_train::build(&recipe, shape, &data.normalisation.mean, &data.normalisation.deviation, 10)?;
    let schedule = Schedule { epochs: 2, ..Schedule::default() };
    let batch = schedule.batch;
    let job = Job { model, adapt: None, schedule, checkpoint: None, description: String::new() };
    let outcome = subrosa_train::run(&job, &data, &mut Nobody)?;
    let seconds = outcome.log.last().map_or(f64::INFINITY, |epoch| epoch.seconds);
    Ok((samples / batch * batch) as f64 / seconds)
}

/// Runs `models/peer_training.py`.
fn ask(peer: Peer, samples: usize, batch: usize, threads: usize) -> Result<Theirs, Failure> {
    let python = std::env::var_os(VARIABLE).unwrap_or_else(|| OsString::from("python3"));
    let output = Command::new(&python)
        .args(["-c", SCRIPT, peer.name()])
        .args(["--samples", &samples.to_string(), "--batch", &batch.to_string(), "--threads", &threads.to_string()])
        .output()
        .map_err(|error| {
            Failure::usage(format!(
                "{} cannot be started: {error}; {VARIABLE} names the Python to use",
                python.display()
            ))
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().or_else(|| said.lines().last()).unwrap_or("no message").to_owned();
        Failure::usage(format!(
            "the peer cannot be timed: {last}\n{VARIABLE} names a Python that has {}",
            if peer == Peer::Torch { "torch" } else { "tensorflow and keras" }
        ))
    })
}
