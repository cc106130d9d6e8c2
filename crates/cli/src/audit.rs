//! `audit`: shows and checks the log of what was decrypted.

use crate::arguments::{Audit, HomeFlags};
use crate::failure::failure;
use serde::Serialize;
use std::fmt;
use subrosa_owner::release::{AuditEntry, AuditLog, Head};
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct ShowReport {
    /// Entries in all.
    count: u64,
    /// The last ones.
    entries: Vec<AuditEntry>,
}

#[derive(Serialize)]
struct VerifyReport {
    file: String,
    #[serde(flatten)]
    head: Head,
}

pub(crate) fn audit(
    terminal: &mut Terminal,
    home: &HomeFlags,
    command: Option<&Audit>,
    last: u64,
) -> Result<(), Failure> {
    let owner = home.owner()?;
    let log = AuditLog::of(&owner).map_err(failure)?;
    match command {
        None => {
            let (entries, count) = log.last(last).map_err(failure)?;
            terminal.report(&ShowReport { count, entries })
        }
        Some(Audit::Verify { noted }) => verify(terminal, &log, noted.as_deref()),
        Some(Audit::LetIn { device }) => {
            if !owner.let_in(device).map_err(failure)? {
                return Err(Failure::usage(format!(
                    "nothing was ever decrypted of a device '{device}', and none of this id is enrolled: 'subrosa audit' shows the ids"
                )));
            }
            verify(terminal, &log, None)
        }
    }
}

fn verify(terminal: &mut Terminal, log: &AuditLog, noted: Option<&str>) -> Result<(), Failure> {
    let head = log.verify().map_err(failure)?;
    let place = log.place();
    if let Some(hash) = noted
        && !log.holds(hash).map_err(failure)?
    {
        return Err(Failure::failed(format!(
            "{place}: the entry {hash} is not in its audit log: it was cut or made anew after that was noted"
        )));
    }
    terminal.report(&VerifyReport { file: place, head })
}

impl fmt::Display for ShowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            writeln!(f, "{:6}  {}  {}", entry.sequence, entry.time, entry.event)?;
        }
        writeln!(f, "{} of {} entries", self.entries.len(), self.count)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::fields(&[
            ("log", self.file.clone()),
            ("entries", self.head.count.to_string()),
            ("last hash", hex::encode(self.head.hash)),
        ]))
    }
}
