//! The audit log.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use subrosa_owner::release::{AuditEntry, check_log};

use super::page_size;
use crate::error::Answer;
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

/// Entries of the audit log.
#[utoipa::path(get, path = "/audit", tag = "audit", security(("owner" = [])), params(Wanted),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Answer<Response> {
    let limit = page_size(wanted.limit)?;
    let rows = app.blocking(move |app| Ok(app.fleet.audit(wanted.after, limit)?)).await?;
    let next = (rows.len() as u64 == u64::from(limit)).then(|| rows.last().map(|row| row.sequence));
    let entries: Vec<AuditEntry> = rows.into_iter().map(AuditEntry::from).collect();
    Ok(Json(json!({ "entries": entries, "next": next })).into_response())
}

/// Checks the whole chain; `head` is its last hash, to be noted elsewhere.
#[utoipa::path(get, path = "/audit/verify", tag = "audit", security(("owner" = [])),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn verify(State(app): State<Arc<App>>) -> Answer<Response> {
    let found = app.blocking(|app| Ok(check_log(&app.fleet)?)).await?;
    Ok(Json(match found {
        Ok(head) => json!({ "intact": true, "entries": head.count, "head": hex::encode(head.hash) }),
        Err(broken) => json!({ "intact": false, "entry": broken.sequence, "reason": broken.reason }),
    })
    .into_response())
}
