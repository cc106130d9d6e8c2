//! The fixed-size parts of a container: header, table entries, seal. The layout is drawn in the parent module.

use sha2::{Digest, Sha256};

use super::error::ContainerError;

/// The newest format version, the one that is written.
pub const FORMAT_VERSION: u32 = 1;

pub(super) const ALIGNMENT: u64 = 64;
pub(super) const HEADER_LENGTH: usize = 64;
pub(super) const NAME_LENGTH: usize = 24;
pub(super) const ENTRY_LENGTH: usize = 72;
pub(super) const SEAL_LENGTH: usize = 32;
pub(super) const SIGNER_LENGTH: usize = 96;
pub(super) const MAX_SECTIONS: u32 = 65_536;

const MARK: [u8; 8] = *b"\x89SRC\r\n\x1a\n";
const SEAL_DOMAIN: &[u8] = b"subrosa-container-seal-v1\0";
const SIGNATURE_DOMAIN: &[u8] = b"subrosa-container-signature-v1\0";

/// The header's fields that vary.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub signed: bool,
    pub kind: [u8; 8],
    pub file_length: u64,
    pub table_offset: u64,
    pub section_count: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.extend(MARK);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(u32::from(self.signed).to_le_bytes());
        bytes.extend(self.kind);
        bytes.extend(self.file_length.to_le_bytes());
        bytes.extend(self.table_offset.to_le_bytes());
        bytes.extend(self.section_count.to_le_bytes());
        let mut header = [0; HEADER_LENGTH];
        header[..bytes.len()].copy_from_slice(&bytes);
        header
    }

    /// Parses the header at the start of `bytes`, the whole file, and checks it against the file's length.
    pub(super) fn decode(file: &str, bytes: &[u8], kind: [u8; 8]) -> Result<Self, ContainerError> {
        let length = bytes.len() as u64;
        if bytes.is_empty() {
            return Err(ContainerError::Empty { file: file.to_owned() });
        }
        let common = bytes.len().min(MARK.len());
        if bytes[..common] != MARK[..common] {
            return Err(ContainerError::NotAContainer { file: file.to_owned() });
        }
        let cut = |expected| ContainerError::Truncated { file: file.to_owned(), length, expected };
        let mut reader = Fields(bytes.get(MARK.len()..HEADER_LENGTH).ok_or_else(|| cut(HEADER_LENGTH as u64))?);
        let damaged = || ContainerError::damaged(file, "its header");

        let version = reader.u32().ok_or_else(damaged)?;
        if version > FORMAT_VERSION {
            let supported = FORMAT_VERSION;
            return Err(ContainerError::NewerVersion { file: file.to_owned(), version, supported });
        }
        let signed = reader.u32().ok_or_else(damaged)?;
        let found: [u8; 8] = reader.array().ok_or_else(damaged)?;
        let file_length = reader.u64().ok_or_else(damaged)?;
        let table_offset = reader.u64().ok_or_else(damaged)?;
        let section_count = reader.u32().ok_or_else(damaged)?;
        if version == 0 || signed > 1 || section_count > MAX_SECTIONS || reader.0.iter().any(|&byte| byte != 0) {
            return Err(damaged());
        }
        if length < file_length {
            return Err(cut(file_length));
        }
        if length > file_length {
            let expected = file_length;
            return Err(ContainerError::TrailingBytes { file: file.to_owned(), length, expected });
        }
        if found != kind {
            let (found, expected) = (shown_kind(found), shown_kind(kind));
            return Err(ContainerError::WrongKind { file: file.to_owned(), found, expected });
        }
        let header = Self { signed: signed == 1, kind, file_length, table_offset, section_count };
        let aligned = table_offset % ALIGNMENT == 0 && table_offset >= HEADER_LENGTH as u64;
        if !aligned || table_offset.checked_add(header.tail_length()) != Some(file_length) {
            return Err(damaged());
        }
        Ok(header)
    }

    /// Bytes from the start of the table to the end of the file.
    pub(super) fn tail_length(&self) -> u64 {
        let signer = if self.signed { SIGNER_LENGTH } else { 0 };
        u64::from(self.section_count) * ENTRY_LENGTH as u64 + (SEAL_LENGTH + signer) as u64
    }
}

/// One line of the table.
pub(super) struct Entry {
    pub name: String,
    pub offset: u64,
    pub length: u64,
    pub sha256: [u8; 32],
}

impl Entry {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.name.as_bytes().to_vec();
        bytes.resize(NAME_LENGTH, 0);
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.sha256);
        bytes
    }

    /// `None` where the name is not one that [`valid_name`] allows, or `bytes` is not an entry long.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Fields(bytes);
        let padded: [u8; NAME_LENGTH] = reader.array()?;
        let offset = reader.u64()?;
        let length = reader.u64()?;
        let sha256 = reader.array()?;
        let used = padded.iter().position(|&byte| byte == 0).unwrap_or(NAME_LENGTH);
        let (name, padding) = padded.split_at(used);
        let name = std::str::from_utf8(name).ok()?;
        let good = valid_name(name) && padding.iter().all(|&byte| byte == 0) && reader.0.is_empty();
        good.then(|| Self { name: name.to_owned(), offset, length, sha256 })
    }
}

/// Whether a section may have this name: 1 to 24 printable ASCII characters without space.
pub(super) fn valid_name(name: &str) -> bool {
    (1..=NAME_LENGTH).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// SHA-256 over the header and the table under the seal's domain.
pub(super) fn seal(header: &[u8], table: &[u8]) -> [u8; SEAL_LENGTH] {
    let mut hash = Sha256::new();
    hash.update(SEAL_DOMAIN);
    hash.update(header);
    hash.update(table);
    hash.finalize().into()
}

/// The message that a signer signs.
pub(super) fn signed_message(seal: &[u8; SEAL_LENGTH]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, seal].concat()
}

/// The next multiple of [`ALIGNMENT`], `None` past the end of `u64`.
pub(super) fn align(position: u64) -> Option<u64> {
    position.checked_next_multiple_of(ALIGNMENT)
}

fn shown_kind(kind: [u8; 8]) -> String {
    let used = kind.iter().rposition(|&byte| byte != 0 && byte != b' ').map_or(0, |last| last + 1);
    kind[..used].escape_ascii().to_string()
}

/// Takes fixed-size fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
