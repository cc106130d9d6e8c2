//! The owner's signing identity: what tells the owner's bundles from everybody else's.

use ed25519_dalek::{Signer as _, SigningKey};
use subrosa_program::container::Signer;
use zeroize::Zeroizing;

use crate::vault::{Vault, VaultError};

/// The owner's Ed25519 key pair. The private half lives in the vault under `signing` and is wiped from memory when dropped;
/// the public half is a [`Signer`], whose file edges are told to trust.
pub struct OwnerIdentity(SigningKey);

impl OwnerIdentity {
    /// The name of the private key in the vault. Its bytes are the 32-byte seed of RFC 8032.
    pub const SECRET_NAME: &str = "signing";

    /// Reads the identity from the vault, creating it on first use.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub fn load_or_create(vault: &Vault) -> Result<Self, VaultError> {
        match Self::load(vault) {
            Err(VaultError::NoSecret { .. }) => {}
            loaded => return loaded,
        }
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(VaultError::Random)?;
        match vault.put(Self::SECRET_NAME, seed.as_slice()) {
            // Another process was first: its identity is the owner's.
            Err(VaultError::Exists { .. }) | Ok(()) => Self::load(vault),
            Err(error) => Err(error),
        }
    }

    /// Reads the identity from the vault.
    ///
    /// # Errors
    /// [`VaultError::NoSecret`] where none was created yet, and the vault's other errors.
    pub fn load(vault: &Vault) -> Result<Self, VaultError> {
        let secret = vault.get(Self::SECRET_NAME)?;
        let seed: &[u8; 32] = secret.as_slice().try_into().map_err(|_| VaultError::Damaged {
            path: vault.directory().join(format!("{}.age", Self::SECRET_NAME)),
            detail: "the signing key is not 32 bytes long".to_owned(),
        })?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// The public half.
    pub fn signer(&self) -> Signer {
        Signer { public_key: self.0.verifying_key().to_bytes() }
    }

    /// Signs a message with Ed25519. Only ever given messages that begin with a domain of their own.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for OwnerIdentity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "OwnerIdentity({})", self.signer().fingerprint())
    }
}
