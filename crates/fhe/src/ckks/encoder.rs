//! The canonical embedding: slot `j` of a polynomial is its value at `zeta^(5^j)`, `zeta = exp(i pi / N)`.
//!
//! With `w_k = m_k + i m_{k+N/2}` every slot is `sum_k w_k zeta^(5^j k)`, since `zeta^(5^j N/2) = i` for all `j`. That sum is a
//! transform of N/2 points whose tree is the one of the ring's NTT: at depth `l` node `j` holds the residue modulo
//! `X^(M/2^l) - zeta^(5^j M/2^l)`, M = N/2, and its children are the nodes `j` and `j + 2^l`. Stored as `offset * 2^l + node`
//! the slots come out in order, with no permutation. Every operation is a plain f64 operation in fixed order (Rust never
//! contracts to FMA), and sine and cosine come from `libm`: results are the same bits on every machine.

use crate::rlwe::{Plaintext, check_scale};
use crate::{FheError, Parameters};
use num_complex::Complex64;
use std::f64::consts::PI;

/// Largest |coefficient * scale| that is encoded, whatever the modulus.
const MAX_COEFFICIENT: f64 = 1.329_227_995_784_916e36; // 2^120

/// Encodes slots or coefficients into plaintexts, and decodes.
#[derive(Clone)]
pub struct Encoder {
    parameters: Parameters,
    /// For every depth `l` the 2^l values `zeta^(5^j M/2^(l+1))`, depth after depth.
    twiddles: Vec<Complex64>,
}

impl Encoder {
    /// Builds the tables for the ring degree of `parameters`.
    pub fn new(parameters: &Parameters) -> Self {
        let slots = parameters.slots();
        let mut twiddles = Vec::with_capacity(slots);
        let mut nodes = 1usize;
        while nodes < slots {
            // zeta^(5^j M/2^(l+1)) = exp(2 pi i * (5^j mod 2^(l+3)) / 2^(l+3))
            let order = nodes * 8;
            let mut power = 1usize;
            for _ in 0..nodes {
                twiddles.push(root_of_unity(power, order));
                power = power * 5 % order;
            }
            nodes *= 2;
        }
        Self { parameters: parameters.clone(), twiddles }
    }

    /// Encodes N/2 complex slots as `round(scale * coefficients)` at `level`.
    ///
    /// Errors: wrong length, NaN or infinity, a level out of range, or a coefficient times scale that reaches half the modulus
    /// or 2^120.
    pub fn encode(&self, slots: &[Complex64], scale: f64, level: usize) -> Result<Plaintext, FheError> {
        self.encode_coefficients(&self.slots_to_coefficients(slots)?, scale, level)
    }

    /// Encodes N/2 real slots; see [`Self::encode`].
    pub fn encode_real(&self, slots: &[f64], scale: f64, level: usize) -> Result<Plaintext, FheError> {
        let slots: Vec<Complex64> = slots.iter().map(|&re| Complex64::new(re, 0.0)).collect();
        self.encode(&slots, scale, level)
    }

    /// Encodes the N real coefficients of a polynomial; errors as for [`Self::encode`].
    pub fn encode_coefficients(&self, coefficients: &[f64], scale: f64, level: usize) -> Result<Plaintext, FheError> {
        check_scale("plaintext", scale)?;
        self.parameters.check_level("encode", level)?;
        let n = self.parameters.n();
        if coefficients.len() != n {
            return Err(FheError::Length { what: "coefficients to encode", expected: n, found: coefficients.len() });
        }
        let scaled: Vec<f64> = coefficients.iter().map(|c| (c * scale).round()).collect();
        if let Some(index) = scaled.iter().position(|c| !c.is_finite()) {
            return Err(FheError::NotFinite { what: "values to encode", index });
        }
        let largest = scaled.iter().fold(0.0f64, |max, c| max.max(c.abs()));
        // The margin covers the rounding of the product of primes.
        let ring = self.parameters.ring_of(level)?;
        let limbs = ring.limbs();
        let half_modulus = (0..limbs).map(|i| ring.modulus(i).value() as f64).product::<f64>() * (0.5 - 1e-12);
        let bound = half_modulus.min(MAX_COEFFICIENT);
        if largest >= bound {
            return Err(FheError::Overflow { log2_value: largest.log2(), log2_bound: bound.log2(), level });
        }
        let mut poly = if largest < 9.0e18 {
            let words: Vec<i64> = scaled.iter().map(|&c| c as i64).collect();
            ring.from_signed(&words, limbs)
        } else {
            let words: Vec<i128> = scaled.iter().map(|&c| c as i128).collect();
            ring.from_i128(&words, limbs)
        };
        ring.forward(&mut poly);
        Ok(Plaintext { poly, scale, level })
    }

    /// The plaintext of one real constant in every slot; cheaper than [`Self::encode`]. Errors as there.
    pub fn encode_constant(&self, value: f64, scale: f64, level: usize) -> Result<Plaintext, FheError> {
        let mut coefficients = vec![0.0; self.parameters.n()];
        if let Some(first) = coefficients.first_mut() {
            *first = value;
        }
        self.encode_coefficients(&coefficients, scale, level)
    }

