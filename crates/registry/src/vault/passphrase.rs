//! The passphrase and what it costs to try one.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use age::{
    scrypt,
    secrecy::{ExposeSecret, SecretString},
};

use super::VaultError;
use crate::home::FileError;
use zeroize::Zeroizing;

/// Longer files were named by mistake.
const MAX_BYTES: u64 = 4096;

/// A passphrase, wiped from memory when dropped and never shown.
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Takes the text exactly as it is: strip a file's trailing newline before.
    ///
    /// # Errors
    /// [`VaultError::EmptyPassphrase`].
    pub fn new(text: impl Into<SecretString>) -> Result<Self, VaultError> {
        let text = text.into();
        if text.expose_secret().is_empty() { Err(VaultError::EmptyPassphrase) } else { Ok(Self(text)) }
    }

    /// Reads it from a file, without the line break at its end.
    ///
    /// # Errors
    /// [`VaultError::PassphraseFile`] and [`VaultError::File`].
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        let bad = |detail| VaultError::PassphraseFile { path: path.to_owned(), detail };
        let unreadable = FileError::at(path, "read the passphrase");
        let mut text = Zeroizing::new(String::new());
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(bad("it is not UTF-8")),
            read => read.map_err(unreadable)?,
        };
        if text.len() as u64 > MAX_BYTES {
            return Err(bad("it is too long: give the right file"));
        }
        let line = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        if line.is_empty() {
            Err(bad("the passphrase is empty: choose one that is hard to guess"))
        } else {
            Self::new(line.to_owned())
        }
    }

    pub(super) fn recipient(&self, work: WorkFactor) -> scrypt::Recipient {
        let mut recipient = scrypt::Recipient::new(self.0.clone());
        recipient.set_work_factor(work.0);
        recipient
    }

    pub(super) fn identity(&self) -> scrypt::Identity {
        let mut identity = scrypt::Identity::new(self.0.clone());
        identity.set_max_work_factor(WorkFactor::MAXIMUM.0);
        identity
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Passphrase(..)")
    }
}

/// Base-2 logarithm of scrypt's N (with r = 8, p = 1): memory is 2^(10 + this) bytes, time grows with it.
#[derive(Clone, Copy)]
pub(super) struct WorkFactor(u8);

impl WorkFactor {
    /// 128 MiB and some 0.3 s, what OWASP recommends as a minimum for scrypt.
    pub(super) const DEFAULT: Self = Self(17);
    pub(super) const FOR_TESTS: Self = Self(10);
    /// What a file may ask for: 4 GiB and some ten seconds.
    const MAXIMUM: Self = Self(22);
}
