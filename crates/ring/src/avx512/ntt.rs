//! The number theoretic transform of the AVX-512 kernel: Stockham passes, two or three over the data.
//!
//! The head of the forward transform splits into halves and does the three levels with fewer than eight nodes at once, with a
//! transpose behind, on some processors in large rings three levels more ([`head_levels`]). In all later passes eight neighbouring nodes share
//! a vector, with as many twiddles. Passes are one round of radix 16 or 8, or two of radix 16, 8 or 4 in registers with a small block
//! on the stack between, so that the data cross the caches less often. The last pass reads and writes the same places, so it runs
//! in place if the count of passes asks for it. The inverse transform is the same backwards.

use super::arith::{Prime, VectorFactor, load, splat, store, transpose};
use super::butterflies::{
    EACH, Lazy, NEVER, ROUND, forward_butterflies, forward_butterfly, inverse_butterflies, inverse_round, lazy,
};
use super::entry_points;
use crate::Modulus;
use crate::schedule;
use crate::twiddles::{Factors, Twiddles};
use std::arch::x86_64::*;
use std::sync::LazyLock;

/// Smaller transforms are left to the portable kernel.
pub(crate) const MIN_LOG_N: u32 = 9;

type Line = [u64; 8];

/// Levels of each half that the head does: three, or six for large rings on processors whose caches take its scattered writes
/// (measured: on Intel Xeons it saves a pass, on AMD Zen 5 the passes are faster).
fn head_levels(log_n: u32) -> u32 {
    static SUITS_LONG: LazyLock<bool> = LazyLock::new(|| {
        let vendor = __cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    });
    if log_n >= 14 && *SUITS_LONG { 6 } else { 3 }
}

/// The passes behind a head of `head` levels, in forward order: log2 of the radices of both rounds (0: there is none). At most eight levels to
/// a pass; of two passes those that were the fastest.
fn passes(log_n: u32, head: u32) -> impl DoubleEndedIterator<Item = (u32, u32)> + ExactSizeIterator + Clone {
    let (first, last) = match log_n - 1 - head {
        9 => (Some((3, 0)), (3, 3)),
        10 => (Some((3, 0)), (3, 4)),
        11 => (Some((3, 4)), (2, 2)),
        12 => (Some((4, 0)), (4, 4)),
        13 => (Some((3, 4)), (3, 3)),
        // The larger radix second, but for five levels.
        5 => (None, (3, 2)),
        3 => (None, (3, 0)),
        levels => (None, (levels / 2, levels.div_ceil(2))),
    };
    (usize::from(first.is_none())..2).map(move |pass| if pass == 0 { first.unwrap_or(last) } else { last })
}

/// Reorders the twiddles for this kernel.
pub(crate) fn arrange(twiddles: &mut Twiddles, log_n: u32) {
    arrange_for_head(twiddles, log_n, head_levels(log_n));
}

fn arrange_for_head(twiddles: &mut Twiddles, log_n: u32, head: u32) {
    twiddles.head = head;
    let rounds = passes(log_n, head).flat_map(|(first, second)| [first, second]);
    schedule::arrange::<8>(twiddles, std::iter::once(head - 3).chain(rounds));
}

