//! Butterflies of the transforms: rounds of radix 4, 8 and 16 in registers.
//!
//! How often values are reduced depends on the prime ([`Lazy`]). A forward butterfly makes x + t and x - t of x and a product
//! t < 2p; a multiple of 2p that was added to x before keeps the differences positive, so that nothing else needs to be done at
//! each level. The inverse transform doubles bounds: 2p, 4p, 8p, 16p in a round, 32p when the halves join.

use super::arith::{Prime, VectorFactor};
use crate::Modulus;
use std::arch::x86_64::*;

/// When values are reduced; all must stay below 2^52.
pub(super) type Lazy = u8;
/// Never: the forward transform of L levels stays below p + 2p L + 2p L, the inverse below 36p between its reductions.
pub(super) const NEVER: Lazy = 0;
/// Before each round, and in the middle of one of radix 16. Three levels take 2p + 6p + 6p forward, 16p inverse: p < 2^48.
pub(super) const ROUND: Lazy = 1;
/// At each butterfly: values stay below 4p forward, 2p inverse.
pub(super) const EACH: Lazy = 2;

/// The mode for a transform that needs a factor of `room` between p and 2^52 to do without reductions.
pub(super) fn lazy(p: &Modulus, room: u64) -> Lazy {
    match p.value() {
        p if room * p < 1 << 52 => NEVER,
        p if p < 1 << 48 => ROUND,
        _ => EACH,
    }
}

/// Applies `$butterfly` in place to the pairs of places `$low $high` with the factors of index `$factor`.
macro_rules! butterflies {
    ($butterfly:expr, $values:ident, $factors:ident: $($low:literal $high:literal $factor:literal),*) => {
        $(($values[$low], $values[$high]) = $butterfly($values[$low], $values[$high], $factors[$factor]);)*
    };
}

/// The butterflies of log2(RADIX) levels. Input k is offset k of one node, output m is node m of the last level.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn forward_butterflies<const LAZY: Lazy, const RADIX: usize>(
    prime: &Prime,
    values: [__m512i; RADIX],
    factors: &[VectorFactor; RADIX],
) -> [__m512i; RADIX] {
    let mut v = values;
    let p4 = _mm512_slli_epi64::<1>(prime.p2);
    let ready = |x: __m512i, bias| _mm512_add_epi64(prime.reduce_lazy(x), bias);
    if LAZY == ROUND {
        let bias = if RADIX == 8 { _mm512_add_epi64(p4, prime.p2) } else { p4 };
        for x in &mut v[..RADIX / 2] {
            *x = ready(*x, bias);
        }
    }
    // A node's offsets are neighbours; its children take the lower and the upper half of its places.
    match RADIX {
        16 => {
            butterflies!(|x, y, w| forward_butterfly::<LAZY>(prime, x, y, w), v, factors:
                0 8 1, 1 9 1, 2 10 1, 3 11 1, 4 12 1, 5 13 1, 6 14 1, 7 15 1,
                0 4 2, 1 5 2, 2 6 2, 3 7 2, 8 12 3, 9 13 3, 10 14 3, 11 15 3);
            if LAZY == ROUND {
                for quarter in v.as_chunks_mut::<4>().0 {
                    quarter[0] = ready(quarter[0], p4);
                    quarter[1] = ready(quarter[1], p4);
                }
            }
            butterflies!(|x, y, w| forward_butterfly::<LAZY>(prime, x, y, w), v, factors:
                0 2 4, 1 3 4, 4 6 6, 5 7 6, 8 10 5, 9 11 5, 12 14 7, 13 15 7,
                0 1 8, 2 3 12, 4 5 10, 6 7 14, 8 9 9, 10 11 13, 12 13 11, 14 15 15);
        }
        8 => {
            butterflies!(|x, y, w| forward_butterfly::<LAZY>(prime, x, y, w), v, factors:
                0 4 1, 1 5 1, 2 6 1, 3 7 1, 0 2 2, 1 3 2, 4 6 3, 5 7 3, 0 1 4, 4 5 5, 2 3 6, 6 7 7);
        }
        _ => {
            butterflies!(|x, y, w| forward_butterfly::<LAZY>(prime, x, y, w), v, factors:
                0 2 1, 1 3 1, 0 1 2, 2 3 3);
        }
    }
    bit_reversed(v)
}

/// The inverse butterflies, with results below 2p.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn inverse_round<const LAZY: Lazy, const RADIX: usize>(
    prime: &Prime,
    nodes: [__m512i; RADIX],
    factors: &[VectorFactor; RADIX],
) -> [__m512i; RADIX] {
    let mut values = inverse_butterflies::<LAZY, RADIX>(prime, nodes, factors);
    if LAZY != EACH {
        // The upper half comes fresh from multiplications.
        for value in &mut values[..RADIX / 2] {
            *value = prime.reduce_lazy(*value);
        }
    }
    values
}

