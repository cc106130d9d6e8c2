//! Modular arithmetic on vectors of eight words.

use crate::Modulus;
use crate::twiddles::Factor;
use std::arch::x86_64::*;

/// Reads a line of eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn load(words: &[u64; 8]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes read; no alignment is required.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Reads a line of eight signed words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn load_signed(words: &[i64; 8]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes read; no alignment is required.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Writes a line of eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn store(words: &mut [u64; 8], vector: __m512i) {
    // SAFETY: the reference covers the 64 bytes written; no alignment is required.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
}

/// The same word in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn splat(word: u64) -> __m512i {
    _mm512_set1_epi64(word as i64)
}

/// A constant factor (or eight of them) with its Shoup quotient floor(w * 2^52 / p).
#[derive(Clone, Copy)]
pub(super) struct VectorFactor {
    pub(super) value: __m512i,
    pub(super) quotient: __m512i,
}

impl VectorFactor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn splat(factor: &Factor) -> Self {
        VectorFactor { value: splat(factor.value), quotient: splat(factor.quotient >> 12) }
    }
}

/// The constants of one prime.
#[derive(Clone, Copy)]
pub(super) struct Prime {
    pub(super) p: __m512i,
    pub(super) p2: __m512i,
    /// 2^52 - p.
    minus_p: __m512i,
    mask: __m512i,
    zero: __m512i,
    /// floor(2^52 / p): the Shoup quotient of 1.
    one_quotient: __m512i,
    /// 2^52 mod p.
    fold: VectorFactor,
}

impl Prime {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn new(modulus: &Modulus) -> Self {
        const MASK: u64 = (1 << 52) - 1;
        let p = modulus.value();
        // floor(2^104 / p): its upper part is floor(2^52 / p), its low 52 bits floor((2^52 mod p) * 2^52 / p).
        let ratio = modulus.wide_ratio() >> 24;
        let one_quotient = (ratio >> 52) as u64;
        Prime {
            p: splat(p),
            p2: splat(2 * p),
            minus_p: splat((1 << 52) - p),
            mask: splat(MASK),
            zero: _mm512_setzero_si512(),
            one_quotient: splat(one_quotient),
            fold: VectorFactor { value: splat((1 << 52) - one_quotient * p), quotient: splat(ratio as u64 & MASK) },
        }
    }

    /// Clears the bits above the 52nd.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn masked(&self, x: __m512i) -> __m512i {
        _mm512_and_si512(x, self.mask)
    }

    /// x + y*w mod p, in `[x, x + 2p)`, unmasked, for any y.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn mul_add_lazy(&self, x: __m512i, y: __m512i, w: VectorFactor) -> __m512i {
        let quotient = _mm512_madd52hi_epu64(self.zero, y, w.quotient);
        _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(x, y, w.value), quotient, self.minus_p)
    }

    /// y*w mod p, below 2p, unmasked, for any y.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn mul_lazy(&self, y: __m512i, w: VectorFactor) -> __m512i {
        self.mul_add_lazy(self.zero, y, w)
    }

    /// y*w mod p, canonical, for any y.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn mul(&self, y: __m512i, w: VectorFactor) -> __m512i {
        self.subtract_p(self.masked(self.mul_lazy(y, w)))
    }

    /// x mod p, below 2p, unmasked, for any unmasked x.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce_lazy(&self, x: __m512i) -> __m512i {
        let quotient = _mm512_madd52hi_epu64(self.zero, x, self.one_quotient);
        _mm512_madd52lo_epu64(x, quotient, self.minus_p)
    }

    /// x mod p, canonical, for any unmasked x.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce(&self, x: __m512i) -> __m512i {
        self.subtract_p(self.masked(self.reduce_lazy(x)))
    }

    /// Takes masked x < 2p to `[0, p)`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn subtract_p(&self, x: __m512i) -> __m512i {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, self.p))
    }

    /// Takes masked x < 4p to `[0, 2p)`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn subtract_2p(&self, x: __m512i) -> __m512i {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, self.p2))
    }

    /// x + y for canonical x, y.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn add(&self, x: __m512i, y: __m512i) -> __m512i {
        self.subtract_p(_mm512_add_epi64(x, y))
    }

    /// x - y for canonical x, y.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn sub(&self, x: __m512i, y: __m512i) -> __m512i {
        let difference = _mm512_sub_epi64(x, y);
        _mm512_min_epu64(difference, _mm512_add_epi64(difference, self.p))
    }

    /// -x for canonical x.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn neg(&self, x: __m512i) -> __m512i {
        self.sub(self.zero, x)
    }
}

