//! Products of packed weights. Sums of products below 2^100 in 128 bits: 2^28 of them fit, more than memory holds.

use crate::Modulus;
use crate::stream::{BLOCK, Packed, SharedInputs, Shifted, Turned};

/// `out[c][i] = sum_t W[t][c][i] * x_t[i]`: `out` are two slices of equal length, the points from `start` on of the half that
/// the inputs extend.
pub(crate) fn plain(p: &Modulus, weights: Packed<'_>, inputs: &[Shifted<'_>], start: usize, out: &mut [&mut [u64]]) {
    let points = out.first().map_or(0, |out| out.len());
    let block = BLOCK.min(points);
    let mut weights = Reader::new(weights);
    for first in (0..points).step_by(block.max(1)) {
        let mut sums = [[0u128; BLOCK]; 2];
        for input in inputs {
            let at = start + first;
            for x in (0..input.count).map(|t| &input.words[at + t..at + t + block]) {
                for sums in &mut sums {
                    let w = weights.next(block);
                    add_products(sums, &w, x);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(&sums) {
            reduce(p, sums, &mut out[first..first + block]);
        }
    }
}

/// The components d0, d1, d2 of `sum_t W[g][t] * X_t` for each set of inputs and each group g, or all four products of the components
/// apart (see [`SharedInputs::results`]); `out` are as many slices for each, set after set, as long as the inputs'.
pub(crate) fn cipher(p: &Modulus, weights: Packed<'_>, inputs: &SharedInputs<'_>, out: &mut [&mut [u64]]) {
    let points = out.first().map_or(0, |out| out.len());
    let (block, groups, terms) = (BLOCK.min(points), inputs.groups(out), inputs.terms);
    let results = inputs.results;
    let mut weights = Reader::new(weights);
    for first in (0..points).step_by(block.max(1)) {
        for group in 0..groups {
            let of_group = weights;
            for set in 0..inputs.sets {
                weights = of_group;
                let mut sums = [[0u128; BLOCK]; 4];
                for x in &inputs.parts[set * terms..(set + 1) * terms] {
                    let [w0, w1] = [weights.next(block), weights.next(block)];
                    let Some([x0, x1]) = x.map(|x| x.map(|x| &x[first..first + block])) else { continue };
                    add_products(&mut sums[0], &w0, x0);
                    add_products(&mut sums[1], &w0, x1);
                    add_products(&mut sums[results - 2], &w1, x0);
                    add_products(&mut sums[results - 1], &w1, x1);
                }
                for (out, sums) in out[results * (set * groups + group)..][..results].iter_mut().zip(&sums) {
                    reduce(p, sums, &mut out[first..first + block]);
                }
            }
        }
    }
}

/// `acc[c][i] += sum_products sum_t W[t][c][i] * turned(x_t)[i]`: `acc` are two slices of equal length, the points from `start` on, all in
/// one half. What was in `acc[c]` counts `initial[c]` times, a residue.
pub(crate) fn turned(p: &Modulus, products: &[Turned<'_>], start: usize, initial: [u64; 2], acc: &mut [&mut [u64]]) {
    let points = acc.first().map_or(0, |acc| acc.len());
    let block = BLOCK.min(points);
    for (b, first) in (0..points).step_by(block.max(1)).enumerate() {
        let mut sums = [[0u128; BLOCK]; 2];
        for ((sums, acc), factor) in sums.iter_mut().zip(&*acc).zip(initial) {
            for (sum, &x) in sums.iter_mut().zip(&acc[first..first + block]) {
                *sum = u128::from(x) * u128::from(factor);
            }
        }
        for product in products {
            let source = product.source(start + first);
            let mut weights =
                Reader::new(Packed { bytes: &product.weights.bytes[b * product.stride..], ..product.weights });
            for input in product.inputs {
                let mut wrapped = [0; BLOCK];
                let x = source.words(input, block, &mut wrapped);
                for sums in &mut sums {
                    let w = weights.next(block);
                    add_products(sums, &w, x);
                }
            }
        }
        for (acc, sums) in acc.iter_mut().zip(&sums) {
            reduce(p, sums, &mut acc[first..first + block]);
        }
    }
}

/// Reads residues one after the other.
#[derive(Clone, Copy)]
struct Reader<'a> {
    packed: Packed<'a>,
    mask: u64,
}

impl<'a> Reader<'a> {
    fn new(packed: Packed<'a>) -> Self {
        Reader { packed, mask: u64::MAX >> (64 - 8 * packed.width) }
    }

    /// The next `count` residues.
    fn next(&mut self, count: usize) -> [u64; BLOCK] {
        let width = self.packed.width;
        let mut values = [0; BLOCK];
        for (i, value) in values[..count].iter_mut().enumerate() {
            let mut word = [0; 8];
            // The padding makes eight bytes readable at every residue.
            word.copy_from_slice(&self.packed.bytes[i * width..i * width + 8]);
            *value = u64::from_le_bytes(word) & self.mask;
        }
        self.packed.bytes = &self.packed.bytes[count * width..];
        values
    }
}

fn add_products(sums: &mut [u128; BLOCK], w: &[u64; BLOCK], x: &[u64]) {
    for ((sum, &w), &x) in sums.iter_mut().zip(w).zip(x) {
        *sum += u128::from(w) * u128::from(x);
    }
}

fn reduce(p: &Modulus, sums: &[u128; BLOCK], out: &mut [u64]) {
    for (out, &sum) in out.iter_mut().zip(sums) {
        *out = p.reduce_u128(sum);
    }
}
