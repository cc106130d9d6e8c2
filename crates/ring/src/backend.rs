//! What a [`Kernel`] means on this machine.

use crate::Kernel;
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};

/// A kernel together with the proof that this machine can run it.
#[derive(Clone, Copy)]
pub(crate) enum Backend {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Token),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Token),
}

impl Backend {
    /// The implementation of `kernel`; a kernel this machine lacks becomes the portable one, whose results are the same.
    #[inline]
    pub(crate) fn of(kernel: Kernel) -> Backend {
        match kernel {
            Kernel::Portable => Backend::Portable,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => avx2::Token::detect().map_or(Backend::Portable, Backend::Avx2),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Ifma => avx512::Token::detect().map_or(Backend::Portable, Backend::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx2 | Kernel::Avx512Ifma => Backend::Portable,
        }
    }

    /// The best implementation for this machine, for work that has no kernel to follow: all give the same results.
    pub(crate) fn best() -> Backend {
        Kernel::all_available().first().map_or(Backend::Portable, |&kernel| Backend::of(kernel))
    }

    /// The implementation for transforms of 2^log_n words: the vector kernels have a least size.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub(crate) fn for_ntt(self, log_n: u32) -> Backend {
        match self {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(_) if log_n < avx2::ntt::MIN_LOG_N => Backend::Portable,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(_) if log_n < avx512::ntt::MIN_LOG_N => Backend::Portable,
            backend => backend,
        }
    }

    /// Width in bits of the multiplier, and so of the quotients in the twiddle tables (the AVX2 kernel replaces them by its own).
    pub(crate) fn multiplier_width(self) -> u32 {
        match self {
            Backend::Portable => 64,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(_) => 64,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(_) => 52,
        }
    }
}

/// Whether this machine has the instructions of the kernel.
pub(crate) fn is_available(kernel: Kernel) -> bool {
    kernel == Kernel::Portable || !matches!(Backend::of(kernel), Backend::Portable)
}
