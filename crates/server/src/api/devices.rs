//! Devices, as the owner sees them. They enrol themselves: see `device`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::done;
use crate::error::{Answer, ApiError};
use crate::state::App;

fn unknown() -> ApiError {
    ApiError::missing("there is no device with this id")
}

/// All devices, by group and name.
#[utoipa::path(get, path = "/devices", tag = "devices", security(("owner" = [])),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Answer<Response> {
    let devices = app.blocking(|app| Ok(app.fleet.devices()?)).await?;
    Ok(Json(json!({ "devices": devices })).into_response())
}

/// A device and what it is to run.
#[utoipa::path(get, path = "/devices/{id}", tag = "devices", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404)))]
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let (device, deployment) = app
        .blocking(move |app| {
            let device = app.fleet.device(&id)?.ok_or_else(unknown)?;
            let effective = app.fleet.effective(&device)?;
            Ok((device, effective))
        })
        .await?;
    let deployment = deployment.map(|d| json!({ "generation": d.generation, "model": d.model }));
    Ok(Json(json!({ "device": device, "deployment": deployment })).into_response())
}

/// Revokes a device for good: it gets nothing more, and nothing of it is decrypted any more.
#[utoipa::path(post, path = "/devices/{id}/revoke", tag = "devices", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(super) async fn revoke(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let known = app.blocking(move |app| Ok(app.fleet.revoke(&id)? || app.fleet.device(&id)?.is_some())).await?;
    if known { Ok(done()) } else { Err(unknown()) }
}

/// Serves a device again that was suspended for results that no honest device sends. Find out why first.
#[utoipa::path(post, path = "/devices/{id}/readmit", tag = "devices", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(super) async fn readmit(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    if app.blocking(move |app| Ok(app.fleet.readmit(&id)?)).await? { Ok(done()) } else { Err(unknown()) }
}
