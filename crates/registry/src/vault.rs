//! Private keys at rest.
//!
//! ```text
//! HOME/vault/
//!   lock              held alone during every operation
//!   identity.age      an age X25519 identity, encrypted with the owner's passphrase (scrypt)
//!   recipient.txt     its public recipient, for people and for `age -r`
//!   NAME.age          one secret, encrypted to that recipient
//!   restore.partial/  a restore that is being prepared: removed by the next operation
//!   restore.commit/   a restore that is decided: finished by the next operation
//! ```
//!
//! The plaintext of `NAME.age` is `"subrosa-secret-v1\n"`, a 32-byte tag and the secret's bytes. The tag is HMAC-SHA256 of
//! `NAME || 0 || bytes` under a key derived from the identity, so that somebody who can write to the vault but does not know the
//! passphrase can neither plant a secret nor exchange two.
//!
//! A secret, once put, is never overwritten by a different one. Every file is written beside its place and renamed into it, so a
//! crash leaves the old file or the new one.

mod backup;
mod passphrase;
mod sealed;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{
    home::{self, FileError, LockFile},
    record::is_plain_name,
};
use sealed::Keys;
use subrosa_program::container::AtomicFile;

pub use backup::{BackupInfo, RestoreInfo};
pub use passphrase::Passphrase;
use passphrase::WorkFactor;

const IDENTITY: &str = "identity";
const SUFFIX: &str = ".age";

/// Why the vault could not do what was asked. Every text names the place, the problem and the cure; none holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The system refused an operation on a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operating system's generator failed.
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The passphrase does not open the file.
    #[error(
        "{}: wrong passphrase: try again, or restore the keys from a backup whose passphrase you know \
         (nobody can recover a lost one)", path.display()
    )]
    WrongPassphrase {
        /// The file that it does not open.
        path: PathBuf,
    },
    /// A passphrase without a character.
    #[error("the passphrase is empty: choose one that is hard to guess")]
    EmptyPassphrase,
    /// A file that holds no passphrase.
    #[error("{}: {detail}", path.display())]
    PassphraseFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// There is no vault.
    #[error("{} holds no key vault: 'subrosa protect' or 'subrosa keys restore' creates one", home.display())]
    NoVault {
        /// The home directory.
        home: PathBuf,
    },
    /// Secrets without the identity that opens them.
    #[error(
        "{} is missing although encrypted keys lie beside it: put back a copy of it, or move the vault away and \
         restore the keys from a backup", path.display()
    )]
    NoIdentity {
        /// Where the identity should be.
        path: PathBuf,
    },
    /// A file of the vault cannot be what was written.
    #[error("{} is damaged ({detail}): restore the keys from a backup with 'subrosa keys restore'", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file is whole but another vault's, another key's, or nobody's.
    #[error(
        "{} does not belong to this vault under this name: files of two vaults were mixed, or somebody put it \
         there; move it away (a key then comes back with 'subrosa keys restore')", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A name that cannot be a secret's.
    #[error(
        "'{name}' cannot be a key's name in the vault: use 1 to 64 letters, digits, '.', '_' and '-', not '{IDENTITY}'"
    )]
    BadName {
        /// The name asked for.
        name: String,
    },
    /// There is no such secret.
    #[error("the vault in {} has no key '{name}': it was removed, or its backup was not restored here", vault.display())]
    NoSecret {
        /// The vault's directory.
        vault: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// A different secret has the name.
    #[error("the vault already has a different key '{name}': remove that one first if it is no longer needed")]
    Exists {
        /// The name.
        name: String,
    },
    /// A restore would overwrite different secrets.
    #[error(
        "nothing was restored: the vault already has different keys of the same names ({}): restore into another \
         home, or overwrite them with --force", names.join(", ")
    )]
    Conflicts {
        /// The names.
        names: Vec<String>,
    },
    /// The backup's file exists.
    #[error("{} exists already: choose another file name, so that an older backup is never lost", path.display())]
    BackupExists {
        /// The file.
        path: PathBuf,
    },
    /// Not a complete backup.
    #[error("{} is not a complete Subrosa key backup ({detail}): use another copy of it", path.display())]
    NotABackup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A backup that a later release wrote.
    #[error("{} has backup format {version}, and this program reads only 1: update the program", path.display())]
    NewerBackup {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// Encryption failed within the age library.
    #[error("{} cannot be encrypted: {detail}", path.display())]
    Encryption {
        /// The file.
        path: PathBuf,
        /// The library's text.
        detail: String,
    },
}

