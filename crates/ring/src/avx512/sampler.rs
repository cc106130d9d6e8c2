//! Sampling of errors: the steps below a number are counted by a binary search, whose probes come from registers by permutation: neither
//! branches nor addresses depend on what is sampled.

use super::arith::{load, splat};
use super::entry_points;
use crate::sampler::{BATCH, POSITION, UPPER};
use std::arch::x86_64::*;

/// The steps that the search probes at each depth, in their order: every 16th of 31 from the middle one on, then those halfway between, and so
/// on. Beyond the table's end stands what no position reaches.
struct Tree {
    depths: [[u64; 8]; 4],
    leaves: [[u64; 8]; 2],
}

const TREE: Tree = tree();

const fn tree() -> Tree {
    const fn step(i: usize) -> u64 {
        if i < UPPER.len() { UPPER[i] } else { u64::MAX }
    }
    assert!(UPPER.len() <= 31, "five depths for all steps");
    let mut tree = Tree { depths: [[0; 8]; 4], leaves: [[0; 8]; 2] };
    let mut depth = 0;
    while depth < 4 {
        let stride = 32 >> depth;
        let mut i = 0;
        while i < 1 << depth {
            tree.depths[depth][i] = step(i * stride + stride / 2 - 1);
            i += 1;
        }
        depth += 1;
    }
    let mut i = 0;
    while i < 16 {
        tree.leaves[i / 8][i % 8] = step(2 * i);
        i += 1;
    }
    tree
}

entry_points! {
    /// See the portable function.
    fn gaussian_batch(bytes: &[u8; 8 * BATCH], out: &mut [i64; BATCH], undecided: &mut u64) {
        let depths = [load(&TREE.depths[0]), load(&TREE.depths[1]), load(&TREE.depths[2]), load(&TREE.depths[3])];
        let leaves = [load(&TREE.leaves[0]), load(&TREE.leaves[1])];
        let (one, position_bits) = (splat(1), splat(POSITION));
        let mut equal = 0;
        for (bytes, out) in bytes.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<8>().0) {
            // SAFETY: the reference covers the 64 bytes read; no alignment is required.
            let words = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
            let position = _mm512_and_si512(words, position_bits);
            // Steps at or below the position, in units of the depth's distance.
            let mut count = splat(0);
            for depth in depths {
                let probe = _mm512_permutexvar_epi64(count, depth);
                equal |= _mm512_cmpeq_epu64_mask(position, probe);
                let beyond = _mm512_cmpge_epu64_mask(position, probe);
                count = _mm512_add_epi64(count, count);
                count = _mm512_mask_add_epi64(count, beyond, count, one);
            }
            let probe = _mm512_permutex2var_epi64(leaves[0], count, leaves[1]);
            equal |= _mm512_cmpeq_epu64_mask(position, probe);
            let beyond = _mm512_cmpge_epu64_mask(position, probe);
            count = _mm512_add_epi64(count, count);
            count = _mm512_mask_add_epi64(count, beyond, count, one);
            let negative = _mm512_movepi64_mask(words);
            let values = _mm512_mask_sub_epi64(count, negative, splat(0), count);
            // SAFETY: the reference covers the 64 bytes written; no alignment is required.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), values) };
        }
        *undecided = u64::from(equal);
    }
}
