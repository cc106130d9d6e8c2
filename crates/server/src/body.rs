//! Bodies that clients send, within bounds of size, time and memory.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Answer, ApiError};
use crate::state::App;

/// A body in memory, and the right to have it there.
pub(crate) struct Held {
    pub bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

/// Refuses at once what says that it is too long.
fn announced(headers: &HeaderMap, limit: u64) -> Answer<Option<u64>> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit) { Err(ApiError::too_large(limit)) } else { Ok(length) }
}

/// The next piece of a body, within the time for it.
pub(crate) async fn piece(
    app: &App,
    pieces: &mut (impl StreamExt<Item = Result<Bytes, axum::Error>> + Unpin),
) -> Answer<Option<Bytes>> {
    let next = tokio::time::timeout(app.limits.body_timeout, pieces.next()).await;
    let next =
        next.map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the rest of the body did not come in time"))?;
    next.transpose().map_err(|_| ApiError::bad("the body broke off"))
}

/// Takes a body into memory, once there is room for it.
pub(crate) async fn held(app: &Arc<App>, headers: &HeaderMap, body: Body, limit: u64) -> Answer<Held> {
    let room = announced(headers, limit)?.unwrap_or(limit);
    let kilobytes = u32::try_from(room.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
    let wait = Arc::clone(&app.memory).acquire_many_owned(kilobytes);
    let memory = tokio::time::timeout(app.limits.body_timeout, wait)
        .await
        .map_err(|_| ApiError::later("no memory for the body of a request"))?
        .map_err(ApiError::inside)?;
    let mut bytes = Vec::with_capacity(usize::try_from(room.min(1 << 20)).unwrap_or(0));
    let mut pieces = body.into_data_stream();
    while let Some(piece) = piece(app, &mut pieces).await? {
        if (bytes.len() + piece.len()) as u64 > room {
            return Err(ApiError::too_large(limit));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Held { bytes, _memory: memory })
}

/// A JSON body.
pub(crate) async fn json<T: DeserializeOwned>(app: &Arc<App>, headers: &HeaderMap, body: Body) -> Answer<T> {
    let held = held(app, headers, body, app.limits.json_bytes).await?;
    serde_json::from_slice(&held.bytes)
        .map_err(|e| ApiError::bad(format!("the body is not the JSON that is wanted: {e}")))
}

/// Refuses an upload at once that says that it is too long.
pub(crate) fn upload_fits(app: &App, headers: &HeaderMap) -> Answer<()> {
    announced(headers, app.limits.upload_bytes).map(|_| ())
}
