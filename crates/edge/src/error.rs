//! What can go wrong on the edge.

use subrosa_fhe::FheError;
use subrosa_input::InputError;
use subrosa_plain::PlainError;
use subrosa_program::bundle::FileError;
use subrosa_program::container::{ContainerError, SignerError};

/// An error of the Processing Agent or of Data Stream Acquisition.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The bundle or results file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file given with `--trust`.
    #[error(transparent)]
    Trust(#[from] SignerError),
    /// A bundle of another owner than the trusted one.
    #[error(
        "{file}: signed by {found}, not by the trusted owner {trusted}: get the bundle from its owner, or the owner's public key"
    )]
    ForeignOwner {
        /// The bundle.
        file: String,
        /// Fingerprint of its signer.
        found: String,
        /// Fingerprint of the trusted owner.
        trusted: String,
    },
    /// A bundle without a signature.
    #[error("{file}: the bundle is not signed: ask its owner for one made by `subrosa deploy`")]
    Unsigned {
        /// The bundle.
        file: String,
    },
    /// Reading or preprocessing inputs.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The plain part.
    #[error(transparent)]
    Plain(#[from] PlainError),
    /// A sample outside the range the network was protected for.
    #[error(
        "the features of this sample leave the range this network was protected for ({what} {value:.4}, at most {limit:.4}): \
         is the input preprocessed as it was in training? Otherwise protect the network again with `--calibrate` on such data"
    )]
    OutOfRange {
        /// What was too large.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Its limit.
        limit: f64,
    },
    /// A feature that is not a number.
    #[error("feature {index} of this sample is not a finite number: check the input for NaN and infinity")]
    NotFinite {
        /// Which feature.
        index: usize,
    },
    /// A vector of another length than the network has features.
    #[error("{found} features were given, the network has {expected}")]
    FeatureCount {
        /// How many were given.
        found: usize,
        /// How many are needed.
        expected: usize,
    },
    /// A program that cannot be executed.
    #[error(
        "the bundle's program cannot be executed ({0}): it was written by faulty software; ask its owner for a new one"
    )]
    Program(String),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] FheError),
}

impl From<ContainerError> for EdgeError {
    fn from(e: ContainerError) -> Self {
        Self::File(e.into())
    }
}

impl From<subrosa_ring::RingError> for EdgeError {
    fn from(e: subrosa_ring::RingError) -> Self {
        Self::Engine(e.into())
    }
}