entry_points! {
    /// Coefficients in natural order to evaluations in orbit order. `scratch` is as long as `a`, at least 2^MIN_LOG_N.
    fn forward(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
        match lazy(p, 4 * u64::from(a.len().ilog2()) + 1) {
            NEVER => forward_passes::<NEVER>(p, twiddles, a, scratch),
            ROUND => forward_passes::<ROUND>(p, twiddles, a, scratch),
            _ => forward_passes::<EACH>(p, twiddles, a, scratch),
        }
    }

    /// Evaluations in orbit order, in `src` if given, else in `a`, to coefficients in natural order in `a`. All are of one
    /// length, at least 2^MIN_LOG_N.
    fn inverse(p: &Modulus, twiddles: &Twiddles, src: Option<&[u64]>, a: &mut [u64], scratch: &mut [u64]) {
        match lazy(p, 36) {
            NEVER => inverse_passes::<NEVER>(p, twiddles, src, a, scratch),
            ROUND => inverse_passes::<ROUND>(p, twiddles, src, a, scratch),
            _ => inverse_passes::<EACH>(p, twiddles, src, a, scratch),
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn forward_passes<const LAZY: Lazy>(p: &Modulus, twiddles: &Twiddles, a: &mut [u64], scratch: &mut [u64]) {
    let prime = Prime::new(p);
    let (a, scratch) = (a.as_chunks_mut().0, scratch.as_chunks_mut().0);
    let half = a.len() / 2;
    let log_n = (16 * half).ilog2();
    match twiddles.head {
        6 => head::<LAZY, LONG>(&prime, twiddles, a, scratch),
        _ => head::<LAZY, SHORT>(&prime, twiddles, a, scratch),
    }
    let passes = passes(log_n, twiddles.head);
    for ((a, scratch), factors) in a.chunks_exact_mut(half).zip(scratch.chunks_exact_mut(half)).zip(&twiddles.halves) {
        let mut level = twiddles.head;
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
                    (3, 0) => pass.forward::<LAZY, 8>(last),
                    (4, 0) => pass.forward::<LAZY, 16>(last),
                    (2, 2) => pass.forward_double::<LAZY, 4, 4>(last),
                    (3, 2) => pass.forward_double::<LAZY, 8, 4>(last),
                    (3, 3) => pass.forward_double::<LAZY, 8, 8>(last),
                    (3, 4) => pass.forward_double::<LAZY, 8, 16>(last),
                    _ => pass.forward_double::<LAZY, 16, 16>(last),
                }
            }
            level += log_first + log_second;
            in_scratch = !in_scratch;
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn inverse_passes<const LAZY: Lazy>(
    p: &Modulus,
    twiddles: &Twiddles,
    src: Option<&[u64]>,
    a: &mut [u64],
    scratch: &mut [u64],
) {
    let prime = Prime::new(p);
    let (a, scratch) = (a.as_chunks_mut().0, scratch.as_chunks_mut().0);
    let half = a.len() / 2;
    let log_n = (16 * half).ilog2();
    let passes = passes(log_n, twiddles.head);
    // The twiddles of one half are the inverses of the other's.
    let inverse_factors = twiddles.halves.iter().rev();
    let halves = a.chunks_exact_mut(half).zip(scratch.chunks_exact_mut(half));
    for (side, ((a, scratch), factors)) in halves.zip(inverse_factors).enumerate() {
        // The first pass reads from the source, if there is one.
        let source: Option<&[Line]> = src.map(|src| &src.as_chunks().0[side * half..(side + 1) * half]);
        let mut level = log_n - 1;
        // An odd number of moves ends in the scratch buffer; if the count is even, the first pass stays in place.
        let mut in_scratch = false;
        for (i, (log_first, log_second)) in passes.clone().rev().enumerate() {
            let in_place = i == 0 && passes.len().is_multiple_of(2);
            let (src, dst) = match (in_scratch, in_place) {
                (true, _) => (scratch.as_ptr(), a.as_mut_ptr()),
                (false, false) => (a.as_ptr(), scratch.as_mut_ptr()),
                (false, true) => (a.as_ptr(), a.as_mut_ptr()),
            };
            let src = source.filter(|_| i == 0).map_or(src, <[Line]>::as_ptr);
            level -= log_first + log_second;
            let pass = Pass { prime: &prime, factors, level, src, dst, half };
            // SAFETY: all pointers are to `half` lines; they differ, or are equal in the first pass only.
            unsafe {
                match (log_first, log_second) {
                    (3, 0) => pass.inverse::<LAZY, 8>(),
                    (4, 0) => pass.inverse::<LAZY, 16>(),
                    (2, 2) => pass.inverse_double::<LAZY, 4, 4>(),
                    (3, 2) => pass.inverse_double::<LAZY, 8, 4>(),
                    (3, 3) => pass.inverse_double::<LAZY, 8, 8>(),
                    (3, 4) => pass.inverse_double::<LAZY, 8, 16>(),
                    _ => pass.inverse_double::<LAZY, 16, 16>(),
                }
            }
            in_scratch ^= !in_place;
        }
    }
    match twiddles.head {
        6 => inverse_head::<LAZY, LONG>(&prime, twiddles, scratch, a),
        _ => inverse_head::<LAZY, SHORT>(&prime, twiddles, scratch, a),
    }
}

/// Groups of a step of a head with six levels, and of one with three. These are neighbours, whose lines in the source are a power
/// of two apart and compete for the same cache sets: so all are read before the longer computation starts.
const LONG: usize = 8;
const SHORT: usize = 4;

/// What passes between the rounds of the head: groups of eight lines, of both halves.
#[repr(align(64))]
struct HeadBlock<const GROUPS: usize>([[[Line; 8]; GROUPS]; 2]);

/// The line of an eighth of a half, of `step` lines, that belongs to a group of a head's step.
fn head_line<const GROUPS: usize>(head_step: usize, group: usize, step: usize) -> usize {
    if GROUPS == LONG { head_step + group * (step / LONG) } else { head_step * GROUPS + group }
}

/// The split into halves and the head's levels of both: eight nodes of each half become the lanes of a line.
///
/// A step takes GROUPS groups. Each holds a line of each eighth of both halves of the source, and becomes eight lines of the eight
/// nodes of level 3. The round behind that, of a long head, combines the groups.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn head<const LAZY: Lazy, const GROUPS: usize>(prime: &Prime, twiddles: &Twiddles, src: &[Line], dst: &mut [Line]) {
    let half = src.len() / 2;
    let step = half / 8;
    let split = VectorFactor::splat(&twiddles.split);
    // Keeps all differences positive: of all levels, or of the split alone.
    let levels = if LAZY == NEVER { (8 * src.len()).ilog2() } else { 1 };
    let bias = _mm512_mullo_epi64(prime.p2, splat(levels.into()));
    let first = twiddles.halves.each_ref().map(|factors| broadcast_factors(factors));
    // SAFETY: the tables have more than 64 words, eight lines, and so three levels behind level 3.
    let second = twiddles.halves.each_ref().map(|factors| unsafe { vector_factors::<8>(factors, 1, 0) });
    let (low, high) = src.split_at(half);
    let (dst_plus, dst_minus) = dst.split_at_mut(half);
    let mut block = HeadBlock([[[[0; 8]; 8]; GROUPS]; 2]);
    let dst = dst_plus.chunks_exact_mut(8 * GROUPS).zip(dst_minus.chunks_exact_mut(8 * GROUPS));
    for (start, (dst_plus, dst_minus)) in dst.enumerate() {
        let [plus, minus] = &mut block.0;
        for (k, (plus, minus)) in plus.iter_mut().zip(minus).enumerate() {
            let at = head_line::<GROUPS>(start, k, step);
            // SAFETY: start < step / GROUPS, so that `at` is below step, and 8 * step = half.
            let (low, high): ([_; 8], [_; 8]) =
                unsafe { (gather(low.as_ptr().add(at), step), gather(high.as_ptr().add(at), step)) };
            for i in 0..8 {
                let (x, y) = forward_butterfly::<LAZY>(prime, _mm512_add_epi64(low[i], bias), high[i], split);
                store(&mut plus[i], x);
                store(&mut minus[i], y);
            }
        }
        for (side, dst) in [dst_plus, dst_minus].into_iter().enumerate() {
            let dst = dst.as_chunks_mut::<8>().0;
            for (group, dst) in block.0[side].iter_mut().zip(&mut *dst) {
                let nodes = forward_butterflies::<LAZY, 8>(prime, load_all(group), &first[side]);
                store_all(if GROUPS == LONG { group } else { dst }, transpose(nodes));
            }
            if GROUPS != LONG {
                continue;
            }
            let groups = &block.0[side];
            for (j, lines) in dst.iter_mut().enumerate() {
                let mut values = [splat(0); 8];
                for k in 0..8 {
                    values[k] = load(&groups[k % GROUPS][j % 8]);
                }
                store_all(lines, forward_butterflies::<LAZY, 8>(prime, values, &second[side]));
            }
        }
    }
}

/// Undoes `head`, and divides by N.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn inverse_head<const LAZY: Lazy, const GROUPS: usize>(
    prime: &Prime,
    twiddles: &Twiddles,
    src: &[Line],
    dst: &mut [Line],
) {
    let half = src.len() / 2;
    let step = half / 8;
    let n_inverse = VectorFactor::splat(&twiddles.n_inverse);
    let split_inverse_n_inverse = VectorFactor::splat(&twiddles.split_inverse_n_inverse);
    // The twiddles of one half are the inverses of the other's.
    let [minus, plus] = &twiddles.halves;
    let first = [plus, minus].map(|factors| broadcast_factors(factors));
    // SAFETY: as in `head`.
    let second = [plus, minus].map(|factors| unsafe { vector_factors::<8>(factors, 1, 0) });
    // Bound on the values of both halves: see `inverse_butterflies`.
    let bound = if LAZY == NEVER { _mm512_slli_epi64::<3>(prime.p2) } else { prime.p2 };
    let (low, high) = dst.split_at_mut(half);
    let (src_plus, src_minus) = src.split_at(half);
    let mut block = HeadBlock([[[[0; 8]; 8]; GROUPS]; 2]);
    let src = src_plus.chunks_exact(8 * GROUPS).zip(src_minus.chunks_exact(8 * GROUPS));
    for (start, (src_plus, src_minus)) in src.enumerate() {
        for (side, src) in [src_plus, src_minus].into_iter().enumerate() {
            let groups = &mut block.0[side];
            let src = src.as_chunks::<8>().0;
            if GROUPS == LONG {
                for (j, lines) in src.iter().enumerate() {
                    let values = inverse_round::<LAZY, 8>(prime, load_all(lines), &second[side]);
                    for k in 0..8 {
                        store(&mut groups[k % GROUPS][j % 8], values[k]);
                    }
                }
            }
            for (group, src) in groups.iter_mut().zip(src) {
                let nodes = transpose(load_all(if GROUPS == LONG { group } else { src }));
                let values = match LAZY {
                    ROUND => inverse_round::<LAZY, 8>(prime, nodes, &first[side]),
                    _ => inverse_butterflies::<LAZY, 8>(prime, nodes, &first[side]),
                };
                store_all(group, values);
            }
        }
        let [plus, minus] = &block.0;
        for (k, (plus, minus)) in plus.iter().zip(minus).enumerate() {
            let (plus, minus) = (load_all(plus), load_all(minus));
            let (mut sums, mut differences) = (plus, minus);
            for i in 0..8 {
                let difference = _mm512_sub_epi64(_mm512_add_epi64(plus[i], bound), minus[i]);
                sums[i] = prime.mul(_mm512_add_epi64(plus[i], minus[i]), n_inverse);
                differences[i] = prime.mul(difference, split_inverse_n_inverse);
            }
            let at = head_line::<GROUPS>(start, k, step);
            // SAFETY: start < step / GROUPS, so that `at` is below step, and 8 * step = half.
            unsafe {
                scatter(low.as_mut_ptr().add(at), step, sums);
                scatter(high.as_mut_ptr().add(at), step, differences);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn load_all(lines: &[Line; 8]) -> [__m512i; 8] {
    let mut values = [splat(0); 8];
    for (value, line) in values.iter_mut().zip(lines) {
        *value = load(line);
    }
    values
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn store_all(lines: &mut [Line; 8], values: [__m512i; 8]) {
    for (line, value) in lines.iter_mut().zip(values) {
        store(line, value);
    }
}

/// The twiddles of levels 0 to 2, each in all lanes, in the order of `vector_factors`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn broadcast_factors(factors: &Factors) -> [VectorFactor; 8] {
    let mut out = [VectorFactor { value: splat(0), quotient: splat(0) }; 8];
    for ((out, &value), &quotient) in out.iter_mut().zip(&factors.values[..8]).zip(&factors.quotients[..8]) {
        *out = VectorFactor { value: splat(value), quotient: splat(quotient) };
    }
    out
}

/// One pass over a half, from `level` on (forward) or back to it (inverse).
///
/// With L = 2^level / 8 lines for the nodes of `level`, line `offset * L + l` holds the coefficients at `offset` of the eight
/// nodes from 8l on.
///
/// # Safety
/// Its functions need: `src` and `dst` valid for `half` lines and not overlapping, or equal if RADIX * L = `half`, where RADIX
/// is the product of the radices of the rounds; `level` at least 3; RADIX * L at most `half`.
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
struct Block<const R1: usize, const R2: usize>([[Line; R2]; R1]);

impl Pass<'_> {
    /// One round of radix 8; `last` makes the results canonical.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward<const LAZY: Lazy, const RADIX: usize>(&self, last: bool) {
        let lines = 1usize << (self.level - 3);
        let (step, offsets) = (self.half / RADIX, self.half / RADIX / lines);
        for line in 0..lines {
            // SAFETY: line < lines, and the levels exist since RADIX * lines <= half.
            let factors = unsafe { vector_factors::<RADIX>(self.factors, lines, line) };
            for offset in 0..offsets {
                // SAFETY: offset * lines + line < step and RADIX * step = half.
                let values = unsafe { gather(self.src.add(offset * lines + line), step) };
                let nodes = forward_butterflies::<LAZY, RADIX>(self.prime, values, &factors);
                // SAFETY: offset * RADIX + RADIX - 1 < half / lines.
                unsafe { scatter(self.dst.add(offset * RADIX * lines + line), lines, self.canonical_if(last, nodes)) };
            }
        }
    }

    /// Undoes `forward` up to the factor RADIX.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse<const LAZY: Lazy, const RADIX: usize>(&self) {
        let lines = 1usize << (self.level - 3);
        let (step, offsets) = (self.half / RADIX, self.half / RADIX / lines);
        for line in 0..lines {
            // SAFETY: line < lines, and the levels exist since RADIX * lines <= half.
            let factors = unsafe { vector_factors::<RADIX>(self.factors, lines, line) };
            for offset in 0..offsets {
                // SAFETY: offset * RADIX + RADIX - 1 < half / lines.
                let nodes = unsafe { gather(self.src.add(offset * RADIX * lines + line), lines) };
                let values = inverse_round::<LAZY, RADIX>(self.prime, nodes, &factors);
                // SAFETY: offset * lines + line < step and RADIX * step = half.
                unsafe { scatter(self.dst.add(offset * lines + line), step, values) };
            }
        }
    }

    /// Two rounds of radices R1 and R2; `last` makes the results canonical.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward_double<const LAZY: Lazy, const R1: usize, const R2: usize>(&self, last: bool) {
        let lines = 1usize << (self.level - 3);
        // The offsets left after both rounds; the first round's offset is k2 * offsets + offset.
        let (step, offsets) = (self.half / R1, self.half / (R1 * R2 * lines));
        let mut block = Block::<R1, R2>([[[0; 8]; R2]; R1]);
        let block = block.0.as_mut_ptr().cast::<Line>();
        for line in 0..lines {
            // SAFETY: line < lines, and the levels exist since R1 * R2 * lines <= half.
            let factors = unsafe { vector_factors::<R1>(self.factors, lines, line) };
            for offset in 0..offsets {
                for k2 in 0..R2 {
                    let start = (k2 * offsets + offset) * lines + line;
                    // SAFETY: start < R2 * offsets * lines = step and R1 * step = half; the block has R1 * R2 lines.
                    unsafe {
                        let values = gather(self.src.add(start), step);
                        let nodes = forward_butterflies::<LAZY, R1>(self.prime, values, &factors);
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
                        let nodes = forward_butterflies::<LAZY, R2>(self.prime, values, &factors);
                        scatter(self.dst.add(start), R1 * lines, self.canonical_if(last, nodes));
                    }
                }
            }
        }
    }

    /// Undoes `forward_double` up to the factor R1 * R2.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_double<const LAZY: Lazy, const R1: usize, const R2: usize>(&self) {
        let lines = 1usize << (self.level - 3);
        let (step, offsets) = (self.half / R1, self.half / (R1 * R2 * lines));
        let mut block = Block::<R1, R2>([[[0; 8]; R2]; R1]);
        let block = block.0.as_mut_ptr().cast::<Line>();
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
                        scatter(block.add(m1 * R2), 1, inverse_round::<LAZY, R2>(self.prime, nodes, &factors));
                    }
                }
                for k2 in 0..R2 {
                    let start = (k2 * offsets + offset) * lines + line;
                    // SAFETY: as in `forward_double`, with reads and writes exchanged.
                    unsafe {
                        let nodes = gather(block.add(k2), R2);
                        scatter(self.dst.add(start), step, inverse_round::<LAZY, R1>(self.prime, nodes, &factors));
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn canonical_if<const RADIX: usize>(&self, last: bool, mut values: [__m512i; RADIX]) -> [__m512i; RADIX] {
        if last {
            for value in &mut values {
                *value = self.prime.reduce(*value);
            }
        }
        values
    }
}

/// Reads RADIX lines, `step` lines apart.
///
/// # Safety
/// These lines must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn gather<const RADIX: usize>(src: *const Line, step: usize) -> [__m512i; RADIX] {
    let mut values = [splat(0); RADIX];
    for (k, value) in values.iter_mut().enumerate() {
        // SAFETY: by the caller's promise.
        *value = unsafe { load(&*src.add(k * step)) };
    }
    values
}

