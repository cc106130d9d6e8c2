//! Products of packed weights: the stream is read once, from its beginning to its end, a block of two vectors at a time.
//!
//! Between two reductions a sum takes at most 2 * SPAN products of residues below 2^50 on top of a residue. The low
//! halves then stay below 2 * SPAN * 2^52 + 2^50 < 2^64, the high ones below 2 * SPAN * 2^48 + 2^12 < 2^60: no overflow.
//!
//! Products with ciphertexts modulo small primes are summed in 64-bit words instead ([`CipherSum`]): half the work for the
//! multiplier, and half the registers.

use super::arith::{Sum, SumReducer, load, splat, store, sum_is_wide};
use super::entry_points;
use crate::Modulus;
use crate::stream::{BLOCK, PADDING, PREFETCH, Packed, SCRATCH_BLOCKS, SharedInputs, Shifted, Turned};
use std::arch::x86_64::*;

/// Terms between two reductions.
const SPAN: usize = 1024;
/// Caches that the stream is fetched into: all, or the outer ones only, where the inner one is full of other things.
const ALL_CACHES: bool = false;
const OUTER_CACHES: bool = true;

/// Calls a function for the number of bytes of a residue and for the size of its sums.
macro_rules! dispatch {
    ($function:ident, $width:expr, $wide:expr, $arguments:tt) => {
        match ($width, $wide) {
            (1, _) => $function::<1, false> $arguments,
            (2, _) => $function::<2, false> $arguments,
            (3, _) => $function::<3, false> $arguments,
            (4, _) => $function::<4, false> $arguments,
            (5, _) => $function::<5, false> $arguments,
            (6, false) => $function::<6, false> $arguments,
            (6, true) => $function::<6, true> $arguments,
            // Narrow sums of the widest primes are wide sums with a zero top; up to 40 bits, no sum is wide.
            _ => $function::<7, true> $arguments,
        }
    };
}

