//! Arithmetic of the error forecast: standard deviations of independent errors, in the units of the values.
//!
//! The deviations of the primitives come from [`subrosa_fhe::noise`] (sources there), which the engine's tests hold against
//! measured noise. "Slot" figures are deviations of the complex modulus in a slot, times the scale.

use subrosa_fhe::NoiseModel;

/// Square root of the sum of squares.
pub(crate) fn quadrature(parts: &[f64]) -> f64 {
    parts.iter().map(|p| p * p).sum::<f64>().sqrt()
}

/// The deviations of the primitives in one ring.
#[derive(Clone, Copy)]
pub(crate) struct Deviations {
    model: NoiseModel,
}

impl Deviations {
    pub fn new(log_n: u32) -> Self {
        Self { model: NoiseModel::new(log_n) }
    }
    /// Rounding of an encoding to integer coefficients.
    pub fn encoding(&self) -> f64 {
        self.model.encoding()
    }
    /// Symmetric encryption of a rounded encoding, in the coefficients.
    pub fn fresh(&self) -> f64 {
        quadrature(&[self.model.fresh_symmetric(), self.model.encoding()])
    }
    /// Public-key encryption of a rounded encoding, in the coefficients.
    pub fn fresh_public(&self) -> f64 {
        quadrature(&[self.model.fresh_public(), self.model.encoding()])
    }
    /// The rounding of a rescale of a ciphertext of degree 1, in the coefficients.
    pub fn rescale(&self) -> f64 {
        self.model.rounding(1)
    }
    /// One key product, in the coefficients, before the rounding of its division: log2 of the digits' and of the special primes'
    /// products.
    pub fn key_product(&self, log_digits: &[f64], log_p: f64) -> f64 {
        self.model.key_product(log_digits, log_p)
    }
    /// `products` key products with one division, in the coefficients.
    pub fn key_switch(&self, log_digits: &[f64], log_p: f64, products: usize) -> f64 {
        self.model.key_switch(log_digits, log_p, products)
    }
    /// The same with the highest prime (of log2 `log_top`) dropped in the same division.
    pub fn key_switch_rescale(&self, log_digits: &[f64], log_p: f64, log_top: f64, products: usize) -> f64 {
        self.model.key_switch_rescale(0.0, log_digits, log_p, log_top, products)
    }
    /// From coefficients to slots.
    pub fn slots(&self, coefficients: f64) -> f64 {
        self.model.slot_std(coefficients)
    }
    /// The bound that `values` errors of deviation `std` exceed with probability at most 2^-40, with the heavier tail of
    /// errors that were multiplied by the secret.
    pub fn tail(&self, std: f64, values: usize) -> f64 {
        self.model.slot_bound(1.0, values) / self.model.slot_std(1.0) * std
    }
}