/// An unlocked key vault. Wiped from memory when dropped.
///
/// Several processes may use one vault at once: each operation holds the vault's lock.
pub struct Vault {
    directory: PathBuf,
    keys: Keys,
    work: WorkFactor,
}

impl Vault {
    /// Whether `home` has a vault.
    pub fn exists(home: &Path) -> bool {
        identity_path(&home.join("vault")).exists()
    }

    /// Opens the vault in `home`, creating it with this passphrase where there is none.
    ///
    /// # Errors
    /// [`VaultError::WrongPassphrase`], [`VaultError::NoIdentity`], [`VaultError::Damaged`], [`VaultError::Foreign`], [`VaultError::File`].
    pub fn create_or_open(home: &Path, passphrase: &Passphrase) -> Result<Self, VaultError> {
        Self::create_or_open_at_cost(home, passphrase, WorkFactor::DEFAULT)
    }

    /// [`Vault::create_or_open`] with scrypt's cost reduced to 2^10, so that test suites spend their time elsewhere. Never for real keys.
    ///
    /// # Errors
    /// Those of [`Vault::create_or_open`].
    pub fn create_or_open_for_tests(home: &Path, passphrase: &Passphrase) -> Result<Self, VaultError> {
        Self::create_or_open_at_cost(home, passphrase, WorkFactor::FOR_TESTS)
    }

    fn create_or_open_at_cost(home: &Path, passphrase: &Passphrase, work: WorkFactor) -> Result<Self, VaultError> {
        let directory = home.join("vault");
        home::create_directory(&directory)?;
        let _lock = lock(&directory)?;
        let path = identity_path(&directory);
        if path.exists() {
            return Self::unlock(directory, passphrase, work);
        }
        if !names(&directory)?.is_empty() {
            return Err(VaultError::NoIdentity { path });
        }
        let keys = Keys::generate();
        keys.write_identity(&path, passphrase, work)?;
        Self::unlock(directory, passphrase, work)
    }

    /// Opens the vault in `home`.
    ///
    /// # Errors
    /// [`VaultError::NoVault`] where there is none, [`VaultError::WrongPassphrase`], [`VaultError::Damaged`], [`VaultError::File`].
    pub fn open(home: &Path, passphrase: &Passphrase) -> Result<Self, VaultError> {
        if !Self::exists(home) {
            return Err(VaultError::NoVault { home: home.to_owned() });
        }
        let directory = home.join("vault");
        let _lock = lock(&directory)?;
        Self::unlock(directory, passphrase, WorkFactor::DEFAULT)
    }

