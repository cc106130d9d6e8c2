//! A whole training: from a data set and a network to a network that can be written.

use std::path::PathBuf;

use crate::adapt::{self, Range, Replacement};
use crate::architectures::Choice;
use crate::checkpoint::Checkpoint;
use crate::data::DataSet;
use crate::error::TrainError;
use crate::model::{Model, Pooling};
use crate::runner::Runner;
use crate::trainer::{self, Epoch, Observer, Schedule, Score};

/// What to train.
#[derive(Debug, Clone)]
pub struct Job {
    /// The network to begin with, or the foreign one to adapt.
    pub model: Model,
    /// For a foreign one: what to put in the place of its activations and max poolings.
    pub adapt: Option<(Choice, Pooling)>,
    /// How.
    pub schedule: Schedule,
    /// Where to keep the state after each epoch, and whether to go on from what is there.
    pub checkpoint: Option<(PathBuf, bool)>,
    /// Whatever else the result depends on, so that a checkpoint of another run is refused.
    pub description: String,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The network of the best epoch.
    pub model: Model,
    /// That epoch, from 1; 0 if no epoch was asked for.
    pub best_epoch: usize,
    /// All epochs.
    pub log: Vec<Epoch>,
    /// Epochs that were there already.
    pub resumed: usize,
    /// On the validation part.
    pub validation: Score,
    /// On the test part.
    pub test: Score,
    /// What the polynomials' operands range over, on the training part as it is.
    pub ranges: Vec<Range>,
    /// For a foreign network.
    pub adapted: Option<Adapted>,
}

/// How a foreign network fares, on the test part.
#[derive(Debug, Clone)]
pub struct Adapted {
    /// What was put in its place.
    pub replaced: Vec<Replacement>,
    /// Accuracy of the original.
    pub accuracy_original: f64,
    /// Share of samples of which the network says the same as the original, before any training.
    pub agreement_before: f64,
    /// And at the end.
    pub agreement_after: f64,
}

/// Trains.
///
/// # Errors
/// Networks that do not fit the data, checkpoints of another run, a loss that is no number, files that cannot be written.
pub fn run(job: &Job, data: &DataSet, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    check(job, data)?;
    let (model, replaced) = match &job.adapt {
        Some((choice, pooling)) => {
            let (model, replaced) = adapt::replace(&job.model, data, choice, *pooling, job.schedule.least_coefficient)?;
            (model, Some(replaced))
        }
        None => (job.model.clone(), None),
    };
    let checkpoint = job
        .checkpoint
        .as_ref()
        .map(|(path, resume)| (Checkpoint::new(path, format!("{}\n{:?}", job.description, job.schedule)), *resume));
    let state = match &checkpoint {
        Some((checkpoint, true)) => checkpoint.load()?,
        Some((checkpoint, false)) if checkpoint.exists() => {
            return Err(checkpoint
                .wrong("an interrupted run left it; go on with --resume, or delete it to train from the beginning"));
        }
        _ => None,
    };
    let resumed = state.as_ref().map_or(0, |state| state.log.len());
    let mut keep =
        |state: &trainer::State| checkpoint.as_ref().map_or(Ok(()), |(checkpoint, _)| checkpoint.save(state));
    let teacher = job.adapt.is_some().then_some(&job.model);
    let trained = trainer::train(&model, teacher, data, &job.schedule, state, &mut keep, observer)?;

    let mut runner = Runner::new(&trained.model)?;
    let validation = trainer::score(&mut runner, &data.validation, data)?;
    let test = trainer::score(&mut runner, &data.test, data)?;
    let ranges = adapt::ranges(&mut runner, data)?;
    let adapted = match replaced {
        Some(replaced) => {
            let said = |model: &Model| trainer::score(&mut Runner::new(model)?, &data.test, data);
            let (original, before) = (said(&job.model)?, said(&model)?);
            Some(Adapted {
                replaced,
                accuracy_original: original.accuracy,
                agreement_before: agreement(&original, &before),
                agreement_after: agreement(&original, &test),
            })
        }
        None => None,
    };
    Ok(Outcome {
        model: trained.model,
        best_epoch: trained.best_epoch,
        log: trained.log,
        resumed,
        validation,
        test,
        ranges,
        adapted,
    })
}

/// Removes the checkpoint of a run whose result is written.
pub fn forget(job: &Job) {
    if let Some((path, _)) = &job.checkpoint {
        // What is left over is told to the next run.
        let _ = std::fs::remove_file(path);
    }
}

fn agreement(a: &Score, b: &Score) -> f64 {
    let same = a.predictions.iter().zip(&b.predictions).filter(|(a, b)| a == b).count();
    same as f64 / a.predictions.len().max(1) as f64
}

/// Whether network, data and schedule fit together.
fn check(job: &Job, data: &DataSet) -> Result<(), TrainError> {
    if job.model.input.shape != data.shape {
        return Err(TrainError::Data(format!(
            "the network takes samples of {}, the data set holds samples of {}; give the data set it was made for",
            job.model.input.shape, data.shape
        )));
    }
    let outputs = job.model.outputs()?;
    if outputs != data.classes.len() {
        return Err(TrainError::Data(format!(
            "the network has {outputs} outputs, the data set {} classes; give the data set it was made for",
            data.classes.len()
        )));
    }
    if data.train.labels.len() < 2 || data.validation.labels.is_empty() {
        return Err(TrainError::Data(
            "too few samples to train on and to choose the best epoch by; give more, or a larger --validation share"
                .into(),
        ));
    }
    Ok(())
}

/// Labels samples that have none with what `model` says of them: data to adapt that model on.
///
/// # Errors
/// Samples that it does not take.
pub fn label(model: &Model, data: &mut DataSet) -> Result<(), TrainError> {
    let mut runner = Runner::new(model)?;
    let train = trainer::score(&mut runner, &data.train, data)?;
    let validation = trainer::score(&mut runner, &data.validation, data)?;
    let test = trainer::score(&mut runner, &data.test, data)?;
    (data.train.labels, data.validation.labels, data.test.labels) =
        (train.predictions, validation.predictions, test.predictions);
    Ok(())
}
