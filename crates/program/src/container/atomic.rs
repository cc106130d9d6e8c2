//! Files that appear whole or not at all.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// Who may read a file that [`AtomicFile`] creates (on Unix; elsewhere the directory decides).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The owner only: mode 0600.
    Private,
    /// Whoever the process's umask allows: mode 0666 less the umask.
    Shared,
}

/// A file under construction: written to a hidden temporary sibling `.NAME.XXXXXX.tmp`, renamed onto its target by
/// [`AtomicFile::replace`] or [`AtomicFile::create_new`], removed if dropped before.
///
/// After a crash the target is the old file or the new one; at worst a temporary sibling is left over.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl AtomicFile {
    /// Suffix of the temporary sibling, for those who clean up after a crash.
    pub const TEMPORARY_SUFFIX: &str = ".tmp";

    /// Begins a file that will stand at `target`.
    ///
    /// # Errors
    /// Refuses a target that is not a regular file (a rename would replace a device or a pipe), and whatever the system refuses.
    pub fn begin(target: &Path, access: Access) -> io::Result<Self> {
        let name =
            target.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
        if std::fs::metadata(target).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "something that is not a regular file stands there",
            ));
        }
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(Self::TEMPORARY_SUFFIX);
        restrict(&mut builder, access);
        let temporary = builder.tempfile_in(parent(target))?;
        Ok(Self { temporary, target: target.to_owned() })
    }

    /// Makes the content durable and renames it onto the target, replacing what was there.
    ///
    /// # Errors
    /// Whatever the system refuses; the target is then as it was.
    pub fn replace(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.target).map_err(|failed| failed.error)?;
        sync_directory(parent(&self.target))
    }

    /// Like [`AtomicFile::replace`], but fails with [`io::ErrorKind::AlreadyExists`] where the target exists.
    ///
    /// # Errors
    /// Whatever the system refuses; the target is then as it was.
    pub fn create_new(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist_noclobber(&self.target).map_err(|failed| failed.error)?;
        sync_directory(parent(&self.target))
    }

    /// The open temporary file, readable and writable.
    pub(super) fn file(&self) -> &File {
        self.temporary.as_file()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.temporary.seek(position)
    }
}

/// Makes creations, renames and removals in `directory` durable (a no-op where directories cannot be opened, as on Windows).
///
/// # Errors
/// Whatever the system refuses.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn restrict(builder: &mut tempfile::Builder<'_, '_>, access: Access) {
    use std::os::unix::fs::PermissionsExt;
    let mode = match access {
        Access::Private => 0o600,
        Access::Shared => 0o666,
    };
    builder.permissions(std::fs::Permissions::from_mode(mode));
}

#[cfg(not(unix))]
fn restrict(_: &mut tempfile::Builder<'_, '_>, _: Access) {}
