//! What can be wrong with a container file, in words for people.

use std::{io, path::Path};

use super::SignError;

/// Why a container could not be read or written. Every text names the file, the problem and the cure.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The operating system refused an operation.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// The file as the caller named it.
        file: String,
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory, a device or a pipe where a file is needed.
    #[error("{file} is not a regular file: give the path of a Subrosa file")]
    NotAFile {
        /// The path as the caller named it.
        file: String,
    },
    /// A file without a byte.
    #[error("{file} is empty: whatever wrote or copied it did not finish; fetch the file again")]
    Empty {
        /// The file as the caller named it.
        file: String,
    },
    /// The file begins with something else than the format's mark.
    #[error("{file} is not a Subrosa file: it does not begin with the format's mark")]
    NotAContainer {
        /// The file as the caller named it.
        file: String,
    },
    /// A container of another kind.
    #[error("{file} is a Subrosa file of kind '{found}', but one of kind '{expected}' is needed here")]
    WrongKind {
        /// The file as the caller named it.
        file: String,
        /// The kind in the file.
        found: String,
        /// The kind the caller asked for.
        expected: String,
    },
    /// Written by a later release.
    #[error(
        "{file} has container format version {version}, and this program reads versions up to {supported}: \
         update the program"
    )]
    NewerVersion {
        /// The file as the caller named it.
        file: String,
        /// The version in the file.
        version: u32,
        /// The newest version this reader knows.
        supported: u32,
    },
    /// The file ends too early.
    #[error("{file} is cut short: it has {length} bytes of {expected}; fetch the file again")]
    Truncated {
        /// The file as the caller named it.
        file: String,
        /// Bytes present.
        length: u64,
        /// Bytes the header announces (or the header's own size).
        expected: u64,
    },
    /// Bytes follow where the file should end.
    #[error("{file} is longer than it should be: {length} bytes instead of {expected}; fetch the file again")]
    TrailingBytes {
        /// The file as the caller named it.
        file: String,
        /// Bytes present.
        length: u64,
        /// Bytes the header announces.
        expected: u64,
    },
    /// Header, table or padding contradict themselves or their seal.
    #[error("{file}: {part} is damaged: fetch the file again")]
    Damaged {
        /// The file as the caller named it.
        file: String,
        /// Which part of the file.
        part: String,
    },
    /// A section's bytes do not match their hash.
    #[error("{file}: section '{section}' is damaged (its SHA-256 does not match): fetch the file again")]
    SectionDamaged {
        /// The file as the caller named it.
        file: String,
        /// The section's name.
        section: String,
    },
    /// The signature does not fit the key beside it.
    #[error("{file}: its signature is not valid: the file was changed after signing; fetch it from its owner again")]
    BadSignature {
        /// The file as the caller named it.
        file: String,
    },
    /// A section that this kind of file must have is absent.
    #[error("{file} has no section '{section}': it was not written by a complete Subrosa program of this version")]
    MissingSection {
        /// The file as the caller named it.
        file: String,
        /// The section asked for.
        section: String,
    },
    /// The writer was used out of order or with an impossible section name: a mistake of the calling program.
    #[error("{file} cannot be written: {problem}")]
    Misuse {
        /// The file as the caller named it.
        file: String,
        /// What the calling program did.
        problem: String,
    },
    /// The signing function failed.
    #[error("{file} cannot be signed: {source}")]
    Signing {
        /// The file as the caller named it.
        file: String,
        /// The signing function's error.
        source: SignError,
    },
}

impl ContainerError {
    pub(super) fn io(file: &str, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { file: file.to_owned(), action, source }
    }

    pub(super) fn damaged(file: &str, part: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), part: part.into() }
    }
}

/// The name of a file in messages.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}
