//! Modular arithmetic on vectors of four f64.
//!
//! All values are integers; bounds are on magnitudes, and every product of this module is of the form `|y| <= 2^52` times
//! `|w| < 2^50`. "Nearest integer" means adding and subtracting [`ROUND`], for values up to 2^51.

use crate::Modulus;
use crate::ntt_table::MAX_DOT_PAIRS;
use std::arch::x86_64::*;

/// Words of a vector.
pub(super) type Line = [u64; 4];

/// 2^52: its sum with an integer below 2^52 has that integer as its low bits.
const WORD: f64 = (1u64 << 52) as f64;
/// 3 * 2^51: f64 near it, up to 2^51 away, are exactly the integers.
const ROUND: f64 = (3u64 << 51) as f64;

/// Reads a line of four words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load(words: &Line) -> __m256i {
    // SAFETY: the reference covers the 32 bytes read; no alignment is required.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Reads a line of four signed words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load_signed(words: &[i64; 4]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes read; no alignment is required.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Writes a line of four words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store(words: &mut Line, vector: __m256i) {
    // SAFETY: the reference covers the 32 bytes written; no alignment is required.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) }
}

/// Reads four f64 from their bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load_reals(bits: &Line) -> __m256d {
    _mm256_castsi256_pd(load(bits))
}

/// Writes the bits of four f64.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store_reals(bits: &mut Line, vector: __m256d) {
    store(bits, _mm256_castpd_si256(vector));
}

/// The same word in all lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn splat(word: u64) -> __m256i {
    _mm256_set1_epi64x(word as i64)
}

/// Words below 2^52 as f64.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn to_reals(words: __m256i) -> __m256d {
    let shifted = _mm256_or_si256(words, splat(WORD.to_bits()));
    _mm256_sub_pd(_mm256_castsi256_pd(shifted), _mm256_set1_pd(WORD))
}

/// The low 32 bits of words as f64.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn low_to_reals(words: __m256i) -> __m256d {
    let shifted = _mm256_blend_epi32::<0b1010_1010>(words, splat(WORD.to_bits()));
    _mm256_sub_pd(_mm256_castsi256_pd(shifted), _mm256_set1_pd(WORD))
}

/// The high 32 bits of words as f64.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn high_to_reals(words: __m256i) -> __m256d {
    to_reals(_mm256_srli_epi64::<32>(words))
}

/// f64 in `[0, 2^52)` as words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn to_words(reals: __m256d) -> __m256i {
    let shifted = _mm256_castpd_si256(_mm256_add_pd(reals, _mm256_set1_pd(WORD)));
    _mm256_xor_si256(shifted, splat(WORD.to_bits()))
}

/// Reads a line of words below 2^52 as f64.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load_words(words: &Line) -> __m256d {
    to_reals(load(words))
}

/// Writes f64 in `[0, 2^52)` as words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store_words(words: &mut Line, reals: __m256d) {
    store(words, to_words(reals));
}

/// x in the lanes where it is not negative as a signed word, else y.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn unless_negative(x: __m256i, y: __m256i) -> __m256i {
    let (x, y) = (_mm256_castsi256_pd(x), _mm256_castsi256_pd(y));
    _mm256_castpd_si256(_mm256_blendv_pd(x, y, x))
}

/// A constant factor w with |w| < p/2, and w/p rounded: relative error at most 2^-53.
#[derive(Clone, Copy)]
pub(super) struct VectorFactor {
    pub(super) value: __m256d,
    pub(super) quotient: __m256d,
}

/// The representative of w in (-p/2, p/2), and its quotient by p, rounded.
pub(super) fn centered_factor(modulus: &Modulus, w: u64) -> (f64, f64) {
    let value = modulus.center(w) as f64;
    (value, value / modulus.value() as f64)
}

impl VectorFactor {
    /// The residue w in all lanes.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn splat(modulus: &Modulus, w: u64) -> Self {
        let (value, quotient) = centered_factor(modulus, w);
        VectorFactor { value: _mm256_set1_pd(value), quotient: _mm256_set1_pd(quotient) }
    }
}

/// The constants of one prime, at least 17.
#[derive(Clone, Copy)]
pub(super) struct Prime {
    p: __m256d,
    /// 1/p, rounded: relative error at most 2^-53.
    inverse: __m256d,
    word: __m256i,
}

impl Prime {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn new(modulus: &Modulus) -> Self {
        let p = modulus.value() as f64;
        Prime { p: _mm256_set1_pd(p), inverse: _mm256_set1_pd(1.0 / p), word: splat(modulus.value()) }
    }

