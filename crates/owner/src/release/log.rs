//! The audit log of the command line: `audit.log` in the owner's home, one entry a line.
//!
//! Lines are appended under a lock and made durable before anything they tell of is shown. A line that a crash cut short was
//! never acknowledged and is removed by the next append.

use super::{AuditEntry, ChainError, Head, verify_chain};
use crate::error::OwnerError;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// File name in the home.
const FILE: &str = "audit.log";

/// The log of a home. Opening it creates nothing.
pub struct AuditLog {
    path: PathBuf,
}

/// The log while nobody else can append.
pub struct LockedLog<'a> {
    log: &'a AuditLog,
    file: File,
    entries: Vec<AuditEntry>,
}

impl AuditLog {
    /// The log of this home.
    pub fn of(home: &Path) -> Self {
        Self { path: home.join(FILE) }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All entries, oldest first; none where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, a line that is no entry.
    pub fn read(&self) -> Result<Vec<AuditEntry>, OwnerError> {
        match File::open(&self.path) {
            Ok(file) => Ok(self.parse(&file)?.0),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.failed("read")(e)),
        }
    }

    /// Checks the whole chain.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and [`OwnerError::Audit`] where the log was changed.
    pub fn verify(&self) -> Result<Head, OwnerError> {
        verify_chain(self.read()?).map_err(|e| self.broken(e))
    }

    /// Waits for the log and holds it: what is decided by its entries stays true until it is written.
    ///
    /// # Errors
    /// Those of [`verify`](Self::verify): nothing is appended to a log that was changed.
    pub fn lock(&self) -> Result<LockedLog<'_>, OwnerError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&self.path).map_err(self.failed("open"))?;
        file.lock().map_err(self.failed("lock"))?;
        let (entries, whole) = self.parse(&file)?;
        verify_chain(entries.iter().cloned()).map_err(|e| self.broken(e))?;
        file.set_len(whole).map_err(self.failed("write"))?;
        Ok(LockedLog { log: self, file, entries })
    }

    /// The entries of the whole lines, and how many bytes these are.
    fn parse(&self, file: &File) -> Result<(Vec<AuditEntry>, u64), OwnerError> {
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(0)).map_err(self.failed("read"))?;
        let (mut entries, mut whole, mut line) = (Vec::new(), 0, Vec::new());
        loop {
            line.clear();
            let read = reader.by_ref().read_until(b'\n', &mut line).map_err(self.failed("read"))?;
            let Some(text) = line.strip_suffix(b"\n") else { return Ok((entries, whole)) };
            let damaged = |_| ChainError { sequence: entries.len() as u64 + 1, reason: "it is no entry" };
            let entry = serde_json::from_slice(text).map_err(damaged).map_err(|e| self.broken(e))?;
            entries.push(entry);
            whole += read as u64;
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(std::io::Error) -> OwnerError + use<'_> {
        move |source| OwnerError::io(action, &self.path, source)
    }

    fn broken(&self, source: ChainError) -> OwnerError {
        OwnerError::Audit { file: self.path.display().to_string(), source }
    }
}

impl LockedLog<'_> {
    /// What was written until now, oldest first.
    pub fn entries(&self) -> &[AuditEntry] {
        &self.entries
    }

    /// Appends events, durably, all of them or none.
    ///
    /// # Errors
    /// A disk that is full or failing; then nothing that they tell of may be shown.
    pub fn append(&mut self, events: impl IntoIterator<Item = Value>) -> Result<(), OwnerError> {
        let (before, mut text) = (self.entries.len(), Vec::new());
        for event in events {
            let entry = AuditEntry::next(self.entries.last(), now(), event);
            serde_json::to_writer(&mut text, &entry).map_err(|e| self.log.failed("write")(e.into()))?;
            text.push(b'\n');
            self.entries.push(entry);
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_all());
        let written = written.and_then(|()| match (before, self.log.path.parent()) {
            (0, Some(home)) => subrosa_program::container::sync_directory(home),
            _ => Ok(()),
        });
        written.map_err(|e| {
            self.entries.truncate(before);
            self.log.failed("write")(e)
        })
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_log_grows_survives_a_cut_line_and_shows_edits() {
        let home = tempfile::tempdir().unwrap();
        let log = AuditLog::of(home.path());
        assert_eq!(log.verify().unwrap(), Head::default());
        log.lock().unwrap().append([json!({"n": 1}), json!({"n": 2})]).unwrap();
        log.lock().unwrap().append([json!({"n": 3})]).unwrap();
        assert_eq!(log.verify().unwrap().count, 3);
        // A crash in the middle of a line: nothing of it counts, the next append removes it.
        let whole = std::fs::read_to_string(log.path()).unwrap();
        std::fs::write(log.path(), format!("{whole}{{\"sequence\":4,")).unwrap();
        assert_eq!(log.read().unwrap().len(), 3);
        log.lock().unwrap().append([json!({"n": 4})]).unwrap();
        assert_eq!(log.verify().unwrap().count, 4);
        // Edits are found, and nothing is appended to an edited log.
        let text = std::fs::read_to_string(log.path()).unwrap();
        std::fs::write(log.path(), text.replace(r#"{"n":2}"#, r#"{"n":7}"#)).unwrap();
        let error = log.verify().unwrap_err().to_string();
        assert!(error.contains("entry 2") && log.lock().is_err(), "{error}");
        std::fs::write(log.path(), text.lines().skip(1).map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        assert!(log.verify().is_err());
        std::fs::write(log.path(), "what\n").unwrap();
        assert!(log.verify().is_err());
    }

    #[test]
    fn two_writers_do_not_break_the_chain() {
        let home = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let home = home.path();
                scope.spawn(move || {
                    for i in 0..10 {
                        AuditLog::of(home).lock().unwrap().append([json!({"writer": writer, "i": i})]).unwrap();
                    }
                });
            }
        });
        assert_eq!(AuditLog::of(home.path()).verify().unwrap().count, 40);
    }
}
