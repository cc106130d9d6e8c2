//! The vault of several machines: its files lie in the store that they share, each as encrypted as on the disk, and every home has copies.
//!
//! An entry is never changed once it is put, so copies cannot differ. Who makes the vault is settled by the store: `vault/identity.age` is
//! written only where there is none, and who comes second takes the first one's. What a store's operator gets is what a key backup's thief
//! gets: files that a passphrase protects, by scrypt. Choose one that is hard to guess.

use std::path::Path;

use subrosa_registry::{Passphrase, Vault, VaultError};

use crate::serve::ServeError;
use crate::store::Store;

const PREFIX: &str = "vault/";
const IDENTITY: &str = "identity.age";

/// Opens the vault that is in the store, or makes it.
pub(crate) async fn open(home: &Path, store: &Store, passphrase: &Passphrase) -> Result<Vault, ServeError> {
    let directory = home.join("vault");
    let io = |e: std::io::Error| ServeError::Inside(format!("{}: {e}", directory.display()));
    std::fs::create_dir_all(&directory).map_err(io)?;
    let identity = directory.join(IDENTITY);
    let key = format!("{PREFIX}{IDENTITY}");
    if !identity.is_file() && !fetch(store, &key, &identity).await? {
        Vault::create_or_open(home, passphrase)?;
        if !store.put_new(&key, std::fs::read(&identity).map_err(io)?).await? {
            // Another process was first; nothing was put into this one yet.
            std::fs::remove_file(&identity).map_err(io)?;
            std::fs::remove_file(directory.join("recipient.txt")).map_err(io)?;
            fetch(store, &key, &identity).await?;
        }
    } else if store.get(&key).await.is_err_and(|e| e.is_missing()) {
        // A home that had its vault before the store.
        store.put_new(&key, std::fs::read(&identity).map_err(io)?).await?;
    }
    pull(home, store).await?;
    Ok(Vault::open(home, passphrase)?)
}

async fn fetch(store: &Store, key: &str, file: &Path) -> Result<bool, ServeError> {
    let beside = file.with_extension("part");
    if !store.fetch(key, &beside).await? {
        return Ok(false);
    }
    std::fs::rename(&beside, file).map_err(|e| ServeError::Inside(format!("{}: {e}", file.display())))?;
    Ok(true)
}

/// Copies entries into the home that are only in the store.
pub(crate) async fn pull(home: &Path, store: &Store) -> Result<(), ServeError> {
    let directory = home.join("vault");
    for name in store.list(PREFIX).await? {
        // Only what a vault holds: the store may be somebody else's.
        let plain = name.ends_with(".age") && !name.starts_with('.') && !name.contains(['/', '\\']);
        if plain && !directory.join(&name).is_file() {
            fetch(store, &format!("{PREFIX}{name}"), &directory.join(&name)).await?;
        }
    }
    Ok(())
}

/// Copies entries into the store that are only in the home.
pub(crate) async fn push(home: &Path, store: &Store) -> Result<(), ServeError> {
    let directory = home.join("vault");
    let io = |e: std::io::Error| ServeError::Inside(format!("{}: {e}", directory.display()));
    let there = store.list(PREFIX).await?;
    for entry in std::fs::read_dir(&directory).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".age") && !name.starts_with('.') && !there.contains(&name) {
            let bytes = std::fs::read(directory.join(&name)).map_err(io)?;
            if !store.put_new(&format!("{PREFIX}{name}"), bytes).await? && name == IDENTITY {
                return Err(VaultError::Foreign { path: directory.join(name) }.into());
            }
        }
    }
    Ok(())
}
