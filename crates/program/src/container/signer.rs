//! The public half of an owner's signing identity: what an edge is told to trust.

use std::{fmt, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// An Ed25519 public key that signs containers.
///
/// Its file, for an edge's `--trust`, is one line `subrosa-owner-ed25519 BASE64 comment`; empty lines and lines that begin with `#`
/// are skipped.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signer {
    /// The key, in Ed25519's compressed encoding.
    pub public_key: [u8; 32],
}

impl Signer {
    const KEYWORD: &str = "subrosa-owner-ed25519";
    // A key file is some hundred bytes; more means that the wrong file was named.
    const MAX_FILE_LENGTH: u64 = 64 * 1024;

    /// The first 16 bytes of the key's SHA-256 in hex, in eight groups of four: `1a2b-3c4d-…`, for people to compare.
    pub fn fingerprint(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.public_key).into();
        let groups: Vec<String> = digest[..16].chunks(2).map(hex::encode).collect();
        groups.join("-")
    }

    /// Whether `signature` is this key's over `message`, by the strict rules (no small-order keys, canonical scalars).
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.public_key)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }

    /// The content of a public key file, with a newline at its end. Line breaks in the comment become spaces.
    pub fn to_file_text(&self, comment: &str) -> String {
        let comment: Vec<&str> = comment.split_whitespace().collect();
        let line = format!("{} {} {}", Self::KEYWORD, STANDARD.encode(self.public_key), comment.join(" "));
        format!("{}\n", line.trim_end())
    }

    /// Reads the content of a public key file.
    ///
    /// # Errors
    /// A [`SignerError`] that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, SignerError> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or(SignerError::Empty)?;
        if lines.next().is_some() {
            return Err(SignerError::SeveralKeys);
        }
        let mut words = line.split_whitespace();
        if words.next() != Some(Self::KEYWORD) {
            return Err(SignerError::NotAKey);
        }
        let encoded = words.next().ok_or(SignerError::Damaged)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SignerError::Damaged)?;
        let public_key: [u8; 32] = bytes.try_into().map_err(|_| SignerError::Damaged)?;
        match VerifyingKey::from_bytes(&public_key) {
            Ok(key) if !key.is_weak() => Ok(Self { public_key }),
            _ => Err(SignerError::Damaged),
        }
    }

    /// Reads a public key file.
    ///
    /// # Errors
    /// A [`SignerError`] that names the file.
    pub fn read(path: &Path) -> Result<Self, SignerError> {
        let unreadable = |source| SignerError::Unreadable { file: path.display().to_string(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > Self::MAX_FILE_LENGTH {
            return Err(SignerError::InFile {
                file: path.display().to_string(),
                source: Box::new(SignerError::NotAKey),
            });
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        Self::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|source| SignerError::InFile { file: path.display().to_string(), source: Box::new(source) })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Signer({})", self.fingerprint())
    }
}

/// What is wrong with a public key file.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The file cannot be read.
    #[error("{file}: cannot read the owner's public key: {source}")]
    Unreadable {
        /// The file as the caller named it.
        file: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The file's content is wrong.
    #[error("{file}: {source}")]
    InFile {
        /// The file as the caller named it.
        file: String,
        /// What is wrong with it.
        source: Box<SignerError>,
    },
    /// No key at all.
    #[error("there is no key in it: save the line that 'subrosa identity' prints")]
    Empty,
    /// Something else.
    #[error(
        "it is not an owner's public key, which is one line 'subrosa-owner-ed25519 BASE64 comment': save the line that 'subrosa identity' prints"
    )]
    NotAKey,
    /// More than one key.
    #[error("it has more than one key line: keep only the owner's whose files are to be trusted")]
    SeveralKeys,
    /// The key's base64 is not that of an Ed25519 public key.
    #[error(
        "the key in it is damaged (not the base64 of an Ed25519 public key): save the line that 'subrosa identity' prints again"
    )]
    Damaged,
}
