//! What a plan is to be best in.

use crate::cost::Prediction;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A plan that is twice as fast may take so much more of what is preferred.
const FOR_TWICE_THE_SPEED: f64 = 1.1;

/// Where time is preferred, a bundle of so many bytes, which is delivered and kept, counts as much as twice the time.
const LARGE_BUNDLE: f64 = 1e9;

/// What the planner looks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// The least time of one sample; a large bundle counts as time.
    #[default]
    Speed,
    /// The least memory of keys and weights on the edge.
    Memory,
    /// The smallest bundle.
    Bundle,
}

impl Prefer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Speed, Self::Memory, Self::Bundle];

    /// What is to be small.
    pub fn rank(self, prediction: &Prediction) -> f64 {
        let seconds = prediction.seconds();
        let bytes = match self {
            Self::Speed => return seconds * (1.0 + prediction.bundle.bytes() as f64 / LARGE_BUNDLE),
            Self::Memory => prediction.memory.bytes(),
            Self::Bundle => prediction.bundle.bytes(),
        };
        bytes as f64 * seconds.powf(FOR_TWICE_THE_SPEED.log2())
    }
}

impl fmt::Display for Prefer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Speed => "speed",
            Self::Memory => "memory",
            Self::Bundle => "bundle",
        })
    }
}

impl FromStr for Prefer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|p| p.to_string() == text);
        found.ok_or_else(|| format!("'{text}' is none of speed, memory, bundle"))
    }
}
