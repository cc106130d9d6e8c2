//! Protected networks.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use subrosa_registry::Record;
use subrosa_registry::fleet::{Event, JobRow};

use super::uploads::unknown;
use crate::body;
use crate::error::Answer;
use crate::state::App;
use crate::workers::jobs::{PROTECT, Protect};

/// Which networks are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// All versions of this name.
    name: Option<String>,
}

/// Networks by name and version, without their reports.
#[utoipa::path(get, path = "/models", tag = "models", security(("owner" = [])), params(Wanted),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Answer<Response> {
    let records = app.blocking(|app| Ok(app.registry().list()?)).await?;
    let shown = records.into_iter().filter(|r| wanted.name.as_ref().is_none_or(|name| r.name == *name));
    let models: Vec<_> = shown
        .map(|record| {
            let mut value = json!(record);
            if let Some(object) = value.as_object_mut() {
                object.remove("report");
            }
            value
        })
        .collect();
    Ok(Json(json!({ "models": models })).into_response())
}

/// Protects an uploaded network, as a background job.
#[utoipa::path(post, path = "/models", tag = "models", security(("owner" = [])), request_body = Protect,
    responses((status = 202, body = serde_json::Value), (status = 400), (status = 404)))]
pub(super) async fn protect(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answer<Response> {
    let wanted: Protect = body::json(&app, &headers, body).await?;
    let job = queue(&app, wanted).await?;
    Ok((StatusCode::ACCEPTED, Json(json!(job))).into_response())
}

/// Queues the protection of an uploaded network.
pub(crate) async fn queue(app: &Arc<App>, wanted: Protect) -> Answer<JobRow> {
    wanted.check()?;
    let job = app
        .blocking(move |app| {
            for upload in wanted.uploads() {
                app.fleet.upload(upload)?.ok_or_else(unknown)?;
            }
            Ok(app.fleet.queue(PROTECT, &json!(wanted))?)
        })
        .await?;
    app.queued.notify_waiters();
    Ok(job)
}

/// A network with all that was reported of it: id, NAME or NAME@VERSION.
#[utoipa::path(get, path = "/models/{id}", tag = "models", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404)))]
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let (record, bundle) = app
        .blocking(move |app| {
            let record = app.registry().get(&id)?;
            let bundle = app.fleet.bundle(&record.id.to_string())?;
            Ok((record, bundle))
        })
        .await?;
    let mut shown = json!(record);
    if let (Some(object), Some(bundle)) = (shown.as_object_mut(), bundle) {
        object.insert("bundle".into(), json!({ "sha256": bundle.sha256, "bytes": bundle.bytes }));
    }
    Ok(Json(shown).into_response())
}

/// Retires a network: it is no longer deployed, and results of it are no longer taken. Its files and key stay.
#[utoipa::path(post, path = "/models/{id}/retire", tag = "models", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404)))]
pub(super) async fn retire(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let record = app.blocking(move |app| retire_now(app, &id)).await?;
    Ok(Json(json!({ "id": record.id, "name": record.name, "version": record.version, "retired": true }))
        .into_response())
}

/// Retires a network and tells the audit log, if it was not before.
pub(crate) fn retire_now(app: &App, id: &str) -> Answer<Record> {
    let record = app.registry().get(id)?;
    if app.registry().retire(record.id)? {
        let event = json!({ "model": record.id, "name": record.versioned_name() });
        app.fleet.note(&Event::new("model retired", event))?;
    }
    Ok(record)
}
