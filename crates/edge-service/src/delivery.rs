//! Results on their way to the backend: in batches, at least once, until each has its receipt.

use crate::backend::{Backend, BackendError};
use crate::backoff::{Backoff, sleep};
use crate::config::{Config, Queue};
use crate::metrics::{Metrics, Part};
use crate::store::{Queued, Store};
use std::sync::Arc;
use std::time::Duration;
use subrosa_fleet::SignedResult;
use subrosa_fleet::messages::{Outcome, Receipts};
use tokio_util::sync::CancellationToken;

/// Longest time that a delivery goes on when the agent is to end.
const GRACE: Duration = Duration::from_secs(3);

/// Delivers what waits in the queue.
pub(crate) struct Delivery {
    backend: Backend,
    store: Store,
    limits: Queue,
    backoff: Backoff,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Delivery {
    pub fn new(
        config: &Config,
        backend: Backend,
        store: Store,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let backoff = Backoff::new(config.backend.retry_max_seconds.0);
        Self { backend, store, limits: config.queue, backoff, metrics, stop }
    }

    /// Runs until the agent ends.
    pub async fn run(mut self) {
        let mut size = self.limits.batch;
        while !self.stop.is_cancelled() {
            let changed = self.store.changed.notified();
            let Some(batch) = self.store.oldest(size, self.limits.batch_bytes).await else { return };
            if batch.is_empty() {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = changed => {}
                }
                continue;
            }
            match self.deliver(&batch).await {
                None => return,
                Some(Ok(receipts)) => {
                    if self.settle(&batch, receipts).await.is_none() {
                        return;
                    }
                    self.metrics.well(Part::Delivery);
                    self.backoff.reset();
                    size = (size * 2).min(self.limits.batch);
                }
                // Something in the batch is not taken: find out what.
                Some(Err(error)) if matches!(error.status(), Some(400 | 413 | 422)) => {
                    if batch.len() > 1 {
                        size = batch.len() / 2;
                        continue;
                    }
                    let reason = Outcome::Refused { reason: error.to_string() };
                    if self.receive(&batch, vec![reason]).await.is_none() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    self.metrics.delivery_failures.add(1);
                    let wait = self.backoff.next(error.retry_after());
                    self.metrics.trouble(Part::Delivery, error.to_string());
                    if !sleep(&self.stop, wait).await {
                        return;
                    }
                }
            }
        }
    }

    /// The backend's answer; `None` if the agent is to end before it comes.
    async fn deliver(&self, batch: &[Queued]) -> Option<Result<Receipts, BackendError>> {
        let body = batch.iter().flat_map(|queued| queued.record.iter().copied()).collect();
        let answer = tokio::select! {
            answer = self.backend.deliver(body) => answer,
            () = async { self.stop.cancelled().await; tokio::time::sleep(GRACE).await } => return None,
        };
        Some(answer.and_then(|receipts| {
            let fits = receipts.receipts.len() == batch.len()
                && receipts.receipts.iter().zip(batch).all(|(receipt, queued)| receipt.result == queued.result);
            if fits {
                Ok(receipts)
            } else {
                Err(BackendError::Answer("its receipts are not those of the results".into()))
            }
        }))
    }

    async fn settle(&self, batch: &[Queued], receipts: Receipts) -> Option<()> {
        self.receive(batch, receipts.receipts.into_iter().map(|r| r.outcome).collect()).await
    }

    /// Takes results with their receipts out of the queue; all outcomes are final.
    async fn receive(&self, batch: &[Queued], outcomes: Vec<Outcome>) -> Option<()> {
        self.store.settle(batch.iter().map(|queued| queued.sequence).collect()).await?;
        for (queued, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Outcome::Stored => self.metrics.stored.add(1),
                Outcome::Duplicate => self.metrics.duplicate.add(1),
                Outcome::Refused { reason } => {
                    self.metrics.refused.add(1);
                    let label = SignedResult::decode(&queued.record).map(|r| r.statement.label).unwrap_or_default();
                    let (result, sequence) = (queued.result, queued.sequence);
                    tracing::warn!(%result, sequence, label, "the backend refuses a result for good: {reason}");
                }
            }
        }
        Some(())
    }
}
