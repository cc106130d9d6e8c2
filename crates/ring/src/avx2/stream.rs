//! Products of packed weights: the stream is read once, from its beginning to its end, a block of four vectors at a time.
//!
//! Between two reductions a sum takes at most 2 * SPAN = `MAX_PRODUCTS` products of residues on top of a residue.

use super::arith::{
    MAX_PRODUCTS, Sum, SumReducer, load_reals, load_words, splat, store_reals, store_words, sum_is_wide, to_reals,
    to_words,
};
use super::entry_points;
use crate::Modulus;
use crate::stream::{BLOCK, PADDING, PREFETCH, Packed, SharedInputs, Shifted, Turned};
use std::arch::x86_64::*;

/// Terms between two reductions.
const SPAN: usize = MAX_PRODUCTS / 2;
/// Vectors of a block.
const VECTORS: usize = BLOCK / 4;

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

    /// See the portable kernel; whole blocks only. `scratch` has 2 * `BLOCK` words for each input of each set.
    fn cipher(
        p: &Modulus,
        weights: Packed<'_>,
        inputs: &SharedInputs<'_>,
        scratch: &mut [u64],
        out: &mut [&mut [u64]],
    ) {
        let wide = sum_is_wide(2 * inputs.terms.min(SPAN), p.value(), p.value());
        dispatch!(cipher_any_blocks, weights.width, wide, (p, weights.bytes, inputs, scratch, out));
    }

    /// See the portable kernel; whole blocks only.
    fn turned(p: &Modulus, products: &[Turned<'_>], start: usize, initial: [u64; 2], acc: &mut [&mut [u64]]) {
        let terms = products.iter().map(|product| product.inputs.len()).sum::<usize>();
        assert!(terms <= SPAN, "too many products for one sum");
        let wide = sum_is_wide(terms + 1, p.value(), p.value());
        let width = products.first().map_or(1, |product| product.weights.width);
        if let [acc0, acc1] = acc {
            dispatch!(turned_blocks, width, wide, (p, products, (terms, start, initial), acc0, acc1));
        }
    }
}

