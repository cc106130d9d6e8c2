//! Batches of samples, shuffled and, for images, varied.

use candle_core::Tensor;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::data::{DataSet, Part, Samples, Scaling};
use crate::error::TrainError;
use crate::model::Shape;
use crate::runner::input_tensor;

/// How images are varied while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augmentation {
    /// Half of them are mirrored left to right.
    pub flip: bool,
    /// They are moved by up to so many points each way; zeros of the normalised image come in (the mean).
    pub shift: usize,
}

/// The random numbers of one epoch's purpose: resuming needs no state but the epoch's number.
pub(crate) fn random(seed: u64, epoch: usize, purpose: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(((epoch as u64) << 8) | purpose);
    random
}

/// The order of the samples in an epoch.
pub(crate) fn shuffled(count: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(random);
    order
}

/// Samples that are evaluated at once.
const EVALUATED: usize = 128;

/// The samples `indices` of a part as the runner takes them, so many at once.
pub(crate) fn inputs<'a>(
    data: &'a DataSet,
    part: &'a Part,
    indices: &'a [usize],
) -> impl Iterator<Item = Result<Tensor, TrainError>> + 'a {
    indices.chunks(EVALUATED).map(|some| input_tensor(data.shape, gather(part, data.shape, &data.scaling, some)))
}

/// Values of the samples `indices`, pixels scaled.
fn gather(part: &Part, shape: Shape, scaling: &Scaling, indices: &[usize]) -> Vec<f32> {
    varied(part, shape, scaling, indices, &[], None)
}

/// The same, images varied by `augmentation`; what comes in from outside is `outside`, for each channel.
pub(crate) fn varied(
    part: &Part,
    shape: Shape,
    scaling: &Scaling,
    indices: &[usize],
    outside: &[f32],
    augmentation: Option<(Augmentation, &mut ChaCha8Rng)>,
) -> Vec<f32> {
    let size = shape.elements();
    let moves: Vec<(bool, isize, isize)> = match augmentation {
        Some((Augmentation { flip, shift }, random)) => {
            let reach = i32::try_from(shift).unwrap_or(i32::MAX);
            let by =
                |random: &mut ChaCha8Rng| if reach == 0 { 0 } else { random.random_range(-reach..=reach) as isize };
            indices.iter().map(|_| (flip && random.random::<bool>(), by(random), by(random))).collect()
        }
        None => vec![(false, 0, 0); indices.len()],
    };
    let mut values = vec![0.0; indices.len() * size];
    values.par_chunks_mut(size.max(1)).zip(indices).zip(moves).for_each(|((to, &index), (flip, down, right))| {
        match (&part.samples, shape) {
            (samples, Shape::Image { height, width, channels }) if flip || down != 0 || right != 0 => {
                for y in 0..height {
                    for x in 0..width {
                        let from_x = if flip { width - 1 - x } else { x };
                        let place =
                            |at: usize, by: isize, length: usize| at.checked_add_signed(by).filter(|at| *at < length);
                        let at = place(y, down, height).zip(place(from_x, right, width));
                        for channel in 0..channels {
                            let value = match at {
                                Some((line, column)) => one(
                                    samples,
                                    scaling,
                                    channel,
                                    index * size + (line * width + column) * channels + channel,
                                ),
                                None => outside.get(channel).copied().unwrap_or_default(),
                            };
                            if let Some(to) = to.get_mut((y * width + x) * channels + channel) {
                                *to = value;
                            }
                        }
                    }
                }
            }
            (Samples::Pixels(pixels), _) => {
                let from = pixels.get(index * size..(index + 1) * size).unwrap_or_default();
                let channels = scaling.factor.len().max(1);
                for (to, from) in to.chunks_mut(channels).zip(from.chunks(channels)) {
                    for (channel, (to, from)) in to.iter_mut().zip(from).enumerate() {
                        *to = scaling.of(channel, *from);
                    }
                }
            }
            (Samples::Values(values), _) => {
                to.copy_from_slice(values.get(index * size..(index + 1) * size).unwrap_or_default());
            }
        }
    });
    values
}

fn one(samples: &Samples, scaling: &Scaling, channel: usize, index: usize) -> f32 {
    match samples {
        Samples::Pixels(pixels) => pixels.get(index).map_or(0.0, |pixel| scaling.of(channel, *pixel)),
        Samples::Values(values) => values.get(index).copied().unwrap_or_default(),
    }
}
