//! Which network runs where.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use subrosa_registry::fleet::{DeploymentRow, Target};
use utoipa::ToSchema;

use super::plain_name;
use crate::body;
use crate::error::{Answer, ApiError};
use crate::state::App;

/// What is wanted of the list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Wanted {
    /// Everything that ever was, not only what holds.
    #[serde(default)]
    history: bool,
}

/// What a target is to run. One of `group` and `device` is given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollOut {
    /// Every device of this group that has no deployment of its own.
    #[serde(default)]
    group: Option<String>,
    /// This device.
    #[serde(default)]
    device: Option<String>,
    /// The network: id, NAME or NAME@VERSION. Null: a group stops, a device follows its group again.
    model: Option<String>,
}

/// A target whose last deployment is taken back. One of `group` and `device` is given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollBack {
    /// This group.
    #[serde(default)]
    group: Option<String>,
    /// This device.
    #[serde(default)]
    device: Option<String>,
}

/// The target, if there is such a thing.
pub(crate) fn known_target(app: &App, group: Option<String>, device: Option<String>) -> Answer<Target> {
    match (group, device) {
        (Some(group), None) => {
            plain_name("group", &group)?;
            Ok(Target::Group(group))
        }
        (None, Some(device)) => match app.fleet.device(&device)? {
            Some(_) => Ok(Target::Device(device)),
            None => Err(ApiError::missing("there is no device with this id")),
        },
        _ => Err(ApiError::bad("give either a group or a device")),
    }
}

fn answer(row: &DeploymentRow) -> Response {
    (StatusCode::CREATED, Json(json!(row))).into_response()
}

/// What runs where, newest first.
#[utoipa::path(get, path = "/deployments", tag = "deployments", security(("owner" = [])), params(Wanted),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Answer<Response> {
    let deployments = app.blocking(move |app| Ok(app.fleet.deployments(wanted.history)?)).await?;
    Ok(Json(json!({ "deployments": deployments })).into_response())
}

/// Has a group or a device run a network.
#[utoipa::path(post, path = "/deployments", tag = "deployments", security(("owner" = [])), request_body = RollOut,
    responses((status = 201, body = serde_json::Value), (status = 404), (status = 409)))]
pub(super) async fn roll_out(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answer<Response> {
    let wanted: RollOut = body::json(&app, &headers, body).await?;
    let target = app.blocking(move |app| known_target(app, wanted.group, wanted.device)).await?;
    Ok(answer(&roll_out_now(&app, target, wanted.model).await?))
}

/// Has a target run a network (id, NAME or NAME@VERSION), or nothing of its own.
pub(crate) async fn roll_out_now(app: &Arc<App>, target: Target, model: Option<String>) -> Answer<DeploymentRow> {
    let find = move |app: &App| {
        let Some(model) = model else { return Ok(None) };
        let record = app.registry().get(&model)?;
        if record.retired_unix.is_some() {
            return Err(ApiError::conflict(format!(
                "{} is retired: it is not deployed again",
                record.versioned_name()
            )));
        }
        let id = record.id.to_string();
        // So that its results can be released as the policy says, or nobody waits for them.
        app.agent(&id)?.check_policy(&app.policy).map_err(|refusal| ApiError::conflict(refusal.to_string()))?;
        Ok(Some(id))
    };
    let model = app.blocking(find).await?;
    if let Some(model) = &model {
        // Before a device can ask for it, and so that it fails here if it fails.
        app.bundle(model).await?;
    }
    app.blocking(move |app| Ok(app.fleet.deploy(&target, model.as_deref())?)).await
}

/// Has a group or a device run again what it ran before.
#[utoipa::path(post, path = "/deployments/rollback", tag = "deployments", security(("owner" = [])), request_body = RollBack,
    responses((status = 201, body = serde_json::Value), (status = 404), (status = 409)))]
pub(super) async fn roll_back(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answer<Response> {
    let wanted: RollBack = body::json(&app, &headers, body).await?;
    let row = app.blocking(move |app| roll_back_now(app, &known_target(app, wanted.group, wanted.device)?)).await?;
    Ok(answer(&row))
}

/// Has a target run again what it ran before.
pub(crate) fn roll_back_now(app: &App, target: &Target) -> Answer<DeploymentRow> {
    let none = || ApiError::conflict("it ran nothing else before that could run again");
    app.fleet.roll_back(target)?.ok_or_else(none)
}
