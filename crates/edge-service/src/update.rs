//! The deployment: asked for, fetched, verified, swapped in, and swapped back where it does not work.

mod fetch;

use crate::backend::{Backend, BackendError};
use crate::backoff::{Backoff, jittered};
use crate::config::Config;
use crate::error::ServiceError;
use crate::metrics::{Metrics, Part};
use crate::state::{Running, State};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subrosa_edge_agent::{EdgeError, Options, Processor};
use subrosa_fleet::messages::Deployment;
use subrosa_program::container::Signer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Share of a wait that is random.
const JITTER: f64 = 0.2;

/// A network that is loaded and answers.
pub(crate) struct Active {
    pub deployment: Deployment,
    pub processor: Processor,
    /// Whether it has answered a sample.
    proven: AtomicBool,
    /// The one before, until this one has answered.
    previous: Mutex<Option<Arc<Active>>>,
}

impl Active {
    /// The one to fall back to.
    pub fn previous(&self) -> Option<Arc<Self>> {
        self.previous.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It has answered; whether for the first time.
    fn prove(&self) -> bool {
        !self.proven.swap(true, Ordering::Relaxed)
    }
}

/// What the evaluation tells of a network.
pub(crate) enum Verdict {
    /// It has answered for the first time.
    Answered(u64),
    /// It cannot be executed.
    Broken(u64, String),
}

/// What runs, as the evaluation sees it.
#[derive(Clone)]
pub(crate) struct Slot {
    pub active: watch::Receiver<Option<Arc<Active>>>,
    verdicts: mpsc::UnboundedSender<Verdict>,
}

impl Slot {
    /// A network has answered.
    pub fn answered(&self, active: &Active) {
        if active.prove() {
            // The updater is gone only when the agent ends.
            let _ = self.verdicts.send(Verdict::Answered(active.deployment.generation));
        }
    }

