//! Pooling over images height x width x channels.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{operand, read, vectorised};
use crate::model::{Pooling, Window};

/// Pools `[batch, height, width, channels]`.
pub(crate) struct Pool {
    pub pooling: Pooling,
    pub window: Window,
}

struct Sizes {
    window: Window,
    height: usize,
    width: usize,
    channels: usize,
    rows: usize,
    columns: usize,
}

impl Sizes {
    fn of(window: Window, image: &[usize]) -> Result<(usize, Self)> {
        let &[batch, height, width, channels] = image else {
            candle_core::bail!("pool: image {image:?}");
        };
        let Some([rows, columns]) = window.over(height, width) else {
            candle_core::bail!("pool: the window does not fit into image {image:?}");
        };
        Ok((batch, Sizes { window, height, width, channels, rows, columns }))
    }

    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn result(&self) -> usize {
        self.rows * self.columns * self.channels
    }

    /// Rows and columns of the image under the window of a point of the result.
    #[inline(always)]
    fn under(&self, row: usize, column: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let along = |axis: usize, at: usize, length: usize| {
            let first = at * self.window.stride[axis];
            let (from, until) = (first, first + self.window.size[axis]);
            let inside = |place: usize| place.saturating_sub(self.window.before[axis]).min(length);
            inside(from)..inside(until)
        };
        (along(0, row, self.height), along(1, column, self.width))
    }

    /// Calls `each` with the number of a point of the result, the number of a point of the image under its window, and how many of those there
    /// are for it.
    #[inline(always)]
    fn pairs(&self, mut each: impl FnMut(usize, usize, usize)) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                let (lines, places) = self.under(row, column);
                let count = lines.len() * places.len();
                for line in lines {
                    for place in places.clone() {
                        each(row * self.columns + column, line * self.width + place, count);
                    }
                }
            }
        }
    }
}

/// The values of one point.
#[inline(always)]
fn point(values: &[f32], index: usize, channels: usize) -> &[f32] {
    values.get(index * channels..(index + 1) * channels).unwrap_or_default()
}

#[inline(always)]
fn point_mut(values: &mut [f32], index: usize, channels: usize) -> &mut [f32] {
    values.get_mut(index * channels..(index + 1) * channels).unwrap_or_default()
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, images: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, sizes) = Sizes::of(self.window, layout.dims())?;
        let images = operand(images, layout)?;
        let start = if self.pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 };
        let mut results = vec![start; batch * sizes.result()];
        let channels = sizes.channels;
        results.par_chunks_mut(sizes.result()).zip(images.par_chunks(sizes.image())).for_each(|(result, image)| {
            vectorised(|| {
                sizes.pairs(|to, from, count| {
                    let cells = point_mut(result, to, channels).iter_mut().zip(point(image, from, channels));
                    match self.pooling {
                        Pooling::Max => cells.for_each(|(result, value)| *result = result.max(*value)),
                        Pooling::Sum => cells.for_each(|(result, value)| *result += value),
                        Pooling::Mean => {
                            let share = 1.0 / count as f32;
                            cells.for_each(|(result, value)| *result += share * value);
                        }
                    }
                });
            });
        });
        Ok((CpuStorage::F32(results), Shape::from((batch, sizes.rows, sizes.columns, channels))))
    }

    fn bwd(&self, images: &Tensor, results: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, sizes) = Sizes::of(self.window, images.dims())?;
        let channels = sizes.channels;
        let mut found = vec![0.0; images.elem_count()];
        read(images, |images| {
            read(results, |results| {
                read(gradient, |gradient| {
                    let operands = images
                        .par_chunks(sizes.image())
                        .zip(results.par_chunks(sizes.result()))
                        .zip(gradient.par_chunks(sizes.result()));
                    found.par_chunks_mut(sizes.image()).zip(operands).for_each(
                        |(found, ((image, result), gradient))| {
                            let mut left = gradient.to_vec();
                            vectorised(|| {
                                sizes.pairs(|to, from, count| {
                                    let found = point_mut(found, from, channels).iter_mut();
                                    let left = point_mut(&mut left, to, channels);
                                    match self.pooling {
                                        Pooling::Sum => found.zip(left).for_each(|(found, g)| *found += *g),
                                        Pooling::Mean => {
                                            let share = 1.0 / count as f32;
                                            found.zip(left).for_each(|(found, g)| *found += share * *g);
                                        }
                                        // The first of equal values takes it all.
                                        Pooling::Max => {
                                            let cells =
                                                point(image, from, channels).iter().zip(point(result, to, channels));
                                            for ((found, g), (value, largest)) in found.zip(left).zip(cells) {
                                                let here = if value == largest { *g } else { 0.0 };
                                                *found += here;
                                                *g -= here;
                                            }
                                        }
                                    }
                                });
                            });
                        },
                    );
                    Ok(())
                })
            })
        })?;
        Ok(Some(Tensor::from_vec(found, images.shape(), images.device())?))
    }
}

/// The mean of each channel: `[batch, height, width, channels]` becomes `[batch, channels]`.
pub(crate) fn global_mean(images: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = images.dims4()?;
    let window = Window { size: [height, width], stride: [1; 2], before: [0; 2], after: [0; 2] };
    images.apply_op1(Pool { pooling: Pooling::Mean, window })?.reshape((batch, channels))
}
