//! The connection to NATS.

use crate::backend::tls;
use crate::config::Nats;
use crate::error::ServiceError;
use async_nats::jetstream::{self, AckKind, Context, Message};
use async_nats::{Client, ConnectOptions, ServerAddr};
use std::time::Duration;

/// Longest wait for an answer of the server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects in the background, again and again; what is asked meanwhile waits or fails.
pub(crate) async fn connect(settings: &Nats, name: &str) -> Result<Client, ServiceError> {
    let wrong = |what: String| ServiceError::Secret { key: "nats".into(), what };
    let mut options = match &settings.credentials {
        Some(path) => ConnectOptions::with_credentials_file(path)
            .await
            .map_err(|e| wrong(format!("credentials: {} cannot be used: {e}", path.display())))?,
        None => ConnectOptions::new(),
    };
    if let Some(token) = crate::config::secret("nats.token_file", settings.token_file.as_ref(), None)? {
        options = options.token(token.to_string());
    }
    if settings.ca.is_some() {
        options = options.tls_client_config(tls("nats.ca", settings.ca.as_deref())?).require_tls(true);
    }
    let servers: Vec<ServerAddr> = settings.servers().map_err(|what| wrong(format!("url: {what}")))?;
    options
        .name(name)
        .connection_timeout(TIMEOUT)
        .request_timeout(Some(TIMEOUT))
        .ignore_discovered_servers()
        .retry_on_initial_connect()
        .event_callback(|event| async move { tracing::info!("NATS: {event}") })
        .connect(servers)
        .await
        .map_err(|e| wrong(format!("cannot be set up: {e}")))
}

/// Its streams.
pub(crate) fn jetstream(client: &Client) -> Context {
    jetstream::new(client.clone())
}

/// Tells JetStream again and again that a message is in work.
pub(crate) async fn keep(message: &Message, ack_wait: Duration) {
    loop {
        tokio::time::sleep(ack_wait / 3).await;
        // One that is lost is made up for by the next.
        let _ = message.ack_with(AckKind::Progress).await;
    }
}

impl Nats {
    /// The servers' addresses.
    pub(crate) fn servers(&self) -> Result<Vec<ServerAddr>, String> {
        self.url.split(',').map(|url| url.trim().parse().map_err(|e| format!("{e}"))).collect()
    }
}
