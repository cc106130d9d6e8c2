//! Removes what is no longer needed: ciphertexts of decided results, uploads that no job took, counts of labels.

use std::sync::Arc;
use std::time::Duration;

use subrosa_registry::time::now;

use crate::error::Answer;
use crate::state::App;
use crate::stop::Stop;
use crate::workers::watch::DAY;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(300);
/// How long an upload waits for a job, milliseconds.
const UPLOADS: i64 = 24 * 3_600_000;

/// For how many days it is kept how devices were answered.
const LABEL_DAYS: i64 = 30;

pub(crate) async fn run(app: Arc<App>, keep: Duration, mut stop: Stop) {
    loop {
        if let Err(error) = round(&app, keep).await {
            tracing::warn!(error = error.inside.as_deref().unwrap_or(&error.detail), "housekeeping failed");
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.wait() => return,
        }
    }
}

async fn round(app: &Arc<App>, keep: Duration) -> Answer<()> {
    let before = now() - i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    // The rows first: what a crash leaves is an object that nobody refers to.
    let objects = app.blocking(move |app| Ok(app.fleet.release_objects(before, 1000)?)).await?;
    for object in &objects {
        app.store.remove(object).await?;
    }
    let uploads = app.blocking(|app| Ok(app.fleet.uploads_before(now() - UPLOADS)?)).await?;
    for upload in &uploads {
        remove_upload(app, &upload.id).await?;
    }
    // Alarms stay; the counts behind them are of no use after some days.
    app.blocking(|app| Ok(app.fleet.forget_labels_before(now() / DAY - LABEL_DAYS)?)).await?;
    if !objects.is_empty() || !uploads.is_empty() {
        tracing::info!(results = objects.len(), uploads = uploads.len(), "removed what is no longer needed");
    }
    Ok(())
}

/// Removes an upload's row and bytes; says whether it was known.
pub(crate) async fn remove_upload(app: &Arc<App>, id: &str) -> Answer<bool> {
    let row = id.to_owned();
    let known = app.blocking(move |app| Ok(app.fleet.remove_upload(&row)?)).await?;
    if known {
        app.store.remove(&crate::state::upload_key(id)).await?;
    }
    Ok(known)
}
