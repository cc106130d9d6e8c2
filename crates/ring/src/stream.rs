//! Matrices of ciphertexts as one packed stream, in the order in which products read them, each weight once.
//!
//! A stream holds `groups * terms` ciphertexts of degree 1, in NTT form. With B = min(16, N/2) points to a block and
//! ceil(bits/8) little-endian bytes to a residue, each limb lies in memory as
//! `[block of points][group][term][component c0, c1][point in the block]`.

use crate::aligned::with_scratch;
use crate::backend::Backend;
use crate::pages::prefer_large_pages;
use crate::{Galois, Kernel, Modulus, Ring, RnsPoly, portable};
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};
use rayon::prelude::*;

/// Points of one block: two vectors of the widest kernel.
pub(crate) const BLOCK: usize = 16;
/// Blocks of points for which a product with ciphertexts has room for copies of its inputs.
pub(crate) const SCRATCH_BLOCKS: usize = 4;
/// How far ahead a stream is fetched, in bytes.
pub(crate) const PREFETCH: usize = 8192;
/// How far ahead the inputs of many short products are fetched, in words.
const INPUTS_AHEAD: usize = 4 * BLOCK;
/// Bytes behind the last weight, so that a whole vector can be read from the start of any eight residues.
pub(crate) const PADDING: usize = 64;
/// Alignment of a limb's first byte.
const ALIGNMENT: usize = 64;
/// Residues below which a second thread costs more than it saves.
const PARALLEL_RESIDUES: usize = 1 << 18;

/// `groups * terms` weight ciphertexts of degree 1, packed to whole bytes; takes [`packed_bytes`](Self::packed_bytes) of memory.
pub struct WeightStream {
    ring: Ring,
    groups: usize,
    terms: usize,
    limbs: Vec<PackedLimb>,
}

/// The weights modulo one prime.
struct PackedLimb {
    /// The packed residues and [`PADDING`], from `start` on; never resized, so that `start` stays aligned.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    /// Bytes of one residue.
    width: usize,
}

impl PackedLimb {
    fn zeroed(residues: usize, modulus: &Modulus) -> Self {
        let width = modulus.bits().div_ceil(8) as usize;
        let len = residues * width;
        let mut bytes = vec![0; len + PADDING + ALIGNMENT - 1];
        prefer_large_pages(&mut bytes);
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1);
        PackedLimb { bytes, start, len, width }
    }

    /// The weights from residue `first` on, with the padding behind the end.
    fn tail(&self, first: usize) -> Packed<'_> {
        Packed { bytes: &self.bytes[self.start + first * self.width..], width: self.width }
    }
}

/// A part of a limb's weights, and at least [`PADDING`] readable bytes behind it.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) width: usize,
}

/// An input of a plain product: the words of one half of the orbit order, its beginning repeated behind its end.
#[derive(Clone, Copy)]
pub(crate) struct Shifted<'a> {
    pub(crate) words: &'a [u64],
    /// The shifts `0..count` are multiplied.
    pub(crate) count: usize,
}

/// A part of one limb of the inputs of a product with ciphertexts: c0 and c1 of each, or `None` for zero; set after set.
pub(crate) struct SharedInputs<'a> {
    pub(crate) parts: Vec<Option<[&'a [u64]; 2]>>,
    pub(crate) sets: usize,
    /// Inputs of one set.
    pub(crate) terms: usize,
    /// Result polynomials of a set and group: 3 for d0 = sum w0 x0, d1 = sum (w0 x1 + w1 x0), d2 = sum w1 x1; 4 for
    /// sum w0 x0, sum w0 x1, sum w1 x0, sum w1 x1.
    pub(crate) results: usize,
}

impl SharedInputs<'_> {
    /// Groups of results in `out`, which has [`results`](Self::results) slices for each set and group.
    pub(crate) fn groups(&self, out: &[&mut [u64]]) -> usize {
        out.len().checked_div(self.results * self.sets).unwrap_or(0)
    }
}

/// One summand of [`WeightStream::sum_turned_products`]: weights of one group times the inputs under an automorphism.
pub struct TurnedProduct<'a> {
    /// The weights; term t of the group is the factor of input t. Terms without input are left out.
    pub weights: &'a WeightStream,
    /// Group of the weights. Summands that follow each other should have weights that do so in one stream.
    pub group: usize,
    /// The limbs of the inputs, in NTT form.
    pub inputs: &'a [Vec<&'a [u64]>],
    /// The automorphism that is applied to each input.
    pub galois: Galois,
}

