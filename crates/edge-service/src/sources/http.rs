//! Samples over HTTP on loopback: answered when what became of them is durable.

use super::Intake;
use crate::config::{Http, Policy};
use crate::error::ServiceError;
use crate::metrics::Shed;
use crate::sample::Fate;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;
use std::sync::Arc;
use subrosa_fleet::messages::Problem;
use subrosa_fleet::{ResultId, SampleId};
use subrosa_input::Dataset;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use zeroize::Zeroizing;

/// Samples of one request at most.
const MAX_SAMPLES: usize = 256;

/// The endpoint.
pub(crate) struct HttpSource {
    intake: Intake,
    settings: Http,
    token: Zeroizing<String>,
    source: Arc<str>,
}

/// What became of one sample.
#[derive(Debug, Serialize)]
struct Answer {
    sample: SampleId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answers {
    samples: Vec<Answer>,
}

impl HttpSource {
    pub fn new(intake: Intake, settings: Http, token: Zeroizing<String>) -> Self {
        Self { intake, settings, token, source: "http".into() }
    }

    /// Serves until the agent ends.
    pub async fn run(self, listener: TcpListener) -> Result<(), ServiceError> {
        let stop = self.intake.stop.clone();
        let limit = DefaultBodyLimit::max(self.settings.max_body_bytes);
        let router = axum::Router::new().route("/samples", post(take)).layer(limit).with_state(Arc::new(self));
        axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .map_err(|e| ServiceError::System(format!("source.http: {e}")))
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(|v| v.as_bytes()).and_then(|v| v.strip_prefix(b"Bearer "));
        given.is_some_and(|given| given.ct_eq(self.token.as_bytes()).into())
    }
}

async fn take(State(source): State<Arc<HttpSource>>, headers: HeaderMap, body: Bytes) -> Response {
    if !source.allows(&headers) {
        return problem(StatusCode::UNAUTHORIZED, "Give the token of source.http as Authorization: Bearer TOKEN.");
    }
    let media = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let read = tokio::task::spawn_blocking(move || read(&media, &body)).await;
    let data = match read {
        Ok(Ok(data)) => data,
        Ok(Err(why)) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(_) => return problem(StatusCode::INTERNAL_SERVER_ERROR, "The samples cannot be read: internal error."),
    };
    if data.count > MAX_SAMPLES {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, &format!("Send at most {MAX_SAMPLES} samples in one request."));
    }
    let key = match headers.get("idempotency-key").map(|v| v.to_str().unwrap_or_default()) {
        Some(key) if !key.is_empty() && key.len() <= 200 => format!("key {key}"),
        Some(_) => {
            return problem(StatusCode::BAD_REQUEST, "An Idempotency-Key has 1 to 200 printable ASCII characters.");
        }
        None => match random() {
            Some(random) => random,
            None => return problem(StatusCode::INTERNAL_SERVER_ERROR, "The system gives no randomness."),
        },
    };
    if source.intake.gate.policy() != Policy::ShedOldest && source.intake.gate.is_full() {
        if source.intake.gate.policy() == Policy::ShedNewest {
            source.intake.metrics.shed(Shed::Newest, data.count as u64);
        }
        return busy("The queue is full: the backend has been away for too long. Try again later.");
    }
    let label = headers.get("x-label").and_then(|v| v.to_str().ok()).unwrap_or(&key).to_owned();
    let submitted = source.intake.submit_all(&source.source, &key, &label, &data);
    match tokio::time::timeout(source.settings.wait_seconds.0, submitted).await {
        Ok(Some(fates)) => answer(fates.into_iter().map(|(id, fate)| Answer::new(id, fate)).collect()),
        Ok(None) => busy("The agent ends."),
        Err(_) => {
            busy("No result within source.http.wait_seconds; what is not queued yet is not taken. Try again later.")
        }
    }
}

impl Answer {
    fn new(sample: SampleId, fate: Fate) -> Self {
        let (status, result, reason) = match fate {
            Fate::Queued(result) => ("queued", Some(result), None),
            Fate::Published => ("published", None, None),
            Fate::Repeated(result) => ("repeated", result, None),
            Fate::Rejected(reason) => ("rejected", None, Some(reason)),
            Fate::Shed | Fate::Dropped => ("shed", None, None),
        };
        Self { sample, status, result, reason }
    }
}

fn answer(samples: Vec<Answer>) -> Response {
    let any = |status: &str| samples.iter().any(|answer| answer.status == status);
    let code = match () {
        () if any("rejected") => StatusCode::UNPROCESSABLE_ENTITY,
        () if any("shed") => StatusCode::SERVICE_UNAVAILABLE,
        () => StatusCode::OK,
    };
    (code, Json(Answers { samples })).into_response()
}

/// The samples of a request's body.
fn read(media: &str, body: &[u8]) -> Result<Dataset, String> {
    let media = media.split(';').next().unwrap_or_default().trim();
    let read = |name: &str, body: &[u8]| {
        subrosa_input::read_bytes(name, body, Some(MAX_SAMPLES + 1)).map_err(|e| e.to_string())
    };
    match media {
        // One array, however it is broken into lines.
        "application/json" => {
            let value: serde_json::Value = serde_json::from_slice(body).map_err(|e| format!("It is no JSON: {e}."))?;
            read("request.ndjson", value.to_string().as_bytes())
        }
        "application/x-ndjson" | "application/jsonl" => read("request.ndjson", body),
        "text/csv" => read("request.csv", body),
        _ => read("request", body),
    }
}

fn random() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error").to_owned();
    let body = Problem { title, status: status.as_u16(), detail: detail.to_owned() };
    (status, [(CONTENT_TYPE, "application/problem+json")], Json(body)).into_response()
}

fn busy(detail: &str) -> Response {
    ([("retry-after", "1")], problem(StatusCode::SERVICE_UNAVAILABLE, detail)).into_response()
}
