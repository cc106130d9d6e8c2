//! The audit log of a registry: what was enrolled, deployed, released and refused, by `subrosa decrypt` and `subrosa serve` alike, in one
//! chain of entries in the registry's database.

use super::{AuditEntry, ChainError, Head, verify_chain};
use crate::Owner;
use crate::error::OwnerError;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use subrosa_program::container::{Access, AtomicFile};
use subrosa_registry::fleet::{AuditRow, Fleet};
use subrosa_registry::sql::SqlError;

/// The file in a home that names the database in which its results are kept, if that is shared.
const ELSEWHERE: &str = "database";
/// Entries that are read at once.
const PAGE: u32 = 1000;

/// The log of a registry.
pub struct AuditLog<'a> {
    owner: &'a Owner,
    fleet: Fleet,
}

impl<'a> AuditLog<'a> {
    /// The log of this owner's registry.
    ///
    /// # Errors
    /// Those of [`Owner::fleet`].
    pub fn of(owner: &'a Owner) -> Result<Self, OwnerError> {
        Ok(Self { owner, fleet: owner.fleet()? })
    }

    /// Where it is: the database.
    pub fn place(&self) -> String {
        self.owner.registry().database().place()
    }

    /// Its last entries, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub fn last(&self, count: u64) -> Result<(Vec<AuditEntry>, u64), OwnerError> {
        let read = || {
            let head = self.fleet.audit_head()?;
            let rows = Entries::after(&self.fleet, head.saturating_sub(count)).collect::<Result<Vec<_>, _>>()?;
            Ok((rows, head))
        };
        read().map_err(|e| self.owner.database_failed(e))
    }

    /// Checks the whole chain.
    ///
    /// # Errors
    /// [`OwnerError::Audit`] where the log was changed, and the database's.
    pub fn verify(&self) -> Result<Head, OwnerError> {
        let checked = check_log(&self.fleet).map_err(|e| self.owner.database_failed(e))?;
        checked.map_err(|source| OwnerError::Audit { place: self.place(), source })
    }

    /// Whether an entry has this hash (hex): one of the log, or of one that was taken over into it.
    ///
    /// # Errors
    /// The database's.
    pub fn holds(&self, hash: &str) -> Result<bool, OwnerError> {
        let wanted = hash.to_ascii_lowercase();
        for entry in Entries::after(&self.fleet, 0) {
            let entry = entry.map_err(|e| self.owner.database_failed(e))?;
            let before = entry.event.pointer("/entry/hash").and_then(Value::as_str);
            if hex::encode(entry.hash) == wanted || before == Some(wanted.as_str()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Checks the whole chain of a fleet's audit log.
///
/// # Errors
/// The database's; within, where the chain breaks.
pub fn check_log(fleet: &Fleet) -> Result<Result<Head, ChainError>, SqlError> {
    // What is appended meanwhile is left to the next check.
    let expected = fleet.audit_head()?;
    let mut failed = None;
    let entries = Entries::after(fleet, 0).map_while(|entry| entry.map_err(|e| failed = Some(e)).ok());
    let chain = verify_chain(entries.take_while(|entry| entry.sequence <= expected));
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(match chain {
        Ok(head) if head.count < expected => {
            Err(ChainError { sequence: head.count + 1, reason: "the last entries are missing" })
        }
        chain => chain,
    })
}

/// Entries in order, read a page at a time.
struct Entries<'a> {
    fleet: &'a Fleet,
    after: u64,
    page: std::vec::IntoIter<AuditRow>,
}

impl<'a> Entries<'a> {
    fn after(fleet: &'a Fleet, after: u64) -> Self {
        Self { fleet, after, page: Vec::new().into_iter() }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<AuditEntry, SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.page.next() {
            return Some(Ok(row.into()));
        }
        match self.fleet.audit(self.after, PAGE) {
            Ok(rows) => {
                self.after = rows.last()?.sequence;
                self.page = rows.into_iter();
                self.page.next().map(|row| Ok(row.into()))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// The database in which the results of a home are kept, if that is not the home's.
pub(crate) fn elsewhere(home: &Path) -> Result<Option<String>, OwnerError> {
    let path = home.join(ELSEWHERE);
    match std::fs::read_to_string(&path) {
        Ok(noted) => Ok(Some(noted.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(OwnerError::io("read", &path, e)),
    }
}

/// Why nothing is decrypted for such a home.
pub(crate) fn kept_elsewhere(home: &Path, place: &str) -> OwnerError {
    OwnerError::Usage(format!(
        "what is decrypted for this home is counted and logged in {place}, by 'subrosa serve --database': deliver results there, or, if that \
         database is no longer in use, remove {} to begin with that of the home",
        home.join(ELSEWHERE).display()
    ))
}

impl From<AuditRow> for AuditEntry {
    /// The entry as it was hashed; text that is no JSON any more breaks the chain as `null` would.
    fn from(row: AuditRow) -> Self {
        let AuditRow { sequence, time, event, previous, hash } = row;
        Self { sequence, time, event: serde_json::from_str(&event).unwrap_or_default(), previous, hash }
    }
}

/// The row that follows another.
fn link(previous: Option<&AuditRow>, time: u64, event: &Value) -> AuditRow {
    let previous = previous.map(|row| AuditEntry::from(row.clone()));
    let AuditEntry { sequence, time, event, previous, hash } = AuditEntry::next(previous.as_ref(), time, event.clone());
    AuditRow { sequence, time, event: event.to_string(), previous, hash }
}

impl Owner {
    /// The fleet in the registry: devices, results, usage and the audit log, one ledger of all that is decrypted. What an earlier version
    /// wrote into the home's `audit.log` is taken over.
    ///
    /// # Errors
    /// The database's, an earlier log that was changed, a home whose results are in another database.
    pub fn fleet(&self) -> Result<Fleet, OwnerError> {
        let fleet = Fleet::new(self.registry.database().clone(), link);
        self.one_ledger()?;
        super::earlier::take_over(self, &fleet)?;
        Ok(fleet)
    }

    /// Has a device that was suspended served again; says whether anything is known of one with this id.
    ///
    /// # Errors
    /// The database's.
    pub fn let_in(&self, device: &str) -> Result<bool, OwnerError> {
        self.fleet()?.readmit(device).map_err(|e| self.database_failed(e))
    }

    /// A home whose results were ever kept in a database that processes share says so in a file: what is decrypted from the home alone would
    /// be seen by none of them.
    fn one_ledger(&self) -> Result<(), OwnerError> {
        let (path, here) = (self.home.join(ELSEWHERE), self.registry.database().place());
        match elsewhere(&self.home)? {
            Some(noted) if !self.registry.is_shared() => Err(kept_elsewhere(&self.home, &noted)),
            noted if self.registry.is_shared() && noted.as_ref() != Some(&here) => {
                let written = AtomicFile::begin(&path, Access::Private).and_then(|mut file| {
                    writeln!(file, "{here}")?;
                    file.replace()
                });
                written.map_err(|e| OwnerError::io("write", &path, e))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn database_failed(&self, error: SqlError) -> OwnerError {
        self.registry.failed(error).into()
    }
}
