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
                butterfly: 0.185,
                multiply_add: 0.175,
                convert: 0.42,
                elementwise: 0.205,
                buffer: 0.4,
                key_word: 0.33,
                plain: Stream { word: 0.17, byte: 0.08 },
                cipher: Stream { word: 0.36, byte: 0.14 },
            },
            Kernel::Avx2 => Figures {
                butterfly: 0.34,
                multiply_add: 0.55,
                convert: 1.2,
                elementwise: 0.56,
                buffer: 0.85,
                key_word: 0.62,
                plain: Stream { word: 0.5, byte: 0.1 },
                cipher: Stream { word: 0.9, byte: 0.17 },
            },
            Kernel::Portable => Figures {
                butterfly: 1.75,
                multiply_add: 1.25,
                convert: 3.6,
                elementwise: 1.2,
                buffer: 1.8,
                key_word: 1.3,
                plain: Stream { word: 1.6, byte: 0.32 },
                cipher: Stream { word: 2.3, byte: 0.46 },
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
            cache_bytes: 64e6,
            plain_products: figures.plain,
            cipher_products: figures.cipher,
            keys: Stream { word: figures.key_word, byte: figures.plain.byte },
            encode: 2.5,
            encrypt: 37.0,
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
