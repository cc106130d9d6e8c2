//! Reading a container in place.

use std::{collections::HashMap, fs::File, ops::Range, path::Path};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    error::{ContainerError, shown},
    format::{self, ENTRY_LENGTH, Entry, HEADER_LENGTH, Header, SEAL_LENGTH},
    map::Map,
    signer::Signer,
};

/// Bytes that are read of a mapped file before their memory is given back.
pub(crate) const WINDOW: usize = 1 << 22;

/// An open container file: structure, seal and signature checked, sections readable as slices.
///
/// The sections' own bytes are checked by [`Container::verify_all`]: call it before trusting any.
pub struct Container {
    file: String,
    source: Source,
    sections: Vec<Section>,
    by_name: HashMap<String, usize>,
    table_offset: usize,
    signer: Option<Signer>,
}

impl Container {
    /// Maps the file at `path` into memory. Sections are then aligned to 64 bytes in memory too.
    ///
    /// # Errors
    /// A [`ContainerError`] that tells apart: no such file, not a regular file, empty, not a Subrosa file, another kind than
    /// `kind`, a newer format version, cut short, too long, damaged header or table, invalid signature.
    pub fn open(path: &Path, kind: [u8; 8]) -> Result<Self, ContainerError> {
        let file = shown(path);
        let handle = File::open(path).map_err(ContainerError::io(&file, "open the file"))?;
        let metadata = handle.metadata().map_err(ContainerError::io(&file, "read the file's size"))?;
        if !metadata.is_file() {
            return Err(ContainerError::NotAFile { file });
        }
        if metadata.len() == 0 {
            return Err(ContainerError::Empty { file });
        }
        let map = Map::of(&handle).map_err(ContainerError::io(&file, "map the file into memory"))?;
        Self::parse(file, Source::Mapped(map), kind)
    }

    /// Reads a container that is already in memory. Sections have no particular alignment in memory.
    ///
    /// # Errors
    /// Those of [`Container::open`], less the file system's.
    pub fn from_bytes(bytes: Vec<u8>, kind: [u8; 8]) -> Result<Self, ContainerError> {
        Self::parse("the file in memory".to_owned(), Source::Owned(bytes), kind)
    }

    /// The bytes of the section called `name`.
    ///
    /// # Errors
    /// [`ContainerError::MissingSection`] where the file has none of that name.
    pub fn section(&self, name: &str) -> Result<&[u8], ContainerError> {
        self.by_name
            .get(name)
            .and_then(|&index| self.sections.get(index))
            .and_then(|section| self.source.bytes().get(section.range.clone()))
            .ok_or_else(|| ContainerError::MissingSection { file: self.file.clone(), section: name.to_owned() })
    }

