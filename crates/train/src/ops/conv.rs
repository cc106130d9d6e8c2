//! Convolution of images height x width x channels, as matrix products image by image.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::product::{Matrix, multiply};
use super::{operand, read, vectorised};
use crate::model::Window;

/// Images whose gradients of the weights are summed one after the other; the sums of the groups follow in their order.
const GROUP: usize = 8;

/// A convolution of `[batch, height, width, channels]` with `[rows, columns, channels, filters]` and a bias `[filters]`.
pub(crate) struct Conv {
    pub window: Window,
}

/// Sizes of one convolution.
#[derive(Clone, Copy)]
struct Sizes {
    window: Window,
    /// Of the image.
    height: usize,
    width: usize,
    channels: usize,
    /// Of the result.
    rows: usize,
    columns: usize,
    filters: usize,
}

impl Sizes {
    fn of(window: Window, image: &[usize], weight: &[usize]) -> Result<(usize, Self)> {
        let (&[batch, height, width, channels], &[kh, kw, deep, filters]) = (image, weight) else {
            candle_core::bail!("conv: image {image:?}, weights {weight:?}");
        };
        match window.over(height, width) {
            Some([rows, columns]) if deep == channels && [kh, kw] == window.size => {
                Ok((batch, Sizes { window, height, width, channels, rows, columns, filters }))
            }
            _ => candle_core::bail!("conv: image {image:?} does not fit weights {weight:?}"),
        }
    }

    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn points(&self) -> usize {
        self.rows * self.columns
    }

    fn result(&self) -> usize {
        self.points() * self.filters
    }

    /// Values under the window.
    fn depth(&self) -> usize {
        self.window.size[0] * self.window.size[1] * self.channels
    }

    /// For each point of the result and each row of the window: where the row's part inside the image begins in the row of
    /// the unfolded matrix, where in the image, and how many values it has.
    #[inline(always)]
    fn pieces(&self, mut each: impl FnMut(usize, usize, usize, usize)) {
        let [_, size] = self.window.size;
        let [down, right] = self.window.stride;
        let [above, left] = self.window.before;
        for y in 0..self.rows {
            for x in 0..self.columns {
                let row = (y * self.columns + x) * self.depth();
                let first = x * right;
                let from = left.saturating_sub(first).min(size);
                let until = (self.width + left).saturating_sub(first).min(size).max(from);
                for k in 0..self.window.size[0] {
                    let Some(line) = (y * down + k).checked_sub(above).filter(|line| *line < self.height) else {
                        continue;
                    };
                    let to = row + (k * size + from) * self.channels;
                    let at = (line * self.width + first + from - left) * self.channels;
                    each(to, at, (until - from) * self.channels, k);
                }
            }
        }
    }

    /// Lays the values under the window side by side, a row for each point of the result. What lies outside the image
    /// stays as it is in `unfolded`: zero, if it was zero before.
    fn unfold(&self, image: &[f32], unfolded: &mut [f32]) {
        self.pieces(|to, at, length, _| {
            if let (Some(to), Some(from)) = (unfolded.get_mut(to..to + length), image.get(at..at + length)) {
                to.copy_from_slice(from);
            }
        });
    }

    /// Adds the rows of `unfolded` to the image they came from.
    fn fold(&self, unfolded: &[f32], image: &mut [f32]) {
        vectorised(|| {
            self.pieces(|from, at, length, _| {
                if let (Some(from), Some(to)) = (unfolded.get(from..from + length), image.get_mut(at..at + length)) {
                    for (to, from) in to.iter_mut().zip(from) {
                        *to += from;
                    }
                }
            });
        });
    }
}

