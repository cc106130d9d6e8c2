//! Sampling of errors: the portable code, compiled for AVX2.

use super::entry_points;
use crate::sampler::{BATCH, gaussian_batch as portable_batch};

entry_points! {
    /// See the portable function.
    fn gaussian_batch(bytes: &[u8; 8 * BATCH], out: &mut [i64; BATCH], undecided: &mut u64) {
        portable_batch(bytes, out, undecided);
    }
}
