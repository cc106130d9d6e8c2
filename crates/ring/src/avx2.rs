//! The AVX2 kernel: four residues to a vector of f64, products exact by the fused multiply-add (FMA).
//!
//! A product x*y of integers is h + l with h = x*y rounded and l = fma(x, y, -h), without error. Its quotient by p is found by a
//! multiplication with a rounded inverse and is off by little more than 1/2, so the remainder is exact, signed and about p/2 at
//! most (van der Hoeven, Lecerf, Quintin, "Modular SIMD arithmetic in Mathemagix", arXiv:1407.3383, section 3). Everything here is
//! an integer of magnitude at most 2^53 in f64, so no addition rounds; the roundings that matter are to nearest, the
//! floating-point environment that Rust guarantees.

#![allow(unsafe_code, reason = "vector loads and stores, and calls into functions compiled for AVX2")]

mod arith;
pub(crate) mod convert;
pub(crate) mod limb;
pub(crate) mod ntt;
pub(crate) mod sampler;
pub(crate) mod stream;

/// Proof that this machine has the instructions of this kernel; can only be made by [`Token::detect`].
#[derive(Clone, Copy)]
pub(crate) struct Token(());

impl Token {
    pub(crate) fn detect() -> Option<Token> {
        let available = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        available.then_some(Token(()))
    }
}

/// Defines functions compiled for AVX2 that are safe to call with a [`Token`] as first argument.
macro_rules! entry_points {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$attribute])*
        pub(crate) fn $name(_: $crate::avx2::Token, $($argument: $type),*) {
            #[target_feature(enable = "avx2,fma")]
            fn body($($argument: $type),*) $body
            // SAFETY: the token proves that the machine has the enabled features.
            unsafe { body($($argument),*) }
        }
    )*};
}
use entry_points;
