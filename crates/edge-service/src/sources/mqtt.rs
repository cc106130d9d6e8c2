//! An MQTT topic at QoS 1: messages are acknowledged when what became of them is durable. A message that its payload gives no id may be
//! evaluated twice where the connection broke before its acknowledgement.

use super::{Intake, message};
use crate::backend::tls;
use crate::backoff::{Backoff, sleep};
use crate::config::{self, Mqtt};
use crate::error::ServiceError;
use crate::metrics::Part;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, TlsConfiguration, Transport};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Messages in work at a time; brokers stop before it.
const MESSAGES: usize = 256;
/// Requests to the broker that may wait.
const REQUESTS: usize = 2 * MESSAGES;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(10);

/// A topic.
pub(crate) struct MqttSource {
    intake: Intake,
    settings: Mqtt,
    source: Arc<str>,
    client: AsyncClient,
    events: EventLoop,
}

impl MqttSource {
    pub fn new(intake: Intake, settings: Mqtt) -> Result<Self, ServiceError> {
        let wrong = |what: String| ServiceError::Secret { key: "source.mqtt.url".into(), what };
        let url = reqwest::Url::parse(&settings.url).map_err(|e| wrong(e.to_string()))?;
        let encrypted = url.scheme() == "mqtts";
        let port = url.port().unwrap_or(if encrypted { 8883 } else { 1883 });
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let mut options = MqttOptions::new(&settings.client_id, host, port);
        options.set_keep_alive(KEEP_ALIVE).set_clean_session(false).set_manual_acks(true);
        options.set_max_packet_size(settings.max_message_bytes, settings.max_message_bytes);
        if let (Some(user), Some(password)) =
            (&settings.user, config::secret("source.mqtt.password_file", settings.password_file.as_ref(), None)?)
        {
            options.set_credentials(user, password.as_str());
        }
        if encrypted {
            let tls = tls("source.mqtt.ca", settings.ca.as_deref())?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        }
        let (client, events) = AsyncClient::new(options, REQUESTS);
        let source = format!("mqtt {}", settings.topic).into();
        Ok(Self { intake, settings, source, client, events })
    }

    /// Runs until the agent ends.
    pub async fn run(mut self) {
        let (mut work, mut backoff) = (JoinSet::new(), Backoff::new(LONGEST));
        // Acknowledgements are for the connection that brought the message: packet ids are given anew on the next.
        let (mut connection, mut number) = (0u64, 0u64);
        loop {
            let event = tokio::select! {
                () = self.intake.stop.cancelled() => return,
                Some(done) = work.join_next(), if !work.is_empty() => {
                    if let Ok(Some((on, publish))) = done && on == connection {
                        // What is not acknowledged comes again.
                        let _ = self.client.try_ack(&publish);
                    }
                    continue;
                }
                event = self.events.poll(), if work.len() < MESSAGES => event,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    connection += 1;
                    backoff.reset();
                    self.intake.metrics.well_of(Part::Source, &self.source);
                    // Fails only where more requests wait than there is room for, and this is the first.
                    let _ = self.client.try_subscribe(&self.settings.topic, QoS::AtLeastOnce);
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    number += 1;
                    work.spawn(self.take(connection, number, publish));
                }
                Ok(_) => {}
                Err(error) => {
                    self.intake.metrics.trouble_of(Part::Source, &self.source, format!("MQTT: {error}"));
                    if !sleep(&self.intake.stop, backoff.next(None)).await {
                        return;
                    }
                }
            }
        }
    }

    /// One message, to be acknowledged when it comes back.
    fn take(
        &self,
        connection: u64,
        number: u64,
        publish: Publish,
    ) -> impl Future<Output = Option<(u64, Publish)>> + use<> {
        let (intake, source) = (self.intake.clone(), Arc::clone(&self.source));
        async move {
            let position = format!("run {} message {number}", intake.store.run);
            let label = format!("{} {number}", publish.topic);
            message::submit(&intake, &source, &position, &label, &publish.payload).await?;
            Some((connection, publish))
        }
    }
}