/// Writes RADIX lines, `step` lines apart.
///
/// # Safety
/// These lines must be writable.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn scatter<const RADIX: usize>(dst: *mut Line, step: usize, values: [__m512i; RADIX]) {
    for (k, &value) in values.iter().enumerate() {
        // SAFETY: by the caller's promise.
        unsafe { store(&mut *dst.add(k * step), value) };
    }
}

/// Twiddles arranged by `schedule::arrange`: those for the nodes of line `line` among the `lines` lines of a level: one of that
/// level, two of the next, then four and eight, as many levels as the radix has, from index 1 on.
///
/// # Safety
/// `line` must be below `lines`, and log2(RADIX) levels must exist from this one on.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn vector_factors<const RADIX: usize>(factors: &Factors, lines: usize, line: usize) -> [VectorFactor; RADIX] {
    let values: *const Line = factors.values.as_ptr().cast();
    let quotients: *const Line = factors.quotients.as_ptr().cast();
    let mut out = [VectorFactor { value: splat(0), quotient: splat(0) }; RADIX];
    for (i, out) in out[1..].iter_mut().enumerate() {
        let index = lines + line * (RADIX - 1) + i;
        // SAFETY: the levels exist, so their tables reach up to line RADIX * lines.
        let (value, quotient) = unsafe { (load(&*values.add(index)), load(&*quotients.add(index))) };
        *out = VectorFactor { value, quotient };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::{AlignedVec, Kernel, NttTable, primes};

    /// Whatever the processor: both lengths of the head give what the portable kernel gives.
    #[test]
    fn both_heads_agree_with_the_portable_kernel() {
        let Backend::Avx512(token) = Backend::of(Kernel::Avx512Ifma) else {
            println!("SKIPPED: this processor has no AVX-512 IFMA");
            return;
        };
        for (log_n, bits) in (14..=17).flat_map(|log_n| [30, 45, 50].map(|bits| (log_n, bits))) {
            let p = Modulus::new(primes::find(log_n, bits, 1, &[]).unwrap()[0]).unwrap();
            let portable = NttTable::new(log_n, p, Kernel::Portable).unwrap();
            let n = portable.n();
            let coefficients: Vec<u64> =
                (1..=n as u64).map(|i| p.reduce(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
            let mut expected = coefficients.clone();
            portable.forward(&mut expected);
            for head in [3, 6] {
                let mut twiddles = Twiddles::new(&p, log_n, portable.root(), 52);
                arrange_for_head(&mut twiddles, log_n, head);
                let (mut a, mut scratch) = (AlignedVec::zeroed(n), AlignedVec::zeroed(n));
                a.copy_from_slice(&coefficients);
                forward(token, &p, &twiddles, &mut a, &mut scratch);
                assert!(*a == *expected, "forward, N = 2^{log_n}, {bits} bits, {head} levels");
                inverse(token, &p, &twiddles, None, &mut a, &mut scratch);
                assert!(*a == *coefficients, "inverse, N = 2^{log_n}, {bits} bits, {head} levels");
            }
        }
    }
}
