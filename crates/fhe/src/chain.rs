//! Chains of levels with swapped primes: moduli of a few large primes and one or two small ones, so that a rescale divides by
//! any number of bits although the primes are large ("Grafting: Decoupled scale factors and modulus in RNS-CKKS", Cheon et
//! al., ePrint 2024/1014; here without its sprouts modulo powers of two: the small factors are primes like all others).

use crate::FheError;
use subrosa_ring::{MAX_MODULUS_BITS, RingError, primes};

/// How far log2 of a level's modulus may be from what is asked for.
pub const TOLERANCE_BITS: f64 = 0.5;
/// How far it may be for the sake of primes that other levels have already.
const REUSE_BITS: f64 = 0.25;
/// Smallest rescale: the moduli must fall in spite of the tolerances.
const MIN_DROP_BITS: f64 = 1.5;
/// Primes that are tried as the first of two small ones.
const SPLITS: usize = 64;
/// Numbers that are tried on each side of a size.
const MOST_STEPS: u64 = 1 << 12;

/// A pool of primes, and for each level from 1 on its primes as indices into the pool, in the order of limbs: large ones, then small.
/// To be used as [`crate::ParameterSpec::ciphertext_primes`] and [`crate::ParameterSpec::levels`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapChain {
    /// The ciphertext primes, all distinct.
    pub pool: Vec<u64>,
    /// `levels[l - 1]`: the primes of level l.
    pub levels: Vec<Vec<usize>>,
}

/// A chain for ring degree 2^`log_n` in which level 1 has a modulus of about `base_bits` bits and the i-th rescale, counted from the top,
/// divides by about `drops[i]` bits, so with `drops.len() + 1` levels. log2 of each modulus is within [`TOLERANCE_BITS`] of that sum.
///
/// Each level has as few primes as possible: the first large primes, just below 2^`max_prime_bits` and common to all levels that are
/// large enough, and none, one or two small ones, of levels above where they fit. `avoid` are not used (special primes).
///
/// # Errors
/// [`FheError::Parameters`] if the sizes are impossible, or no primes of this ring fit them.
pub fn swap_chain(
    log_n: u32,
    base_bits: f64,
    drops: &[f64],
    max_prime_bits: u32,
    avoid: &[u64],
) -> Result<SwapChain, FheError> {
    let bad = |reason: String| FheError::Parameters { reason };
    if !primes::LOG_N_RANGE.contains(&log_n) {
        return Err(RingError::UnsupportedDegree { log_n }.into());
    }
    if !(log_n + 2..=MAX_MODULUS_BITS).contains(&max_prime_bits) {
        let min = log_n + 2;
        return Err(bad(format!("largest primes of {max_prime_bits} bits; {min} to {MAX_MODULUS_BITS} are possible")));
    }
    if let Some(drop) = drops.iter().find(|&&drop| !(drop.is_finite() && drop >= MIN_DROP_BITS)) {
        return Err(bad(format!("a rescale by {drop} bits; at least {MIN_DROP_BITS} are needed")));
    }
    let top = drops.iter().fold(base_bits, |sum, drop| sum + drop);
    // Far above the security table, and few enough primes to search for.
    let most = 63.0 * f64::from(max_prime_bits);
    if !(base_bits.is_finite() && base_bits >= f64::from(log_n) + 1.0 && top <= most) {
        let least = log_n + 1;
        return Err(bad(format!("moduli of {base_bits} to {top} bits; {least} to {most} are possible")));
    }
    let mut builder = Builder::new(log_n, max_prime_bits, top, avoid)?;
    let (mut target, mut levels) = (top, Vec::with_capacity(drops.len() + 1));
    let mut above = Vec::new();
    for drop in drops.iter().copied().chain([0.0]) {
        above = builder.level(target, &above)?;
        levels.push(above.clone());
        target -= drop;
    }
    levels.reverse();
    Ok(builder.finish(levels))
}

/// Primes by their places in a growing pool; the large ones come first.
struct Builder {
    log_n: u32,
    /// Number of large primes, in the order in which levels take them.
    large: usize,
    pool: Vec<u64>,
    /// Of each prime of the pool.
    log2: Vec<f64>,
    avoid: Vec<u64>,
    max_bits: f64,
}

impl Builder {
    fn new(log_n: u32, max_prime_bits: u32, top: f64, avoid: &[u64]) -> Result<Self, FheError> {
        // The largest primes that exist; a level of a few bits less needs no more.
        let wanted = ((top + TOLERANCE_BITS) / f64::from(max_prime_bits - 1)).ceil() as usize;
        let pool = (1..=wanted).rev().find_map(|count| primes::find(log_n, max_prime_bits, count, avoid).ok());
        let mut builder = Self {
            log_n,
            large: 0,
            pool: Vec::new(),
            log2: Vec::new(),
            avoid: avoid.to_vec(),
            max_bits: f64::from(max_prime_bits),
        };
        for prime in pool.unwrap_or_default() {
            // Those below half of the largest are not large.
            if (prime as f64).log2() > builder.max_bits - 1.0 {
                builder.push(prime);
            }
        }
        builder.large = builder.pool.len();
        Ok(builder)
    }

