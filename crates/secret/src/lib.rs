//! Secret keys: generation of all keys, symmetric seeded encryption, decryption. Only the owner links this crate.
//!
//! ```text
//! SecretKey::generate -> encrypt, public_key, switch_key -> (the edge works) -> decrypt_coefficients (CKKS), decrypt_integers (BGV)
//! ```
//!
//! Secrets and errors come from the operating system's randomness through ChaCha20; the public seeds of uniform halves are drawn
//! separately and determine nothing else. Temporaries that hold secrets or errors are wiped.
//!
//! ```
//! use subrosa_fhe::{Encoder, EvaluationKeys, Evaluator, Galois, Kernel, KeyId, KeyShape, ParameterSpec, Parameters, SecurityLevel, primes};
//! use subrosa_secret::SecretKey;
//!
//! # fn main() -> Result<(), subrosa_fhe::FheError> {
//! // 40 + 40 + 44 bits of 214 that 128-bit security allows in this ring
//! let q = primes::find(13, 40, 2, &[])?;
//! let p = primes::find(13, 44, 1, &q)?;
//! let parameters = Parameters::new(ParameterSpec::new(13, q, p, SecurityLevel::Bits128), Kernel::active()?)?;
//!
//! // the owner
//! let secret = SecretKey::generate(&parameters)?;
//! let shape = KeyShape { level: 2, specials: 1, digit: 1 };
//! let (square, left) = (KeyId::new(Galois::IDENTITY, 2), KeyId::new(Galois::rotation(1), 1));
//! let keys = [secret.switch_key(square, shape)?, secret.switch_key(left, shape)?];
//! let keys: EvaluationKeys = keys.into_iter().map(|key| key.prepare(&parameters)).collect::<Result<_, _>>()?;
//! let encoder = Encoder::new(&parameters);
//! let x: Vec<f64> = (0..parameters.slots()).map(|j| j as f64 / 4096.0).collect();
//! let encrypted = secret.encrypt(&encoder.encode_real(&x, 2f64.powi(34), 2)?)?;
//!
//! // the edge: x^2, rotated left by one
//! let evaluator = Evaluator::new(&parameters);
//! let x_encrypted = encrypted.expand(&parameters)?;
//! let squared = evaluator.relinearize(&evaluator.square(&x_encrypted)?, &keys, true)?; // now at level 1
//! let answer = evaluator.rotate(&squared, Galois::rotation(1), &keys)?;
//!
//! // the owner again
//! let decoded = encoder.decode(&secret.decrypt_coefficients(&answer)?)?;
//! assert!((decoded[1000].re - x[1001] * x[1001]).abs() < 1e-3);
//! # Ok(())
//! # }
//! ```

mod budget;
mod crt;
mod key;

pub use budget::{Integers, exhausted_below};
pub use key::SecretKey;
