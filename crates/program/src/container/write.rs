//! Writing a container, section by section.

use std::{
    error::Error,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    atomic::{Access, AtomicFile},
    error::{ContainerError, shown},
    format::{self, ENTRY_LENGTH, Entry, HEADER_LENGTH, Header, MAX_SECTIONS},
    signer::Signer,
};

/// Whatever a signing function may fail with.
pub type SignError = Box<dyn Error + Send + Sync>;

/// Signs a message with Ed25519.
pub type SignFn<'a> = &'a dyn Fn(&[u8]) -> Result<[u8; 64], SignError>;

/// A finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file.
    pub sha256: [u8; 32],
}

/// Streams sections into a new container; [`ContainerWriter::finish`] puts it in place.
///
/// Nothing appears at the path before that: the sections go to a temporary sibling, removed if the writer is dropped.
pub struct ContainerWriter {
    file: String,
    out: BufWriter<AtomicFile>,
    kind: [u8; 8],
    position: u64,
    entries: Vec<Entry>,
    open: Option<OpenSection>,
    failed: bool,
}

struct OpenSection {
    name: String,
    offset: u64,
    hash: Sha256,
}

impl ContainerWriter {
    /// Begins a container of this kind that will stand at `path`.
    ///
    /// # Errors
    /// [`ContainerError::Io`] where the directory cannot be written to or `path` is not a regular file.
    pub fn create(path: &Path, kind: [u8; 8]) -> Result<Self, ContainerError> {
        let file = shown(path);
        let target = AtomicFile::begin(path, Access::Shared).map_err(ContainerError::io(&file, "create the file"))?;
        let out = BufWriter::with_capacity(1 << 20, target);
        let mut writer = Self { file, out, kind, position: 0, entries: Vec::new(), open: None, failed: false };
        writer.put(&[0; HEADER_LENGTH])?;
        Ok(writer)
    }

    /// Begins a section of 1 to 24 printable ASCII characters without space, not used before in this file.
    ///
    /// # Errors
    /// [`ContainerError::Misuse`] for a bad name or while another section is open, [`ContainerError::Io`].
    pub fn begin_section(&mut self, name: &str) -> Result<(), ContainerError> {
        if let Some(open) = &self.open {
            return Err(self.misuse(format!("section '{name}' begins inside section '{}'", open.name)));
        }
        if !format::valid_name(name) || self.entries.iter().any(|entry| entry.name == name) {
            return Err(self.misuse(format!("section name '{name}' is not 1 to 24 ASCII characters or is used twice")));
        }
        if self.entries.len() >= MAX_SECTIONS as usize {
            return Err(self.misuse(format!("it would have more than {MAX_SECTIONS} sections")));
        }
        self.pad()?;
        self.open = Some(OpenSection { name: name.to_owned(), offset: self.position, hash: Sha256::new() });
        Ok(())
    }

    /// Appends to the open section.
    ///
    /// # Errors
    /// [`ContainerError::Misuse`] where no section is open, [`ContainerError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ContainerError> {
        match &mut self.open {
            Some(open) => open.hash.update(bytes),
            None => return Err(self.misuse("bytes were written outside of a section".to_owned())),
        }
        self.put(bytes)
    }

    /// Ends the open section.
    ///
    /// # Errors
    /// [`ContainerError::Misuse`] where no section is open.
    pub fn end_section(&mut self) -> Result<(), ContainerError> {
        let Some(open) = self.open.take() else {
            return Err(self.misuse("a section ends that was not begun".to_owned()));
        };
        let length = self.position - open.offset;
        self.entries.push(Entry { name: open.name, offset: open.offset, length, sha256: open.hash.finalize().into() });
        Ok(())
    }

    /// Writes a whole section.
    ///
    /// # Errors
    /// Those of [`ContainerWriter::begin_section`].
    pub fn add_section(&mut self, name: &str, bytes: &[u8]) -> Result<(), ContainerError> {
        self.begin_section(name)?;
        self.write(bytes)?;
        self.end_section()
    }

    /// Writes table, seal, signer block and header, makes all of it durable and renames the file into place.
    ///
    /// `sign` is the signer's Ed25519 public key and a function that signs with the private one; `None` leaves the file unsigned.
    ///
    /// # Errors
    /// [`ContainerError::Misuse`] for an open section, [`ContainerError::Signing`] where the function fails or its signature does not
    /// fit the key, [`ContainerError::Io`]. Whatever stood at the path is then still there.
    pub fn finish(mut self, sign: Option<(&[u8; 32], SignFn<'_>)>) -> Result<FileInfo, ContainerError> {
        if let Some(open) = &self.open {
            return Err(self.misuse(format!("section '{}' was not ended", open.name)));
        }
        if self.failed {
            return Err(self.misuse("an earlier write to it failed".to_owned()));
        }
        self.pad()?;
        let mut table = Vec::with_capacity(self.entries.len() * ENTRY_LENGTH);
        for entry in &self.entries {
            table.extend(entry.encode());
        }
        let mut header = Header {
            signed: sign.is_some(),
            kind: self.kind,
            file_length: 0,
            table_offset: self.position,
            // at most MAX_SECTIONS
            section_count: self.entries.len() as u32,
        };
        header.file_length = self.position + header.tail_length();
        let head = header.encode();
        let seal = format::seal(&head, &table);
        self.put(&table)?;
        self.put(&seal)?;
        if let Some((public_key, sign)) = sign {
            let message = format::signed_message(&seal);
            let failed = |source| ContainerError::Signing { file: self.file.clone(), source };
            let signature = sign(&message).map_err(failed)?;
            if !(Signer { public_key: *public_key }).verifies(&message, &signature) {
                return Err(failed("the signature does not fit the public key".into()));
            }
            self.put(public_key)?;
            self.put(&signature)?;
        }
        let length = self.position;
        let Self { file, mut out, .. } = self;
        let fault = |action| ContainerError::io(&file, action);
        out.seek(SeekFrom::Start(0)).map_err(fault("write the file"))?;
        out.write_all(&head).map_err(fault("write the file"))?;
        let target = out.into_inner().map_err(|failed| fault("write the file")(failed.into_error()))?;
        let sha256 = hash_from_start(&target).map_err(fault("read back the file"))?;
        target.replace().map_err(fault("put the file in place"))?;
        Ok(FileInfo { bytes: length, sha256 })
    }

    fn pad(&mut self) -> Result<(), ContainerError> {
        let padding = format::align(self.position).map_or(0, |aligned| aligned - self.position);
        let zeros = [0; format::ALIGNMENT as usize];
        self.put(&zeros[..padding as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ContainerError> {
        if let Err(source) = self.out.write_all(bytes) {
            self.failed = true;
            return Err(ContainerError::io(&self.file, "write the file")(source));
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn misuse(&self, problem: String) -> ContainerError {
        ContainerError::Misuse { file: self.file.clone(), problem }
    }
}

/// The header is written last, so the whole file's hash takes a second pass, over pages that are still in memory.
fn hash_from_start(target: &AtomicFile) -> io::Result<[u8; 32]> {
    let mut file = target.file();
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}
