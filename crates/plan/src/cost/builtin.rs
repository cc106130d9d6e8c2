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
                butterfly: 0.18,
                multiply_add: 0.17,
                convert: 1.0,
                elementwise: 0.2,
                buffer: 0.4,
                key_word: 0.4,
                plain: Stream { word: 0.14, byte: 0.078 },
                cipher: Stream { word: 0.34, byte: 0.13 },
            },
            Kernel::Avx2 => Figures {
                butterfly: 0.33,
                multiply_add: 0.52,
                convert: 1.3,
                elementwise: 0.55,
                buffer: 0.4,
                key_word: 0.46,
                plain: Stream { word: 0.48, byte: 0.1 },
                cipher: Stream { word: 0.9, byte: 0.18 },
            },
            Kernel::Portable => Figures {
                butterfly: 1.8,
                multiply_add: 1.2,
                convert: 3.7,
                elementwise: 1.2,
                buffer: 1.9,
                key_word: 0.7,
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
            encode: 2.3,
            encrypt: 57.0,
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
