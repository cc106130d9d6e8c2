//! Labelled data sets for training: pictures and tables, in three parts.
//!
//! [`load`] reads what is there and makes the parts that are not: the validation part comes from the training samples, the
//! test part too if the data have none. Parts are split class by class (stratified) by the seed alone, so that the same
//! files and options always give the same parts. Nothing is guessed: what does not fit is an error that says what to do.

mod files;
mod images;
mod split;
mod table;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use subrosa_input::{InputError, Preprocess};

use crate::error::TrainError;
use crate::model::{Input, Order, Shape};

pub use write::{TestFiles, write_test};

/// What a data set is, and how it lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder with the four IDX files of MNIST, gzipped or not: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
    /// `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`; also with `.idx` in place of `-idx`.
    Mnist,
    /// The same with pictures of clothes.
    FashionMnist,
    /// A folder with CIFAR-10's binary version: `data_batch_*.bin` or `train*.bin`, and one `test_batch.bin` or
    /// `test*.bin`; or with `cifar-10-batches-bin`, which holds them.
    Cifar10,
    /// A folder of PNG and JPEG files, one folder a class: `train/CLASS/…`, if there are any `validation/CLASS/…` and
    /// `test/CLASS/…`; or `CLASS/…`. Classes are sorted by name; hidden folders and other files are passed over. If
    /// grey and RGB pictures mix, all become RGB.
    Images,
    /// A CSV file with a header line, or a folder with `train.csv` and, if there is one, `test.csv`.
    Csv,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Mnist, Kind::FashionMnist, Kind::Cifar10, Kind::Images, Kind::Csv];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mnist => "mnist",
            Kind::FashionMnist => "fashion-mnist",
            Kind::Cifar10 => "cifar10",
            Kind::Images => "images",
            Kind::Csv => "csv",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            TrainError::Option(format!("unknown data set '{text}'; use one of {names}"))
        })
    }
}

/// What the reader of a data set has to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Column of a table that holds the class; by default the one called label, target or class.
    pub target: Option<String>,
    /// Columns of a table that are left out.
    pub drop: Vec<String>,
    /// Columns of a table that hold categories: each category becomes a column of zeros and ones.
    pub categorical: Vec<String>,
    /// Height and width to which the pictures of an image folder are resized.
    pub resize: Option<(usize, usize)>,
    /// Share of the training samples that becomes the validation part, from 0 (none) to below 1. Data that bring their
    /// own validation part keep that.
    pub validation: f64,
    /// Share of all samples that becomes the test part, above 0 and below 1. Data that bring their own test part keep
    /// that.
    pub test: f64,
    /// What the splits depend on.
    pub seed: u64,
    /// Use only so many of the training samples, in the classes' proportions; the validation part is taken from these.
    pub limit: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            target: None,
            drop: Vec::new(),
            categorical: Vec::new(),
            resize: None,
            validation: 0.1,
            test: 0.2,
            seed: 0,
            limit: None,
        }
    }
}

impl Options {
    /// Whether the options make sense, and for this kind of data.
    fn check(&self, kind: Kind) -> Result<(), TrainError> {
        let bad = |text: String| Err(TrainError::Option(text));
        if !(0.0..1.0).contains(&self.validation) {
            return bad(format!("--validation {} is no share; use 0 or more and less than 1", self.validation));
        }
        if !(self.test > 0.0 && self.test < 1.0) {
            return bad(format!("--test {} is no share; use more than 0 and less than 1", self.test));
        }
        if self.limit == Some(0) {
            return bad("--limit 0 leaves nothing to train on; use 1 or more".into());
        }
        if let Some((height, width)) = self.resize {
            if height == 0 || width == 0 {
                return bad(format!("--resize {height}x{width} leaves nothing; use 1x1 or more"));
            }
            if kind != Kind::Images {
                return bad(format!("--resize is for --dataset images, not for {kind}"));
            }
        }
        let of_tables = [
            ("--target", self.target.is_some()),
            ("--drop", !self.drop.is_empty()),
            ("--categorical", !self.categorical.is_empty()),
        ];
        match of_tables.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) if kind != Kind::Csv => bad(format!("{flag} is for --dataset csv, not for {kind}")),
            _ => Ok(()),
        }
    }
}

