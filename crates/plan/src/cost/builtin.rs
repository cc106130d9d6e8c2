//! Figures for machines that were not measured.

use super::measure::STEP_NANOSECONDS;
use super::{CostModel, Stream};
use subrosa_fhe::Kernel;

impl CostModel {
    /// Figures for this kernel, as [`Self::measure`] found them on one core of a virtual machine with an Intel Xeon of the
    /// Sapphire Rapids family, 2 MiB of second-level cache, 24 November 2026.
    pub fn builtin(kernel: Kernel) -> Self {
        let figures = match kernel {
            Kernel::Avx512Ifma => Figures {
                butterfly: 0.183,
                multiply_add: 0.177,
                convert: 0.42,
                elementwise: 0.206,
                buffer: 0.147,
                key_word: 0.39,
                plain: Stream { word: 0.218, byte: 0.0436 },
                cipher: Stream { word: 0.437, byte: 0.105 },
            },
            Kernel::Avx2 => Figures {
                butterfly: 0.333,
                multiply_add: 0.532,
                convert: 0.947,
                elementwise: 0.557,
                buffer: 0.643,
                key_word: 0.718,
                plain: Stream { word: 0.5, byte: 0.0819 },
                cipher: Stream { word: 0.912, byte: 0.152 },
            },
            Kernel::Portable => Figures {
                butterfly: 1.72,
                multiply_add: 1.33,
                convert: 3.69,
                elementwise: 1.17,
                buffer: 0.971,
                key_word: 2.32,
                plain: Stream { word: 2.16, byte: 0.432 },
                cipher: Stream { word: 2.38, byte: 0.476 },
            },
        };
        Self {
            kernel: kernel.to_string(),
            machine: "Intel(R) Xeon(R) Processor".into(),
            date: Some("2026-11-24".into()),
            butterfly: [figures.butterfly; 6],
            multiply_add: figures.multiply_add,
            convert: figures.convert,
            elementwise: figures.elementwise,
            buffer: figures.buffer,
            cache_bytes: 126e6,
            plain_products: figures.plain,
            cipher_products: figures.cipher,
            keys: Stream { word: figures.key_word, byte: figures.plain.byte },
            encode: 2.4,
            encrypt: 36.4,
            step: STEP_NANOSECONDS,
        }
    }
}

/// What differs between the kernels.
struct Figures {
    butterfly: f64,
    multiply_add: f64,
    convert: f64,
    elementwise: f64,
    buffer: f64,
    key_word: f64,
    plain: Stream,
    cipher: Stream,
}