/// Memory of one thread's work on one image.
fn scratch(sizes: &Sizes) -> Vec<f32> {
    vec![0.0; sizes.points() * sizes.depth()]
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(
        &self,
        image: &CpuStorage,
        image_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, sizes) = Sizes::of(self.window, image_layout.dims(), weight_layout.dims())?;
        let (images, weight, bias) =
            (operand(image, image_layout)?, operand(weight, weight_layout)?, operand(bias, bias_layout)?);
        let weight = Matrix::new(weight, sizes.depth(), sizes.filters);
        let mut results = vec![0.0; batch * sizes.result()];
        results.par_chunks_mut(sizes.result()).zip(images.par_chunks(sizes.image())).for_each_init(
            || scratch(&sizes),
            |unfolded, (result, image)| {
                sizes.unfold(image, unfolded);
                for point in result.chunks_exact_mut(sizes.filters) {
                    point.copy_from_slice(bias);
                }
                multiply(result, Matrix::new(unfolded, sizes.points(), sizes.depth()), weight, true);
            },
        );
        Ok((CpuStorage::F32(results), Shape::from((batch, sizes.rows, sizes.columns, sizes.filters))))
    }

    fn bwd(
        &self,
        image: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, sizes) = Sizes::of(self.window, image.dims(), weight.dims())?;
        let wanted = image.track_op();
        let device = image.device();
        let mut images = vec![0.0; if wanted { image.elem_count() } else { 0 }];
        let groups: Vec<(Vec<f32>, Vec<f32>)> = read(image, |values| {
            read(weight, |weight| {
                read(gradient, |gradient| {
                    let group = GROUP * sizes.image();
                    // One empty piece for each group, if nobody wants them.
                    let mut pieces: Vec<&mut [f32]> = images.chunks_mut(group.max(1)).collect();
                    pieces.resize_with(values.len().div_ceil(group.max(1)), Default::default);
                    Ok(pieces
                        .into_par_iter()
                        .zip(values.par_chunks(group))
                        .zip(gradient.par_chunks(GROUP * sizes.result()))
                        .map(|((images, values), gradient)| sizes.group_gradients(images, values, weight, gradient))
                        .collect())
                })
            })
        })?;
        let mut sums = groups.into_iter();
        let (mut weights, mut biases) =
            sums.next().unwrap_or_else(|| (vec![0.0; weight.elem_count()], vec![0.0; bias.elem_count()]));
        for (more, more_bias) in sums {
            add(&mut weights, &more);
            add(&mut biases, &more_bias);
        }
        let images = if wanted { Some(Tensor::from_vec(images, image.shape(), device)?) } else { None };
        Ok((
            images,
            Some(Tensor::from_vec(weights, weight.shape(), device)?),
            Some(Tensor::from_vec(biases, bias.shape(), device)?),
        ))
    }
}

impl Sizes {
    /// Gradients of a group of images: into `images` (zeros, or empty if not wanted), of the weights, of the bias.
    fn group_gradients(
        &self,
        images: &mut [f32],
        values: &[f32],
        weight: &[f32],
        gradient: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let mut weights = vec![0.0; self.depth() * self.filters];
        let mut biases = vec![0.0; self.filters];
        let mut unfolded = scratch(self);
        let mut folding = scratch(self);
        let mut images = images.chunks_mut(self.image());
        let weight = Matrix::new(weight, self.depth(), self.filters);
        for (image, gradient) in values.chunks(self.image()).zip(gradient.chunks(self.result())) {
            self.unfold(image, &mut unfolded);
            let result = Matrix::new(gradient, self.points(), self.filters);
            multiply(&mut weights, Matrix::new(&unfolded, self.points(), self.depth()).transposed(), result, true);
            vectorised(|| {
                for point in gradient.chunks_exact(self.filters) {
                    for (sum, value) in biases.iter_mut().zip(point) {
                        *sum += value;
                    }
                }
            });
            if let Some(image) = images.next() {
                multiply(&mut folding, result, weight.transposed(), false);
                self.fold(&folding, image);
            }
        }
        (weights, biases)
    }
}

fn add(sum: &mut [f32], more: &[f32]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}
