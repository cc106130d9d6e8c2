//! `bench`: measures this machine. One module for each story; here is what all of their reports share.

mod archive;
mod calibration;
mod classifier;
mod cnn;
mod network;
mod paper;
mod peer;
mod plain;
mod primitives;
mod steps;

use crate::arguments::{Bench, HomeFlags};
use crate::failure::failure;
use archive::Archive;
use calibration::Calibration;
use serde::Serialize;
use std::fmt;
use std::time::Instant;
use subrosa_fhe::{FheError, Kernel};
use subrosa_owner::OwnerError;
use subrosa_terminal::machine::{self, median};
use subrosa_terminal::{Failure, Terminal};

pub(crate) fn bench(terminal: &mut Terminal, home: &HomeFlags, what: &Bench) -> Result<(), Failure> {
    match what {
        Bench::Primitives(wanted) => primitives::primitives(terminal, home, wanted),
        Bench::Classifier(wanted) => classifier::classifier(terminal, wanted),
        Bench::Cnn(wanted) => cnn::cnn(terminal, wanted),
        Bench::Paper(wanted) => paper::paper(terminal, wanted),
        Bench::Plain { model, input } => plain::plain(terminal, model, input),
        // It starts threads of its own: `main` has run it before.
        Bench::Edge { .. } => Ok(()),
    }
}

/// What figures depend on and are printed with.
#[derive(Serialize)]
struct Conditions {
    machine: String,
    kernel: String,
    threads: usize,
    commit: Option<String>,
    /// Day of the measurement, UTC.
    date: String,
    calibration: Calibration,
}

impl Conditions {
    /// Those of this process; measures the calibration.
    fn now(kernel: Kernel, threads: usize) -> Result<Self, Failure> {
        Ok(Self {
            machine: machine::cpu_model(),
            kernel: kernel.to_string(),
            threads,
            commit: commit(),
            date: archive::today(),
            calibration: Calibration::measure(kernel).map_err(engine)?,
        })
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.as_deref().unwrap_or("unknown");
        let threads = if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        writeln!(f, "{}, kernel {}, {threads}, commit {commit}, {}", self.machine, self.kernel, self.date)?;
        writeln!(f, "{}", self.calibration)
    }
}

/// Times of one piece of work.
#[derive(Clone, Copy)]
struct Times {
    runs: usize,
    /// Seconds.
    median: f64,
    /// Seconds; on a busy machine nearer the truth than the median.
    least: f64,
}

impl Times {
    /// Times the work so often, after one run that is not counted.
    fn of<R>(runs: usize, mut work: impl FnMut() -> Result<R, FheError>) -> Result<Self, FheError> {
        std::hint::black_box(work()?);
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            // What the work gives is dropped inside of the time: an evaluation that keeps nothing has to do so, too.
            std::hint::black_box(work()?);
            times.push(start.elapsed().as_secs_f64());
        }
        let median = median(&mut times);
        Ok(Self { runs, median, least: times.first().copied().unwrap_or(0.0) })
    }
}

/// Prints a report, then keeps it in the archive if that was asked for.
fn finish(
    terminal: &mut Terminal,
    archive: Option<Archive>,
    report: &(impl Serialize + fmt::Display),
) -> Result<(), Failure> {
    terminal.report(report)?;
    if let Some(archive) = archive {
        let path = archive.write(report)?;
        terminal.note(format!("archived as {}", path.display()));
    }
    Ok(())
}

fn kernel() -> Result<Kernel, Failure> {
    Kernel::active().map_err(|e| engine(e.into()))
}

fn engine(error: FheError) -> Failure {
    failure(OwnerError::Engine(error))
}

/// The commit of the source tree this program was built in, if it is still there.
fn commit() -> Option<String> {
    let mut git = std::process::Command::new("git");
    let output = git.args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// `median of 21`, or `1 run`.
fn runs(runs: usize) -> String {
    if runs == 1 { "1 run".to_owned() } else { format!("median of {runs}") }
}

/// A ratio with three digits.
fn ratio(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}