/// A data set, ready for training.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSet {
    /// One sample: an image, or flat for a table.
    pub shape: Shape,
    /// Names of the classes in the order of their numbers.
    pub classes: Vec<String>,
    /// What is trained on; every class is there.
    pub train: Part,
    /// What training is watched with; empty if a share of 0 was asked for.
    pub validation: Part,
    /// What the result is measured with, never empty.
    pub test: Part,
    /// Means and deviations of the training part.
    pub normalisation: Normalisation,
    /// What a network gets for a pixel.
    pub scaling: Scaling,
    /// Of a table: names of the features, `COLUMN=VALUE` for the columns of a category.
    pub columns: Option<Vec<String>>,
    /// If the test part was split off: which samples it has, counted from 0. Rows of the table; for image folders
    /// places in the list of all files, class by class and by name.
    pub test_rows: Option<Vec<usize>>,
}

/// Samples and their classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Values of all samples.
    pub samples: Samples,
    /// One class a sample.
    pub labels: Vec<u32>,
}

impl Part {
    /// Samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values of one sample; `None` behind the last one.
    pub fn sample(&self, index: usize) -> Option<Sample<'_>> {
        let size = self.samples.values() / self.len().max(1);
        self.samples.get(index, size).filter(|_| index < self.len())
    }

    /// The samples with these indices, in this order.
    fn pick(&self, indices: &[usize]) -> Part {
        let size = self.samples.values() / self.len().max(1);
        Part {
            samples: self.samples.pick(indices, size),
            labels: indices.iter().filter_map(|&index| self.labels.get(index).copied()).collect(),
        }
    }
}

/// Values of samples, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// Pictures: rows, columns, channels.
    Pixels(Vec<u8>),
    /// Rows of a table; finite.
    Values(Vec<f32>),
}

/// Values of one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample<'a> {
    /// A picture: rows, columns, channels.
    Pixels(&'a [u8]),
    /// A row of a table.
    Values(&'a [f32]),
}

impl Samples {
    /// Values of all samples together.
    pub fn values(&self) -> usize {
        match self {
            Samples::Pixels(pixels) => pixels.len(),
            Samples::Values(values) => values.len(),
        }
    }

    /// The sample with this index where each has `size` values; `None` behind the last one.
    pub fn get(&self, index: usize, size: usize) -> Option<Sample<'_>> {
        let start = index.checked_mul(size)?;
        let range = start..start.checked_add(size)?;
        match self {
            Samples::Pixels(pixels) => pixels.get(range).map(Sample::Pixels),
            Samples::Values(values) => values.get(range).map(Sample::Values),
        }
    }

    fn pick(&self, indices: &[usize], size: usize) -> Samples {
        match self {
            Samples::Pixels(pixels) => Samples::Pixels(pick(pixels, indices, size)),
            Samples::Values(values) => Samples::Values(pick(values, indices, size)),
        }
    }
}

fn pick<T: Copy>(all: &[T], indices: &[usize], size: usize) -> Vec<T> {
    let mut picked = Vec::with_capacity(indices.len() * size);
    for index in indices {
        picked.extend_from_slice(all.get(index * size..(index + 1) * size).unwrap_or_default());
    }
    picked
}

/// Mean and standard deviation of the training part, for the network's own normalisation of its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    /// One for each channel of pictures, of pixels times 1/255; one for each column of a table.
    pub mean: Vec<f32>,
    /// In the same order and unit; 1 where all values are the same.
    pub deviation: Vec<f32>,
}

impl Normalisation {
    fn of(samples: &Samples, channels: usize) -> Self {
        let (mean, deviation) = (0..channels)
            .map(|channel| match samples {
                Samples::Pixels(pixels) => of_pixels(pixels.iter().skip(channel).step_by(channels).copied()),
                Samples::Values(values) => of_values(values.iter().skip(channel).step_by(channels).copied()),
            })
            .unzip();
        Normalisation { mean, deviation }
    }
}

