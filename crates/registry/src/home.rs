//! Directories, locks and durability, shared by the registry and the vault.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use subrosa_program::container::sync_directory;

/// The system refused an operation on a path: no such file, no permission, disk full, ...
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", path.display())]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was being done, as a verb phrase.
    pub action: &'static str,
    /// The system's answer.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { path: path.to_owned(), action, source }
    }
}

/// The home where none is named: in the platform's data directory, if it has one.
pub fn default_home() -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    etcetera::base_strategy::choose_native_strategy().ok().map(|platform| platform.data_dir().join("subrosa"))
}

/// Creates a directory and its parents, readable by the owner only; one that exists stays as it is.
pub(crate) fn create_directory(path: &Path) -> Result<(), FileError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(FileError::at(path, "create the directory"))
}

/// Makes everything in a directory durable, files first, the directory itself last.
pub(crate) fn sync_tree(directory: &Path) -> Result<(), FileError> {
    for path in children(directory)? {
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(FileError::at(&path, "write to disk"))?;
        }
    }
    sync(directory)
}

/// Makes creations, renames and removals in a directory durable.
pub(crate) fn sync(directory: &Path) -> Result<(), FileError> {
    sync_directory(directory).map_err(FileError::at(directory, "write to disk"))
}

/// Renames, with an error that names the target.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::at(to, "move into place"))
}

/// The paths directly in a directory, in no particular order.
pub(crate) fn children(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = || FileError::at(directory, "list the directory");
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        paths.push(entry.map_err(failed())?.path());
    }
    Ok(paths)
}

/// An advisory lock on a file, between processes and between openings in one process; released on drop.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    path: PathBuf,
}

impl LockFile {
    /// Opens or creates the file, without locking it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, FileError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        Ok(Self { file: file.map_err(FileError::at(&path, "open the lock file"))?, path })
    }

    /// Waits until nobody else holds the lock and takes it alone.
    pub(crate) fn exclusive(&self) -> Result<(), FileError> {
        self.file.lock().map_err(FileError::at(&self.path, "lock the file"))
    }

    /// Takes the lock alone if nobody holds it; says whether it did.
    pub(crate) fn try_exclusive(&self) -> Result<bool, FileError> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(source)) => Err(FileError::at(&self.path, "lock the file")(source)),
        }
    }

    /// Gives up an exclusive lock, if held, and takes a shared one. Another process may hold it alone in between.
    pub(crate) fn share(&self) -> Result<(), FileError> {
        let shared = self.file.unlock().and_then(|()| self.file.lock_shared());
        shared.map_err(FileError::at(&self.path, "lock the file"))
    }
}
