//! What devices ask: `subrosa_fleet::messages` is the contract.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use subrosa_fleet::messages::{Deployment, Enrol, Enrolled, Receipts, Status};
use subrosa_registry::fleet::{Device, NewDevice, digest, new_token};

use super::{done, plain_name};
use crate::auth::{DEVICE_PREFIX, ENROL_PREFIX};
use crate::body;
use crate::error::{Answer, ApiError};
use crate::ingest;
use crate::state::{App, bundle_key};

/// Takes a device into the fleet; its one-time token is used up.
#[utoipa::path(post, path = "/device/enrol", tag = "device interface", request_body = serde_json::Value,
    responses((status = 201, body = serde_json::Value), (status = 403), (status = 409)))]
pub(super) async fn enrol(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answer<Response> {
    let wanted: Enrol = body::json_of_anybody(&app, &headers, body).await?;
    plain_name("name", &wanted.name)?;
    let key =
        hex::decode(&wanted.public_key).ok().filter(|key| key.len() == 32 && hex::encode(key) == wanted.public_key);
    if key.is_none() {
        return Err(ApiError::bad("public_key: 64 lower-case hex digits"));
    }
    if wanted.token.len() > 256 || !wanted.token.starts_with(ENROL_PREFIX) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "this is not an enrolment token: ask the owner for one"));
    }
    let enrolled = app
        .blocking(move |app| {
            let access = new_token(DEVICE_PREFIX)?;
            let (token_hash, access_hash) = (digest(&wanted.token), digest(&access));
            let new = NewDevice { name: &wanted.name, public_key: &wanted.public_key, access_hash: &access_hash };
            let device = app.fleet.enrol(&token_hash, new)?;
            let owner_public_key = hex::encode(app.identity.signer().public_key);
            Ok(Enrolled { device: device.id, group: device.group, access_token: access.to_string(), owner_public_key })
        })
        .await?;
    Ok((StatusCode::CREATED, Json(enrolled)).into_response())
}

/// What this device is to run; 204: nothing.
#[utoipa::path(get, path = "/device/deployment", tag = "device interface", security(("device" = [])),
    responses((status = 200, body = serde_json::Value), (status = 204)))]
pub(super) async fn deployment(State(app): State<Arc<App>>, Extension(device): Extension<Device>) -> Answer<Response> {
    let found = app
        .blocking(move |app| {
            let Some(effective) = app.fleet.effective(&device)? else { return Ok(None) };
            let record = app.registry().get(&effective.model)?;
            Ok(record.retired_unix.is_none().then_some((effective, record)))
        })
        .await?;
    let Some((effective, record)) = found else { return Ok(done()) };
    let bundle = app.bundle(&effective.model).await?;
    let deployment = Deployment {
        generation: effective.generation,
        model: effective.model,
        name: record.name,
        version: record.version,
        sha256: bundle.sha256,
        bytes: bundle.bytes,
    };
    Ok(Json(deployment).into_response())
}

/// A bundle's bytes, or a range of them.
#[utoipa::path(get, path = "/device/bundles/{sha256}", tag = "device interface", security(("device" = [])),
    params(("sha256" = String, Path), ("range" = Option<String>, Header, description = "bytes=FROM- or bytes=FROM-TO")),
    responses((status = 200, content_type = "application/octet-stream"), (status = 206), (status = 404), (status = 416)))]
pub(super) async fn bundle(
    State(app): State<Arc<App>>,
    Extension(device): Extension<Device>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let bundle = app
        .blocking(move |app| {
            let unknown = || ApiError::missing("there is no such bundle for this device");
            let bundle = app.fleet.bundle_by_hash(&sha256)?.ok_or_else(unknown)?;
            if app.fleet.was_deployed(&device, &bundle.model)? { Ok(bundle) } else { Err(unknown()) }
        })
        .await?;
    let range = headers.get(header::RANGE).map(|value| range(value, bundle.bytes)).transpose();
    let Ok(range) = range else {
        let mut response =
            ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "the range is not within the bundle").into_response();
        content_range(&mut response, &format!("bytes */{}", bundle.bytes));
        return Ok(response);
    };
    // What is not one plain range is answered with all of it, as RFC 9110 permits.
    let range = range.flatten();
    let (start, end) = range.unwrap_or((0, bundle.bytes));
    let pieces = app.store.stream(&bundle_key(&bundle.sha256), start..end).await?;
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", bundle.sha256)) {
        headers.insert(header::ETAG, tag);
    }
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        content_range(&mut response, &format!("bytes {start}-{}/{}", end - 1, bundle.bytes));
    }
    Ok(response)
}

fn content_range(response: &mut Response, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
}

/// First byte and the byte behind the last of a plain range; nothing if it is another kind, an error if it lies outside.
fn range(value: &HeaderValue, length: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(text) = value.to_str().ok().and_then(|text| text.strip_prefix("bytes=")) else { return Ok(None) };
    let digits = |n: &str| n.bytes().all(|c| c.is_ascii_digit());
    let Some((first, last)) = text.split_once('-').filter(|(a, b)| digits(a) && digits(b)) else { return Ok(None) };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(length)),
        (Ok(start), Err(_)) if last.is_empty() => (start, length),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => (length.saturating_sub(count), length),
        _ => return Ok(None),
    };
    if start < end { Ok(Some((start, end))) } else { Err(()) }
}

/// Takes a batch of signed results and says for each what became of it.
#[utoipa::path(post, path = "/device/results", tag = "device interface", security(("device" = [])),
    request_body(content_type = "application/vnd.subrosa.results"),
    responses((status = 200, body = serde_json::Value), (status = 400), (status = 413), (status = 503)))]
pub(super) async fn results(
    State(app): State<Arc<App>>,
    Extension(device): Extension<Device>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Receipts>> {
    let held = body::held(&app, &headers, body, app.limits.batch_bytes).await?;
    ingest::batch(&app, device, held).await.map(|receipts| Json(Receipts { receipts }))
}

/// Takes a device's status.
#[utoipa::path(post, path = "/device/status", tag = "device interface", security(("device" = [])),
    request_body = serde_json::Value, responses((status = 204)))]
pub(super) async fn status(
    State(app): State<Arc<App>>,
    Extension(device): Extension<Device>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let status: Status = body::json(&app, &headers, body).await?;
    app.blocking(move |app| {
        let status = serde_json::to_value(&status).map_err(ApiError::inside)?;
        Ok(app.fleet.seen(&device.id, Some(&status))?)
    })
    .await?;
    Ok(done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let read = |text: &str| range(&HeaderValue::from_str(text).unwrap(), 100);
        assert_eq!(read("bytes=0-9"), Ok(Some((0, 10))));
        assert_eq!(read("bytes=90-"), Ok(Some((90, 100))));
        assert_eq!(read("bytes=90-999"), Ok(Some((90, 100))));
        assert_eq!(read("bytes=-10"), Ok(Some((90, 100))));
        assert_eq!(read("bytes=-1000"), Ok(Some((0, 100))));
        assert_eq!(read("bytes=100-"), Err(()));
        assert_eq!(read("bytes=99-18446744073709551615"), Ok(Some((99, 100))));
        for other in ["bytes=5-4", "bytes=0-1,5-6", "bytes=-0", "items=0-1", "bytes=", "bytes=-", "bytes=+1-2", "x"] {
            assert!(!matches!(read(other), Ok(Some(_))), "{other}");
        }
    }
}
