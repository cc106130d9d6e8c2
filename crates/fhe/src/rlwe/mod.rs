//! The scheme-agnostic core: ciphertexts, public-key encryption of any polynomial, key switching.

mod key;
mod public_key;
mod switch;

pub use key::{EvaluationKeys, ExpandedKey, KeyBank, KeyId, KeySwitchKey, MAX_POWER, PreparedKey};
pub use public_key::PublicKey;
pub use switch::{Digits, KeySwitcher, Switch};
pub(crate) use switch::{common_shape, needed_key};

use crate::{FheError, Parameters};
use std::borrow::Cow;
use subrosa_ring::RnsPoly;

/// Highest degree of a ciphertext.
pub const MAX_DEGREE: usize = 4;

/// Components in NTT form over the primes of `level`; the phase `sum_k c_k s^k` is, in CKKS, the message, times `scale`, plus noise; in
/// BGV it is that of [`crate::bgv`], and `scale` a number modulo the plaintext modulus.
#[derive(Clone, Debug, PartialEq)]
pub struct Ciphertext {
    /// `c_0 .. c_degree`, all at one level.
    pub components: Vec<RnsPoly>,
    /// What the message was multiplied by.
    pub scale: f64,
    /// The level, which says what primes the limbs belong to.
    pub level: usize,
}

impl Ciphertext {
    /// The level.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Power of the secret that the last component belongs to.
    pub fn degree(&self) -> usize {
        self.components.len().saturating_sub(1)
    }

    /// Checks that the ciphertext belongs to the ring: 1 to [`MAX_DEGREE`] + 1 components of the ring's degree, all at one
    /// level in range, finite positive scale.
    pub fn check(&self, parameters: &Parameters) -> Result<(), FheError> {
        let bad = |reason: String| Err(FheError::Malformed { what: "ciphertext", reason });
        if self.components.is_empty() || self.components.len() > MAX_DEGREE + 1 {
            return bad(format!("{} components; 1 to {} are possible", self.components.len(), MAX_DEGREE + 1));
        }
        for component in &self.components {
            check_poly("ciphertext", component, self.level(), parameters)?;
        }
        parameters.check_scale("ciphertext", self.scale)
    }
}

/// An encoded message.
#[derive(Clone, Debug, PartialEq)]
pub struct Plaintext {
    /// NTT form over the primes of `level`.
    pub poly: RnsPoly,
    /// What the message was multiplied by.
    pub scale: f64,
    /// The level, which says what primes the limbs belong to.
    pub level: usize,
}

impl Plaintext {
    /// The level.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Checks that it belongs to the ring.
    pub fn check(&self, parameters: &Parameters) -> Result<(), FheError> {
        parameters.check_scale("plaintext", self.scale)?;
        check_poly("plaintext", &self.poly, self.level, parameters)
    }

    /// The polynomial as a ciphertext carries it: as it is in CKKS, divided by t modulo Q in BGV.
    pub fn carried(&self, parameters: &Parameters) -> Result<Cow<'_, RnsPoly>, FheError> {
        self.check(parameters)?;
        let Some(plain) = parameters.plain() else { return Ok(Cow::Borrowed(&self.poly)) };
        let mut poly = self.poly.clone();
        let limbs = parameters.level_limbs(self.level);
        parameters.ring_of(self.level)?.mul_scalars_assign(&mut poly, &plain.inverses(limbs));
        Ok(Cow::Owned(poly))
    }
}

/// A fresh symmetric encryption: `c_0 = body`, `c_1` is the uniform polynomial of the public `seed`.
#[derive(Clone, Debug, PartialEq)]
pub struct SeededCiphertext {
    /// `c_0` in NTT form.
    pub body: RnsPoly,
    /// Public seed of `c_1`; unique to this ciphertext.
    pub seed: [u8; 32],
    /// What the message was multiplied by.
    pub scale: f64,
    /// The level, which says what primes the limbs belong to.
    pub level: usize,
}

impl SeededCiphertext {
    /// The full ciphertext: `c_1 = ring.uniform(limbs, seed, 0)` in the ring of the level.
    pub fn expand(&self, parameters: &Parameters) -> Result<Ciphertext, FheError> {
        check_poly("seeded ciphertext", &self.body, self.level, parameters)?;
        let uniform = parameters.ring_of(self.level)?.uniform(self.body.limbs(), &self.seed, 0);
        Ok(Ciphertext { components: vec![self.body.clone(), uniform], scale: self.scale, level: self.level })
    }

    /// The level.
    pub fn level(&self) -> usize {
        self.level
    }
}

/// Checks that a polynomial has the ring's degree and the limbs of `level`, and that the level exists.
pub fn check_poly(what: &'static str, poly: &RnsPoly, level: usize, parameters: &Parameters) -> Result<(), FheError> {
    let bad = |reason: String| Err(FheError::Malformed { what, reason });
    if poly.n() != parameters.n() {
        return bad(format!("ring degree {} instead of {}", poly.n(), parameters.n()));
    }
    if level == 0 || level > parameters.levels() {
        return bad(format!("level {level}; levels are 1 to {}", parameters.levels()));
    }
    let limbs = parameters.level_limbs(level).len();
    if poly.limbs() != limbs {
        return bad(format!("{} limbs where level {level} has {limbs}", poly.limbs()));
    }
    Ok(())
}

/// Checks that a scale is finite and positive.
pub fn check_scale(what: &'static str, scale: f64) -> Result<(), FheError> {
    if scale.is_finite() && scale > 0.0 {
        return Ok(());
    }
    Err(FheError::Malformed { what, reason: format!("scale {scale} is not a positive number") })
}
