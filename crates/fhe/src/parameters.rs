//! Parameters: what is wanted ([`ParameterSpec`]) and what was checked ([`Parameters`]).

use crate::FheError;
use crate::bgv::PlainModulus;
use crate::security::{SecurityLevel, max_log_qp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use subrosa_ring::{Kernel, Modulus, Ring};

/// Number of primes a ring may hold in all (the wire format's random streams are numbered by limb, 64 to a polynomial): those of any
/// level, and the special primes.
pub const MAX_PRIMES: usize = 64;
/// Largest pool of ciphertext primes, and largest number of levels (the wire format has a byte for the level).
pub const MAX_POOL: usize = 255;
/// A digit may exceed the product of its key's special primes by this many bits; beyond, key switching would drown the message.
pub const MAX_DIGIT_EXCESS_BITS: f64 = 44.0;
/// Largest ring degree (log2) for which [`ParameterSpec::insecure_for_tests`] is accepted.
pub const MAX_INSECURE_LOG_N: u32 = 11;

/// What is wanted: a ring degree, its primes and a level of security.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterSpec {
    /// log2 of the ring degree N: 11 ..= 17.
    pub log_n: u32,
    /// The pool of ciphertext primes, each below 2^50 and 1 modulo 2N. Without [`Self::levels`] level l has the first l of them,
    /// `q_0 .. q_{l-1}`: `q_0` remains last, and rescaling drops the highest.
    pub ciphertext_primes: Vec<u64>,
    /// Pool of special primes; a key uses the first few of them. May be empty if no key is ever switched.
    pub special_primes: Vec<u64>,
    /// For each level from 1 on its primes, as indices into the pool and in the order of limbs; their products rise strictly with the
    /// level. Rescaling from a level to the one below multiplies by the primes that are only in the lower one and divides by those
    /// that are only in the higher one. `None`: a chain in which level l has the first l primes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<Vec<usize>>>,
    /// The plaintext modulus t of exact arithmetic, a prime below 2^50, 1 modulo 2N, and none of the others: the scheme is BGV.
    /// `None`: it is CKKS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext_modulus: Option<u64>,
    /// `None` marks a ring for tests; private, so that neither a literal nor a file can ask for it.
    #[serde(with = "required")]
    security: Option<SecurityLevel>,
}

/// An insecure specification is never written, and none can be read.
mod required {
    use super::SecurityLevel;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(v: &Option<SecurityLevel>, s: S) -> Result<S::Ok, S::Error> {
        match v {
            Some(level) => level.serialize(s),
            None => Err(serde::ser::Error::custom("parameters for tests are insecure and never leave the process")),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecurityLevel>, D::Error> {
        SecurityLevel::deserialize(d).map(Some)
    }
}

impl ParameterSpec {
    /// A specification; it is checked by [`Parameters::new`].
    pub fn new(log_n: u32, ciphertext_primes: Vec<u64>, special_primes: Vec<u64>, security: SecurityLevel) -> Self {
        Self {
            log_n,
            ciphertext_primes,
            special_primes,
            levels: None,
            plaintext_modulus: None,
            security: Some(security),
        }
    }

    /// A specification without any security, for tests in rings of degree up to 2^[`MAX_INSECURE_LOG_N`]. Cannot be serialised.
    pub fn insecure_for_tests(log_n: u32, ciphertext_primes: Vec<u64>, special_primes: Vec<u64>) -> Self {
        Self { log_n, ciphertext_primes, special_primes, levels: None, plaintext_modulus: None, security: None }
    }

    /// The same with these primes for each level; see [`Self::levels`].
    pub fn with_levels(self, levels: Vec<Vec<usize>>) -> Self {
        Self { levels: Some(levels), ..self }
    }

    /// The same for exact arithmetic modulo t; see [`Self::plaintext_modulus`].
    pub fn with_plaintext_modulus(self, t: u64) -> Self {
        Self { plaintext_modulus: Some(t), ..self }
    }

    /// Number of levels, which is the highest level.
    pub fn level_count(&self) -> usize {
        self.levels.as_ref().map_or(self.ciphertext_primes.len(), Vec::len)
    }

    /// Primes of a level as indices into the pool, in the order of limbs; none for a level that does not exist.
    pub fn level_limbs(&self, level: usize) -> Vec<usize> {
        match (&self.levels, level.checked_sub(1)) {
            (_, None) => Vec::new(),
            (Some(levels), Some(index)) => levels.get(index).cloned().unwrap_or_default(),
            (None, Some(_)) if level <= self.ciphertext_primes.len() => (0..level).collect(),
            _ => Vec::new(),
        }
    }

    /// Primes of a level in the order of limbs; none for a level that does not exist.
    pub fn level_primes(&self, level: usize) -> Vec<u64> {
        self.level_limbs(level).iter().filter_map(|&i| self.ciphertext_primes.get(i)).copied().collect()
    }

    /// What rescaling from `level` to the level below divides the scale by: the product D of the dropped primes over the product A of
    /// the added ones. `None` for level 1, and for a level that does not exist.
    pub fn rescale_factor(&self, level: usize) -> Option<f64> {
        if level < 2 || level > self.level_count() {
            return None;
        }
        let (higher, lower) = (self.level_primes(level), self.level_primes(level - 1));
        let mut added = lower.iter().filter(|q| !higher.contains(q));
        // One by one in turn, so that nothing overflows.
        let divided = higher.iter().filter(|q| !lower.contains(q)).fold(1.0, |factor, &q| {
            let factor = factor * q as f64;
            added.next().map_or(factor, |&a| factor / a as f64)
        });
        Some(added.fold(divided, |factor, &a| factor / a as f64))
    }

    /// The level of security asked for; `None` only for rings made by [`Self::insecure_for_tests`].
    pub fn security(&self) -> Option<SecurityLevel> {
        self.security
    }
}

/// The form of a key-switching key: it lives modulo the ciphertext primes of level `level` and the first `specials` special
/// primes, and cuts its input into digits of `digit` neighbouring limbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyShape {
    /// The level, at least 1. The key also serves ciphertexts at lower levels that have no other primes.
    pub level: usize,
    /// Special primes, at least 1.
    pub specials: usize,
    /// Limbs per digit, at least 1.
    pub digit: usize,
}

impl KeyShape {
    /// Number of digits that a polynomial of `limbs` limbs, the key's first, is cut into.
    pub fn digits_at(&self, limbs: usize) -> usize {
        limbs.div_ceil(self.digit.max(1))
    }

