//! The edge agent as a service: samples come in from [`config::Sources`], are evaluated blind by the network that the backend deployed, wait
//! as signed results in a durable queue and are delivered until the backend gives its receipt.
//!
//! ```text
//! sources --> dispatcher --> pool of threads --> queue (SQLite, one thread) --> delivery --> backend
//!                 ^ active network                                                            |
//!              updater <-------------------- deployment, bundle ------------------------------+
//! ```
//!
//! A sample is named by its source and its position there ([`subrosa_fleet::SampleId`]). Its result, the next sequence number and the mark that
//! the sample is done are one transaction; a result leaves the queue when its receipt is there. So a crash at any time loses nothing
//! and doubles nothing. Nothing here can decrypt.

mod backend;
mod backoff;
pub mod config;
mod delivery;
mod error;
mod metrics;
mod monitor;
mod nats;
mod processing;
mod sample;
mod service;
mod share;
mod sources;
mod state;
mod store;
mod update;

pub use config::Config;
pub use error::ServiceError;
pub use service::{Ended, run};
