//! How the agent fares: metrics and status on loopback, status reports to the backend.

use crate::backend::Backend;
use crate::backoff::jittered;
use crate::error::ServiceError;
use crate::metrics::Metrics;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves `/metrics` and `/status` until the agent ends.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    policy: &'static str,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let text = move |State(metrics): State<Arc<Metrics>>| async move {
        ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.text(policy)).into_response()
    };
    let status = |State(metrics): State<Arc<Metrics>>| async move { Json(metrics.status()) };
    let router = axum::Router::new().route("/metrics", get(text)).route("/status", get(status)).with_state(metrics);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|e| ServiceError::System(format!("metrics.listen: {e}")))
}

/// Reports to the backend now and then, until the agent ends. A report that is lost is made up for by the next.
pub(crate) async fn report(backend: Backend, metrics: Arc<Metrics>, every: Duration, stop: CancellationToken) {
    loop {
        let wait = jittered(every, 0.2);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let status = metrics.status();
        let sent = tokio::select! {
            () = stop.cancelled() => return,
            sent = backend.status(&status) => sent,
        };
        if let Err(error) = sent {
            tracing::debug!("status report: {error}");
        }
    }
}
