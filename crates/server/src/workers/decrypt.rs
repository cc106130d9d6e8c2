//! Decrypt workers: claim stored results, examine them, write what the policy releases.
//!
//! A claim is a lease in the database, so that any number of processes share the work and a result whose worker vanished is taken up
//! again. A result is decided in one transaction together with its usage and its audit entry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use subrosa_fleet::SignedResult;
use subrosa_owner::release::{Refusal, Released};
use subrosa_program::container::Signer;
use subrosa_registry::fleet::{Claimed, Decision, Usage};

use crate::error::{Answer, ApiError};
use crate::metrics::Metrics;
use crate::state::App;
use crate::stop::Stop;

/// Results that are claimed at once.
const BATCH: u32 = 32;
/// How long a claim holds, milliseconds. A batch takes far less.
const LEASE: i64 = 120_000;
/// How often the database is asked when nobody said that something arrived: other processes receive results too.
const IDLE: Duration = Duration::from_millis(500);

/// Works until it is told to stop.
pub(crate) async fn run(app: Arc<App>, mut stop: Stop) {
    loop {
        let arrived = app.arrived.notified();
        match round(&app).await {
            Ok(0) => {}
            Ok(_) if stop.is_set() => return,
            Ok(_) => continue,
            Err(error) => tracing::error!(error = error.inside.as_deref().unwrap_or(&error.detail), "results wait"),
        }
        tokio::select! {
            () = arrived => {}
            () = tokio::time::sleep(IDLE) => {}
            () = stop.wait() => return,
        }
    }
}

/// Decides a batch; gives its size.
async fn round(app: &Arc<App>) -> Answer<usize> {
    let claimed = app.blocking(|app| Ok(app.fleet.claim(&app.worker, BATCH, LEASE)?)).await?;
    if claimed.is_empty() {
        return Ok(0);
    }
    let records = fetch(app, &claimed).await;
    app.blocking(move |app| {
        let count = claimed.len();
        let examined: Vec<(Claimed, Decision)> = claimed
            .into_iter()
            .zip(records)
            .map(|(claimed, record)| {
                let start = Instant::now();
                let decision = record.map_or(Decision::Later, |record| decide(app, &claimed, &record));
                app.metrics.decrypt_seconds.observe(start.elapsed().as_secs_f64());
                (claimed, decision)
            })
            .collect();
        let permit = |_: &str, usage: &Usage| app.policy.budget.permit(usage);
        let written = app.fleet.decide(&app.worker, &examined, &permit)?;
        for ((claimed, _), written) in examined.iter().zip(written) {
            let Some(written) = written else { continue };
            if let Decision::Release { .. } = written {
                app.labels.note(&claimed.model, &claimed.device);
            }
            let outcome = match &written {
                Decision::Release { .. } => "released",
                Decision::Refuse { code, .. } => code,
                Decision::Later => "later",
            };
            Metrics::count(&app.metrics.decided, outcome);
        }
        Ok(count)
    })
    .await
}

/// The records of claimed results; nothing where the store could not be read.
async fn fetch(app: &App, claimed: &[Claimed]) -> Vec<Option<Bytes>> {
    // One read for each object that several share.
    let mut spans: HashMap<&str, (u64, u64)> = HashMap::new();
    for c in claimed {
        if let Some(object) = &c.object {
            let span = spans.entry(object).or_insert((c.start, c.start + c.length));
            *span = (span.0.min(c.start), span.1.max(c.start + c.length));
        }
    }
    let mut read: HashMap<&str, (u64, Bytes)> = HashMap::new();
    for (object, (start, end)) in spans {
        match app.store.get_range(object, start..end).await {
            Ok(bytes) => {
                read.insert(object, (start, bytes));
            }
            Err(error) => tracing::error!(object, %error, "results cannot be read from the store"),
        }
    }
    let part = |c: &Claimed| {
        let (start, bytes) = read.get(c.object.as_deref()?)?;
        let from = usize::try_from(c.start - start).ok()?;
        let to = from.checked_add(usize::try_from(c.length).ok()?)?;
        (to <= bytes.len()).then(|| bytes.slice(from..to))
    };
    claimed.iter().map(part).collect()
}

/// What is to become of a result. What is wrong here and not with the result is tried later.
fn decide(app: &App, claimed: &Claimed, record: &[u8]) -> Decision {
    match examine(app, claimed, record) {
        Ok(Ok(released)) => released.decision(),
        Ok(Err(refusal)) => refusal.decision(),
        Err(error) => {
            tracing::error!(
                result = claimed.id,
                attempts = claimed.attempts,
                error = error.inside.as_deref().unwrap_or(&error.detail),
                "a result cannot be decrypted now"
            );
            Decision::Later
        }
    }
}

fn examine(app: &App, claimed: &Claimed, record: &[u8]) -> Answer<Result<Released, Refusal>> {
    if hex::encode(Sha256::digest(record)) != claimed.digest {
        // The store is not what the device signed for: what comes out would be refused, and wrongly counted against the device.
        return Err(ApiError::inside("its record in the store was changed"));
    }
    let result = match SignedResult::decode(record) {
        Ok(result) => result,
        Err(error) => return Ok(Err(Refusal::Form(error.to_string()))),
    };
    let Some(device) = app.fleet.device(&claimed.device)? else {
        return Ok(Err(Refusal::Unknown { device: claimed.device.clone() }));
    };
    if device.revoked.is_some() {
        return Ok(Err(Refusal::Revoked { device: claimed.device.clone() }));
    }
    let signer = Signer { public_key: device.key()? };
    Ok(app.agent(&claimed.model)?.examine(&signer, &result, &app.policy))
}
