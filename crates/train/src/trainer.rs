//! The training loop.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{D, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::adam::{Adam, Step};
use crate::batches::{self, Augmentation};
use crate::data::{DataSet, Part, Samples};
use crate::error::TrainError;
use crate::model::{Activation, Array, Model, Op};
use crate::runner::{Runner, Training, input_tensor};

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Passes over the training samples.
    pub epochs: usize,
    /// Samples in a step.
    pub batch: usize,
    /// The highest learning rate: reached after a twentieth of all steps, from there down to 0 along a cosine.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Largest norm of the gradient.
    pub clip: f32,
    /// Share of a label's weight that is spread over all classes.
    pub label_smoothing: f32,
    /// For images.
    pub augmentation: Augmentation,
    /// Epochs without a better validation score after which it stops.
    pub patience: usize,
    /// For everything random.
    pub seed: u64,
    /// Polynomials' operands beyond this are pulled back.
    pub bound: f32,
    /// How strongly: the weight of `(|x| - bound)^2` in a sample's loss, summed over its values.
    pub penalty: f32,
    /// Smallest size of a learned leading coefficient: one near 0 costs precision under encryption.
    pub least_coefficient: f32,
    /// Rare classes weigh as much as frequent ones, and the mean of the classes' accuracies chooses the best epoch.
    pub balance: bool,
    /// With a teacher: its share of the target, the labels' being the rest.
    pub teacher_share: f32,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            epochs: 12,
            batch: 64,
            learning_rate: 1e-3,
            weight_decay: 1e-2,
            clip: 1.0,
            label_smoothing: 0.0,
            augmentation: Augmentation::default(),
            patience: 10,
            seed: 1,
            bound: 6.0,
            penalty: 1e-3,
            least_coefficient: 0.03,
            balance: false,
            teacher_share: 0.9,
        }
    }
}

/// What became of an epoch. Accuracies are shares of samples, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Of training alone.
    pub seconds: f64,
    /// At its end.
    pub learning_rate: f64,
    /// Mean over its steps.
    pub loss: f64,
    /// While it ran: of varied samples, and with dropout.
    pub accuracy_train: f64,
    /// After it.
    pub accuracy_validation: f64,
    /// Mean of the classes' accuracies.
    pub balanced_validation: f64,
    /// After it; chooses nothing.
    pub accuracy_test: f64,
}

/// How a network does on some samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Share of samples whose highest score is their label's.
    pub accuracy: f64,
    /// Mean of that over the classes.
    pub balanced_accuracy: f64,
    /// The class of each sample.
    pub predictions: Vec<u32>,
}

/// Where training stands after an epoch; what a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub parameters: BTreeMap<String, Array>,
    pub adam: Adam,
    pub best: BTreeMap<String, Array>,
    pub best_epoch: usize,
    pub best_score: f64,
    pub log: Vec<Epoch>,
}

/// The end of a training.
#[derive(Debug, Clone)]
pub struct Trained {
    /// With the parameters of the best epoch.
    pub model: Model,
    /// That epoch, from 1.
    pub best_epoch: usize,
    /// All epochs.
    pub log: Vec<Epoch>,
}

/// Told what happens.
pub trait Observer {
    /// An epoch of so many samples begins.
    fn begin(&mut self, _epoch: usize, _samples: usize) {}
    /// So many samples are done; the epoch's loss and accuracy so far.
    fn step(&mut self, _samples: usize, _loss: f64, _accuracy: f64) {}
    /// An epoch is over.
    fn end(&mut self, _epoch: &Epoch) {}
}

/// Keeps a state somewhere safe.
pub(crate) type Keep<'a> = dyn FnMut(&State) -> Result<(), TrainError> + 'a;

