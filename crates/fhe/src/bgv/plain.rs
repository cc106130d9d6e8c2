//! The plaintext modulus.

use crate::FheError;
use subrosa_ring::{Kernel, Modulus, NttTable, Ring};

/// The prime t with its transform and its residues modulo the primes of a ring.
pub struct PlainModulus {
    table: NttTable,
    /// t modulo each prime of the ring.
    residues: Vec<u64>,
    /// Its inverses.
    inverses: Vec<u64>,
}

impl PlainModulus {
    /// For the ring of all primes, none of which may be t.
    pub(crate) fn new(t: u64, ring: &Ring) -> Result<Self, FheError> {
        let table = NttTable::new(ring.log_n(), Modulus::new(t)?, ring.kernel())?;
        let moduli = || (0..ring.limbs()).map(|i| ring.modulus(i));
        let residues: Vec<u64> = moduli().map(|q| q.reduce(t)).collect();
        let inverses: Option<Vec<u64>> = moduli().zip(&residues).map(|(q, &r)| q.inv(r)).collect();
        let common = || FheError::Parameters { reason: format!("the plaintext modulus {t} is one of the primes") };
        Ok(Self { table, residues, inverses: inverses.ok_or_else(common)? })
    }

    /// The prime.
    pub fn modulus(&self) -> &Modulus {
        self.table.modulus()
    }

    /// Its transform: slots and coefficients of a plaintext.
    pub fn table(&self) -> &NttTable {
        &self.table
    }

    /// t modulo the primes at these places in the ring of all primes.
    pub fn residues(&self, limbs: &[usize]) -> Vec<u64> {
        limbs.iter().filter_map(|&i| self.residues.get(i)).copied().collect()
    }

    /// 1/t modulo the primes at these places in the ring of all primes.
    pub fn inverses(&self, limbs: &[usize]) -> Vec<u64> {
        limbs.iter().filter_map(|&i| self.inverses.get(i)).copied().collect()
    }

    /// The product of two scales modulo t.
    pub fn mul_scales(&self, a: f64, b: f64) -> f64 {
        let t = self.modulus();
        t.mul(t.reduce(a as u64), t.reduce(b as u64)) as f64
    }

    /// The quotient of two scales modulo t; 0 if the divisor is no scale.
    pub fn divide_scales(&self, a: f64, b: f64) -> f64 {
        self.quotient(self.modulus().reduce(a as u64), self.modulus().reduce(b as u64)) as f64
    }

    /// a/b modulo t; 0 if b is 0.
    pub(crate) fn quotient(&self, a: u64, b: u64) -> u64 {
        let t = self.modulus();
        t.inv(b).map_or(0, |inverse| t.mul(a, inverse))
    }

    /// The product modulo t.
    pub(crate) fn product(&self, factors: impl Iterator<Item = u64>) -> u64 {
        let t = self.modulus();
        factors.fold(1, |product, factor| t.mul(product, t.reduce(factor)))
    }

    /// The kernel of the transform.
    pub fn kernel(&self) -> Kernel {
        self.table.kernel()
    }
}
