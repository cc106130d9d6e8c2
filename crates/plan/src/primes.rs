//! Choosing the primes of a chain: sizes to bits, special primes, and the decompositions of keys that the security table permits.

use std::collections::BTreeMap;
use subrosa_fhe::chain::swap_chain;
use subrosa_fhe::parameters::MAX_DIGIT_EXCESS_BITS;
use subrosa_fhe::{KeyShape, primes};
use subrosa_program::Program;

/// Largest prime size of the engine, bits.
pub(crate) const MAX_PRIME_BITS: u32 = 50;

/// Coefficients of plaintexts are encoded up to this size.
const MAX_COEFFICIENT_BITS: f64 = 120.0;

/// Smallest size of which there are enough primes congruent 1 modulo 2N.
pub(crate) fn min_prime_bits(log_n: u32) -> u32 {
    (log_n + 6).max(20)
}

/// The largest primes of each size, found once.
#[derive(Clone)]
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
    /// For each level from 1 on, its primes; without, those of a level are the first ones.
    pub levels: Option<Vec<Vec<usize>>>,
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
        Some(Self { ciphertext, levels: None, special, bound, log_q, log_p })
    }

    /// The same with one or more primes for each level: level l has those of the first l groups.
    pub fn grouped(pool: &mut PrimePool, groups: &[Vec<u32>], special_bits: u32, bound: f64) -> Option<Self> {
        let mut chain = Self::new(pool, &groups.concat(), special_bits, bound)?;
        let mut limbs = 0;
        let level = |group: &Vec<u32>| {
            limbs += group.len();
            (0..limbs).collect()
        };
        chain.levels = Some(groups.iter().map(level).collect());
        Some(chain)
    }

    /// Levels of the same sizes whose moduli are made of primes of up to `largest` bits, which rescales swap; special primes of as
    /// many bits. `None` if there are no such primes, or they do not fit under `bound`.
    pub fn swapped(pool: &mut PrimePool, bits: &[u32], largest: u32, bound: f64) -> Option<Self> {
        let (base, drops) = bits.split_first()?;
        let most = (bound / f64::from(largest)) as usize;
        let special = primes::find(pool.log_n, largest, most, &[]).ok()?;
        let drops: Vec<f64> = drops.iter().rev().map(|b| f64::from(*b)).collect();
        let chain = swap_chain(pool.log_n, f64::from(*base), &drops, largest, &special).ok()?;
        let log = |primes: &[u64]| primes.iter().map(|&q| (q as f64).log2()).collect::<Vec<_>>();
        let (log_q, log_p) = (log(&chain.pool), log(&special));
        let chain = Self { ciphertext: chain.pool, levels: Some(chain.levels), special, bound, log_q, log_p };
        (chain.log_q(bits.len()) <= bound).then_some(chain)
    }

    /// Whether a program's results, its input and its constants (of which `largest` bounds the coefficients, group by group) fit
    /// the moduli of their levels.
    pub fn hold(&self, program: &Program, largest: &[f64]) -> bool {
        let fits = |value: f64, scale: f64, level: usize| {
            let bits = (value * scale).log2();
            bits + 1.0 < self.log_q(level) && bits < MAX_COEFFICIENT_BITS
        };
        let input = &program.input;
        let constants = program.constants.iter().zip(largest).all(|(group, &v)| fits(v, group.scale, group.level));
        constants && fits(input.max_abs, input.scale, input.level) && program.remaining_budget_bits() > 0.0
    }

    /// The primes of a level, in the order of its limbs.
    pub fn limbs(&self, level: usize) -> Vec<usize> {
        match &self.levels {
            Some(levels) => level.checked_sub(1).and_then(|i| levels.get(i)).cloned().unwrap_or_default(),
            None => (0..level.min(self.ciphertext.len())).collect(),
        }
    }

    /// Whether a ciphertext can be taken from one level to a lower one without division.
    pub fn contains(&self, higher: usize, lower: usize) -> bool {
        let limbs = self.limbs(higher);
        self.limbs(lower).iter().all(|i| limbs.contains(i))
    }

    fn logs(&self, level: usize) -> Vec<f64> {
        self.limbs(level).iter().filter_map(|&i| self.log_q.get(i)).copied().collect()
    }

    /// log2 of the modulus of a level.
    pub fn log_q(&self, level: usize) -> f64 {
        self.logs(level).iter().sum()
    }

    /// log2 of the product of the first `specials` special primes.
    pub fn log_p(&self, specials: usize) -> f64 {
        self.log_p.iter().take(specials).sum()
    }

    /// log2 of what a rescale at `level` divides by.
    pub fn log_top(&self, level: usize) -> f64 {
        self.top(level).log2()
    }

    /// log2 of each digit's product, for digits of `digit` limbs at `level`.
    pub fn log_digits(&self, digit: usize, level: usize) -> Vec<f64> {
        self.logs(level).chunks(digit.max(1)).map(|d| d.iter().sum()).collect()
    }

    /// The shapes that a key at `level` can have: under the table, no digit far beyond the special primes, digits as equal as
    /// their number permits, and no more special primes than a digit has limbs.
    pub fn shapes(&self, level: usize) -> Vec<KeyShape> {
        let mut out = Vec::new();
        let limbs = self.limbs(level).len();
        for digit in 1..=limbs {
            if digit != limbs.div_ceil(limbs.div_ceil(digit)) {
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

    /// What a rescale at `level` divides by: the primes it drops over those it adds.
    pub fn top(&self, level: usize) -> f64 {
        let (higher, lower) = (self.limbs(level), self.limbs(level.saturating_sub(1)));
        let prime = |i: &usize| self.ciphertext.get(*i).map_or(1.0, |&q| q as f64);
        let dropped: f64 = higher.iter().filter(|i| !lower.contains(i)).map(prime).product();
        let added: f64 = lower.iter().filter(|i| !higher.contains(i)).map(prime).product();
        dropped / added
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
