//! Samplers for secrets and errors; they run in constant time.

use crate::RingError;
use crate::backend::Backend;
pub use crate::keystream::Keystream;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// Standard deviation of the error distribution, as in the Homomorphic Encryption Standard.
pub const SIGMA: f64 = 3.19;

/// A generator seeded with 256 bits from the operating system.
///
/// # Errors
/// [`RingError::OsRandom`] if the system's generator fails.
pub fn os_rng() -> Result<Keystream, RingError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *seed).map_err(|error| RingError::OsRandom { reason: error.to_string() })?;
    Ok(Keystream::new(&seed, 0))
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
/// Each value inverts the cumulative distribution of |X| at a 127-bit random number, by a scan of the whole table or, with
/// AVX-512, a search without branches and look-ups in memory, and takes a random sign. The table ends where the tail falls below 2^-127, beyond 13 sigma. The lower half of a number is drawn only where the
/// upper one is that of a step of the table, which decides nothing then: once in 2^58 values.
pub fn gaussian(n: usize, rng: &mut impl CryptoRng) -> Zeroizing<Vec<i64>> {
    let mut values = Zeroizing::new(vec![0i64; n]);
    let mut bytes = Zeroizing::new([0u8; 8 * BATCH]);
    let backend = Backend::best();
    let (whole, rest) = values.as_chunks_mut::<BATCH>();
    for batch in whole {
        rng.fill_bytes(&mut *bytes);
        gaussian_of(backend, &bytes, batch, rng);
    }
    if !rest.is_empty() {
        let mut batch = Zeroizing::new([0i64; BATCH]);
        rng.fill_bytes(&mut *bytes);
        gaussian_of(backend, &bytes, &mut batch, rng);
        rest.copy_from_slice(&batch[..rest.len()]);
    }
    values
}

/// The values at numbers with these upper halves.
fn gaussian_of(backend: Backend, bytes: &[u8; 8 * BATCH], out: &mut [i64; BATCH], rng: &mut impl CryptoRng) {
    let mut undecided = 0;
    match backend {
        Backend::Portable => gaussian_batch(bytes, out, &mut undecided),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2(token) => crate::avx2::sampler::gaussian_batch(token, bytes, out, &mut undecided),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512(token) => crate::avx512::sampler::gaussian_batch(token, bytes, out, &mut undecided),
    }
    if undecided != 0 {
        whole_numbers(bytes, out, rng);
    }
}

/// Values of one batch.
pub(crate) const BATCH: usize = 64;
/// Values whose counts stay in registers: the compiler makes vectors of them.
const LANES: usize = 8;
/// All bits but the sign's.
pub(crate) const POSITION: u64 = u64::MAX >> 1;

/// `BATCH` values, each from 8 bytes: the low 63 bits are the upper ones of the number that chooses the magnitude, the top bit is
/// the sign. `undecided` becomes nonzero if the upper bits of one are those of a step. Compiled for AVX2 too.
#[inline(always)]
pub(crate) fn gaussian_batch(bytes: &[u8; 8 * BATCH], out: &mut [i64; BATCH], undecided: &mut u64) {
    // Not wiped: they are to stay in registers.
    let mut equal = [0u64; LANES];
    let words = bytes.as_chunks::<8>().0.as_chunks::<LANES>().0;
    for (words, values) in words.iter().zip(out.as_chunks_mut::<LANES>().0) {
        let words = words.map(u64::from_le_bytes);
        // One more for each step at or below the position.
        let mut magnitudes = [0u64; LANES];
        for step in UPPER {
            for ((magnitude, equal), &word) in magnitudes.iter_mut().zip(equal.iter_mut()).zip(words.iter()) {
                // Below 2^63: as signed words they compare alike, which AVX2 can.
                let position = word & POSITION;
                *magnitude += u64::from(position as i64 >= step as i64);
                *equal |= u64::from(position == step);
            }
        }
        for ((value, &magnitude), &word) in values.iter_mut().zip(magnitudes.iter()).zip(words.iter()) {
            *value = signed(magnitude as i64, word);
        }
    }
    *undecided = equal.iter().fold(0, |any, equal| any | equal);
}

/// The magnitude with the sign that the top bit of the word gives.
#[inline(always)]
fn signed(magnitude: i64, word: u64) -> i64 {
    let sign = -((word >> 63) as i64);
    (magnitude ^ sign) - sign
}

/// The values of a batch of which some are not decided by the upper halves of their numbers: the lower halves are drawn for all.
#[cold]
fn whole_numbers(bytes: &[u8; 8 * BATCH], out: &mut [i64; BATCH], rng: &mut impl CryptoRng) {
    for (value, upper) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        let (upper, mut lower) = (u64::from_le_bytes(*upper), Zeroizing::new([0u8; 8]));
        rng.fill_bytes(&mut *lower);
        let position = u128::from(upper & POSITION) << 64 | u128::from(u64::from_le_bytes(*lower));
        let magnitude: i64 = CUMULATIVE.iter().map(|&step| i64::from(position >= step)).sum();
        *value = signed(magnitude, upper);
    }
}

/// The upper halves of the steps, up to the first of those that have the largest one.
pub(crate) const UPPER: [u64; 30] = upper_halves();

const fn upper_halves() -> [u64; 30] {
    let mut halves = [POSITION; 30];
    let mut k = 0;
    while k < halves.len() - 1 {
        halves[k] = (CUMULATIVE[k] >> 64) as u64;
        assert!(halves[k] < POSITION && (k == 0 || halves[k] > halves[k - 1]), "an upper half for each step");
        k += 1;
    }
    assert!((CUMULATIVE[k] >> 64) as u64 == POSITION, "the first of the steps beyond");
    halves
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use rand_core::Rng;

    #[test]
    fn every_kernel_gives_the_same_values() {
        let mut rng = Keystream::new(&[3; 32], 0);
        let near = |i: usize, word: u64| match i % 4 {
            0 => word,
            k => UPPER[word as usize % UPPER.len()].wrapping_add(k as u64).wrapping_sub(2) | word & !POSITION,
        };
        for round in 0..200 {
            // With steps of the table among the numbers, and without.
            let word = |i: usize, rng: &mut Keystream| near(if round % 2 == 0 { 4 * i } else { i }, rng.next_u64());
            let words: Vec<u8> = (0..BATCH).flat_map(|i| word(i, &mut rng).to_le_bytes()).collect();
            let bytes: &[u8; 8 * BATCH] = words.first_chunk().unwrap();
            let lower = || Keystream::new(&[4; 32], round);
            let of = |backend| {
                let mut out = [0; BATCH];
                gaussian_of(backend, bytes, &mut out, &mut lower());
                out
            };
            let expected = of(Backend::Portable);
            for kernel in Kernel::all_available() {
                assert_eq!(of(Backend::of(kernel)), expected, "{kernel}");
            }
        }
    }
}
