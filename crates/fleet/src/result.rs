//! One encrypted inference on its way to the owner, with a signed statement of whose it is.
//!
//! ```text
//! 0   8  mark         "SRINFER1"
//! 8   4  n            length of the statement, little-endian
//! 12  4  m            length of the payload
//! 16  n  statement    JSON, signed as it stands here
//!     64 signature    Ed25519 of the device over "subrosa-result-v1\0" || statement
//!     m  payload      the packed ciphertexts of one inference, one after the other; the statement holds their SHA-256
//! ```
//!
//! A batch is records of this form one after the other.

use crate::DeviceKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;
use subrosa_program::container::Signer;

const MARK: [u8; 8] = *b"SRINFER1";
const DOMAIN: &[u8] = b"subrosa-result-v1\0";
const HEADER: usize = 16;
const SIGNATURE: usize = 64;
/// A statement is some hundred bytes.
const MAX_STATEMENT: usize = 4096;

/// What a result that cannot be taken is wrong in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResultError {
    /// Not the record's form.
    #[error("not a signed result: {0}")]
    Form(String),
    /// The payload is not the one that was signed.
    #[error("the result's ciphertexts are not the ones its device signed")]
    Digest,
    /// The signature is not the device's.
    #[error("the result's signature is not that of device '{0}'")]
    Signature(String),
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(s: &str) -> Result<Self, String> {
                let bytes = hex::decode(s).ok().and_then(|b| <[u8; 16]>::try_from(b).ok());
                bytes.filter(|b| hex::encode(b) == s).map(Self).ok_or_else(|| format!("'{s}' is not 32 lower-case hex digits"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// Names one sample of one acquiring device: the same whenever, and by whichever worker, the sample is evaluated again.
    SampleId
);
hex_id!(
    /// Names one inference in the registry: whatever bears the same id is stored once.
    ResultId
);

impl SampleId {
    /// The sample that a source calls `position` (a file's name, size and time and the index in it, a message's number, ...).
    pub fn of(source: &str, position: &str) -> Self {
        Self(digest(b"subrosa-sample-v1\0", &[source.as_bytes(), position.as_bytes()]))
    }
}

/// What a device states about a result, and signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Id of the protected network.
    pub model: String,
    /// Its version.
    pub version: u32,
    /// Id of the enrolled device that evaluated.
    pub device: String,
    /// Grows with every result of this device; none is used twice.
    pub sequence: u64,
    /// Id of the enrolled device that acquired the sample: `device`, or another of its group where work is shared out.
    pub origin: String,
    /// The sample.
    pub sample: SampleId,
    /// What the source calls the sample, for people (a file's name and index, ...); at most 200 bytes.
    pub label: String,
    /// When it was acquired, milliseconds since 1970 by the device's clock.
    pub taken_at: u64,
    /// SHA-256 of the payload in hex.
    pub payload_sha256: String,
}

impl Statement {
    /// The inference's id: a hash of network, acquiring device and sample.
    pub fn result_id(&self) -> ResultId {
        let parts = [self.model.as_bytes(), self.origin.as_bytes(), &self.sample.0];
        ResultId(digest(b"subrosa-result-id-v1\0", &parts))
    }
}

/// First 16 bytes of SHA-256 over a domain and length-prefixed parts.
fn digest(domain: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(domain);
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let full: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&full[..16]);
    id
}

/// A statement, its signature and the ciphertexts it speaks of. [`SignedResult::decode`] checks form and digest, not the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedResult {
    /// What is stated.
    pub statement: Statement,
    /// The packed ciphertexts of one inference.
    pub payload: Vec<u8>,
    /// The statement's bytes as they were signed.
    signed: Vec<u8>,
    signature: [u8; SIGNATURE],
}

impl SignedResult {
    /// Signs an inference; the statement's digest is set here.
    ///
    /// # Errors
    /// [`ResultError::Form`] where a label or a payload is too long.
    pub fn sign(key: &DeviceKey, mut statement: Statement, payload: Vec<u8>) -> Result<Self, ResultError> {
        statement.payload_sha256 = hex::encode(Sha256::digest(&payload));
        let signed = serde_json::to_vec(&statement).map_err(|e| ResultError::Form(e.to_string()))?;
        if signed.len() > MAX_STATEMENT || u32::try_from(payload.len()).is_err() {
            return Err(ResultError::Form("its statement or its payload is too long".into()));
        }
        let signature = key.sign(&message(&signed));
        Ok(Self { statement, payload, signed, signature })
    }

