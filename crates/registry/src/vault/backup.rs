//! The encrypted copy of all secrets, and its way back.
//!
//! A backup is an age file, encrypted with a passphrase, of a tar archive: first `subrosa-vault-backup` with the text `1\n`, then each
//! secret's bytes as `secrets/NAME`. `age --decrypt` and `tar` open it without this program.

use std::{
    fs,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use subrosa_program::container::{Access, AtomicFile};
use zeroize::Zeroizing;

use super::{Passphrase, Vault, VaultError, lock, names, sealed, secret_path, valid_name};
use crate::home::{self, FileError};

const MANIFEST: &str = "subrosa-vault-backup";
const VERSION: &str = "1";
const FOLDER: &str = "secrets/";
const PARTIAL: &str = "restore.partial";
const DECIDED: &str = "restore.commit";

/// A finished backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    /// How many secrets it holds.
    pub entries: usize,
    /// The file's length in bytes.
    pub bytes: u64,
}

/// A finished restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreInfo {
    /// Secrets written.
    pub restored: usize,
    /// Secrets that the vault had already, with the same bytes.
    pub skipped: usize,
    /// Names of the restored secrets that replaced different ones, by force.
    pub conflicts: Vec<String>,
}

type Secrets = Vec<(String, Zeroizing<Vec<u8>>)>;

