//! The console: pages for the owner's browser, made on the server, with a few lines of script that keep them up to date.
//!
//! Everything but the login and the assets wants a session (`session`). Pages hold no secret; names are escaped by the templates, and the
//! policy for content lets no script run but the one file.

mod chart;
mod live;
mod login;
mod pages;
mod session;
mod text;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::html;
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::state::App;
use crate::stop::Stop;

/// What all pages share.
pub(crate) struct Console {
    app: Arc<App>,
    /// Whether this process ends TLS itself.
    tls: bool,
    stop: Stop,
    attempts: login::Attempts,
    /// Pages that may be kept up to date.
    streams: Arc<Semaphore>,
}

impl Console {
    pub fn new(app: Arc<App>, tls: bool, stop: Stop) -> Self {
        let streams = Arc::new(Semaphore::new(app.limits.live_pages));
        Self { app, tls, stop, attempts: login::Attempts::default(), streams }
    }
}

/// A page that cannot be shown.
#[derive(Debug)]
struct Problem(ApiError);

type Shown<T> = Result<T, Problem>;

impl<E: Into<ApiError>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(error) = self;
        if let Some(inside) = &error.inside {
            tracing::error!(status = error.status.as_u16(), error = %inside, "a page failed");
        }
        let title = error.status.canonical_reason().unwrap_or("Error");
        let body = html! {
            div.card.notice.bad {
                h1 { (title) }
                p role="alert" { (error.detail) }
                p { a href="/console" { "To the console" } }
            }
        };
        let mut response = (error.status, pages::bare(title, &body)).into_response();
        if let Some(seconds) = error.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The console's routes.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(console: Arc<Console>) -> Router<S> {
    let pages = Router::new()
        .route("/console", get(|| async { Redirect::to("/console/models") }))
        .route("/console/logout", post(login::logout))
        .route("/console/models", get(pages::models::list))
        .route("/console/models/{id}", get(pages::models::show))
        .route("/console/models/{id}/retire", post(pages::models::retire))
        .route("/console/protect", get(pages::protect::show).post(pages::protect::protect))
        .route("/console/devices", get(pages::devices::show))
        .route("/console/devices/{id}/revoke", post(pages::devices::revoke))
        .route("/console/devices/{id}/readmit", post(pages::devices::readmit))
        .route("/console/devices/rollout", post(pages::deployments::roll_out))
        .route("/console/devices/rollback", post(pages::deployments::roll_back))
        .route("/console/devices/tokens", post(pages::tokens::make))
        .route("/console/devices/tokens/{id}/withdraw", post(pages::tokens::withdraw))
        .route("/console/results", get(pages::results::show))
        .route("/console/alarms", get(pages::alarms::show))
        .route("/console/alarms/{id}/acknowledge", post(pages::alarms::acknowledge))
        .route("/console/audit", get(pages::audit::show))
        .route("/console/audit/verify", get(pages::audit::verify))
        .route("/console/events/{page}", get(live::events))
        // Uploads are bounded piece by piece.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&console), session::signed_in));
    let open = Router::new()
        .route("/", get(|| async { Redirect::to("/console") }))
        .route("/console/login", get(login::show).post(login::login))
        .route("/console/assets/style.css", get(|| asset("text/css; charset=utf-8", include_str!("console/style.css"))))
        .route(
            "/console/assets/console.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("console/console.js"))),
        )
        .route("/console/assets/icon.svg", get(|| asset("image/svg+xml", include_str!("console/icon.svg"))));
    pages.merge(open).layer(middleware::from_fn_with_state(Arc::clone(&console), guarded)).with_state(console)
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

/// Only what is served here is loaded, only the one script runs, nobody frames a page.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Refuses what another site had a browser send, and sets the headers of pages.
async fn guarded(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let mut response = if request.method().is_safe() || session::same_origin(&console, request.headers()) {
        next.run(request).await
    } else {
        let refused = "this was not sent from the console's own pages: open the console and do it there";
        Problem(ApiError::new(StatusCode::FORBIDDEN, refused)).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        // With none at all, browsers would not say from where a form is sent.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
