//! What the registry knows about a model.

use std::{fmt, str::FromStr};

use serde::Serialize;
use serde_json::Value;

use crate::registry::RegistryError;

/// Identifies one protected network, with its own key pair, for ever: 16 random bytes, shown as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId([u8; 16]);

impl ModelId {
    /// A new id from the operating system's generator.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The id as bundles and results carry it.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for ModelId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

impl FromStr for ModelId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl Serialize for ModelId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the owner says about a model when it is committed.
#[derive(Clone, Debug)]
pub struct NewModel {
    /// Its name, 1 to 64 of `A-Z a-z 0-9 . _ -`. The registry chooses the version.
    pub name: String,
    /// `ckks` or `bgv`.
    pub scheme: String,
    /// Classical security by the table, in bits.
    pub security_bits: u32,
    /// Which part is encrypted, as given to `protect`.
    pub scope: String,
    /// `plain` or `encrypted`.
    pub input: String,
    /// Base-2 logarithm of the ring degree.
    pub log_n: u32,
    /// The JSON object that `protect` prints. Its keys `id`, `name` and `version` are set by the registry.
    pub report: Value,
}

/// One version of one model in the registry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Its id.
    pub id: ModelId,
    /// Its name.
    pub name: String,
    /// 1 for the first of its name; never given twice to one name, not even after a removal.
    pub version: u32,
    /// When it was committed, in seconds since 1970.
    pub created_unix: i64,
    /// `ckks` or `bgv`.
    pub scheme: String,
    /// Classical security by the table, in bits.
    pub security_bits: u32,
    /// Which part is encrypted, as given to `protect`.
    pub scope: String,
    /// `plain` or `encrypted`.
    pub input: String,
    /// Base-2 logarithm of the ring degree.
    pub log_n: u32,
    /// The JSON object that `protect` printed.
    pub report: Value,
    /// When it was retired, in seconds since 1970: it is not deployed again, and results of it are no longer taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_unix: Option<i64>,
}

impl Record {
    /// `name@version`, which [`crate::Registry::get`] understands.
    pub fn versioned_name(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// Checks a model's name before any work is spent on it.
///
/// # Errors
/// [`RegistryError::BadName`] unless it is 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn validate_name(name: &str) -> Result<(), RegistryError> {
    if is_plain_name(name) { Ok(()) } else { Err(RegistryError::BadName { name: name.to_owned() }) }
}

/// 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}