/// Mean and deviation of pixels times 1/255, from whole sums.
fn of_pixels(pixels: impl Iterator<Item = u8>) -> (f32, f32) {
    let (mut count, mut sum, mut squares) = (0u64, 0u64, 0u64);
    for pixel in pixels {
        let pixel = u64::from(pixel);
        count += 1;
        sum += pixel;
        squares += pixel * pixel;
    }
    let n = count.max(1) as f64;
    let spread = u128::from(count) * u128::from(squares) - u128::from(sum) * u128::from(sum);
    let deviation = if spread == 0 { 1.0 } else { (spread as f64).sqrt() / n / 255.0 };
    ((sum as f64 / n / 255.0) as f32, deviation as f32)
}

fn of_values(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / n;
    let first = values.clone().next();
    if values.clone().all(|value| Some(value) == first) {
        return (first.unwrap_or_default(), 1.0);
    }
    let deviation = (values.map(|value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n).sqrt();
    (mean as f32, if deviation as f32 > 0.0 { deviation as f32 } else { 1.0 })
}

/// What a network gets for a pixel of 0 to 255: `factor pixel + shift`, for each channel. Values of tables stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// 1/255 for networks of our own.
    pub factor: Vec<f32>,
    /// 0 for networks of our own.
    pub shift: Vec<f32>,
}

impl Scaling {
    /// Pixels scaled to 0..1.
    pub fn unit(channels: usize) -> Self {
        Scaling { factor: vec![1.0 / 255.0; channels], shift: vec![0.0; channels] }
    }

    /// What `preprocess` declares for images of so many channels.
    ///
    /// # Errors
    /// Parts that are not for training, numbers for another count of channels.
    pub fn declared(preprocess: &Preprocess, channels: usize) -> Result<Self, TrainError> {
        if preprocess.layout.is_some() || preprocess.resize.is_some() {
            return Err(TrainError::Option(
                "--preprocess takes scale, mean and std here: the layout is the network's, and --resize brings images to its size".into(),
            ));
        }
        let each = |list: &[f32], what: &str, default: f32| match *list {
            [] => Ok(vec![default; channels]),
            [one] => Ok(vec![one; channels]),
            _ if list.len() == channels => Ok(list.to_vec()),
            _ => Err(TrainError::Option(format!(
                "--preprocess gives {} values for {what}, the images have {channels} channels; give one value, or one for each channel",
                list.len()
            ))),
        };
        let (mean, std) = (each(&preprocess.mean, "mean", 0.0)?, each(&preprocess.std, "std", 1.0)?);
        let scale = preprocess.scale.unwrap_or(1.0);
        Ok(Scaling {
            factor: std.iter().map(|std| scale / std).collect(),
            shift: mean.iter().zip(&std).map(|(mean, std)| -mean / std).collect(),
        })
    }

    /// The value of a channel's pixel.
    pub(crate) fn of(&self, channel: usize, pixel: u8) -> f32 {
        let at = |list: &[f32]| list.get(channel).copied().unwrap_or_default();
        at(&self.factor) * f32::from(pixel) + at(&self.shift)
    }
}

/// What a reader found: training samples, and the parts that the data bring along.
struct Found {
    shape: Shape,
    classes: Vec<String>,
    train: Part,
    validation: Option<Part>,
    test: Option<Part>,
    columns: Option<Vec<String>>,
}

/// Reads the data set at `path`.
///
/// # Errors
/// Options that do not fit the kind of data, files that are missing or damaged, labels that do not fit, a class without
/// enough samples; the text names the file, the place in it and the cure.
pub fn load(kind: Kind, path: &Path, options: &Options) -> Result<DataSet, TrainError> {
    options.check(kind)?;
    if !path.exists() {
        return Err(fault(path, "there is no such file or folder", "check --data"));
    }
    let found = match kind {
        Kind::Mnist => files::mnist(path, &files::DIGITS)?,
        Kind::FashionMnist => files::mnist(path, &files::CLOTHES)?,
        Kind::Cifar10 => files::cifar10(path)?,
        Kind::Images => return images::load(path, options),
        Kind::Csv => table::read(path, options)?,
    };
    let given = split::Given { validation: found.validation.is_some(), test: found.test.is_some() };
    let plan = split::plan(path, &found.train.labels, &found.classes, given, options)?;
    let all = found.train;
    let validation = found.validation.unwrap_or_else(|| all.pick(&plan.validation));
    let test = found.test.unwrap_or_else(|| all.pick(&plan.test));
    // Most often training takes nearly all; a copy of large data costs less than a second.
    let train = all.pick(&plan.train);
    drop(all);
    Ok(DataSet {
        normalisation: Normalisation::of(&train.samples, found.shape.channels()),
        scaling: Scaling::unit(found.shape.channels()),
        shape: found.shape,
        classes: found.classes,
        train,
        validation,
        test,
        columns: found.columns,
        test_rows: (!given.test).then_some(plan.test),
    })
}

