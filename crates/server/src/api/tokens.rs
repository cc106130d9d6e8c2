//! One-time tokens with which devices enrol.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use subrosa_registry::fleet::{digest, new_token};
use subrosa_registry::time::now;
use utoipa::ToSchema;

use super::{done, plain_name};
use crate::auth::ENROL_PREFIX;
use crate::body;
use crate::error::{Answer, ApiError};
use crate::state::App;

/// A token that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Group of the device that will use it.
    group: String,
    /// Seconds until it expires; a day if not given, at most 30 days.
    #[serde(default)]
    valid_seconds: Option<u32>,
}

/// A new token. It is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Token {
    /// Its id, for withdrawing it.
    pub id: String,
    /// What the device presents.
    pub token: String,
    /// When it expires, milliseconds since 1970.
    pub expires: i64,
}

/// The tokens, without what makes them tokens.
#[utoipa::path(get, path = "/tokens", tag = "devices", security(("owner" = [])),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Answer<Response> {
    let tokens = app.blocking(|app| Ok(app.fleet.enrolment_tokens()?)).await?;
    Ok(Json(serde_json::json!({ "tokens": tokens })).into_response())
}

/// Makes a token for one device.
#[utoipa::path(post, path = "/tokens", tag = "devices", security(("owner" = [])),
    request_body = NewToken, responses((status = 201, body = Token)))]
pub(super) async fn make(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answer<Response> {
    let wanted: NewToken = body::json(&app, &headers, body).await?;
    let made = app.blocking(move |app| make_now(app, &wanted.group, wanted.valid_seconds.unwrap_or(86_400))).await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Makes a token for a device of a group that holds so many seconds.
pub(crate) fn make_now(app: &App, group: &str, seconds: u32) -> Answer<Token> {
    plain_name("group", group)?;
    if !(1..=30 * 86_400).contains(&seconds) {
        return Err(ApiError::bad("valid_seconds: 1 to 2592000 (30 days)"));
    }
    let token = new_token(ENROL_PREFIX)?;
    let expires = now() + i64::from(seconds) * 1000;
    let row = app.fleet.add_enrolment_token(&digest(&token), group, expires)?;
    Ok(Token { id: row.id, token: token.to_string(), expires })
}

/// Withdraws a token that was not used.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "devices", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(super) async fn withdraw(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    if app.blocking(move |app| Ok(app.fleet.remove_enrolment_token(&id)?)).await? {
        Ok(done())
    } else {
        Err(ApiError::missing("there is no unused token with this id"))
    }
}
