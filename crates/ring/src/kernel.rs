//! The choice between implementations of the hot loops.

use crate::RingError;
use std::fmt;
use std::str::FromStr;

/// Name of the environment variable that overrides the choice of [`Kernel::active`].
pub const KERNEL_VARIABLE: &str = "SUBROSA_KERNEL";

/// An implementation of the limb operations. All kernels give bit-identical results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kernel {
    /// Plain Rust on 64-bit words; runs everywhere.
    Portable,
    /// AVX2 with the f64 fused multiply-add (FMA); x86-64 only.
    Avx2,
    /// AVX-512 with the 52-bit integer multiply-add (IFMA); x86-64 only.
    Avx512Ifma,
}

impl Kernel {
    /// All kernels this machine can run, best first; the portable one is always last.
    pub fn all_available() -> Vec<Kernel> {
        [Kernel::Avx512Ifma, Kernel::Avx2, Kernel::Portable]
            .into_iter()
            .filter(|kernel| kernel.is_available())
            .collect()
    }

    /// The kernel that `SUBROSA_KERNEL` names, or the best available one if it is unset or empty.
    ///
    /// # Errors
    /// [`RingError::UnknownKernel`] or [`RingError::KernelUnavailable`] if the variable asks for the impossible.
    pub fn active() -> Result<Kernel, RingError> {
        match std::env::var_os(KERNEL_VARIABLE) {
            Some(name) if !name.is_empty() => {
                let kernel: Kernel = name.to_string_lossy().parse()?;
                kernel.require_available()
            }
            _ => Ok(Kernel::all_available().first().copied().unwrap_or(Kernel::Portable)),
        }
    }

    /// Whether this machine can run the kernel.
    pub fn is_available(self) -> bool {
        crate::backend::is_available(self)
    }

    pub(crate) fn require_available(self) -> Result<Kernel, RingError> {
        if self.is_available() { Ok(self) } else { Err(RingError::KernelUnavailable { kernel: self }) }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kernel::Portable => "portable",
            Kernel::Avx2 => "avx2",
            Kernel::Avx512Ifma => "avx512ifma",
        })
    }
}

impl FromStr for Kernel {
    type Err = RingError;

    fn from_str(name: &str) -> Result<Self, RingError> {
        match name {
            "portable" => Ok(Kernel::Portable),
            "avx2" => Ok(Kernel::Avx2),
            "avx512ifma" => Ok(Kernel::Avx512Ifma),
            _ => Err(RingError::UnknownKernel { name: name.to_owned() }),
        }
    }
}