    /// Whether the statement is signed with this key.
    ///
    /// # Errors
    /// [`ResultError::Signature`].
    pub fn verify(&self, device: &Signer) -> Result<(), ResultError> {
        if device.verifies(&message(&self.signed), &self.signature) {
            Ok(())
        } else {
            Err(ResultError::Signature(self.statement.device.clone()))
        }
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.signed.len() + SIGNATURE + self.payload.len());
        out.extend_from_slice(&MARK);
        for length in [self.signed.len(), self.payload.len()] {
            // Both are below 2^32: see `sign` and `take`.
            out.extend_from_slice(&(length as u32).to_le_bytes());
        }
        out.extend_from_slice(&self.signed);
        out.extend_from_slice(&self.signature);
        out.extend_from_slice(&self.payload);
        out
    }

    /// Reads one record that fills `bytes`.
    ///
    /// # Errors
    /// [`ResultError::Form`] and [`ResultError::Digest`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ResultError> {
        match Self::take(bytes)? {
            (result, []) => Ok(result),
            (_, rest) => Err(ResultError::Form(format!("{} bytes follow it", rest.len()))),
        }
    }

    /// Reads one record from the front.
    fn take(bytes: &[u8]) -> Result<(Self, &[u8]), ResultError> {
        let short = || ResultError::Form("it ends too early".into());
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or_else(short)?;
        if header[..8] != MARK {
            return Err(ResultError::Form("it does not begin with the format's mark".into()));
        }
        let length =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        if length(8) > MAX_STATEMENT {
            return Err(ResultError::Form("its statement is too long".into()));
        }
        let (signed, rest) = rest.split_at_checked(length(8)).ok_or_else(short)?;
        let (signature, rest) = rest.split_first_chunk::<SIGNATURE>().ok_or_else(short)?;
        let (payload, rest) = rest.split_at_checked(length(12)).ok_or_else(short)?;
        let statement: Statement =
            serde_json::from_slice(signed).map_err(|e| ResultError::Form(format!("its statement is damaged: {e}")))?;
        if statement.label.len() > 200 {
            return Err(ResultError::Form("its label is longer than 200 bytes".into()));
        }
        if statement.payload_sha256 != hex::encode(Sha256::digest(payload)) {
            return Err(ResultError::Digest);
        }
        let result = Self { statement, payload: payload.to_vec(), signed: signed.to_vec(), signature: *signature };
        Ok((result, rest))
    }
}

fn message(signed: &[u8]) -> Vec<u8> {
    [DOMAIN, signed].concat()
}

/// The bytes of a batch.
pub fn encode_batch<'a>(results: impl IntoIterator<Item = &'a SignedResult>) -> Vec<u8> {
    results.into_iter().flat_map(SignedResult::encode).collect()
}

/// Whether a file begins as a batch does.
///
/// # Errors
/// A file that cannot be read.
pub fn is_batch(path: &Path) -> io::Result<bool> {
    let mut mark = Vec::with_capacity(MARK.len());
    File::open(path)?.take(MARK.len() as u64).read_to_end(&mut mark)?;
    Ok(mark == MARK)
}

/// Reads a batch of at most `limit` records.
///
/// # Errors
/// [`ResultError`] of the first record that is damaged (the ones before it are lost with it: send them again), or too many records.
pub fn decode_batch(mut bytes: &[u8], limit: usize) -> Result<Vec<SignedResult>, ResultError> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        if out.len() == limit {
            return Err(ResultError::Form(format!("more than {limit} results in one batch")));
        }
        let (result, rest) = SignedResult::take(bytes)?;
        out.push(result);
        bytes = rest;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(sequence: u64) -> Statement {
        Statement {
            model: "m1".into(),
            version: 3,
            device: "d1".into(),
            sequence,
            origin: "d1".into(),
            sample: SampleId::of("dir:in", "a.png 0"),
            label: "a.png".into(),
            taken_at: 1_700_000_000_000,
            payload_sha256: String::new(),
        }
    }

    #[test]
    fn a_batch_comes_back_and_verifies() {
        let key = DeviceKey::generate().unwrap();
        let results: Vec<_> =
            (0..3).map(|i| SignedResult::sign(&key, statement(i), vec![i as u8; 100]).unwrap()).collect();
        let back = decode_batch(&encode_batch(&results), 3).unwrap();
        assert_eq!(back, results);
        for result in &back {
            result.verify(&key.public()).unwrap();
            let other = DeviceKey::generate().unwrap().public();
            assert_eq!(result.verify(&other), Err(ResultError::Signature("d1".into())));
        }
        assert!(decode_batch(&encode_batch(&results), 2).is_err());
        // The sample names the inference, not who evaluated it or when.
        assert_eq!(back[0].statement.result_id(), back[2].statement.result_id());
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let key = DeviceKey::generate().unwrap();
        let bytes = SignedResult::sign(&key, statement(1), (0..64).collect()).unwrap().encode();
        for i in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[i] ^= 1;
            let taken = SignedResult::decode(&damaged).and_then(|r| r.verify(&key.public()));
            assert!(taken.is_err(), "byte {i}");
        }
        for length in 0..bytes.len() {
            assert!(SignedResult::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_device_key_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device.key");
        let first = DeviceKey::load_or_create(&path).unwrap().public();
        assert!(first == DeviceKey::load_or_create(&path).unwrap().public());
        std::fs::write(&path, b"short").unwrap();
        assert!(DeviceKey::load_or_create(&path).is_err());
    }
}
