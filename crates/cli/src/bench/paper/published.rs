//! The figures that Gomez, Ibarrondo, Wilhelm, Márquez and Duverger published ("Security for Distributed Machine Learning based
//! Software", 2019, section 5), as they stand in Tables 2 to 5. Nothing here was measured by us.
//!
//! Model encryption and decryption ran on the CPU of an NVIDIA DGX-1, processing on an NVIDIA Jetson TX2, by SEAL (BGV).

use crate::arguments::PaperSetting as Setting;
use serde::Serialize;

/// "Once trained, the size of the CNN plaintext model is 9.6Mb."
pub(super) const PLAIN_MB: f64 = 9.6;
/// "On Jetson TX2, single unencrypted image classification is computed on average in 89.1ms."
pub(super) const PLAIN_SECONDS: f64 = 0.0891;
/// The paper's "Mb" in bytes: its factor of 1173.33 for a model of "11G" shows that it counts 1024 to the next unit.
const MB: f64 = 1024.0 * 1024.0;
const G_IN_MB: f64 = 1024.0;
/// The columns of each table, in this order within each of the three versions of the model.
const LEVELS: [u32; 3] = [128, 192, 256];

/// What a table says of one version of the model at the three levels of security.
struct Columns {
    seconds: [f64; 3],
    memory_mb: [f64; 3],
    size_mb: Option<[f64; 3]>,
    budget_bits: Option<[f64; 3]>,
}

/// One table: full classifier with x^2+2x, full classifier without activation, last layer.
struct Table {
    number: u8,
    versions: [Columns; 3],
}

const fn encryption(seconds: [f64; 3], size_mb: [f64; 3], memory_mb: [f64; 3]) -> Columns {
    Columns { seconds, memory_mb, size_mb: Some(size_mb), budget_bits: None }
}

const fn runtime(seconds: [f64; 3], memory_mb: [f64; 3], budget_bits: [f64; 3]) -> Columns {
    Columns { seconds, memory_mb, size_mb: None, budget_bits: Some(budget_bits) }
}

const fn decryption(seconds: [f64; 3], memory_mb: [f64; 3]) -> Columns {
    Columns { seconds, memory_mb, size_mb: None, budget_bits: None }
}

/// Table 2, "Model Encryption": time, size of the encrypted model, memory.
const MODEL_ENCRYPTION: Table = Table {
    number: 2,
    versions: [
        encryption([256.7, 191.5, 212.6], [11.0 * G_IN_MB, 6.4 * G_IN_MB, 11.0 * G_IN_MB], [2257.9, 1112.4, 2389.5]),
        encryption([86.9, 78.0, 96.0], [2.5 * G_IN_MB, 4.4 * G_IN_MB, 2.5 * G_IN_MB], [557.9, 459.2, 566.1]),
        encryption([3.4, 3.4, 7.3], [79.0, 79.0, 158.0], [300.6, 301.4, 324.2]),
    ],
};

/// Table 3, "Runtime Encryption with Plaintext Input": time, memory, remaining noise budget.
const PLAIN_INPUT: Table = Table {
    number: 3,
    versions: [
        runtime([287.2, 174.6, 1221.3], [4683.1, 2924.3, 4899.2], [221.6, 80.2, 88.8]),
        runtime([43.7, 32.9, 90.2], [1162.5, 869.2, 2342.3], [91.4, 23.8, 16.2]),
        runtime([2.1, 2.1, 4.5], [53.9, 54.0, 117.7], [58.8, 20.2, 60.2]),
    ],
};

/// Table 4, "Runtime Encryption with Encrypted Input": time, memory, remaining noise budget.
const ENCRYPTED_INPUT: Table = Table {
    number: 4,
    versions: [
        runtime([2902.6, 1048.6, 5627.0], [5047.8, 5809.0, 4906.0], [206.0, 65.0, 76.0]),
        runtime([367.1, 272.2, 835.9], [2314.8, 1733.7, 4644.5], [79.0, 11.0, 3.0]),
        runtime([19.2, 19.2, 40.2], [119.5, 118.5, 253.0], [45.0, 10.0, 52.0]),
    ],
};

/// Table 5, "Decryption - Performance": time, memory.
const DECRYPTION: Table = Table {
    number: 5,
    versions: [
        decryption([2.9, 1.7, 3.2], [963.8, 397.4, 2062.5]),
        decryption([0.6, 0.6, 1.0], [123.4, 73.4, 267.1]),
        decryption([0.2, 0.1, 0.2], [17.8, 17.8, 38.7]),
    ],
};

/// The steps that the paper measured.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    Protect,
    Infer,
    Decrypt,
}

/// One column of one table.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Published {
    pub table: u8,
    pub seconds: f64,
    pub memory_bytes: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_bytes: Option<f64>,
    /// Size over that of the plain model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expansion: Option<f64>,
    /// Of BGV's noise budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_budget_bits: Option<f64>,
}

/// The table of a step.
pub(super) fn table_number(step: Step, encrypted_input: bool) -> u8 {
    table(step, encrypted_input).number
}

/// What the paper says; `None` for levels of security that it doesn't have. It knows no folding: a classifier without activation
/// has the same figures folded.
pub(super) fn published(step: Step, setting: Setting, encrypted_input: bool, security_bits: u32) -> Option<Published> {
    let table = table(step, encrypted_input);
    let [square, none, last] = &table.versions;
    let version = match setting {
        Setting::Square => square,
        Setting::None | Setting::NoneFolded => none,
        Setting::Last => last,
    };
    let level = LEVELS.iter().position(|&bits| bits == security_bits)?;
    let at = |values: &[f64; 3]| values.get(level).copied();
    Some(Published {
        table: table.number,
        seconds: at(&version.seconds)?,
        memory_bytes: at(&version.memory_mb)? * MB,
        model_bytes: version.size_mb.as_ref().and_then(at).map(|mb| mb * MB),
        expansion: version.size_mb.as_ref().and_then(at).map(|mb| mb / PLAIN_MB),
        remaining_budget_bits: version.budget_bits.as_ref().and_then(at),
    })
}

/// The paper's plaintext model in bytes.
pub(super) fn plain_bytes() -> f64 {
    PLAIN_MB * MB
}

fn table(step: Step, encrypted_input: bool) -> &'static Table {
    match (step, encrypted_input) {
        (Step::Protect, _) => &MODEL_ENCRYPTION,
        (Step::Infer, false) => &PLAIN_INPUT,
        (Step::Infer, true) => &ENCRYPTED_INPUT,
        (Step::Decrypt, _) => &DECRYPTION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_agree_with_what_the_papers_text_says_of_them() {
        // "encrypted model size increases by a factor of 8,22 in the best case, up to 1173,33"
        let expansion = |setting| published(Step::Protect, setting, false, 128).unwrap().expansion.unwrap();
        assert!((expansion(Setting::Last) - 8.22).abs() < 0.01);
        assert!((expansion(Setting::Square) - 1173.33).abs() < 0.01);
        // "at best encrypted classification in 2.1s", "5627s (93 mins) is required for a single classification"
        let seconds = |setting, encrypted, bits| published(Step::Infer, setting, encrypted, bits).unwrap().seconds;
        assert_eq!(seconds(Setting::Last, false, 128), 2.1);
        assert_eq!(seconds(Setting::Square, true, 256), 5627.0);
    }
}
