//! The HTTP interface: who may ask what. Its description is made from the handlers.

mod alarms;
mod audit;
pub(crate) mod deployments;
mod device;
mod devices;
mod health;
mod jobs;
pub(crate) mod models;
mod results;
pub(crate) mod tokens;
pub(crate) mod uploads;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth;
use crate::console::{self, Console};
use crate::error::ApiError;
use crate::metrics::Route;
use crate::state::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Subrosa backend",
        description = "Protected networks, devices, deployments and decrypted results. Errors are application/problem+json (RFC 9457).",
    ),
    modifiers(&Schemes),
)]
struct Description;

struct Schemes;

impl utoipa::Modify for Schemes {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = |what: &str| {
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(what)).build())
        };
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("owner", bearer("a token that 'subrosa-serve token new' made"));
        components.add_security_scheme("device", bearer("the access token of an enrolled device"));
    }
}

/// Every route and its description.
fn described(app: &Arc<App>) -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    let owner = OpenApiRouter::new()
        .routes(routes!(uploads::upload))
        .routes(routes!(uploads::inspect))
        .routes(routes!(uploads::remove))
        .routes(routes!(models::list, models::protect))
        .routes(routes!(models::show))
        .routes(routes!(models::retire))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(tokens::list, tokens::make))
        .routes(routes!(tokens::withdraw))
        .routes(routes!(devices::list))
        .routes(routes!(devices::show))
        .routes(routes!(devices::revoke))
        .routes(routes!(devices::readmit))
        .routes(routes!(deployments::list, deployments::roll_out))
        .routes(routes!(deployments::roll_back))
        .routes(routes!(results::list))
        .routes(routes!(results::show))
        .routes(routes!(alarms::list))
        .routes(routes!(alarms::acknowledge))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .layer(middleware::from_fn_with_state(Arc::clone(app), auth::owner));
    let device = OpenApiRouter::new()
        .routes(routes!(device::deployment))
        .routes(routes!(device::bundle))
        .routes(routes!(device::results))
        .routes(routes!(device::status))
        .layer(middleware::from_fn_with_state(Arc::clone(app), auth::device));
    let open = OpenApiRouter::new().routes(routes!(device::enrol));
    let (api, description) = OpenApiRouter::with_openapi(Description::openapi())
        .nest("/api/v1", owner.merge(device).merge(open))
        .split_for_parts();
    (api, description)
}

/// All of the HTTP interface.
pub(crate) fn router(app: Arc<App>, console: Arc<Console>) -> Router {
    let (api, description) = described(&app);
    let guarded = Router::new()
        .route("/api/v1/openapi.json", get(move || std::future::ready(Json(description))))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), auth::owner));
    let mut metrics = Router::new().route("/metrics", get(health::metrics));
    if !app.open_metrics {
        metrics = metrics.route_layer(middleware::from_fn_with_state(Arc::clone(&app), auth::owner));
    }
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .merge(metrics)
        .merge(guarded)
        .merge(console::router(console))
        .merge(api)
        .fallback(|| async { ApiError::missing("there is no such route: /api/v1/openapi.json lists what there is") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not take this method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observed))
        .with_state(app)
}

/// Counts and logs each request, and sets the headers of each answer.
async fn observed(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().to_string();
    // The pattern, so that what a client invents makes no new series and no log entry holds what it sends.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"].contains(&method.as_str());
    let method = if known { method } else { "other".to_owned() };
    let mut response = next.run(request).await;
    let status = response.status();
    let seconds = start.elapsed().as_secs_f64();
    app.metrics.latency.observe(seconds);
    tracing::info!(method, route, status = status.as_u16(), seconds, "request");
    app.metrics.requests.get_or_create(&Route { method, route, status: status.as_u16() }).inc();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// A page's bound: 1 to 1000.
fn page_size(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(100);
    if (1..=1000).contains(&limit) { Ok(limit) } else { Err(ApiError::bad("limit: 1 to 1000")) }
}

/// A name of a group or device: 1 to 64 letters, digits, '.', '_', '-'.
fn plain_name(what: &str, name: &str) -> Result<(), ApiError> {
    subrosa_registry::validate_name(name)
        .map_err(|_| ApiError::bad(format!("{what}: use 1 to 64 letters, digits, '.', '_' and '-'")))
}

/// What a route answers that has nothing to say.
fn done() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
