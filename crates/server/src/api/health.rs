//! Whether the process lives and can work, and its metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::error::Answer;
use crate::metrics::State as Label;
use crate::state::App;

pub(super) async fn alive() -> &'static str {
    "alive\n"
}

/// Database and store answer.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Answer<&'static str> {
    app.blocking(|app| Ok(app.fleet.ping()?)).await?;
    app.store.answers().await?;
    Ok("ready\n")
}

/// The process's own counters, and the state of the registry that all processes share.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Answer<Response> {
    let text = app
        .blocking(|app| {
            let m = &app.metrics;
            for state in ["stored", "released", "refused"] {
                m.results_in_state.get_or_create(&Label { state: state.into() }).set(0);
            }
            for (state, count) in app.fleet.result_counts()? {
                m.results_in_state.get_or_create(&Label { state }).set(count as i64);
            }
            for state in ["queued", "running", "done", "failed"] {
                m.jobs_in_state.get_or_create(&Label { state: state.into() }).set(0);
            }
            for (state, count) in app.fleet.job_counts()? {
                m.jobs_in_state.get_or_create(&Label { state }).set(count as i64);
            }
            m.devices.set(app.fleet.devices()?.iter().filter(|d| d.revoked.is_none()).count() as i64);
            m.audit_entries.set(app.fleet.audit_head()? as i64);
            m.label_alarms.set(app.fleet.open_alarms()? as i64);
            Ok(m.text())
        })
        .await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
