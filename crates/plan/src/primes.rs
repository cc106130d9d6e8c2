//! Choosing the primes of a chain: sizes to bits, special primes, and the decomposition of keys under the security table.

use subrosa_fhe::security::{SecurityLevel, max_log_qp};
use subrosa_fhe::{KeyShape, primes};

/// Largest prime size of the engine, bits.
pub(crate) const MAX_PRIME_BITS: u32 = 50;

/// Smallest size of which there are enough primes congruent 1 modulo 2N.
pub(crate) fn min_prime_bits(log_n: u32) -> u32 {
    (log_n + 6).max(20)
}

/// The primes of a plan, and the shapes of its keys.
#[derive(Debug, Clone)]
pub(crate) struct PrimeChain {
    pub ciphertext: Vec<u64>,
    pub special: Vec<u64>,
    /// For each level 1..: the decomposition of a key at this level, if one fits under the table.
    shapes: Vec<Option<KeyShape>>,
}

impl PrimeChain {
    /// Primes of the given sizes (index 0 is the last to remain). `keys` says whether special primes are needed.
    /// `None` if the chain does not fit under the table.
    pub fn new(log_n: u32, bits: &[u32], keys: bool, security: SecurityLevel) -> Option<Self> {
        let bound = max_log_qp(log_n, security)?;
        let mut used = Vec::new();
        let mut ciphertext = Vec::new();
        for &b in bits {
            let q = primes::find(log_n, b, 1, &used).ok()?.pop()?;
            used.push(q);
            ciphertext.push(q);
        }
        let log_q = |level: usize| ciphertext.iter().take(level).map(|&q| (q as f64).log2()).sum::<f64>();
        if log_q(ciphertext.len()) > bound {
            return None;
        }
        if !keys {
            return Some(Self { shapes: vec![None; bits.len()], ciphertext, special: Vec::new() });
        }
        // As many special primes as limbs in a digit, each a few bits larger than the limbs where the engine permits.
        let largest = bits.iter().copied().max()?;
        let special_bits = (largest + 4).min(MAX_PRIME_BITS);
        let digit_at = |level: usize| -> usize {
            let room = bound - log_q(level);
            ((room / f64::from(special_bits)).floor().max(0.0) as usize).min(level)
        };
        let pool = (1..=bits.len()).map(digit_at).max()?;
        let special = primes::find(log_n, special_bits, pool, &used).ok()?;
        let shapes = (1..=bits.len())
            .map(|level| {
                let digit = digit_at(level);
                (digit > 0).then(|| {
                    // Equal digits: no larger than the number of digits asks for.
                    let digit = level.div_ceil(level.div_ceil(digit));
                    KeyShape { level, specials: digit, digit }
                })
            })
            .collect();
        Some(Self { ciphertext, special, shapes })
    }

    /// The decomposition of a key at `level`.
    pub fn shape(&self, level: usize) -> Option<KeyShape> {
        self.shapes.get(level.checked_sub(1)?).copied().flatten()
    }

    /// Leaves only the special primes that some key uses.
    pub fn keep_specials(&mut self, count: usize) {
        self.special.truncate(count);
    }

    /// The prime that a rescale at `level` drops.
    pub fn top(&self, level: usize) -> f64 {
        level.checked_sub(1).and_then(|i| self.ciphertext.get(i)).map_or(1.0, |&q| q as f64)
    }
}

/// Sizes of the fewest primes that together have at least `bits` bits.
pub(crate) fn split_bits(bits: u32, log_n: u32) -> Vec<u32> {
    let count = bits.div_ceil(MAX_PRIME_BITS).max(1);
    (0..count).map(|i| ((bits + count - 1 - i) / count).max(min_prime_bits(log_n))).collect()
}