    /// Needs the lock.
    fn unlock(directory: PathBuf, passphrase: &Passphrase, work: WorkFactor) -> Result<Self, VaultError> {
        let keys = Keys::read_identity(&identity_path(&directory), passphrase)?;
        let path = directory.join("recipient.txt");
        let recipient = format!("{}\n", keys.recipient());
        match fs::read_to_string(&path) {
            Ok(found) if found == recipient => {}
            Ok(_) => return Err(VaultError::Foreign { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                sealed::replace(&path, |file| io::Write::write_all(file, recipient.as_bytes()))?;
            }
            Err(error) => return Err(FileError::at(&path, "read the file")(error).into()),
        }
        Ok(Self { directory, keys, work })
    }

    /// Keeps a secret under a name of 1 to 64 letters, digits, `.`, `_` and `-`. Putting the same bytes again does nothing.
    ///
    /// # Errors
    /// [`VaultError::Exists`] where the name has different bytes, [`VaultError::BadName`], [`VaultError::Damaged`], [`VaultError::File`].
    pub fn put(&self, name: &str, secret: &[u8]) -> Result<(), VaultError> {
        let path = self.path(name)?;
        let _lock = lock(&self.directory)?;
        match self.keys.read_secret(&path, name)? {
            Some(present) if present.as_slice() == secret => Ok(()),
            Some(_) => Err(VaultError::Exists { name: name.to_owned() }),
            None => self.keys.write_secret(&path, name, secret),
        }
    }

    /// A secret's bytes.
    ///
    /// # Errors
    /// [`VaultError::NoSecret`], [`VaultError::Damaged`], [`VaultError::File`].
    pub fn get(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let path = self.path(name)?;
        let _lock = lock(&self.directory)?;
        let secret = self.keys.read_secret(&path, name)?;
        secret.ok_or_else(|| VaultError::NoSecret { vault: self.directory.clone(), name: name.to_owned() })
    }

    /// The names of all secrets, sorted.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn list(&self) -> Result<Vec<String>, VaultError> {
        let _lock = lock(&self.directory)?;
        names(&self.directory)
    }

    /// Removes a secret's file. Copies on the disk's free blocks or in backups are beyond its reach.
    ///
    /// # Errors
    /// [`VaultError::NoSecret`], [`VaultError::File`].
    pub fn remove(&self, name: &str) -> Result<(), VaultError> {
        let path = self.path(name)?;
        let _lock = lock(&self.directory)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(VaultError::NoSecret { vault: self.directory.clone(), name: name.to_owned() })
            }
            removed => {
                removed.map_err(FileError::at(&path, "remove the key"))?;
                Ok(home::sync(&self.directory)?)
            }
        }
    }

    /// Changes the passphrase from `old` to `new` by replacing `identity.age`; the secrets themselves stay as they are.
    ///
    /// Backups keep the passphrase they were made with, and whoever has a copy of the old `identity.age` can still open it with `old`.
    ///
    /// # Errors
    /// [`VaultError::WrongPassphrase`] where `old` does not open the vault, [`VaultError::Damaged`], [`VaultError::File`]; the old
    /// passphrase is then still the right one.
    pub fn change_passphrase(&self, old: &Passphrase, new: &Passphrase) -> Result<(), VaultError> {
        let _lock = lock(&self.directory)?;
        let path = identity_path(&self.directory);
        Keys::read_identity(&path, old)?.write_identity(&path, new, self.work)
    }

    /// The vault's directory, for messages.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, name: &str) -> Result<PathBuf, VaultError> {
        if valid_name(name) {
            Ok(secret_path(&self.directory, name))
        } else {
            Err(VaultError::BadName { name: name.to_owned() })
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Vault").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn valid_name(name: &str) -> bool {
    // A leading dot would make a hidden file, which `finish_interrupted` may take for a temporary one.
    is_plain_name(name) && name != IDENTITY && !name.starts_with('.')
}

fn identity_path(directory: &Path) -> PathBuf {
    secret_path(directory, IDENTITY)
}

fn secret_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{SUFFIX}"))
}

/// The names of all secrets in a directory, sorted.
fn names(directory: &Path) -> Result<Vec<String>, VaultError> {
    let mut names: Vec<String> = home::children(directory)?
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(SUFFIX))
        .filter(|name| valid_name(name))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Takes the vault's lock and brings an interrupted operation to its end.
fn lock(directory: &Path) -> Result<LockFile, VaultError> {
    let lock = LockFile::open(directory.join("lock"))?;
    lock.exclusive()?;
    for path in home::children(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(AtomicFile::TEMPORARY_SUFFIX) {
            fs::remove_file(&path).map_err(FileError::at(&path, "remove what an interrupted run left"))?;
        }
    }
    backup::finish_interrupted(directory)?;
    Ok(lock)
}
