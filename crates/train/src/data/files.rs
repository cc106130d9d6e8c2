//! Data sets in fixed files: MNIST's IDX and CIFAR-10's records.

use std::path::{Path, PathBuf};

use subrosa_input::{Dataset, Samples as Read, read, read_labels};

use super::{Found, Part, Samples, entries, fault, fault_at, name, text};
use crate::error::TrainError;
use crate::model::Shape;

pub(super) const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// From the README of Fashion-MNIST, in the words of Keras and torchvision.
pub(super) const CLOTHES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// From `batches.meta.txt`.
const THINGS: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

pub(super) fn mnist(folder: &Path, classes: &[&str]) -> Result<Found, TrainError> {
    entries(folder)?;
    let part = |part: &str| -> Result<(Shape, Part), TrainError> {
        let images = idx(folder, part, "images", 3)?;
        let labels = idx(folder, part, "labels", 1)?;
        let (shape, pixels, count) = pixels(&images, read(text(&images)?, None)?)?;
        let classes_of = read_labels(text(&labels)?)?;
        if classes_of.len() != count {
            return Err(fault(
                &labels,
                format!("it holds {} labels, but {} holds {count} images", classes_of.len(), name(&images)),
                "take both files from the same data set",
            ));
        }
        check_labels(&labels, &classes_of, classes.len())?;
        Ok((shape, Part { samples: Samples::Pixels(pixels), labels: classes_of }))
    };
    let (shape, train) = part("train")?;
    let (test_shape, test) = part("t10k")?;
    same_shape(folder, shape, test_shape)?;
    Ok(found(shape, classes, train, test))
}

/// The IDX file of a part, under the first of its names that is there.
fn idx(folder: &Path, part: &str, what: &str, axes: usize) -> Result<PathBuf, TrainError> {
    let names: Vec<String> = ["-", "."]
        .iter()
        .flat_map(|dot| ["", ".gz"].map(|gz| format!("{part}-{what}{dot}idx{axes}-ubyte{gz}")))
        .collect();
    names.iter().map(|name| folder.join(name)).find(|file| file.is_file()).ok_or_else(|| {
        fault(
            folder,
            format!("the {what} of the {} part are missing", if part == "train" { "training" } else { "test" }),
            format!("put one of {} there", names.join(", ")),
        )
    })
}

pub(super) fn cifar10(folder: &Path) -> Result<Found, TrainError> {
    let nested = folder.join("cifar-10-batches-bin");
    let files = |folder: &Path| -> Result<_, TrainError> {
        let all = entries(folder)?;
        let pick = |batch: &str, other: &str| {
            let starting = |start: &str| -> Vec<PathBuf> {
                let fits = |file: &&PathBuf| name(file).starts_with(start) && name(file).ends_with(".bin");
                all.iter().filter(fits).filter(|file| file.is_file()).cloned().collect()
            };
            Some(starting(batch)).filter(|found| !found.is_empty()).unwrap_or_else(|| starting(other))
        };
        Ok((pick("data_batch_", "train"), pick("test_batch", "test")))
    };
    let (mut training, mut testing) = files(folder)?;
    if training.is_empty() && testing.is_empty() && nested.is_dir() {
        (training, testing) = files(&nested)?;
    }
    if training.is_empty() {
        let what = "the training part is missing";
        let cure = "put data_batch_1.bin, … or train*.bin there, from CIFAR-10's binary version";
        return Err(fault(folder, what, cure));
    }
    let test_file = match testing.as_slice() {
        [one] => one,
        [] => {
            let cure = "put test_batch.bin or test*.bin there, from CIFAR-10's binary version";
            return Err(fault(folder, "the test part is missing", cure));
        }
        several => {
            let names: Vec<String> = several.iter().map(|file| name(file)).collect();
            let what = format!("several files could be the test part: {}", names.join(", "));
            return Err(fault(folder, what, "keep one, or call it test_batch.bin"));
        }
    };
    let (mut all, mut labels) = (Vec::new(), Vec::new());
    for file in &training {
        let mut data = read(text(file)?, None)?;
        labels.append(&mut data.labels.take().unwrap_or_default());
        let (_, mut pixels, _) = pixels(file, data)?;
        all.append(&mut pixels);
    }
    let mut data = read(text(test_file)?, None)?;
    let test_labels = data.labels.take().unwrap_or_default();
    let (shape, pixels, _) = pixels(test_file, data)?;
    Ok(found(
        shape,
        &THINGS,
        Part { samples: Samples::Pixels(all), labels },
        Part { samples: Samples::Pixels(pixels), labels: test_labels },
    ))
}

fn found(shape: Shape, classes: &[&str], train: Part, test: Part) -> Found {
    let classes = classes.iter().map(|&name| name.to_owned()).collect();
    Found { shape, classes, train, validation: None, test: Some(test), columns: None }
}

/// Shape, values and number of the pictures of a file.
fn pixels(file: &Path, data: Dataset) -> Result<(Shape, Vec<u8>, usize), TrainError> {
    match data.samples {
        Read::Pixels { height, width, channels, data: pixels } => {
            Ok((Shape::Image { height, width, channels }, pixels, data.count))
        }
        _ => Err(fault(file, "it does not hold pictures of bytes", "give images of unsigned bytes")),
    }
}

fn check_labels(file: &Path, labels: &[u32], classes: usize) -> Result<(), TrainError> {
    match labels.iter().enumerate().find(|(_, label)| **label as usize >= classes) {
        None => Ok(()),
        Some((index, label)) => Err(fault_at(
            file,
            index,
            format!("label {label} is not one of the classes 0 to {}", classes.saturating_sub(1)),
            "check that it is the right data set; for classes of your own use --dataset images or csv",
        )),
    }
}

fn same_shape(folder: &Path, train: Shape, test: Shape) -> Result<(), TrainError> {
    if train == test {
        return Ok(());
    }
    let size = |shape: Shape| match shape {
        Shape::Image { height, width, channels } => format!("{height}x{width} with {channels} channel(s)"),
        Shape::Flat(units) => format!("{units} values"),
    };
    Err(fault(
        folder,
        format!("training images are {}, test images {}", size(train), size(test)),
        "take both parts from the same data set",
    ))
}
