//! The number theoretic transform of the AVX2 kernel: Stockham passes of radix 64 down to 8, in f64.
//!
//! Its structure is that of the AVX-512 kernel, with four nodes to a vector: the first pass of the forward transform splits into
//! halves and does the two levels with fewer than four nodes at once, with a transpose at the store. In all later passes four
//! neighbouring nodes share a vector, with as many twiddles. Most of these are double: two rounds of radix 8 or 4 with a small
//! block on the stack between, so that the data cross the caches less often. The last pass reads and writes the same places, so
//! it runs in place if the count of passes asks for it. The inverse transform is the same backwards. Between the first and the
//! last pass the buffers hold the bits of f64.
//!
//! Bounds: factors of products must stay within 2^52, and sums within 2^53. In units of p, a product of y is at most 1/2 + b/16
//! for |y| <= b <= 4 (p < 2^50, see `Prime::mul_lazy`). A forward level adds that to the bound of x. The first pass starts at 1
//! and ends at 2.8; later rounds first take the x of their first level to 1/2 (see `Prime::reduce_lazy`), and so go over 1.2 and
//! 1.8 to at most 2.5. `LAZY` is for primes below 2^48, where the limit is 16 and a product at most 1/2 + b/64: without any
//! reduction 17 levels reach 11. For the inverse see `inverse_butterflies`.

use super::arith::{
    Line, Prime, VectorFactor, centered_factor, load_reals, load_words, store_reals, store_words, to_reals, to_words,
    transpose,
};
use super::entry_points;
use crate::Modulus;
use crate::schedule;
use crate::twiddles::{Factors, Twiddles};
use std::arch::x86_64::*;

/// Smaller transforms are left to the portable kernel.
pub(crate) const MIN_LOG_N: u32 = 6;

fn is_lazy(p: &Modulus) -> bool {
    p.bits() <= 48
}

/// Reorders the twiddles for this kernel, and replaces them and their quotients by the bits of centred f64 values.
pub(crate) fn arrange(p: &Modulus, twiddles: &mut Twiddles, log_n: u32) {
    let rounds = schedule::passes(log_n - 3).flat_map(|(first, second)| [first, second]);
    schedule::arrange::<4>(twiddles, rounds);
    for factors in &mut twiddles.halves {
        for (value, quotient) in factors.values.iter_mut().zip(factors.quotients.iter_mut()) {
            let (w, w_over_p) = centered_factor(p, *value);
            (*value, *quotient) = (w.to_bits(), w_over_p.to_bits());
        }
    }
}

entry_points! {
    /// Coefficients in natural order to evaluations in orbit order. `scratch` is as long as `a`, at least 2^MIN_LOG_N.
    fn forward(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
        if is_lazy(p) {
            forward_passes::<true>(p, twiddles, a, scratch);
        } else {
            forward_passes::<false>(p, twiddles, a, scratch);
        }
    }

    /// Evaluations in orbit order to coefficients in natural order. `scratch` is as long as `a`, at least 2^MIN_LOG_N.
    fn inverse(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
        inverse_passes(p, twiddles, a, scratch);
    }
}

