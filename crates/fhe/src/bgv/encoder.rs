//! Integers to polynomials modulo t and back.

use super::PlainModulus;
use crate::rlwe::Plaintext;
use crate::{FheError, Parameters};

/// Encodes slots or coefficients into plaintexts, and decodes.
#[derive(Clone)]
pub struct IntegerEncoder {
    parameters: Parameters,
}

impl IntegerEncoder {
    /// Errors: parameters without a plaintext modulus.
    pub fn new(parameters: &Parameters) -> Result<Self, FheError> {
        let encoder = Self { parameters: parameters.clone() };
        encoder.plain().map(|_| ())?;
        Ok(encoder)
    }

    /// Encodes N slots, the first row and then the second, times `scale` modulo t, as the polynomial of coefficients in (-t/2, t/2).
    ///
    /// Errors: wrong length, a value of t/2 or more, an impossible scale or level.
    pub fn encode(&self, slots: &[i64], scale: f64, level: usize) -> Result<Plaintext, FheError> {
        let mut residues = self.scaled(slots, scale, level)?;
        self.plain()?.table().inverse(&mut residues);
        self.lift(&residues, scale, level)
    }

    /// Encodes the N coefficients of a polynomial; errors as for [`Self::encode`].
    pub fn encode_coefficients(&self, coefficients: &[i64], scale: f64, level: usize) -> Result<Plaintext, FheError> {
        let residues = self.scaled(coefficients, scale, level)?;
        self.lift(&residues, scale, level)
    }

    /// The N slots of a polynomial modulo t, in (-t/2, t/2).
    pub fn decode(&self, mut residues: Vec<u64>) -> Result<Vec<i64>, FheError> {
        let (plain, n) = (self.plain()?, self.parameters.n());
        if residues.len() != n {
            return Err(FheError::Length { what: "coefficients to decode", expected: n, found: residues.len() });
        }
        plain.table().forward(&mut residues);
        Ok(self.centered(&residues))
    }

    /// The representatives in (-t/2, t/2).
    pub fn centered(&self, residues: &[u64]) -> Vec<i64> {
        let center = |plain: &PlainModulus| residues.iter().map(|&r| plain.modulus().center(r)).collect();
        self.parameters.plain().map(center).unwrap_or_default()
    }

    /// The coefficients modulo t, in (-t/2, t/2), of the polynomial with these N slots.
    pub fn slots_to_coefficients(&self, slots: &[i64]) -> Result<Vec<i64>, FheError> {
        let mut residues = self.scaled(slots, 1.0, 1)?;
        self.plain()?.table().inverse(&mut residues);
        Ok(self.centered(&residues))
    }

    fn plain(&self) -> Result<&PlainModulus, FheError> {
        let reason = || "they have no plaintext modulus, which integers need".into();
        self.parameters.plain().ok_or_else(|| FheError::Parameters { reason: reason() })
    }

    fn scaled(&self, values: &[i64], scale: f64, level: usize) -> Result<Vec<u64>, FheError> {
        let (t, n) = (self.plain()?.modulus(), self.parameters.n());
        self.parameters.check_level("encode", level)?;
        self.parameters.check_scale("plaintext", scale)?;
        if values.len() != n {
            return Err(FheError::Length { what: "integers to encode", expected: n, found: values.len() });
        }
        let largest = values.iter().map(|v| v.unsigned_abs()).max().unwrap_or(0);
        if largest > t.value() / 2 {
            let (value, bound) = (largest as f64, t.value() as f64 / 2.0);
            return Err(FheError::Overflow { log2_value: value.log2(), log2_bound: bound.log2(), level });
        }
        let scale = t.reduce(scale as u64);
        Ok(values.iter().map(|&v| t.mul(t.from_i64(v), scale)).collect())
    }

    fn lift(&self, residues: &[u64], scale: f64, level: usize) -> Result<Plaintext, FheError> {
        let ring = self.parameters.ring_of(level)?;
        let mut poly = ring.from_signed(&self.centered(residues), ring.limbs());
        ring.forward(&mut poly);
        Ok(Plaintext { poly, scale, level })
    }
}