impl Vault {
    /// Writes all secrets, the signing key among them, into one new file encrypted with `passphrase`.
    ///
    /// # Errors
    /// [`VaultError::BackupExists`], [`VaultError::Damaged`] where a secret cannot be read, [`VaultError::File`]; there is no file then.
    pub fn backup(&self, out: &Path, passphrase: &Passphrase) -> Result<BackupInfo, VaultError> {
        let exists = || VaultError::BackupExists { path: out.to_owned() };
        if out.exists() {
            return Err(exists());
        }
        let _lock = lock(&self.directory)?;
        let failed = || FileError::at(out, "write the backup");
        let encryptor = sealed::encryptor(out, &passphrase.recipient(self.work))?;
        let file = AtomicFile::begin(out, Access::Private).map_err(failed())?;
        let mut archive = tar::Builder::new(encryptor.wrap_output(file).map_err(failed())?);
        append(&mut archive, MANIFEST, format!("{VERSION}\n").as_bytes()).map_err(failed())?;
        let names = names(&self.directory)?;
        for name in &names {
            let path = secret_path(&self.directory, name);
            let missing = || VaultError::NoSecret { vault: self.directory.clone(), name: name.clone() };
            let secret = self.keys.read_secret(&path, name)?.ok_or_else(missing)?;
            append(&mut archive, &format!("{FOLDER}{name}"), &secret).map_err(failed())?;
        }
        let file = archive.into_inner().and_then(|stream| stream.finish()).map_err(failed())?;
        file.create_new().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => failed()(error).into(),
        })?;
        let bytes = fs::metadata(out).map_err(failed())?.len();
        Ok(BackupInfo { entries: names.len(), bytes })
    }

    /// Restores a backup into the vault in `home`, creating the vault where there is none; `passphrase` must be both the
    /// backup's and the vault's. For two passphrases, open the vault and use [`Vault::restore_from`].
    ///
    /// # Errors
    /// Those of [`Vault::restore_from`] and of [`Vault::create_or_open`]; nothing is changed then.
    pub fn restore(home: &Path, from: &Path, passphrase: &Passphrase, force: bool) -> Result<RestoreInfo, VaultError> {
        let secrets = read_backup(from, passphrase)?;
        Self::create_or_open(home, passphrase)?.take_in(secrets, force)
    }

    /// Restores a backup, made with `passphrase`, into this vault: all of it or nothing, also through a crash.
    ///
    /// A secret that the vault has already, with the same bytes, is skipped; one whose file is damaged is replaced.
    ///
    /// # Errors
    /// [`VaultError::Conflicts`] where different secrets have the same names and `force` is not set; [`VaultError::WrongPassphrase`],
    /// [`VaultError::NotABackup`], [`VaultError::NewerBackup`], [`VaultError::File`]; nothing is changed then.
    pub fn restore_from(&self, from: &Path, passphrase: &Passphrase, force: bool) -> Result<RestoreInfo, VaultError> {
        self.take_in(read_backup(from, passphrase)?, force)
    }

    fn take_in(&self, secrets: Secrets, force: bool) -> Result<RestoreInfo, VaultError> {
        let _lock = lock(&self.directory)?;
        let mut info = RestoreInfo { restored: 0, skipped: 0, conflicts: Vec::new() };
        let mut wanted = Vec::new();
        for (name, secret) in secrets {
            match self.keys.read_secret(&secret_path(&self.directory, &name), &name) {
                Ok(Some(present)) if present == secret => {
                    info.skipped += 1;
                    continue;
                }
                Ok(Some(_)) | Err(VaultError::Foreign { .. }) => info.conflicts.push(name.clone()),
                Ok(None) | Err(VaultError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
            wanted.push((name, secret));
        }
        if !force && !info.conflicts.is_empty() {
            return Err(VaultError::Conflicts { names: info.conflicts });
        }
        if !wanted.is_empty() {
            info.restored = wanted.len();
            self.stage(&wanted)?;
            // From this rename on the restore is decided: whoever next takes the lock finishes it.
            home::rename(&self.directory.join(PARTIAL), &self.directory.join(DECIDED))?;
            home::sync(&self.directory)?;
            finish_interrupted(&self.directory)?;
        }
        Ok(info)
    }

    /// Writes the secrets' files into the directory of a restore that is being prepared.
    pub(crate) fn stage(&self, secrets: &[(String, Zeroizing<Vec<u8>>)]) -> Result<(), VaultError> {
        let partial = self.directory.join(PARTIAL);
        home::create_directory(&partial)?;
        for (name, secret) in secrets {
            self.keys.write_secret(&secret_path(&partial, name), name, secret)?;
        }
        Ok(home::sync(&partial)?)
    }
}

/// Drops a restore that was being prepared, finishes one that was decided. Needs the vault's lock.
pub(super) fn finish_interrupted(directory: &Path) -> Result<(), VaultError> {
    let remove = |path: PathBuf| {
        fs::remove_dir_all(&path).map_err(FileError::at(&path, "remove what an interrupted restore left"))
    };
    if directory.join(PARTIAL).exists() {
        remove(directory.join(PARTIAL))?;
    }
    let decided = directory.join(DECIDED);
    if decided.exists() {
        for path in home::children(&decided)? {
            home::rename(&path, &directory.join(path.file_name().unwrap_or_default()))?;
        }
        home::sync(directory)?;
        remove(decided)?;
        home::sync(directory)?;
    }
    Ok(())
}

fn append(archive: &mut tar::Builder<impl io::Write>, path: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(0);
    archive.append_data(&mut header, path, content)
}

/// Decrypts and checks the whole of a backup before anything is done with it.
fn read_backup(from: &Path, passphrase: &Passphrase) -> Result<Secrets, VaultError> {
    let not = |detail: &str| VaultError::NotABackup { path: from.to_owned(), detail: detail.to_owned() };
    // For a backup, "damaged" has another cure than for a file of the vault.
    let as_backup = |error| match error {
        VaultError::Damaged { path, detail } => VaultError::NotABackup { path, detail },
        VaultError::Foreign { .. } => not("it is not encrypted with a passphrase"),
        other => other,
    };
    let unreadable = |error| as_backup(sealed::explain_reading(from, error));
    let length = fs::metadata(from).map_err(FileError::at(from, "open the backup"))?.len();
    let stream = sealed::decrypt(from, &passphrase.identity()).map_err(as_backup)?;
    let mut archive = tar::Archive::new(BufReader::new(stream));

    let mut secrets = Secrets::new();
    let mut known = false;
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.size() > length || !entry.header().entry_type().is_file() {
            return Err(not("its archive is malformed"));
        }
        // Sized in advance, so that the buffer never moves and leaves no copy behind.
        let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(entry.size()).unwrap_or(0)));
        { entry }.read_to_end(&mut content).map_err(unreadable)?;
        if !known {
            if path != MANIFEST {
                return Err(not("it is an age file of something else"));
            }
            let version = String::from_utf8_lossy(&content).trim_end().to_owned();
            if version != VERSION {
                return Err(VaultError::NewerBackup { path: from.to_owned(), version });
            }
            known = true;
            continue;
        }
        match path.strip_prefix(FOLDER) {
            Some(name) if valid_name(name) && !secrets.iter().any(|(other, _)| other == name) => {
                secrets.push((name.to_owned(), content));
            }
            _ => return Err(not("its archive is malformed")),
        }
    }
    // The archive's end is not the file's: only age's last chunk proves that nothing was cut off.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unreadable)?;
    if known { Ok(secrets) } else { Err(not("it is empty")) }
}
