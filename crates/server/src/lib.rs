//! The backend as a service: what the owner operates, and the machines of a fleet talk to.
//!
//! One process answers HTTP (`api`; people at `console`), decrypts what arrived (`workers::decrypt`) and protects networks (`workers::jobs`). It holds no
//! state but copies: any number of processes may share one PostgreSQL and one store. `docs/operations.md` says how it is run.

mod api;
mod auth;
mod body;
pub mod command;
mod config;
mod console;
mod error;
mod ingest;
mod instance;
mod metrics;
mod net;
mod postgres;
mod serve;
mod shared_vault;
mod state;
mod stop;
mod store;
mod tls;
mod workers;

pub use auth::{DEVICE_PREFIX, ENROL_PREFIX, OWNER_PREFIX};
pub use config::{Config, Limits, Transport};
pub use serve::{ServeError, Server};
pub use store::{Store, StoreError};
pub use tls::TlsError;
