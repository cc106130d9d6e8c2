//! The automorphisms of the ring.

use serde::{Deserialize, Serialize};

/// The automorphism X -> X^g with g = 5^rotation, or -5^rotation if `conjugate`, modulo 2N.
///
/// In the slots of CKKS it rotates left by `rotation` and then conjugates.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Galois {
    /// Left rotation of the slots, in `0..N/2`.
    pub rotation: u32,
    /// Whether the slots are complex-conjugated.
    pub conjugate: bool,
}

impl Galois {
    /// X -> X.
    pub const IDENTITY: Galois = Galois { rotation: 0, conjugate: false };

    /// X -> X^(5^r): a left rotation of the slots by r.
    pub const fn rotation(r: u32) -> Self {
        Galois { rotation: r, conjugate: false }
    }

    /// X -> X^-1: complex conjugation of the slots.
    pub const fn conjugation() -> Self {
        Galois { rotation: 0, conjugate: true }
    }

    /// Whether this is the identity.
    pub fn is_identity(&self) -> bool {
        *self == Self::IDENTITY
    }

    /// The automorphism that undoes this one in the ring of degree n.
    pub fn inverse(&self, n: usize) -> Self {
        let half = (n / 2) as u32;
        Galois { rotation: (half - self.rotation % half) % half, conjugate: self.conjugate }
    }

    /// The exponent g in `1..2n`.
    pub fn element(&self, n: usize) -> u64 {
        let order = 2 * n as u64;
        let mut power = 1;
        let mut base = 5;
        let mut exponent = self.rotation;
        while exponent != 0 {
            if exponent & 1 == 1 {
                power = power * base % order;
            }
            base = base * base % order;
            exponent >>= 1;
        }
        if self.conjugate { order - power } else { power }
    }

    /// The block moves `(dst_start, src_start, len)` that apply the automorphism to n values in orbit order. Some may be empty.
    pub fn segments(&self, n: usize) -> [(usize, usize, usize); 4] {
        let half = n / 2;
        let shift = self.rotation as usize % half;
        let (first, second) = if self.conjugate { (half, 0) } else { (0, half) };
        [
            (0, first + shift, half - shift),
            (half - shift, first, shift),
            (half, second + shift, half - shift),
            (n - shift, second, shift),
        ]
    }
}
