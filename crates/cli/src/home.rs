//! The owner's home directory and the passphrase that opens its vault.

use crate::arguments::HomeFlags;
use crate::failure::failure;
use std::ffi::OsString;
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use subrosa_owner::Owner;
use subrosa_registry::{Passphrase, Vault};
use subrosa_terminal::Failure;

const VARIABLE: &str = "SUBROSA_PASSPHRASE";

impl HomeFlags {
    /// The flags as they were given, for another program.
    pub fn given(&self) -> Vec<OsString> {
        let all = [("--home", &self.home), ("--passphrase-file", &self.passphrase_file)];
        let given = all.into_iter().filter_map(|(flag, path)| Some([flag.into(), path.clone()?.into_os_string()]));
        given.flatten().collect()
    }

    /// The home directory.
    pub fn directory(&self) -> Result<PathBuf, Failure> {
        if let Some(home) = &self.home {
            return Ok(home.clone());
        }
        subrosa_registry::default_home().ok_or_else(|| {
            Failure::usage("the system names no data directory: say where your keys and networks live with --home DIR")
        })
    }

    /// The owner's side on the home directory, created if there is none.
    pub fn owner_or_new(&self) -> Result<Owner, Failure> {
        Owner::open(&self.directory()?).map_err(failure)
    }

    /// The owner's side on the home directory; a mistyped one is not created.
    pub fn owner(&self) -> Result<Owner, Failure> {
        let home = self.directory()?;
        if !home.is_dir() {
            return Err(Failure::usage(format!(
                "there is no home directory {}: 'subrosa protect' makes one, --home or SUBROSA_HOME names another",
                home.display()
            )));
        }
        Owner::open(&home).map_err(failure)
    }

    /// The vault, which must exist.
    pub fn vault(&self) -> Result<Vault, Failure> {
        self.unlock().map(|(vault, _)| vault)
    }

    /// The vault, which must exist, and the passphrase that opened it.
    pub fn unlock(&self) -> Result<(Vault, Passphrase), Failure> {
        let home = self.directory()?;
        if !Vault::exists(&home) {
            return Err(failure(subrosa_registry::VaultError::NoVault { home }));
        }
        let passphrase = self.passphrase(false)?;
        Ok((Vault::open(&home, &passphrase).map_err(failure)?, passphrase))
    }

    /// The vault, created if there is none; a new passphrase is asked for twice.
    pub fn vault_or_new(&self) -> Result<(Vault, Passphrase), Failure> {
        let home = self.directory()?;
        let passphrase = self.passphrase(!Vault::exists(&home))?;
        Ok((Vault::create_or_open(&home, &passphrase).map_err(failure)?, passphrase))
    }

    fn passphrase(&self, new: bool) -> Result<Passphrase, Failure> {
        if let Some(file) = &self.passphrase_file {
            return from_file(file);
        }
        match std::env::var(VARIABLE) {
            Ok(text) => Passphrase::new(text).map_err(failure),
            Err(std::env::VarError::NotUnicode(_)) => Err(Failure::usage(format!("{VARIABLE} is not valid UTF-8"))),
            Err(std::env::VarError::NotPresent) => {
                let what = if new { "New passphrase for the key vault" } else { "Passphrase of the key vault" };
                ask(what, new, &format!("give --passphrase-file FILE or set {VARIABLE}"))
            }
        }
    }
}

/// Reads a passphrase from a file, without the line break at its end.
pub(crate) fn from_file(path: &Path) -> Result<Passphrase, Failure> {
    Passphrase::read(path).map_err(failure)
}

/// Asks on the terminal, twice for a new passphrase.
pub(crate) fn ask(what: &str, new: bool, otherwise: &str) -> Result<Passphrase, Failure> {
    if !stdin().is_terminal() {
        return Err(Failure::usage(format!("no passphrase was given and there is no terminal to ask on: {otherwise}")));
    }
    let prompt = |text: String| {
        let unreadable = |e| Failure::usage(format!("cannot ask for the passphrase ({e}): {otherwise}"));
        rpassword::prompt_password(text).map_err(unreadable)
    };
    let first = prompt(format!("{what}: "))?;
    if new && prompt("Once more: ".into())? != first {
        return Err(Failure::usage("the two passphrases differ: nothing was changed"));
    }
    Passphrase::new(first).map_err(failure)
}
