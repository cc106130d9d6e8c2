//! Elementwise operations on one limb. Words after the last whole vector go to the portable kernel.

use super::arith::{
    Prime, Sum, SumReducer, VectorFactor, high_to_reals, load, load_signed, load_words, low_to_reals, splat, store,
    store_words, sum_is_wide,
};
use super::entry_points;
use crate::Modulus;
use crate::portable::limb as portable;
use std::arch::x86_64::*;

entry_points! {
    fn add_assign(p: &Modulus, a: &mut [u64], b: &[u64]) {
        let prime = Prime::new(p);
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks_mut(), b.as_chunks());
        for (a, b) in a.iter_mut().zip(b) {
            store(a, prime.add(load(a), load(b)));
        }
        portable::add_assign(p, a_rest, b_rest);
    }

    fn sub_assign(p: &Modulus, a: &mut [u64], b: &[u64]) {
        let prime = Prime::new(p);
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks_mut(), b.as_chunks());
        for (a, b) in a.iter_mut().zip(b) {
            store(a, prime.sub(load(a), load(b)));
        }
        portable::sub_assign(p, a_rest, b_rest);
    }

    fn neg_assign(p: &Modulus, a: &mut [u64]) {
        let prime = Prime::new(p);
        let (a, a_rest) = a.as_chunks_mut();
        for a in a {
            store(a, prime.neg(load(a)));
        }
        portable::neg_assign(p, a_rest);
    }

    fn mul_assign(p: &Modulus, a: &mut [u64], b: &[u64]) {
        let prime = Prime::new(p);
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks_mut(), b.as_chunks());
        for (a, b) in a.iter_mut().zip(b) {
            store_words(a, prime.mul_pair(load_words(a), load_words(b)));
        }
        portable::mul_assign(p, a_rest, b_rest);
    }

    fn mul_scalar_assign(p: &Modulus, a: &mut [u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(p, s));
        let (a, a_rest) = a.as_chunks_mut();
        for a in a {
            store_words(a, prime.mul(load_words(a), factor));
        }
        portable::mul_scalar_assign(p, a_rest, s);
    }

    fn mul_scalar(p: &Modulus, out: &mut [u64], a: &[u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(p, s));
        let ((out, out_rest), (a, a_rest)) = (out.as_chunks_mut(), a.as_chunks());
        for (out, a) in out.iter_mut().zip(a) {
            store_words(out, prime.mul(load_words(a), factor));
        }
        portable::mul_scalar(p, out_rest, a_rest, s);
    }

    fn mul_scalar_add_assign(p: &Modulus, acc: &mut [u64], a: &[u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(p, s));
        let ((acc, acc_rest), (a, a_rest)) = (acc.as_chunks_mut(), a.as_chunks());
        for (acc, a) in acc.iter_mut().zip(a) {
            let sum = _mm256_add_pd(load_words(acc), prime.mul_lazy(load_words(a), factor));
            store_words(acc, prime.reduce(sum));
        }
        portable::mul_scalar_add_assign(p, acc_rest, a_rest, s);
    }

    fn rsub_mul_scalar_assign(p: &Modulus, out: &mut [u64], a: &[u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(p, s));
        let ((out, out_rest), (a, a_rest)) = (out.as_chunks_mut(), a.as_chunks());
        for (out, a) in out.iter_mut().zip(a) {
            let difference = _mm256_sub_pd(load_words(a), load_words(out));
            store_words(out, prime.mul(difference, factor));
        }
        portable::rsub_mul_scalar_assign(p, out_rest, a_rest, s);
    }

    fn dot_add_assign(p: &Modulus, acc: &mut [u64], pairs: &[(&[u64], &[u64])]) {
        for (x, y) in pairs {
            assert!(x.len() == acc.len() && y.len() == acc.len(), "the slices of a dot product must have equal lengths");
        }
        let whole = acc.len() - acc.len() % 4;
        let (acc, acc_rest) = acc.split_at_mut(whole);
        if let [(x, y)] = pairs {
            let prime = Prime::new(p);
            for ((acc, x), y) in acc.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0).zip(y.as_chunks().0) {
                let product = prime.mul_pair_lazy(load_words(x), load_words(y));
                store_words(acc, prime.reduce(_mm256_add_pd(load_words(acc), product)));
            }
        } else if sum_is_wide(pairs.len(), p.value(), p.value()) {
            dot_vectors::<true>(p, acc, pairs);
        } else {
            dot_vectors::<false>(p, acc, pairs);
        }
        if !acc_rest.is_empty() {
            let rests: Vec<_> = pairs.iter().map(|(x, y)| (&x[whole..], &y[whole..])).collect();
            portable::dot_add_assign(p, acc_rest, &rests);
        }
    }

    fn from_signed(p: &Modulus, out: &mut [u64], values: &[i64]) {
        // With 2^63 added the values are not negative: high * 2^32 + low - 2^63.
        const BIAS: u64 = 1 << 63;
        let prime = Prime::new(p);
        let power32 = VectorFactor::splat(p, p.reduce(1 << 32));
        let bias = _mm256_set1_pd(p.center(p.neg(p.reduce(BIAS))) as f64);
        let ((out, out_rest), (values, values_rest)) = (out.as_chunks_mut(), values.as_chunks::<4>());
        for (out, values) in out.iter_mut().zip(values) {
            let value = _mm256_xor_si256(load_signed(values), splat(BIAS));
            let high = prime.mul_lazy(high_to_reals(value), power32);
            let low = _mm256_add_pd(low_to_reals(value), bias);
            store_words(out, prime.reduce(_mm256_add_pd(high, low)));
        }
        portable::from_signed(p, out_rest, values_rest);
    }

    fn lift_centered(p: &Modulus, out: &mut [u64], src: &[u64], from: &Modulus) {
        let prime = Prime::new(p);
        let (half, shift) = (_mm256_set1_pd((from.value() / 2) as f64), _mm256_set1_pd(from.value() as f64));
        let ((out, out_rest), (src, src_rest)) = (out.as_chunks_mut(), src.as_chunks());
        for (out, src) in out.iter_mut().zip(src) {
            let x = load_words(src);
            let above_half = _mm256_cmp_pd::<_CMP_GT_OQ>(x, half);
            store_words(out, prime.reduce(_mm256_sub_pd(x, _mm256_and_pd(above_half, shift))));
        }
        portable::lift_centered(p, out_rest, src_rest, from);
    }
}

