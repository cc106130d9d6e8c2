//! Arithmetic modulo one prime below 2^50, free of data-dependent branches.

use crate::{RingError, primes};

/// Primes must be smaller than 2^50, so that four times a residue still fits the 52-bit multiplier of AVX-512 IFMA.
pub const MAX_MODULUS_BITS: u32 = 50;

/// An odd prime p < 2^50 with the constants of Barrett's reduction. Residues are canonical: in `[0, p)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modulus {
    value: u64,
    bits: u32,
    /// floor(2^(2*bits+3) / p), for products of two residues.
    product_ratio: u64,
    /// floor(2^128 / p), for any 128-bit value; the high word also serves 64-bit values.
    wide_ratio: u128,
}

impl Modulus {
    /// Accepts an odd prime below 2^50.
    ///
    /// # Errors
    /// [`RingError::InvalidModulus`] for anything else.
    pub fn new(p: u64) -> Result<Self, RingError> {
        if p < 3 || p >> MAX_MODULUS_BITS != 0 || !primes::is_prime(p) {
            return Err(RingError::InvalidModulus { value: p });
        }
        let bits = u64::BITS - p.leading_zeros();
        Ok(Modulus {
            value: p,
            bits,
            product_ratio: ((1u128 << (2 * bits + 3)) / u128::from(p)) as u64,
            // p does not divide 2^128, so the floor of (2^128 - 1)/p is that of 2^128/p.
            wide_ratio: u128::MAX / u128::from(p),
        })
    }

    /// The prime itself.
    #[inline]
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Number of bits of the prime.
    #[inline]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// floor(2^128 / p).
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn wide_ratio(&self) -> u128 {
        self.wide_ratio
    }

    /// a + b.
    #[inline]
    pub fn add(&self, a: u64, b: u64) -> u64 {
        reduce_once(a + b, self.value)
    }

    /// a - b.
    #[inline]
    pub fn sub(&self, a: u64, b: u64) -> u64 {
        let difference = a.wrapping_sub(b);
        difference.min(difference.wrapping_add(self.value))
    }

    /// -a.
    #[inline]
    pub fn neg(&self, a: u64) -> u64 {
        self.sub(0, a)
    }

    /// a * b, by Barrett's method (Handbook of Applied Cryptography, 14.42, with three guard bits).
    #[inline]
    pub fn mul(&self, a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        let top = (product >> (self.bits - 2)) as u64;
        // Too small by one at most: the truncations cost less than 1/2 + 1/8 of a unit.
        let quotient = ((u128::from(top) * u128::from(self.product_ratio)) >> (self.bits + 5)) as u64;
        let remainder = (product as u64).wrapping_sub(quotient.wrapping_mul(self.value));
        reduce_once(remainder, self.value)
    }

    /// a^e. Its running time depends on the exponent, not on the base.
    pub fn pow(&self, a: u64, e: u64) -> u64 {
        let (mut base, mut exponent, mut result) = (a, e, 1);
        while exponent != 0 {
            if exponent & 1 == 1 {
                result = self.mul(result, base);
            }
            base = self.mul(base, base);
            exponent >>= 1;
        }
        result
    }

    /// The inverse of a, or `None` for zero.
    pub fn inv(&self, a: u64) -> Option<u64> {
        (a != 0).then(|| self.pow(a, self.value - 2))
    }

    /// x mod p for any 64-bit x.
    #[inline]
    pub fn reduce(&self, x: u64) -> u64 {
        let ratio = (self.wide_ratio >> 64) as u64;
        let quotient = ((u128::from(x) * u128::from(ratio)) >> 64) as u64;
        reduce_once(x.wrapping_sub(quotient.wrapping_mul(self.value)), self.value)
    }

    /// x mod p for any 128-bit x.
    #[inline]
    pub fn reduce_u128(&self, x: u128) -> u64 {
        let (x_low, x_high) = (u128::from(x as u64), x >> 64);
        let (ratio_low, ratio_high) = (u128::from(self.wide_ratio as u64), self.wide_ratio >> 64);
        // Low word of floor(x * wide_ratio / 2^128), all carries kept: too small by one at most.
        let inner = x_low * ratio_high + ((x_low * ratio_low) >> 64);
        let outer = x_high * ratio_low + u128::from(inner as u64);
        let quotient = (x_high * ratio_high + (inner >> 64) + (outer >> 64)) as u64;
        reduce_once((x as u64).wrapping_sub(quotient.wrapping_mul(self.value)), self.value)
    }

    /// The residue of a signed value.
    #[inline]
    pub fn from_i64(&self, x: i64) -> u64 {
        let magnitude = self.reduce(x.unsigned_abs());
        self.negate_if(magnitude, (x >> 63) as u64)
    }

    /// The residue of a signed value.
    #[inline]
    pub fn from_i128(&self, x: i128) -> u64 {
        let magnitude = self.reduce_u128(x.unsigned_abs());
        self.negate_if(magnitude, (x >> 127) as u64)
    }

    /// The representative of a residue in (-p/2, p/2].
    #[inline]
    pub fn center(&self, a: u64) -> i64 {
        let above_half = ((self.value / 2).wrapping_sub(a) as i64 >> 63) as u64;
        a.wrapping_sub(self.value & above_half) as i64
    }

    /// -a where `mask` is all ones, a where it is zero.
    #[inline]
    fn negate_if(&self, a: u64, mask: u64) -> u64 {
        a ^ ((a ^ self.neg(a)) & mask)
    }
}

/// x - p if x >= p, else x; for x < 2p < 2^63.
#[inline]
pub(crate) fn reduce_once(x: u64, p: u64) -> u64 {
    x.min(x.wrapping_sub(p))
}
