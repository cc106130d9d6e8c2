//! Fetching a bundle: resumed where it broke off, and checked as a whole against its digest before it gets its name.

use super::{NotTaken, Updater};
use reqwest::StatusCode;
use sha2::{Digest, Sha256};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use subrosa_fleet::messages::Deployment;
use subrosa_program::container::sync_directory;

impl Updater {
    /// Brings a deployment's bundle to its place, unless it is there.
    pub(super) async fn fetch(&self, deployment: &Deployment) -> Result<(), NotTaken> {
        let (target, partial) = (self.state.bundle(deployment), self.state.partial(deployment));
        if std::fs::metadata(&target).is_ok_and(|m| m.len() == deployment.bytes) {
            return Ok(());
        }
        let later = |e: std::io::Error| NotTaken::Later(format!("{}: {e}", partial.display()));
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&partial)
            .map_err(later)?;
        let mut have = file.seek(SeekFrom::End(0)).map_err(later)?;
        if have > deployment.bytes {
            file.set_len(0).map_err(later)?;
            have = file.seek(SeekFrom::Start(0)).map_err(later)?;
        }
        if have < deployment.bytes {
            let mut answer = self.backend.bundle(&deployment.sha256, have).await?;
            if have > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
                file.set_len(0).map_err(later)?;
                have = file.seek(SeekFrom::Start(0)).map_err(later)?;
            }
            while let Some(chunk) = answer.chunk().await.map_err(crate::backend::BackendError::from)? {
                have += chunk.len() as u64;
                if have > deployment.bytes {
                    break;
                }
                file.write_all(&chunk).map_err(later)?;
                self.metrics.bundle_bytes.add(chunk.len() as u64);
            }
            if have < deployment.bytes {
                return Err(NotTaken::Later(format!(
                    "the bundle of {}@{} broke off after {have} of {} bytes",
                    deployment.name, deployment.version, deployment.bytes
                )));
            }
        }
        let wanted = deployment.clone();
        let checked = tokio::task::spawn_blocking(move || check(file, have, &wanted, &partial, &target)).await;
        match checked.map_err(|e| NotTaken::Later(format!("internal error: {e}")))?? {
            true => Ok(()),
            false => {
                // Whatever damaged it on its way may not do so the next time.
                self.metrics.bundles_refused.add(1);
                Err(NotTaken::Later(format!(
                    "the bundle of {}@{} is refused: its bytes are not those of the deployment (SHA-256 or length differ)",
                    deployment.name, deployment.version
                )))
            }
        }
    }
}

/// Whether digest and length are right; then the file gets its name, else it is removed.
fn check(
    mut file: std::fs::File,
    have: u64,
    deployment: &Deployment,
    partial: &Path,
    target: &PathBuf,
) -> Result<bool, NotTaken> {
    let later = |e: std::io::Error| NotTaken::Later(format!("{}: {e}", partial.display()));
    let mut hash = Sha256::new();
    file.seek(SeekFrom::Start(0)).map_err(later)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(later)? {
            0 => break,
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    if have != deployment.bytes || hex::encode(hash.finalize()) != deployment.sha256 {
        std::fs::remove_file(partial).map_err(later)?;
        return Ok(false);
    }
    file.sync_all().map_err(later)?;
    drop(file);
    std::fs::rename(partial, target).map_err(later)?;
    sync_directory(target.parent().unwrap_or(Path::new("."))).map_err(later)?;
    Ok(true)
}
