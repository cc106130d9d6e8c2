//! Rows of the audit log. What chains them is the owner's affair ([`Link`]); here they are kept in order, without gaps.

use serde::Serialize;
use serde_json::Value as Json;

use super::Fleet;
use crate::sql::{Row, SqlError, Transaction};
use crate::time::now;
use crate::values;

/// A row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// 1 for the first.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    /// What happened: a JSON object, as it was hashed.
    pub event: String,
    /// Hash of the row before; zero for the first.
    pub previous: [u8; 32],
    /// Hash of this row.
    pub hash: [u8; 32],
}

/// Makes the row that follows another, at a time, about an event.
pub type Link = fn(Option<&AuditRow>, u64, &Json) -> AuditRow;

/// What is written into the audit log.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Event(Json);

impl Event {
    /// An event of a kind (`enrolled`, `refused`, ...) with its particulars, a JSON object. Never anything secret.
    pub fn new(kind: &str, particulars: Json) -> Self {
        let mut event = serde_json::json!({ "event": kind });
        if let (Some(all), Json::Object(more)) = (event.as_object_mut(), particulars) {
            all.extend(more);
        }
        Self(event)
    }
}

/// Appends a row, under the lock of the counter's row.
pub(super) fn append(transaction: &mut Transaction<'_>, link: Link, event: &Event) -> Result<(), SqlError> {
    let sequence: i64 =
        transaction.one("UPDATE counters SET value = value + 1 WHERE name = 'audit' RETURNING value", &[])?;
    let previous = transaction
        .row("SELECT sequence, time, event, previous, hash FROM audit WHERE sequence = $1", values![sequence - 1])?;
    let previous = previous.as_ref().map(read).transpose()?;
    if previous.is_none() && sequence > 1 {
        return Err(SqlError::corrupt(format!("entry {} of the audit log is missing", sequence - 1)));
    }
    let row = link(previous.as_ref(), now().unsigned_abs(), &event.0);
    transaction.execute(
        "INSERT INTO audit (sequence, time, event, previous, hash) VALUES ($1, $2, $3, $4, $5)",
        values![sequence, row.time as i64, row.event, row.previous.as_slice(), row.hash.as_slice()],
    )?;
    Ok(())
}

fn read(row: &Row) -> Result<AuditRow, SqlError> {
    Ok(AuditRow {
        sequence: row.get(0)?,
        time: row.get(1)?,
        event: row.get(2)?,
        previous: row.get(3)?,
        hash: row.get(4)?,
    })
}

impl Fleet {
    /// At most `limit` rows of the audit log after a sequence number, oldest first.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, SqlError> {
        let sql =
            "SELECT sequence, time, event, previous, hash FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2";
        self.read(|t| t.query(sql, values![after as i64, limit])?.iter().map(read).collect())
    }

    /// Number of the audit log's last row; 0 where there is none.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn audit_head(&self) -> Result<u64, SqlError> {
        self.read(|t| t.one("SELECT value FROM counters WHERE name = 'audit'", &[]))
    }
}
