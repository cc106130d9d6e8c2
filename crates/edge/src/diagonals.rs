//! The product of an encrypted matrix with a plain vector: every weight is read once, in the order it is stored.
//!
//! Rotating a plaintext costs nothing: in the ring's evaluation order it is a rotation of the two halves, so the kernel reads
//! the input from an offset. The weights are re-ordered for this once, when a bundle is loaded: limb, component, half, block of points,
//! diagonal, point.

use subrosa_fhe::{Ciphertext, Parameters, Plaintext, RnsPoly};
use subrosa_program::layout::Diagonals;

/// Points of one block: its weights for all diagonals are neighbours in memory.
const BLOCK: usize = 32;
/// Pairs that one lazy dot product takes at most.
const DOT_PAIRS: usize = 1024;

/// Weight ciphertexts in the order the product reads them.
pub(crate) struct WeightStream {
    words: Vec<u64>,
    diagonals: usize,
    level: usize,
    n: usize,
    scale: f64,
}

impl WeightStream {
    /// Re-orders the ciphertexts of one matrix (degree 1, all at one level and scale).
    pub fn new(weights: &[Ciphertext]) -> Self {
        let (level, scale) = weights.first().map_or((0, 1.0), |w| (w.level(), w.scale));
        let n = weights.first().and_then(|w| w.components.first()).map_or(0, RnsPoly::n);
        let mut words = Vec::with_capacity(2 * level * n * weights.len());
        for limb in 0..level {
            for component in 0..2 {
                for start in (0..n).step_by(BLOCK.min(n.max(1))) {
                    for w in weights {
                        let points = w.components.get(component).map_or(&[][..], |c| c.limb(limb));
                        words.extend_from_slice(points.get(start..start + BLOCK.min(n)).unwrap_or_default());
                    }
                }
            }
        }
        Self { words, diagonals: weights.len(), level, n, scale }
    }

    /// `sum_t W_t * rot(x_tile, baby)` over all diagonals of the layout.
    pub fn product(&self, parameters: &Parameters, layout: &Diagonals, tiles: &[Plaintext]) -> Ciphertext {
        let (n, half, block) = (self.n, self.n / 2, BLOCK.min(self.n / 2));
        let longest = layout.tiles.iter().map(|t| t.babies).max().unwrap_or(0);
        let mut components = vec![RnsPoly::zero(n, self.level), RnsPoly::zero(n, self.level)];
        for limb in 0..self.level {
            let table = parameters.ring().table(limb);
            // Each half of each tile, its beginning repeated behind its end: rotations become plain slices.
            let extended: Vec<[Vec<u64>; 2]> = tiles
                .iter()
                .map(|tile| {
                    let (low, high) = tile.poly.limb(limb).split_at(half);
                    [low, high].map(|h| h.iter().chain(h.iter().cycle().take(longest)).copied().collect())
                })
                .collect();
            for (c, component) in components.iter_mut().enumerate() {
                let out = component.limb_mut(limb);
                for (b, out) in out.chunks_mut(block).enumerate() {
                    let start = b * block;
                    let first = ((limb * 2 + c) * n + start) * self.diagonals;
                    let weights = self.words.get(first..first + block * self.diagonals).unwrap_or_default();
                    let (side, offset) = (start / half, start % half);
                    let inputs = layout.tiles.iter().zip(&extended).flat_map(|(tile, x)| {
                        (0..tile.babies).filter_map(move |t| x.get(side)?.get(offset + t..offset + t + block))
                    });
                    let pairs: Vec<(&[u64], &[u64])> = weights.chunks(block).zip(inputs).collect();
                    for part in pairs.chunks(DOT_PAIRS) {
                        table.dot_add_assign(out, part);
                    }
                }
            }
        }
        let scale = self.scale * tiles.first().map_or(1.0, |t| t.scale);
        Ciphertext { components, scale }
    }
}
