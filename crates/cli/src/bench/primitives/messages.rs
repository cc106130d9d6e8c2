//! What primitives are measured on: real numbers for CKKS, integers modulo t for BGV.

use super::chain::{PLAIN_BITS, PRIME_BITS};
use rand::{Rng, RngExt};
use std::fmt;
use subrosa_fhe::{Ciphertext, Complex64, Encoder, FheError, IntegerEncoder, Modulus, Parameters, Plaintext, Scheme};
use subrosa_secret::SecretKey;

/// A larger error of CKKS is a defect, not noise.
const WRONG: f64 = 1e-5;

/// Two messages, and the encoder that they need.
pub(super) enum Messages {
    Reals { encoder: Encoder, values: [Vec<f64>; 2] },
    Integers { encoder: IntegerEncoder, values: [Vec<i64>; 2], t: Modulus },
}

/// What a ciphertext should hold.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    /// The product of both messages.
    Product,
    /// The first message, rotated.
    Rotated(usize),
}

/// Decrypted slots.
pub(super) enum Slots {
    Reals(Vec<Complex64>),
    Integers(Vec<i64>),
}

impl Messages {
    /// Random messages that fill all slots.
    pub fn draw(scheme: Scheme, parameters: &Parameters, rng: &mut impl Rng) -> Result<Self, FheError> {
        let Some(plain) = parameters.plain().filter(|_| scheme == Scheme::Bgv) else {
            let values = [(); 2].map(|()| (0..parameters.slots()).map(|_| rng.random_range(-1.0..1.0)).collect());
            return Ok(Messages::Reals { encoder: Encoder::new(parameters), values });
        };
        let t = *plain.modulus();
        let half = (t.value() / 2) as i64;
        let values = [(); 2].map(|()| (0..parameters.n()).map(|_| rng.random_range(-half..=half)).collect());
        Ok(Messages::Integers { encoder: IntegerEncoder::new(parameters)?, values, t })
    }

    /// The largest error of a right result.
    pub fn wrong(&self) -> f64 {
        match self {
            Messages::Reals { .. } => WRONG,
            Messages::Integers { .. } => 0.0,
        }
    }

    /// Both messages as plaintexts.
    pub fn encode(&self, level: usize) -> Result<[Plaintext; 2], FheError> {
        Ok([self.encode_message(0, level)?, self.encode_message(1, level)?])
    }

    /// The first message as a plaintext.
    pub fn encode_one(&self, level: usize) -> Result<Plaintext, FheError> {
        self.encode_message(0, level)
    }

    fn encode_message(&self, which: usize, level: usize) -> Result<Plaintext, FheError> {
        match self {
            Messages::Reals { encoder, values } => {
                encoder.encode_real(&values[which], f64::from(PRIME_BITS).exp2(), level)
            }
            Messages::Integers { encoder, values, .. } => encoder.encode(&values[which], 1.0, level),
        }
    }

    pub fn decrypt(&self, secret: &SecretKey, found: &Ciphertext) -> Result<Slots, FheError> {
        Ok(match self {
            Messages::Reals { encoder, .. } => Slots::Reals(encoder.decode(&secret.decrypt_coefficients(found)?)?),
            Messages::Integers { encoder, .. } => {
                Slots::Integers(encoder.decode(secret.decrypt_integers(found)?.residues)?)
            }
        })
    }

    /// The largest difference of a decrypted slot from plain arithmetic.
    pub fn error(&self, secret: &SecretKey, found: &Ciphertext, expected: Expected) -> Result<f64, FheError> {
        let difference = match (self, self.decrypt(secret, found)?) {
            (Messages::Reals { values: [x, y], .. }, Slots::Reals(slots)) => {
                let want: Vec<f64> = match expected {
                    Expected::Product => x.iter().zip(y).map(|(x, y)| x * y).collect(),
                    Expected::Rotated(by) => rotated(x, by),
                };
                slots.iter().zip(&want).map(|(s, w)| (s.re - w).hypot(s.im)).fold(0.0, f64::max)
            }
            (Messages::Integers { values: [x, y], t, .. }, Slots::Integers(slots)) => {
                let product = |(&x, &y): (&i64, &i64)| t.center(t.mul(t.from_i64(x), t.from_i64(y)));
                let (first, second) = x.split_at(x.len() / 2);
                let want: Vec<i64> = match expected {
                    Expected::Product => x.iter().zip(y).map(product).collect(),
                    Expected::Rotated(by) => [rotated(first, by), rotated(second, by)].concat(),
                };
                slots.iter().zip(&want).map(|(s, w)| s.abs_diff(*w)).max().unwrap_or(0) as f64
            }
            _ => f64::NAN,
        };
        Ok(difference)
    }
}

/// As settings are named.
impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Messages::Reals { .. } => f.write_str("CKKS"),
            Messages::Integers { .. } => write!(f, "BGV (integers modulo a prime of {PLAIN_BITS} bits)"),
        }
    }
}

fn rotated<T: Copy>(values: &[T], by: usize) -> Vec<T> {
    values.iter().cycle().skip(by).take(values.len()).copied().collect()
}