    /// The N/2 slots of the polynomial with these N coefficients (already divided by the scale).
    pub fn decode(&self, coefficients: &[f64]) -> Result<Vec<Complex64>, FheError> {
        let (n, half) = (self.parameters.n(), self.parameters.slots());
        if coefficients.len() != n {
            return Err(FheError::Length { what: "coefficients to decode", expected: n, found: coefficients.len() });
        }
        let (low, high) = coefficients.split_at(half);
        let mut values: Vec<Complex64> = low.iter().zip(high).map(|(&re, &im)| Complex64::new(re, im)).collect();
        let mut next = vec![Complex64::default(); half];
        let mut nodes = 1;
        while nodes < half {
            let twiddles = &self.twiddles[nodes - 1..2 * nodes - 1];
            let (upper, lower) = values.split_at(half / 2);
            for ((out, a), b) in
                next.chunks_exact_mut(2 * nodes).zip(upper.chunks_exact(nodes)).zip(lower.chunks_exact(nodes))
            {
                let (left, right) = out.split_at_mut(nodes);
                for j in 0..nodes {
                    let t = b[j] * twiddles[j];
                    left[j] = a[j] + t;
                    right[j] = a[j] - t;
                }
            }
            std::mem::swap(&mut values, &mut next);
            nodes *= 2;
        }
        Ok(values)
    }

    /// The N real coefficients of the polynomial that has these N/2 slots: the inverse embedding, not scaled, not rounded.
    pub fn slots_to_coefficients(&self, slots: &[Complex64]) -> Result<Vec<f64>, FheError> {
        let half = self.parameters.slots();
        if slots.len() != half {
            return Err(FheError::Length { what: "slots to encode", expected: half, found: slots.len() });
        }
        let mut values = slots.to_vec();
        let mut next = vec![Complex64::default(); half];
        let mut nodes = half / 2;
        while nodes > 0 {
            let twiddles = &self.twiddles[nodes - 1..2 * nodes - 1];
            let (upper, lower) = next.split_at_mut(half / 2);
            for ((node, a), b) in
                values.chunks_exact(2 * nodes).zip(upper.chunks_exact_mut(nodes)).zip(lower.chunks_exact_mut(nodes))
            {
                let (left, right) = node.split_at(nodes);
                for j in 0..nodes {
                    a[j] = left[j] + right[j];
                    b[j] = (left[j] - right[j]) * twiddles[j].conj();
                }
            }
            std::mem::swap(&mut values, &mut next);
            nodes /= 2;
        }
        // half is a power of two, so this factor is exact
        let factor = 1.0 / half as f64;
        Ok(values.iter().map(|w| w.re * factor).chain(values.iter().map(|w| w.im * factor)).collect())
    }
}

/// `exp(2 pi i k / order)` for a power of two `order >= 8`, each part within an ulp: the angle is first brought below pi/4.
fn root_of_unity(k: usize, order: usize) -> Complex64 {
    let eighth = order / 8;
    let (octant, rest) = (k % order / eighth, k % eighth);
    let angle = |steps: usize| 2.0 * PI * (steps as f64 / order as f64);
    let (c, s) = if octant % 2 == 0 {
        (libm::cos(angle(rest)), libm::sin(angle(rest)))
    } else {
        (libm::sin(angle(eighth - rest)), libm::cos(angle(eighth - rest)))
    };
    match octant / 2 {
        0 => Complex64::new(c, s),
        1 => Complex64::new(-s, c),
        2 => Complex64::new(-c, -s),
        _ => Complex64::new(s, -c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParameterSpec;
    use subrosa_ring::{Kernel, primes};

    fn encoder(log_n: u32) -> Encoder {
        let q = primes::find(log_n, 50, 2, &[]).unwrap();
        Encoder::new(&Parameters::new(ParameterSpec::insecure_for_tests(log_n, q, vec![]), Kernel::Portable).unwrap())
    }

    #[test]
    fn slot_j_is_the_value_at_zeta_to_the_5_to_the_j() {
        for log_n in [3, 4, 7] {
            let encoder = encoder(log_n);
            let n = 1usize << log_n;
            let coefficients: Vec<f64> = (0..n).map(|k| ((k * k * 7 + 3 * k) % 23) as f64 - 11.0).collect();
            let slots = encoder.decode(&coefficients).unwrap();
            let mut power = 1;
            for slot in &slots {
                let direct: Complex64 =
                    coefficients.iter().enumerate().map(|(k, c)| root_of_unity(power * k % (2 * n), 2 * n) * c).sum();
                assert!((slot - direct).norm() < 1e-12 * n as f64, "{slot} instead of {direct}");
                power = power * 5 % (2 * n);
            }
            let back = encoder.slots_to_coefficients(&slots).unwrap();
            assert!(back.iter().zip(&coefficients).all(|(a, b)| (a - b).abs() < 1e-13 * n as f64));
        }
    }

    #[test]
    fn embedding_is_precise_to_1e_14_in_a_large_ring() {
        let encoder = encoder(11);
        let coefficients: Vec<f64> =
            (0..2048u64).map(|k| (k.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / 2f64.powi(53) - 0.5).collect();
        let slots = encoder.decode(&coefficients).unwrap();
        let back = encoder.slots_to_coefficients(&slots).unwrap();
        let error = back.iter().zip(&coefficients).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(error < 1e-14, "{error:e}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let encoder = encoder(4);
        let q: f64 = (0..2).map(|i| encoder.parameters.ring().modulus(i).value() as f64).product();
        assert!(encoder.encode_constant(0.4999, q, 2).is_ok());
        assert!(matches!(encoder.encode_constant(0.5, q, 2), Err(FheError::Overflow { level: 2, .. })));
        assert!(matches!(encoder.encode_constant(-0.6, q, 2), Err(FheError::Overflow { .. })));
        assert!(matches!(encoder.encode_constant(f64::NAN, 1.0, 1), Err(FheError::NotFinite { index: 0, .. })));
        assert!(matches!(encoder.encode_constant(1.0, 1e300, 1), Err(FheError::Overflow { .. })));
        assert!(encoder.encode_constant(1.0, 0.0, 1).is_err());
        assert!(encoder.encode_constant(1.0, 1.0, 3).is_err());
        assert!(encoder.encode_real(&[0.0; 7], 1.0, 1).is_err());
    }
}
