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
    // Usual numbers of sources as constants: their loops are unrolled.
    match target.cofactors.len() {
        2 => accumulate_sources::<WIDE, 2>(target, limbs, overflow, out),
        3 => accumulate_sources::<WIDE, 3>(target, limbs, overflow, out),
        4 => accumulate_sources::<WIDE, 4>(target, limbs, overflow, out),
        _ => accumulate_sources::<WIDE, 0>(target, limbs, overflow, out),
    }
}

/// `SOURCES` limbs, or any number if it is zero.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn accumulate_sources<const WIDE: bool, const SOURCES: usize>(
    target: &Target,
    limbs: &[u64],
    overflow: &[u64],
    out: &mut [u64],
) {
    let reducer = SumReducer::<WIDE>::new(&target.modulus);
    let count = if SOURCES == 0 { target.cofactors.len() } else { SOURCES };
    let (n, cofactors, minus_product) = (overflow.len(), &target.cofactors[..count], target.minus_product);
    let limbs = &limbs[..count * n];
    let (groups, rest) = out.as_chunks_mut::<8>().0.as_chunks_mut::<VECTORS>();
    let rest_start = groups.len() * 8 * VECTORS;
    for (i, group) in groups.iter_mut().enumerate() {
        let mut sums = [Sum::from(splat(0)); VECTORS];
        let start = i * 8 * VECTORS;
        add(&mut sums, overflow, start, minus_product);
        for (k, &cofactor) in cofactors.iter().enumerate() {
            add(&mut sums, &limbs[k * n..(k + 1) * n], start, cofactor);
        }
        for (sum, out) in sums.iter().zip(group) {
            store(out, reducer.reduce(*sum));
        }
    }
    for (i, vector) in rest.iter_mut().enumerate() {
        let mut sum = [Sum::from(splat(0)); 1];
        let start = rest_start + 8 * i;
        add(&mut sum, overflow, start, minus_product);
        for (k, &cofactor) in cofactors.iter().enumerate() {
            add(&mut sum, &limbs[k * n..(k + 1) * n], start, cofactor);
        }
        store(vector, reducer.reduce(sum[0]));
    }
}

/// Adds the vectors from word `start` on times a factor.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn add<const VECTORS: usize>(sums: &mut [Sum; VECTORS], words: &[u64], start: usize, factor: u64) {
    let (lines, factor) = (words[start..start + 8 * VECTORS].as_chunks::<8>().0, splat(factor));
    for (sum, line) in sums.iter_mut().zip(lines) {
        sum.add_product(load(line), factor);
    }
}
