//! Elementwise operations on one limb.

use super::ntt::shoup_lazy;
use crate::Modulus;
use crate::modulus::reduce_once;
use crate::twiddles::Factor;

pub(crate) fn add_assign(p: &Modulus, a: &mut [u64], b: &[u64]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = p.add(*a, b);
    }
}

pub(crate) fn sub_assign(p: &Modulus, a: &mut [u64], b: &[u64]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = p.sub(*a, b);
    }
}

pub(crate) fn neg_assign(p: &Modulus, a: &mut [u64]) {
    for a in a {
        *a = p.neg(*a);
    }
}

pub(crate) fn mul_assign(p: &Modulus, a: &mut [u64], b: &[u64]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = p.mul(*a, b);
    }
}

pub(crate) fn mul_scalar_assign(p: &Modulus, a: &mut [u64], s: u64) {
    let s = Factor::new(p, s);
    for a in a {
        *a = mul_factor(p, *a, &s);
    }
}

pub(crate) fn mul_scalar(p: &Modulus, out: &mut [u64], a: &[u64], s: u64) {
    let s = Factor::new(p, s);
    for (out, &a) in out.iter_mut().zip(a) {
        *out = mul_factor(p, a, &s);
    }
}

pub(crate) fn mul_scalar_add_assign(p: &Modulus, acc: &mut [u64], a: &[u64], s: u64) {
    let s = Factor::new(p, s);
    for (acc, &a) in acc.iter_mut().zip(a) {
        *acc = p.add(*acc, mul_factor(p, a, &s));
    }
}

/// out = (a - out) * s.
pub(crate) fn rsub_mul_scalar_assign(p: &Modulus, out: &mut [u64], a: &[u64], s: u64) {
    let s = Factor::new(p, s);
    for (out, &a) in out.iter_mut().zip(a) {
        *out = mul_factor(p, p.sub(a, *out), &s);
    }
}

/// acc[i] += sum_k x_k[i] * y_k[i], reduced once: products stay below 2^100, so 2^28 of them fit.
pub(crate) fn dot_add_assign(p: &Modulus, acc: &mut [u64], pairs: &[(&[u64], &[u64])]) {
    const BLOCK: usize = 64;
    let mut start = 0;
    for acc in acc.chunks_mut(BLOCK) {
        let mut sums = [0u128; BLOCK];
        for (sum, &acc) in sums.iter_mut().zip(acc.iter()) {
            *sum = u128::from(acc);
        }
        for (x, y) in pairs {
            let range = start..start + acc.len();
            for ((sum, &x), &y) in sums.iter_mut().zip(&x[range.clone()]).zip(&y[range]) {
                *sum += u128::from(x) * u128::from(y);
            }
        }
        for (acc, &sum) in acc.iter_mut().zip(&sums) {
            *acc = p.reduce_u128(sum);
        }
        start += BLOCK;
    }
}

pub(crate) fn from_signed(p: &Modulus, out: &mut [u64], values: &[i64]) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = p.from_i64(value);
    }
}

pub(crate) fn lift_centered(p: &Modulus, out: &mut [u64], src: &[u64], from: &Modulus) {
    for (out, &src) in out.iter_mut().zip(src) {
        *out = p.from_i64(from.center(src));
    }
}

/// x * s, canonical.
#[inline]
fn mul_factor(p: &Modulus, x: u64, s: &Factor) -> u64 {
    reduce_once(shoup_lazy(x, s.value, s.quotient, p.value()), p.value())
}
