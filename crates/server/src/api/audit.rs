//! The audit log.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use subrosa_owner::release::{AuditEntry, verify_chain};
use subrosa_registry::fleet::AuditRow;

use super::page_size;
use crate::error::{Answer, ApiError};
use crate::state::App;

/// Which entries are wanted, oldest first.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Behind this one; 0 (default) begins with the first.
    #[serde(default)]
    after: u64,
    /// Most entries of a page, 1 to 1000 (default 100).
    limit: Option<u32>,
}

/// An entry as it was hashed; text that is no JSON any more breaks the chain as `null` would.
fn entry(row: AuditRow) -> AuditEntry {
    let AuditRow { sequence, time, event, previous, hash } = row;
    AuditEntry { sequence, time, event: serde_json::from_str(&event).unwrap_or(Value::Null), previous, hash }
}

/// Entries of the audit log.
#[utoipa::path(get, path = "/audit", tag = "audit", security(("owner" = [])), params(Wanted),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Answer<Response> {
    let limit = page_size(wanted.limit)?;
    let rows = app.blocking(move |app| Ok(app.fleet.audit(wanted.after, limit)?)).await?;
    let next = (rows.len() as u64 == u64::from(limit)).then(|| rows.last().map(|row| row.sequence));
    let entries: Vec<AuditEntry> = rows.into_iter().map(entry).collect();
    Ok(Json(json!({ "entries": entries, "next": next })).into_response())
}

/// Checks the whole chain; `head` is its last hash, to be noted elsewhere.
#[utoipa::path(get, path = "/audit/verify", tag = "audit", security(("owner" = [])),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn verify(State(app): State<Arc<App>>) -> Answer<Response> {
    let found = app.blocking(chain).await?;
    Ok(Json(match found {
        Chain::Intact { entries, head } => json!({ "intact": true, "entries": entries, "head": head }),
        Chain::Broken { entry, reason } => json!({ "intact": false, "entry": entry, "reason": reason }),
    })
    .into_response())
}

/// What the check of the whole chain found.
pub(crate) enum Chain {
    /// All is as it was written.
    Intact { entries: u64, head: String },
    /// From this entry on it is not.
    Broken { entry: u64, reason: String },
}

/// Checks the whole chain.
pub(crate) fn chain(app: &App) -> Answer<Chain> {
    let expected = app.fleet.audit_head()?;
    let mut failed = None;
    let rows = Rows { app, after: 0, page: Vec::new().into_iter(), failed: &mut failed };
    let chain = verify_chain(rows.take_while(|row| row.sequence <= expected).map(entry));
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(match chain {
        Ok(head) if head.count == expected => Chain::Intact { entries: head.count, head: hex::encode(head.hash) },
        Ok(head) => Chain::Broken { entry: head.count + 1, reason: "the last entries are missing".to_owned() },
        Err(error) => Chain::Broken { entry: error.sequence, reason: error.reason.to_string() },
    })
}

/// All rows, a page at a time.
struct Rows<'a> {
    app: &'a App,
    after: u64,
    page: std::vec::IntoIter<AuditRow>,
    failed: &'a mut Option<ApiError>,
}

impl Iterator for Rows<'_> {
    type Item = AuditRow;

    fn next(&mut self) -> Option<AuditRow> {
        if let Some(row) = self.page.next() {
            return Some(row);
        }
        match self.app.fleet.audit(self.after, 1000) {
            Ok(rows) => {
                self.after = rows.last()?.sequence;
                self.page = rows.into_iter();
                self.page.next()
            }
            Err(error) => {
                *self.failed = Some(error.into());
                None
            }
        }
    }
}
