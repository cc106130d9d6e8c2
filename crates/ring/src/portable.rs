//! The portable kernel: plain Rust on 64-bit words, branch-free on data.

pub(crate) mod convert;
pub(crate) mod limb;
pub(crate) mod ntt;
pub(crate) mod stream;
