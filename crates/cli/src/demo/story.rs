//! The networks that the demo shows, and their images.

use crate::arguments::DemoModel;
use crate::failure::{failure, io};
use std::path::Path;
use subrosa_input::{Dataset, Samples};
use subrosa_network::Scope;
use subrosa_owner::OwnerError;
use subrosa_plain::PlainNetwork;
use subrosa_terminal::Failure;

const DIGITS: &[u8] = include_bytes!("../../../../data/mnist-test-1000-images-idx3-ubyte.gz");
const DIGIT_LABELS: &[u8] = include_bytes!("../../../../data/mnist-test-1000-labels-idx1-ubyte.gz");
const PICTURES: &[u8] = include_bytes!("../../../../data/cifar10-test-100.bin");
const PICTURE_CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// A network with images, and what of both is encrypted.
pub(super) struct Story {
    pub model: &'static str,
    /// What the images are called.
    pub images: &'static str,
    /// What is done with them.
    pub what: &'static str,
    /// What is encrypted of the network with plain and with encrypted input.
    pub encrypted: [&'static str; 2],
    pub onnx: &'static [u8],
    pub preprocess: &'static str,
    pub scope: Scope,
    /// Whether the edge encrypts what enters: each is shown.
    pub inputs: &'static [bool],
    /// Names of the classes.
    pub classes: Option<Vec<String>>,
    /// Images to classify unless the user says how many.
    pub usual: usize,
    /// Images that the ranges come from, the first; what is classified begins behind them.
    calibration: usize,
    /// Empty border of the images.
    pub margin: usize,
    files: &'static [(&'static str, &'static [u8])],
}

impl Story {
    pub fn of(model: DemoModel) -> Self {
        match model {
            DemoModel::Mnist => Self {
                model: "mnist",
                images: "digits",
                what: "MNIST digits through a CNN whose classifier (1600-512-10) is encrypted",
                encrypted: ["weights encrypted, features plain", "weights and features encrypted"],
                onnx: include_bytes!("../../../../models/mnist-cnn.onnx"),
                preprocess: "scale=1/255",
                scope: Scope::Classifier,
                inputs: &[false, true],
                classes: None,
                usual: 200,
                calibration: 100,
                margin: 4,
                files: &[("images.gz", DIGITS), ("labels.gz", DIGIT_LABELS)],
            },
            DemoModel::Cifar10 => Self {
                model: "cifar10",
                images: "images",
                what: "CIFAR-10 images through the paper's CNN, every layer of it and the images encrypted",
                encrypted: ["weights encrypted, images plain", "weights and images encrypted"],
                onnx: include_bytes!("../../../../models/cifar10-quadratic.onnx"),
                preprocess: "scale=1/255",
                scope: Scope::All,
                inputs: &[true],
                classes: Some(PICTURE_CLASSES.map(str::to_owned).into()),
                usual: 50,
                calibration: 50,
                margin: 0,
                files: &[("images.bin", PICTURES)],
            },
        }
    }

    /// Reads the embedded images as files; gives those to calibrate on and `count` others to classify, as long as there are others.
    pub fn read(&self, place: &Path, count: usize) -> Result<(Dataset, Dataset), Failure> {
        let mut paths = Vec::new();
        for (name, bytes) in self.files {
            let path = place.join(name);
            std::fs::write(&path, bytes).map_err(io("write", &path))?;
            paths.push(path.to_string_lossy().into_owned());
        }
        let [images, labels @ ..] = paths.as_slice() else {
            return Err(Failure::failed("there are no embedded images"));
        };
        let mut all = subrosa_input::read(images, None).map_err(failure)?;
        if let [labels, ..] = labels {
            all.labels = Some(subrosa_input::read_labels(labels).map_err(failure)?);
        }
        let mut calibration = all.clone();
        calibration.truncate(self.calibration);
        // Images of the calibration come last, so that only runs of nearly all images classify them too.
        let Samples::Pixels { data, .. } = &mut all.samples else {
            return Err(Failure::failed("the embedded images are not images"));
        };
        let size = data.len() / all.count.max(1);
        data.rotate_left(calibration.count * size);
        all.labels.iter_mut().for_each(|labels| labels.rotate_left(calibration.count));
        all.truncate(count);
        Ok((calibration, all))
    }

    /// The original network's classes.
    pub fn original(&self, inputs: &[f32], count: usize, threads: usize) -> Result<Vec<usize>, OwnerError> {
        let network = PlainNetwork::load(self.onnx, threads)?;
        let outputs = network.run(count, inputs)?;
        let wide = |o: &[f32]| o.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        Ok(outputs.chunks(network.output_len().max(1)).map(|o| super::top(&wide(o))).collect())
    }
}
