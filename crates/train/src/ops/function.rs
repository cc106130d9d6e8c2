//! Functions of each value alone that are no polynomials.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, operand, read, vectorised};
use crate::model::Function;

/// Values that are worked on as one piece.
const PIECE: usize = 16 * ROWS;

/// Applies a function to each value.
pub(crate) struct Apply(pub Function);

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

    /// Its derivative at x, where its value is y.
    #[inline(always)]
    pub(crate) fn derivative(self, x: f32, y: f32) -> f32 {
        let by_sign = |below: f32| if x > 0.0 { 1.0 } else { below };
        match self {
            Function::Relu => by_sign(0.0),
            Function::LeakyRelu { slope } => by_sign(slope),
            Function::Elu { alpha } => by_sign(y + alpha),
            Function::Softplus => 1.0 / (1.0 + (-x).exp()),
            Function::Sigmoid => y * (1.0 - y),
            Function::Tanh => 1.0 - y * y,
        }
    }
}

impl CustomOp1 for Apply {
    fn name(&self) -> &'static str {
        "function"
    }

    fn cpu_fwd(&self, values: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = operand(values, layout)?;
        let mut results = vec![0.0; values.len()];
        results.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE)).for_each(|(result, values)| {
            vectorised(|| {
                for (result, value) in result.iter_mut().zip(values) {
                    *result = self.0.value(*value);
                }
            });
        });
        Ok((CpuStorage::F32(results), layout.shape().clone()))
    }

    fn bwd(&self, values: &Tensor, results: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut found = vec![0.0; values.elem_count()];
        read(values, |values| {
            read(results, |results| {
                read(gradient, |gradient| {
                    let operands =
                        values.par_chunks(PIECE).zip(results.par_chunks(PIECE)).zip(gradient.par_chunks(PIECE));
                    found.par_chunks_mut(PIECE).zip(operands).for_each(|(found, ((values, results), gradient))| {
                        vectorised(|| {
                            let operands = values.iter().zip(results).zip(gradient);
                            for (found, ((x, y), gradient)) in found.iter_mut().zip(operands) {
                                *found = gradient * self.0.derivative(*x, *y);
                            }
                        });
                    });
                    Ok(())
                })
            })
        })?;
        Ok(Some(Tensor::from_vec(found, values.shape(), values.device())?))
    }
}
