//! Batch normalisation with the statistics of the batch, and the function that follows it: one pass over memory less each way.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::curve::{Curve, Drawn};
use super::{ROWS, operand, read, total, vectorised};

/// Mean and variance of each channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Statistics {
    pub mean: Vec<f32>,
    /// Mean square deviation; not corrected for the number of values.
    pub variance: Vec<f32>,
}

/// Normalises values whose last axis is the channel, then `scale x + bias`, then a function of that. The second operand are
/// the parameters, `[2 + powers, channels]`: scale, bias, the function's coefficients.
pub(crate) struct BatchNorm {
    epsilon: f32,
    curve: Curve,
    /// What the forward pass found.
    pub found: Arc<Mutex<Statistics>>,
}

impl BatchNorm {
    pub fn new(epsilon: f32, curve: Curve) -> Self {
        BatchNorm { epsilon, curve, found: Arc::default() }
    }

    fn statistics(&self) -> Statistics {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn inverse_deviations(&self, statistics: &Statistics) -> Vec<f32> {
        statistics.variance.iter().map(|v| 1.0 / (v + self.epsilon).sqrt()).collect()
    }
}

/// Mean and variance of each channel over all rows.
fn statistics(values: &[f32], channels: usize) -> Statistics {
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

/// What is done to each row: `x = factor value + shift`, then the curve.
struct Line {
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl Line {
    /// From the parameters, channels wide, and the batch's statistics.
    fn new(parameters: &[f32], inverse: &[f32], mean: &[f32]) -> Self {
        let channels = mean.len();
        let (scale, bias) = parameters.split_at(channels.min(parameters.len()));
        let factor: Vec<f32> = inverse.iter().zip(scale).map(|(d, s)| d * s).collect();
        let shift = bias.iter().zip(mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        Line { factor, shift }
    }

    #[inline(always)]
    fn apply(&self, value: &[f32], x: &mut [f32]) {
        for (((x, value), factor), shift) in x.iter_mut().zip(value).zip(&self.factor).zip(&self.shift) {
            *x = value * factor + shift;
        }
    }
}

impl CustomOp2 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        values: &CpuStorage,
        layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, channels) = parameters_layout.shape().dims2()?;
        let (values, parameters) = (operand(values, layout)?, operand(parameters, parameters_layout)?);
        let found = statistics(values, channels);
        let line = Line::new(parameters, &self.inverse_deviations(&found), &found.mean);
        let drawn = Drawn::new(self.curve, channels, parameters.get(2 * channels..).unwrap_or_default(), 1);
        let mut results = vec![0.0; values.len()];
        results.par_chunks_mut(ROWS * channels).zip(values.par_chunks(ROWS * channels)).for_each(|(result, value)| {
            let mut x = vec![0.0; channels];
            vectorised(|| {
                for (result, value) in result.chunks_exact_mut(channels).zip(value.chunks_exact(channels)) {
                    line.apply(value, &mut x);
                    drawn.forward(&x, result);
                }
            });
        });
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok((CpuStorage::F32(results), layout.shape().clone()))
    }

    fn bwd(
        &self,
        values: &Tensor,
        parameters: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let samples = values.dims().first().copied().unwrap_or(1);
        let (results, sums) = read(values, |values| {
            read(parameters, |parameters| {
                read(gradient, |gradient| Ok(self.gradients(values, parameters, gradient, samples)))
            })
        })?;
        let device = values.device();
        Ok((
            Some(Tensor::from_vec(results, values.shape(), device)?),
            Some(Tensor::from_vec(sums, parameters.shape(), device)?),
        ))
    }
}

impl BatchNorm {
    /// Gradients of the values and of the parameters.
    fn gradients(&self, values: &[f32], parameters: &[f32], gradient: &[f32], samples: usize) -> (Vec<f32>, Vec<f32>) {
        let found = self.statistics();
        let inverse = self.inverse_deviations(&found);
        let channels = inverse.len();
        let piece = ROWS * channels;
        let line = Line::new(parameters, &inverse, &found.mean);
        let coefficients = parameters.get(2 * channels..).unwrap_or_default();
        let drawn = Drawn::new(self.curve, channels, coefficients, samples);
        let mut results = vec![0.0; values.len()];
        // First the gradient of x, and for each channel its sum, its sum with the deviation from the mean, and those of the coefficients.
        let work = results.par_chunks_mut(piece).zip(values.par_chunks(piece)).zip(gradient.par_chunks(piece));
        let pieces = work.map(|((result, values), gradient)| {
            let mut sums = vec![0.0f32; parameters.len()];
            let (mut x, mut power) = (vec![0.0; channels], vec![0.0; channels]);
            vectorised(|| {
                let (weighted, rest) = sums.split_at_mut(channels);
                let (plain, powers) = rest.split_at_mut(channels);
                let rows = result.chunks_exact_mut(channels).zip(values.chunks_exact(channels));
                for ((result, value), gradient) in rows.zip(gradient.chunks_exact(channels)) {
                    line.apply(value, &mut x);
                    drawn.backward(&x, gradient, result, powers, &mut power);
                    let sums = plain.iter_mut().zip(&mut *weighted);
                    for (((sums, result), value), mean) in sums.zip(&*result).zip(value).zip(&found.mean) {
                        *sums.0 += result;
                        *sums.1 += result * (value - mean);
                    }
                }
            });
            sums
        });
        let pieces: Vec<Vec<f32>> = pieces.collect();
        let mut sums = total(&pieces, parameters.len());
        // Then `factor g + slope value + offset`, which takes out what moves the mean and the deviation.
        let rows = (values.len() / channels.max(1)).max(1) as f64;
        let (mut slopes, mut offsets) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        let (weighted, rest) = sums.split_at_mut(channels);
        let lines = weighted.iter_mut().zip(rest.iter()).zip(inverse.iter().zip(&found.mean)).zip(&line.factor);
        for (((weighted, plain), (inverse, mean)), factor) in lines {
            let (inverse, mean, factor) = (f64::from(*inverse), f64::from(*mean), f64::from(*factor));
            let slope = -factor * *weighted * inverse * inverse / rows;
            slopes.push(slope as f32);
            offsets.push((-factor * plain / rows - slope * mean) as f32);
            *weighted *= inverse;
        }
        results.par_chunks_mut(piece).zip(values.par_chunks(piece)).for_each(|(result, values)| {
            vectorised(|| {
                for (result, value) in result.chunks_exact_mut(channels).zip(values.chunks_exact(channels)) {
                    let cells = result.iter_mut().zip(value).zip(&line.factor);
                    for ((((result, value), factor), slope), offset) in cells.zip(&slopes).zip(&offsets) {
                        *result = factor * *result + slope * value + offset;
                    }
                }
            });
        });
        (results, sums.into_iter().map(|sum| sum as f32).collect())
    }
}
