//! Who may ask: the owner, or a device that is enrolled, each by a bearer token of which only the digest is kept.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subrosa_registry::fleet::{Device, Event, digest};

use crate::error::{Answer, ApiError};
use crate::metrics::Metrics;
use crate::state::App;

/// Begins the owner's tokens.
pub const OWNER_PREFIX: &str = "sro_";
/// Begins devices' access tokens.
pub const DEVICE_PREFIX: &str = "srd_";
/// Begins enrolment tokens.
pub const ENROL_PREFIX: &str = "sre_";

/// The token of a request, if it may be one of this kind.
fn bearer(request: &Request, prefix: &str) -> Option<String> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && token.starts_with(prefix) && token.len() == prefix.len() + 64)
        .then(|| token.to_owned())
}

/// Lets the owner pass.
pub(crate) async fn owner(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match owner_of(&app, bearer(&request, OWNER_PREFIX)).await {
        Ok(()) => next.run(request).await,
        Err(error) => {
            Metrics::count(&app.metrics.denied, "owner");
            error.into_response()
        }
    }
}

async fn owner_of(app: &Arc<App>, token: Option<String>) -> Answer<()> {
    let wanted = || {
        ApiError::unauthorized(
            "this needs 'Authorization: Bearer TOKEN' with a token of the owner ('subrosa-serve token new' makes one)",
        )
    };
    let hash = digest(&token.ok_or_else(wanted)?);
    let name = app.blocking(move |app| Ok(app.fleet.owner_token(&hash)?)).await?;
    name.map(|_| ()).ok_or_else(wanted)
}

/// Lets enrolled devices pass, and notes that they were heard of.
pub(crate) async fn device(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match device_of(&app, bearer(&request, DEVICE_PREFIX), path).await {
        Ok(device) => {
            request.extensions_mut().insert(device);
            next.run(request).await
        }
        Err(error) => {
            Metrics::count(&app.metrics.denied, "device");
            error.into_response()
        }
    }
}

async fn device_of(app: &Arc<App>, token: Option<String>, path: String) -> Answer<Device> {
    let wanted = || {
        ApiError::unauthorized("this needs 'Authorization: Bearer TOKEN' with the access token of an enrolled device")
    };
    let hash = digest(&token.ok_or_else(wanted)?);
    app.blocking(move |app| {
        let device = app.fleet.device_by_token(&hash)?.ok_or_else(wanted)?;
        if device.revoked.is_some() {
            if app.may_note(&device.id) {
                let event = serde_json::json!({ "code": "revoked", "device": device.id, "path": path });
                app.fleet.note(&Event::new("request refused", event))?;
            }
            return Err(ApiError::new(axum::http::StatusCode::FORBIDDEN, "this device was revoked"));
        }
        app.fleet.seen(&device.id, None)?;
        Ok(device)
    })
    .await
}
