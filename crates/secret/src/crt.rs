//! From residues to centred integers as f64.

use subrosa_ring::Modulus;

/// Garner's mixed-radix conversion for a chain of primes: `x = v_0 + v_1 q_0 + v_2 q_0 q_1 + ...`, `0 <= v_i < q_i`.
pub(crate) struct CenteredCrt {
    moduli: Vec<Modulus>,
    /// `prefix[i][j]` = q_0 ... q_{j-1} modulo q_i, for j < i.
    prefix: Vec<Vec<u64>>,
    /// `inverse[i]` = (q_0 ... q_{i-1})^-1 modulo q_i.
    inverse: Vec<u64>,
    /// Mixed-radix digits of (Q - 1)/2, most significant last.
    half: Vec<u64>,
}

impl CenteredCrt {
    /// Constants for the given distinct odd primes; `None` if they are not coprime.
    pub fn new(moduli: Vec<Modulus>) -> Option<Self> {
        let mut prefix = Vec::with_capacity(moduli.len());
        let mut inverse = Vec::with_capacity(moduli.len());
        for (i, q) in moduli.iter().enumerate() {
            let mut product = 1;
            let mut row = Vec::with_capacity(i);
            for p in moduli.iter().take(i) {
                row.push(product);
                product = q.mul(product, q.reduce(p.value()));
            }
            prefix.push(row);
            inverse.push(q.inv(product)?);
        }
        // (Q - 1)/2 = -1/2 modulo every odd prime
        let minus_half: Vec<u64> = moduli.iter().map(|q| (q.value() - 1) / 2).collect();
        let mut crt = Self { moduli, prefix, inverse, half: Vec::new() };
        let mut half = Vec::new();
        crt.digits(&minus_half, &mut half);
        crt.half = half;
        Some(crt)
    }

    /// The representative in (-Q/2, Q/2) of one coefficient, rounded to f64: relative error below `limbs * 2^-52`. Both slices
    /// are used as scratch.
    pub fn centered(&self, residues: &mut [u64], digits: &mut Vec<u64>) -> f64 {
        self.digits(residues, digits);
        if digits.iter().rev().gt(self.half.iter().rev()) {
            for (r, q) in residues.iter_mut().zip(&self.moduli) {
                *r = q.neg(*r);
            }
            self.digits(residues, digits);
            return -self.value(digits);
        }
        self.value(digits)
    }

    /// The representative in (-Q/2, Q/2) of one coefficient: itself rounded to f64 as by [`Self::centered`], and exactly its residue modulo
    /// `t`. Both slices are used as scratch.
    pub fn centered_modulo(&self, residues: &mut [u64], digits: &mut Vec<u64>, t: &Modulus) -> (f64, u64) {
        let value = self.centered(residues, digits);
        // Horner's rule from the most significant digit down.
        let magnitude = digits
            .iter()
            .zip(&self.moduli)
            .rev()
            .fold(0, |sum, (&v, q)| t.add(t.mul(sum, t.reduce(q.value())), t.reduce(v)));
        (value, if value < 0.0 { t.neg(magnitude) } else { magnitude })
    }

    fn digits(&self, residues: &[u64], digits: &mut Vec<u64>) {
        digits.clear();
        for (((&residue, q), &inverse), prefix) in
            residues.iter().zip(&self.moduli).zip(&self.inverse).zip(&self.prefix)
        {
            // at most 63 products below 2^100
            let known: u128 = digits.iter().zip(prefix).map(|(&v, &f)| u128::from(v) * u128::from(f)).sum();
            digits.push(q.mul(q.sub(residue, q.reduce_u128(known)), inverse));
        }
    }

    fn value(&self, digits: &[u64]) -> f64 {
        digits.iter().zip(&self.moduli).rev().fold(0.0, |acc, (&v, q)| acc * q.value() as f64 + v as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centred_values_come_back_exactly_up_to_53_bits_and_sign() {
        let moduli: Vec<Modulus> = [97u64, 193, 257, 12289, 40961].map(|p| Modulus::new(p).unwrap()).to_vec();
        let product: i128 = 97 * 193 * 257 * 12289 * 40961;
        let crt = CenteredCrt::new(moduli.clone()).unwrap();
        for value in [
            0,
            1,
            -1,
            96,
            -97,
            4_801_123,
            -1_000_000_007,
            (product - 1) / 2,
            -(product - 1) / 2,
            product / 3,
            -product / 7,
        ] {
            let residues: Vec<u64> = moduli.iter().map(|q| value.rem_euclid(q.value() as i128) as u64).collect();
            assert_eq!(crt.centered(&mut residues.clone(), &mut Vec::new()), value as f64);
            for t in [17u64, 786_433] {
                let residue = value.rem_euclid(t.into()) as u64;
                let found = crt.centered_modulo(&mut residues.clone(), &mut Vec::new(), &Modulus::new(t).unwrap());
                assert_eq!(found, (value as f64, residue));
            }
        }
    }
}
