//! The Trained and Protected DNN Database of the paper: names, versions, reports and files of protected networks, and the
//! owner's private keys at rest. Embedded: everything lives under one *home* directory.
//!
//! ```text
//! HOME/
//!   lock               shared by every open registry, held alone while leftovers are cleaned
//!   registry.sqlite    names, versions, reports
//!   models/ID/         the files of a committed model
//!   staging/ID/        the files of a model that a running `protect` writes
//!   vault/             private keys, encrypted (see `vault`)
//! ```
//!
//! [`Registry`] holds no secret, [`Vault`] nothing else. [`OwnerIdentity`] signs what the owner hands out.
//! A crash at any moment leaves the old state or the new one; whatever lies half-written is removed by the next opening.

pub mod fleet;
mod home;
mod identity;
mod models;
mod record;
mod registry;
pub mod sql;
pub mod time;
mod vault;

pub use home::{FileError, default_home};
pub use identity::OwnerIdentity;
pub use record::{ModelId, NewModel, Record, validate_name};
pub use registry::{Registry, RegistryError, SharedFiles, Staging};
pub use vault::{BackupInfo, Passphrase, RestoreInfo, Vault, VaultError};

#[cfg(test)]
mod tests;
