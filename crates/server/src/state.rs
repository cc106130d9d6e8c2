//! What all requests and workers of a process share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use subrosa_owner::release::{ReleaseAgent, ReleasePolicy};
use subrosa_owner::{Owner, OwnerError};
use subrosa_registry::fleet::{Bundle, Fleet};
use subrosa_registry::{OwnerIdentity, Registry, Vault, VaultError};

use crate::config::Limits;
use crate::error::{Answer, ApiError};
use crate::instance::Instance;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::workers::watch::Changed;

/// One serve process. Shared by its requests and workers.
pub(crate) struct App {
    pub owner: Owner,
    pub vault: Vault,
    pub identity: OwnerIdentity,
    pub fleet: Fleet,
    pub store: Store,
    pub policy: ReleasePolicy,
    pub limits: Limits,
    pub metrics: Metrics,
    /// Tells this process's leases from others'.
    pub worker: String,
    pub instance: Instance,
    /// Wakes the decrypt workers when results arrive.
    pub arrived: tokio::sync::Notify,
    /// Wakes the job worker.
    pub queued: tokio::sync::Notify,
    /// Whose labels are to be looked at.
    pub labels: Changed,
    /// Bytes of bodies that may be in memory at once, in kilobytes.
    pub memory: Arc<tokio::sync::Semaphore>,
    agents: Mutex<HashMap<String, Arc<ReleaseAgent>>>,
    /// One bundle is made at a time.
    making: tokio::sync::Mutex<()>,
    /// Refusals that each device caused in the minute that is counted.
    refusals: Mutex<(i64, HashMap<String, u32>)>,
    pub vault_in_store: bool,
    pub open_metrics: bool,
}

impl App {
    #[allow(clippy::too_many_arguments, reason = "the parts of a process, named where it is made")]
    pub fn new(
        owner: Owner,
        fleet: Fleet,
        vault: Vault,
        identity: OwnerIdentity,
        store: Store,
        policy: ReleasePolicy,
        limits: Limits,
        vault_in_store: bool,
        open_metrics: bool,
    ) -> Answer<Self> {
        let instance = Instance::of(owner.home()).map_err(ApiError::inside)?;
        let memory = Arc::new(tokio::sync::Semaphore::new((limits.bodies_in_memory >> 10) as usize));
        Ok(Self {
            owner,
            vault,
            identity,
            fleet,
            store,
            policy,
            limits,
            metrics: Metrics::new(),
            worker: instance.worker().map_err(ApiError::inside)?,
            instance,
            arrived: tokio::sync::Notify::new(),
            queued: tokio::sync::Notify::new(),
            labels: Changed::default(),
            memory,
            agents: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            refusals: Mutex::default(),
            vault_in_store,
            open_metrics,
        })
    }

    /// Gives up what the process before this one had claimed, if it is known to be dead: nobody waits for its leases to run out.
    pub fn take_over(&self) -> Answer<()> {
        if self.instance.alone {
            let (results, jobs) = self.fleet.give_up(&self.instance.prefix)?;
            if results + jobs > 0 {
                tracing::info!(results, jobs, "taken over from a process that died");
            }
        }
        Ok(())
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        self.owner.registry()
    }

    /// The Decryption Agent of a network, loaded once.
    pub fn agent(&self, model: &str) -> Answer<Arc<ReleaseAgent>> {
        let known = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(model).cloned();
        if let Some(agent) = known {
            return Ok(agent);
        }
        let mut loaded = ReleaseAgent::load(&self.owner, model, &self.vault);
        if self.vault_in_store && matches!(loaded, Err(OwnerError::Vault(VaultError::NoSecret { .. }))) {
            // Protected by another process after this one started.
            let pull = crate::shared_vault::pull(self.owner.home(), &self.store);
            tokio::runtime::Handle::current().block_on(pull).map_err(ApiError::later)?;
            loaded = ReleaseAgent::load(&self.owner, model, &self.vault);
        }
        let agent = Arc::new(loaded?);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        // A few networks are in use at a time.
        if agents.len() >= 64 {
            agents.clear();
        }
        agents.insert(model.to_owned(), Arc::clone(&agent));
        Ok(agent)
    }

    /// The bundle of a network, made and stored the first time.
    pub async fn bundle(self: &Arc<Self>, model: &str) -> Answer<Bundle> {
        let find = |app: &Self, model: &str| app.fleet.bundle(model);
        let id = model.to_owned();
        if let Some(bundle) = self.blocking(move |app| Ok(find(app, &id)?)).await? {
            return Ok(bundle);
        }
        let _one = self.making.lock().await;
        let id = model.to_owned();
        if let Some(bundle) = self.blocking(move |app| Ok(find(app, &id)?)).await? {
            return Ok(bundle);
        }
        let id = model.to_owned();
        let (directory, deployed) = self
            .blocking(move |app| {
                let directory = tempfile::tempdir_in(app.owner.home()).map_err(ApiError::inside)?;
                let deployed = app.owner.deploy(&id, &directory.path().join("bundle.srb"), &app.identity)?;
                Ok((directory, deployed))
            })
            .await?;
        let key = bundle_key(&deployed.sha256);
        self.store.put_file(&key, &directory.path().join("bundle.srb")).await?;
        let bundle = Bundle { model: deployed.id, sha256: deployed.sha256, bytes: deployed.bundle_bytes };
        self.blocking(move |app| Ok(app.fleet.add_bundle(&bundle)?)).await
    }

    /// Whether one more refusal of a device's request is written into the audit log: so many in a minute, lest a device fills it.
    pub fn may_note(&self, device: &str) -> bool {
        let minute = subrosa_registry::time::now() / 60_000;
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.0 != minute {
            *refusals = (minute, HashMap::new());
        }
        let count = refusals.1.entry(device.to_owned()).or_insert(0);
        *count += 1;
        *count <= self.limits.refusals_per_minute
    }

    /// Runs something that waits for disk or database on a thread for such things.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let app = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&app)).await.map_err(ApiError::inside)?
    }
}

/// Where a bundle lies in the store.
pub(crate) fn bundle_key(sha256: &str) -> String {
    format!("bundles/{sha256}")
}

/// Where an upload lies in the store.
pub(crate) fn upload_key(id: &str) -> String {
    format!("uploads/{id}")
}