    /// Number of digits of the key in a chain without swaps, where a level has as many limbs as its number says; else see
    /// [`Parameters::digits`].
    pub fn digits(&self) -> usize {
        self.digits_at(self.level)
    }
}

/// Checked parameters with their ring tables. Cloning is cheap.
#[derive(Clone)]
pub struct Parameters(Arc<Inner>);

struct Inner {
    spec: ParameterSpec,
    ring: Ring,
    log2: Vec<f64>,
    /// From level 1 on.
    levels: Vec<Level>,
    plain: Option<PlainModulus>,
}

/// What is known of one level.
struct Level {
    /// Its limbs' places in the ring of all primes.
    limbs: Vec<usize>,
    ring: Ring,
    log_q: f64,
    /// D/A of a rescale to the level below; none at level 1.
    rescale: Option<f64>,
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parameters").field(&self.0.spec).finish()
    }
}

impl Parameters {
    /// Checks a specification: primes valid, distinct and at most [`MAX_PRIMES`] at a level, levels of falling moduli, each within
    /// the security table; then builds the tables for `kernel`.
    pub fn new(spec: ParameterSpec, kernel: Kernel) -> Result<Self, FheError> {
        let bad = |reason: String| FheError::Parameters { reason };
        let primes: Vec<u64> = spec.ciphertext_primes.iter().chain(&spec.special_primes).copied().collect();
        if let Some(t) = spec.plaintext_modulus.filter(|t| primes.contains(t)) {
            return Err(bad(format!("the plaintext modulus {t} is one of the primes")));
        }
        if spec.ciphertext_primes.is_empty() {
            return Err(bad("no ciphertext prime; at least one is needed".into()));
        }
        check_counts(&spec)?;
        if spec.security.is_none() && spec.log_n > MAX_INSECURE_LOG_N {
            return Err(bad(format!("rings for tests are limited to degree 2^{MAX_INSECURE_LOG_N}")));
        }
        if let Some(security) = spec.security
            && max_log_qp(spec.log_n, security).is_none()
        {
            return Err(bad(format!("ring degree 2^{} is not in the security table; choose 2^11 to 2^17", spec.log_n)));
        }
        let mut sorted = primes.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|w| w[0] == w[1]) {
            return Err(bad(format!("prime {} occurs twice", pair[0])));
        }
        let ring = Ring::new(spec.log_n, &primes, kernel)?;
        let log2: Vec<f64> = primes.iter().map(|&p| (p as f64).log2()).collect();
        let mut levels = Vec::with_capacity(spec.level_count());
        for level in 1..=spec.level_count() {
            let limbs = spec.level_limbs(level);
            let log_q = limbs.iter().filter_map(|&i| log2.get(i)).sum();
            let rescale = spec.rescale_factor(level);
            if rescale.is_some_and(|factor| !(factor.is_finite() && factor > 1.0)) {
                return Err(bad(format!("the modulus of level {} is not below that of level {level}", level - 1)));
            }
            levels.push(Level { ring: ring.select(&limbs), limbs, log_q, rescale });
        }
        let plain = spec.plaintext_modulus.map(|t| PlainModulus::new(t, &ring)).transpose()?;
        let parameters = Self(Arc::new(Inner { spec, ring, log2, levels, plain }));
        for level in (1..=parameters.levels()).rev() {
            parameters.check_modulus("the ciphertext chain", parameters.log_q(level))?;
        }
        Ok(parameters)
    }

    /// The specification these parameters were made from.
    pub fn spec(&self) -> &ParameterSpec {
        &self.0.spec
    }

    /// Ring degree N.
    pub fn n(&self) -> usize {
        1 << self.0.spec.log_n
    }

    /// log2 of the ring degree.
    pub fn log_n(&self) -> u32 {
        self.0.spec.log_n
    }

    /// Number of complex slots: N/2.
    pub fn slots(&self) -> usize {
        self.n() / 2
    }

    /// Number of levels, which is the highest level.
    pub fn levels(&self) -> usize {
        self.0.levels.len()
    }

    /// Size of the pool of ciphertext primes, which is the highest level if no primes are swapped.
    pub fn pool(&self) -> usize {
        self.0.spec.ciphertext_primes.len()
    }

    /// Size of the pool of special primes.
    pub fn specials(&self) -> usize {
        self.0.spec.special_primes.len()
    }

    /// The plaintext modulus with its constants; none in CKKS.
    pub fn plain(&self) -> Option<&PlainModulus> {
        self.0.plain.as_ref()
    }

    /// The kernel that computes.
    pub fn kernel(&self) -> Kernel {
        self.0.ring.kernel()
    }

    /// The ring over all primes: the pool of ciphertext primes first, then special primes. Polynomials at a level belong to
    /// [`Self::ring_of`] that level instead.
    pub fn ring(&self) -> &Ring {
        &self.0.ring
    }

    /// The ring of polynomials at `level`.
    pub fn ring_of(&self, level: usize) -> Result<&Ring, FheError> {
        let found = level.checked_sub(1).and_then(|index| self.0.levels.get(index));
        found.map(|level| &level.ring).ok_or_else(|| self.no_level("level", level))
    }

    /// Places of a level's limbs in [`Self::ring`]; none for a level that does not exist.
    pub fn level_limbs(&self, level: usize) -> &[usize] {
        let found = level.checked_sub(1).and_then(|index| self.0.levels.get(index));
        found.map_or(&[], |level| &level.limbs)
    }

    /// Moduli of a level's limbs, in order; none for a level that does not exist.
    pub fn ciphertext_moduli(&self, level: usize) -> Vec<Modulus> {
        self.level_limbs(level).iter().map(|&i| *self.0.ring.modulus(i)).collect()
    }

    /// What a rescale from `level` to the level below divides the scale by; an error at level 1 and where there is no level.
    pub fn rescale_factor(&self, level: usize) -> Result<f64, FheError> {
        let found = level.checked_sub(1).and_then(|index| self.0.levels.get(index));
        found.and_then(|level| level.rescale).ok_or(FheError::Level {
            operation: "rescale",
            expected: self.levels(),
            found: level,
        })
    }

    /// For each limb at level `lower` its place among the limbs at level `higher`; `None` if a prime is missing there.
    pub fn limbs_within(&self, lower: usize, higher: usize) -> Option<Vec<usize>> {
        let higher = self.level_limbs(higher);
        self.level_limbs(lower).iter().map(|limb| higher.iter().position(|other| other == limb)).collect()
    }

    /// Number of digits of a key.
    pub fn digits(&self, shape: KeyShape) -> usize {
        shape.digits_at(self.level_limbs(shape.level).len())
    }

    /// The digits that a key cuts a polynomial at `level` into, as places among the limbs of that level, up to the last that is not
    /// empty; `None` if the key lacks a prime of the level.
    pub fn digit_limbs(&self, shape: KeyShape, level: usize) -> Option<Vec<Vec<usize>>> {
        let mut digits = vec![Vec::new(); self.digits(shape)];
        for (limb, place) in self.limbs_within(level, shape.level)?.into_iter().enumerate() {
            digits.get_mut(place / shape.digit.max(1))?.push(limb);
        }
        while digits.last().is_some_and(Vec::is_empty) {
            digits.pop();
        }
        Some(digits)
    }

    /// Modulus of prime `index` of the pool, or `None` past the last.
    pub fn ciphertext_modulus(&self, index: usize) -> Option<&Modulus> {
        (index < self.pool()).then(|| self.0.ring.modulus(index))
    }

    /// log2 of the modulus of `level` (levels beyond the last count as the last).
    pub fn log_q(&self, level: usize) -> f64 {
        level
            .min(self.levels())
            .checked_sub(1)
            .and_then(|index| self.0.levels.get(index))
            .map_or(0.0, |level| level.log_q)
    }

    /// log2 of the modulus of a key: its ciphertext primes times its special primes.
    pub fn log_qp(&self, shape: KeyShape) -> f64 {
        self.log_q(shape.level) + self.log_p(shape.specials)
    }

    /// log2 of the product of the first `specials` special primes.
    pub fn log_p(&self, specials: usize) -> f64 {
        self.0.log2.iter().skip(self.pool()).take(specials).sum()
    }

    /// log2 of the product of each digit that a polynomial at `level` is cut into (by a key at that level, if one at `shape.level` lacks
    /// primes of it).
    pub fn log_digits(&self, shape: KeyShape, level: usize) -> Vec<f64> {
        let level = level.min(self.levels());
        let limbs = self.level_limbs(level);
        let log2 = |limb: &usize| limbs.get(*limb).and_then(|&i| self.0.log2.get(i)).copied().unwrap_or(0.0);
        let digits = self.digit_limbs(shape, level).or_else(|| self.digit_limbs(KeyShape { level, ..shape }, level));
        let digits = digits.unwrap_or_default();
        digits.iter().filter(|d| !d.is_empty()).map(|d| d.iter().map(log2).sum()).collect()
    }

    /// Checks that `level` is one of 1 ..= [`Self::levels`].
    pub fn check_level(&self, operation: &'static str, level: usize) -> Result<(), FheError> {
        if level == 0 || level > self.levels() {
            return Err(self.no_level(operation, level));
        }
        Ok(())
    }

    /// Checks a key's shape: primes exist, its modulus is within the security table, and no digit exceeds the special primes
    /// by more than [`MAX_DIGIT_EXCESS_BITS`] bits.
    pub fn check_key(&self, shape: KeyShape) -> Result<(), FheError> {
        let bad = |reason: String| Err(FheError::Parameters { reason });
        let KeyShape { level, specials, digit } = shape;
        if level == 0 || level > self.levels() {
            return bad(format!("a key at level {level}; levels are 1 to {}", self.levels()));
        }
        if specials == 0 || specials > self.specials() {
            return bad(format!(
                "a key with {specials} special primes; the pool has {}, at least one is needed",
                self.specials()
            ));
        }
        let limbs = self.level_limbs(level).len();
        if digit == 0 || digit > limbs {
            return bad(format!("a key with digits of {digit} limbs; 1 to the {limbs} of level {level} are possible"));
        }
        let excess = self.log_digits(shape, level).into_iter().fold(0.0, f64::max) - self.log_p(specials);
        if excess > MAX_DIGIT_EXCESS_BITS {
            return bad(format!(
                "digits exceed the special primes by {excess:.1} bits, at most {MAX_DIGIT_EXCESS_BITS} are useful; \
                 use smaller digits or more special primes"
            ));
        }
        self.check_modulus(&format!("the key at level {level} with {specials} special primes"), self.log_qp(shape))
    }

    fn no_level(&self, operation: &'static str, level: usize) -> FheError {
        FheError::Level { operation, expected: self.levels(), found: level }
    }

    fn check_modulus(&self, what: &str, log2: f64) -> Result<(), FheError> {
        let Some(security) = self.0.spec.security else { return Ok(()) };
        let bound = max_log_qp(self.log_n(), security).unwrap_or(0.0);
        if log2 > bound {
            return Err(FheError::Insecure { what: what.into(), log2, bound, log_n: self.log_n(), security });
        }
        Ok(())
    }
}