/// A part of one limb of a [`TurnedProduct`].
pub(crate) struct Turned<'a> {
    /// From the first block's first weight of the group on.
    pub(crate) weights: Packed<'a>,
    /// Bytes from one block's weights of the group to the next one's.
    pub(crate) stride: usize,
    /// How far ahead weights are fetched, in bytes: to the same place in a later block.
    pub(crate) ahead: usize,
    /// One limb of each input, N words.
    pub(crate) inputs: &'a [&'a [u64]],
    galois: Galois,
    half: usize,
}

/// Where the values of a block of points come from.
#[derive(Clone, Copy)]
pub(crate) struct BlockSource {
    /// First word of the half that is read.
    base: usize,
    /// Place of the first value in that half; the half's beginning follows its end.
    at: usize,
    half: usize,
}

impl Turned<'_> {
    /// The source of the points from `point` on, which are in one half.
    #[inline]
    pub(crate) fn source(&self, point: usize) -> BlockSource {
        let half = self.half;
        let base = if (point >= half) != self.galois.conjugate { half } else { 0 };
        // N/2 is a power of two.
        BlockSource { base, at: (point + self.galois.rotation as usize) & (half - 1), half }
    }
}

impl BlockSource {
    /// The block's values in a limb: a slice of it, or a copy where the half ends inside.
    #[inline]
    pub(crate) fn words<'a>(&self, limb: &'a [u64], len: usize, wrapped: &'a mut [u64; BLOCK]) -> &'a [u64] {
        let half = &limb[self.base..self.base + self.half];
        match half.get(self.at..self.at + len) {
            Some(words) => words,
            None => {
                let (end, start) = (&half[self.at..], &half[..len + self.at - self.half]);
                wrapped[..end.len()].copy_from_slice(end);
                wrapped[end.len()..len].copy_from_slice(start);
                &wrapped[..len]
            }
        }
    }

    /// The same for a whole block.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn block<'a>(&self, limb: &'a [u64], wrapped: &'a mut [u64; BLOCK]) -> &'a [u64; BLOCK] {
        const EMPTY: [u64; BLOCK] = [0; BLOCK];
        self.words(limb, BLOCK, wrapped).first_chunk().unwrap_or(&EMPTY)
    }

    /// Where the values of a later block are, to be fetched: perhaps behind the limb's end.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn ahead(&self, limb: &[u64]) -> *const u64 {
        limb.as_ptr().wrapping_add(self.base + self.at + INPUTS_AHEAD)
    }
}

/// A range of points of one limb of the results.
struct Task<'a> {
    limb: usize,
    start: usize,
    /// One slice for each result polynomial.
    out: Vec<&'a mut [u64]>,
}

impl WeightStream {
    /// Room for `groups * terms` ciphertexts modulo the first `limbs` primes of the ring (at least one), all zero at first.
    pub fn zeroed(ring: &Ring, limbs: usize, groups: usize, terms: usize) -> Self {
        let ring = ring.prefix(limbs);
        let residues = 2 * ring.n() * groups * terms;
        let limbs = (0..limbs).map(|i| PackedLimb::zeroed(residues, ring.modulus(i))).collect();
        WeightStream { ring, groups, terms, limbs }
    }

    /// The ring, with as many primes as the weights have limbs.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Number of groups: sums of a product with ciphertexts.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Number of products in one sum.
    pub fn terms(&self) -> usize {
        self.terms
    }

    /// Bytes of all weights.
    pub fn packed_bytes(&self) -> usize {
        self.limbs.iter().map(|limb| limb.len).sum()
    }

