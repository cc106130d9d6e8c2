//! Decryption of BGV, and the noise budget.

use crate::SecretKey;
use subrosa_fhe::{Ciphertext, FheError};

/// A ciphertext whose phase wrapped looks like one that used up all but this part of its budget; bits times ring degree.
const EXHAUSTED_BITS_TIMES_N: f64 = 64.0;

/// Budgets below this cannot be told from exhausted ones: the phase of a ciphertext that has wrapped many times is uniform, and all of
/// its n coefficients stay `b` bits below Q/2 with probability 2^(-b n) only, here 2^-64.
pub fn exhausted_below(n: usize) -> f64 {
    EXHAUSTED_BITS_TIMES_N / n as f64
}

/// A decrypted BGV ciphertext.
#[derive(Debug, Clone, PartialEq)]
pub struct Integers {
    /// The message's coefficients modulo t; [`subrosa_fhe::IntegerEncoder`] turns them into slots, or integers around 0.
    pub residues: Vec<u64>,
    /// Noise budget in bits: log2(Q/2) - log2 of the largest coefficient of `f m + t e`. Decryption is right as long as it is positive,
    /// and once it has run out it shows values near 0 (see [`exhausted_below`]).
    pub budget: f64,
}

impl SecretKey {
    /// Decrypts integers modulo t, exactly, and measures what noise budget is left.
    ///
    /// Errors: a ciphertext that does not belong to the parameters, or parameters without a plaintext modulus.
    pub fn decrypt_integers(&self, ciphertext: &Ciphertext) -> Result<Integers, FheError> {
        let parameters = self.parameters();
        let none =
            || FheError::Parameters { reason: "there is no plaintext modulus: these are ciphertexts of CKKS".into() };
        let plain = parameters.plain().ok_or_else(none)?;
        let (level, mut phase) = (ciphertext.level(), self.decrypt_phase(ciphertext)?);
        let ring = parameters.ring_of(level)?;
        ring.mul_scalars_assign(&mut phase, &plain.residues(parameters.level_limbs(level)));
        let t = plain.modulus();
        let coefficients =
            self.for_each_coefficient(&phase, level, |crt, residues, digits| crt.centered_modulo(residues, digits, t))?;
        let unscaled = plain.divide_scales(1.0, ciphertext.scale) as u64;
        let largest = coefficients.iter().map(|(value, _)| value.abs()).fold(0.0, f64::max);
        Ok(Integers {
            residues: coefficients.into_iter().map(|(_, residue)| t.mul(residue, unscaled)).collect(),
            budget: parameters.log_q(level) - 1.0 - largest.max(1.0).log2(),
        })
    }

    /// The noise budget of a ciphertext in bits; see [`Integers::budget`].
    pub fn noise_budget(&self, ciphertext: &Ciphertext) -> Result<f64, FheError> {
        Ok(self.decrypt_integers(ciphertext)?.budget.max(0.0))
    }
}