/// Undoes `forward_butterflies` up to the factor RADIX. Inputs are below 2p; outputs below 2p if `EACH`, else RADIX * 2p, or 8p if
/// `ROUND` in radix 16.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn inverse_butterflies<const LAZY: Lazy, const RADIX: usize>(
    prime: &Prime,
    nodes: [__m512i; RADIX],
    factors: &[VectorFactor; RADIX],
) -> [__m512i; RADIX] {
    let mut v = bit_reversed(nodes);
    let p4 = _mm512_slli_epi64::<1>(prime.p2);
    let p8 = _mm512_slli_epi64::<2>(prime.p2);
    match RADIX {
        16 => {
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, prime.p2, x, y, w), v, factors:
                0 1 8, 2 3 12, 4 5 10, 6 7 14, 8 9 9, 10 11 13, 12 13 11, 14 15 15);
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, p4, x, y, w), v, factors:
                0 2 4, 1 3 4, 4 6 6, 5 7 6, 8 10 5, 9 11 5, 12 14 7, 13 15 7);
            let (third, fourth) = match LAZY {
                ROUND => (prime.p2, p4),
                _ => (p8, _mm512_slli_epi64::<3>(prime.p2)),
            };
            if LAZY == ROUND {
                for quarter in v.as_chunks_mut::<4>().0 {
                    quarter[0] = prime.reduce_lazy(quarter[0]);
                    quarter[1] = prime.reduce_lazy(quarter[1]);
                }
            }
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, third, x, y, w), v, factors:
                0 4 2, 1 5 2, 2 6 2, 3 7 2, 8 12 3, 9 13 3, 10 14 3, 11 15 3);
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, fourth, x, y, w), v, factors:
                0 8 1, 1 9 1, 2 10 1, 3 11 1, 4 12 1, 5 13 1, 6 14 1, 7 15 1);
        }
        8 => {
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, prime.p2, x, y, w), v, factors:
                0 1 4, 4 5 5, 2 3 6, 6 7 7);
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, p4, x, y, w), v, factors:
                0 2 2, 1 3 2, 4 6 3, 5 7 3);
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, p8, x, y, w), v, factors:
                0 4 1, 1 5 1, 2 6 1, 3 7 1);
        }
        _ => {
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, prime.p2, x, y, w), v, factors: 0 1 2, 2 3 3);
            butterflies!(|x, y, w| inverse_butterfly::<LAZY>(prime, p4, x, y, w), v, factors: 0 2 1, 1 3 1);
        }
    }
    v
}

/// Exchanges the places whose numbers are bit reversals of each other.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn bit_reversed<const RADIX: usize>(mut v: [__m512i; RADIX]) -> [__m512i; RADIX] {
    let swaps: &[(usize, usize)] = match RADIX {
        16 => &[(1, 8), (2, 4), (3, 12), (5, 10), (7, 14), (11, 13)],
        8 => &[(1, 4), (3, 6)],
        _ => &[(1, 2)],
    };
    for &(a, b) in swaps {
        v.swap(a, b);
    }
    v
}

/// x + w*y and x - w*y up to multiples of p. If `EACH`, x is first taken below 2p, so that values stay below 4p; else it must
/// be at least 2p, or the difference would be negative.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn forward_butterfly<const LAZY: Lazy>(
    prime: &Prime,
    x: __m512i,
    y: __m512i,
    w: VectorFactor,
) -> (__m512i, __m512i) {
    let t = prime.mul_lazy(y, w);
    if LAZY == EACH {
        let (x, t) = (prime.subtract_2p(x), prime.masked(t));
        (_mm512_add_epi64(x, t), _mm512_sub_epi64(_mm512_add_epi64(x, prime.p2), t))
    } else {
        (_mm512_add_epi64(x, t), _mm512_sub_epi64(x, t))
    }
}

/// x + y and w*(x - y). If `EACH`, both and the sum stay below 2p; else `bound` is a bound on x and y, and the sum is not
/// reduced.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn inverse_butterfly<const LAZY: Lazy>(
    prime: &Prime,
    bound: __m512i,
    x: __m512i,
    y: __m512i,
    w: VectorFactor,
) -> (__m512i, __m512i) {
    let sum = _mm512_add_epi64(x, y);
    if LAZY != EACH {
        (sum, prime.mul_lazy(_mm512_sub_epi64(_mm512_add_epi64(x, bound), y), w))
    } else {
        let product = prime.mul_lazy(_mm512_sub_epi64(_mm512_add_epi64(x, prime.p2), y), w);
        (prime.subtract_2p(sum), prime.masked(product))
    }
}
