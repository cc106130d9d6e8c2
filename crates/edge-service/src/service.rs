//! The agent as a whole: enrolment, start, end.

use crate::backend::{Backend, BackendError};
use crate::backoff::{Backoff, sleep};
use crate::config::{self, Config};
use crate::delivery::Delivery;
use crate::error::ServiceError;
use crate::metrics::Metrics;
use crate::monitor;
use crate::nats;
use crate::processing::{Dispatcher, Gate};
use crate::share::{Publisher, WorkerSource};
use crate::sources::{CameraSource, DirectorySource, HttpSource, Intake, MqttSource, NatsSource, StdinSource};
use crate::state::{Membership, State};
use crate::store::{Device, Store};
use crate::update::Updater;
use std::net::SocketAddr;
use std::sync::Arc;
use subrosa_fleet::DeviceKey;
use subrosa_fleet::messages::Enrol;
use subrosa_program::container::Signer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the agent did before it ended.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Ended {
    /// The device's id at the backend.
    pub device: String,
    /// Samples evaluated.
    pub evaluated: u64,
    /// Results with the backend's receipt: stored or known there already.
    pub delivered: u64,
    /// Results the backend refused for good.
    pub refused: u64,
    /// Samples that did not fit.
    pub rejected: u64,
    /// Samples or results given up by policy.
    pub shed: u64,
    /// Results that wait on disk for the next start.
    pub queued: u64,
}

/// Runs the agent until `stop` is cancelled, or standard input ends where the configuration says so.
///
/// # Errors
/// What keeps it from starting; [`ServiceError::is_usage`] tells what the user can cure.
pub async fn run(config: &Config, stop: CancellationToken) -> Result<Ended, ServiceError> {
    let owner = config.owner()?;
    let backend = Backend::new(config)?;
    let http_token = match &config.source.http {
        Some(http) => config::secret("source.http.token", http.token_file.as_ref(), http.token_env.as_ref())?,
        None => None,
    };
    let state = Arc::new(State::open(&config.state)?);
    // Whatever can be wrong with the configuration shows before a token is used up.
    let listeners = Listeners::bind(config).await?;
    let key = DeviceKey::load_or_create(&state.key())?;
    let Some(membership) = enrol(config, &state, &backend, &key, &owner, &stop).await? else {
        return Err(ServiceError::System("ended before the device was enrolled".into()));
    };
    let device = membership.enrolled.device.clone();
    let backend = backend.with_token(&membership.enrolled.access_token)?;
    let metrics = Arc::new(Metrics::default());

    // Sources end first, then the dispatcher, then the queue: each hands on what it holds.
    let signer = Device { id: device.clone(), key };
    let (store, queue) = Store::open(&state.queue(), signer, config.queue, Arc::clone(&metrics), stop.clone())?;
    let gate = Gate::new(config.queue, Arc::clone(&metrics));
    let (samples, receiver) = mpsc::channel(1);
    let intake =
        Intake { samples, store: store.clone(), gate: gate.clone(), metrics: Arc::clone(&metrics), stop: stop.clone() };
    let mut parts = JoinSet::new();
    let client = match &config.nats {
        Some(settings) => Some(nats::connect(settings, &device).await?),
        None => None,
    };
    if let (Some(settings), Some(client)) = (&config.acquirer, &client) {
        let publisher = Publisher {
            samples: receiver,
            client: client.clone(),
            settings: settings.clone(),
            queue: config.queue,
            device: device.clone(),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
        };
        parts.spawn(nothing(publisher.run()));
    } else {
        let (updater, slot) =
            Updater::start(config, Arc::clone(&state), backend.clone(), Arc::clone(&metrics), stop.clone()).await?;
        parts.spawn(nothing(updater.run()));
        let dispatcher = Dispatcher {
            samples: receiver,
            slot,
            store: store.clone(),
            gate,
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
        };
        parts.spawn(nothing(dispatcher.run()));
    }
    let delivery = Delivery::new(config, backend.clone(), store.clone(), Arc::clone(&metrics), stop.clone());
    parts.spawn(nothing(delivery.run()));
    let every = config.backend.status_seconds.0;
    let report = monitor::report(backend, Arc::clone(&metrics), every, stop.clone());
    parts.spawn(nothing(report));
    if let Some(listener) = listeners.metrics {
        parts.spawn(monitor::serve(listener, Arc::clone(&metrics), config.queue.policy.name(), stop.clone()));
    }
    start_sources(config, &intake, listeners.http.zip(http_token), client.as_ref().zip(Some(&device)), &mut parts)?;
    drop(intake);
    tracing::info!(device, name = config.name, "the agent runs");

    let ended = wait(&mut parts, &stop).await;
    drop(store);
    // The thread ends when nobody can hand in anything any more; what was handed in is committed.
    let _ = tokio::task::spawn_blocking(move || queue.join()).await;
    ended?;
    Ok(Ended {
        device,
        evaluated: metrics.evaluated.get(),
        delivered: metrics.stored.get() + metrics.duplicate.get(),
        refused: metrics.refused.get(),
        rejected: metrics.rejected.get(),
        shed: metrics.status().shed,
        queued: metrics.queued.get(),
    })
}

