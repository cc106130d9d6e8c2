//! A stub of the backend over real TLS, an owner with bundles, and agents as processes. Included by the tests of `subrosa-edge` too, which have
//! the program.
#![allow(dead_code, unused_imports)] // each test file uses its part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // helpers of tests

mod agent;
mod http;
mod nats;
mod owner;
mod stub;

pub use agent::{Agent, Backend, wait_at_most, wait_for};
pub use http::request;
pub use nats::Nats;
pub use owner::{TestOwner, fixture, npy, png, samples};
pub use stub::{Faults, Stub};