    fn push(&mut self, prime: u64) -> usize {
        self.pool.push(prime);
        self.log2.push((prime as f64).log2());
        self.pool.len() - 1
    }

    /// The primes of a level with a modulus of `target` bits; `above` are those of the level above.
    fn level(&mut self, target: f64, above: &[usize]) -> Result<Vec<usize>, FheError> {
        // log2 of the products of the first large primes.
        let mut sums = vec![0.0];
        for log2 in self.log2.iter().take(self.large) {
            sums.push(sums.last().copied().unwrap_or(0.0) + log2);
        }
        let fitting: Vec<(usize, f64)> =
            sums.into_iter().map(|sum| target - sum).enumerate().filter(|(_, rest)| *rest >= -TOLERANCE_BITS).collect();
        let most = fitting.last().map_or(0, |(count, _)| count + 2);
        // As few primes as possible: the number of small ones follows.
        for limbs in 1..=most {
            for &(count, rest) in fitting.iter().rev() {
                let small = match limbs.checked_sub(count) {
                    Some(0) if rest.abs() <= TOLERANCE_BITS => Some(Vec::new()),
                    Some(1) => self.one(rest, above),
                    Some(2) => self.two(rest, above),
                    _ => None,
                };
                if let Some(small) = small {
                    return Ok((0..count).chain(small).collect());
                }
            }
        }
        Err(FheError::Parameters {
            reason: format!(
                "no primes of ring degree 2^{} up to 2^{} make a modulus of {target:.1} bits",
                self.log_n, self.max_bits
            ),
        })
    }

    /// One small prime of about `bits` bits.
    fn one(&mut self, bits: f64, above: &[usize]) -> Option<Vec<usize>> {
        if let Some(index) = self.reused(bits, above, None) {
            return Some(vec![index]);
        }
        let prime = self.nearest(bits, TOLERANCE_BITS, None)?;
        Some(vec![self.push(prime)])
    }

    /// Two small primes of about `bits` bits together, the larger first.
    fn two(&mut self, bits: f64, above: &[usize]) -> Option<Vec<usize>> {
        // Two that are there already, or one, preferably of the level above.
        let mut known: Vec<usize> = (self.large..self.pool.len()).collect();
        known.sort_by_key(|i| !above.contains(i));
        let log2 = |i: usize| self.log2.get(i).copied().unwrap_or(0.0);
        let pair = known.iter().find_map(|&i| Some([i, self.reused(bits - log2(i), above, Some(i))?]));
        let single = || known.iter().find_map(|&i| Some((i, self.nearest(bits - log2(i), REUSE_BITS, None)?)));
        let mut found = match pair {
            Some(pair) => pair,
            None => match single() {
                Some((i, prime)) => [i, self.push(prime)],
                None => {
                    // Two new ones of about the same size.
                    let first = self.candidates(bits / 2.0, 3.0).take(SPLITS);
                    let pairs = first
                        .filter_map(|p| Some([p, self.nearest(bits - (p as f64).log2(), TOLERANCE_BITS, Some(p))?]));
                    let [first, second] = pairs.into_iter().next()?;
                    [self.push(first), self.push(second)]
                }
            },
        };
        found.sort_by_key(|&i| self.pool.get(i).copied().map(std::cmp::Reverse));
        Some(found.to_vec())
    }

    /// A small prime of the pool, but `except`, of about `bits` bits.
    fn reused(&self, bits: f64, above: &[usize], except: Option<usize>) -> Option<usize> {
        let error = |i: &usize| (self.log2.get(*i).copied().unwrap_or(0.0) - bits).abs();
        let fits = (self.large..self.pool.len()).filter(|i| error(i) <= REUSE_BITS && Some(*i) != except);
        fits.min_by(|a, b| {
            (!above.contains(a), error(a))
                .partial_cmp(&(!above.contains(b), error(b)))
                .unwrap_or(std::cmp::Ordering::Equal)
        })
    }

    /// The new prime nearest to `bits` bits, within `tolerance`, that is not `except`.
    fn nearest(&self, bits: f64, tolerance: f64, except: Option<u64>) -> Option<u64> {
        self.candidates(bits, tolerance).find(|prime| Some(*prime) != except)
    }

