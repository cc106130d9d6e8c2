//! Files that the owner uploads for a job: networks, calibration samples, their labels.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use subrosa_owner::Inspection;
use subrosa_registry::fleet::UploadRow;
use subrosa_registry::time::now;
use tokio::io::AsyncWriteExt;

use super::{done, plain_name};
use crate::body;
use crate::error::{Answer, ApiError};
use crate::state::{App, upload_key};
use crate::workers::housekeeping::remove_upload;

/// Names the file.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    /// Its name; the ending says what it is (.onnx, .npy, .csv, ...).
    name: String,
}

/// Uploads a file. It is kept for a day, or until the job that takes it has ended.
#[utoipa::path(post, path = "/uploads", tag = "models", security(("owner" = [])), params(Named),
    request_body(content_type = "application/octet-stream"),
    responses((status = 201, body = serde_json::Value), (status = 413)))]
pub(super) async fn upload(
    State(app): State<Arc<App>>,
    Query(named): Query<Named>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let limit = app.limits.upload_bytes;
    let pieces = body.into_data_stream();
    if body::announced(&headers, limit).is_err() {
        return Err(body::too_large(pieces, limit).await);
    }
    let upload = keep(&app, named.name, pieces).await?;
    Ok((StatusCode::CREATED, Json(json!(upload))).into_response())
}

/// Keeps what is uploaded, piece by piece, under a name.
pub(crate) async fn keep<E>(
    app: &Arc<App>,
    name: String,
    mut pieces: impl StreamExt<Item = Result<Bytes, E>> + Unpin,
) -> Answer<UploadRow> {
    plain_name("name", &name)?;
    if name.starts_with('.') {
        return Err(ApiError::bad("name: it begins with a letter or digit"));
    }
    let limit = app.limits.upload_bytes;
    let file = tempfile::NamedTempFile::new_in(app.owner.home()).map_err(ApiError::inside)?;
    let mut out = tokio::fs::File::from_std(file.reopen().map_err(ApiError::inside)?);
    let mut hash = Sha256::new();
    let mut bytes = 0;
    while let Some(piece) = body::piece(app, &mut pieces).await? {
        bytes += piece.len() as u64;
        if bytes > limit {
            return Err(body::too_large(pieces, limit).await);
        }
        hash.update(&piece);
        out.write_all(&piece).await.map_err(ApiError::later)?;
    }
    out.flush().await.map_err(ApiError::later)?;
    if bytes == 0 {
        return Err(ApiError::bad("the body is empty: send the file's bytes"));
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(ApiError::inside)?;
    let sha256 = hex::encode(hash.finalize());
    let upload = UploadRow { id: hex::encode(id), name, bytes, sha256, created: now() };
    app.store.put_file(&upload_key(&upload.id), file.path()).await?;
    let row = upload.clone();
    app.blocking(move |app| Ok(app.fleet.add_upload(&row)?)).await?;
    Ok(upload)
}

/// What an uploaded network is made of, and what of it can be protected.
#[utoipa::path(get, path = "/uploads/{id}/network", tag = "models", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 400), (status = 404)))]
pub(super) async fn inspect(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    let row = app.blocking(move |app| Ok(app.fleet.upload(&id)?)).await?.ok_or_else(unknown)?;
    let onnx = app.store.get(&upload_key(&row.id)).await?;
    let found = app.blocking(move |_| Ok(Inspection::of(&onnx)?)).await?;
    Ok(Json(json!(found)).into_response())
}

/// Removes an upload.
#[utoipa::path(delete, path = "/uploads/{id}", tag = "models", security(("owner" = [])), params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(super) async fn remove(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Response> {
    if remove_upload(&app, &id).await? { Ok(done()) } else { Err(unknown()) }
}

pub(super) fn unknown() -> ApiError {
    ApiError::missing("there is no upload with this id: POST /api/v1/uploads makes one, and it is kept for a day")
}