/// Trains `model` on `data`, from `state` on if there is one.
pub(crate) fn train(
    model: &Model,
    teacher: Option<&Model>,
    data: &DataSet,
    schedule: &Schedule,
    state: Option<State>,
    keep: &mut Keep<'_>,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    let mut runner = Runner::new(model)?;
    let mut teacher = teacher.map(Runner::new).transpose()?;
    let mut state = state.unwrap_or_else(|| State {
        parameters: model.parameters.clone(),
        adam: Adam::default(),
        best: model.parameters.clone(),
        best_epoch: 0,
        best_score: f64::NEG_INFINITY,
        log: Vec::new(),
    });
    runner.restore(&state.parameters)?;
    let rules = Rules::of(model, schedule);
    let weights = class_weights(&data.train.labels, data.classes.len(), schedule.balance);
    for epoch in state.log.len() + 1..=schedule.epochs {
        let started = Instant::now();
        let mut pass =
            Pass { runner: &mut runner, teacher: teacher.as_mut(), data, schedule, rules: &rules, weights: &weights };
        let (loss, accuracy_train, learning_rate) = pass.run(epoch, &mut state.adam, observer)?;
        let seconds = started.elapsed().as_secs_f64();
        if !loss.is_finite() {
            return Err(TrainError::Diverged { epoch });
        }
        let validation = score(&mut runner, &data.validation, data)?;
        let test = score(&mut runner, &data.test, data)?;
        let row = Epoch {
            epoch,
            seconds,
            learning_rate,
            loss,
            accuracy_train,
            accuracy_validation: validation.accuracy,
            balanced_validation: validation.balanced_accuracy,
            accuracy_test: test.accuracy,
        };
        observer.end(&row);
        state.log.push(row);
        state.parameters = runner.model()?.parameters;
        let value = if schedule.balance { validation.balanced_accuracy } else { validation.accuracy };
        // Among equals the later: its learning rate was lower.
        if value >= state.best_score {
            (state.best_score, state.best_epoch) = (value, epoch);
            state.best = state.parameters.clone();
        }
        keep(&state)?;
        if epoch - state.best_epoch >= schedule.patience {
            break;
        }
    }
    let mut model = model.clone();
    model.parameters = state.best;
    Ok(Trained { model, best_epoch: state.best_epoch, log: state.log })
}

/// One epoch.
struct Pass<'a> {
    runner: &'a mut Runner,
    teacher: Option<&'a mut Runner>,
    data: &'a DataSet,
    schedule: &'a Schedule,
    rules: &'a Rules,
    weights: &'a [f32],
}

impl Pass<'_> {
    /// Mean loss, accuracy, and the last learning rate.
    fn run(
        &mut self,
        epoch: usize,
        adam: &mut Adam,
        observer: &mut dyn Observer,
    ) -> Result<(f64, f64, f64), TrainError> {
        let (schedule, data) = (self.schedule, self.data);
        let count = data.train.labels.len();
        let order = batches::shuffled(count, &mut batches::random(schedule.seed, epoch, 0));
        let mut vary = batches::random(schedule.seed, epoch, 1);
        let mut drop = batches::random(schedule.seed, epoch, 2);
        // A last batch that is nearly empty would spoil the statistics of batch norms.
        let steps = (count / schedule.batch).max(1);
        let total = (steps * schedule.epochs) as f32;
        observer.begin(epoch, steps * schedule.batch.min(count));
        let outside = outside(data);
        let (mut losses, mut right, mut seen, mut rate) = (0.0, 0, 0, 0.0);
        for (index, indices) in order.chunks(schedule.batch).take(steps).enumerate() {
            let augmentation = Some((schedule.augmentation, &mut vary))
                .filter(|(augmentation, _)| *augmentation != Augmentation::default());
            let values = batches::varied(&data.train, data.shape, &data.scaling, indices, &outside, augmentation);
            let input = input_tensor(data.shape, values)?;
            let labels: Vec<u32> = indices.iter().filter_map(|i| data.train.labels.get(*i)).copied().collect();
            let mut training = Training { random: &mut drop, bound: schedule.bound, penalty: schedule.penalty };
            let scores = self.runner.forward(&input, Some(&mut training))?;
            let targets = self.targets(&input, &labels)?;
            let losing = scores.broadcast_sub(&scores.log_sum_exp(D::Minus1)?.unsqueeze(1)?)?;
            let loss = ((losing * targets)?.sum_all()? * (-1.0 / labels.len() as f64))?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(TrainError::Diverged { epoch });
            }
            let gradients = loss.backward()?;
            let done = ((epoch - 1) * steps + index + 1) as f32 / total;
            rate = schedule.learning_rate * (done / 0.05).min(1.0) * 0.5 * (1.0 + (std::f32::consts::PI * done).cos());
            let step = Step { learning_rate: rate, weight_decay: schedule.weight_decay, clip: schedule.clip };
            adam.step(
                self.runner.variables(),
                &gradients,
                &step,
                |name, gradient| self.rules.prepare(name, gradient),
                |name, values| self.rules.finish(name, values),
            )?;
            losses += value * labels.len() as f64;
            right += classes(&scores)?.iter().zip(&labels).filter(|(a, b)| a == b).count();
            seen += labels.len();
            observer.step(labels.len(), losses / seen as f64, right as f64 / seen as f64);
        }
        let seen = seen.max(1) as f64;
        Ok((losses / seen, right as f64 / seen, f64::from(rate)))
    }

    /// What the scores should say, `[batch, classes]`: the label, spread a little, or what the teacher says.
    fn targets(&mut self, input: &Tensor, labels: &[u32]) -> Result<Tensor, TrainError> {
        let classes = self.data.classes.len();
        let spread = self.schedule.label_smoothing / classes as f32;
        let mut hard = vec![spread; labels.len() * classes];
        for (row, label) in hard.chunks_exact_mut(classes).zip(labels) {
            if let Some(cell) = row.get_mut(*label as usize) {
                *cell += 1.0 - self.schedule.label_smoothing;
            }
            let weight = self.weights.get(*label as usize).copied().unwrap_or(1.0);
            row.iter_mut().for_each(|cell| *cell *= weight);
        }
        let hard = Tensor::from_vec(hard, (labels.len(), classes), &Device::Cpu)?;
        let Some(teacher) = self.teacher.as_mut() else {
            return Ok(hard);
        };
        let scores = teacher.forward(input, None)?;
        let soft = scores.broadcast_sub(&scores.log_sum_exp(D::Minus1)?.unsqueeze(1)?)?.exp()?;
        let share = f64::from(self.schedule.teacher_share);
        Ok(((soft * share)? + (hard * (1.0 - share))?)?.detach())
    }
}

