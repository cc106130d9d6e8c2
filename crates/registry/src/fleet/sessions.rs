//! Sessions of the console: opened with one of the owner's tokens, and gone with it. Only digests are kept.

use serde_json::json;

use super::{Event, Fleet};
use crate::sql::SqlError;
use crate::time::now;
use crate::values;

/// How often it is written that a session is in use, milliseconds.
const NOTE: i64 = 60_000;

/// A session that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Name of the owner's token it was opened with.
    pub name: String,
    /// When it ends at the latest, milliseconds since 1970.
    pub expires: i64,
}

impl Fleet {
    /// Opens a session for `lifetime` milliseconds with the owner's token of a digest; nothing where there is no such token.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn open_session(&self, hash: &str, token: &str, lifetime: i64) -> Result<Option<Session>, SqlError> {
        self.read(|t| {
            let time = now();
            t.execute("DELETE FROM sessions WHERE expires <= $1", values![time])?;
            let row = t.row("SELECT name FROM owner_tokens WHERE hash = $1", values![token])?;
            let Some(row) = row else { return Ok(None) };
            let session = Session { name: row.get(0)?, expires: time + lifetime };
            t.execute(
                "INSERT INTO sessions (hash, token, created, expires, seen) VALUES ($1, $2, $3, $4, $3)",
                values![hash, token, time, session.expires],
            )?;
            self.audited(t, &Event::new("console opened", json!({ "name": session.name })))?;
            Ok(Some(session))
        })
    }

    /// The session of a digest, if it is open: not at its end, not unused for `idle` milliseconds, its token not removed. `used`: it is by this.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn session(&self, hash: &str, idle: i64, used: bool) -> Result<Option<Session>, SqlError> {
        self.read(|t| {
            let time = now();
            let row = t.row(
                "SELECT o.name, s.expires, s.seen FROM sessions s JOIN owner_tokens o ON o.hash = s.token
                 WHERE s.hash = $1 AND s.expires > $2 AND s.seen > $3",
                values![hash, time, time - idle],
            )?;
            let Some(row) = row else { return Ok(None) };
            if used && row.get::<i64>(2)? < time - NOTE.min(idle / 2) {
                t.execute("UPDATE sessions SET seen = $1 WHERE hash = $2", values![time, hash])?;
            }
            Ok(Some(Session { name: row.get(0)?, expires: row.get(1)? }))
        })
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn close_session(&self, hash: &str) -> Result<(), SqlError> {
        self.read(|t| {
            if t.execute("DELETE FROM sessions WHERE hash = $1", values![hash])? > 0 {
                self.audited(t, &Event::new("console closed", json!({})))?;
            }
            Ok(())
        })
    }
}