    /// Name and length in bytes of every section, in the file's order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sections.iter().map(|section| (section.name.as_str(), section.range.len() as u64))
    }

    /// Checks every byte that opening did not: each section against its SHA-256, in parallel on rayon's current pool, and
    /// that the padding between sections is zero. What of a mapped file was read for it leaves the process's memory again.
    ///
    /// # Errors
    /// [`ContainerError::SectionDamaged`] for the first damaged section in the file's order, [`ContainerError::Damaged`] for padding.
    pub fn verify_all(&self) -> Result<(), ContainerError> {
        let bytes = self.source.bytes();
        let intact: Vec<bool> = self
            .sections
            .par_iter()
            .map(|section| {
                let mut hash = Sha256::new();
                for start in section.range.clone().step_by(WINDOW) {
                    let window = start..section.range.end.min(start + WINDOW);
                    hash.update(bytes.get(window.clone()).unwrap_or_default());
                    self.source.release(window);
                }
                <[u8; 32]>::from(hash.finalize()) == section.sha256
            })
            .collect();
        if let Some((section, _)) = self.sections.iter().zip(intact).find(|(_, intact)| !intact) {
            return Err(ContainerError::SectionDamaged { file: self.file.clone(), section: section.name.clone() });
        }
        let ends = self.sections.iter().map(|section| section.range.end);
        let nexts = self.sections.iter().skip(1).map(|section| section.range.start).chain([self.table_offset]);
        for (end, next) in ends.zip(nexts) {
            if !bytes.get(end..next).is_some_and(|padding| padding.iter().all(|&byte| byte == 0)) {
                return Err(ContainerError::damaged(&self.file, "its padding"));
            }
        }
        Ok(())
    }

    /// Takes what was read of a mapped file out of the process's memory: for readers who have what they need of it, and keep it open.
    pub fn release(&self) {
        self.source.release(0..self.source.bytes().len());
    }

    /// Who signed the file; the signature was verified when the file was opened. `None` for an unsigned file.
    ///
    /// A valid signature says nothing about *whom* the key belongs to: compare it with a trusted one.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    fn parse(file: String, source: Source, kind: [u8; 8]) -> Result<Self, ContainerError> {
        let bytes = source.bytes();
        let header = Header::decode(&file, bytes, kind)?;
        let damaged_table = || ContainerError::damaged(&file, "its table of sections");

        let table_offset = usize::try_from(header.table_offset).map_err(|_| damaged_table())?;
        let table_length = header.section_count as usize * ENTRY_LENGTH;
        let (head, rest) = bytes.split_at_checked(HEADER_LENGTH).ok_or_else(damaged_table)?;
        let tail = rest.get(table_offset - HEADER_LENGTH..).ok_or_else(damaged_table)?;
        let (table, tail) = tail.split_at_checked(table_length).ok_or_else(damaged_table)?;
        let (seal, signer_block) = tail.split_first_chunk::<SEAL_LENGTH>().ok_or_else(damaged_table)?;
        if *seal != format::seal(head, table) {
            return Err(ContainerError::damaged(&file, "its header or table of sections"));
        }

        let mut sections = Vec::with_capacity(header.section_count as usize);
        let mut by_name = HashMap::with_capacity(sections.capacity());
        let mut end = HEADER_LENGTH as u64;
        for entry in table.chunks_exact(ENTRY_LENGTH) {
            let entry = Entry::decode(entry).ok_or_else(damaged_table)?;
            if format::align(end) != Some(entry.offset) {
                return Err(damaged_table());
            }
            end = entry
                .offset
                .checked_add(entry.length)
                .filter(|&end| end <= header.table_offset)
                .ok_or_else(damaged_table)?;
            if by_name.insert(entry.name.clone(), sections.len()).is_some() {
                return Err(damaged_table());
            }
            // Both ends lie below `table_offset`, which is a usize.
            let range = entry.offset as usize..end as usize;
            sections.push(Section { name: entry.name, range, sha256: entry.sha256 });
        }
        if format::align(end) != Some(header.table_offset) {
            return Err(damaged_table());
        }

        let signer = if header.signed {
            let bad = || ContainerError::BadSignature { file: file.clone() };
            let (public_key, signature) = signer_block.split_first_chunk::<32>().ok_or_else(bad)?;
            let signature: &[u8; 64] = signature.try_into().map_err(|_| bad())?;
            let signer = Signer { public_key: *public_key };
            if !signer.verifies(&format::signed_message(seal), signature) {
                return Err(bad());
            }
            Some(signer)
        } else {
            None
        };
        Ok(Self { file, source, sections, by_name, table_offset, signer })
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sections: Vec<_> = self.sections().collect();
        out.debug_struct("Container")
            .field("file", &self.file)
            .field("sections", &sections)
            .field("signer", &self.signer)
            .finish_non_exhaustive()
    }
}

struct Section {
    name: String,
    range: Range<usize>,
    sha256: [u8; 32],
}

enum Source {
    Mapped(Map),
    Owned(Vec<u8>),
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map.bytes(),
            Self::Owned(bytes) => bytes,
        }
    }

    fn release(&self, range: Range<usize>) {
        if let Self::Mapped(map) = self {
            map.release(range);
        }
    }
}
