//! Exit codes of the edge agent's errors.

use subrosa_edge_agent::EdgeError;
use subrosa_fhe::{FheError, RingError};
use subrosa_program::bundle::FileError;
use subrosa_program::container::ContainerError;
use subrosa_terminal::Failure;

/// How a command ends with this error: 2 for bad input, 1 for what the user's files and flags are not the cause of.
pub fn failure(error: EdgeError) -> Failure {
    match &error {
        // SUBROSA_KERNEL asks for what is not there.
        EdgeError::Engine(FheError::Ring(RingError::UnknownKernel { .. } | RingError::KernelUnavailable { .. })) => {
            Failure::usage(error)
        }
        EdgeError::Engine(_) => Failure::failed(error),
        EdgeError::File(FileError::Container(ContainerError::Misuse { .. } | ContainerError::Signing { .. })) => {
            Failure::failed(error)
        }
        _ => Failure::of(&error),
    }
}