    /// A network cannot be executed.
    pub fn broken(&self, active: &Active, error: String) {
        let _ = self.verdicts.send(Verdict::Broken(active.deployment.generation, error));
    }
}

/// Why a deployment is not taken.
enum NotTaken {
    /// It may work later.
    Later(String),
    /// It will not work before it is another one.
    Refused(String),
}

impl From<BackendError> for NotTaken {
    fn from(error: BackendError) -> Self {
        Self::Later(error.to_string())
    }
}

/// Keeps the deployment up to date.
pub(crate) struct Updater {
    state: Arc<State>,
    backend: Backend,
    owner: Signer,
    threads: usize,
    poll: Duration,
    backoff: Backoff,
    metrics: Arc<Metrics>,
    running: Running,
    /// Generation that was refused since the agent started, and why.
    refused: Option<(u64, String)>,
    active: watch::Sender<Option<Arc<Active>>>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    stop: CancellationToken,
}

impl Updater {
    /// Loads what ran last, if that is possible: the agent works without the backend.
    pub async fn start(
        config: &Config,
        state: Arc<State>,
        backend: Backend,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<(Self, Slot), ServiceError> {
        let running = state.running()?;
        let (active, receiver) = watch::channel(None);
        let (sender, verdicts) = mpsc::unbounded_channel();
        let mut updater = Self {
            owner: config.owner()?,
            threads: config.threads.map_or(0, usize::from),
            poll: config.backend.poll_seconds.0,
            backoff: Backoff::new(config.backend.retry_max_seconds.0),
            state,
            backend,
            metrics,
            running,
            refused: None,
            active,
            verdicts,
            stop,
        };
        updater.resume().await?;
        Ok((updater, Slot { active: receiver, verdicts: sender }))
    }

    async fn resume(&mut self) -> Result<(), ServiceError> {
        for deployment in [self.running.current.clone(), self.running.previous.clone()].into_iter().flatten() {
            match self.load(&deployment).await {
                Ok(processor) => {
                    let proven = self.running.previous.is_none();
                    self.put(deployment, processor, proven)?;
                    break;
                }
                Err(NotTaken::Later(why) | NotTaken::Refused(why)) => self.metrics.trouble(
                    Part::Update,
                    format!("the bundle of {}@{} cannot be loaded: {why}", deployment.name, deployment.version),
                ),
            }
        }
        let running = self.running.clone();
        self.state.clean(&running, None);
        Ok(())
    }

    /// Asks until the agent ends.
    pub async fn run(mut self) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                verdict = self.verdicts.recv() => {
                    if let Some(verdict) = verdict {
                        let kept = self.take_verdict(verdict);
                        self.report(kept);
                    }
                    continue;
                }
                () = tokio::time::sleep(wait) => {}
            }
            wait = match self.step().await {
                Ok(()) => {
                    self.backoff.reset();
                    jittered(self.poll, JITTER)
                }
                Err(why) => {
                    self.metrics.poll_failures.add(1);
                    self.metrics.trouble(Part::Update, why);
                    self.backoff.next(None)
                }
            };
        }
    }

    /// One question and what follows from it; an error is worth a new attempt soon.
    async fn step(&mut self) -> Result<(), String> {
        let stop = self.stop.clone();
        let found = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            found = self.backend.deployment() => found,
        };
        let found = found.map_err(|e| e.to_string())?;
        let Some(deployment) = found else {
            self.withdraw().map_err(|e| e.to_string())?;
            self.metrics.well(Part::Update);
            return Ok(());
        };
        let taken = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = self.consider(deployment.clone()) => taken,
        };
        match taken {
            Ok(()) => {
                self.metrics.well(Part::Update);
                Ok(())
            }
            Err(NotTaken::Later(why)) => Err(why),
            Err(NotTaken::Refused(why)) => {
                if self.refused.as_ref().is_none_or(|(generation, _)| *generation != deployment.generation) {
                    self.metrics.bundles_refused.add(1);
                }
                self.metrics.trouble(Part::Update, why.clone());
                self.refused = Some((deployment.generation, why));
                let running =
                    Running { generation: deployment.generation.max(self.running.generation), ..self.running.clone() };
                self.keep(running).map_err(|e| e.to_string())
            }
        }
    }

    /// Takes a deployment if it is newer than what was seen.
    async fn consider(&mut self, deployment: Deployment) -> Result<(), NotTaken> {
        check(&deployment).map_err(NotTaken::Refused)?;
        if deployment.generation < self.running.generation {
            self.metrics.bundles_stale.add(1);
            tracing::warn!(
                generation = deployment.generation,
                newest = self.running.generation,
                "a deployment older than one seen before is ignored"
            );
            return Ok(());
        }
        if self.running.current.as_ref() == Some(&deployment) && self.active.borrow().is_some() {
            return Ok(());
        }
        if let Some((_, why)) = self.refused.as_ref().filter(|(generation, _)| *generation == deployment.generation) {
            return Err(NotTaken::Refused(why.clone()));
        }
        self.state.clean(&self.running, Some(&deployment));
        self.fetch(&deployment).await?;
        let processor = match self.load(&deployment).await {
            Ok(processor) => processor,
            Err(why) => {
                if self.running.current.as_ref().is_none_or(|current| current.sha256 != deployment.sha256) {
                    let _ = std::fs::remove_file(self.state.bundle(&deployment));
                }
                return Err(why);
            }
        };
        self.metrics.bundles_taken.add(1);
        tracing::info!(
            model = deployment.model,
            name = deployment.name,
            version = deployment.version,
            generation = deployment.generation,
            "a bundle is put to use"
        );
        self.put(deployment, processor, false).map_err(|e| NotTaken::Later(e.to_string()))
    }

    /// Loads a bundle that is there: its integrity, its signature and its program are checked on the way.
    async fn load(&self, deployment: &Deployment) -> Result<Processor, NotTaken> {
        let (path, wanted) = (self.state.bundle(deployment), deployment.clone());
        let options = Options { trust: Some(self.owner), threads: self.threads, kernel: None };
        let loaded = tokio::task::spawn_blocking(move || load(&path, &wanted, &options)).await;
        loaded.map_err(|e| NotTaken::Refused(format!("the bundle cannot be loaded: internal error: {e}")))?
    }

    /// Puts a network to use; the one that has answered last is kept until this one has.
    fn put(&mut self, deployment: Deployment, processor: Processor, proven: bool) -> Result<(), ServiceError> {
        let old = self.active.borrow().clone();
        let previous = if proven {
            None
        } else {
            old.and_then(|old| if old.proven.load(Ordering::Relaxed) { Some(old) } else { old.previous() })
        };
        let running = Running {
            generation: deployment.generation.max(self.running.generation),
            current: Some(deployment.clone()),
            previous: match &previous {
                Some(active) => Some(active.deployment.clone()),
                // On a start: what is not loaded can still be fallen back to by the next start.
                None if !proven => self.running.previous.clone().filter(|p| *p != deployment),
                None => None,
            },
        };
        self.keep(running)?;
        self.metrics.runs(Some(&deployment));
        let active = Active { deployment, processor, proven: AtomicBool::new(proven), previous: Mutex::new(previous) };
        self.active.send_replace(Some(Arc::new(active)));
        Ok(())
    }

    /// Nothing is to run.
    fn withdraw(&mut self) -> Result<(), ServiceError> {
        if self.running.current.is_some() {
            tracing::info!("the deployment was withdrawn: samples wait");
            self.keep(Running { generation: self.running.generation, ..Running::default() })?;
            self.metrics.runs(None);
            self.active.send_replace(None);
            self.state.clean(&self.running, None);
        }
        Ok(())
    }

    fn take_verdict(&mut self, verdict: Verdict) -> Result<(), ServiceError> {
        let Some(active) = self.active.borrow().clone() else { return Ok(()) };
        match verdict {
            Verdict::Answered(generation) if generation == active.deployment.generation => {
                *active.previous.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.keep(Running { previous: None, ..self.running.clone() })?;
                self.state.clean(&self.running, None);
                Ok(())
            }
            Verdict::Broken(generation, why) if generation == active.deployment.generation => {
                let Some(previous) = active.previous() else { return Ok(()) };
                self.metrics.bundles_refused.add(1);
                self.metrics.trouble(Part::Update, why.clone());
                self.refused = Some((generation, why));
                self.keep(Running {
                    current: Some(previous.deployment.clone()),
                    previous: None,
                    generation: self.running.generation,
                })?;
                self.metrics.runs(Some(&previous.deployment));
                self.active.send_replace(Some(previous));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn keep(&mut self, running: Running) -> Result<(), ServiceError> {
        if running != self.running {
            self.state.runs(&running)?;
            self.running = running;
        }
        Ok(())
    }

    fn report(&self, kept: Result<(), ServiceError>) {
        if let Err(error) = kept {
            self.metrics.trouble(Part::Update, error.to_string());
        }
    }
}

fn load(path: &Path, deployment: &Deployment, options: &Options) -> Result<Processor, NotTaken> {
    let processor = Processor::load(path, options).map_err(|e| match e {
        // A kernel that is not there, a file that cannot be opened now.
        EdgeError::Engine(_) => NotTaken::Later(e.to_string()),
        e => NotTaken::Refused(format!("the bundle of {}@{} is refused: {e}", deployment.name, deployment.version)),
    })?;
    let manifest = processor.manifest();
    if (manifest.id.as_str(), manifest.version) != (deployment.model.as_str(), deployment.version) {
        return Err(NotTaken::Refused(format!(
            "the bundle of {}@{} is refused: it holds {}@{} ({}), which is not what was deployed",
            deployment.name, deployment.version, manifest.name, manifest.version, manifest.id
        )));
    }
    Ok(processor)
}

/// The digest becomes a file's name.
fn check(deployment: &Deployment) -> Result<(), String> {
    let sound = deployment.sha256.len() == 64
        && deployment.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if sound && deployment.bytes > 0 {
        Ok(())
    } else {
        Err("the backend's deployment is refused: it names no bundle by its SHA-256 and length".into())
    }
}