#[target_feature(enable = "avx2,fma")]
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
    let mut weights = Stream::<WIDTH>::new(weights, 2 * out0.len() * terms);
    for (b, (out0, out1)) in out0.iter_mut().zip(out1).enumerate() {
        let at = start + b * BLOCK;
        // A sum is started for as many products as follow before its reduction.
        let mut ahead = terms;
        let mut left = ahead.min(SPAN);
        let mut sums = [[Sum::new(splat(0), left); VECTORS]; 2];
        for input in inputs {
            for x in input.words[at..at + input.count + BLOCK - 1].array_windows::<BLOCK>() {
                if left == 0 {
                    left = ahead.min(SPAN);
                    sums = sums.map(|sums| sums.map(|sum| Sum::new(to_words(reducer.reduce(sum)), left)));
                }
                let x = vectors(x);
                for sums in &mut sums {
                    // SAFETY: two blocks for each block of points and term, as `Stream::new` has checked.
                    let w = unsafe { weights.next() };
                    for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                        sum.add_product(x, w);
                    }
                }
                (left, ahead) = (left - 1, ahead - 1);
            }
        }
        for (out, sums) in [out0, out1].into_iter().zip(sums) {
            for (out, sum) in out.as_chunks_mut().0.iter_mut().zip(sums) {
                store_words(out, reducer.reduce(sum));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn cipher_any_blocks<const WIDTH: usize, const WIDE: bool>(
    p: &Modulus,
    weights: &[u8],
    inputs: &SharedInputs<'_>,
    scratch: &mut [u64],
    out: &mut [&mut [u64]],
) {
    match inputs.results {
        3 => cipher_blocks::<WIDTH, WIDE, 3>(p, weights, inputs, scratch, out),
        _ => cipher_blocks::<WIDTH, WIDE, 4>(p, weights, inputs, scratch, out),
    }
}

#[target_feature(enable = "avx2,fma")]
fn cipher_blocks<const WIDTH: usize, const WIDE: bool, const RESULTS: usize>(
    p: &Modulus,
    weights: &[u8],
    inputs: &SharedInputs<'_>,
    scratch: &mut [u64],
    out: &mut [&mut [u64]],
) {
    let reducer = SumReducer::<WIDE>::new(p);
    let blocks = out.first().map_or(0, |out| out.len() / BLOCK);
    let (groups, terms) = (inputs.groups(out), inputs.terms);
    let stream = Stream::<WIDTH>::new(weights, 2 * blocks * terms * groups);
    let scratch = &mut scratch.as_chunks_mut::<BLOCK>().0[..2 * inputs.parts.len()];
    for b in 0..blocks {
        let range = b * BLOCK..(b + 1) * BLOCK;
        // The inputs of one block as f64, side by side: in their polynomials they compete for the same cache sets.
        for (scratch, part) in scratch.as_chunks_mut::<2>().0.iter_mut().zip(&inputs.parts) {
            let Some(part) = part else {
                // The bits of 0.0.
                *scratch = [[0; BLOCK]; 2];
                continue;
            };
            for (scratch, x) in scratch.iter_mut().zip(part) {
                for (scratch, x) in scratch.as_chunks_mut().0.iter_mut().zip(x[range.clone()].as_chunks().0) {
                    store_reals(scratch, load_words(x));
                }
                // The next block, too far apart for the hardware to foresee.
                for line in [0, 8] {
                    _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().wrapping_add(range.end + line).cast());
                }
            }
        }
        for (group, set) in (0..groups).flat_map(|group| (0..inputs.sets).map(move |set| (group, set))) {
            let first = (b * groups + group) * terms * 2 * BLOCK * WIDTH;
            let mut weights = stream.restarted(&weights[first..], 2 * terms);
            // Of three results the one in the middle is the sum of both mixed products.
            let products = |result: usize, terms: usize| if (RESULTS, result) == (3, 1) { 2 * terms } else { terms };
            let started = |so_far: [__m256i; RESULTS], terms: usize| {
                let mut sums = [Sum::new(splat(0), 0); RESULTS];
                for (i, (sum, so_far)) in sums.iter_mut().zip(so_far).enumerate() {
                    *sum = Sum::new(so_far, products(i, terms));
                }
                sums
            };
            let mut sums = [started([splat(0); RESULTS], terms.min(SPAN)); VECTORS];
            for (i, span) in scratch[2 * set * terms..2 * (set + 1) * terms].as_chunks::<2>().0.chunks(SPAN).enumerate()
            {
                if i > 0 {
                    sums = sums.map(|sums| started(sums.map(|sum| to_words(reducer.reduce(sum))), span.len()));
                }
                for [x0, x1] in span {
                    let (x0, x1) = (x0.as_chunks().0, x1.as_chunks().0);
                    // SAFETY: two blocks for each term, as `restarted` has checked.
                    let (w0, w1) = unsafe { (weights.next(), weights.next()) };
                    for ((((sums, x0), x1), w0), w1) in sums.iter_mut().zip(x0).zip(x1).zip(w0).zip(w1) {
                        let (x0, x1) = (load_reals(x0), load_reals(x1));
                        sums[0].add_product(w0, x0);
                        sums[1].add_product(w0, x1);
                        sums[RESULTS - 2].add_product(w1, x0);
                        sums[RESULTS - 1].add_product(w1, x1);
                    }
                }
            }
            for (i, out) in out[RESULTS * (set * groups + group)..][..RESULTS].iter_mut().enumerate() {
                for (out, sums) in out[range.clone()].as_chunks_mut().0.iter_mut().zip(sums) {
                    store_words(out, reducer.reduce(sums[i]));
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn turned_blocks<const WIDTH: usize, const WIDE: bool>(
    p: &Modulus,
    products: &[Turned<'_>],
    (terms, start, initial): (usize, usize, [u64; 2]),
    acc0: &mut [u64],
    acc1: &mut [u64],
) {
    let reducer = SumReducer::<WIDE>::new(p);
    let stream = Stream::<WIDTH>::new(&[0; PADDING], 0);
    let (acc0, acc1) = (acc0.as_chunks_mut::<BLOCK>().0, acc1.as_chunks_mut::<BLOCK>().0);
    for (b, (acc0, acc1)) in acc0.iter_mut().zip(acc1).enumerate() {
        // A sum has exactly as many products as it is started for.
        let mut sums = initial.map(|factor| [Sum::new(splat(0), terms + usize::from(factor != 0)); VECTORS]);
        for ((sums, acc), factor) in sums.iter_mut().zip([&*acc0, &*acc1]).zip(initial) {
            if factor != 0 {
                for (sum, acc) in sums.iter_mut().zip(vectors(acc)) {
                    sum.add_product(acc, _mm256_set1_pd(factor as f64));
                }
            }
        }
        for product in products {
            let source = product.source(start + b * BLOCK);
            let mut weights = stream.restarted(&product.weights.bytes[b * product.stride..], 2 * product.inputs.len());
            weights.ahead = product.ahead;
            for input in product.inputs {
                let mut wrapped = [0; BLOCK];
                let ahead = source.ahead(input);
                for line in [0, 8] {
                    // Behind the end this is no access: a prefetch never faults.
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
                }
                let x = vectors(source.block(input, &mut wrapped));
                for sums in &mut sums {
                    // SAFETY: two blocks for each input, as `Stream::new` has checked.
                    let w = unsafe { weights.next() };
                    for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                        sum.add_product(x, w);
                    }
                }
            }
        }
        for (acc, sums) in [acc0, acc1].into_iter().zip(sums) {
            for (acc, sum) in acc.as_chunks_mut().0.iter_mut().zip(sums) {
                store_words(acc, reducer.reduce(sum));
            }
        }
    }
}

/// The weights still to be read, `WIDTH` bytes to a residue.
struct Stream<'a, const WIDTH: usize> {
    next: *const u8,
    /// How far ahead weights are fetched, in bytes.
    ahead: usize,
    /// Where the byte of each place of a 128-bit lane lies among two packed residues.
    places: __m256i,
    bytes: std::marker::PhantomData<&'a [u8]>,
}

impl<'a, const WIDTH: usize> Stream<'a, WIDTH> {
    /// Panics unless `bytes` has `blocks` blocks, and the padding.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new(bytes: &'a [u8], blocks: usize) -> Self {
        // A place with the top bit becomes zero.
        let mut places = [0x80u8; 16];
        for (i, place) in places.iter_mut().enumerate().filter(|(i, _)| i % 8 < WIDTH) {
            *place = (i / 8 * WIDTH + i % 8) as u8;
        }
        // SAFETY: the array covers the 16 bytes read; no alignment is required.
        let places = unsafe { _mm_loadu_si128(places.as_ptr().cast()) };
        let places = _mm256_broadcastsi128_si256(places);
        Stream { next: bytes.as_ptr(), ahead: PREFETCH, places, bytes: std::marker::PhantomData }
            .restarted(bytes, blocks)
    }

    /// The same for other bytes; panics as `new` does.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn restarted<'b>(&self, bytes: &'b [u8], blocks: usize) -> Stream<'b, WIDTH> {
        assert!(bytes.len() >= blocks * BLOCK * WIDTH + PADDING, "the stream has too few weights");
        Stream { next: bytes.as_ptr(), ahead: self.ahead, places: self.places, bytes: std::marker::PhantomData }
    }

    /// The next block, as f64.
    ///
    /// # Safety
    /// To be called at most `blocks` times.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn next(&mut self) -> [__m256d; VECTORS] {
        let next = self.next;
        for line in 0..(BLOCK * WIDTH).div_ceil(64) {
            // Behind the end this is no access: a prefetch never faults.
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(self.ahead + 64 * line).cast());
        }
        // SAFETY: by the caller's promise and the check in `new`, the block and the padding behind it are inside the slice.
        self.next = unsafe { next.add(BLOCK * WIDTH) };
        let mut block = [_mm256_setzero_pd(); VECTORS];
        for (i, vector) in block.iter_mut().enumerate() {
            // SAFETY: as above; both lanes start inside the block, and end at most in the padding.
            let (low, high) = unsafe {
                let first = next.add(i * 4 * WIDTH);
                (_mm_loadu_si128(first.cast()), _mm_loadu_si128(first.add(2 * WIDTH).cast()))
            };
            *vector = to_reals(_mm256_shuffle_epi8(_mm256_set_m128i(high, low), self.places));
        }
        block
    }
}

/// The vectors of a block, as f64.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn vectors(words: &[u64; BLOCK]) -> [__m256d; VECTORS] {
    let mut block = [_mm256_setzero_pd(); VECTORS];
    for (vector, line) in block.iter_mut().zip(words.as_chunks().0) {
        *vector = load_words(line);
    }
    block
}
