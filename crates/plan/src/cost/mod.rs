//! What the engine's work costs on a machine, and what a program will therefore take.

mod builtin;
mod measure;
mod predict;
mod work;

pub use measure::MeasureError;
pub(crate) use predict::predict_memory;
pub use predict::{Memory, Prediction, StepWork, predict};
pub use work::Work;
pub(crate) use work::{Arithmetic, KeyWork};

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use subrosa_fhe::Kernel;

/// Rings that a model knows, by log2 of their degree; one figure of [`CostModel::butterfly`] each.
pub(crate) const LOG_N: std::ops::RangeInclusive<u32> = 11..=16;
/// No machine needs so many nanoseconds for one word, or has so many bytes of cache.
const IMPLAUSIBLE: f64 = 1e12;

/// Costs of the engine's inner loops on one thread of one machine with one kernel, in nanoseconds.
///
/// A *word* is one residue of 64 bits. Written by `subrosa bench primitives`, read by `protect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostModel {
    /// Name of the kernel the figures are for.
    pub kernel: String,
    /// The processor they were measured on.
    pub machine: String,
    /// When they were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// A butterfly of an NTT, forward or inverse, for N = 2^11 to 2^16; a transform has N/2 log2 N of them.
    pub butterfly: [f64; 6],
    /// A modular multiply-add on a word, in a sum of several.
    pub multiply_add: f64,
    /// A base conversion, per word of the result and prime converted from, with the copies around it.
    pub convert: f64,
    /// An elementwise pass: the last step of a division, an addition; per word.
    pub elementwise: f64,
    /// A word of a fresh buffer: set to zero, or written first.
    pub buffer: f64,
    /// Bytes of weights and keys that stay in the cache from one evaluation to the next; of a program of twice that nothing stays.
    pub cache_bytes: f64,
    /// Packed weights times a plain input.
    pub plain_products: Stream,
    /// Packed weights times an encrypted input.
    pub cipher_products: Stream,
    /// Switching keys times digits.
    pub keys: Stream,
    /// Laying out and encoding a vector, besides its NTTs, per slot and level of its transform (log2 of the slots).
    pub encode: f64,
    /// Encrypting besides its NTTs and products, per coefficient.
    pub encrypt: f64,
    /// Whatever else a step takes, once.
    pub step: f64,
}

/// The cost of reading packed residues once and using them: what the arithmetic takes, or the memory if they come from there and
/// that is more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Of a residue.
    pub word: f64,
    /// Of a byte from memory.
    pub byte: f64,
}

/// Why a cost model could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CostModelError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Not the JSON of a cost model.
    #[error("{} is not a cost model ({source}): write it anew with `subrosa bench primitives`", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// A figure that is zero, negative or absurd.
    #[error("the cost model {} says {value} for {what}: write it anew with `subrosa bench primitives`", path.display())]
    Implausible {
        /// The file.
        path: PathBuf,
        /// The figure's name.
        what: &'static str,
        /// Its value.
        value: f64,
    },
}

impl CostModel {
    /// Whether the figures are for this kernel.
    pub fn is_for(&self, kernel: Kernel) -> bool {
        self.kernel == kernel.to_string()
    }

    /// An NTT of one limb in the ring 2^log_n, measured alone.
    pub fn ntt_seconds(&self, log_n: u32) -> f64 {
        let index = log_n.saturating_sub(*LOG_N.start()) as usize;
        let butterfly = self.butterfly.get(index).or(self.butterfly.last()).copied().unwrap_or(1.0);
        1e-9 * butterfly * f64::from(log_n) * f64::from(log_n.saturating_sub(1)).exp2()
    }

    /// Writes the model as JSON. Errors: the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CostModelError> {
        let format = |source| CostModelError::Format { path: path.into(), source };
        let text = serde_json::to_string_pretty(self).map_err(format)? + "\n";
        let io = |source| CostModelError::Io { action: "write", path: path.into(), source };
        std::fs::write(path, text).map_err(io)
    }

    /// Reads a model that [`Self::save`] wrote. Errors: the file cannot be read, is something else, or holds a figure that no
    /// machine has.
    pub fn load(path: &Path) -> Result<Self, CostModelError> {
        let io = |source| CostModelError::Io { action: "read", path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(io)?;
        let format = |source| CostModelError::Format { path: path.into(), source };
        let model: Self = serde_json::from_str(&text).map_err(format)?;
        let plausible = |v: f64| v > 0.0 && v < IMPLAUSIBLE;
        match model.figures().into_iter().find(|(_, v)| !plausible(*v)) {
            Some((what, value)) => Err(CostModelError::Implausible { path: path.into(), what, value }),
            None => Ok(model),
        }
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        let mut all: Vec<_> = self.butterfly.iter().map(|&b| ("butterfly", b)).collect();
        all.extend([
            ("multiply_add", self.multiply_add),
            ("convert", self.convert),
            ("elementwise", self.elementwise),
            ("buffer", self.buffer),
            ("cache_bytes", self.cache_bytes),
            ("plain_products.word", self.plain_products.word),
            ("plain_products.byte", self.plain_products.byte),
            ("cipher_products.word", self.cipher_products.word),
            ("cipher_products.byte", self.cipher_products.byte),
            ("keys.word", self.keys.word),
            ("keys.byte", self.keys.byte),
            ("encode", self.encode),
            ("encrypt", self.encrypt),
            ("step", self.step),
        ]);
        all
    }
}
