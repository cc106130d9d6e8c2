//! Background jobs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::{Answer, ApiError};
use crate::state::App;

/// The newest 100 jobs.
#[utoipa::path(get, path = "/jobs", tag = "models", security(("owner" = [])),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Answer<Response> {
    let jobs = app.blocking(|app| Ok(app.fleet.jobs(100)?)).await?;
    Ok(Json(json!({ "jobs": jobs })).into_response())
}

/// A job: its state, the step it is in and how much of it is done, what came of it.
#[utoipa::path(get, path = "/jobs/{id}", tag = "models", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404)))]
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let job = app.blocking(move |app| Ok(app.fleet.job(&id)?)).await?;
    let job = job.ok_or_else(|| ApiError::missing("there is no job with this id"))?;
    Ok(Json(json!(job)).into_response())
}