/// Samples without labels, for adapting a network that knows what they are: any file that inference reads, as that network takes it.
///
/// # Errors
/// As [`subrosa_input::read`] and [`Preprocess::apply`]; options that do not fit.
pub fn unlabelled(
    path: &Path,
    preprocess: &Preprocess,
    input: &Input,
    outputs: usize,
    options: &Options,
) -> Result<DataSet, TrainError> {
    options.check(Kind::Csv)?;
    let read = subrosa_input::read(text(path)?, options.limit)?;
    let (sizes, channels) = match input.shape {
        Shape::Image { height, width, channels } if input.order == Order::Chw => {
            (vec![channels, height, width], channels)
        }
        Shape::Image { height, width, channels } => (vec![height, width, channels], channels),
        Shape::Flat(units) => (vec![units], units),
    };
    let mut values = preprocess.apply(&read, &sizes)?;
    let size = input.shape.elements();
    if input.order == Order::Chw && matches!(input.shape, Shape::Image { .. }) {
        let points = size / channels.max(1);
        for sample in values.chunks_exact_mut(size.max(1)) {
            let turned: Vec<f32> =
                (0..size).filter_map(|i| sample.get((i % channels) * points + i / channels).copied()).collect();
            sample.copy_from_slice(&turned);
        }
    }
    let mut order: Vec<usize> = (0..read.count).collect();
    split::shuffle_by(&mut order, options.seed);
    let of = |share: f64| ((read.count as f64 * share).round() as usize).max(1);
    let (test, validation) = (of(options.test), of(options.validation));
    if read.count < test + validation + 2 {
        return Err(fault(
            path,
            format!("{} samples are too few to train on", read.count),
            "give some hundreds or more",
        ));
    }
    let all = Part { samples: Samples::Values(values), labels: vec![0; read.count] };
    let (testing, rest) = order.split_at(test);
    let (validating, training) = rest.split_at(validation);
    let train = all.pick(training);
    Ok(DataSet {
        normalisation: Normalisation::of(&train.samples, channels),
        scaling: Scaling::unit(channels),
        shape: input.shape,
        classes: (0..outputs).map(|class| class.to_string()).collect(),
        train,
        validation: all.pick(validating),
        test: all.pick(testing),
        columns: None,
        test_rows: Some(testing.to_vec()),
    })
}

/// A file or folder that is not usable.
fn fault(path: &Path, what: impl Into<String>, cure: impl Into<String>) -> TrainError {
    InputError::File { path: path.display().to_string(), what: what.into(), cure: cure.into() }.into()
}

/// A record of a file that is not usable; `index` counts from 0.
fn fault_at(path: &Path, index: usize, what: impl Into<String>, cure: impl Into<String>) -> TrainError {
    let path = path.display().to_string();
    InputError::Record { path, record: index + 1, what: what.into(), cure: cure.into() }.into()
}

fn unreadable(path: &Path, source: std::io::Error) -> TrainError {
    InputError::Io { path: path.display().to_string(), source }.into()
}

/// The path as the readers of subrosa-input take it.
fn text(path: &Path) -> Result<&str, TrainError> {
    path.to_str().ok_or_else(|| fault(path, "its name is not UTF-8", "rename it"))
}

/// What is in a folder and not hidden, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !folder.is_dir() {
        return Err(fault(folder, "it is no folder", "give the folder that holds the data set with --data"));
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))? {
        let path = entry.map_err(|e| unreadable(folder, e))?.path();
        if !name(&path).starts_with('.') {
            entries.push(path);
        }
    }
    entries.sort();
    Ok(entries)
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Names in quotes, for messages; a long list is cut.
fn list<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 40;
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("'{}'", name.as_ref())).collect();
    if names.len() > SHOWN {
        shown.push(format!("… ({} in all)", names.len()));
    }
    shown.join(", ")
}