    /// Writes ciphertexts into the places `first..first + weights.len()`; term t of group g has place `g * terms + t`.
    ///
    /// The places must exist, and the components must have the stream's degree and limbs; else it panics.
    pub fn write(&mut self, first: usize, weights: &[[&RnsPoly; 2]]) {
        let (n, block, places) = (self.ring.n(), self.block(), self.groups * self.terms);
        assert!(first + weights.len() <= places, "the stream has {places} places");
        for component in weights.iter().flatten() {
            self.assert_fits(component);
        }
        for (i, limb) in self.limbs.iter_mut().enumerate() {
            let (width, values) = (limb.width, &mut limb.bytes[limb.start..limb.start + limb.len]);
            let of_place = 2 * block * width;
            let of_block = (places * of_place).max(1);
            let write_block = |(b, out): (usize, &mut [u8])| {
                let places = out.chunks_exact_mut(of_place).skip(first);
                for (out, weight) in places.zip(weights) {
                    for (out, component) in out.chunks_exact_mut(block * width).zip(weight) {
                        pack(width, &component.limb(i)[b * block..(b + 1) * block], out);
                    }
                }
            };
            if is_parallel(weights.len() * 2 * n) {
                values.par_chunks_mut(of_block).enumerate().with_min_len(16).for_each(write_block);
            } else {
                values.chunks_mut(of_block).enumerate().for_each(write_block);
            }
        }
    }

