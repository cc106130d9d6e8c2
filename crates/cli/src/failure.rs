//! Exit codes of the owner's errors.

use subrosa_edge_agent::EdgeError;
use subrosa_owner::OwnerError;
use subrosa_plan::PlanError;
use subrosa_registry::{RegistryError, VaultError};
use subrosa_terminal::Failure;

/// How a command ends with this error: 2 for wrong usage and bad input, 1 for what the user's files and flags are not the cause of.
pub(crate) fn failure(error: impl Into<OwnerError>) -> Failure {
    match error.into() {
        OwnerError::Edge(e) => subrosa_edge::failure(e),
        OwnerError::File(e) => subrosa_edge::failure(EdgeError::File(e)),
        OwnerError::Engine(e) => subrosa_edge::failure(EdgeError::Engine(e)),
        error @ (OwnerError::Plan(PlanError::Fhe(_))
        | OwnerError::Report(_)
        | OwnerError::Audit { .. }
        | OwnerError::Registry(RegistryError::Database { .. } | RegistryError::Random(_))
        | OwnerError::Vault(VaultError::Random(_) | VaultError::Encryption { .. })) => Failure::failed(error),
        error => Failure::of(&error),
    }
}

/// The same for reading or writing a file that the command names.
pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Failure {
    move |source| failure(OwnerError::Io { action, path: path.into(), source })
}
