//! Base conversion. The f64 operations are those of the portable kernel, in the same order.

use super::arith::{Prime, Sum, SumReducer, VectorFactor, load, splat, store, sum_is_wide};
use super::entry_points;
use crate::base_convert::{Source, Target};
use crate::modulus::MAX_MODULUS_BITS;
use crate::portable::convert as portable;
use std::arch::x86_64::*;

/// The vector code takes whole vectors only; other lengths, which rings do not have, go to the portable kernel.
fn is_whole(n: usize) -> bool {
    n.is_multiple_of(8)
}

entry_points! {
    /// See the portable kernel.
    fn prepare(sources: &[Source], limbs: &mut [u64], overflow: &mut [u64]) {
        let n = overflow.len();
        if !is_whole(n) {
            return portable::prepare(sources, limbs, overflow);
        }
        // Sixteen vectors of f64 sums at a time.
        let mut quotients = [0u64; BLOCK];
        for start in (0..n).step_by(BLOCK) {
            let end = (start + BLOCK).min(n);
            let quotients = quotients[..end - start].as_chunks_mut::<8>().0;
            quotients.fill([0.5f64.to_bits(); 8]);
            for (source, limb) in sources.iter().zip(limbs.chunks_exact_mut(n)) {
                let prime = Prime::new(&source.modulus);
                let factor = VectorFactor::splat(&source.cofactor_inverse);
                let reciprocal = _mm512_set1_pd(source.reciprocal);
                for (y, quotient) in limb[start..end].as_chunks_mut::<8>().0.iter_mut().zip(quotients.iter_mut()) {
                    let scaled = prime.mul(load(y), factor);
                    store(y, scaled);
                    let part = _mm512_mul_pd(_mm512_cvtepu64_pd(scaled), reciprocal);
                    let sum = _mm512_add_pd(_mm512_castsi512_pd(load(quotient)), part);
                    store(quotient, _mm512_castpd_si512(sum));
                }
            }
            for (overflow, quotient) in overflow[start..end].as_chunks_mut::<8>().0.iter_mut().zip(quotients) {
                store(overflow, _mm512_cvttpd_epu64(_mm512_castsi512_pd(load(quotient))));
            }
        }
    }

    /// See the portable kernel.
    fn accumulate(target: &Target, limbs: &[u64], overflow: &[u64], out: &mut [u64]) {
        if !is_whole(overflow.len()) {
            return portable::accumulate(target, limbs, overflow, out);
        }
        let products = target.cofactors.len() + 1;
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

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn accumulate_vectors<const WIDE: bool>(target: &Target, limbs: &[u64], overflow: &[u64], out: &mut [u64]) {
    let reducer = SumReducer::<WIDE>::new(&target.modulus);
    let (groups, rest) = out.as_chunks_mut::<8>().0.as_chunks_mut::<VECTORS>();
    let rest_start = groups.len() * 8 * VECTORS;
    for (i, group) in groups.iter_mut().enumerate() {
        accumulate_group::<WIDE, VECTORS>(&reducer, target, limbs, overflow, i * 8 * VECTORS, group);
    }
    for (i, vector) in rest.as_chunks_mut().0.iter_mut().enumerate() {
        accumulate_group::<WIDE, 1>(&reducer, target, limbs, overflow, rest_start + 8 * i, vector);
    }
}

/// The words `start..start + 8*VECTORS`; `out` holds just these.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn accumulate_group<const WIDE: bool, const VECTORS: usize>(
    reducer: &SumReducer<WIDE>,
    target: &Target,
    limbs: &[u64],
    overflow: &[u64],
    start: usize,
    out: &mut [[u64; 8]; VECTORS],
) {
    let range = start..start + 8 * VECTORS;
    let mut sums = [Sum::from(splat(0)); VECTORS];
    let mut add = |words: &[u64], factor: u64| {
        let (lines, factor) = (words[range.clone()].as_chunks::<8>().0, splat(factor));
        for (sum, line) in sums.iter_mut().zip(lines) {
            sum.add_product(load(line), factor);
        }
    };
    add(overflow, target.minus_product);
    for (&cofactor, limb) in target.cofactors.iter().zip(limbs.chunks_exact(overflow.len())) {
        add(limb, cofactor);
    }
    for (sum, out) in sums.iter().zip(out) {
        store(out, reducer.reduce(*sum));
    }
}