    /// `out[c] = sum_t W[t][c] * rot(x, t)` for a stream of one group: the terms are all shifts of the first input from 0 up to
    /// its count, then those of the second, and so on. `rot(x, t)` is the automorphism X -> X^(5^t), each count at most N/2.
    ///
    /// Uses the threads of the current rayon pool. Sizes that don't fit together are a bug of the caller and panic.
    pub fn product_plain(&self, inputs: &[(&RnsPoly, usize)], mut out: [&mut RnsPoly; 2]) {
        let half = self.ring.n() / 2;
        assert_eq!(self.groups, 1, "a product with plain inputs has one group");
        assert_eq!(inputs.iter().map(|x| x.1).sum::<usize>(), self.terms, "one shift for each term");
        for (x, count) in inputs {
            self.assert_fits(x);
            assert!(*count <= half, "an input has N/2 shifts");
        }
        // Each half of each limb, then as much of its beginning as the shifts reach: rotations become plain slices.
        let of_half = inputs.iter().map(|(_, count)| half + count).sum::<usize>();
        with_scratch(self.limbs.len() * 2 * of_half, |scratch| {
            let mut rest = &mut *scratch;
            for (limb, side) in (0..self.limbs.len()).flat_map(|limb| [(limb, 0), (limb, 1)]) {
                for (x, count) in inputs {
                    let words = &x.limb(limb)[side * half..(side + 1) * half];
                    let (extended, others) = std::mem::take(&mut rest).split_at_mut(half + count);
                    extended[..half].copy_from_slice(words);
                    extended[half..].copy_from_slice(&words[..*count]);
                    rest = others;
                }
            }
            let extended: Vec<Vec<Shifted<'_>>> = scratch
                .chunks_exact(of_half.max(1))
                .map(|mut rest| {
                    let split = |&(_, count): &(&RnsPoly, usize)| {
                        let (words, others) = rest.split_at(half + count);
                        rest = others;
                        Shifted { words, count }
                    };
                    inputs.iter().map(split).collect()
                })
                .collect();
            self.for_each_task(&mut out, |task| {
                let side = task.start / half;
                let inputs = extended.get(2 * task.limb + side).map_or(&[][..], Vec::as_slice);
                let (modulus, weights) = (self.ring.modulus(task.limb), self.packed_from(task.limb, task.start));
                let start = task.start % half;
                match self.backend() {
                    Backend::Portable => portable::stream::plain(modulus, weights, inputs, start, &mut task.out),
                    #[cfg(target_arch = "x86_64")]
                    Backend::Avx2(token) => {
                        avx2::stream::plain(token, modulus, weights, inputs, start, &mut task.out);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Backend::Avx512(token) => {
                        avx512::stream::plain(token, modulus, weights, inputs, start, &mut task.out);
                    }
                }
            });
        });
    }

    /// `sum_t W[g][t] * X_t` for each group g, all ciphertexts of degree 1: the components d0, d1, d2 of the degree-2 result go to
    /// `out[3 * g..3 * g + 3]`.
    ///
    /// Uses the threads of the current rayon pool. Sizes that don't fit together are a bug of the caller and panic.
    pub fn product_cipher(&self, inputs: &[[&RnsPoly; 2]], out: &mut [&mut RnsPoly]) {
        self.product_cipher_shared(&[inputs.iter().copied().map(Some).collect()], out);
    }

    /// [`product_cipher`](Self::product_cipher) for several sets of inputs, each with one input for each term, or `None` for zero
    /// (which costs as much): d0, d1, d2 of set s and group g go to `out[3 * (s * groups + g)..][..3]`. The weights cross the
    /// memory once for all sets: sets are taken by twos or fours, and later ones find a group's block of weights in the caches.
    pub fn product_cipher_shared(&self, inputs: &[Vec<Option<[&RnsPoly; 2]>>], out: &mut [&mut RnsPoly]) {
        self.products_of_pairs(inputs, out, 3);
    }

    /// The same for weights that are pairs of plaintexts: `sum_t W[g][t][c] * X_t` for each half c, both of degree 1, go to
    /// `out[4 * (s * groups + g) + 2 * c..][..2]`.
    pub fn product_paired_plain(&self, inputs: &[Vec<Option<[&RnsPoly; 2]>>], out: &mut [&mut RnsPoly]) {
        self.products_of_pairs(inputs, out, 4);
    }

    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    fn products_of_pairs(&self, inputs: &[Vec<Option<[&RnsPoly; 2]>>], out: &mut [&mut RnsPoly], results: usize) {
        let sets = inputs.len();
        assert!(inputs.iter().all(|inputs| inputs.len() == self.terms), "one input for each term");
        assert_eq!(out.len(), results * self.groups * sets, "{results} polynomials for each set and group");
        inputs.iter().flatten().flatten().flatten().for_each(|x| self.assert_fits(x));
        let block = self.block();
        self.for_each_task(out, |task| {
            let range = task.start..task.start + task.out.first().map_or(0, |out| out.len());
            let limbs = inputs.iter().flatten().map(|x| x.map(|x| x.map(|x| &x.limb(task.limb)[range.clone()])));
            let inputs = SharedInputs { parts: limbs.collect(), sets, terms: self.terms, results };
            let (modulus, weights) = (self.ring.modulus(task.limb), self.packed_from(task.limb, task.start));
            with_scratch(2 * block * SCRATCH_BLOCKS * self.terms * sets, |scratch| match self.backend() {
                Backend::Portable => portable::stream::cipher(modulus, weights, &inputs, &mut task.out),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2(token) => {
                    avx2::stream::cipher(token, modulus, weights, &inputs, scratch, &mut task.out);
                }
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512(token) => {
                    avx512::stream::cipher(token, modulus, weights, &inputs, scratch, &mut task.out);
                }
            });
        });
    }

    /// One limb of `acc[c] = initial[c] * acc[c] + sum_products sum_t W[t][c] * sigma(x_t)`: the limb `limb` of the ring, all of whose
    /// limbs the inputs have. `initial` are residues; if one is zero, what was in `acc` does not matter. The streams have the limb's
    /// prime among theirs, wherever.
    ///
    /// At most 512 inputs in all. Sizes that don't fit together are a bug of the caller and panic.
    pub fn sum_turned_products(
        ring: &Ring,
        limb: usize,
        products: &[TurnedProduct<'_>],
        initial: [u64; 2],
        mut acc: [&mut [u64]; 2],
    ) {
        let n = ring.n();
        let block = BLOCK.min(n / 2);
        let modulus = ring.modulus(limb);
        assert!(acc.iter().all(|acc| acc.len() == n), "a limb has N words");
        let limbs: Vec<Vec<&[u64]>> = products
            .iter()
            .map(|product| product.inputs.iter().filter_map(|x| x.get(limb).copied()).collect())
            .collect();
        let own_limb = |weights: &WeightStream| match weights.ring.modulus(limb.min(weights.limbs.len() - 1)) {
            same if same == modulus => limb,
            _ => weights.ring.position(modulus).unwrap_or(weights.limbs.len()),
        };
        for (product, limbs) in products.iter().zip(&limbs) {
            let weights = product.weights;
            assert!(product.group < weights.groups, "the stream has {} groups", weights.groups);
            assert!(product.inputs.len() <= weights.terms, "one weight for each input");
            assert!(own_limb(weights) < weights.limbs.len(), "a stream lacks the prime");
            let complete = limbs.len() == product.inputs.len() && limbs.iter().all(|limb| limb.len() == n);
            assert!(complete, "inputs must have the ring's limbs");
        }
        let backend = Backend::of(if block == BLOCK { ring.kernel() } else { Kernel::Portable });
        for start in [0, n / 2] {
            let turned: Vec<Turned<'_>> = products
                .iter()
                .zip(&limbs)
                .map(|(product, inputs)| {
                    let (weights, of_group) = (product.weights, 2 * block * product.weights.terms);
                    let first = 2 * weights.groups * weights.terms * start + product.group * of_group;
                    let weights = weights.limbs[own_limb(weights)].tail(first);
                    let stride = product.weights.groups * of_group * weights.width;
                    Turned {
                        weights,
                        stride,
                        ahead: PREFETCH.next_multiple_of(stride.max(1)),
                        inputs,
                        galois: product.galois,
                        half: n / 2,
                    }
                })
                .collect();
            let mut acc = acc.each_mut().map(|acc| &mut acc[start..start + n / 2]);
            match backend {
                Backend::Portable => portable::stream::turned(modulus, &turned, start, initial, &mut acc),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2(token) => avx2::stream::turned(token, modulus, &turned, start, initial, &mut acc),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512(token) => avx512::stream::turned(token, modulus, &turned, start, initial, &mut acc),
            }
        }
    }

    /// Cuts the results into ranges of points and runs `work` on each, on several threads if that pays.
    fn for_each_task(&self, out: &mut [&mut RnsPoly], work: impl Fn(&mut Task<'_>) + Send + Sync) {
        let (n, limbs, residues) = (self.ring.n(), self.limbs.len(), self.groups * self.terms * self.ring.n());
        out.iter().for_each(|poly| self.assert_fits(poly));
        let parallel = is_parallel(residues * limbs);
        let parts = if parallel { 2 * rayon::current_num_threads().next_power_of_two() } else { 2 };
        let points = (n / parts).max(self.block());
        let starts = (0..limbs).flat_map(|limb| (0..n).step_by(points).map(move |start| (limb, start)));
        let mut tasks: Vec<Task<'_>> =
            starts.map(|(limb, start)| Task { limb, start, out: Vec::with_capacity(out.len()) }).collect();
        for poly in out {
            for (task, out) in tasks.iter_mut().zip(poly.as_mut_slice().chunks_mut(points)) {
                task.out.push(out);
            }
        }
        if parallel {
            tasks.par_iter_mut().with_max_len(1).for_each(work);
        } else {
            tasks.iter_mut().for_each(work);
        }
    }

    fn packed_from(&self, limb: usize, start: usize) -> Packed<'_> {
        self.limbs[limb].tail(2 * self.groups * self.terms * start)
    }

    /// The kernel's implementation; blocks shorter than its vectors go to the portable one.
    fn backend(&self) -> Backend {
        Backend::of(if self.block() == BLOCK { self.ring.kernel() } else { Kernel::Portable })
    }

    fn block(&self) -> usize {
        BLOCK.min(self.ring.n() / 2)
    }

    fn assert_fits(&self, poly: &RnsPoly) {
        assert_eq!(
            (poly.n(), poly.limbs()),
            (self.ring.n(), self.limbs.len()),
            "polynomials must have the stream's degree and limbs"
        );
    }
}

fn is_parallel(residues: usize) -> bool {
    residues >= PARALLEL_RESIDUES && rayon::current_num_threads() > 1
}

/// Writes the low `width` bytes of each value.
fn pack(width: usize, values: &[u64], out: &mut [u8]) {
    fn pack<const WIDTH: usize>(values: &[u64], out: &mut [u8]) {
        for (i, value) in values.iter().enumerate() {
            // Whole words where they fit: the next value overwrites what is too much.
            match out.get_mut(i * WIDTH..i * WIDTH + 8) {
                Some(word) => word.copy_from_slice(&value.to_le_bytes()),
                None => out[i * WIDTH..(i + 1) * WIDTH].copy_from_slice(&value.to_le_bytes()[..WIDTH]),
            }
        }
    }
    match width {
        1 => pack::<1>(values, out),
        2 => pack::<2>(values, out),
        3 => pack::<3>(values, out),
        4 => pack::<4>(values, out),
        5 => pack::<5>(values, out),
        6 => pack::<6>(values, out),
        _ => pack::<7>(values, out),
    }
}
