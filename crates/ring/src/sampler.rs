//! Samplers for secrets and errors; they run in constant time.

use crate::RingError;
use crate::backend::Backend;
pub use chacha20::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use zeroize::Zeroizing;

/// Standard deviation of the error distribution, as in the Homomorphic Encryption Standard.
pub const SIGMA: f64 = 3.19;

/// A ChaCha20 generator seeded with 256 bits from the operating system. It wipes its state on drop.
///
/// # Errors
/// [`RingError::OsRandom`] if the system's generator fails.
pub fn os_rng() -> Result<ChaCha20Rng, RingError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *seed).map_err(|error| RingError::OsRandom { reason: error.to_string() })?;
    Ok(ChaCha20Rng::from_seed(*seed))
}

/// n independent values, uniform in {-1, 0, 1}; exactly uniform for a uniform generator.
///
/// Bytes below 243 = 3^5 give five ternary digits each; other bytes are skipped, which tells nothing about the digits.
pub fn ternary(n: usize, rng: &mut impl CryptoRng) -> Zeroizing<Vec<i64>> {
    const DIGITS: usize = 5;
    let mut values = Zeroizing::new(vec![0i64; n]);
    let mut bytes = Zeroizing::new([0u8; 64]);
    let mut filled = 0;
    while filled < n {
        rng.fill_bytes(&mut *bytes);
        for &byte in bytes.iter().filter(|&&byte| byte < 243) {
            let mut rest = byte;
            for value in values.iter_mut().skip(filled).take(DIGITS) {
                *value = i64::from(rest % 3) - 1;
                rest /= 3;
                filled += 1;
            }
        }
    }
    values
}

/// n independent values from the discrete Gaussian on the integers: P(x) proportional to exp(-x^2 / (2 [`SIGMA`]^2)).
///
/// Each value inverts the cumulative distribution of |X| at a 127-bit random number by a scan of the whole table, and takes
/// a random sign. The table ends where the tail falls below 2^-127, beyond 13 sigma.
pub fn gaussian(n: usize, rng: &mut impl CryptoRng) -> Zeroizing<Vec<i64>> {
    let mut values = Zeroizing::new(vec![0i64; n]);
    let mut bytes = Zeroizing::new([0u8; 16 * BATCH]);
    let backend = Backend::best();
    for batch in values.chunks_mut(BATCH) {
        rng.fill_bytes(&mut *bytes);
        match backend {
            Backend::Portable => gaussian_batch(&bytes, batch),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => crate::avx2::sampler::gaussian_batch(token, &bytes, batch),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => crate::avx512::sampler::gaussian_batch(token, &bytes, batch),
        }
    }
    values
}

/// Values of one batch: the compiler makes vectors of them.
pub(crate) const BATCH: usize = 64;

/// At most `BATCH` values, each from 16 bytes: the low 127 bits choose the magnitude, the top bit the sign. Compiled once for each kernel.
#[inline(always)]
pub(crate) fn gaussian_batch(bytes: &[u8; 16 * BATCH], out: &mut [i64]) {
    let (mut low, mut high) = (Zeroizing::new([0u64; BATCH]), Zeroizing::new([0u64; BATCH]));
    for ((low, high), word) in low.iter_mut().zip(high.iter_mut()).zip(bytes.as_chunks::<16>().0) {
        let word = u128::from_le_bytes(*word);
        (*low, *high) = (word as u64, (word >> 64) as u64);
    }
    // One less for each bound above the position.
    let mut magnitudes = Zeroizing::new([CUMULATIVE.len() as u64; BATCH]);
    for bound in CUMULATIVE {
        let (bound_low, bound_high) = (bound as u64, (bound >> 64) as u64);
        for ((magnitude, &low), &high) in magnitudes.iter_mut().zip(low.iter()).zip(high.iter()) {
            // The high word of position - bound, negative exactly if position < bound: both are below 2^127.
            let borrow = u64::from(low < bound_low);
            *magnitude -= (high & (u64::MAX >> 1)).wrapping_sub(bound_high).wrapping_sub(borrow) >> 63;
        }
    }
    for ((value, &magnitude), &high) in out.iter_mut().zip(magnitudes.iter()).zip(high.iter()) {
        let sign = -((high >> 63) as i64);
        *value = (magnitude as i64 ^ sign) - sign;
    }
}

/// floor(2^127 * P(|X| <= k)) for k = 0, 1, ..., for the discrete Gaussian with sigma = 3.19.
///
/// Source: P(|X| <= k) = sum of exp(-x^2/(2 sigma^2)) over |x| <= k, divided by that over all x, computed with 120 decimal
/// digits; a test repeats it in exact arithmetic.
const CUMULATIVE: [u128; 42] = [
    0x1001f9a1b2ca94687d7697c50b544918,
    0x2e7cf3ef07836cb5d9a4bfe5b8e648af,
    0x48ca7e85d834a579d04638a68050d8e3,
    0x5d5d51778f760880a29c1adf90486271,
    0x6bf35598550421b0387996d1bd8c9679,
    0x7552dc90807bbed5d4a4f261c1aa7a59,
    0x7ac8820561a4c974da6f4bcccb8d91f2,
    0x7daa6596524b7ffd3881f3dd327f9af2,
    0x7f0b8114bba4ecb935fe043d2ca59820,
    0x7fa4a9fc5ea574e8bb2c9fb7c16c975f,
    0x7fe0e1077aef3919f507a817a368a318,
    0x7ff6563f810f15d0106026e446869208,
    0x7ffd4490999bc594d4bc791834114abf,
    0x7fff4c0804cd386da57bc4e195062c8b,
    0x7fffd5e18e7fda1837e0216daa52c40a,
    0x7ffff709c679c2edfe88363fd122c605,
    0x7ffffe445c790f6bec4bb4df649a4aaa,
    0x7fffffb20f7aa54a7f53d25183ccfb5d,
    0x7ffffff3903d235d4193489be593eef1,
    0x7ffffffe32b06d1d7640635d5edf8b84,
    0x7fffffffc35125cc6a62eb39239da216,
    0x7ffffffff8c11764bfb5d88ae22bc86e,
    0x7fffffffff36fe33490f4840a7f430af,
    0x7fffffffffec3bf7fe6400c65e8d04a5,
    0x7ffffffffffe3c8b355c24d8c3787653,
    0x7fffffffffffdb75416822942514f504,
    0x7ffffffffffffd511eaab0abe823585c,
    0x7fffffffffffffd240aab06b663a0bff,
    0x7ffffffffffffffd3c8cd6ab74185a59,
    0x7fffffffffffffffd93dfabe84828443,
    0x7ffffffffffffffffe13098493f65029,
    0x7fffffffffffffffffe9ca283a36bd57,
    0x7fffffffffffffffffff17b436680fb7,
    0x7ffffffffffffffffffff764fd243dfe,
    0x7fffffffffffffffffffffb6005f3ce9,
    0x7ffffffffffffffffffffffdbf10c282,
    0x7ffffffffffffffffffffffff011c0a5,
    0x7fffffffffffffffffffffffff99e732,
    0x7ffffffffffffffffffffffffffdaec8,
    0x7ffffffffffffffffffffffffffff3cb,
    0x7fffffffffffffffffffffffffffffc5,
    0x7fffffffffffffffffffffffffffffff,
];
