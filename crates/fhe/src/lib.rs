//! RLWE core, and on it CKKS and BGV: parameters, keys for evaluation, encoding, blind evaluation, noise forecast, wire format.
//!
//! Everything here is public: no secret key passes through this crate (see `subrosa-secret`).
//!
//! ```text
//! security -> parameters -> rlwe (containers, public-key encryption, key switching) -> evaluator -> wire
//!                                             ckks, bgv (encoders, scales) ---^
//!                                             noise (forecasts) --------------^
//! ```
//!
//! A polynomial at *level* `l` is held modulo the primes of that level: `q_0 .. q_{l-1}`, or, where primes are swapped, any set whose
//! product rises with the level. [`Evaluator::rescale`] goes to the level below.
//! A ciphertext of *degree* `d` has `d + 1` components and its phase is `c_0 + c_1 s + ... + c_d s^d`.

pub mod bgv;
pub mod chain;
pub mod ckks;
pub mod error;
pub mod evaluator;
pub mod noise;
pub mod parameters;
pub mod rlwe;
mod scale;
pub mod security;
pub mod wire;

pub use bgv::{IntegerEncoder, PlainModulus};
pub use ckks::Encoder;
pub use error::FheError;
pub use evaluator::Evaluator;
pub use noise::{ExactNoise, NoiseModel};
pub use num_complex::Complex64;
pub use parameters::{KeyShape, ParameterSpec, Parameters};
pub use rlwe::{
    Ciphertext, Digits, EvaluationKeys, ExpandedKey, KeyBank, KeyId, KeySwitchKey, Plaintext, PreparedKey, PublicKey,
    SeededCiphertext,
};
pub use scale::Scheme;
pub use security::SecurityLevel;
pub use subrosa_ring::{Galois, Kernel, Modulus, Ring, RingError, RnsPoly, primes, release_free_buffers};
