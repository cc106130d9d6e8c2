//! Parameters: what is wanted ([`ParameterSpec`]) and what was checked ([`Parameters`]).

use crate::FheError;
use crate::security::{SecurityLevel, max_log_qp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use subrosa_ring::{Kernel, Modulus, Ring};

/// Number of primes a ring may hold in all (the wire format's random streams are numbered by limb, 64 to a polynomial).
pub const MAX_PRIMES: usize = 64;
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
    /// Ciphertext primes `q_0 .. q_{L-1}`, each below 2^50 and 1 modulo 2N. `q_0` remains last; rescaling drops the highest.
    pub ciphertext_primes: Vec<u64>,
    /// Pool of special primes; a key uses the first few of them. May be empty if no key is ever switched.
    pub special_primes: Vec<u64>,
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
        Self { log_n, ciphertext_primes, special_primes, security: Some(security) }
    }

    /// A specification without any security, for tests in rings of degree up to 2^[`MAX_INSECURE_LOG_N`]. Cannot be serialised.
    pub fn insecure_for_tests(log_n: u32, ciphertext_primes: Vec<u64>, special_primes: Vec<u64>) -> Self {
        Self { log_n, ciphertext_primes, special_primes, security: None }
    }

    /// The level of security asked for; `None` only for rings made by [`Self::insecure_for_tests`].
    pub fn security(&self) -> Option<SecurityLevel> {
        self.security
    }
}

/// The form of a key-switching key: it lives modulo the first `level` ciphertext primes and the first `specials` special
/// primes, and cuts its input into digits of `digit` neighbouring limbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyShape {
    /// Ciphertext limbs, at least 1. The key also serves ciphertexts at lower levels.
    pub level: usize,
    /// Special primes, at least 1.
    pub specials: usize,
    /// Limbs per digit, at least 1.
    pub digit: usize,
}

impl KeyShape {
    /// Number of digits that a polynomial of `level` limbs is cut into.
    pub fn digits_at(&self, level: usize) -> usize {
        level.div_ceil(self.digit.max(1))
    }

    /// Number of digits of the key.
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
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parameters").field(&self.0.spec).finish()
    }
}

impl Parameters {
    /// Checks a specification: primes valid, distinct and at most [`MAX_PRIMES`], ciphertext modulus within the security
    /// table; then builds the tables for `kernel`.
    pub fn new(spec: ParameterSpec, kernel: Kernel) -> Result<Self, FheError> {
        let bad = |reason: String| FheError::Parameters { reason };
        let primes: Vec<u64> = spec.ciphertext_primes.iter().chain(&spec.special_primes).copied().collect();
        if spec.ciphertext_primes.is_empty() {
            return Err(bad("no ciphertext prime; at least one is needed".into()));
        }
        if primes.len() > MAX_PRIMES {
            return Err(bad(format!("{} primes; at most {MAX_PRIMES} are supported", primes.len())));
        }
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
        let log2 = primes.iter().map(|&p| (p as f64).log2()).collect();
        let parameters = Self(Arc::new(Inner { spec, ring, log2 }));
        parameters.check_modulus("the ciphertext chain", parameters.log_q(parameters.levels()))?;
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

    /// Number of ciphertext primes, which is the highest level.
    pub fn levels(&self) -> usize {
        self.0.spec.ciphertext_primes.len()
    }

    /// Size of the pool of special primes.
    pub fn specials(&self) -> usize {
        self.0.spec.special_primes.len()
    }

    /// The kernel that computes.
    pub fn kernel(&self) -> Kernel {
        self.0.ring.kernel()
    }

    /// The ring over all primes: ciphertext primes first, then special primes.
    pub fn ring(&self) -> &Ring {
        &self.0.ring
    }

    /// Modulus of ciphertext limb `index`, or `None` past the last.
    pub fn ciphertext_modulus(&self, index: usize) -> Option<&Modulus> {
        (index < self.levels()).then(|| self.0.ring.modulus(index))
    }

    /// log2 of `q_0 ... q_{level-1}` (levels beyond the last count as the last).
    pub fn log_q(&self, level: usize) -> f64 {
        self.0.log2.iter().take(level.min(self.levels())).sum()
    }

    /// log2 of the modulus of a key: its ciphertext primes times its special primes.
    pub fn log_qp(&self, shape: KeyShape) -> f64 {
        self.log_q(shape.level) + self.log_p(shape.specials)
    }

    /// log2 of the product of the first `specials` special primes.
    pub fn log_p(&self, specials: usize) -> f64 {
        self.0.log2.iter().skip(self.levels()).take(specials).sum()
    }

    /// log2 of the product of each digit that a polynomial at `level` is cut into.
    pub fn log_digits(&self, shape: KeyShape, level: usize) -> Vec<f64> {
        let q: Vec<f64> = self.0.log2.iter().take(level.min(self.levels())).copied().collect();
        q.chunks(shape.digit.max(1)).map(|d| d.iter().sum()).collect()
    }

    /// Checks that `level` is one of 1 ..= [`Self::levels`].
    pub fn check_level(&self, operation: &'static str, level: usize) -> Result<(), FheError> {
        if level == 0 || level > self.levels() {
            return Err(FheError::Level { operation, expected: self.levels(), found: level });
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
        if digit == 0 || digit > level {
            return bad(format!("a key with digits of {digit} limbs; 1 to its level {level} are possible"));
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

    fn check_modulus(&self, what: &str, log2: f64) -> Result<(), FheError> {
        let Some(security) = self.0.spec.security else { return Ok(()) };
        let bound = max_log_qp(self.log_n(), security).unwrap_or(0.0);
        if log2 > bound {
            return Err(FheError::Insecure { what: what.into(), log2, bound, log_n: self.log_n(), security });
        }
        Ok(())
    }
}