/// Vectors summed side by side, to hide the latency of the multiply-add.
const DOT_VECTORS: usize = 4;

/// `acc` has a multiple of 4 words, the slices of `pairs` at least as many.
#[target_feature(enable = "avx2,fma")]
fn dot_vectors<const WIDE: bool>(p: &Modulus, acc: &mut [u64], pairs: &[(&[u64], &[u64])]) {
    let reducer = SumReducer::<WIDE>::new(p);
    let (groups, rest) = acc.as_chunks_mut::<{ 4 * DOT_VECTORS }>();
    let rest_start = groups.len() * 4 * DOT_VECTORS;
    for (i, group) in groups.iter_mut().enumerate() {
        dot_group::<WIDE, DOT_VECTORS>(&reducer, group, i * 4 * DOT_VECTORS, pairs);
    }
    for (i, vector) in rest.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        dot_group::<WIDE, 1>(&reducer, vector, rest_start + 4 * i, pairs);
    }
}

/// The words `start..start + 4*VECTORS` of the dot product; `acc` holds just these.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot_group<const WIDE: bool, const VECTORS: usize>(
    reducer: &SumReducer<WIDE>,
    acc: &mut [u64],
    start: usize,
    pairs: &[(&[u64], &[u64])],
) {
    let acc = acc.as_chunks_mut::<4>().0;
    let mut sums = [Sum::new(splat(0), pairs.len()); VECTORS];
    for (sum, acc) in sums.iter_mut().zip(acc.iter()) {
        *sum = Sum::new(load(acc), pairs.len());
    }
    for (x, y) in pairs {
        let range = start..start + 4 * VECTORS;
        let (x, y) = (x[range.clone()].as_chunks::<4>().0, y[range].as_chunks::<4>().0);
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            sum.add_product(load_words(x), load_words(y));
        }
    }
    for (sum, acc) in sums.iter().zip(acc) {
        store_words(acc, reducer.reduce(*sum));
    }
}
