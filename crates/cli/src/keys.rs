//! `keys` and `identity`: the vault's copies and passphrase, the owner's public signing key.

use crate::arguments::{HomeFlags, Keys};
use crate::failure::{failure, io};
use crate::home;
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::Path;
use subrosa_program::container::{Access, AtomicFile};
use subrosa_registry::OwnerIdentity;
use subrosa_terminal::{Failure, Terminal, text};

/// What was done to the vault.
#[derive(Serialize)]
#[serde(untagged)]
enum KeysReport {
    Backup { entries: usize, backup_bytes: u64, out: String },
    Restore { restored: usize, skipped: usize, overwritten: Vec<String> },
    Passphrase { changed: bool },
}

#[derive(Serialize)]
struct IdentityReport {
    fingerprint: String,
    public_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
}

pub(crate) fn keys(terminal: &mut Terminal, home: &HomeFlags, command: &Keys) -> Result<(), Failure> {
    let report = match command {
        Keys::Backup { out } => {
            let (vault, passphrase) = home.unlock()?;
            let info = vault.backup(out, &passphrase).map_err(failure)?;
            terminal.note("the backup opens with the passphrase the vault has now, also after a change");
            KeysReport::Backup { entries: info.entries, backup_bytes: info.bytes, out: out.display().to_string() }
        }
        Keys::Restore { file, force, backup_passphrase_file } => {
            let other = backup_passphrase_file.as_deref().map(home::from_file).transpose()?;
            // A backup that does not exist must not leave a new vault behind.
            std::fs::metadata(file).map_err(io("read", file))?;
            let (vault, passphrase) = home.vault_or_new()?;
            let info = vault.restore_from(file, other.as_ref().unwrap_or(&passphrase), *force).map_err(failure)?;
            KeysReport::Restore { restored: info.restored, skipped: info.skipped, overwritten: info.conflicts }
        }
        Keys::Passphrase { new_passphrase_file } => {
            let (vault, old) = home.unlock()?;
            let new = match new_passphrase_file {
                Some(file) => home::from_file(file)?,
                None => home::ask("New passphrase for the key vault", true, "give --new-passphrase-file FILE")?,
            };
            vault.change_passphrase(&old, &new).map_err(failure)?;
            KeysReport::Passphrase { changed: true }
        }
    };
    terminal.report(&report)
}

pub(crate) fn identity(terminal: &mut Terminal, home: &HomeFlags, out: Option<&Path>) -> Result<(), Failure> {
    let (vault, _) = home.vault_or_new()?;
    let signer = OwnerIdentity::load_or_create(&vault).map_err(failure)?.signer();
    let fingerprint = signer.fingerprint();
    let public_key = signer.to_file_text(&fingerprint);
    if let Some(path) = out {
        let write = || {
            let mut file = AtomicFile::begin(path, Access::Shared)?;
            file.write_all(public_key.as_bytes())?;
            file.replace()
        };
        write().map_err(io("write", path))?;
    }
    let public_key = public_key.trim_end().to_owned();
    terminal.report(&IdentityReport { fingerprint, public_key, out: out.map(|path| path.display().to_string()) })
}

impl fmt::Display for KeysReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup { entries, backup_bytes, out } => {
                write!(f, "{entries} keys in {out}, {}", text::bytes(*backup_bytes))
            }
            Self::Restore { restored, skipped, overwritten } => {
                write!(
                    f,
                    "{restored} keys restored ({} of them overwritten), {skipped} were there already",
                    overwritten.len()
                )
            }
            Self::Passphrase { .. } => write!(f, "the passphrase was changed; older backups keep theirs"),
        }
    }
}

impl fmt::Display for IdentityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Comment and key: standard output is itself a file that `subrosa-edge --trust` takes.
        match &self.out {
            Some(out) => write!(f, "public signing key in {out}\nfingerprint {}", self.fingerprint),
            None => write!(f, "# owner's public signing key, fingerprint {}\n{}", self.fingerprint, self.public_key),
        }
    }
}
