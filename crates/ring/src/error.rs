//! The one error type of this crate.

use crate::Kernel;

/// What can go wrong when rings, kernels and packed data are built from outside values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The ring degree N = 2^log_n lies outside the supported range.
    #[error("ring degree 2^{log_n} is not supported: log_n must be between 3 and 17")]
    UnsupportedDegree {
        /// The rejected exponent.
        log_n: u32,
    },
    /// The modulus is not an odd prime below 2^50.
    #[error("{value} cannot be a modulus: it must be an odd prime below 2^50")]
    InvalidModulus {
        /// The rejected value.
        value: u64,
    },
    /// The prime has no primitive 2N-th root of unity.
    #[error("prime {prime} does not fit ring degree 2^{log_n}: it must be 1 modulo 2^{}", log_n + 1)]
    PrimeNotNttFriendly {
        /// The rejected prime.
        prime: u64,
        /// log2 of the ring degree.
        log_n: u32,
    },
    /// The same prime was given twice where distinct primes are needed.
    #[error("prime {prime} is listed twice: the primes of one ring must be distinct")]
    DuplicatePrime {
        /// The repeated prime.
        prime: u64,
    },
    /// No prime was given.
    #[error("the list of primes is empty: at least one prime is needed")]
    NoPrimes,
    /// A limb index does not exist in the ring.
    #[error("limb {index} does not exist: the ring has {limbs} limbs (0 to {})", limbs - 1)]
    LimbOutOfRange {
        /// The rejected index.
        index: usize,
        /// Number of limbs of the ring.
        limbs: usize,
    },
    /// A bit size outside the supported range was asked for.
    #[error("a size of {bits} bits is not supported here: choose between {min} and {max}")]
    BitsOutOfRange {
        /// The rejected size in bits.
        bits: u32,
        /// Smallest supported size.
        min: u32,
        /// Largest supported size.
        max: u32,
    },
    /// There are too few primes of the requested form.
    #[error(
        "only {found} of {wanted} primes below 2^{bits} are 1 modulo 2^{}: ask for fewer or larger primes",
        log_n + 1
    )]
    NotEnoughPrimes {
        /// log2 of the ring degree.
        log_n: u32,
        /// Size of the primes in bits.
        bits: u32,
        /// Number of primes asked for.
        wanted: usize,
        /// Number of primes that exist.
        found: usize,
    },
    /// `SUBROSA_KERNEL` (or another text) names no kernel.
    #[error("unknown kernel \"{name}\": choose \"portable\", \"avx2\" or \"avx512ifma\"")]
    UnknownKernel {
        /// The text that was given.
        name: String,
    },
    /// The kernel exists but this machine cannot run it.
    #[error("kernel \"{kernel}\" cannot run on this machine: choose \"portable\", or unset SUBROSA_KERNEL")]
    KernelUnavailable {
        /// The kernel that was asked for.
        kernel: Kernel,
    },
    /// Packed data have another length than their header promises.
    #[error(
        "packed data are {found} bytes long, {count} values of {bits} bits need {expected}: the data are cut off or damaged"
    )]
    PackedLength {
        /// Number of values expected.
        count: usize,
        /// Bits per value.
        bits: u32,
        /// Bytes needed.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The unused bits of the last packed byte are not zero.
    #[error("the padding bits after the last packed value are not zero: the data are damaged")]
    PackedPadding,
    /// The operating system's random generator failed.
    #[error("the operating system gave no random bytes ({reason}): check access to its random generator")]
    OsRandom {
        /// The system's own message.
        reason: String,
    },
}
