//! A polynomial for each channel.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, operand, read, vectorised};

/// Evaluates polynomials on values whose last axis is the channel; coefficients `[degree + 1, channels]`, lowest power
/// first.
pub(crate) struct Evaluate {
    /// Values beyond this are pulled back while training: their gradient is that of the loss plus
    /// `penalty (|x| - bound)^2`, averaged over all values. Infinite: none.
    pub bound: f32,
    /// The weight of that.
    pub penalty: f32,
}

impl Evaluate {
    /// Without a bound.
    pub fn new() -> Self {
        Evaluate { bound: f32::INFINITY, penalty: 0.0 }
    }
}

impl CustomOp2 for Evaluate {
    fn name(&self) -> &'static str {
        "polynomial"
    }

    fn cpu_fwd(
        &self,
        values: &CpuStorage,
        layout: &Layout,
        coefficients: &CpuStorage,
        coefficients_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, channels) = coefficients_layout.shape().dims2()?;
        let (values, coefficients) = (operand(values, layout)?, operand(coefficients, coefficients_layout)?);
        let mut results = vec![0.0; values.len()];
        results.par_chunks_mut(ROWS * channels).zip(values.par_chunks(ROWS * channels)).for_each(|(result, values)| {
            vectorised(|| {
                for (result, value) in result.chunks_exact_mut(channels).zip(values.chunks_exact(channels)) {
                    horner(result, value, coefficients);
                }
            });
        });
        Ok((CpuStorage::F32(results), layout.shape().clone()))
    }

    fn bwd(
        &self,
        values: &Tensor,
        coefficients: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, channels) = coefficients.dims2()?;
        let (results, sums) = read(values, |values| {
            read(coefficients, |coefficients| {
                read(gradient, |gradient| Ok(self.gradients(values, coefficients, gradient, channels)))
            })
        })?;
        let device = values.device();
        Ok((
            Some(Tensor::from_vec(results, values.shape(), device)?),
            Some(Tensor::from_vec(sums, coefficients.shape(), device)?),
        ))
    }
}

/// `result = p(value)`, channel by channel.
#[inline(always)]
fn horner(result: &mut [f32], value: &[f32], coefficients: &[f32]) {
    let channels = value.len();
    let mut powers = coefficients.chunks_exact(channels).rev();
    if let Some(top) = powers.next() {
        result.copy_from_slice(top);
    }
    for coefficients in powers {
        for ((result, value), c) in result.iter_mut().zip(value).zip(coefficients) {
            *result = *result * value + c;
        }
    }
}

impl Evaluate {
    /// Gradients of the values and of the coefficients.
    fn gradients(
        &self,
        values: &[f32],
        coefficients: &[f32],
        gradient: &[f32],
        channels: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let piece = ROWS * channels;
        let pull = 2.0 * self.penalty / values.len().max(1) as f32;
        // Of the derivative: c1, 2 c2, 3 c3, …
        let powers = coefficients.chunks_exact(channels).enumerate().skip(1);
        let derivative: Vec<f32> = powers.flat_map(|(k, c)| c.iter().map(move |c| k as f32 * c)).collect();
        let mut results = vec![0.0; values.len()];
        let sums: Vec<Vec<f32>> = results
            .par_chunks_mut(piece)
            .zip(values.par_chunks(piece))
            .zip(gradient.par_chunks(piece))
            .map(|((result, values), gradient)| {
                vectorised(|| {
                    let mut sums = vec![0.0f32; coefficients.len()];
                    let mut power = vec![0.0f32; channels];
                    let rows = result.chunks_exact_mut(channels).zip(values.chunks_exact(channels));
                    for ((result, value), gradient) in rows.zip(gradient.chunks_exact(channels)) {
                        horner(result, value, &derivative);
                        for (result, gradient) in result.iter_mut().zip(gradient) {
                            *result *= gradient;
                        }
                        if pull > 0.0 {
                            for (result, value) in result.iter_mut().zip(value) {
                                let beyond = (value.abs() - self.bound).max(0.0);
                                *result += pull * beyond.copysign(*value);
                            }
                        }
                        power.copy_from_slice(gradient);
                        for sums in sums.chunks_exact_mut(channels) {
                            for ((sum, power), value) in sums.iter_mut().zip(&mut power).zip(value) {
                                *sum += *power;
                                *power *= value;
                            }
                        }
                    }
                    sums
                })
            })
            .collect();
        let mut total = vec![0.0f64; coefficients.len()];
        for sums in sums {
            for (total, sum) in total.iter_mut().zip(sums) {
                *total += f64::from(sum);
            }
        }
        (results, total.into_iter().map(|sum| sum as f32).collect())
    }
}
