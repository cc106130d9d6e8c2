//! Functions of each value alone: polynomials for each channel, and those that are none.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, operand, read, vectorised};
use crate::model::Function;

/// A function of each value alone, on rows whose places are the channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Curve {
    /// The value itself.
    Identity,
    /// No polynomial; needs no coefficients.
    Function(Function),
    /// A polynomial for each channel: coefficients `[degree + 1, channels]`, lowest power first.
    Polynomial {
        /// Values beyond this are pulled back while training: their gradient is that of the loss plus
        /// `penalty (|x| - bound)^2`, summed over the values of a sample, averaged over the samples. Infinite: none.
        bound: f32,
        /// The weight of that.
        penalty: f32,
    },
}

impl Curve {
    /// A polynomial without a bound.
    pub const FREE: Curve = Curve::Polynomial { bound: f32::INFINITY, penalty: 0.0 };
}

impl Function {
    /// Its value.
    #[inline(always)]
    pub(crate) fn value(self, x: f32) -> f32 {
        match self {
            Function::Relu => x.max(0.0),
            Function::LeakyRelu { slope } => x.max(0.0) + slope * x.min(0.0),
            Function::Elu { alpha } => x.max(0.0) + alpha * x.min(0.0).exp_m1(),
            Function::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Tanh => x.tanh(),
        }
    }

    /// Its derivative.
    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        let by_sign = |below: f32| if x > 0.0 { 1.0 } else { below };
        match self {
            Function::Relu => by_sign(0.0),
            Function::LeakyRelu { slope } => by_sign(slope),
            Function::Elu { alpha } => by_sign(alpha * x.min(0.0).exp()),
            Function::Softplus => 1.0 / (1.0 + (-x).exp()),
            Function::Sigmoid => {
                let y = 1.0 / (1.0 + (-x).exp());
                y * (1.0 - y)
            }
            Function::Tanh => 1.0 - x.tanh().powi(2),
        }
    }
}

/// A curve with its coefficients, for the passes over the rows of a batch.
#[derive(Clone)]
pub(super) struct Drawn<'a> {
    curve: Curve,
    channels: usize,
    coefficients: &'a [f32],
    /// Of the derivative: c1, 2 c2, 3 c3, …
    derivative: Vec<f32>,
    /// Factor of what pulls a value back.
    pull: f32,
}

impl<'a> Drawn<'a> {
    /// `samples` are those that the penalty is averaged over.
    pub fn new(curve: Curve, channels: usize, coefficients: &'a [f32], samples: usize) -> Self {
        let powers = coefficients.chunks_exact(channels.max(1)).enumerate().skip(1);
        let derivative = powers.flat_map(|(k, c)| c.iter().map(move |c| k as f32 * c)).collect();
        let penalty = if let Curve::Polynomial { penalty, .. } = curve { penalty } else { 0.0 };
        Drawn { curve, channels, coefficients, derivative, pull: 2.0 * penalty / samples.max(1) as f32 }
    }

    /// `result = f(x)` for one row; `result` must not be read before.
    #[inline(always)]
    pub fn forward(&self, x: &[f32], result: &mut [f32]) {
        match self.curve {
            Curve::Identity => result.copy_from_slice(x),
            Curve::Function(function) => {
                for (result, x) in result.iter_mut().zip(x) {
                    *result = function.value(*x);
                }
            }
            Curve::Polynomial { .. } => horner(result, x, self.coefficients, self.channels),
        }
    }

    /// `result = gradient f'(x)` for one row; adds to the gradients of the coefficients, with `power` as scratch.
    #[inline(always)]
    pub fn backward(&self, x: &[f32], gradient: &[f32], result: &mut [f32], sums: &mut [f32], power: &mut [f32]) {
        match self.curve {
            Curve::Identity => result.copy_from_slice(gradient),
            Curve::Function(function) => {
                for ((result, x), gradient) in result.iter_mut().zip(x).zip(gradient) {
                    *result = gradient * function.derivative(*x);
                }
            }
            Curve::Polynomial { bound, .. } => {
                horner(result, x, &self.derivative, self.channels);
                for (result, gradient) in result.iter_mut().zip(gradient) {
                    *result *= gradient;
                }
                if self.pull > 0.0 {
                    for (result, x) in result.iter_mut().zip(x) {
                        *result += self.pull * (x.abs() - bound).max(0.0).copysign(*x);
                    }
                }
                power.copy_from_slice(gradient);
                for sums in sums.chunks_exact_mut(self.channels) {
                    for ((sum, power), x) in sums.iter_mut().zip(&mut *power).zip(x) {
                        *sum += *power;
                        *power *= x;
                    }
                }
            }
        }
    }
}

/// `result = p(x)`, channel by channel.
#[inline(always)]
fn horner(result: &mut [f32], x: &[f32], coefficients: &[f32], channels: usize) {
    let mut powers = coefficients.chunks_exact(channels).rev();
    match powers.next() {
        Some(top) => result.copy_from_slice(top),
        None => result.fill(0.0),
    }
    for coefficients in powers {
        for ((result, x), c) in result.iter_mut().zip(x).zip(coefficients) {
            *result = *result * x + c;
        }
    }
}

/// Applies a curve; the second operand are its coefficients, `[powers, channels]`.
pub(crate) struct Apply(pub Curve);

impl CustomOp2 for Apply {
    fn name(&self) -> &'static str {
        "curve"
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
        let drawn = Drawn::new(self.0, channels, coefficients, 1);
        let mut results = vec![0.0; values.len()];
        results.par_chunks_mut(ROWS * channels).zip(values.par_chunks(ROWS * channels)).for_each(|(result, values)| {
            vectorised(|| {
                for (result, x) in result.chunks_exact_mut(channels).zip(values.chunks_exact(channels)) {
                    drawn.forward(x, result);
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
        let samples = values.dims().first().copied().unwrap_or(1);
        let mut results = vec![0.0; values.elem_count()];
        let pieces: Vec<Vec<f32>> = read(values, |values| {
            read(coefficients, |coefficients| {
                read(gradient, |gradient| {
                    let drawn = Drawn::new(self.0, channels, coefficients, samples);
                    let piece = ROWS * channels;
                    let work =
                        results.par_chunks_mut(piece).zip(values.par_chunks(piece)).zip(gradient.par_chunks(piece));
                    let sums = work.map(|((result, values), gradient)| {
                        let (mut sums, mut power) = (vec![0.0; coefficients.len()], vec![0.0; channels]);
                        vectorised(|| {
                            let rows = result.chunks_exact_mut(channels).zip(values.chunks_exact(channels));
                            for ((result, x), gradient) in rows.zip(gradient.chunks_exact(channels)) {
                                drawn.backward(x, gradient, result, &mut sums, &mut power);
                            }
                        });
                        sums
                    });
                    Ok(sums.collect())
                })
            })
        })?;
        let total = super::total(&pieces, coefficients.elem_count());
        let total: Vec<f32> = total.into_iter().map(|sum| sum as f32).collect();
        let device = values.device();
        Ok((
            Some(Tensor::from_vec(results, values.shape(), device)?),
            Some(Tensor::from_vec(total, coefficients.shape(), device)?),
        ))
    }
}
