//! Commands and flags.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::bench::Peer;
use clap::{Args, Parser, Subcommand, ValueEnum};
use subrosa_input::Preprocess;
use subrosa_terminal::Flags;
use subrosa_train::data::{Kind, Options};
use subrosa_train::{Architecture, Augmentation, Choice, Pooling, Recipe, Schedule, TrainError};

/// Trains a network that is made to be protected, or adapts one that is trained already
#[derive(Parser)]
#[command(
    name = "subrosa train",
    bin_name = "subrosa train",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub flags: Flags,
    #[command(flatten)]
    pub train: Option<TrainFlags>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else there is.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Draws accuracy against epoch from the logs of trainings, and the approximations of ReLU, as SVG, PNG and CSV
    Figures {
        /// Folder of the logs: DATASET-relu-SEED.log.csv, DATASET-last-x2+2x-SEED.log.csv, DATASET-last-none-SEED.log.csv,
        /// DATASET-quadratic-SEED.log.csv
        #[arg(long, value_name = "DIR", default_value = "models/training")]
        logs: PathBuf,
        /// Folder for the figures
        #[arg(long, value_name = "DIR", default_value = "docs/figures")]
        out: PathBuf,
    },
    /// Measures how fast this machine trains the paper's network, on random images
    Bench {
        /// Images in an epoch
        #[arg(long, value_name = "N", default_value_t = 3200, value_parser = clap::value_parser!(u32).range(64..))]
        samples: u32,
        /// Have this train the same network first, in a Python that SUBROSA_PEER_PYTHON names
        #[arg(long, value_enum)]
        peer: Option<Peer>,
    },
}

const DATA: &str = "Data";
const NETWORK: &str = "Network";
const SCHEDULE: &str = "Training";

/// How a network pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pool {
    /// The largest value; cannot be encrypted
    Max,
    /// The mean
    Mean,
    /// The sum
    Sum,
}

impl From<Pool> for Pooling {
    fn from(pool: Pool) -> Self {
        match pool {
            Pool::Max => Pooling::Max,
            Pool::Mean => Pooling::Mean,
            Pool::Sum => Pooling::Sum,
        }
    }
}

/// Whether images are varied while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Augment {
    /// What suits the data set: flips and shifts by 3 for cifar10, shifts by 2 for mnist, both by 2 for fashion-mnist, none else
    Auto,
    /// Not at all
    None,
    /// Shifts by up to 3 points
    Shift,
    /// Shifts by up to 3 points, and half of them mirrored
    FlipShift,
}

/// Flags of a training.
#[derive(Debug, Args)]
pub(crate) struct TrainFlags {
    /// The data set: mnist, fashion-mnist, cifar10, images (a folder a class) or csv; with --from also unlabelled (any samples that
    /// `subrosa-edge infer` reads)
    #[arg(long, help_heading = DATA)]
    pub dataset: Source,
    /// Its folder or file
    #[arg(long, help_heading = DATA, value_name = "DIR")]
    pub data: PathBuf,
    /// csv: the column that holds the class [default: label, target or class]
    #[arg(long, help_heading = DATA, value_name = "COLUMN")]
    pub target: Option<String>,
    /// csv: columns to leave out, separated by commas; may be repeated
    #[arg(long, help_heading = DATA, value_name = "COLUMNS", value_delimiter = ',')]
    pub drop: Vec<String>,
    /// csv: columns that hold categories, which become a column of 0 and 1 each; separated by commas
    #[arg(long, help_heading = DATA, value_name = "COLUMNS", value_delimiter = ',')]
    pub categorical: Vec<String>,
    /// images: bring all to this size, rows x columns, such as 28x28
    #[arg(long, help_heading = DATA, value_name = "SIZE", value_parser = size)]
    pub resize: Option<(usize, usize)>,
    /// With --from: what the network takes for pixels, such as 'scale=1/255 mean=0.5 std=0.25' [default: scale=1/255]
    #[arg(long, help_heading = DATA, value_name = "TEXT")]
    pub preprocess: Option<Preprocess>,
    /// Share of the training samples that choose the best epoch
    #[arg(long, help_heading = DATA, default_value_t = 0.1, value_name = "SHARE")]
    pub validation: f64,
    /// Share of all samples that are set apart for the test, where the data have no test part of their own
    #[arg(long, help_heading = DATA, default_value_t = 0.2, value_name = "SHARE")]
    pub test: f64,
    /// What the splits depend on
    #[arg(long, help_heading = DATA, default_value_t = 0, value_name = "N")]
    pub split_seed: u64,
    /// Use only so many training samples
    #[arg(long, help_heading = DATA, value_name = "N")]
    pub limit: Option<usize>,
    /// Write the test samples and their labels to this folder, as files that `verify` and `subrosa-edge infer` read
    #[arg(long, help_heading = DATA, value_name = "DIR")]
    pub write_test: Option<PathBuf>,

