//! Base conversion. The f64 operations of the quotient are those of the portable kernel, in the same order.

use super::arith::{
    Line, MAX_PRODUCTS, Prime, Sum, SumReducer, VectorFactor, load_reals, load_words, splat, store_reals, store_words,
    sum_is_wide,
};
use super::entry_points;
use crate::base_convert::{Source, Target};
use crate::modulus::MAX_MODULUS_BITS;
use crate::portable::convert as portable;
use std::arch::x86_64::*;

/// The vector code takes whole vectors only; other lengths, which rings do not have, go to the portable kernel.
fn is_whole(n: usize) -> bool {
    n.is_multiple_of(4)
}

entry_points! {
    /// See the portable kernel.
    fn prepare(sources: &[Source], limbs: &mut [u64], overflow: &mut [u64]) {
        let n = overflow.len();
        if !is_whole(n) {
            return portable::prepare(sources, limbs, overflow);
        }
        // The f64 sums of one block at a time.
        let mut quotients = [[0u64; 4]; BLOCK / 4];
        for start in (0..n).step_by(BLOCK) {
            let end = (start + BLOCK).min(n);
            let quotients: &mut [Line] = &mut quotients[..(end - start) / 4];
            quotients.fill([0.5f64.to_bits(); 4]);
            for (source, limb) in sources.iter().zip(limbs.chunks_exact_mut(n)) {
                let prime = Prime::new(&source.modulus);
                let factor = VectorFactor::splat(&source.modulus, source.cofactor_inverse.value);
                let reciprocal = _mm256_set1_pd(source.reciprocal);
                for (y, quotient) in limb[start..end].as_chunks_mut().0.iter_mut().zip(quotients.iter_mut()) {
                    let scaled = prime.mul(load_words(y), factor);
                    store_words(y, scaled);
                    store_reals(quotient, _mm256_add_pd(load_reals(quotient), _mm256_mul_pd(scaled, reciprocal)));
                }
            }
            for (overflow, quotient) in overflow[start..end].as_chunks_mut().0.iter_mut().zip(quotients) {
                store_words(overflow, _mm256_floor_pd(load_reals(quotient)));
            }
        }
    }

    /// See the portable kernel.
    fn accumulate(target: &Target, limbs: &[u64], overflow: &[u64], out: &mut [u64]) {
        let products = target.cofactors.len() + 1;
        if !is_whole(overflow.len()) || products > MAX_PRODUCTS {
            return portable::accumulate(target, limbs, overflow, out);
        }
        if sum_is_wide(products, 1 << MAX_MODULUS_BITS, target.modulus.value()) {
            accumulate_vectors::<true>(target, limbs, overflow, out);
        } else {
            accumulate_vectors::<false>(target, limbs, overflow, out);
        }
    }
}

/// Words worked on at a time, so that the sums stay in first-level cache.
const BLOCK: usize = 128;
/// Vectors summed side by side, to hide the latency of the multiply-add.
const VECTORS: usize = 4;

#[target_feature(enable = "avx2,fma")]
fn accumulate_vectors<const WIDE: bool>(target: &Target, limbs: &[u64], overflow: &[u64], out: &mut [u64]) {
    let n = overflow.len();
    let reducer = SumReducer::<WIDE>::new(&target.modulus);
    let minus_product = _mm256_set1_pd(target.minus_product as f64);
    for (i, out) in out.chunks_mut(4 * VECTORS).enumerate() {
        let range = i * 4 * VECTORS..i * 4 * VECTORS + out.len();
        let mut sums = [Sum::new(splat(0), target.cofactors.len() + 1); VECTORS];
        for (sum, overflow) in sums.iter_mut().zip(overflow[range.clone()].as_chunks().0) {
            sum.add_product(load_words(overflow), minus_product);
        }
        for (&cofactor, limb) in target.cofactors.iter().zip(limbs.chunks_exact(n)) {
            let cofactor = _mm256_set1_pd(cofactor as f64);
            for (sum, y) in sums.iter_mut().zip(limb[range.clone()].as_chunks().0) {
                sum.add_product(load_words(y), cofactor);
            }
        }
        for (sum, out) in sums.iter().zip(out.as_chunks_mut().0) {
            store_words(out, reducer.reduce(*sum));
        }
    }
}
