//! The fleet in the registry: devices, what they are to run, what they send, and the audit log of all of it.
//!
//! [`Fleet`] holds no secret: of tokens it keeps digests, of results where their ciphertexts lie.

mod audit;
mod deployments;
mod devices;
mod jobs;
mod labels;
mod ledger;
mod results;
mod sessions;
mod tokens;

pub use audit::{AuditRow, Event, Link};
pub use deployments::{Bundle, DeploymentRow, Effective, Target};
pub use devices::{Device, EnrolError, NewDevice};
pub use jobs::{JobRow, UploadRow};
pub use labels::{AlarmRow, Counted, NewAlarm};
pub use ledger::{Examined, Settled};
pub use results::{Arrival, Claimed, Decision, Filter, NewResult, Page, Permit, ResultRow, Usage};
pub use sessions::Session;
pub use tokens::{OwnerToken, TokenRow, digest, new_token};

use crate::sql::{Database, SqlError, Transaction};

/// The fleet's part of the registry. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    database: Database,
    link: Link,
}

impl Fleet {
    /// The fleet in a registry's database; `link` makes the next entry of the audit log.
    pub fn new(database: Database, link: Link) -> Self {
        Self { database, link }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn ping(&self) -> Result<(), SqlError> {
        self.read(|t| t.one::<i64>("SELECT count(*) FROM counters", &[])).map(|_| ())
    }

    fn read<T>(&self, work: impl FnMut(&mut Transaction<'_>) -> Result<T, SqlError>) -> Result<T, SqlError> {
        self.database.transaction(work)
    }

    /// A transaction that tells the audit log what it did. The log's last row is locked by it, so it should come last.
    fn audited(&self, transaction: &mut Transaction<'_>, event: &Event) -> Result<(), SqlError> {
        audit::append(transaction, self.link, event)
    }

    /// Writes something into the audit log that changes nothing else.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn note(&self, event: &Event) -> Result<(), SqlError> {
        self.read(|t| self.audited(t, event))
    }
}

/// 32 random hex digits.
fn random_id() -> Result<String, SqlError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| {
        SqlError::text(crate::sql::SqlErrorKind::Failed, format!("the operating system gives no random bytes: {e}"))
    })?;
    Ok(hex::encode(bytes))
}