    /// y*w mod p for |y| <= 2^52, at most p * (1/2 + |y| * 2^-54).
    ///
    /// The factor |w|/p is below 1/2, so y*w/p is below 2^51 and the quotient q is an integer with |q - y*w/p| <=
    /// 1/2 + |y| * 1/2 * 2^-53 (one rounding, one rounded constant). With h = y*w + e, |e| <= 2^48 (half a unit of a number below
    /// 2^102), h - q*p is an integer below 2^48 + p <= 2^51, so the second FMA is exact; and so is the last sum.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn mul_lazy(&self, y: __m256d, w: VectorFactor) -> __m256d {
        let high = _mm256_mul_pd(y, w.value);
        let low = _mm256_fmsub_pd(y, w.value, high);
        let round = _mm256_set1_pd(ROUND);
        let quotient = _mm256_sub_pd(_mm256_fmadd_pd(y, w.quotient, round), round);
        _mm256_add_pd(_mm256_fnmadd_pd(quotient, self.p, high), low)
    }

    /// y*w mod p in `[0, p)` for |y| <= 2^52: the lazy product is at most 3p/4.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn mul(&self, y: __m256d, w: VectorFactor) -> __m256d {
        self.add_p_if_negative(self.mul_lazy(y, w))
    }

    /// x*y mod p for x, y in `[0, p)`, at most 3p/4 + 1.
    ///
    /// The quotient is rounded three times: h, 1/p, and to an integer, so it is off by at most 1/2 + 2^-52 * p * (1 + 2^-53) <
    /// 3/4 + 2^-53. The rest is as in `mul_lazy`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn mul_pair_lazy(&self, x: __m256d, y: __m256d) -> __m256d {
        let high = _mm256_mul_pd(x, y);
        let low = _mm256_fmsub_pd(x, y, high);
        let round = _mm256_set1_pd(ROUND);
        let quotient = _mm256_sub_pd(_mm256_fmadd_pd(high, self.inverse, round), round);
        _mm256_add_pd(_mm256_fnmadd_pd(quotient, self.p, high), low)
    }

    /// x*y mod p in `[0, p)` for x, y in `[0, p)`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn mul_pair(&self, x: __m256d, y: __m256d) -> __m256d {
        self.add_p_if_negative(self.mul_pair_lazy(x, y))
    }

    /// x mod p for |x| <= 2^53, at most p/2 + 1: the quotient is off by at most 1/2 + |x|/p * 2^-53.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn reduce_lazy(&self, x: __m256d) -> __m256d {
        let round = _mm256_set1_pd(ROUND);
        let quotient = _mm256_sub_pd(_mm256_fmadd_pd(x, self.inverse, round), round);
        _mm256_fnmadd_pd(quotient, self.p, x)
    }

    /// x mod p in `[0, p)` for |x| <= 2^53.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn reduce(&self, x: __m256d) -> __m256d {
        self.add_p_if_negative(self.reduce_lazy(x))
    }

    /// Takes |x| < p to `[0, p)`; -0.0 is not negative.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add_p_if_negative(&self, x: __m256d) -> __m256d {
        let negative = _mm256_cmp_pd::<_CMP_LT_OQ>(x, _mm256_setzero_pd());
        _mm256_add_pd(x, _mm256_and_pd(negative, self.p))
    }

    /// x + y for canonical words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn add(&self, x: __m256i, y: __m256i) -> __m256i {
        let sum = _mm256_add_epi64(x, y);
        unless_negative(_mm256_sub_epi64(sum, self.word), sum)
    }

    /// x - y for canonical words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn sub(&self, x: __m256i, y: __m256i) -> __m256i {
        let difference = _mm256_sub_epi64(x, y);
        unless_negative(difference, _mm256_add_epi64(difference, self.word))
    }

    /// -x for canonical words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn neg(&self, x: __m256i) -> __m256i {
        self.sub(_mm256_setzero_si256(), x)
    }
}

/// Most products of one [`Sum`].
pub(super) const MAX_PRODUCTS: usize = MAX_DOT_PAIRS;
const _: () = assert!(MAX_PRODUCTS <= 1024, "the bounds of sums are for 1024 products");
/// 2^103: f64 from there to 2^104 are the multiples of 2^51.
const HIGH: f64 = (1u128 << 103) as f64;
/// Added to the low part, so that it is never negative: 1024 products and a residue contribute at most 2^60 + 2^50.
const LOW_BIAS: u64 = 1 << 61;

