//! What can go wrong, said to people.

use crate::rlwe::KeyId;
use crate::security::SecurityLevel;
use subrosa_ring::RingError;

/// Every error of this crate and of `subrosa-secret`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FheError {
    /// The ring layer refused (a modulus that is not prime, an unknown kernel, no randomness, ...).
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A parameter specification is not usable.
    #[error("unusable parameters: {reason}")]
    Parameters {
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A modulus exceeds the security table.
    #[error(
        "{what} has a modulus of {log2:.2} bits, but ring degree 2^{log_n} keeps {security} security only up to {bound} bits: \
         use fewer or smaller primes, or a larger ring"
    )]
    Insecure {
        /// Which modulus: the ciphertext chain or a key.
        what: String,
        /// Its size in bits.
        log2: f64,
        /// The largest size that is allowed.
        bound: f64,
        /// log2 of the ring degree.
        log_n: u32,
        /// The level that was asked for.
        security: SecurityLevel,
    },
    /// A value belongs to another ring, or its components disagree.
    #[error("{what} does not fit these parameters: {reason}")]
    Malformed {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Two operands, or an operand and the operation, are at different levels.
    #[error(
        "{operation}: level {found} where level {expected} is needed; bring the operands to one level with drop_level or rescale"
    )]
    Level {
        /// The operation.
        operation: &'static str,
        /// Level that would be right.
        expected: usize,
        /// Level found.
        found: usize,
    },
    /// A level has primes that another one lacks.
    #[error(
        "{operation}: level {to} has primes that level {from} lacks, and cannot be reached from it by leaving primes out"
    )]
    Primes {
        /// The operation.
        operation: &'static str,
        /// Level of the operand or key.
        from: usize,
        /// Level asked for.
        to: usize,
    },
    /// Two operands carry different scales.
    #[error("{operation}: scales {left:e} and {right:e} differ; encode the operands so that their scales agree")]
    Scale {
        /// The operation.
        operation: &'static str,
        /// Scale of the first operand.
        left: f64,
        /// Scale of the other operand.
        right: f64,
    },
    /// A ciphertext has a degree that the operation does not take.
    #[error("{operation}: a ciphertext of degree {degree}, where {expected} is needed; relinearize first")]
    Degree {
        /// The operation.
        operation: &'static str,
        /// Degree found.
        degree: usize,
        /// What is accepted.
        expected: &'static str,
    },
    /// A list has the wrong length.
    #[error("{what}: {found} entries, where {expected} are needed")]
    Length {
        /// Which list.
        what: &'static str,
        /// Right length.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// A sum over nothing has no level and no scale.
    #[error("{operation}: no operands")]
    Empty {
        /// The operation.
        operation: &'static str,
    },
    /// NaN or infinity where a number is needed.
    #[error("{what}: entry {index} is not a finite number")]
    NotFinite {
        /// Which list.
        what: &'static str,
        /// First bad entry.
        index: usize,
    },
    /// A message does not fit the modulus.
    #[error(
        "a coefficient of 2^{log2_value:.1} does not fit: at level {level} at most 2^{log2_bound:.1}; \
         use a smaller scale, smaller values or a higher level"
    )]
    Overflow {
        /// log2 of the coefficient times scale.
        log2_value: f64,
        /// log2 of the bound.
        log2_bound: f64,
        /// The level encoded at.
        level: usize,
    },
    /// A key that the operation needs was not supplied.
    #[error("no key-switching key for {0}; the key set must contain it")]
    MissingKey(KeyId),
    /// A key cannot serve this operation.
    #[error("the key for {id} cannot be used here: {reason}")]
    UnfitKey {
        /// Which key.
        id: KeyId,
        /// Why not.
        reason: String,
    },
    /// Bytes that are not what they should be.
    #[error("damaged or foreign {what}: {reason}")]
    Wire {
        /// What was being read.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
}
