//! Bodies that clients send, within bounds of size, time and memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Answer, ApiError};
use crate::state::App;

/// What is read of a body that is refused.
const LINGER_BYTES: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(2);
/// Bytes a second that a client must send on average to keep its place in memory, after the time for one piece.
const SLOWEST: u64 = 16 << 10;

/// A body in memory, and the right to have it there.
pub(crate) struct Held {
    pub bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

/// Refuses at once what says that it is too long.
pub(crate) fn announced(headers: &HeaderMap, limit: u64) -> Answer<Option<u64>> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit) { Err(ApiError::too_large(limit)) } else { Ok(length) }
}

/// The next piece of a body, within the time for it.
pub(crate) async fn piece<E>(
    app: &App,
    pieces: &mut (impl StreamExt<Item = Result<Bytes, E>> + Unpin),
) -> Answer<Option<Bytes>> {
    let next = tokio::time::timeout(app.limits.body_timeout, pieces.next()).await;
    next.map_err(|_| late())?.transpose().map_err(|_| ApiError::bad("the body broke off"))
}

fn late() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "the rest of the body did not come in time")
}

/// Takes a body into memory, once there is room for it.
pub(crate) async fn held(app: &Arc<App>, headers: &HeaderMap, body: Body, limit: u64) -> Answer<Held> {
    let mut pieces = body.into_data_stream();
    let Ok(length) = announced(headers, limit) else { return Err(too_large(pieces, limit).await) };
    let room = length.unwrap_or(limit);
    let kilobytes = u32::try_from(room.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
    let wait = Arc::clone(&app.memory).acquire_many_owned(kilobytes);
    let memory = tokio::time::timeout(app.limits.body_timeout, wait)
        .await
        .map_err(|_| ApiError::later("no memory for the body of a request"))?
        .map_err(ApiError::inside)?;
    let mut bytes = Vec::with_capacity(usize::try_from(room.min(1 << 20)).unwrap_or(0));
    let start = Instant::now();
    while let Some(piece) = piece(app, &mut pieces).await? {
        // One that sends a byte now and then does not keep others out for ever.
        if start.elapsed() > app.limits.body_timeout + Duration::from_secs(bytes.len() as u64 / SLOWEST) {
            return Err(late());
        }
        if (bytes.len() + piece.len()) as u64 > room {
            return Err(too_large(pieces, limit).await);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Held { bytes, _memory: memory })
}

/// The refusal of a body that is too long. Some of it is read first: a client that is still sending would not see the answer.
pub(crate) async fn too_large<E>(body: impl StreamExt<Item = Result<Bytes, E>> + Unpin, limit: u64) -> ApiError {
    let mut body = body;
    linger(async |left| {
        while let Some(Ok(piece)) = body.next().await {
            *left = left.saturating_sub(piece.len());
            if *left == 0 {
                break;
            }
        }
    })
    .await;
    ApiError::too_large(limit)
}

/// Has something read on for a while, at most as many bytes as it is told.
pub(crate) async fn linger(read: impl AsyncFnOnce(&mut usize)) {
    let mut left = LINGER_BYTES;
    // Whether it came to its end makes no difference.
    let _ = tokio::time::timeout(LINGER, read(&mut left)).await;
}

/// A JSON body.
pub(crate) async fn json<T: DeserializeOwned>(app: &Arc<App>, headers: &HeaderMap, body: Body) -> Answer<T> {
    json_within(app, headers, body, app.limits.json_bytes).await
}

/// A JSON body of somebody who is not known yet, who gets little memory.
pub(crate) async fn json_of_anybody<T: DeserializeOwned>(app: &Arc<App>, headers: &HeaderMap, body: Body) -> Answer<T> {
    json_within(app, headers, body, app.limits.open_bytes).await
}

async fn json_within<T: DeserializeOwned>(app: &Arc<App>, headers: &HeaderMap, body: Body, limit: u64) -> Answer<T> {
    let held = held(app, headers, body, limit).await?;
    serde_json::from_slice(&held.bytes)
        .map_err(|e| ApiError::bad(format!("the body is not the JSON that is wanted: {e}")))
}