/// What learned polynomials must keep to.
struct Rules {
    /// For each coefficient array: its channels, and whether its constant term is trained.
    learned: BTreeMap<String, (usize, bool)>,
    least: f32,
}

impl Rules {
    fn of(model: &Model, schedule: &Schedule) -> Self {
        let learned = model.nodes.iter().filter_map(|node| match &node.op {
            Op::Activation(Activation::Learned { constant, .. }) => {
                let name = format!("{}.coefficients", node.name);
                let channels = model.parameters.get(&name).and_then(|array| array.shape.last().copied())?;
                Some((name, (channels, *constant)))
            }
            _ => None,
        });
        Rules { learned: learned.collect(), least: schedule.least_coefficient }
    }

    fn prepare(&self, name: &str, gradient: &mut [f32]) {
        if let Some(&(channels, false)) = self.learned.get(name) {
            gradient.iter_mut().take(channels).for_each(|g| *g = 0.0);
        }
    }

    fn finish(&self, name: &str, values: &mut [f32]) {
        if let Some(&(channels, _)) = self.learned.get(name) {
            for value in values.iter_mut().rev().take(channels) {
                if value.abs() < self.least {
                    *value = self.least.copysign(*value);
                }
            }
        }
    }
}

/// What comes in beside a moved image: the mean of its channel.
fn outside(data: &DataSet) -> Vec<f32> {
    match &data.train.samples {
        Samples::Values(_) => data.normalisation.mean.clone(),
        Samples::Pixels(_) => {
            let scale = data.scaling.factor.iter().zip(&data.scaling.shift);
            data.normalisation
                .mean
                .iter()
                .zip(scale)
                .map(|(mean, (factor, shift))| 255.0 * mean * factor + shift)
                .collect()
        }
    }
}

/// The weight of each class in the loss; 1 on average over the samples.
fn class_weights(labels: &[u32], classes: usize, balance: bool) -> Vec<f32> {
    let mut counts = vec![0usize; classes];
    for label in labels {
        if let Some(count) = counts.get_mut(*label as usize) {
            *count += 1;
        }
    }
    let weight = |count: &usize| labels.len() as f32 / (classes * (*count).max(1)) as f32;
    if balance { counts.iter().map(weight).collect() } else { vec![1.0; classes] }
}

/// The class of the highest score of each sample.
fn classes(scores: &Tensor) -> Result<Vec<u32>, TrainError> {
    Ok(scores.detach().argmax(D::Minus1)?.to_vec1()?)
}

/// How a network does on labelled samples.
pub(crate) fn score(runner: &mut Runner, part: &Part, data: &DataSet) -> Result<Score, TrainError> {
    let indices: Vec<usize> = (0..part.labels.len()).collect();
    let mut predictions = Vec::with_capacity(indices.len());
    for input in batches::inputs(data, part, &indices) {
        predictions.extend(classes(&runner.forward(&input?, None)?)?);
    }
    let count = data.classes.len();
    let (mut right, mut all) = (vec![0usize; count], vec![0usize; count]);
    for (prediction, label) in predictions.iter().zip(&part.labels) {
        if let (Some(all), Some(right)) = (all.get_mut(*label as usize), right.get_mut(*label as usize)) {
            *all += 1;
            *right += usize::from(prediction == label);
        }
    }
    let share = |right: usize, all: usize| right as f64 / all.max(1) as f64;
    let present: Vec<f64> =
        right.iter().zip(&all).filter(|(_, all)| **all > 0).map(|(right, all)| share(*right, *all)).collect();
    Ok(Score {
        accuracy: share(right.iter().sum(), all.iter().sum()),
        balanced_accuracy: present.iter().sum::<f64>() / present.len().max(1) as f64,
        predictions,
    })
}