    /// The network: keras-cnn (the paper's), lenet, cryptonets, residual, mlp or mlp:WIDTH,WIDTH,…
    #[arg(long, help_heading = NETWORK, required_unless_present = "from", conflicts_with = "from")]
    pub arch: Option<Architecture>,
    /// Adapt this trained network, an ONNX file: polynomials in the place of its activations, mean or sum in that of max pooling
    #[arg(long, help_heading = NETWORK, value_name = "ONNX")]
    pub from: Option<PathBuf>,
    /// After every layer but the last: relu, leaky-relu, elu, softplus, sigmoid, tanh, square, x2+2x, quadratic (learned a x^2 + b x for each
    /// channel), none, a polynomial such as poly:0,0.5,0.1, or a fit such as chebyshev(relu,3,-4,4). Or one for each layer, separated by
    /// semicolons
    #[arg(long, help_heading = NETWORK, default_value = "quadratic", value_delimiter = ';')]
    pub activation: Vec<Choice>,
    /// Before the last layer, if another one
    #[arg(long, help_heading = NETWORK, value_name = "ACTIVATION", conflicts_with = "from")]
    pub last_activation: Option<Choice>,
    /// How images shrink
    #[arg(long, help_heading = NETWORK, value_enum, default_value = "mean")]
    pub pool: Pool,
    /// No batch norm before the activations
    #[arg(long, help_heading = NETWORK, conflicts_with = "from")]
    pub no_batch_norm: bool,
    /// Share of values dropped before the last layer while training; half of it after each pooling
    #[arg(long, help_heading = NETWORK, default_value_t = 0.0, value_name = "SHARE", conflicts_with = "from")]
    pub dropout: f32,

    /// Passes over the training samples
    #[arg(long, help_heading = SCHEDULE, default_value_t = 12, value_name = "N")]
    pub epochs: u16,
    /// Samples in a step
    #[arg(long, help_heading = SCHEDULE, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    pub batch: u16,
    /// The highest; it rises over the first twentieth of the steps and falls along a cosine [default: 0.001; with --from 0.0003]
    #[arg(long, help_heading = SCHEDULE, value_name = "RATE")]
    pub learning_rate: Option<f32>,
    /// Share of each weight that is taken off in a step, times the learning rate
    #[arg(long, help_heading = SCHEDULE, default_value_t = 0.01, value_name = "SHARE")]
    pub weight_decay: f32,
    /// Largest norm of the gradient
    #[arg(long, help_heading = SCHEDULE, default_value_t = 1.0, value_name = "NORM")]
    pub clip: f32,
    /// Share of a label's weight that is spread over all classes
    #[arg(long, help_heading = SCHEDULE, default_value_t = 0.0, value_name = "SHARE")]
    pub label_smoothing: f32,
    /// How images are varied
    #[arg(long, help_heading = SCHEDULE, value_enum, default_value = "auto")]
    pub augment: Augment,
    /// Stop after so many epochs without a better result on the validation samples
    #[arg(long, help_heading = SCHEDULE, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub patience: u16,
    /// Polynomials' operands beyond plus and minus this are pulled back
    #[arg(long, help_heading = SCHEDULE, default_value_t = 6.0, value_name = "BOUND")]
    pub range: f32,
    /// How strongly: the weight of their squared distances in a sample's loss
    #[arg(long, help_heading = SCHEDULE, default_value_t = 0.001, value_name = "WEIGHT")]
    pub range_penalty: f32,
    /// Rare classes weigh as much as frequent ones, and the mean of the classes' accuracies chooses the best epoch
    #[arg(long, help_heading = SCHEDULE)]
    pub balance: bool,
    /// With --from: the labels' share of the target; the rest is what the original says
    #[arg(long, help_heading = SCHEDULE, default_value_t = 0.1, value_name = "SHARE")]
    pub labels_share: f32,
    /// For everything random: the same seed gives the same network
    #[arg(long, help_heading = SCHEDULE, default_value_t = 1, value_name = "N")]
    pub seed: u64,

    /// The network to write, an ONNX file; a log (.log.csv) and a report (.report.md) go beside it
    #[arg(long, value_name = "ONNX")]
    pub out: PathBuf,
    /// Where the state after each epoch is kept [default: beside the network, ending in .checkpoint]
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Go on from the checkpoint of an interrupted run, if there is one
    #[arg(long)]
    pub resume: bool,
    /// Write the log of the epochs here
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Write the report here
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Samples with or without labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A data set.
    Labelled(Kind),
    /// Samples of which the original network says what they are.
    Unlabelled,
}

impl FromStr for Source {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        if text == "unlabelled" { Ok(Source::Unlabelled) } else { text.parse().map(Source::Labelled) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Labelled(kind) => kind.fmt(f),
            Source::Unlabelled => f.write_str("unlabelled"),
        }
    }
}

