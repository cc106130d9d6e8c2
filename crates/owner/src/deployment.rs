//! The Deployment Agent: hands out signed bundles.

use crate::Owner;
use crate::error::OwnerError;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;
use subrosa_registry::OwnerIdentity;

/// What `deploy` wrote.
#[derive(Debug, Clone, Serialize)]
pub struct Deployed {
    /// The network's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Size of the bundle.
    pub bundle_bytes: u64,
    /// SHA-256 of the bundle.
    pub sha256: String,
    /// Fingerprint of the owner's signing key.
    pub owner: String,
    /// Time it took.
    pub seconds: f64,
}

impl Owner {
    /// Writes a bundle (architecture, encrypted parameters, public and evaluation keys, signed; no secret) of a network to `out`.
    pub fn deploy(&self, id: &str, out: &Path, identity: &OwnerIdentity) -> Result<Deployed, OwnerError> {
        let start = Instant::now();
        let record = self.registry.get(id)?;
        let stored = self.stored(&record)?;
        let signer = identity.signer();
        let sign = |message: &[u8]| Ok(identity.sign(message));
        let info = stored.deploy(out, record.version, (&signer.public_key, &sign))?;
        Ok(Deployed {
            id: record.id.to_string(),
            name: record.name,
            version: record.version,
            bundle_bytes: info.bytes,
            sha256: info.sha256.iter().map(|b| format!("{b:02x}")).collect(),
            owner: signer.fingerprint(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}
