//! Base conversion of the portable kernel.

use crate::Modulus;
use crate::base_convert::{Source, Target};
use crate::modulus::reduce_once;

/// y_i = x_i * (D/d_i)^-1 mod d_i, in place, and the number of multiples of D to take off, into `overflow`.
pub(crate) fn prepare(sources: &[Source], scaled: &mut [u64], overflow: &mut [u64]) {
    let n = overflow.len();
    let mut quotients = [0f64; BLOCK];
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let quotients = &mut quotients[..end - start];
        quotients.fill(0.5);
        for (source, y) in sources.iter().zip(scaled.chunks_exact_mut(n)) {
            let factor = &source.cofactor_inverse;
            let p = source.modulus.value();
            for (y, quotient) in y[start..end].iter_mut().zip(quotients.iter_mut()) {
                *y = reduce_once(super::ntt::shoup_lazy(*y, factor.value, factor.quotient, p), p);
                *quotient += *y as f64 * source.reciprocal;
            }
        }
        for (overflow, &quotient) in overflow[start..end].iter_mut().zip(quotients.iter()) {
            *overflow = quotient as u64;
        }
    }
}

/// out = sum_i y_i * (D/d_i) - overflow * D modulo the target prime.
pub(crate) fn accumulate(target: &Target, scaled: &[u64], overflow: &[u64], out: &mut [u64]) {
    let n = overflow.len();
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let mut sums = [0u128; BLOCK];
        for (sum, &overflow) in sums.iter_mut().zip(&overflow[start..end]) {
            *sum = u128::from(overflow) * u128::from(target.minus_product);
        }
        for (&cofactor, y) in target.cofactors.iter().zip(scaled.chunks_exact(n)) {
            for (sum, &y) in sums.iter_mut().zip(&y[start..end]) {
                *sum += u128::from(y) * u128::from(cofactor);
            }
        }
        for (out, &sum) in out[start..end].iter_mut().zip(&sums) {
            *out = Modulus::reduce_u128(&target.modulus, sum);
        }
    }
}

/// Coefficients worked on at a time, so that the sums stay in registers and first-level cache.
const BLOCK: usize = 64;
