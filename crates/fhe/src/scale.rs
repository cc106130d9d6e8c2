//! The two schemes, and how the scales of their ciphertexts are computed with.
//!
//! A ciphertext's scale is what its message was multiplied by. In CKKS it is a real number. In BGV it is a number modulo the plaintext
//! modulus t, 1 to t - 1, an integer below 2^50 that an f64 holds exactly.

use crate::rlwe::check_scale;
use crate::{FheError, Parameters};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Relative difference up to which two scales of CKKS count as equal.
const TOLERANCE: f64 = 1e-9;

/// A scheme on the RLWE core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Approximate arithmetic on complex numbers.
    #[default]
    Ckks,
    /// Exact arithmetic on integers modulo t.
    Bgv,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ckks => "ckks",
            Self::Bgv => "bgv",
        })
    }
}

impl FromStr for Scheme {
    type Err = FheError;

    fn from_str(s: &str) -> Result<Self, FheError> {
        match s {
            "ckks" => Ok(Self::Ckks),
            "bgv" => Ok(Self::Bgv),
            _ => Err(FheError::Parameters { reason: format!("there is no scheme '{s}'; choose ckks or bgv") }),
        }
    }
}

impl Parameters {
    /// BGV if there is a plaintext modulus, else CKKS.
    pub fn scheme(&self) -> Scheme {
        if self.plain().is_some() { Scheme::Bgv } else { Scheme::Ckks }
    }

    /// Checks that a scale is possible: a positive number; in BGV an integer from 1 to t - 1.
    pub fn check_scale(&self, what: &'static str, scale: f64) -> Result<(), FheError> {
        check_scale(what, scale)?;
        let Some(plain) = self.plain() else { return Ok(()) };
        let t = plain.modulus().value();
        if scale.fract() == 0.0 && scale >= 1.0 && scale < t as f64 {
            return Ok(());
        }
        Err(FheError::Malformed { what, reason: format!("scale {scale} is not an integer from 1 to {}", t - 1) })
    }

    /// The scale of a product.
    pub fn scale_of_product(&self, a: f64, b: f64) -> f64 {
        match self.plain() {
            None => a * b,
            Some(plain) => plain.mul_scales(a, b),
        }
    }

    /// The scale after a rescale from `level`.
    pub fn scale_after_rescale(&self, level: usize, scale: f64) -> Result<f64, FheError> {
        let factor = self.rescale_factor(level)?;
        let Some(plain) = self.plain() else { return Ok(scale / factor) };
        let primes = |level| self.level_limbs(level).iter().map(|&i| self.ring().modulus(i).value());
        let (higher, lower): (Vec<u64>, Vec<u64>) = (primes(level).collect(), primes(level - 1).collect());
        let only = |of: &[u64], other: &[u64]| plain.product(of.iter().filter(|q| !other.contains(q)).copied());
        let (added, divided) = (only(&lower, &higher), only(&higher, &lower));
        Ok(plain.mul_scales(scale, plain.quotient(added, divided) as f64))
    }

    /// Whether two scales count as equal: within a relative 1e-9 in CKKS, exactly in BGV.
    pub fn scales_agree(&self, left: f64, right: f64) -> bool {
        // The comparisons are written so that NaN fails them.
        match self.plain() {
            None => (left - right).abs() <= TOLERANCE * left.abs(),
            Some(_) => left == right,
        }
    }

    pub(crate) fn check_same_scale(&self, operation: &'static str, left: f64, right: f64) -> Result<(), FheError> {
        if self.scales_agree(left, right) { Ok(()) } else { Err(FheError::Scale { operation, left, right }) }
    }
}