#[target_feature(enable = "avx2,fma")]
fn forward_passes<const LAZY: bool>(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
    let prime = Prime::new(p);
    let (a, scratch) = (a.as_chunks_mut().0, scratch.as_chunks_mut().0);
    let half = a.len() / 2;
    first_pass(p, &prime, twiddles, a, scratch);
    let passes = schedule::passes((4 * half).ilog2() - 2);
    for ((a, scratch), factors) in a.chunks_exact_mut(half).zip(scratch.chunks_exact_mut(half)).zip(&twiddles.halves) {
        let mut level = 2;
        let mut in_scratch = true;
        for (i, (log_first, log_second)) in passes.clone().enumerate() {
            let last = i + 1 == passes.len();
            let (src, dst) = match (in_scratch, last) {
                (true, _) => (scratch.as_ptr(), a.as_mut_ptr()),
                (false, false) => (a.as_ptr(), scratch.as_mut_ptr()),
                (false, true) => (a.as_ptr(), a.as_mut_ptr()),
            };
            let pass = Pass { prime: &prime, factors, level, src, dst, half };
            // SAFETY: both pointers are to `half` lines; they differ, or are equal in the last pass only.
            unsafe {
                match (log_first, log_second) {
                    (3, 0) => pass.forward::<LAZY>(last),
                    (3, 3) => pass.forward_double::<LAZY, 8, 8>(last),
                    (3, _) => pass.forward_double::<LAZY, 8, 4>(last),
                    _ => pass.forward_double::<LAZY, 4, 4>(last),
                }
            }
            level += log_first + log_second;
            in_scratch = !in_scratch;
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn inverse_passes(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
    let prime = Prime::new(p);
    let (a, scratch) = (a.as_chunks_mut().0, scratch.as_chunks_mut().0);
    let half = a.len() / 2;
    let log_half = (4 * half).ilog2();
    let passes = schedule::passes(log_half - 2);
    // The twiddles of one half are the inverses of the other's.
    let inverse_factors = twiddles.halves.iter().rev();
    for ((a, scratch), factors) in a.chunks_exact_mut(half).zip(scratch.chunks_exact_mut(half)).zip(inverse_factors) {
        let mut level = log_half;
        // An odd number of moves ends in the scratch buffer; if the count is even, the first pass stays in place.
        let mut in_scratch = false;
        for (i, (log_first, log_second)) in passes.clone().rev().enumerate() {
            let first = i == 0;
            let in_place = first && passes.len().is_multiple_of(2);
            let (src, dst) = match (in_scratch, in_place) {
                (true, _) => (scratch.as_ptr(), a.as_mut_ptr()),
                (false, false) => (a.as_ptr(), scratch.as_mut_ptr()),
                (false, true) => (a.as_ptr(), a.as_mut_ptr()),
            };
            level -= log_first + log_second;
            let pass = Pass { prime: &prime, factors, level, src, dst, half };
            // SAFETY: both pointers are to `half` lines; they differ, or are equal in the first pass only.
            unsafe {
                match (log_first, log_second) {
                    (3, 0) => pass.inverse(first),
                    (3, 3) => pass.inverse_double::<8, 8>(first),
                    (3, _) => pass.inverse_double::<8, 4>(first),
                    _ => pass.inverse_double::<4, 4>(first),
                }
            }
            in_scratch ^= !in_place;
        }
    }
    last_inverse_pass(p, &prime, twiddles, scratch, a);
}

/// Neighbouring lines that the first pass takes at a time from each of its 8 places in the source. These are a power of two
/// apart and compete for the same cache sets, so all are read before the longer computation starts.
const GROUP: usize = 8;

/// Four lines of each of `GROUP` offsets.
#[repr(align(64))]
struct Group([[Line; 4]; GROUP]);

/// The split into halves and levels 0 and 1 of both: four nodes of each half become the lanes of a line.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn first_pass(p: &Modulus, prime: &Prime, twiddles: &Twiddles, src: &[Line], dst: &mut [Line]) {
    let half = src.len() / 2;
    let step = half / 4;
    let group = GROUP.min(step);
    let split = VectorFactor::splat(p, twiddles.split.value);
    let [factors_plus, factors_minus] = &twiddles.halves;
    let (factors_plus, factors_minus) = (broadcast_factors(factors_plus), broadcast_factors(factors_minus));
    let (low, high) = src.split_at(half);
    let (dst_plus, dst_minus) = dst.split_at_mut(half);
    let (mut plus, mut minus) = (Group([[[0; 4]; 4]; GROUP]), Group([[[0; 4]; 4]; GROUP]));
    let dst = dst_plus.chunks_exact_mut(4 * group).zip(dst_minus.chunks_exact_mut(4 * group));
    for (start, (dst_plus, dst_minus)) in (0..step).step_by(group).zip(dst) {
        for k in 0..4 {
            let range = start + k * step..start + k * step + group;
            for (i, (low, high)) in low[range.clone()].iter().zip(&high[range]).enumerate() {
                let (x, y) = forward_butterfly(prime, load_words(low), load_words(high), split);
                store_reals(&mut plus.0[i % GROUP][k], x);
                store_reals(&mut minus.0[i % GROUP][k], y);
            }
        }
        for (group, factors, dst) in [(&plus, &factors_plus, dst_plus), (&minus, &factors_minus, dst_minus)] {
            for (lines, dst) in group.0.iter().zip(dst.as_chunks_mut::<4>().0) {
                let nodes = forward_butterflies::<4>(prime, load_all(lines), factors);
                store_all(dst, transpose(nodes));
            }
        }
    }
}

/// Undoes `first_pass`, and divides by N.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn last_inverse_pass(p: &Modulus, prime: &Prime, twiddles: &Twiddles, src: &[Line], dst: &mut [Line]) {
    let half = src.len() / 2;
    let step = half / 4;
    let group = GROUP.min(step);
    let n_inverse = VectorFactor::splat(p, twiddles.n_inverse.value);
    let split_inverse_n_inverse = VectorFactor::splat(p, twiddles.split_inverse_n_inverse.value);
    // The twiddles of one half are the inverses of the other's.
    let [factors_minus, factors_plus] = &twiddles.halves;
    let (factors_plus, factors_minus) = (broadcast_factors(factors_plus), broadcast_factors(factors_minus));
    let (src_plus, src_minus) = src.split_at(half);
    let (low, high) = dst.split_at_mut(half);
    let (mut plus, mut minus) = (Group([[[0; 4]; 4]; GROUP]), Group([[[0; 4]; 4]; GROUP]));
    let src = src_plus.chunks_exact(4 * group).zip(src_minus.chunks_exact(4 * group));
    for (start, (src_plus, src_minus)) in (0..step).step_by(group).zip(src) {
        for (group, factors, src) in [(&mut plus, &factors_plus, src_plus), (&mut minus, &factors_minus, src_minus)] {
            for (lines, src) in group.0.iter_mut().zip(src.as_chunks::<4>().0) {
                store_all(lines, inverse_butterflies::<4>(prime, transpose(load_all(src)), factors));
            }
        }
        for k in 0..4 {
            let range = start + k * step..start + k * step + group;
            for (i, (low, high)) in low[range.clone()].iter_mut().zip(&mut high[range]).enumerate() {
                // At most 3/4 each: their sum and difference stay far below 4.
                let (x, y) = (load_reals(&plus.0[i % GROUP][k]), load_reals(&minus.0[i % GROUP][k]));
                store_words(low, prime.mul(_mm256_add_pd(x, y), n_inverse));
                store_words(high, prime.mul(_mm256_sub_pd(x, y), split_inverse_n_inverse));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_all(lines: &[Line; 4]) -> [__m256d; 4] {
    let [a, b, c, d] = lines;
    [load_reals(a), load_reals(b), load_reals(c), load_reals(d)]
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store_all(lines: &mut [Line; 4], values: [__m256d; 4]) {
    for (line, value) in lines.iter_mut().zip(values) {
        store_reals(line, value);
    }
}

/// The twiddles of levels 0 and 1, each in all lanes, in the order of `vector_factors`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn broadcast_factors(factors: &Factors) -> [VectorFactor; 7] {
    let mut out = [VectorFactor { value: _mm256_setzero_pd(), quotient: _mm256_setzero_pd() }; 7];
    for ((out, &value), &quotient) in out.iter_mut().zip(&factors.values[1..4]).zip(&factors.quotients[1..4]) {
        let [value, quotient] = [value, quotient].map(f64::from_bits);
        *out = VectorFactor { value: _mm256_set1_pd(value), quotient: _mm256_set1_pd(quotient) };
    }
    out
}

/// One pass over a half, from `level` on (forward) or back to it (inverse).
///
/// With L = 2^level / 4 lines for the nodes of `level`, line `offset * L + l` holds the coefficients at `offset` of the four
/// nodes from 4l on.
///
/// # Safety
/// Its functions need: `src` and `dst` valid for `half` lines and not overlapping, or equal if RADIX * L = `half`, where RADIX
/// is the product of the radices of the rounds; `level` at least 2; RADIX * L at most `half`.
struct Pass<'a> {
    prime: &'a Prime,
    factors: &'a Factors,
    level: u32,
    src: *const Line,
    dst: *mut Line,
    /// Lines of the half.
    half: usize,
}

/// What passes between the two rounds of a double pass.
#[repr(align(64))]
struct Block([Line; 64]);

impl Pass<'_> {
    /// One round of radix 8; `last` makes the results canonical words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn forward<const LAZY: bool>(&self, last: bool) {
        let lines = 1usize << (self.level - 2);
        let (step, offsets) = (self.half / 8, self.half / 8 / lines);
        for line in 0..lines {
            // SAFETY: line < lines, and the levels exist since 8 * lines <= half.
            let factors = unsafe { vector_factors::<8>(self.factors, lines, line) };
            for offset in 0..offsets {
                // SAFETY: offset * lines + line < step and 7 * step + step = half.
                let values = unsafe { gather(self.src.add(offset * lines + line), step) };
                let nodes = self.forward_round::<LAZY, 8>(values, &factors);
                // SAFETY: offset * 8 + 7 < half / lines.
                unsafe { scatter(self.dst.add(offset * 8 * lines + line), lines, self.words_if(last, nodes)) };
            }
        }
    }

    /// Undoes `forward` up to a factor 8; `first` takes words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse(&self, first: bool) {
        let lines = 1usize << (self.level - 2);
        let (step, offsets) = (self.half / 8, self.half / 8 / lines);
        for line in 0..lines {
            // SAFETY: line < lines, and the levels exist since 8 * lines <= half.
            let factors = unsafe { vector_factors::<8>(self.factors, lines, line) };
            for offset in 0..offsets {
                // SAFETY: offset * 8 + 7 < half / lines.
                let nodes = unsafe { gather(self.src.add(offset * 8 * lines + line), lines) };
                let values = inverse_butterflies::<8>(self.prime, reals_if(first, nodes), &factors);
                // SAFETY: offset * lines + line < step and 7 * step + step = half.
                unsafe { scatter(self.dst.add(offset * lines + line), step, values) };
            }
        }
    }

    /// Two rounds of radices R1 and R2; `last` makes the results canonical words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn forward_double<const LAZY: bool, const R1: usize, const R2: usize>(&self, last: bool) {
        let lines = 1usize << (self.level - 2);
        // The offsets left after both rounds; the first round's offset is k2 * offsets + offset.
        let (step, offsets) = (self.half / R1, self.half / (R1 * R2 * lines));
        let mut block = Block([[0; 4]; 64]);
        let block = block.0.as_mut_ptr();
        for line in 0..lines {
            // SAFETY: line < lines, and the levels exist since R1 * R2 * lines <= half.
            let factors = unsafe { vector_factors::<R1>(self.factors, lines, line) };
            for offset in 0..offsets {
                for k2 in 0..R2 {
                    let start = (k2 * offsets + offset) * lines + line;
                    // SAFETY: start < R2 * offsets * lines = step and R1 * step = half; the block has R1 * R2 lines or more.
                    unsafe {
                        let values = gather(self.src.add(start), step);
                        let nodes = self.forward_round::<LAZY, R1>(values, &factors);
                        scatter(block.add(k2), R2, nodes);
                    }
                }
                for m1 in 0..R1 {
                    let start = (offset * R1 * R2 + m1) * lines + line;
                    // SAFETY: m1 * lines + line < R1 * lines, the lines of the second round's level; the last line written is
                    // (offset * R1 * R2 + m1 + R1 * (R2 - 1)) * lines + line < half.
                    unsafe {
                        let factors = vector_factors::<R2>(self.factors, R1 * lines, m1 * lines + line);
                        let values = gather(block.add(m1 * R2), 1);
                        let nodes = self.forward_round::<LAZY, R2>(values, &factors);
                        scatter(self.dst.add(start), R1 * lines, self.words_if(last, nodes));
                    }
                }
            }
        }
    }

    /// Undoes `forward_double` up to the factor R1 * R2; `first` takes words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_double<const R1: usize, const R2: usize>(&self, first: bool) {
        let lines = 1usize << (self.level - 2);
        let (step, offsets) = (self.half / R1, self.half / (R1 * R2 * lines));
        let mut block = Block([[0; 4]; 64]);
        let block = block.0.as_mut_ptr();
        for line in 0..lines {
            // SAFETY: line < lines, and the levels exist since R1 * R2 * lines <= half.
            let factors = unsafe { vector_factors::<R1>(self.factors, lines, line) };
            for offset in 0..offsets {
                for m1 in 0..R1 {
                    let start = (offset * R1 * R2 + m1) * lines + line;
                    // SAFETY: as in `forward_double`, with reads and writes exchanged.
                    unsafe {
                        let factors = vector_factors::<R2>(self.factors, R1 * lines, m1 * lines + line);
                        let nodes = gather(self.src.add(start), R1 * lines);
                        let values = inverse_butterflies::<R2>(self.prime, reals_if(first, nodes), &factors);
                        scatter(block.add(m1 * R2), 1, values);
                    }
                }
                for k2 in 0..R2 {
                    let start = (k2 * offsets + offset) * lines + line;
                    // SAFETY: as in `forward_double`, with reads and writes exchanged.
                    unsafe {
                        let nodes = gather(block.add(k2), R2);
                        scatter(self.dst.add(start), step, inverse_butterflies::<R1>(self.prime, nodes, &factors));
                    }
                }
            }
        }
    }

    /// The forward butterflies of values up to 4p, with results as small; `LAZY` lets them grow.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn forward_round<const LAZY: bool, const RADIX: usize>(
        &self,
        mut values: [__m256d; RADIX],
        factors: &[VectorFactor; 7],
    ) -> [__m256d; RADIX] {
        if !LAZY {
            // The upper half goes to multiplications.
            for value in &mut values[..RADIX / 2] {
                *value = self.prime.reduce_lazy(*value);
            }
        }
        forward_butterflies::<RADIX>(self.prime, values, factors)
    }

    /// The canonical words of the values, if they are the `last`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn words_if<const RADIX: usize>(&self, last: bool, mut values: [__m256d; RADIX]) -> [__m256d; RADIX] {
        if last {
            for value in &mut values {
                *value = _mm256_castsi256_pd(to_words(self.prime.reduce(*value)));
            }
        }
        values
    }
}