/// Checks the numbers of primes and levels, and that each level is a set of primes of the pool.
fn check_counts(spec: &ParameterSpec) -> Result<(), FheError> {
    let bad = |reason: String| Err(FheError::Parameters { reason });
    let (pool, specials) = (spec.ciphertext_primes.len(), spec.special_primes.len());
    let Some(levels) = &spec.levels else {
        if pool + specials > MAX_PRIMES {
            return bad(format!("{} primes; at most {MAX_PRIMES} are supported", pool + specials));
        }
        return Ok(());
    };
    if pool > MAX_POOL || levels.is_empty() || levels.len() > MAX_POOL {
        return bad(format!("{pool} primes and {} levels; 1 to {MAX_POOL} are possible", levels.len()));
    }
    for (limbs, level) in levels.iter().zip(1..) {
        if limbs.is_empty() || limbs.len() + specials > MAX_PRIMES {
            return bad(format!(
                "level {level} has {} primes; 1 to {MAX_PRIMES}, less {specials} special ones, are possible",
                limbs.len()
            ));
        }
        if let Some(index) = limbs.iter().find(|&&index| index >= pool) {
            return bad(format!("level {level} has prime {index} of a pool of {pool}"));
        }
        let mut sorted = limbs.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
            return bad(format!("level {level} has a prime twice"));
        }
    }
    Ok(())
}
