//! BGV (Brakerski-Gentry-Vaikuntanathan 2011/277; RNS: Kim, Polyakov, Zucca 2021/204): exact arithmetic on vectors of integers modulo a
//! prime t, on the ciphertexts, keys and divisions of the common core.
//!
//! A BGV ciphertext has the phase `y = f m + t e (mod Q)`, f its scale, and decrypts as long as |y| < Q/2. Here all ciphertexts are
//! carried divided by t: their phase is `y/t = f m/t + e (mod Q)`, 1/t being the inverse modulo Q. In this form the errors of encryptions
//! and of keys are plain `e`, not `t e`, keys do not depend on t, and the one rounding division there is keeps the message: it takes the
//! centred remainder r of y/t and leaves (y/t - r)/D, which is (y - t r)/(t D), and t r is the multiple of t that BGV's modulus
//! switching subtracts. So key switching, hoisting, relinearisation, rescaling and the wire format are those of CKKS, bit for bit; only
//! a product of two ciphertexts has a t too many below, and is multiplied by t ([`crate::Evaluator`]).
//!
//! **Scales.** A division by D (and multiplication by A, where primes are swapped) leaves f A/D modulo t. Scales are followed exactly
//! ([`Parameters::scale_after_rescale`]); sums need equal ones ([`crate::Evaluator::to_scale`]).
//!
//! **Slots.** t = 1 modulo 2N, so a polynomial modulo t has N slots, its values at psi^(5^j) (first row) and at psi^(-5^j) (second row),
//! j < N/2, psi a primitive 2N-th root of unity modulo t. An automorphism rotates both rows, and its conjugation swaps them.
//!
//! **Larger integers.** Keys and primes serve any number of plaintext moduli; integers beyond one are computed modulo several, side by
//! side, and put together by the Chinese remainder theorem ([`crt`]).

pub mod crt;
mod encoder;
mod plain;

pub use encoder::IntegerEncoder;
pub use plain::PlainModulus;

#[cfg(doc)]
use crate::Parameters;
