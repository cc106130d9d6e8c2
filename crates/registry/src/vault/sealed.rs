//! One encrypted file: the identity under the passphrase, a secret under the identity.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::Path,
};

use age::{DecryptError, Decryptor, Encryptor, secrecy::ExposeSecret, stream::StreamReader, x25519};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subrosa_program::container::{Access, AtomicFile};
use zeroize::Zeroizing;

use super::{
    VaultError,
    passphrase::{Passphrase, WorkFactor},
};
use crate::home::FileError;

const MARK: &[u8] = b"subrosa-secret-v1\n";
const TAG_DOMAIN: &[u8] = b"subrosa-vault-tag-v1\0";
const TAG_LENGTH: usize = 32;

/// The identity that opens every secret, and the key of their tags, derived from it.
pub(super) struct Keys {
    identity: x25519::Identity,
    tag_key: Zeroizing<[u8; 32]>,
}

impl Keys {
    pub(super) fn generate() -> Self {
        Self::from_identity(x25519::Identity::generate())
    }

    fn from_identity(identity: x25519::Identity) -> Self {
        let mut hash = Sha256::new();
        hash.update(TAG_DOMAIN);
        hash.update(identity.to_string().expose_secret());
        let mut tag_key = Zeroizing::new([0; 32]);
        hash.finalize_into((&mut *tag_key).into());
        Self { identity, tag_key }
    }

    /// The public recipient, `age1…`.
    pub(super) fn recipient(&self) -> x25519::Recipient {
        self.identity.to_public()
    }

    /// Replaces the identity file, encrypted with a passphrase.
    pub(super) fn write_identity(
        &self,
        path: &Path,
        passphrase: &Passphrase,
        work: WorkFactor,
    ) -> Result<(), VaultError> {
        let text = self.identity.to_string();
        write(path, &passphrase.recipient(work), &[text.expose_secret().as_bytes(), b"\n"])
    }

    pub(super) fn read_identity(path: &Path, passphrase: &Passphrase) -> Result<Self, VaultError> {
        let text = match read(path, &passphrase.identity())? {
            Some(text) => text,
            None => return Err(VaultError::NoIdentity { path: path.to_owned() }),
        };
        let parsed = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
        let identity = parsed.ok_or_else(|| damaged(path, "it holds no age identity"))?;
        Ok(Self::from_identity(identity))
    }

    /// Replaces a secret's file.
    pub(super) fn write_secret(&self, path: &Path, name: &str, secret: &[u8]) -> Result<(), VaultError> {
        let tag: [u8; TAG_LENGTH] = self.tag(path, name, secret)?.finalize().into_bytes().into();
        write(path, &self.recipient(), &[MARK, &tag, secret])
    }

    /// A secret's bytes, `None` where there is no file.
    pub(super) fn read_secret(&self, path: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let Some(mut content) = read(path, &self.identity)? else { return Ok(None) };
        let body = content.strip_prefix(MARK).and_then(|rest| rest.split_first_chunk::<TAG_LENGTH>());
        let (tag, secret) = body.ok_or_else(|| damaged(path, "it holds no key in a known format"))?;
        self.tag(path, name, secret)?.verify(tag.into()).map_err(|_| VaultError::Foreign { path: path.to_owned() })?;
        content.drain(..MARK.len() + TAG_LENGTH);
        Ok(Some(content))
    }

    fn tag(&self, path: &Path, name: &str, secret: &[u8]) -> Result<Hmac<Sha256>, VaultError> {
        let encryption = |detail: hmac::digest::InvalidLength| encryption(path, detail);
        let mut tag = Hmac::<Sha256>::new_from_slice(self.tag_key.as_slice()).map_err(encryption)?;
        tag.update(name.as_bytes());
        tag.update(&[0]);
        tag.update(secret);
        Ok(tag)
    }
}

/// Replaces a file, readable by the owner only, with what `fill` writes.
pub(super) fn replace(path: &Path, fill: impl FnOnce(&mut AtomicFile) -> io::Result<()>) -> Result<(), FileError> {
    let written = AtomicFile::begin(path, Access::Private).and_then(|mut file| {
        fill(&mut file)?;
        file.replace()
    });
    written.map_err(FileError::at(path, "write the file"))
}

/// Encrypts the pieces, one after the other, into a file that replaces the one at `path`.
fn write(path: &Path, recipient: &dyn age::Recipient, pieces: &[&[u8]]) -> Result<(), VaultError> {
    let encryptor = encryptor(path, recipient)?;
    let filled = replace(path, |file| {
        let mut out = encryptor.wrap_output(file)?;
        for piece in pieces {
            out.write_all(piece)?;
        }
        out.finish().map(|_| ())
    });
    Ok(filled?)
}

pub(super) fn encryptor(path: &Path, recipient: &dyn age::Recipient) -> Result<Encryptor, VaultError> {
    Encryptor::with_recipients([recipient].into_iter()).map_err(|detail| encryption(path, detail))
}

/// A file's plaintext, `None` where there is no file.
fn read(path: &Path, identity: &dyn age::Identity) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(FileError::at(path, "read the file"))?.len(),
    };
    let mut reader = decrypt(path, identity)?;
    // The plaintext is shorter than the file, so the buffer never moves and leaves no copy behind.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0)));
    reader.read_to_end(&mut content).map_err(|error| explain_reading(path, error))?;
    Ok(Some(content))
}

/// Opens an age file. Reading to the end checks all of it.
pub(super) fn decrypt(path: &Path, identity: &dyn age::Identity) -> Result<StreamReader<BufReader<File>>, VaultError> {
    let file = File::open(path).map_err(FileError::at(path, "open the file"))?;
    Decryptor::new_buffered(BufReader::new(file))
        .and_then(|decryptor| decryptor.decrypt([identity].into_iter()))
        .map_err(|error| match error {
            // The stanza is scrypt's and its AEAD does not open: this is what a wrong passphrase looks like.
            DecryptError::DecryptionFailed => VaultError::WrongPassphrase { path: path.to_owned() },
            DecryptError::Io(error) => explain_reading(path, error),
            DecryptError::NoMatchingKeys => VaultError::Foreign { path: path.to_owned() },
            other => damaged(path, &other.to_string()),
        })
}

/// age reports truncated and altered files as I/O errors of these kinds; any other is the disk's.
pub(super) fn explain_reading(path: &Path, error: io::Error) -> VaultError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, "it is cut short"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            damaged(path, &error.to_string())
        }
        _ => FileError::at(path, "read the file")(error).into(),
    }
}

fn damaged(path: &Path, detail: &str) -> VaultError {
    VaultError::Damaged { path: path.to_owned(), detail: detail.to_owned() }
}

fn encryption(path: &Path, detail: impl ToString) -> VaultError {
    VaultError::Encryption { path: path.to_owned(), detail: detail.to_string() }
}
