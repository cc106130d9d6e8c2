//! Choosing the primes of a chain: sizes to bits, special primes, and the decompositions of keys that the security table permits.

use std::collections::BTreeMap;
use subrosa_fhe::parameters::MAX_DIGIT_EXCESS_BITS;
use subrosa_fhe::{KeyShape, primes};

/// Largest prime size of the engine, bits.
pub(crate) const MAX_PRIME_BITS: u32 = 50;

/// Smallest size of which there are enough primes congruent 1 modulo 2N.
pub(crate) fn min_prime_bits(log_n: u32) -> u32 {
    (log_n + 6).max(20)
}

/// The largest primes of each size, found once.
pub(crate) struct PrimePool {
    log_n: u32,
    found: BTreeMap<u32, Vec<u64>>,
}

impl PrimePool {
    pub fn new(log_n: u32) -> Self {
        Self { log_n, found: BTreeMap::new() }
    }

    /// Primes of these sizes, all different; `None` if there are not enough.
    fn take(&mut self, bits: &[u32]) -> Option<Vec<u64>> {
        let mut used: BTreeMap<u32, usize> = BTreeMap::new();
        let mut out = Vec::with_capacity(bits.len());
        for &b in bits {
            let index = used.entry(b).or_default();
            let found = self.found.entry(b).or_default();
            if *index == found.len() {
                *found = primes::find(self.log_n, b, *index + 1, &[]).ok()?;
            }
            out.push(*found.get(*index)?);
            *index += 1;
        }
        Some(out)
    }
}

/// The primes of a plan.
#[derive(Debug, Clone)]
pub(crate) struct PrimeChain {
    pub ciphertext: Vec<u64>,
    /// All of one size; a key uses the first few.
    pub special: Vec<u64>,
    /// The security table's bound on log2(QP).
    bound: f64,
    log_q: Vec<f64>,
    log_p: Vec<f64>,
}

impl PrimeChain {
    /// The primes of the given sizes (index 0 is the last to remain), and as many special primes of `special_bits` as a key at any
    /// level may use (none for 0). `None` if the chain does not fit under `bound`, the table's largest log2(QP).
    pub fn new(pool: &mut PrimePool, bits: &[u32], special_bits: u32, bound: f64) -> Option<Self> {
        let most = bits.len().min(if special_bits == 0 { 0 } else { (bound / f64::from(special_bits)) as usize });
        let sizes: Vec<u32> = bits.iter().copied().chain(std::iter::repeat_n(special_bits, most)).collect();
        let mut ciphertext = pool.take(&sizes)?;
        let mut special = ciphertext.split_off(bits.len());
        let log = |primes: &[u64]| primes.iter().map(|&q| (q as f64).log2()).collect::<Vec<_>>();
        let (log_q, log_p) = (log(&ciphertext), log(&special));
        let lowest = log_q.first().copied()?;
        if log_q.iter().sum::<f64>() > bound {
            return None;
        }
        let room = |count: &usize| lowest + log_p.iter().take(*count).sum::<f64>() <= bound;
        special.truncate((0..=special.len()).rev().find(room).unwrap_or(0));
        Some(Self { ciphertext, special, bound, log_q, log_p })
    }

    /// log2 of `q_0 ... q_{level-1}`.
    pub fn log_q(&self, level: usize) -> f64 {
        self.log_q.iter().take(level).sum()
    }

    /// log2 of the product of the first `specials` special primes.
    pub fn log_p(&self, specials: usize) -> f64 {
        self.log_p.iter().take(specials).sum()
    }

    /// log2 of the prime that a rescale at `level` drops.
    pub fn log_top(&self, level: usize) -> f64 {
        level.checked_sub(1).and_then(|i| self.log_q.get(i)).copied().unwrap_or(0.0)
    }

    /// log2 of each digit's product, for digits of `digit` limbs at `level`.
    pub fn log_digits(&self, digit: usize, level: usize) -> Vec<f64> {
        let limbs = self.log_q.get(..level).unwrap_or(&self.log_q);
        limbs.chunks(digit.max(1)).map(|d| d.iter().sum()).collect()
    }

    /// The shapes that a key at `level` can have: under the table, no digit far beyond the special primes, digits as equal as
    /// their number permits, and no more special primes than a digit has limbs.
    pub fn shapes(&self, level: usize) -> Vec<KeyShape> {
        let mut out = Vec::new();
        for digit in 1..=level {
            if digit != level.div_ceil(level.div_ceil(digit)) {
                continue;
            }
            let largest = self.log_digits(digit, level).into_iter().fold(0.0, f64::max);
            for specials in 1..=self.special.len().min(digit) {
                let log_p = self.log_p(specials);
                if self.log_q(level) + log_p <= self.bound && largest - log_p <= MAX_DIGIT_EXCESS_BITS {
                    out.push(KeyShape { level, specials, digit });
                }
            }
        }
        out
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

/// Sizes of the fewest primes that together have at least `bits` bits, all about equal.
pub(crate) fn split_bits(bits: u32, log_n: u32) -> Vec<u32> {
    let count = bits.div_ceil(MAX_PRIME_BITS).max(1);
    (0..count).map(|i| ((bits + count - 1 - i) / count).max(min_prime_bits(log_n))).collect()
}

/// The same with residues of the fewest whole bytes; the largest first, since it remains last.
pub(crate) fn split_bytes(bits: u32, log_n: u32) -> Vec<u32> {
    let equal = split_bits(bits, log_n);
    let (whole, least) = (MAX_PRIME_BITS / 8 * 8, min_prime_bits(log_n));
    let bytes = |sizes: &[u32]| sizes.iter().map(|b| b.div_ceil(8)).sum::<u32>();
    let mut best = equal;
    // All but one prime of two neighbouring whole sizes; the last takes what is left.
    for size in (least.div_ceil(8)..=whole / 8).map(|b| 8 * b) {
        for smaller in 0..best.len() as u32 {
            let others = best.len() as u32 - 1;
            let taken = others * size - 8 * smaller.min(others);
            let Some(rest) = bits.checked_sub(taken).map(|r| r.max(least)).filter(|&r| r <= MAX_PRIME_BITS) else {
                continue;
            };
            let mut sizes: Vec<u32> = (0..others).map(|i| if i < smaller { size - 8 } else { size }).collect();
            sizes.push(rest);
            if sizes.iter().all(|&b| b >= least) && bytes(&sizes) < bytes(&best) {
                sizes.sort_unstable_by(|a, b| b.cmp(a));
                best = sizes;
            }
        }
    }
    best
}
