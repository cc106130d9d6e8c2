//! The number theoretic transform of the portable kernel: radix-2 Stockham passes between the data and a scratch buffer.
//!
//! Twiddles carry 64-bit Shoup quotients, so factors may be any 64-bit words. The forward transform never reduces between
//! its passes: each adds at most 2p to a bound that starts at p, and 17 passes stay below 35p < 2^56.

use crate::Modulus;
use crate::modulus::reduce_once;
use crate::twiddles::{Factor, Factors, Twiddles};

/// x*w mod p, below 2p, for any x; `quotient` is floor(w * 2^64 / p) (Shoup's method, as in Harvey, arXiv:1205.2926).
#[inline]
pub(crate) fn shoup_lazy(x: u64, w: u64, quotient: u64, p: u64) -> u64 {
    let q = ((u128::from(x) * u128::from(quotient)) >> 64) as u64;
    x.wrapping_mul(w).wrapping_sub(q.wrapping_mul(p))
}

/// Coefficients in natural order to evaluations in orbit order.
pub(crate) fn forward(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
    let (n, p_value) = (a.len(), p.value());
    let half = n / 2;
    let passes = half.trailing_zeros();
    let split = |low: u64, high: u64| {
        let t = shoup_lazy(high, twiddles.split.value, twiddles.split.quotient, p_value);
        (low + t, low + 2 * p_value - t)
    };
    let in_place = passes % 2 == 0;
    {
        let (low, high) = a.split_at_mut(half);
        if in_place {
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = split(*low, *high);
            }
        } else {
            let (low_out, high_out) = scratch.split_at_mut(half);
            for (((low, high), low_out), high_out) in low.iter().zip(high).zip(low_out).zip(high_out) {
                (*low_out, *high_out) = split(*low, *high);
            }
        }
    }
    for ((a, scratch), factors) in a.chunks_exact_mut(half).zip(scratch.chunks_exact_mut(half)).zip(&twiddles.halves) {
        for level in 0..passes {
            if (passes - level) % 2 == 0 {
                forward_pass(p_value, factors, level, a, scratch);
            } else {
                forward_pass(p_value, factors, level, scratch, a);
            }
        }
    }
    for a in a {
        *a = p.reduce(*a);
    }
}

/// Evaluations in orbit order to coefficients in natural order.
pub(crate) fn inverse(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
    let (n, p_value) = (a.len(), p.value());
    let half = n / 2;
    let passes = half.trailing_zeros();
    // The twiddles of one half are the inverses of the other's.
    let inverse_factors = twiddles.halves.iter().rev();
    for ((a, scratch), factors) in a.chunks_exact_mut(half).zip(scratch.chunks_exact_mut(half)).zip(inverse_factors) {
        for level in (0..passes).rev() {
            if (passes - level) % 2 == 1 {
                inverse_pass(p_value, factors, level, a, scratch);
            } else {
                inverse_pass(p_value, factors, level, scratch, a);
            }
        }
    }
    let scale = |x: u64, factor: &Factor| reduce_once(shoup_lazy(x, factor.value, factor.quotient, p_value), p_value);
    let join = |plus: u64, minus: u64| {
        (scale(plus + minus, &twiddles.n_inverse), scale(plus + 2 * p_value - minus, &twiddles.split_inverse_n_inverse))
    };
    let (low, high) = a.split_at_mut(half);
    if passes % 2 == 0 {
        for (low, high) in low.iter_mut().zip(high) {
            (*low, *high) = join(*low, *high);
        }
    } else {
        let (plus, minus) = scratch.split_at(half);
        for (((low, high), &plus), &minus) in low.iter_mut().zip(high).zip(plus).zip(minus) {
            (*low, *high) = join(plus, minus);
        }
    }
}

/// From `2^level` nodes of one half to twice as many, each half as long.
fn forward_pass(p: u64, factors: &Factors, level: u32, src: &[u64], dst: &mut [u64]) {
    let nodes = 1usize << level;
    let (values, quotients) = factors.level(level);
    let (low, high) = src.split_at(src.len() / 2);
    for ((low, high), dst) in low.chunks_exact(nodes).zip(high.chunks_exact(nodes)).zip(dst.chunks_exact_mut(2 * nodes))
    {
        let (plus, minus) = dst.split_at_mut(nodes);
        for j in 0..nodes {
            let t = shoup_lazy(high[j], values[j], quotients[j], p);
            plus[j] = low[j] + t;
            minus[j] = low[j] + 2 * p - t;
        }
    }
}

/// Undoes `forward_pass` up to a factor 2; values stay below 2p.
fn inverse_pass(p: u64, factors: &Factors, level: u32, src: &[u64], dst: &mut [u64]) {
    let nodes = 1usize << level;
    let (values, quotients) = factors.level(level);
    let (low, high) = dst.split_at_mut(src.len() / 2);
    for ((low, high), src) in
        low.chunks_exact_mut(nodes).zip(high.chunks_exact_mut(nodes)).zip(src.chunks_exact(2 * nodes))
    {
        let (plus, minus) = src.split_at(nodes);
        for j in 0..nodes {
            low[j] = reduce_once(plus[j] + minus[j], 2 * p);
            high[j] = shoup_lazy(plus[j] + 2 * p - minus[j], values[j], quotients[j], p);
        }
    }
}
