//! The AVX-512 kernel: eight residues to a vector, products by the 52-bit multiply-add (IFMA).
//!
//! Vectors are kept modulo 2^52: the multiply-add reads only the low 52 bits of its factors, so the bits above may be
//! anything ("unmasked") as long as the value meant is below 2^52. Comparisons need masked values.

#![allow(unsafe_code, reason = "vector loads and stores, and calls into functions compiled for AVX-512")]

mod arith;
mod butterflies;
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
        let available = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi");
        available.then_some(Token(()))
    }
}

/// Defines functions compiled for AVX-512 that are safe to call with a [`Token`] as first argument.
macro_rules! entry_points {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$attribute])*
        pub(crate) fn $name(_: $crate::avx512::Token, $($argument: $type),*) {
            #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
            fn body($($argument: $type),*) $body
            // SAFETY: the token proves that the machine has the enabled features.
            unsafe { body($($argument),*) }
        }
    )*};
}
use entry_points;
