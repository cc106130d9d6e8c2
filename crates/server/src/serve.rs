//! A serve process from its start to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use subrosa_owner::{Owner, OwnerError};
use subrosa_registry::sql::Connect;
use subrosa_registry::{OwnerIdentity, Passphrase, Registry, RegistryError, SharedFiles, Vault, VaultError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::config::{Config, Transport};
use crate::console::Console;
use crate::error::ApiError;
use crate::postgres::Postgres;
use crate::state::App;
use crate::stop::{self, Stopper};
use crate::store::{Models, Store, StoreError};
use crate::tls::{self, TlsError};
use crate::workers::{decrypt, housekeeping, jobs, watch};
use crate::{api, net, shared_vault};

/// Why a process does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The home, registry or database.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The owner's side.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// What is asked for is not safe.
    #[error("{0}")]
    Unsafe(String),
    /// The database's address.
    #[error("{0}")]
    Database(String),
    /// Something within.
    #[error("the process cannot be set up: {0}")]
    Inside(String),
}

/// A process that serves. Dropped, it ends at once; [`Server::stop`] lets it finish what is under way.
pub struct Server {
    address: SocketAddr,
    certificate: Option<PathBuf>,
    tls: bool,
    stopper: Stopper,
    parts: JoinSet<()>,
    app: Arc<App>,
}

/// Registry, vault and store of a configuration.
pub(crate) struct Opened {
    pub owner: Owner,
    pub vault: Vault,
    pub store: Store,
    pub vault_in_store: bool,
}

/// Opens registry, vault and store. Needs a thread that may wait, within a runtime.
pub(crate) fn open(config: &Config, passphrase: &Passphrase) -> Result<Opened, ServeError> {
    let runtime = tokio::runtime::Handle::current();
    let store = match &config.store {
        Some(url) => Store::open(url)?,
        None => Store::directory(&config.home.join("store"))?,
    };
    runtime.block_on(store.check())?;
    let connect = match &config.database {
        Some(url) => Some(Arc::new(Postgres::new(url).map_err(ServeError::Database)?) as Arc<dyn Connect>),
        None => None,
    };
    // Where a database is shared the files and keys of networks must be too.
    let shared = connect.is_some();
    if shared && config.store.is_none() {
        return Err(ServeError::Unsafe(
            "a database that processes share needs a store that they share: give --store, a directory or s3://BUCKET/PREFIX".into(),
        ));
    }
    let models =
        shared.then(|| Arc::new(Models { store: store.clone(), runtime: runtime.clone() }) as Arc<dyn SharedFiles>);
    let registry = Registry::open_with(&config.home, connect, models)?;
    let vault = if shared {
        runtime.block_on(shared_vault::open(&config.home, &store, passphrase))?
    } else {
        Vault::create_or_open(&config.home, passphrase)?
    };
    Ok(Opened { owner: Owner::with_registry(registry), vault, store, vault_in_store: shared })
}

impl Server {
    /// Starts serving.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn start(config: Config, passphrase: Passphrase) -> Result<Self, ServeError> {
        let plain = matches!(config.transport, Transport::Plain);
        if (plain || config.open_metrics) && !config.listen.ip().is_loopback() {
            let what = if plain { "plain HTTP" } else { "metrics without a token" };
            return Err(ServeError::Unsafe(format!(
                "{what} is for loopback addresses only, and {} is none: leave the flag out, or listen on 127.0.0.1",
                config.listen
            )));
        }
        let tls = tls::configure(&config.transport, &config.home)?;
        let config = Arc::new(config);
        let opening = Arc::clone(&config);
        let opened = tokio::task::spawn_blocking(move || {
            let Opened { owner, vault, store, vault_in_store } = open(&opening, &passphrase)?;
            let identity = OwnerIdentity::load_or_create(&vault)?;
            let fleet = owner.fleet()?;
            Ok::<_, ServeError>((owner, fleet, vault, identity, store, vault_in_store))
        });
        let (owner, fleet, vault, identity, store, vault_in_store) =
            opened.await.map_err(|e| ServeError::Inside(e.to_string()))??;
        if vault_in_store {
            shared_vault::push(&config.home, &store).await?;
        }
        let app = App::new(
            owner,
            fleet,
            vault,
            identity,
            store,
            config.policy.clone(),
            config.limits.clone(),
            vault_in_store,
            config.open_metrics,
        );
        let inside = |e: ApiError| ServeError::Inside(e.inside.unwrap_or(e.detail));
        let app = Arc::new(app.map_err(inside)?);
        app.blocking(App::take_over).await.map_err(inside)?;
        let listening = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let (certificate, tls) = match tls {
            Some((tls, own)) => (own, Some(tls)),
            None => (None, None),
        };
        let (stopper, stop) = stop::pair();
        let mut parts = JoinSet::new();
        let encrypted = tls.is_some();
        let console = Console::new(Arc::clone(&app), encrypted, stop.clone());
        let router = api::router(Arc::clone(&app), Arc::new(console));
        parts.spawn(net::serve(Arc::clone(&app), listener, tls, router, stop.clone()));
        for _ in 0..config.decrypt_workers {
            parts.spawn(decrypt::run(Arc::clone(&app), stop.clone()));
        }
        parts.spawn(watch::run(Arc::clone(&app), stop.clone()));
        if config.jobs {
            parts.spawn(jobs::run(Arc::clone(&app), stop.clone()));
        }
        parts.spawn(housekeeping::run(Arc::clone(&app), config.keep_results, stop));
        Ok(Self { address, certificate, tls: encrypted, stopper, parts, app })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its own certificate, for edges to trust; nothing where one was given, or without TLS.
    pub fn certificate(&self) -> Option<&PathBuf> {
        self.certificate.as_ref()
    }

    /// The beginning of its URLs.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Where database and store are, without passwords.
    pub fn places(&self) -> (String, String) {
        (self.app.registry().database().place(), self.app.store.place().to_owned())
    }

    /// A token of the owner, if there is none yet. Only its digest is kept.
    ///
    /// # Errors
    /// [`ServeError::Inside`].
    pub async fn first_token(&self) -> Result<Option<String>, ServeError> {
        let made = self.app.blocking(|app| {
            if !app.fleet.owner_tokens()?.is_empty() {
                return Ok(None);
            }
            // The name is unique: of several processes one makes it.
            Ok(crate::command::make_token(&app.fleet, "first")?)
        });
        made.await.map_err(|e| ServeError::Inside(e.inside.unwrap_or(e.detail)))
    }

    /// Finishes what is under way and ends.
    pub async fn stop(mut self) {
        self.stopper.stop();
        while self.parts.join_next().await.is_some() {}
    }
}
