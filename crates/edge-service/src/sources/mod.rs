//! Data Stream Acquisition as a service: where samples come from.

mod camera;
mod directory;
mod http;
mod message;
mod mqtt;
mod nats;
mod stdin;

pub(crate) use camera::CameraSource;
pub(crate) use directory::DirectorySource;
pub(crate) use http::HttpSource;
pub(crate) use mqtt::MqttSource;
pub(crate) use nats::NatsSource;
pub(crate) use stdin::StdinSource;

use crate::metrics::Metrics;
use crate::processing::Gate;
use crate::sample::{About, Fate, Sample};
use crate::store::Store;
use std::sync::Arc;
use subrosa_fleet::SampleId;
use subrosa_input::Dataset;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What every source hands its samples to.
#[derive(Clone)]
pub(crate) struct Intake {
    pub samples: mpsc::Sender<Sample>,
    pub store: Store,
    pub gate: Gate,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

impl Intake {
    /// Hands in a sample, waiting until it is accepted; what is returned tells what became of it. `None` while the agent ends.
    pub async fn hand_in(&self, about: About, data: Dataset) -> Option<oneshot::Receiver<Fate>> {
        let (done, fate) = oneshot::channel();
        let sample = Sample { about, data, done, settled: None };
        tokio::select! {
            () = self.stop.cancelled() => None,
            sent = self.samples.send(sample) => sent.ok().map(|()| fate),
        }
    }

    /// Hands in a sample that was not seen before and waits until what became of it is durable. `None` while the agent ends.
    pub async fn submit(&self, about: About, data: Dataset) -> Option<Fate> {
        let seen = self.store.seen(vec![about.id]).await?;
        if let Some(seen) = seen.into_iter().flatten().next() {
            self.metrics.repeated.add(1);
            return Some(Fate::Repeated(seen.result));
        }
        self.hand_in(about, data).await?.await.ok()
    }

    /// All samples of one message or request, at once.
    pub async fn submit_all(
        &self,
        source: &Arc<str>,
        position: &str,
        label: &str,
        data: &Dataset,
    ) -> Option<Vec<(SampleId, Fate)>> {
        let parts = (0..data.count).filter_map(|i| {
            let label = if data.count == 1 { label.to_owned() } else { format!("{label} #{i}") };
            let about = About::new(source, &format!("{position} {i}"), &label);
            let (id, sample) = (about.id, data.sample(i)?);
            Some(async move { Some((id, self.submit(about, sample).await?)) })
        });
        futures_util::future::join_all(parts).await.into_iter().collect()
    }

    /// Waits until all results are delivered, or the agent ends.
    pub async fn drained(&self) {
        loop {
            let changed = self.store.changed.notified();
            if self.metrics.queued.get() == 0 || self.stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = changed => {}
            }
        }
    }
}