/// The values of words, if these are the `first`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn reals_if<const RADIX: usize>(first: bool, mut values: [__m256d; RADIX]) -> [__m256d; RADIX] {
    if first {
        for value in &mut values {
            *value = to_reals(_mm256_castpd_si256(*value));
        }
    }
    values
}

/// Reads RADIX lines, `step` lines apart.
///
/// # Safety
/// These lines must be readable.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn gather<const RADIX: usize>(src: *const Line, step: usize) -> [__m256d; RADIX] {
    let mut values = [_mm256_setzero_pd(); RADIX];
    for (k, value) in values.iter_mut().enumerate() {
        // SAFETY: by the caller's promise.
        *value = unsafe { load_reals(&*src.add(k * step)) };
    }
    values
}

/// Writes RADIX lines, `step` lines apart.
///
/// # Safety
/// These lines must be writable.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn scatter<const RADIX: usize>(dst: *mut Line, step: usize, values: [__m256d; RADIX]) {
    for (k, &value) in values.iter().enumerate() {
        // SAFETY: by the caller's promise.
        unsafe { store_reals(&mut *dst.add(k * step), value) };
    }
}

/// Twiddles arranged by `arrange`: those for the nodes of line `line` among the `lines` lines of a level: one of that level, two
/// of the next, for radix 8 also four of the third; the rest are zero.
///
/// # Safety
/// `line` must be below `lines`, and log2(RADIX) levels must exist from this one on.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn vector_factors<const RADIX: usize>(factors: &Factors, lines: usize, line: usize) -> [VectorFactor; 7] {
    let values: *const Line = factors.values.as_ptr().cast();
    let quotients: *const Line = factors.quotients.as_ptr().cast();
    let mut out = [VectorFactor { value: _mm256_setzero_pd(), quotient: _mm256_setzero_pd() }; 7];
    for (i, out) in out[..RADIX - 1].iter_mut().enumerate() {
        let index = lines + line * (RADIX - 1) + i;
        // SAFETY: the levels exist, so their tables reach up to line RADIX * lines.
        let (value, quotient) = unsafe { (load_reals(&*values.add(index)), load_reals(&*quotients.add(index))) };
        *out = VectorFactor { value, quotient };
    }
    out
}