/// Where a training begins.
pub(crate) enum Start<'a> {
    New(Recipe),
    From(&'a Path),
}

impl TrainFlags {
    /// What the reader of the data has to know.
    pub fn data_options(&self) -> Options {
        Options {
            target: self.target.clone(),
            drop: self.drop.clone(),
            categorical: self.categorical.clone(),
            resize: self.resize,
            validation: self.validation,
            test: self.test,
            seed: self.split_seed,
            limit: self.limit,
        }
    }

    /// The network to begin with.
    pub fn start(&self) -> Result<Start<'_>, TrainError> {
        if let Some(path) = &self.from {
            return Ok(Start::From(path));
        }
        if self.preprocess.is_some() {
            return Err(TrainError::Option(
                "--preprocess is for --from: new networks take pixels times 1/255 and normalise them themselves".into(),
            ));
        }
        let architecture = self.arch.clone().ok_or_else(|| TrainError::Option("give --arch or --from".into()))?;
        share("--dropout", self.dropout)?;
        Ok(Start::New(Recipe {
            architecture,
            activations: self.activation.clone(),
            last_activation: self.last_activation.clone(),
            pooling: self.pool.into(),
            batch_norm: !self.no_batch_norm,
            dropout: self.dropout,
            seed: self.seed,
        }))
    }

    /// For a foreign network: what to put in the place of what.
    ///
    /// # Errors
    /// Several activations.
    pub fn adaptation(&self) -> Result<Option<(Choice, Pooling)>, TrainError> {
        match (&self.from, self.activation.as_slice()) {
            (None, _) => Ok(None),
            (Some(_), [one]) => Ok(Some((one.clone(), self.pool.into()))),
            (Some(_), _) => Err(TrainError::Option("--from takes one --activation, for all layers".into())),
        }
    }

    /// How to train.
    ///
    /// # Errors
    /// Numbers out of range.
    pub fn schedule(&self) -> Result<Schedule, TrainError> {
        let learning_rate = self.learning_rate.unwrap_or(if self.from.is_some() { 3e-4 } else { 1e-3 });
        share("--label-smoothing", self.label_smoothing)?;
        share("--weight-decay", self.weight_decay)?;
        if !(0.0..=1.0).contains(&self.labels_share) {
            return Err(TrainError::Option(format!("--labels-share {} is no share; use 0 to 1", self.labels_share)));
        }
        for (flag, value) in [("--learning-rate", learning_rate), ("--clip", self.clip), ("--range", self.range)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(TrainError::Option(format!("{flag} {value} must be above 0")));
            }
        }
        if !(self.range_penalty >= 0.0 && self.range_penalty.is_finite()) {
            return Err(TrainError::Option(format!("--range-penalty {} must be 0 or more", self.range_penalty)));
        }
        let augmentation = match (self.augment, self.dataset) {
            (Augment::Auto, Source::Labelled(Kind::Cifar10)) | (Augment::FlipShift, _) => {
                Augmentation { flip: true, shift: 3 }
            }
            (Augment::Auto, Source::Labelled(Kind::Mnist)) => Augmentation { flip: false, shift: 2 },
            (Augment::Auto, Source::Labelled(Kind::FashionMnist)) => Augmentation { flip: true, shift: 2 },
            (Augment::Shift, _) => Augmentation { flip: false, shift: 3 },
            (Augment::Auto | Augment::None, _) => Augmentation::default(),
        };
        if matches!(self.augment, Augment::Shift | Augment::FlipShift) && self.dataset == Source::Labelled(Kind::Csv) {
            return Err(TrainError::Option("--augment is for images, not for csv".into()));
        }
        Ok(Schedule {
            epochs: usize::from(self.epochs),
            batch: usize::from(self.batch),
            learning_rate,
            weight_decay: self.weight_decay,
            clip: self.clip,
            label_smoothing: self.label_smoothing,
            augmentation,
            patience: usize::from(self.patience),
            seed: self.seed,
            bound: self.range,
            penalty: self.range_penalty,
            balance: self.balance,
            teacher_share: 1.0 - self.labels_share,
            ..Schedule::default()
        })
    }

    /// What the result depends on beside the schedule; a checkpoint of anything else is refused.
    pub fn description(&self) -> String {
        format!(
            "{} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {}",
            self.dataset,
            self.data.display(),
            self.data_options(),
            self.preprocess,
            self.arch,
            self.from,
            self.activation,
            self.last_activation,
            self.pool,
            self.no_batch_norm,
            self.dropout
        )
    }
}

/// A share from 0 to below 1.
fn share(flag: &str, value: f32) -> Result<(), TrainError> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(TrainError::Option(format!("{flag} {value} is no share; use 0 or more and less than 1")))
}

fn size(text: &str) -> Result<(usize, usize), String> {
    text.split_once('x')
        .and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)))
        .ok_or_else(|| format!("'{text}' is no size; write ROWSxCOLUMNS, such as 28x28"))
}
