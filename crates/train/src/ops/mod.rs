//! The layers' operators, with their gradients, for candle's automatic differentiation.
//!
//! candle's own convolution, pooling and normalisation are made of many passes over memory. Each operator here is one custom operator of it, on images height x width x channels. Sums run over
//! fixed groups of samples in a fixed order, so results do not depend on the number of threads.

mod batch_norm;
mod conv;
mod curve;
mod pool;
mod product;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

pub(crate) use batch_norm::BatchNorm;
pub(crate) use conv::Conv;
pub(crate) use curve::{Apply, Curve};
pub(crate) use pool::{Pool, global_mean};

/// Values of an operand, which must lie in one piece.
fn operand<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (layout.contiguous_offsets(), storage.as_slice::<f32>()?) {
        (Some((start, end)), values) if end <= values.len() => values.get(start..end).ok_or_else(too_short),
        _ => bail!("an operand is not contiguous"),
    }
}

fn too_short() -> candle_core::Error {
    candle_core::Error::Msg("an operand is shorter than its shape".into())
}

/// Calls `work` with a tensor's values in one piece.
fn read<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => work(operand(storage, layout)?),
        _ => bail!("training runs on the CPU"),
    }
}

/// Runs loops with the widest vector instructions that the processor has.
fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    struct Loops<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Loops<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Loops(work))
}

/// Rows that are worked on as one piece: small enough for the first cache, and the same whatever the number of threads.
const ROWS: usize = 512;

/// Sums of the pieces, in their order.
fn total(pieces: &[Vec<f32>], length: usize) -> Vec<f64> {
    let mut total = vec![0.0; length];
    for piece in pieces {
        for (total, sum) in total.iter_mut().zip(piece) {
            *total += f64::from(*sum);
        }
    }
    total
}

#[cfg(test)]
mod tests;
