//! Alarms about labels.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::done;
use crate::error::{Answer, ApiError};
use crate::state::App;

/// The newest 1000 alarms: devices whose labels do not look like those of calibration, or of the rest of the fleet.
#[utoipa::path(get, path = "/alarms", tag = "results", security(("owner" = [])),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Answer<Response> {
    let alarms = app.blocking(|app| Ok(app.fleet.alarms(1000)?)).await?;
    Ok(Json(json!({ "alarms": alarms })).into_response())
}

/// Notes that an alarm was looked into.
#[utoipa::path(post, path = "/alarms/{id}/acknowledge", tag = "results", security(("owner" = [])),
    params(("id" = String, Path)), responses((status = 204), (status = 404)))]
pub(super) async fn acknowledge(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let acknowledged = app.blocking(move |app| Ok(app.fleet.acknowledge(&id)?)).await?;
    if acknowledged { Ok(done()) } else { Err(ApiError::missing("there is no such alarm that is not acknowledged")) }
}