entry_points! {
    /// See the portable kernel; whole blocks only.
    fn plain(p: &Modulus, weights: Packed<'_>, inputs: &[Shifted<'_>], start: usize, out: &mut [&mut [u64]]) {
        let terms = inputs.iter().map(|input| input.count).sum::<usize>();
        let wide = sum_is_wide(terms.min(SPAN), p.value(), p.value());
        if let [out0, out1] = out {
            dispatch!(plain_blocks, weights.width, wide, (p, weights.bytes, terms, inputs, start, out0, out1));
        }
    }

    /// See the portable kernel; whole blocks only. `scratch` has 2 * `BLOCK` * `SCRATCH_BLOCKS` words for each input of each set.
    fn cipher(
        p: &Modulus,
        weights: Packed<'_>,
        inputs: &SharedInputs<'_>,
        scratch: &mut [u64],
        out: &mut [&mut [u64]],
    ) {
        let wide = sum_is_wide(2 * inputs.terms.min(SPAN), p.value(), p.value());
        // Narrow sums need four bytes to a residue at most.
        match (narrow_span(p), weights.width) {
            (MIN_NARROW_SPAN.., 1) => cipher_narrow_blocks::<1>(p, weights.bytes, inputs, scratch, out),
            (MIN_NARROW_SPAN.., 2) => cipher_narrow_blocks::<2>(p, weights.bytes, inputs, scratch, out),
            (MIN_NARROW_SPAN.., 3) => cipher_narrow_blocks::<3>(p, weights.bytes, inputs, scratch, out),
            (MIN_NARROW_SPAN.., 4) => cipher_narrow_blocks::<4>(p, weights.bytes, inputs, scratch, out),
            _ => dispatch!(cipher_wide_blocks, weights.width, wide, (p, weights.bytes, inputs, scratch, out)),
        }
    }

    /// See the portable kernel; whole blocks only.
    fn turned(p: &Modulus, products: &[Turned<'_>], start: usize, initial: [u64; 2], acc: &mut [&mut [u64]]) {
        let terms = products.iter().map(|product| product.inputs.len()).sum::<usize>();
        assert!(terms <= SPAN, "too many products for one sum");
        let wide = sum_is_wide(terms + 1, p.value(), p.value());
        let width = products.first().map_or(1, |product| product.weights.width);
        if let [acc0, acc1] = acc {
            dispatch!(turned_blocks, width, wide, (p, products, start, initial, acc0, acc1));
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn plain_blocks<const WIDTH: usize, const WIDE: bool>(
    p: &Modulus,
    weights: &[u8],
    terms: usize,
    inputs: &[Shifted<'_>],
    start: usize,
    out0: &mut [u64],
    out1: &mut [u64],
) {
    let reducer = SumReducer::<WIDE>::new(p);
    let (out0, out1) = (out0.as_chunks_mut::<BLOCK>().0, out1.as_chunks_mut::<BLOCK>().0);
    let mut weights = Stream::<WIDTH, ALL_CACHES>::new(weights, out0.len() * terms);
    for (b, (out0, out1)) in out0.iter_mut().zip(out1).enumerate() {
        let at = start + b * BLOCK;
        let mut sums = [Sum::from(splat(0)); 4];
        let mut left = SPAN;
        for input in inputs {
            let mut words = &input.words[at..at + input.count + BLOCK - 1];
            while words.len() >= BLOCK {
                if left == 0 {
                    sums = sums.map(|sum| Sum::from(reducer.reduce(sum)));
                    left = SPAN;
                }
                let count = left.min(words.len() - (BLOCK - 1));
                for x in words[..count + BLOCK - 1].array_windows::<BLOCK>() {
                    // SAFETY: there is one step for each block and term, as `Stream::new` has checked.
                    let [w00, w01, w10, w11] = unsafe { weights.next() };
                    let [x0, x1] = halves(x);
                    sums[0].add_product(x0, w00);
                    sums[1].add_product(x1, w01);
                    sums[2].add_product(x0, w10);
                    sums[3].add_product(x1, w11);
                }
                words = &words[count..];
                left -= count;
            }
        }
        let (out0, out1) = (out0.as_chunks_mut().0, out1.as_chunks_mut().0);
        for (out, sum) in out0.iter_mut().chain(out1).zip(sums) {
            store(out, reducer.reduce(sum));
        }
    }
}

/// Blocks of points whose inputs are put side by side at a time.
const GATHERED: usize = SCRATCH_BLOCKS;
/// Least number of terms for which narrow sums pay: they are reduced that often.
const MIN_NARROW_SPAN: u64 = 32;

/// Terms, of two products each, whose sum on top of a residue stays below 2^64.
fn narrow_span(p: &Modulus) -> u64 {
    let largest = p.value() - 1;
    match largest.checked_mul(2 * largest) {
        Some(term) if p.bits() <= 32 => (u64::MAX - largest) / term,
        _ => 0,
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn cipher_wide_blocks<const WIDTH: usize, const WIDE: bool>(
    p: &Modulus,
    weights: &[u8],
    inputs: &SharedInputs<'_>,
    scratch: &mut [u64],
    out: &mut [&mut [u64]],
) {
    match inputs.results {
        3 => cipher_blocks::<WIDTH, WIDE, false, 6>(p, weights, inputs, scratch, out),
        _ => cipher_blocks::<WIDTH, WIDE, false, 8>(p, weights, inputs, scratch, out),
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn cipher_narrow_blocks<const WIDTH: usize>(
    p: &Modulus,
    weights: &[u8],
    inputs: &SharedInputs<'_>,
    scratch: &mut [u64],
    out: &mut [&mut [u64]],
) {
    match inputs.results {
        3 => cipher_blocks::<WIDTH, false, true, 6>(p, weights, inputs, scratch, out),
        _ => cipher_blocks::<WIDTH, false, true, 8>(p, weights, inputs, scratch, out),
    }
}

/// A sum of products: of residues below 2^50, or, if `NARROW`, of residues below 2^32 in the low word alone, which must not overflow.
#[derive(Clone, Copy)]
struct CipherSum<const NARROW: bool>(Sum);

impl<const NARROW: bool> CipherSum<NARROW> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
    fn from(residue: __m512i) -> Self {
        CipherSum(Sum::from(residue))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
    fn add_product(&mut self, w: __m512i, x: __m512i) {
        if NARROW {
            self.0.low = _mm512_add_epi64(self.0.low, _mm512_mul_epu32(w, x));
        } else {
            self.0.add_product(w, x);
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn cipher_blocks<const WIDTH: usize, const WIDE: bool, const NARROW: bool, const SUMS: usize>(
    p: &Modulus,
    weights: &[u8],
    inputs: &SharedInputs<'_>,
    scratch: &mut [u64],
    out: &mut [&mut [u64]],
) {
    let reducer = SumReducer::<WIDE>::new(p);
    let blocks = out.first().map_or(0, |out| out.len() / BLOCK);
    let (groups, terms, sets) = (inputs.groups(out), inputs.terms, inputs.sets);
    let stream = Stream::<WIDTH, OUTER_CACHES>::new(weights, blocks * terms * groups);
    let span = if NARROW { narrow_span(p).min(1 << 20) as usize } else { SPAN };
    let of_block = 2 * inputs.parts.len();
    let scratch = &mut scratch.as_chunks_mut::<BLOCK>().0[..GATHERED * of_block];
    for b in 0..blocks {
        let range = b * BLOCK..(b + 1) * BLOCK;
        if b.is_multiple_of(GATHERED) {
            // The inputs of a few blocks side by side: in their polynomials they compete for the same cache sets.
            let last = blocks.min(b + GATHERED) * BLOCK;
            for (i, part) in inputs.parts.iter().enumerate() {
                for component in 0..2 {
                    let places = scratch[2 * i + component..].iter_mut().step_by(of_block);
                    match part.map(|part| part[component]) {
                        None => places.for_each(|place| *place = [0; BLOCK]),
                        Some(x) => {
                            for (place, x) in places.zip(x[range.start..last].as_chunks().0) {
                                *place = *x;
                            }
                        }
                    }
                }
            }
        }
        let scratch = &scratch[b % GATHERED * of_block..][..of_block];
        for out in out.iter() {
            for line in [0, 8] {
                _mm_prefetch::<_MM_HINT_ET1>(out.as_ptr().wrapping_add(range.start + line).cast());
            }
        }
        for group in 0..groups {
            let bytes = &weights[(b * groups + group) * terms * 2 * BLOCK * WIDTH..];
            // As many as have room for their sums in registers.
            let at_once = match (NARROW, SUMS) {
                (true, 6) => 4,
                (true, _) => 3,
                (false, 6) => 2,
                (false, _) => 1,
            };
            for set in (0..sets).step_by(at_once) {
                let weights = stream.restarted(bytes, terms);
                let inputs = |i: usize| scratch[2 * (set + i) * terms..2 * (set + i + 1) * terms].as_chunks().0;
                let results = SUMS / 2;
                let mut write = |sums: &[[__m512i; SUMS]]| {
                    for (i, sums) in sums.iter().enumerate() {
                        let (low, high) = sums.split_at(results);
                        let out = &mut out[results * ((set + i) * groups + group)..][..results];
                        for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
                            for (out, sum) in out[range.clone()].as_chunks_mut().0.iter_mut().zip([low, high]) {
                                store(out, sum);
                            }
                        }
                    }
                };
                match at_once.min(sets - set) {
                    1 => write(&cipher_sums::<_, _, NARROW, SUMS, 1>(&reducer, span, weights, [inputs(0)])),
                    2 => write(&cipher_sums::<_, _, NARROW, SUMS, 2>(&reducer, span, weights, [0, 1].map(inputs))),
                    3 => write(&cipher_sums::<_, _, NARROW, SUMS, 3>(&reducer, span, weights, [0, 1, 2].map(inputs))),
                    _ => {
                        write(&cipher_sums::<_, _, NARROW, SUMS, 4>(&reducer, span, weights, [0, 1, 2, 3].map(inputs)))
                    }
                }
            }
        }
    }
}

/// The sums of one group for one block of points: the results of the first vector, then of the second, for each set of inputs; reduced
/// after `span` terms. With three results to a vector two sets take 24 registers for their sums, four sets of narrow ones too.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn cipher_sums<const WIDTH: usize, const WIDE: bool, const NARROW: bool, const SUMS: usize, const SETS: usize>(
    reducer: &SumReducer<WIDE>,
    span: usize,
    mut weights: Stream<'_, WIDTH, OUTER_CACHES>,
    inputs: [&[[[u64; BLOCK]; 2]]; SETS],
) -> [[__m512i; SUMS]; SETS] {
    let mut sums = [[CipherSum::<NARROW>::from(splat(0)); SUMS]; SETS];
    // Of three results the one in the middle is the sum of both mixed products.
    let half = SUMS / 2;
    let terms = inputs.first().map_or(0, |inputs| inputs.len());
    let mut left = span;
    // `Stream::restarted` has checked this number of steps.
    for t in 0..terms.min(weights.steps) {
        if left == 0 {
            sums = sums.map(|sums| sums.map(|sum| CipherSum::from(reducer.reduce(sum.0))));
            left = span;
        }
        left -= 1;
        // SAFETY: this is done at most as many times as there are steps.
        let [w00, w01, w10, w11] = unsafe { weights.next() };
        for (sums, inputs) in sums.iter_mut().zip(&inputs) {
            let [x0, x1] = &inputs[t];
            let ([x00, x01], [x10, x11]) = (halves(x0), halves(x1));
            sums[0].add_product(w00, x00);
            sums[1].add_product(w00, x10);
            sums[half - 1].add_product(w10, x10);
            sums[half].add_product(w01, x01);
            sums[half + 1].add_product(w01, x11);
            sums[SUMS - 1].add_product(w11, x11);
            sums[half - 2].add_product(w10, x00);
            sums[SUMS - 2].add_product(w11, x01);
        }
    }
    sums.map(|sums| sums.map(|sum| reducer.reduce(sum.0)))
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn turned_blocks<const WIDTH: usize, const WIDE: bool>(
    p: &Modulus,
    products: &[Turned<'_>],
    start: usize,
    initial: [u64; 2],
    acc0: &mut [u64],
    acc1: &mut [u64],
) {
    let reducer = SumReducer::<WIDE>::new(p);
    let stream = Stream::<WIDTH, OUTER_CACHES>::new(&[0; PADDING], 0);
    let (acc0, acc1) = (acc0.as_chunks_mut::<BLOCK>().0, acc1.as_chunks_mut::<BLOCK>().0);
    for (b, (acc0, acc1)) in acc0.iter_mut().zip(acc1).enumerate() {
        let mut sums = [Sum::from(splat(0)); 4];
        for ((sums, acc), factor) in sums.as_chunks_mut::<2>().0.iter_mut().zip([&*acc0, &*acc1]).zip(initial) {
            if factor != 0 {
                for (sum, acc) in sums.iter_mut().zip(halves(acc)) {
                    sum.add_product(acc, splat(factor));
                }
            }
        }
        for product in products {
            let source = product.source(start + b * BLOCK);
            let mut weights = stream.restarted(&product.weights.bytes[b * product.stride..], product.inputs.len());
            weights.ahead = product.ahead;
            for input in product.inputs {
                let mut wrapped = [0; BLOCK];
                let ahead = source.ahead(input);
                for line in [0, 8] {
                    // Behind the end this is no access: a prefetch never faults.
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
                }
                let [x0, x1] = halves(source.block(input, &mut wrapped));
                // SAFETY: one step for each input, as `Stream::new` has checked.
                let [w00, w01, w10, w11] = unsafe { weights.next() };
                sums[0].add_product(x0, w00);
                sums[1].add_product(x1, w01);
                sums[2].add_product(x0, w10);
                sums[3].add_product(x1, w11);
            }
        }
        let (acc0, acc1) = (acc0.as_chunks_mut().0, acc1.as_chunks_mut().0);
        for (acc, sum) in acc0.iter_mut().chain(acc1).zip(sums) {
            store(acc, reducer.reduce(sum));
        }
    }
}

/// The weights still to be read, `WIDTH` bytes to a residue.
struct Stream<'a, const WIDTH: usize, const OUTER: bool> {
    next: *const u8,
    /// How often a step can be read, counted from the start.
    steps: usize,
    /// How far ahead weights are fetched, in bytes.
    ahead: usize,
    /// Where the byte of each place of a vector lies among the packed ones.
    places: __m512i,
    mask: u64,
    bytes: std::marker::PhantomData<&'a [u8]>,
}

impl<'a, const WIDTH: usize, const OUTER: bool> Stream<'a, WIDTH, OUTER> {
    /// Panics unless `bytes` has `steps` steps of two components and a block of points, and the padding.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
    fn new(bytes: &'a [u8], steps: usize) -> Self {
        let mut places = [0u8; 64];
        let mut mask = 0;
        for (i, place) in places.iter_mut().enumerate().filter(|(i, _)| i % 8 < WIDTH) {
            *place = (i / 8 * WIDTH + i % 8) as u8;
            mask |= 1 << i;
        }
        // SAFETY: the array covers the 64 bytes read; no alignment is required.
        let places = unsafe { _mm512_loadu_si512(places.as_ptr().cast()) };
        Stream { next: bytes.as_ptr(), steps, ahead: PREFETCH, places, mask, bytes: std::marker::PhantomData }
            .restarted(bytes, steps)
    }

    /// The same for other bytes; panics as `new` does.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
    fn restarted<'b>(&self, bytes: &'b [u8], steps: usize) -> Stream<'b, WIDTH, OUTER> {
        assert!(bytes.len() >= steps * 2 * BLOCK * WIDTH + PADDING, "the stream has too few weights");
        let &Stream { ahead, places, mask, .. } = self;
        Stream { next: bytes.as_ptr(), steps, ahead, places, mask, bytes: std::marker::PhantomData }
    }

    /// The next step: a block of c0, then of c1, two vectors each.
    ///
    /// # Safety
    /// To be called at most `steps` times.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
    unsafe fn next(&mut self) -> [__m512i; 4] {
        let next = self.next;
        for line in 0..(2 * BLOCK * WIDTH).div_ceil(64) {
            // Behind the end this is no access: a prefetch never faults.
            let ahead = next.wrapping_add(self.ahead + 64 * line).cast();
            if OUTER { _mm_prefetch::<_MM_HINT_T2>(ahead) } else { _mm_prefetch::<_MM_HINT_T0>(ahead) }
        }
        // SAFETY: by the caller's promise and the check in `new`, the step and the padding behind it are inside the slice.
        self.next = unsafe { next.add(2 * BLOCK * WIDTH) };
        [0, 1, 2, 3].map(|i| {
            if WIDTH == 4 {
                // SAFETY: as above; each vector is inside the step.
                return _mm512_cvtepu32_epi64(unsafe { _mm256_loadu_si256(next.add(i * 8 * WIDTH).cast()) });
            }
            // SAFETY: as above; each vector starts inside the step, and ends at most in the padding.
            let packed = unsafe { _mm512_loadu_si512(next.add(i * 8 * WIDTH).cast()) };
            _mm512_maskz_permutexvar_epi8(self.mask, self.places, packed)
        })
    }
}

/// The two vectors of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn halves(words: &[u64; BLOCK]) -> [__m512i; 2] {
    let (vectors, _) = words.as_chunks::<8>();
    [load(&vectors[0]), load(&vectors[1])]
}
