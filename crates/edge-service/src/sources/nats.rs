//! A NATS subject: through a durable consumer of a JetStream stream, whose messages are acknowledged when what became of them is durable; or
//! straight from the subject, at most once.

use super::{Intake, message};
use crate::backoff::{Backoff, sleep};
use crate::config::NatsSource as Settings;
use crate::metrics::Part;
use crate::nats::{jetstream, keep};
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::{Client, HeaderMap};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Messages in work at a time.
const MESSAGES: usize = 64;
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(10);

/// A subject.
pub(crate) struct NatsSource {
    intake: Intake,
    settings: Settings,
    client: Client,
    consumer: String,
    source: Arc<str>,
}

impl NatsSource {
    /// `device` names the durable consumer unless the configuration does.
    pub fn new(intake: Intake, settings: Settings, client: Client, device: &str) -> Self {
        let consumer = settings.consumer.clone().unwrap_or_else(|| format!("subrosa-{device}"));
        let source = format!("nats {}", settings.stream.as_ref().unwrap_or(&settings.subject)).into();
        Self { intake, settings, client, consumer, source }
    }

    /// Runs until the agent ends.
    pub async fn run(self) {
        let mut backoff = Backoff::new(LONGEST);
        loop {
            let stop = self.intake.stop.clone();
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = async {
                    match &self.settings.stream {
                        Some(stream) => self.consume(stream, &mut backoff).await,
                        None => self.subscribe(&mut backoff).await,
                    }
                } => ended,
            };
            let Err(error) = ended else { return };
            self.intake.metrics.trouble_of(Part::Source, &self.source, error.to_string());
            if !sleep(&self.intake.stop, backoff.next(None)).await {
                return;
            }
        }
    }

    async fn consume(&self, stream: &str, backoff: &mut Backoff) -> Result<(), async_nats::Error> {
        let stream = jetstream(&self.client).get_stream(stream).await?;
        let ack_wait = self.settings.ack_wait_seconds.0;
        let config = pull::Config {
            durable_name: Some(self.consumer.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait,
            filter_subject: self.settings.subject.clone(),
            max_ack_pending: MESSAGES as i64,
            ..Default::default()
        };
        let consumer = stream.get_or_create_consumer(&self.consumer, config).await?;
        let mut messages = consumer.stream().max_messages_per_batch(MESSAGES).messages().await?;
        let mut work = JoinSet::new();
        while let Some(message) = messages.next().await {
            let message = message?;
            self.intake.metrics.well_of(Part::Source, &self.source);
            backoff.reset();
            let sequence = message.info()?.stream_sequence;
            let position = named(message.headers.as_ref()).unwrap_or_else(|| format!("sequence {sequence}"));
            let (intake, source) = (self.intake.clone(), Arc::clone(&self.source));
            work.spawn(async move {
                let label = format!("{} {sequence}", message.subject);
                let submitted = tokio::select! {
                    submitted = message::submit(&intake, &source, &position, &label, &message.payload) => submitted,
                    () = keep(&message, ack_wait) => None,
                };
                if submitted.is_some() {
                    // An acknowledgement that is lost brings the message again, and it is known then.
                    let _ = message.ack_with(AckKind::Ack).await;
                }
            });
            while work.len() >= MESSAGES {
                work.join_next().await;
            }
        }
        Ok(())
    }

    async fn subscribe(&self, backoff: &mut Backoff) -> Result<(), async_nats::Error> {
        let mut messages = self.client.subscribe(self.settings.subject.clone()).await?;
        let (mut work, mut number) = (JoinSet::new(), 0u64);
        while let Some(message) = messages.next().await {
            self.intake.metrics.well_of(Part::Source, &self.source);
            backoff.reset();
            number += 1;
            let position = named(message.headers.as_ref())
                .unwrap_or_else(|| format!("run {} message {number}", self.intake.store.run));
            let (intake, source) = (self.intake.clone(), Arc::clone(&self.source));
            work.spawn(async move {
                let label = format!("{} {number}", message.subject);
                message::submit(&intake, &source, &position, &label, &message.payload).await;
            });
            while work.len() >= MESSAGES {
                work.join_next().await;
            }
        }
        Err("the subscription has ended".into())
    }
}

/// The message id that its publisher gave.
fn named(headers: Option<&HeaderMap>) -> Option<String> {
    headers?.get("Nats-Msg-Id").map(|id| format!("id {id}"))
}