/// A sum of products below 2^100: the value is (low - `LOW_BIAS`) + 2^51 * high, once all expected products are in.
///
/// `HIGH` + x*y rounds x*y to a multiple of 2^51; what is left is at most 2^50. Both parts are added up as the bits of f64 with a
/// fixed exponent (after Emmart, Zheng, Weems, "Faster modular exponentiation using double precision floating point arithmetic
/// on the GPU", ARITH 2018, here with rounding to nearest); the bits of the exponents are taken off in advance.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    low: __m256i,
    high: __m256i,
}

impl Sum {
    /// The start of a sum of `start` < 2^50 and exactly `count` products, at most `MAX_PRODUCTS`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn new(start: __m256i, count: usize) -> Self {
        let without = |bits: u64| 0u64.wrapping_sub(bits.wrapping_mul(count as u64));
        let low = splat(without(ROUND.to_bits()).wrapping_add(LOW_BIAS));
        Sum { low: _mm256_add_epi64(low, start), high: splat(without(HIGH.to_bits())) }
    }

    /// Adds x*y for x, y in `[0, 2^50)`. All steps but the first are exact: `HIGH` + `ROUND` and the difference are multiples of
    /// 2^51 below 2^104, and the last result is an integer within 2^50 of `ROUND`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn add_product(&mut self, x: __m256d, y: __m256d) {
        let high = _mm256_fmadd_pd(x, y, _mm256_set1_pd(HIGH));
        let low = _mm256_fmadd_pd(x, y, _mm256_sub_pd(_mm256_set1_pd(HIGH + ROUND), high));
        self.high = _mm256_add_epi64(self.high, _mm256_castpd_si256(high));
        self.low = _mm256_add_epi64(self.low, _mm256_castpd_si256(low));
    }
}

/// Reduction of sums of products; `WIDE` if they may reach 2^102, and so their high part 2^52.
#[derive(Clone, Copy)]
pub(super) struct SumReducer<const WIDE: bool> {
    prime: Prime,
    /// 2^32, 2^51 and 2^83 mod p.
    powers: [VectorFactor; 3],
    /// -`LOW_BIAS` mod p, centred.
    bias: __m256d,
}

/// Whether `count` products of factors below 2^50 and below p may reach 2^102.
pub(super) fn sum_is_wide(count: usize, factor_bound: u64, p: u64) -> bool {
    count as u128 * u128::from(factor_bound) * u128::from(p) > 1 << 102
}

impl<const WIDE: bool> SumReducer<WIDE> {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn new(modulus: &Modulus) -> Self {
        let bias = modulus.center(modulus.neg(modulus.reduce(LOW_BIAS))) as f64;
        SumReducer {
            prime: Prime::new(modulus),
            powers: [32, 51, 83].map(|e| VectorFactor::splat(modulus, modulus.reduce_u128(1 << e))),
            bias: _mm256_set1_pd(bias),
        }
    }

    /// The sum mod p, in `[0, p)`: the parts add up to at most 3 * 3p/4 + p/2 + 2^32 < 2^53 before the last step.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn reduce(&self, sum: Sum) -> __m256d {
        let (prime, [power32, power51, power83]) = (&self.prime, self.powers);
        let low = _mm256_add_pd(prime.mul_lazy(high_to_reals(sum.low), power32), low_to_reals(sum.low));
        let high = if WIDE {
            let top = prime.mul_lazy(high_to_reals(sum.high), power83);
            _mm256_add_pd(top, prime.mul_lazy(low_to_reals(sum.high), power51))
        } else {
            prime.mul_lazy(to_reals(sum.high), power51)
        };
        prime.reduce(_mm256_add_pd(_mm256_add_pd(low, self.bias), high))
    }
}

/// Transposes a 4x4 matrix of words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn transpose([a, b, c, d]: [__m256d; 4]) -> [__m256d; 4] {
    let (ab_even, ab_odd) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
    let (cd_even, cd_odd) = (_mm256_unpacklo_pd(c, d), _mm256_unpackhi_pd(c, d));
    [
        _mm256_permute2f128_pd::<0x20>(ab_even, cd_even),
        _mm256_permute2f128_pd::<0x20>(ab_odd, cd_odd),
        _mm256_permute2f128_pd::<0x31>(ab_even, cd_even),
        _mm256_permute2f128_pd::<0x31>(ab_odd, cd_odd),
    ]
}