/// Waits for all parts. They end when the agent is told to end; one that fails ends the agent.
async fn wait(parts: &mut JoinSet<Result<(), ServiceError>>, stop: &CancellationToken) -> Result<(), ServiceError> {
    let mut ended = Ok(());
    while let Some(part) = parts.join_next().await {
        let part = part.unwrap_or_else(|e| Err(ServiceError::System(format!("internal error, please report it: {e}"))));
        if part.is_err() && ended.is_ok() {
            stop.cancel();
            ended = part;
        }
    }
    ended
}

/// Addresses that are listened on.
struct Listeners {
    http: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ServiceError> {
        let http = config.source.http.as_ref().map(|http| http.listen);
        let metrics = config.metrics.as_ref().map(|metrics| metrics.listen);
        Ok(Self { http: listen("source.http.listen", http).await?, metrics: listen("metrics.listen", metrics).await? })
    }
}

async fn listen(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, ServiceError> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|source| ServiceError::Listen { key, address, source })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!("{key}: listening on {address}");
    }
    Ok(Some(listener))
}

fn start_sources(
    config: &Config,
    intake: &Intake,
    http: Option<(TcpListener, zeroize::Zeroizing<String>)>,
    nats: Option<(&async_nats::Client, &String)>,
    parts: &mut JoinSet<Result<(), ServiceError>>,
) -> Result<(), ServiceError> {
    for directory in &config.source.directory {
        let source = DirectorySource::new(intake.clone(), directory.clone());
        parts.spawn(nothing(source.run()));
    }
    if let (Some(settings), Some((listener, token))) = (&config.source.http, http) {
        parts.spawn(HttpSource::new(intake.clone(), settings.clone(), token).run(listener));
    }
    if let Some(settings) = &config.source.stdin {
        let (source, intake) = (StdinSource::new(intake.clone(), settings.clone()), intake.clone());
        parts.spawn(async move {
            if source.run().await {
                intake.drained().await;
                intake.stop.cancel();
            }
            Ok(())
        });
    }
    for settings in &config.source.camera {
        parts.spawn(nothing(CameraSource::new(intake.clone(), settings.clone())?.run()));
    }
    for settings in &config.source.mqtt {
        parts.spawn(nothing(MqttSource::new(intake.clone(), settings.clone())?.run()));
    }
    if let Some((client, device)) = nats {
        for settings in &config.source.nats {
            let source = NatsSource::new(intake.clone(), settings.clone(), client.clone(), device);
            parts.spawn(nothing(source.run()));
        }
        if let Some(settings) = &config.worker {
            parts.spawn(nothing(WorkerSource::new(intake.clone(), settings.clone(), client.clone()).run()));
        }
    }
    Ok(())
}

/// A part that does not fail.
async fn nothing(part: impl Future<Output = ()>) -> Result<(), ServiceError> {
    part.await;
    Ok(())
}

/// The device's membership: as kept, else by enrolling with the one-time token. `None` if the agent is to end meanwhile.
async fn enrol(
    config: &Config,
    state: &State,
    backend: &Backend,
    key: &DeviceKey,
    owner: &Signer,
    stop: &CancellationToken,
) -> Result<Option<Membership>, ServiceError> {
    let membership = match state.membership()? {
        Some(membership) => membership,
        None => {
            let settings = &config.backend;
            let token = config::secret("backend.token", settings.token_file.as_ref(), settings.token_env.as_ref())?;
            let token = token.ok_or(ServiceError::NoToken)?;
            let request = Enrol {
                token: token.to_string(),
                name: config.name.clone(),
                public_key: hex::encode(key.public().public_key),
            };
            let Some(enrolled) = ask(backend, &request, settings.retry_max_seconds.0, stop).await? else {
                return Ok(None);
            };
            let membership = Membership { url: settings.url.clone(), enrolled };
            state.enrolled(&membership)?;
            tracing::info!(device = membership.enrolled.device, group = membership.enrolled.group, "enrolled");
            membership
        }
    };
    let enrolled = &membership.enrolled;
    if enrolled.owner_public_key != hex::encode(owner.public_key) {
        let found = <[u8; 32]>::try_from(hex::decode(&enrolled.owner_public_key).unwrap_or_default())
            .map_or_else(|_| "of no sound key".to_owned(), |public_key| Signer { public_key }.fingerprint());
        return Err(ServiceError::ForeignBackend { found, trusted: owner.fingerprint() });
    }
    Ok(Some(membership))
}

/// Asks until there is an answer.
async fn ask(
    backend: &Backend,
    request: &Enrol,
    limit: std::time::Duration,
    stop: &CancellationToken,
) -> Result<Option<subrosa_fleet::messages::Enrolled>, ServiceError> {
    let mut backoff = Backoff::new(limit);
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            answer = backend.enrol(request) => answer,
        };
        match answer {
            Ok(enrolled) => return Ok(Some(enrolled)),
            Err(BackendError::Refused { status, detail, .. }) if (400..500).contains(&status) && status != 429 => {
                return Err(ServiceError::Enrolment(detail));
            }
            Err(error) => {
                tracing::warn!("enrolment: {error}");
                if !sleep(stop, backoff.next(error.retry_after())).await {
                    return Ok(None);
                }
            }
        }
    }
}
