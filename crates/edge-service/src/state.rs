//! The state directory: one agent at a time, the device's key, its access token, its deployment.

use crate::error::ServiceError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use subrosa_fleet::messages::{Deployment, Enrolled};
use subrosa_program::container::{Access, AtomicFile};

/// The directory, held alone.
pub(crate) struct State {
    directory: PathBuf,
    _lock: File,
}

/// What the backend said when it enrolled the device.
#[derive(Serialize, Deserialize)]
pub(crate) struct Membership {
    /// The backend.
    pub url: String,
    #[serde(flatten)]
    pub enrolled: Enrolled,
}

/// What runs and what ran before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub current: Option<Deployment>,
    /// Kept until the current one has answered.
    pub previous: Option<Deployment>,
    /// Newest generation that was seen, also of what was refused.
    pub generation: u64,
}

impl State {
    /// Opens or creates the directory, readable by its owner only.
    pub fn open(directory: &Path) -> Result<Self, ServiceError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ServiceError::State { path, source }
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory.join("bundles")).map_err(failed(directory))?;
        let path = directory.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(ServiceError::Locked(directory.to_owned())),
            Err(TryLockError::Error(e)) => Err(failed(&path)(e)),
        }
    }

    pub fn key(&self) -> PathBuf {
        self.directory.join("device.key")
    }
    pub fn queue(&self) -> PathBuf {
        self.directory.join("queue.db")
    }
    fn membership_file(&self) -> PathBuf {
        self.directory.join("access.json")
    }
    fn running_file(&self) -> PathBuf {
        self.directory.join("deployment.json")
    }
    pub fn bundles(&self) -> PathBuf {
        self.directory.join("bundles")
    }
    /// A bundle that was verified.
    pub fn bundle(&self, deployment: &Deployment) -> PathBuf {
        self.bundles().join(format!("{}.srb", deployment.sha256))
    }
    /// A bundle that is being fetched.
    pub fn partial(&self, deployment: &Deployment) -> PathBuf {
        self.bundles().join(format!("{}.part", deployment.sha256))
    }

    /// What the backend said when it enrolled the device, if it did.
    pub fn membership(&self) -> Result<Option<Membership>, ServiceError> {
        read(&self.membership_file(), "remove it and enrol the device again with a new token")
    }

    /// Keeps it, readable by its owner only.
    pub fn enrolled(&self, membership: &Membership) -> Result<(), ServiceError> {
        write(&self.membership_file(), membership)
    }

    /// What runs.
    pub fn running(&self) -> Result<Running, ServiceError> {
        let found = read(&self.running_file(), "remove it; the deployment is fetched again")?;
        Ok(found.unwrap_or_default())
    }

    /// Keeps what runs.
    pub fn runs(&self, running: &Running) -> Result<(), ServiceError> {
        write(&self.running_file(), running)
    }

    /// Removes all bundles but those in use, and what crashes left over.
    pub fn clean(&self, running: &Running, also: Option<&Deployment>) {
        let keep: Vec<PathBuf> = [running.current.as_ref(), running.previous.as_ref(), also]
            .into_iter()
            .flatten()
            .flat_map(|d| [self.bundle(d), self.partial(d)])
            .collect();
        let Ok(entries) = std::fs::read_dir(self.bundles()) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if !keep.contains(&path) {
                // What cannot be removed only takes room, and is tried again.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path, cure: &str) -> Result<Option<T>, ServiceError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| ServiceError::Foreign { path: path.to_owned(), what: format!("it is damaged ({e}): {cure}") }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServiceError::State { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), ServiceError> {
    let failed = |source| ServiceError::State { path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(value).map_err(|e| failed(e.into()))?;
    let mut file = AtomicFile::begin(path, Access::Private).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.replace()).map_err(failed)
}
