//! A device's signing key.

use ed25519_dalek::{Signer as _, SigningKey};
use std::io::{self, Write as _};
use std::path::Path;
use subrosa_program::container::{Access, AtomicFile, Signer};
use zeroize::Zeroizing;

/// The Ed25519 key with which a device signs its results. It lies in a file of 32 bytes, readable by its owner only.
pub struct DeviceKey(SigningKey);

/// Why a device's key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceKeyError {
    /// The file cannot be read.
    #[error("{file}: the device's key cannot be read: {source}")]
    Unreadable {
        /// The key's file.
        file: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("{file}: the device's key cannot be stored: {source}")]
    Unwritable {
        /// The key's file.
        file: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Not 32 bytes.
    #[error("{file} is not a device's key of 32 bytes: remove the agent's state and enrol the device again")]
    Damaged {
        /// The key's file.
        file: String,
    },
    /// No randomness.
    #[error("the operating system gave no randomness for a device's key: {0}")]
    Random(getrandom::Error),
}

impl DeviceKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Result<Self, DeviceKeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(DeviceKeyError::Random)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads the key, or makes and stores one where there is no file.
    pub fn load_or_create(path: &Path) -> Result<Self, DeviceKeyError> {
        let file = || path.display().to_string();
        match std::fs::read(path).map(Zeroizing::new) {
            Ok(bytes) => match <&[u8; 32]>::try_from(bytes.as_slice()) {
                Ok(seed) => Ok(Self(SigningKey::from_bytes(seed))),
                Err(_) => Err(DeviceKeyError::Damaged { file: file() }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.store(path).map_err(|source| DeviceKeyError::Unwritable { file: file(), source })?;
                Ok(key)
            }
            Err(source) => Err(DeviceKeyError::Unreadable { file: file(), source }),
        }
    }

    fn store(&self, path: &Path) -> io::Result<()> {
        let mut out = AtomicFile::begin(path, Access::Private)?;
        out.write_all(self.0.as_bytes())?;
        out.replace()
    }

    /// The public half.
    pub fn public(&self) -> Signer {
        Signer { public_key: self.0.verifying_key().to_bytes() }
    }

    /// Signs a message. Only ever given messages that begin with a domain of their own.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}