    /// New primes within `tolerance` of `bits` bits, nearest first; not all where there are many.
    fn candidates(&self, bits: f64, tolerance: f64) -> impl Iterator<Item = u64> + use<'_> {
        let step = 1u64 << (self.log_n + 1);
        let size = |prime: u64| (prime as f64).log2();
        let fits = move |prime: &u64| {
            (size(*prime) - bits).abs() <= tolerance
                && size(*prime) <= self.max_bits
                && !self.pool.contains(prime)
                && !self.avoid.contains(prime)
                && primes::is_prime(*prime)
        };
        let possible = bits >= 0.0 && bits <= self.max_bits + tolerance;
        let middle = if possible { (bits.min(self.max_bits).exp2() / step as f64).round() as u64 } else { 0 };
        let reach = if possible { MOST_STEPS.min((tolerance.exp2() * middle as f64) as u64 + 1) } else { 0 };
        let near = (0..=reach).flat_map(move |d| [middle.checked_add(d), middle.checked_sub(d).filter(|_| d > 0)]);
        near.flatten().filter(|&k| k > 0).map(move |k| k * step + 1).filter(fits)
    }

    /// Leaves out what no level uses.
    fn finish(self, levels: Vec<Vec<usize>>) -> SwapChain {
        let used: Vec<usize> = (0..self.pool.len()).filter(|i| levels.iter().any(|level| level.contains(i))).collect();
        let place = |i: &usize| used.iter().position(|other| other == i);
        SwapChain {
            pool: used.iter().filter_map(|&i| self.pool.get(i)).copied().collect(),
            levels: levels.iter().map(|level| level.iter().filter_map(place).collect()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernel, ParameterSpec, Parameters, SecurityLevel};

    /// Checks a chain and returns the numbers of limbs, from the top.
    fn checked(log_n: u32, base: f64, drops: &[f64], max: u32, avoid: &[u64]) -> Vec<usize> {
        let chain = swap_chain(log_n, base, drops, max, avoid).unwrap();
        assert_eq!(chain.levels.len(), drops.len() + 1);
        assert!(chain.pool.iter().all(|p| !avoid.contains(p) && (*p as f64).log2() <= f64::from(max)));
        let log2 = |level: &[usize]| level.iter().map(|&i| (chain.pool[i] as f64).log2()).sum::<f64>();
        let mut target = drops.iter().fold(base, |sum, drop| sum + drop);
        for (level, drop) in chain.levels.iter().rev().zip(drops.iter().chain([&0.0])) {
            assert!((log2(level) - target).abs() <= TOLERANCE_BITS, "{} instead of {target}", log2(level));
            // No more than one limb above the fewest that primes of this size can have.
            let fewest = ((target - TOLERANCE_BITS) / f64::from(max)).ceil() as usize;
            assert!(level.len() <= fewest + 1, "{} limbs for {target} bits", level.len());
            target -= drop;
        }
        chain.levels.iter().rev().map(Vec::len).collect()
    }

    #[test]
    fn every_target_is_met_with_few_primes() {
        for log_n in 11..=16 {
            for base in [36.0, 44.5, 60.0, 77.3] {
                for drop in [20.0, 25.3, 28.0, 33.0, 41.7] {
                    let avoid = primes::find(log_n, 50, 2, &[]).unwrap();
                    let rescales = (1..8).take_while(|&k| base + drop * f64::from(k) < 300.0).count();
                    checked(log_n, base, &vec![drop; rescales], 50, &avoid);
                    checked(log_n, base, &vec![drop; rescales], 48, &avoid);
                }
            }
        }
    }

    #[test]
    fn every_size_of_modulus_can_be_made() {
        // All targets from the least on, one chain each.
        for log_n in [13, 14, 15] {
            for tenth in 360..2600 {
                checked(log_n, f64::from(tenth) / 10.0, &[], 50, &[]);
            }
        }
    }

    #[test]
    fn a_deep_chain_has_half_the_limbs_of_small_primes() {
        let limbs = checked(14, 38.0, &[28.0; 9], 50, &[]);
        assert_eq!(limbs, [6, 6, 5, 5, 4, 3, 3, 2, 2, 1]);
        let chain = swap_chain(15, 60.0, &[28.0; 25], 50, &[]).unwrap();
        let spec = ParameterSpec::new(15, chain.pool, vec![], SecurityLevel::Bits128).with_levels(chain.levels);
        let parameters = Parameters::new(spec, Kernel::active().unwrap()).unwrap();
        assert_eq!(parameters.levels(), 26);
        for level in 2..=26 {
            let factor = parameters.rescale_factor(level).unwrap().log2();
            assert!(
                (factor - 28.0).abs() <= 1.0
                    && (parameters.log_q(level) - parameters.log_q(level - 1) - factor).abs() < 1e-9
            );
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for (log_n, base, drops, max) in [
            (14, 40.0, &[1.0][..], 50),
            (14, 40.0, &[f64::NAN], 50),
            (14, f64::INFINITY, &[28.0], 50),
            (14, 10.0, &[28.0], 50),
            (14, 40.0, &[28.0], 51),
            (14, 40.0, &[28.0], 12),
            (18, 40.0, &[28.0], 50),
            (14, 40.0, &[1e6], 50),
        ] {
            assert!(swap_chain(log_n, base, drops, max, &[]).is_err(), "{base} {drops:?} {max}");
        }
    }
}
