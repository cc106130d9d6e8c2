//! The Decryption Agent's release policy: what of a result that an untrusted machine sent is decrypted and told.
//!
//! [`ReleaseAgent::examine`] is stateless: device signature, network and version, form, what honest evaluation leaves in all of the
//! result, range, and what the policy reveals. What needs memory is pure here and kept by the caller: [`Budget`] over [`Usage`],
//! [`LabelCounts`] for the watch over labels, and the chain of [`AuditEntry`]s. What each check is worth is in SECURITY.md.

mod agent;
mod audit;
mod files;
mod flooding;
mod ledger;
mod log;
mod policy;
mod refusal;
mod structure;
mod support;
mod watch;

pub use agent::{ReleaseAgent, Released};
pub use audit::{AuditEntry, ChainError, Head, verify_chain};
pub use files::{DecryptRequest, POLICY_FILE};
pub use flooding::{FloodedForecast, Flooding};
pub use log::{AuditLog, LockedLog, now};
pub use policy::{Audience, Budget, ReleasePolicy, Usage};
pub use refusal::Refusal;
pub use watch::{Alarm, LabelCounts};