/// Applies `$butterfly` in place to the pairs of places `$low $high` with the factors of index `$factor`.
macro_rules! butterflies {
    ($butterfly:expr, $values:ident, $factors:ident: $($low:literal $high:literal $factor:literal),*) => {
        $(($values[$low], $values[$high]) = $butterfly($values[$low], $values[$high], $factors[$factor]);)*
    };
}

/// The butterflies of log2(RADIX) levels. Input k is offset k of one node, output m is node m of the last level.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn forward_butterflies<const RADIX: usize>(
    prime: &Prime,
    values: [__m256d; RADIX],
    factors: &[VectorFactor; 7],
) -> [__m256d; RADIX] {
    let mut v = values;
    // A node's offsets are neighbours; its children take the lower and the upper half of its places.
    if RADIX == 8 {
        butterflies!(|x, y, w| forward_butterfly(prime, x, y, w), v, factors:
            0 4 0, 1 5 0, 2 6 0, 3 7 0, 0 2 1, 1 3 1, 4 6 2, 5 7 2, 0 1 3, 4 5 4, 2 3 5, 6 7 6);
    } else {
        butterflies!(|x, y, w| forward_butterfly(prime, x, y, w), v, factors: 0 2 0, 1 3 0, 0 1 1, 2 3 2);
    }
    bit_reversed(v)
}

