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
    count: usize,
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
    last: usize,
) -> Result<(), Failure> {
    let owner = home.owner()?;
    let log = AuditLog::of(owner.home());
    match command {
        None => {
            let mut entries = log.read().map_err(failure)?;
            let count = entries.len();
            entries.drain(..count.saturating_sub(last));
            terminal.report(&ShowReport { count, entries })
        }
        Some(Audit::Verify { noted }) => verify(terminal, &log, noted.as_deref()),
        Some(Audit::LetIn { device }) => {
            let mut locked = log.lock().map_err(failure)?;
            let event = serde_json::json!({ "event": "device let in", "device": device });
            locked.append([event]).map_err(failure)?;
            drop(locked);
            verify(terminal, &log, None)
        }
    }
}

fn verify(terminal: &mut Terminal, log: &AuditLog, noted: Option<&str>) -> Result<(), Failure> {
    let head = log.verify().map_err(failure)?;
    let file = log.path().display().to_string();
    if let Some(hash) = noted {
        let entries = log.read().map_err(failure)?;
        if !entries.iter().any(|entry| hex::encode(entry.hash) == hash.to_ascii_lowercase()) {
            return Err(Failure::failed(format!(
                "{file}: the entry {hash} is not in it: the log was cut or made anew after it was noted"
            )));
        }
    }
    terminal.report(&VerifyReport { file, head })
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
