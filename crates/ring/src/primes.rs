//! Finding the NTT-friendly primes of a ring.

use crate::RingError;
use crate::modulus::MAX_MODULUS_BITS;

/// Smallest and largest supported log2 of the ring degree.
pub const LOG_N_RANGE: std::ops::RangeInclusive<u32> = 3..=17;

/// Bases that make the Miller-Rabin test exact for all 64-bit integers (Sorenson and Webster, 2015).
const WITNESSES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];

/// Whether n is prime; exact for every 64-bit n.
pub fn is_prime(n: u64) -> bool {
    if n < 2 {
        return false;
    }
    for witness in WITNESSES {
        if n.is_multiple_of(witness) {
            return n == witness;
        }
    }
    let trailing = (n - 1).trailing_zeros();
    let odd = (n - 1) >> trailing;
    WITNESSES.iter().all(|&witness| {
        let mut power = pow_mod(witness, odd, n);
        if power == 1 || power == n - 1 {
            return true;
        }
        (1..trailing).any(|_| {
            power = mul_mod(power, power, n);
            power == n - 1
        })
    })
}

/// The `count` largest primes below 2^bits that are 1 modulo 2^(log_n+1), in falling order, without those in `avoid`.
///
/// # Errors
/// [`RingError::UnsupportedDegree`], [`RingError::BitsOutOfRange`] (4 to 50 bits), [`RingError::NotEnoughPrimes`].
pub fn find(log_n: u32, bits: u32, count: usize, avoid: &[u64]) -> Result<Vec<u64>, RingError> {
    if !LOG_N_RANGE.contains(&log_n) {
        return Err(RingError::UnsupportedDegree { log_n });
    }
    if !(4..=MAX_MODULUS_BITS).contains(&bits) {
        return Err(RingError::BitsOutOfRange { bits, min: 4, max: MAX_MODULUS_BITS });
    }
    let step = 1u64 << (log_n + 1);
    let largest = ((1u64 << bits) - 1) / step;
    let found: Vec<u64> = (1..=largest)
        .rev()
        .map(|k| k * step + 1)
        .filter(|&candidate| candidate >> bits == 0 && !avoid.contains(&candidate) && is_prime(candidate))
        .take(count)
        .collect();
    if found.len() < count {
        return Err(RingError::NotEnoughPrimes { log_n, bits, wanted: count, found: found.len() });
    }
    Ok(found)
}

fn mul_mod(a: u64, b: u64, n: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(n)) as u64
}

fn pow_mod(base: u64, exponent: u64, n: u64) -> u64 {
    let (mut base, mut exponent, mut result) = (base % n, exponent, 1);
    while exponent != 0 {
        if exponent & 1 == 1 {
            result = mul_mod(result, base, n);
        }
        base = mul_mod(base, base, n);
        exponent >>= 1;
    }
    result
}
