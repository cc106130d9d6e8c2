//! Rings, keys and random inputs for the tests. Everything random comes from a printed seed, except keys and errors, which
//! come from the system.
#![allow(clippy::unwrap_used, dead_code)] // helpers of tests; each test file uses its part

use std::cell::Cell;
use subrosa_fhe::{
    Ciphertext, Complex64, Encoder, EvaluationKeys, Evaluator, Galois, Kernel, KeyId, KeyShape, ParameterSpec,
    Parameters, primes,
};
use subrosa_secret::SecretKey;

/// SplitMix64: inputs of tests need no cryptography.
pub struct Random(Cell<u64>);

impl Random {
    pub fn new(test: &str, seed: u64) -> Self {
        println!("{test}: seed {seed}");
        Self(Cell::new(seed))
    }

    pub fn word(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in low ..= high.
    pub fn range(&self, low: usize, high: usize) -> usize {
        low + (self.word() % (high - low + 1) as u64) as usize
    }

    /// Uniform in (-1, 1).
    pub fn real(&self) -> f64 {
        (self.word() >> 11) as f64 / 2f64.powi(52) - 1.0
    }

    /// Complex slots that fill the unit disc's boundary and inside.
    pub fn slots(&self, count: usize) -> Vec<Complex64> {
        (0..count)
            .map(|_| Complex64::from_polar(self.real().abs().sqrt(), self.real() * std::f64::consts::PI))
            .collect()
    }

    pub fn galois(&self, slots: usize) -> Galois {
        Galois { rotation: self.range(0, slots - 1) as u32, conjugate: self.word() & 1 == 1 }
    }
}

/// One ring with its secret key and tools.
pub struct Setup {
    pub parameters: Parameters,
    pub secret: SecretKey,
    pub encoder: Encoder,
    pub evaluator: Evaluator,
}

impl Setup {
    pub fn new(parameters: Parameters) -> Self {
        Self {
            secret: SecretKey::generate(&parameters).unwrap(),
            encoder: Encoder::new(&parameters),
            evaluator: Evaluator::new(&parameters),
            parameters,
        }
    }

    /// An insecure ring with primes of the given sizes, best kernel.
    pub fn insecure(log_n: u32, q_bits: &[u32], p_bits: &[u32]) -> Self {
        let q = distinct_primes(log_n, q_bits, &[]);
        let p = distinct_primes(log_n, p_bits, &q);
        let spec = ParameterSpec::insecure_for_tests(log_n, q, p);
        Self::new(Parameters::new(spec, Kernel::active().unwrap()).unwrap())
    }

    pub fn encrypt(&self, slots: &[Complex64], scale: f64, level: usize) -> Ciphertext {
        let plaintext = self.encoder.encode(slots, scale, level).unwrap();
        self.secret.encrypt(&plaintext).unwrap().expand(&self.parameters).unwrap()
    }

    pub fn decrypt(&self, ciphertext: &Ciphertext) -> Vec<Complex64> {
        self.encoder.decode(&self.secret.decrypt_coefficients(ciphertext).unwrap()).unwrap()
    }

    pub fn keys(&self, ids: &[KeyId], shape: KeyShape) -> EvaluationKeys {
        ids.iter().map(|&id| self.secret.switch_key(id, shape).unwrap().prepare(&self.parameters).unwrap()).collect()
    }

    #[track_caller]
    pub fn assert_decrypts_to(&self, ciphertext: &Ciphertext, expected: &[Complex64], tolerance: f64) {
        let error = max_distance(&self.decrypt(ciphertext), expected);
        assert!(error <= tolerance, "error {error:e} above {tolerance:e}");
    }
}

/// Primes of the given bit sizes, all different.
pub fn distinct_primes(log_n: u32, bits: &[u32], avoid: &[u64]) -> Vec<u64> {
    let mut taken = avoid.to_vec();
    for &b in bits {
        let prime = primes::find(log_n, b, 1, &taken).unwrap();
        taken.extend(prime);
    }
    taken.split_off(avoid.len())
}

pub fn max_distance(a: &[Complex64], b: &[Complex64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).norm()).fold(0.0, f64::max)
}

/// What an automorphism does to slots: rotates left, then conjugates.
pub fn rotated(slots: &[Complex64], galois: Galois) -> Vec<Complex64> {
    let n = slots.len();
    (0..n)
        .map(|j| slots[(j + galois.rotation as usize) % n])
        .map(|z| if galois.conjugate { z.conj() } else { z })
        .collect()
}

pub fn zip(a: &[Complex64], b: &[Complex64], f: impl Fn(Complex64, Complex64) -> Complex64) -> Vec<Complex64> {
    a.iter().zip(b).map(|(&x, &y)| f(x, y)).collect()
}
