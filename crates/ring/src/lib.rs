//! Arithmetic in `R_Q = Z_Q[X]/(X^N+1)` in residue number system (RNS) form: kernels, NTT, base conversion, samplers.
//!
//! N = 2^log_n with log_n between 3 and 17; Q is a product of distinct primes p < 2^50 with p = 1 mod 2N. Residues are
//! canonical, in `[0, p)`, at every function boundary. This crate knows no encryption scheme.
//!
//! **Orbit order.** A polynomial in NTT form lists its values at the primitive 2N-th roots of unity: index j in `[0, N/2)`
//! holds a(psi^(5^j)), index N/2 + j holds a(psi^(-5^j)), exponents modulo 2N. So the automorphism X -> X^(5^t) rotates
//! each half left by t, and X -> X^-1 swaps the halves. The order is part of the wire format; all kernels produce it.
//!
//! **Kernels.** The hot loops exist in plain Rust, for AVX2 with FMA, and for AVX-512 IFMA; see [`Kernel`]. All give
//! bit-identical results. Arithmetic on data is free of data-dependent branches and table look-ups.

mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
mod base_convert;
pub mod bitpack;
mod error;
mod galois;
mod kernel;
mod keystream;
mod mod_down;
mod modulus;
mod ntt_table;
mod pages;
mod poly;
mod portable;
pub mod primes;
mod ring;
pub mod sampler;
#[cfg(target_arch = "x86_64")]
mod schedule;
mod stream;
mod twiddles;
mod uniform;

pub use aligned::{AlignedVec, release_free_buffers, wipe_scratch};
pub use base_convert::BaseConverter;
pub use error::RingError;
pub use galois::Galois;
pub use kernel::{KERNEL_VARIABLE, Kernel};
pub use mod_down::ModDown;
pub use modulus::{MAX_MODULUS_BITS, Modulus};
pub use ntt_table::NttTable;
pub use poly::RnsPoly;
pub use ring::Ring;
pub use stream::{TurnedProduct, WeightStream};
