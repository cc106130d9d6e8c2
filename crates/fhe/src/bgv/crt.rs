//! Integers modulo several plaintext moduli at once.

use crate::FheError;
use subrosa_ring::Modulus;

/// Residues modulo distinct primes `t_0, t_1, ...`, put together to the integer in (-T/2, T/2), T their product.
#[derive(Clone, Debug)]
pub struct Channels {
    moduli: Vec<Modulus>,
    /// `inverses[i]` = (t_0 ... t_{i-1})^-1 modulo t_i.
    inverses: Vec<u64>,
    /// T; it fits 127 bits.
    product: u128,
}

impl Channels {
    /// Errors: no modulus, one twice or not a prime, or a product of 2^126 or more.
    pub fn new(moduli: &[u64]) -> Result<Self, FheError> {
        let bad = |reason: String| FheError::Parameters { reason };
        let (mut product, mut known, mut inverses) = (1u128, Vec::<Modulus>::new(), Vec::new());
        for &t in moduli {
            let modulus = Modulus::new(t)?;
            let inverse = modulus.inv(modulus.reduce_u128(product));
            inverses.push(inverse.ok_or_else(|| bad(format!("plaintext modulus {t} occurs twice")))?);
            let next = product.checked_mul(t.into()).filter(|&p| p < 1 << 126);
            product = next.ok_or_else(|| bad("plaintext moduli of more than 126 bits in all".into()))?;
            known.push(modulus);
        }
        if known.is_empty() {
            return Err(bad("no plaintext modulus; at least one is needed".into()));
        }
        Ok(Self { moduli: known, inverses, product })
    }

    /// T.
    pub fn product(&self) -> u128 {
        self.product
    }

    /// Number of moduli.
    pub fn count(&self) -> usize {
        self.moduli.len()
    }

    /// The representatives in (-t/2, t/2) of an integer modulo each t.
    pub fn split(&self, x: i128) -> Vec<i64> {
        self.moduli.iter().map(|t| t.center(t.from_i128(x))).collect()
    }

    /// The integer in (-T/2, T/2) with these residues, one for each modulus; others count as 0.
    pub fn join(&self, residues: &[i64]) -> i128 {
        let (mut value, mut product) = (0u128, 1u128);
        for ((t, inverse), &residue) in self.moduli.iter().zip(&self.inverses).zip(residues) {
            let missing = t.sub(t.from_i64(residue), t.reduce_u128(value));
            value += u128::from(t.mul(missing, *inverse)) * product;
            product *= u128::from(t.value());
        }
        if value > product / 2 { value as i128 - product as i128 } else { value as i128 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_from_their_residues() {
        let channels = Channels::new(&[97, 193, 1_125_899_906_842_597]).unwrap();
        let half = (channels.product() / 2) as i128;
        for x in [0, 1, -1, 96, -97, 1 << 40, -(1 << 55) + 7, half, -half, half - 5, 3 - half] {
            assert_eq!(channels.join(&channels.split(x)), x);
        }
        assert_eq!(channels.join(&channels.split(half + 1)), -half);
        assert!(Channels::new(&[]).is_err() && Channels::new(&[97, 97]).is_err() && Channels::new(&[98]).is_err());
    }
}
