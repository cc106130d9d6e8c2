//! Elementwise operations on one limb. Words after the last whole vector go to the portable kernel.

use super::arith::{Prime, Sum, SumReducer, VectorFactor, load, load_signed, splat, store, sum_is_wide};
use super::entry_points;
use crate::Modulus;
use crate::portable::limb as portable;
use crate::twiddles::Factor;
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
        let reducer = SumReducer::<false>::new(p);
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks_mut(), b.as_chunks());
        for (a, b) in a.iter_mut().zip(b) {
            let mut sum = Sum::from(splat(0));
            sum.add_product(load(a), load(b));
            store(a, reducer.reduce(sum));
        }
        portable::mul_assign(p, a_rest, b_rest);
    }

    fn mul_scalar_assign(p: &Modulus, a: &mut [u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(&Factor::new(p, s)));
        let (a, a_rest) = a.as_chunks_mut();
        for a in a {
            store(a, prime.mul(load(a), factor));
        }
        portable::mul_scalar_assign(p, a_rest, s);
    }

    fn mul_scalar(p: &Modulus, out: &mut [u64], a: &[u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(&Factor::new(p, s)));
        let ((out, out_rest), (a, a_rest)) = (out.as_chunks_mut(), a.as_chunks());
        for (out, a) in out.iter_mut().zip(a) {
            store(out, prime.mul(load(a), factor));
        }
        portable::mul_scalar(p, out_rest, a_rest, s);
    }

    fn mul_scalar_add_assign(p: &Modulus, acc: &mut [u64], a: &[u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(&Factor::new(p, s)));
        let ((acc, acc_rest), (a, a_rest)) = (acc.as_chunks_mut(), a.as_chunks());
        for (acc, a) in acc.iter_mut().zip(a) {
            let below_3p = prime.masked(prime.mul_add_lazy(load(acc), load(a), factor));
            store(acc, prime.subtract_p(prime.subtract_2p(below_3p)));
        }
        portable::mul_scalar_add_assign(p, acc_rest, a_rest, s);
    }

    fn rsub_mul_scalar_assign(p: &Modulus, out: &mut [u64], a: &[u64], s: u64) {
        let (prime, factor) = (Prime::new(p), VectorFactor::splat(&Factor::new(p, s)));
        let ((out, out_rest), (a, a_rest)) = (out.as_chunks_mut(), a.as_chunks());
        for (out, a) in out.iter_mut().zip(a) {
            let difference = _mm512_sub_epi64(_mm512_add_epi64(load(a), prime.p), load(out));
            store(out, prime.mul(difference, factor));
        }
        portable::rsub_mul_scalar_assign(p, out_rest, a_rest, s);
    }

    fn dot_add_assign(p: &Modulus, acc: &mut [u64], pairs: &[(&[u64], &[u64])]) {
        for (x, y) in pairs {
            assert!(x.len() == acc.len() && y.len() == acc.len(), "the slices of a dot product must have equal lengths");
        }
        let whole = acc.len() - acc.len() % 8;
        let (acc, acc_rest) = acc.split_at_mut(whole);
        if sum_is_wide(pairs.len(), p.value(), p.value()) {
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
        let (prime, reducer) = (Prime::new(p), SumReducer::<false>::new(p));
        let ((out, out_rest), (values, values_rest)) = (out.as_chunks_mut(), values.as_chunks::<8>());
        for (out, values) in out.iter_mut().zip(values) {
            let value = load_signed(values);
            let magnitude = reducer.reduce(Sum::from(_mm512_abs_epi64(value)));
            let negative = _mm512_movepi64_mask(value);
            store(out, _mm512_mask_mov_epi64(magnitude, negative, prime.neg(magnitude)));
        }
        portable::from_signed(p, out_rest, values_rest);
    }

    fn lift_centered(p: &Modulus, out: &mut [u64], src: &[u64], from: &Modulus) {
        let prime = Prime::new(p);
        let (half, shift) = (splat(from.value() / 2), splat(p.reduce(from.value())));
        let ((out, out_rest), (src, src_rest)) = (out.as_chunks_mut(), src.as_chunks());
        for (out, src) in out.iter_mut().zip(src) {
            let x = load(src);
            let above_half = _mm512_cmpgt_epu64_mask(x, half);
            store(out, prime.sub(prime.reduce(x), _mm512_maskz_mov_epi64(above_half, shift)));
        }
        portable::lift_centered(p, out_rest, src_rest, from);
    }
}

/// Vectors summed side by side, to hide the latency of the multiply-add.
const DOT_VECTORS: usize = 4;

/// `acc` has a multiple of 8 words, the slices of `pairs` at least as many.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn dot_vectors<const WIDE: bool>(p: &Modulus, acc: &mut [u64], pairs: &[(&[u64], &[u64])]) {
    let reducer = SumReducer::<WIDE>::new(p);
    let (groups, rest) = acc.as_chunks_mut::<8>().0.as_chunks_mut::<DOT_VECTORS>();
    let rest_start = groups.len() * 8 * DOT_VECTORS;
    for (i, group) in groups.iter_mut().enumerate() {
        dot_group::<WIDE, DOT_VECTORS>(&reducer, group, i * 8 * DOT_VECTORS, pairs);
    }
    for (i, vector) in rest.as_chunks_mut().0.iter_mut().enumerate() {
        dot_group::<WIDE, 1>(&reducer, vector, rest_start + 8 * i, pairs);
    }
}

/// The words `start..start + 8*VECTORS` of the dot product; `acc` holds just these.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn dot_group<const WIDE: bool, const VECTORS: usize>(
    reducer: &SumReducer<WIDE>,
    acc: &mut [[u64; 8]; VECTORS],
    start: usize,
    pairs: &[(&[u64], &[u64])],
) {
    let mut sums = [Sum::from(splat(0)); VECTORS];
    for (sum, acc) in sums.iter_mut().zip(acc.iter()) {
        sum.low = load(acc);
    }
    for (x, y) in pairs {
        let range = start..start + 8 * VECTORS;
        let (x, y) = (x[range.clone()].as_chunks::<8>().0, y[range].as_chunks::<8>().0);
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            sum.add_product(load(x), load(y));
        }
    }
    for (sum, acc) in sums.iter().zip(acc) {
        store(acc, reducer.reduce(*sum));
    }
}
