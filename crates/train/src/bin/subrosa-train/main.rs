//! The Training Agent's command line; `subrosa train` hands over to it.

mod arguments;
mod bench;
mod figures;
mod progress;
mod report;
mod setting;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use arguments::{Arguments, Command, Source, Start, TrainFlags};
use report::Report;
use subrosa_input::Preprocess;
use subrosa_terminal::{Failure, Terminal};
use subrosa_train::data::{self, DataSet, Scaling};
use subrosa_train::{Job, Model, Shape, TrainError};

fn main() -> ExitCode {
    setting::keep_large_buffers();
    subrosa_terminal::main(|out| {
        let Arguments { flags, train, command } = subrosa_terminal::parse(std::env::args_os())?;
        if let Some(threads) = flags.threads {
            setting::limit_candle_threads(threads);
        }
        flags.start_threads()?;
        let mut terminal = Terminal::new(out, flags);
        match (command, train) {
            (Some(Command::Figures { logs, out }), _) => figures::draw(&mut terminal, &logs, &out),
            (Some(Command::Bench { samples, peer }), _) => bench::bench(&mut terminal, samples as usize, peer),
            (None, Some(train)) => run(&mut terminal, &train),
            (None, None) => Err(Failure::usage("nothing to train is given\nFor more information, try '--help'.")),
        }
    })
}

fn failure(error: &TrainError) -> Failure {
    match error {
        TrainError::Diverged { .. } | TrainError::Library(_) => Failure::failed(error),
        _ => Failure::of(error),
    }
}

fn run(terminal: &mut Terminal<'_>, flags: &TrainFlags) -> Result<(), Failure> {
    let fail = |error: TrainError| failure(&error);
    let files = Files::beside(&flags.out)?;
    let schedule = flags.schedule().map_err(fail)?;
    let (model, data) = start(flags).map_err(fail)?;
    let job = Job {
        model,
        adapt: flags.adaptation().map_err(fail)?,
        schedule,
        checkpoint: Some((flags.checkpoint.clone().unwrap_or_else(|| files.checkpoint.clone()), flags.resume)),
        description: flags.description(),
    };
    let started = Instant::now();
    let mut bars = progress::Bars::new(job.schedule.epochs, terminal.flags().quiet);
    let outcome = subrosa_train::run(&job, &data, &mut bars).map_err(fail)?;
    bars.close();
    let seconds = started.elapsed().as_secs_f64();

    let mut model = outcome.model.clone();
    model.classes = Some(data.classes.clone());
    let mut report = Report::of(flags, &data, &job, &outcome, &model, seconds, terminal.flags().threads());
    let onnx = subrosa_train::to_onnx(&model, &report.metadata()).map_err(fail)?;
    report.out_bytes = onnx.len() as u64;
    write(&flags.out, &onnx)?;
    write(flags.log.as_deref().unwrap_or(&files.log), report.log_csv().as_bytes())?;
    write(flags.report.as_deref().unwrap_or(&files.report), report.text().as_bytes())?;
    if let Some(folder) = &flags.write_test {
        let test = data::write_test(&data, folder).map_err(fail)?;
        terminal.note(format!("test samples in {}, their labels in {}", test.input.display(), test.labels.display()));
    }
    subrosa_train::forget(&job);
    terminal.report(&report)
}

/// The network to begin with, and what to train it on.
fn start(flags: &TrainFlags) -> Result<(Model, DataSet), TrainError> {
    let options = flags.data_options();
    let foreign = match flags.start()? {
        Start::From(path) => {
            let onnx = fs::read(path).map_err(|source| TrainError::Io { path: path.display().to_string(), source })?;
            subrosa_train::from_onnx(&onnx)?
        }
        Start::New(recipe) => {
            let Source::Labelled(kind) = flags.dataset else {
                return Err(TrainError::Option(
                    "samples without labels are for --from, whose network says what they are".into(),
                ));
            };
            let data = data::load(kind, &flags.data, &options)?;
            let normalisation = &data.normalisation;
            let (mean, deviation) = (&normalisation.mean, &normalisation.deviation);
            return Ok((subrosa_train::build(&recipe, data.shape, mean, deviation, data.classes.len())?, data));
        }
    };
    let unit = Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() };
    let preprocess = flags.preprocess.as_ref().unwrap_or(&unit);
    let data = match flags.dataset {
        Source::Labelled(kind) => {
            let mut data = data::load(kind, &flags.data, &options)?;
            data.scaling = Scaling::declared(preprocess, data.shape.channels())?;
            // One channel has but one order, so a network may take it flat.
            if data.shape.channels() == 1 && foreign.input.shape == Shape::Flat(data.shape.elements()) {
                data.shape = foreign.input.shape;
            }
            data
        }
        Source::Unlabelled => {
            let outputs = foreign.outputs()?;
            let mut data = data::unlabelled(&flags.data, preprocess, &foreign.input, outputs, &options)?;
            subrosa_train::label(&foreign, &mut data)?;
            data
        }
    };
    Ok((foreign, data))
}

/// Files beside the network's.
struct Files {
    checkpoint: PathBuf,
    log: PathBuf,
    report: PathBuf,
}

impl Files {
    /// Checks that the network can be written there, before hours of work.
    fn beside(out: &Path) -> Result<Self, Failure> {
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Failure::usage(format!(
                "--out {}: there is no folder {}; make it first",
                out.display(),
                folder.display()
            )));
        }
        if out.is_dir() || out.file_name().is_none() {
            return Err(Failure::usage(format!("--out {}: it is a folder; name a file in it", out.display())));
        }
        let with = |ending: &str| out.with_extension(ending);
        Ok(Files { checkpoint: with("checkpoint"), log: with("log.csv"), report: with("report.md") })
    }
}

/// Writes a file wholly or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    subrosa_train::write_whole(path, bytes)
        .map_err(|source| Failure::of(&TrainError::Io { path: path.display().to_string(), source }))
}

/// What goes into the ONNX file beside the network.
type Metadata = BTreeMap<String, String>;
