//! The paper's network with random weights: Keras' `cifar10_cnn.py`, here in channels-first order, for images of two sizes.

use crate::arguments::PaperNetwork;
use crate::bench::network::{Layers, model};
use rand::{Rng, RngExt};
use subrosa_terminal::Failure;

/// Filters of the two blocks of convolutions.
const FILTERS: [usize; 2] = [32, 64];
const KERNEL: usize = 3;
const HIDDEN: usize = 512;
const CLASSES: usize = 10;

/// Shape of an image: channels, height, width.
pub(super) fn image(network: PaperNetwork) -> [usize; 3] {
    match network {
        PaperNetwork::Cifar => [3, 32, 32],
        PaperNetwork::Mnist => [1, 28, 28],
    }
}

/// Values that enter the classifier, then those between its layers and at its end.
pub(super) fn classifier(network: PaperNetwork) -> [usize; 3] {
    let [_, height, width] = image(network);
    // A block loses a border of one (its second convolution is not padded), then half.
    let after = |side: usize| FILTERS.iter().fold(side, |side, _| (side - (KERNEL - 1)) / 2);
    [FILTERS[1] * after(height) * after(width), HIDDEN, CLASSES]
}

/// The ONNX file, with a ReLU between the classifier's layers (for `protect` to replace) and a softmax at the end.
pub(super) fn onnx(network: PaperNetwork, rng: &mut impl Rng) -> Result<Vec<u8>, Failure> {
    let shape = image(network);
    let mut layers = Layers::new(rng);
    let mut last = "image".to_owned();
    let mut channels = shape[0];
    for (block, filters) in FILTERS.into_iter().enumerate() {
        for (index, padded) in [true, false].into_iter().enumerate() {
            last = layers.convolution(&last, &format!("conv{block}_{index}"), [filters, channels, KERNEL], padded);
            last = layers.node("Relu", &[&last], format!("relu{block}_{index}"));
            channels = filters;
        }
        last = layers.max_pool(&last, format!("pool{block}"));
    }
    last = layers.node("Flatten", &[&last], "flat".to_owned());
    let [features, hidden, classes] = classifier(network);
    last = layers.dense(&last, "dense0", [features, hidden]);
    last = layers.node("Relu", &[&last], "activation".to_owned());
    last = layers.dense(&last, "dense1", [hidden, classes]);
    last = layers.node("Softmax", &[&last], "probabilities".to_owned());
    model(layers.finish(), ("image", &shape), (&last, classes))
}

/// `count` images of uniform pixels in 0 .. 1.
pub(super) fn images(network: PaperNetwork, count: usize, rng: &mut impl Rng) -> Vec<f32> {
    let pixels = image(network).iter().product::<usize>();
    (0..count * pixels).map(|_| rng.random_range(0.0..1.0)).collect()
}
