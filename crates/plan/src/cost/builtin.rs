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
                butterfly: 0.19,
                multiply_add: 0.16,
                convert: 0.55,
                elementwise: 0.2,
                plain: Stream { word: 0.14, byte: 0.035 },
                cipher: Stream { word: 0.34, byte: 0.12 },
            },
            Kernel::Avx2 => Figures {
                butterfly: 0.34,
                multiply_add: 0.56,
                convert: 1.0,
                elementwise: 0.6,
                plain: Stream { word: 0.46, byte: 0.08 },
                cipher: Stream { word: 0.9, byte: 0.16 },
            },
            Kernel::Portable => Figures {
                butterfly: 1.7,
                multiply_add: 1.2,
                convert: 2.9,
                elementwise: 1.2,
                plain: Stream { word: 1.6, byte: 0.47 },
                cipher: Stream { word: 2.3, byte: 0.55 },
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
            plain_products: figures.plain,
            cipher_products: figures.cipher,
            keys: figures.plain,
            encode: 1.8,
            encrypt: 55.0,
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
    plain: Stream,
    cipher: Stream,
}
