//! Batch normalisation with the statistics of the batch.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, operand, read, vectorised};

/// Mean and variance of each channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Statistics {
    pub mean: Vec<f32>,
    /// Mean square deviation; not corrected for the number of values.
    pub variance: Vec<f32>,
}

/// Normalises values whose last axis is the channel, then `scale x + bias`.
pub(crate) struct BatchNorm {
    pub epsilon: f32,
    /// What the forward pass found.
    pub found: Arc<Mutex<Statistics>>,
}

impl BatchNorm {
    pub fn new(epsilon: f32) -> Self {
        BatchNorm { epsilon, found: Arc::default() }
    }

    fn statistics(&self) -> Statistics {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn inverse_deviations(&self, statistics: &Statistics) -> Vec<f32> {
        statistics.variance.iter().map(|v| 1.0 / (v + self.epsilon).sqrt()).collect()
    }
}

/// Mean and variance of each channel over all rows.
pub(super) fn statistics(values: &[f32], channels: usize) -> Statistics {
    // Each piece about its own mean, so that a large mean costs no digits.
    let pieces: Vec<(usize, Vec<f32>, Vec<f32>)> = values
        .par_chunks(ROWS * channels)
        .map(|piece| {
            let rows = piece.len() / channels;
            vectorised(|| {
                let mut mean = vec![0.0f32; channels];
                for row in piece.chunks_exact(channels) {
                    for (sum, value) in mean.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                for sum in &mut mean {
                    *sum /= rows as f32;
                }
                let mut squares = vec![0.0f32; channels];
                for row in piece.chunks_exact(channels) {
                    for ((sum, value), mean) in squares.iter_mut().zip(row).zip(&mean) {
                        let d = value - mean;
                        *sum += d * d;
                    }
                }
                (rows, mean, squares)
            })
        })
        .collect();
    let total = (values.len() / channels.max(1)).max(1) as f64;
    let mut found = Statistics { mean: Vec::with_capacity(channels), variance: Vec::with_capacity(channels) };
    for channel in 0..channels {
        let of = |list: &[f32]| f64::from(list.get(channel).copied().unwrap_or_default());
        let mean = pieces.iter().map(|(rows, mean, _)| *rows as f64 * of(mean)).sum::<f64>() / total;
        let squares = pieces.iter().map(|(rows, own, squares)| of(squares) + *rows as f64 * (of(own) - mean).powi(2));
        found.variance.push((squares.sum::<f64>() / total) as f32);
        found.mean.push(mean as f32);
    }
    found
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        values: &CpuStorage,
        layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (values, scale, bias) =
            (operand(values, layout)?, operand(scale, scale_layout)?, operand(bias, bias_layout)?);
        let channels = scale.len();
        let found = statistics(values, channels);
        let factor: Vec<f32> = self.inverse_deviations(&found).iter().zip(scale).map(|(d, s)| d * s).collect();
        let shift: Vec<f32> = bias.iter().zip(&found.mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        let mut results = vec![0.0; values.len()];
        results.par_chunks_mut(ROWS * channels).zip(values.par_chunks(ROWS * channels)).for_each(|(result, value)| {
            vectorised(|| {
                for (result, value) in result.chunks_exact_mut(channels).zip(value.chunks_exact(channels)) {
                    for (((result, value), factor), shift) in result.iter_mut().zip(value).zip(&factor).zip(&shift) {
                        *result = value * factor + shift;
                    }
                }
            });
        });
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok((CpuStorage::F32(results), layout.shape().clone()))
    }

    fn bwd(
        &self,
        values: &Tensor,
        scale: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let found = self.statistics();
        let inverse = self.inverse_deviations(&found);
        let channels = inverse.len();
        let (results, scales, biases) = read(values, |values| {
            read(scale, |scale| read(gradient, |g| Ok(gradients(values, g, scale, &found.mean, &inverse, channels))))
        })?;
        let device = values.device();
        Ok((
            Some(Tensor::from_vec(results, values.shape(), device)?),
            Some(Tensor::from_vec(scales, scale.shape(), device)?),
            Some(Tensor::from_vec(biases, bias.shape(), device)?),
        ))
    }
}

/// Gradients of the values, the scale and the bias.
fn gradients(
    values: &[f32],
    gradient: &[f32],
    scale: &[f32],
    mean: &[f32],
    inverse: &[f32],
    channels: usize,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let piece = ROWS * channels;
    let sums: Vec<(Vec<f32>, Vec<f32>)> = values
        .par_chunks(piece)
        .zip(gradient.par_chunks(piece))
        .map(|(values, gradient)| {
            vectorised(|| {
                let (mut plain, mut weighted) = (vec![0.0f32; channels], vec![0.0f32; channels]);
                for (value, gradient) in values.chunks_exact(channels).zip(gradient.chunks_exact(channels)) {
                    let sums = plain.iter_mut().zip(&mut weighted);
                    for (((sums, value), gradient), mean) in sums.zip(value).zip(gradient).zip(mean) {
                        *sums.0 += gradient;
                        *sums.1 += gradient * (value - mean);
                    }
                }
                (plain, weighted)
            })
        })
        .collect();
    let (mut scales, mut biases) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
    let rows = (values.len() / channels.max(1)).max(1) as f64;
    // The gradient of the values is `factor g + slope x + offset`.
    let (mut factors, mut slopes, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for (channel, ((&inverse, &mean), &scale)) in inverse.iter().zip(mean).zip(scale).enumerate() {
        let of = |list: &[f32]| f64::from(list.get(channel).copied().unwrap_or_default());
        let plain: f64 = sums.iter().map(|(plain, _)| of(plain)).sum();
        let weighted: f64 = sums.iter().map(|(_, weighted)| of(weighted)).sum();
        let (inverse, mean, scale) = (f64::from(inverse), f64::from(mean), f64::from(scale));
        scales.push((weighted * inverse) as f32);
        biases.push(plain as f32);
        let factor = scale * inverse;
        let slope = -factor * weighted * inverse * inverse / rows;
        factors.push(factor as f32);
        slopes.push(slope as f32);
        offsets.push((-factor * plain / rows - slope * mean) as f32);
    }
    let mut results = vec![0.0; values.len()];
    results.par_chunks_mut(piece).zip(values.par_chunks(piece)).zip(gradient.par_chunks(piece)).for_each(
        |((result, values), gradient)| {
            vectorised(|| {
                let rows = result.chunks_exact_mut(channels).zip(values.chunks_exact(channels));
                for ((result, value), gradient) in rows.zip(gradient.chunks_exact(channels)) {
                    let cells = result.iter_mut().zip(value).zip(gradient);
                    for (((cell, factor), slope), offset) in cells.zip(&factors).zip(&slopes).zip(&offsets) {
                        let ((result, value), gradient) = cell;
                        *result = factor * gradient + slope * value + offset;
                    }
                }
            });
        },
    );
    (results, scales, biases)
}