/// Undoes `forward_butterflies` up to the factor RADIX. Inputs are at most p, outputs 3p/4.
///
/// In units of p: the first level's sums are at most 2 and its products 5/8, the second's sums 4 (of sums, in the places 0 and 4,
/// which for radix 8 are reduced at once) or 5/4 and its products 3/4. The third level's sums are so at most 5/2, its products 2/3.
/// In the end all sums, the lower half of the places, are reduced.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn inverse_butterflies<const RADIX: usize>(
    prime: &Prime,
    nodes: [__m256d; RADIX],
    factors: &[VectorFactor; 7],
) -> [__m256d; RADIX] {
    let mut v = bit_reversed(nodes);
    if RADIX == 8 {
        butterflies!(|x, y, w| inverse_butterfly(prime, x, y, w), v, factors:
            0 1 3, 4 5 4, 2 3 5, 6 7 6, 0 2 1, 1 3 1, 4 6 2, 5 7 2);
        (v[0], v[4]) = (prime.reduce_lazy(v[0]), prime.reduce_lazy(v[4]));
        butterflies!(|x, y, w| inverse_butterfly(prime, x, y, w), v, factors: 0 4 0, 1 5 0, 2 6 0, 3 7 0);
    } else {
        butterflies!(|x, y, w| inverse_butterfly(prime, x, y, w), v, factors: 0 1 1, 2 3 2, 0 2 0, 1 3 0);
    }
    for value in &mut v[..RADIX / 2] {
        *value = prime.reduce_lazy(*value);
    }
    v
}

/// Exchanges the places whose numbers are bit reversals of each other.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn bit_reversed<const RADIX: usize>(mut v: [__m256d; RADIX]) -> [__m256d; RADIX] {
    if RADIX == 8 {
        v.swap(1, 4);
        v.swap(3, 6);
    } else {
        v.swap(1, 2);
    }
    v
}

/// x + w*y and x - w*y.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn forward_butterfly(prime: &Prime, x: __m256d, y: __m256d, w: VectorFactor) -> (__m256d, __m256d) {
    let product = prime.mul_lazy(y, w);
    (_mm256_add_pd(x, product), _mm256_sub_pd(x, product))
}

/// x + y and w*(x - y).
#[inline]
#[target_feature(enable = "avx2,fma")]
fn inverse_butterfly(prime: &Prime, x: __m256d, y: __m256d, w: VectorFactor) -> (__m256d, __m256d) {
    (_mm256_add_pd(x, y), prime.mul_lazy(_mm256_sub_pd(x, y), w))
}
