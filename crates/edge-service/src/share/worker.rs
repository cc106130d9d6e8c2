//! The worker: takes samples of the work queue, and acknowledges each when the backend has given its receipt for the result.

use super::about;
use crate::backoff::{Backoff, sleep};
use crate::config::Worker;
use crate::metrics::Part;
use crate::nats::{jetstream, keep};
use crate::sample::{Fate, Sample};
use crate::sources::Intake;
use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Name of the consumer that all workers share.
const CONSUMER: &str = "subrosa-workers";
/// Samples that all workers together hold at most.
const ALL_WORKERS: i64 = 100_000;
/// Longest wait of one request for samples.
const PATIENCE: Duration = Duration::from_secs(2);
/// Least time between two looks for samples that are done and still in the queue.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(5);

/// Removes what is left of an empty queue: where the consumer of all workers has nothing to hand out and waits for no acknowledgement, the
/// server will never hand out what is still stored. One that was killed can have kept acknowledgements and lost the removals (seen
/// with nats-server 2.9.10), and a queue of bounded length would fill with such samples.
async fn tidy(stream: &Stream, consumer: &mut Consumer<pull::Config>) -> Result<(), async_nats::Error> {
    let state = consumer.info().await?;
    let (done, waiting) = (state.ack_floor.stream_sequence, state.num_pending + state.num_ack_pending as u64);
    if waiting == 0 && stream.get_info().await?.state.first_sequence <= done {
        stream.purge().sequence(done + 1).await?;
    }
    Ok(())
}

/// The work queue as a source.
#[derive(Clone)]
pub(crate) struct WorkerSource {
    intake: Intake,
    settings: Worker,
    client: Client,
    source: Arc<str>,
}

impl WorkerSource {
    pub fn new(intake: Intake, settings: Worker, client: Client) -> Self {
        let source = format!("work {}", settings.stream).into();
        Self { intake, settings, client, source }
    }

    /// Runs until the agent ends.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(self.settings.hold.get()));
        let mut backoff = Backoff::new(LONGEST);
        loop {
            let ended = tokio::select! {
                () = self.intake.stop.cancelled() => return,
                ended = self.pull(&places, &mut backoff) => ended,
            };
            if let Err(error) = ended {
                self.intake.metrics.trouble_of(Part::Source, &self.source, error.to_string());
                if !sleep(&self.intake.stop, backoff.next(None)).await {
                    return;
                }
            }
        }
    }

    async fn pull(&self, places: &Arc<Semaphore>, backoff: &mut Backoff) -> Result<(), async_nats::Error> {
        let stream = jetstream(&self.client).get_stream(&self.settings.stream).await?;
        let mut consumer = self.consumer(&stream).await?;
        let mut tidied: Option<Instant> = None;
        loop {
            // Never more than there are places, so that nothing waits here while its time to be acknowledged runs.
            let first = Arc::clone(places).acquire_owned().await?;
            let free = places.available_permits();
            let mut permits = vec![first];
            if free > 0
                && let Ok(more) = Arc::clone(places).try_acquire_many_owned(u32::try_from(free)?)
            {
                permits.push(more);
            }
            let mut all = permits.into_iter().reduce(|mut all, more| {
                all.merge(more);
                all
            });
            let count = all.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let mut batch = consumer.batch().max_messages(count).expires(PATIENCE).messages().await?;
            let mut idle = true;
            while let Some(message) = batch.next().await {
                let message = message?;
                idle = false;
                let Some(place) = all.as_mut().and_then(|all| all.split(1)) else { break };
                tokio::spawn(self.clone().work(message, place));
            }
            self.intake.metrics.well_of(Part::Source, &self.source);
            backoff.reset();
            if idle && tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
                tidy(&stream, &mut consumer).await?;
                tidied = Some(Instant::now());
            }
        }
    }

    async fn consumer(&self, stream: &Stream) -> Result<Consumer<pull::Config>, async_nats::Error> {
        let config = pull::Config {
            durable_name: Some(CONSUMER.into()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.settings.ack_wait_seconds.0,
            max_ack_pending: ALL_WORKERS,
            ..Default::default()
        };
        Ok(stream.get_or_create_consumer(CONSUMER, config).await?)
    }

    /// One sample, from its message to the acknowledgement. A lost acknowledgement brings the message again, and it is known then.
    async fn work(self, message: Message, _place: OwnedSemaphorePermit) {
        let kind = tokio::select! {
            () = self.intake.stop.cancelled() => return,
            () = keep(&message, self.settings.ack_wait_seconds.0) => return,
            kind = self.evaluate(&message) => kind,
        };
        if let Some(kind) = kind
            && let Err(error) = message.ack_with(kind).await
        {
            tracing::debug!("{}: acknowledgement: {error}", self.source);
        }
    }

    /// How the message is to be acknowledged when all is done; `None` if another worker is to take it.
    async fn evaluate(&self, message: &Message) -> Option<AckKind> {
        let read = message.headers.as_ref().and_then(|headers| about(headers, &self.source));
        let data = subrosa_input::read_bytes("sample.npy", &message.payload, Some(1));
        let (about, data) = match (read, data) {
            (Some(about), Ok(data)) => (about, data),
            (_, data) => {
                self.intake.metrics.rejected.add(1);
                let why = data.err().map_or_else(|| "its headers are not those of a sample".into(), |e| e.to_string());
                tracing::warn!("{}: a message is refused: {why}", self.source);
                return Some(AckKind::Term);
            }
        };
        let (settled, receipt) = oneshot::channel();
        match self.intake.store.seen(vec![about.id]).await?.into_iter().flatten().next() {
            Some(seen) => match seen.queued {
                Some(sequence) => self.intake.store.attach(sequence, settled),
                None => return Some(AckKind::Ack),
            },
            None => {
                let (done, fate) = oneshot::channel();
                self.intake.samples.send(Sample { about, data, done, settled: Some(settled) }).await.ok()?;
                match fate.await.ok()? {
                    Fate::Queued(_) => {}
                    Fate::Repeated(_) => return Some(AckKind::Nak(None)),
                    Fate::Rejected(_) => return Some(AckKind::Term),
                    Fate::Published | Fate::Shed | Fate::Dropped => return None,
                }
            }
        }
        receipt.await.ok()?;
        Some(AckKind::Ack)
    }
}
