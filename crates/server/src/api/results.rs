//! Results, as the owner queries them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use subrosa_registry::fleet::Filter;

use super::page_size;
use crate::error::{Answer, ApiError};
use crate::state::App;

/// Which results are wanted, in the order of arrival.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Of this network: id, NAME or NAME@VERSION.
    model: Option<String>,
    /// Signed by this device.
    device: Option<String>,
    /// stored, released or refused.
    state: Option<String>,
    /// Received at this time or later, milliseconds since 1970.
    since: Option<i64>,
    /// Received before this time.
    until: Option<i64>,
    /// The page behind this one: `next` of an answer.
    after: Option<String>,
    /// `newest` first, or `oldest` (default).
    order: Option<String>,
    /// Most results of a page, 1 to 1000 (default 100).
    limit: Option<u32>,
}

/// Results by network, device, state and time.
#[utoipa::path(get, path = "/results", tag = "results", security(("owner" = [])), params(Wanted),
    responses((status = 200, body = serde_json::Value), (status = 400)))]
pub(super) async fn list(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Answer<Response> {
    let limit = page_size(wanted.limit)?;
    if wanted.state.as_deref().is_some_and(|s| !["stored", "released", "refused"].contains(&s)) {
        return Err(ApiError::bad("state: stored, released or refused"));
    }
    let newest_first = match wanted.order.as_deref() {
        None | Some("oldest") => false,
        Some("newest") => true,
        Some(_) => return Err(ApiError::bad("order: newest or oldest")),
    };
    let after = wanted.after.as_deref().map(cursor).transpose()?;
    let page = app
        .blocking(move |app| {
            let model = wanted.model.map(|model| app.registry().get(&model)).transpose()?;
            let filter = Filter {
                model: model.map(|record| record.id.to_string()),
                device: wanted.device,
                state: wanted.state,
                since: wanted.since,
                until: wanted.until,
                after,
                newest_first,
            };
            Ok(app.fleet.results(&filter, limit)?)
        })
        .await?;
    let next = page.next.map(|(received, id)| format!("{received}-{id}"));
    Ok(Json(json!({ "results": page.results, "next": next })).into_response())
}

fn cursor(text: &str) -> Answer<(i64, String)> {
    let parts = text.split_once('-').and_then(|(time, id)| Some((time.parse().ok()?, id.to_owned())));
    parts.ok_or_else(|| ApiError::bad("after: give 'next' of the page before, unchanged"))
}

/// A result.
#[utoipa::path(get, path = "/results/{id}", tag = "results", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404)))]
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let result = app.blocking(move |app| Ok(app.fleet.result(&id)?)).await?;
    let result = result.ok_or_else(|| ApiError::missing("there is no result with this id"))?;
    Ok(Json(json!(result)).into_response())
}