/// A sum of products: the value is low + 2^52 * high, each a 64-bit word.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub(super) low: __m512i,
    pub(super) high: __m512i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn from(low: __m512i) -> Self {
        Sum { low, high: _mm512_setzero_si512() }
    }

    /// Adds x*y for x, y < 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn add_product(&mut self, x: __m512i, y: __m512i) {
        self.low = _mm512_madd52lo_epu64(self.low, x, y);
        self.high = _mm512_madd52hi_epu64(self.high, x, y);
    }
}

/// Reduction of sums of products; `WIDE` if they may reach 2^104.
#[derive(Clone, Copy)]
pub(super) struct SumReducer<const WIDE: bool> {
    prime: Prime,
    /// 2^104 mod p.
    double_fold: VectorFactor,
}

/// Whether `count` products of factors below 2^50 and below p, and one more residue, may reach 2^104.
pub(super) fn sum_is_wide(count: usize, factor_bound: u64, p: u64) -> bool {
    count as u128 * u128::from(factor_bound) * u128::from(p) + u128::from(p) > 1 << 104
}

impl<const WIDE: bool> SumReducer<WIDE> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn new(modulus: &Modulus) -> Self {
        let fold = modulus.reduce(1 << 52);
        let double_fold = if WIDE { modulus.mul(fold, fold) } else { 0 };
        SumReducer { prime: Prime::new(modulus), double_fold: VectorFactor::splat(&Factor::new(modulus, double_fold)) }
    }

    /// The sum mod p, canonical. One common quotient serves all parts, since each contributes less than 2p.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce(&self, sum: Sum) -> __m512i {
        let prime = &self.prime;
        let high = _mm512_add_epi64(sum.high, _mm512_srli_epi64::<52>(sum.low));
        let below_4p = if WIDE {
            let top = prime.mul_lazy(_mm512_srli_epi64::<52>(high), self.double_fold);
            // At most 2p + p + 1: the top part is below 2^12.
            let upper = prime.masked(prime.mul_add_lazy(top, high, prime.fold));
            let lower = prime.masked(prime.reduce_lazy(sum.low));
            _mm512_add_epi64(prime.subtract_2p(upper), lower)
        } else {
            prime.masked(prime.mul_add_lazy(prime.reduce_lazy(sum.low), high, prime.fold))
        };
        prime.subtract_p(prime.subtract_2p(below_4p))
    }
}

/// Transposes an 8x8 matrix of words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
    // Pairs of words, then pairs of 128-bit lanes, then pairs of those.
    let mut pairs = rows;
    for i in 0..4 {
        pairs[i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
        pairs[i + 4] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
    }
    // pairs[i] holds the even columns of rows 2i and 2i+1, pairs[i + 4] the odd ones.
    let mut columns = rows;
    for odd in 0..2 {
        let [a, b, c, d] = [pairs[4 * odd], pairs[4 * odd + 1], pairs[4 * odd + 2], pairs[4 * odd + 3]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
        columns[odd] = _mm512_shuffle_i64x2::<0x88>(ab_even, cd_even);
        columns[odd + 4] = _mm512_shuffle_i64x2::<0xdd>(ab_even, cd_even);
        columns[odd + 2] = _mm512_shuffle_i64x2::<0x88>(ab_odd, cd_odd);
        columns[odd + 6] = _mm512_shuffle_i64x2::<0xdd>(ab_odd, cd_odd);
    }
    columns
}
