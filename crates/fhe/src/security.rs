//! The security table: how large a modulus each ring degree bears.
//!
//! Source: Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption" (IACR CiC 2024, ePrint 2024/463),
//! Table 5.2: uniform ternary secret, Gaussian error of standard deviation 3.19, classical attacks.

use crate::FheError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bits of classical security, as in the guidelines. Serialised as the integer 128, 192 or 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub enum SecurityLevel {
    /// 128 bits.
    Bits128,
    /// 192 bits.
    Bits192,
    /// 256 bits.
    Bits256,
}

impl SecurityLevel {
    /// All levels, weakest first.
    pub const ALL: [Self; 3] = [Self::Bits128, Self::Bits192, Self::Bits256];

    /// 128, 192 or 256.
    pub fn bits(self) -> u32 {
        match self {
            Self::Bits128 => 128,
            Self::Bits192 => 192,
            Self::Bits256 => 256,
        }
    }

    /// The level of `bits` bits; an error unless `bits` is 128, 192 or 256.
    pub fn from_bits(bits: u32) -> Result<Self, FheError> {
        Self::ALL.into_iter().find(|s| s.bits() == bits).ok_or_else(|| FheError::Parameters {
            reason: format!("security of {bits} bits is not in the table; choose 128, 192 or 256"),
        })
    }
}

impl From<SecurityLevel> for u32 {
    fn from(level: SecurityLevel) -> u32 {
        level.bits()
    }
}

impl TryFrom<u32> for SecurityLevel {
    type Error = FheError;

    fn try_from(bits: u32) -> Result<Self, FheError> {
        Self::from_bits(bits)
    }
}

impl fmt::Display for SecurityLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-bit", self.bits())
    }
}

/// Smallest ring degree in the table, as a power of two.
pub const MIN_LOG_N: u32 = 11;
/// Largest ring degree in the table, as a power of two.
pub const MAX_LOG_N: u32 = 17;

/// Table 5.2, one row per log2 N from 11 on; columns 128, 192, 256 bits.
const MAX_LOG_QP: [[f64; 3]; 7] = [
    [53.0, 36.0, 27.0],
    [106.0, 73.0, 56.0],
    [214.0, 147.0, 114.0],
    [430.0, 297.0, 230.0],
    [868.0, 597.0, 462.0],
    [1747.0, 1199.0, 929.0],
    [3523.0, 2411.0, 1866.0],
];

/// The largest log2(QP) that keeps `security` in ring degree 2^`log_n`; `None` outside 2^11 ..= 2^17.
pub fn max_log_qp(log_n: u32, security: SecurityLevel) -> Option<f64> {
    let row = MAX_LOG_QP.get(log_n.checked_sub(MIN_LOG_N)? as usize)?;
    let column = match security {
        SecurityLevel::Bits128 => 0,
        SecurityLevel::Bits192 => 1,
        SecurityLevel::Bits256 => 2,
    };
    Some(row[column])
}
