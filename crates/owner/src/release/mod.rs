//! The Decryption Agent's release policy: what of a result that an untrusted machine sent is decrypted and told.
//!
//! [`ReleaseAgent::examine`] is stateless: device signature, network and version, form, what honest evaluation leaves in all of the
//! result, range, and what the policy reveals. What needs memory is pure here ([`Budget`] over [`Usage`], [`LabelCounts`] for the watch over
//! labels, the chain of [`AuditEntry`]s) and kept in the registry: [`crate::Owner::fleet`] is the one ledger of all that is decrypted. What
//! each check is worth is in SECURITY.md.

mod agent;
mod audit;
mod earlier;
mod files;
mod flooding;
mod log;
mod policy;
mod refusal;
mod structure;
mod support;
mod watch;

pub use agent::{ReleaseAgent, Released};
pub use audit::{AuditEntry, ChainError, Head, verify_chain};
pub use files::{DecryptRequest, POLICY_FILE, stored_row};
pub use flooding::{FloodedForecast, Flooding};
pub use log::{AuditLog, check_log};
pub(crate) use log::{elsewhere, kept_elsewhere};
pub use policy::{Audience, Budget, ReleasePolicy};
pub use refusal::Refusal;
pub use subrosa_registry::fleet::Usage;
pub use watch::{Alarm, LabelCounts, look};
