//! From samples to encrypted results: what sources hand in is evaluated on the pool's threads and made durable.

use crate::config::{Policy, Queue};
use crate::metrics::{Metrics, Part};
use crate::sample::Sample;
use crate::store::{Finish, Outcome, Store};
use crate::update::{Active, Slot};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use subrosa_edge_agent::EdgeError;
use subrosa_input::Dataset;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Samples beyond the number of threads that may wait for their commit.
const AHEAD: usize = 8;

/// Takes samples in their order, when there is room for their results.
pub(crate) struct Dispatcher {
    pub samples: mpsc::Receiver<Sample>,
    pub slot: Slot,
    pub store: Store,
    pub gate: Gate,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// Whether the queue has room.
#[derive(Clone)]
pub(crate) struct Gate {
    limits: Queue,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
    places: usize,
}

impl Gate {
    pub fn new(limits: Queue, metrics: Arc<Metrics>) -> Self {
        let places = rayon::current_num_threads() + AHEAD;
        Self { limits, metrics, permits: Arc::new(Semaphore::new(places)), places }
    }

    /// Whether a result would find the queue full, those in evaluation counted in.
    pub fn is_full(&self) -> bool {
        let in_work = self.places.saturating_sub(self.permits.available_permits()) as u64;
        self.metrics.queued.get() + in_work >= self.limits.max_results
            || self.metrics.queued_bytes.get() >= self.limits.max_bytes
    }

    /// The policy.
    pub fn policy(&self) -> Policy {
        self.limits.policy
    }
}

impl Dispatcher {
    /// Runs until the agent ends, then waits for what is in evaluation.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.dispatch() => {}
        }
        let places = u32::try_from(self.gate.places).unwrap_or(u32::MAX);
        // Fails only if the semaphore were closed.
        let _ = self.gate.permits.acquire_many(places).await;
    }

    async fn dispatch(&mut self) {
        while let Some(sample) = self.samples.recv().await {
            self.metrics.acquired(&sample.about.source);
            if self.gate.policy() == Policy::ShedNewest && self.gate.is_full() {
                self.store.finish(finish(sample, Outcome::Shed, None));
                continue;
            }
            if self.gate.policy() == Policy::Block {
                self.room().await;
            }
            let active = match self.slot.active.wait_for(Option::is_some).await {
                Ok(active) => active.clone(),
                Err(_) => return,
            };
            let (Some(active), Ok(permit)) = (active, Arc::clone(&self.gate.permits).acquire_owned().await) else {
                return;
            };
            if sample.done.is_closed() {
                continue;
            }
            let (store, slot, metrics) = (self.store.clone(), self.slot.clone(), Arc::clone(&self.metrics));
            rayon::spawn(move || evaluate(sample, active, permit, &store, &slot, &metrics));
        }
    }

    /// Waits until the queue has room.
    async fn room(&self) {
        loop {
            let changed = self.store.changed.notified();
            if !self.gate.is_full() {
                break;
            }
            self.metrics.blocked.set(1);
            changed.await;
        }
        self.metrics.blocked.set(0);
    }
}

fn finish(sample: Sample, outcome: Outcome, permit: Option<OwnedSemaphorePermit>) -> Finish {
    Finish { about: sample.about, outcome, done: sample.done, settled: sample.settled, _permit: permit }
}

fn evaluate(
    sample: Sample,
    mut active: Arc<Active>,
    permit: OwnedSemaphorePermit,
    store: &Store,
    slot: &Slot,
    metrics: &Metrics,
) {
    let outcome = loop {
        let start = Instant::now();
        let error = match catch_unwind(AssertUnwindSafe(|| infer(&active, &sample.data))) {
            Ok(Ok(payload)) => {
                metrics.inferred(start.elapsed().as_secs_f64());
                metrics.well(Part::Evaluation);
                slot.answered(&active);
                let manifest = active.processor.manifest();
                break Outcome::Result { model: manifest.id.clone(), version: manifest.version, payload };
            }
            Ok(Err(error)) if !is_the_networks_fault(&error) => {
                tracing::warn!(source = &*sample.about.source, label = sample.about.label, "sample refused: {error}");
                break Outcome::Rejected(error.to_string());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "internal error, please report it".to_owned(),
        };
        let deployment = &active.deployment;
        let why = format!("{}@{} cannot be evaluated: {error}", deployment.name, deployment.version);
        let Some(previous) = active.previous() else {
            metrics.trouble(Part::Evaluation, why.clone());
            break Outcome::Rejected(why);
        };
        slot.broken(&active, why);
        active = previous;
    };
    store.finish(finish(sample, outcome, Some(permit)));
}

/// The packed result ciphertexts of one sample.
fn infer(active: &Active, data: &Dataset) -> Result<Vec<u8>, EdgeError> {
    let processor = &active.processor;
    let sample = processor.preprocess(data)?;
    let features = processor.features(sample.count, &sample.data)?;
    let result = processor.infer(&processor.prepare(&features)?)?;
    let mut payload = Vec::new();
    for ciphertext in result {
        payload.extend(ciphertext.to_bytes(processor.parameters()).map_err(EdgeError::Engine)?);
    }
    Ok(payload)
}

/// Errors that other samples would meet too.
fn is_the_networks_fault(error: &EdgeError) -> bool {
    matches!(error, EdgeError::Program(_) | EdgeError::Engine(_) | EdgeError::File(_))
}
