//! The acquirer: samples go into the work queue instead of being evaluated here.

use super::{headers, subject};
use crate::backoff::{Backoff, sleep};
use crate::config::{Acquirer, Policy, Queue};
use crate::metrics::{Metrics, Part};
use crate::nats::jetstream;
use crate::sample::Sample;
use crate::store::{Finish, Outcome, Store};
use async_nats::Client;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Samples on their way at a time.
const AHEAD: usize = 64;
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(5);

/// Publishes what the sources hand in.
pub(crate) struct Publisher {
    pub samples: mpsc::Receiver<Sample>,
    pub client: Client,
    pub settings: Acquirer,
    pub queue: Queue,
    pub device: String,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// What one sample's publication needs.
struct Way {
    client: Client,
    subject: String,
    policy: Policy,
    device: String,
    store: Store,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Publisher {
    /// Runs until the agent ends.
    pub async fn run(mut self) {
        if !self.make_stream().await {
            return;
        }
        let way = Arc::new(Way {
            client: self.client.clone(),
            subject: subject(&self.settings.stream),
            policy: self.queue.policy,
            device: self.device.clone(),
            store: self.store.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
        });
        let mut work = JoinSet::new();
        loop {
            let sample = tokio::select! {
                () = self.stop.cancelled() => break,
                Some(_) = work.join_next(), if !work.is_empty() => continue,
                sample = self.samples.recv(), if work.len() < AHEAD => sample,
            };
            let Some(sample) = sample else { break };
            self.metrics.acquired(&sample.about.source);
            work.spawn(Arc::clone(&way).publish(sample));
        }
        while work.join_next().await.is_some() {}
    }

    /// Makes the work queue unless it is there; `false` if the agent is to end meanwhile.
    async fn make_stream(&self) -> bool {
        let config = Config {
            name: self.settings.stream.clone(),
            subjects: vec![subject(&self.settings.stream)],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            max_messages: self.settings.max_samples,
            discard: if self.queue.policy == Policy::ShedOldest { DiscardPolicy::Old } else { DiscardPolicy::New },
            duplicate_window: self.settings.duplicate_window_seconds.0,
            ..Config::default()
        };
        let mut backoff = Backoff::new(LONGEST);
        loop {
            let made = tokio::select! {
                () = self.stop.cancelled() => return false,
                made = async { jetstream(&self.client).get_or_create_stream(config.clone()).await } => made,
            };
            match made {
                Ok(_) => {
                    self.metrics.well_of(Part::Source, "jetstream");
                    return true;
                }
                Err(error) => {
                    let what = format!("the work queue {} cannot be had: {error}", self.settings.stream);
                    self.metrics.trouble_of(Part::Source, "jetstream", what);
                    if !sleep(&self.stop, backoff.next(None)).await {
                        return false;
                    }
                }
            }
        }
    }
}

impl Way {
    /// Publishes until JetStream has stored the sample; the same message id makes a repeated publication harmless.
    async fn publish(self: Arc<Self>, sample: Sample) {
        let outcome = match sample.data.to_npy() {
            Some(bytes) => {
                let message = PublishMessage::build()
                    .payload(bytes.into())
                    .headers(headers(&sample.about, &self.device))
                    .message_id(sample.about.id.to_string());
                self.send(message).await
            }
            None => Some(Outcome::Rejected("it is more than one image".into())),
        };
        let Some(outcome) = outcome else { return };
        let Sample { about, done, settled, .. } = sample;
        self.store.finish(Finish { about, outcome, done, settled, _permit: None });
    }

    async fn send(&self, message: PublishMessage) -> Option<Outcome> {
        let mut backoff = Backoff::new(LONGEST);
        loop {
            let sent = tokio::select! {
                () = self.stop.cancelled() => return None,
                sent = self.attempt(message.clone()) => sent,
            };
            let error = match sent {
                Ok(()) => {
                    self.metrics.blocked.set(0);
                    self.metrics.well_of(Part::Source, "jetstream");
                    return Some(Outcome::Published);
                }
                Err(error) => error,
            };
            let text = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
            // The server's words for a stream at its limit.
            let full = text.contains("maximum messages exceeded") || text.contains("maximum bytes exceeded");
            match (error.kind(), self.policy) {
                (PublishErrorKind::MaxPayloadExceeded, _) => {
                    return Some(Outcome::Rejected(format!("the NATS server takes no message of this size: {text}")));
                }
                (_, Policy::ShedNewest) if full => return Some(Outcome::Shed),
                _ => {}
            }
            self.metrics.blocked.set(u64::from(full));
            self.metrics.trouble_of(Part::Source, "jetstream", format!("samples cannot be published: {text}"));
            if !sleep(&self.stop, backoff.next(None)).await {
                return None;
            }
        }
    }

    async fn attempt(&self, message: PublishMessage) -> Result<(), PublishError> {
        jetstream(&self.client).send_publish(self.subject.clone(), message).await?.await.map(drop)
    }
}
