//! The powers of psi that the transforms multiply by, each with its Shoup quotient.

use crate::Modulus;
use crate::aligned::AlignedVec;

/// A constant w with floor(w * 2^64 / p).
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    pub(crate) value: u64,
    pub(crate) quotient: u64,
}

impl Factor {
    pub(crate) fn new(p: &Modulus, value: u64) -> Self {
        Factor { value, quotient: ((u128::from(value) << 64) / u128::from(p.value())) as u64 }
    }
}

/// The twiddles w of one half, each with floor(w * 2^width / p), `width` being the multiplier width of the kernel.
/// The `2^l` words of level l start at index `2^l`; index 0 is unused.
pub(crate) struct Factors {
    pub(crate) values: AlignedVec,
    pub(crate) quotients: AlignedVec,
}

impl Factors {
    /// Values and quotients of one level, `2^level` words each.
    #[inline]
    pub(crate) fn level(&self, level: u32) -> (&[u64], &[u64]) {
        let range = 1usize << level..2usize << level;
        (&self.values[range.clone()], &self.quotients[range])
    }
}

/// All twiddles of one ring degree and prime.
pub(crate) struct Twiddles {
    /// Levels of the first pass of a kernel that can do different numbers of them, which the order of the tables depends on.
    pub(crate) head: u32,
    /// psi^(N/2), a square root of -1: splits X^N + 1 into X^(N/2) -/+ psi^(N/2).
    pub(crate) split: Factor,
    /// Half 0 holds powers of psi, half 1 the inverses: level l, node j has psi^(+-5^j * N/2^(l+2)).
    pub(crate) halves: [Factors; 2],
    /// 1/N.
    pub(crate) n_inverse: Factor,
    /// psi^(-N/2) / N.
    pub(crate) split_inverse_n_inverse: Factor,
}

impl Twiddles {
    /// For `psi` of order exactly 2N = 2^(log_n+1) modulo p.
    pub(crate) fn new(p: &Modulus, log_n: u32, psi: u64, width: u32) -> Self {
        let n = 1usize << log_n;
        // psi^-1 = psi^(2N-1); N^-1 = -(p-1)/N, for p = 1 mod N.
        let psi_inverse = p.pow(psi, 2 * n as u64 - 1);
        let n_inverse = p.value() - (p.value() - 1) / n as u64;
        let split_inverse = p.pow(psi_inverse, n as u64 / 2);
        Twiddles {
            head: 0,
            split: Factor::new(p, p.pow(psi, n as u64 / 2)),
            halves: [psi, psi_inverse].map(|root| half_factors(p, log_n, root, width)),
            n_inverse: Factor::new(p, n_inverse),
            split_inverse_n_inverse: Factor::new(p, p.mul(split_inverse, n_inverse)),
        }
    }
}

fn half_factors(p: &Modulus, log_n: u32, root: u64, width: u32) -> Factors {
    let half = 1usize << (log_n - 1);
    let mut values = AlignedVec::zeroed(half);
    let mut quotients = AlignedVec::zeroed(half);
    for level in 0..log_n - 1 {
        // The node's twiddle is base^(5^j): each is the fifth power of the one before.
        let nodes = 1usize << level;
        let mut power = p.pow(root, (half >> (level + 1)) as u64);
        for j in 0..nodes {
            let factor = Factor::new(p, power);
            values[nodes + j] = factor.value;
            quotients[nodes + j] = factor.quotient >> (64 - width);
            let square = p.mul(power, power);
            power = p.mul(p.mul(square, square), power);
        }
    }
    Factors { values, quotients }
}
