//! The owner's side: Key Generator, Protection Agent, Deployment Agent and Decryption Agent around the registry.
//!
//! An [`Owner`] works on a home directory (registry and vault). [`Owner::protect`] imports, plans, encrypts and registers a
//! network; [`Owner::deploy`] writes a signed bundle; [`Owner::decrypt`] reads results; [`Owner::verify`] runs the original, the
//! approximated and the encrypted network side by side.

mod calibration;
mod decryption;
mod deployment;
mod error;
mod exact;
mod fitting;
mod inspection;
mod key_generator;
mod normalise;
mod protected;
mod protection;
pub mod release;
mod simulation;
mod verification;

pub use calibration::Calibration;
pub use decryption::{Decrypted, Origin, Prediction, Refused, Reveal};
pub use deployment::Deployed;
pub use error::OwnerError;
pub use exact::{Dishonest, IntegerSettings, TracedBudget};
pub use fitting::FittedActivation;
pub use inspection::{Inspection, ScopeInfo, WholeLayer};
pub use protection::{
    COST_MODEL_FILE, Planned, Prepared, ProtectReport, ProtectRequest, Settings, USUAL_MEMORY, cost_model,
};
pub use simulation::Simulated;
pub use verification::{Comparison, VerifyRequest};

use std::path::{Path, PathBuf};
use subrosa_registry::{Record, Registry, RegistryError};

/// The owner at a home directory.
pub struct Owner {
    home: PathBuf,
    registry: Registry,
}

impl Owner {
    /// Opens the home, creating it if needed. Errors: a registry that is damaged or newer, a directory that cannot be written.
    pub fn open(home: &Path) -> Result<Self, OwnerError> {
        match (Registry::open(home), release::elsewhere(home)?) {
            (Ok(registry), _) => Ok(Self { home: home.into(), registry }),
            // Only copies are here.
            (Err(RegistryError::DatabaseMissing { .. }), Some(place)) => Err(release::kept_elsewhere(home, &place)),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The owner around a registry that is open: one whose database and files are shared, for instance.
    pub fn with_registry(registry: Registry) -> Self {
        Self { home: registry.home().into(), registry }
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The registry of protected networks.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Removes a network: its row, its files, then its secret key. Results of its deployments can never be decrypted again.
    pub fn remove(&self, id: &str, vault: &subrosa_registry::Vault) -> Result<Record, OwnerError> {
        let record = self.registry.get(id)?;
        self.registry.remove(record.id)?;
        vault.remove(&protection::key_name(&record.id.to_string()))?;
        Ok(record)
    }
}

/// Is told how far a long task is.
pub trait Progress: Sync {
    /// A task of `total` parts begins.
    fn begin(&self, task: &str, total: usize);
    /// So many more parts are done.
    fn advance(&self, parts: usize);
    /// The task is done.
    fn end(&self);
}

/// Reports nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: usize) {}
    fn advance(&self, _: usize) {}
    fn end(&self) {}
}
