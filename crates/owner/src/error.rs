//! What can go wrong at the owner's.

use std::path::{Path, PathBuf};
use subrosa_edge_agent::EdgeError;
use subrosa_fhe::{FheError, RingError};
use subrosa_input::InputError;
use subrosa_network::{ActivationKind, FitChoice, FitError, NetworkError};
use subrosa_plain::PlainError;
use subrosa_plan::PlanError;
use subrosa_program::bundle::FileError;
use subrosa_registry::{RegistryError, VaultError};

/// An error of one of the owner's agents.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Importing or splitting the network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Running the plain network.
    #[error(transparent)]
    Plain(#[from] PlainError),
    /// Reading inputs or labels.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] FheError),
    /// A bundle, stored copy or results file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The edge's side, in `verify` and `demo`.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// Activations would be replaced at an unknown cost.
    #[error(
        "{what} was not part of the training, and what it costs in accuracy is not known: give calibration data (--calibrate FILE) to \
         measure it, or --force to accept it unseen"
    )]
    UnknownCost {
        /// What would be replaced.
        what: String,
    },
    /// A fit that is to be made from calibration data, without such data.
    #[error(
        "{kind}={choice} takes what layer '{layer}' gives on calibration data: give them (--calibrate FILE), or a method with an \
         interval of its own, as in --activation '{kind}=chebyshev:7@-8..8'"
    )]
    NeedsCalibration {
        /// The layer before the activation.
        layer: String,
        /// The activation.
        kind: ActivationKind,
        /// What was asked for.
        choice: FitChoice,
    },
    /// An activation that could not be fitted.
    #[error("the activation after layer '{layer}' cannot be fitted: {source}")]
    Fit {
        /// The layer before the activation.
        layer: String,
        /// Why not.
        source: FitError,
    },
    /// Results of a network that this registry does not hold.
    #[error(
        "{file}: these results are of the network '{name}' (id {id}), which is not in this registry: decrypt them where it was protected, or restore its key and registry"
    )]
    ForeignResults {
        /// The results file.
        file: String,
        /// The network's name.
        name: String,
        /// The network's id.
        id: String,
    },
    /// Results of exact integers that no honest edge gives.
    #[error(transparent)]
    Dishonest(#[from] crate::exact::Dishonest),
    /// What integers cannot do.
    #[error(
        "--scheme bgv protects chains of fully connected layers, and here {what}: protect those at the end (--scope classifier \
         or last), or use --scheme ckks"
    )]
    NotInIntegers {
        /// What there is.
        what: String,
    },
    /// A stored secret key that does not fit its network.
    #[error(
        "the secret key of network {id} cannot be used ({reason}): restore the vault from a backup (`subrosa keys restore`)"
    )]
    SecretKey {
        /// The network's id.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// No plan whose error is small enough for noise on revealed outputs.
    #[error(
        "the noise asked for with --flooding needs an error of at most {error:.1e} on outputs: {source}. Or ask for less, as in --flooding 10:100"
    )]
    NotPreciseEnough {
        /// The error.
        error: f64,
        /// Why there is no plan.
        source: PlanError,
    },
    /// An audit log that was changed.
    #[error("{place}: {source}; keep a copy of it, find out who wrote there, and put the registry back from a backup")]
    Audit {
        /// The database or file that holds the log.
        place: String,
        /// Where it breaks.
        source: crate::release::ChainError,
    },
    /// Results of which none may be revealed.
    #[error("{file}: none of its {count} results is revealed: {first}")]
    NothingReleased {
        /// The results file.
        file: String,
        /// Results in it.
        count: usize,
        /// Why not, of the first.
        first: String,
    },
    /// Wrong use.
    #[error("{0}")]
    Usage(String),
    /// A report that cannot be written or read.
    #[error("the network's stored report cannot be used ({0}): protect the network again")]
    Report(String),
    /// The file system.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl OwnerError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}

impl From<RingError> for OwnerError {
    fn from(e: RingError) -> Self {
        Self::Engine(e.into())
    }
}
