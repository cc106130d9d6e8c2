//! Polynomials in residue number system form.

use crate::AlignedVec;
use std::fmt;
use zeroize::Zeroize;

/// A polynomial as `limbs` vectors of N residues, limb after limb in one aligned buffer.
///
/// Limb i is understood modulo the i-th prime of the ring it is used with; whether it holds coefficients or evaluations is
/// tracked by the caller. It is not wiped on drop: holders of secrets call [`Zeroize::zeroize`].
#[derive(Clone)]
pub struct RnsPoly {
    words: AlignedVec,
    n: usize,
    limbs: usize,
}

impl RnsPoly {
    /// The zero polynomial with `limbs` limbs of `n` words.
    pub fn zero(n: usize, limbs: usize) -> Self {
        RnsPoly { words: AlignedVec::zeroed(n * limbs), n, limbs }
    }

    /// A polynomial with unspecified residues, for one that is written before it is read.
    pub fn unspecified(n: usize, limbs: usize) -> Self {
        RnsPoly { words: AlignedVec::unspecified(n * limbs), n, limbs }
    }

    /// Words per limb (the ring degree N).
    pub fn n(&self) -> usize {
        self.n
    }

    /// Number of limbs.
    pub fn limbs(&self) -> usize {
        self.limbs
    }

    /// Limb i; i must be below [`limbs`](Self::limbs).
    #[inline]
    pub fn limb(&self, i: usize) -> &[u64] {
        &self.as_slice()[i * self.n..(i + 1) * self.n]
    }

    /// Limb i; i must be below [`limbs`](Self::limbs).
    #[inline]
    pub fn limb_mut(&mut self, i: usize) -> &mut [u64] {
        let n = self.n;
        &mut self.as_mut_slice()[i * n..(i + 1) * n]
    }

    /// The limbs in order.
    pub fn limbs_iter(&self) -> impl ExactSizeIterator<Item = &[u64]> {
        self.as_slice().chunks_exact(self.n.max(1))
    }

    /// The limbs in order, mutable.
    pub fn limbs_iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u64]> {
        let n = self.n.max(1);
        self.as_mut_slice().chunks_exact_mut(n)
    }

    /// Forgets all limbs from `limbs` on; no effect if there are not more. The memory stays allocated.
    pub fn truncate(&mut self, limbs: usize) {
        self.limbs = self.limbs.min(limbs);
    }

    /// All words, limb after limb.
    #[inline]
    pub fn as_slice(&self) -> &[u64] {
        &self.words[..self.n * self.limbs]
    }

    /// All words, limb after limb.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u64] {
        let len = self.n * self.limbs;
        &mut self.words[..len]
    }
}

impl PartialEq for RnsPoly {
    /// Compares shapes and live limbs. Not constant-time: for public data and tests.
    fn eq(&self, other: &Self) -> bool {
        self.n == other.n && self.limbs == other.limbs && self.as_slice() == other.as_slice()
    }
}

impl Eq for RnsPoly {}

impl fmt::Debug for RnsPoly {
    /// Shows the shape only: the content may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RnsPoly").field("n", &self.n).field("limbs", &self.limbs).finish_non_exhaustive()
    }
}

impl Zeroize for RnsPoly {
    /// Overwrites all words with zeros, also those of truncated limbs; the shape stays.
    fn zeroize(&mut self) {
        self.words.zeroize();
    }
}
