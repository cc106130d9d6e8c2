//! Background jobs: protecting uploaded networks.
//!
//! A job is claimed by a lease that its progress extends. If its process dies another takes it up from the beginning: what is half done is
//! not in the registry.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Dataset, Preprocess};
use subrosa_network::{Scope, Substitutions};
use subrosa_owner::{Progress, ProtectRequest};
use subrosa_registry::fleet::JobRow;
use utoipa::ToSchema;

use crate::error::{Answer, ApiError};
use crate::shared_vault;
use crate::state::{App, upload_key};
use crate::stop::Stop;
use crate::workers::housekeeping::remove_upload;

/// The kind of job that protects a network.
pub(crate) const PROTECT: &str = "protect";
/// How long a claim holds when its process dies, milliseconds.
const LEASE: i64 = 60_000;
/// How often it is extended.
const KEEP: Duration = Duration::from_secs(15);
/// How often progress is written.
const BEAT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(2);

/// How an uploaded network is to be protected; the fields are the flags of `subrosa protect`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Protect {
    /// Its name in the registry; a name that exists gets a new version.
    name: String,
    /// The upload with the network, an ONNX file.
    network: String,
    /// The upload with samples to take the ranges from.
    #[serde(default)]
    calibrate: Option<String>,
    /// The upload with their classes.
    #[serde(default)]
    labels: Option<String>,
    /// last, classifier (default), all or from:LAYER.
    #[serde(default)]
    scope: Option<String>,
    /// plain or encrypted (default).
    #[serde(default)]
    input: Option<String>,
    /// Polynomials in the place of activations, each as in relu=x2+2x.
    #[serde(default)]
    activations: Vec<String>,
    /// How pixels become the network's input, as in scale=1/255.
    #[serde(default)]
    preprocess: Option<String>,
    /// Bits of security: 128 (default), 192 or 256.
    #[serde(default)]
    security: Option<u32>,
    /// Replace activations even where the cost is not known.
    #[serde(default)]
    force: bool,
    /// Evaluate layers without an activation between them one by one.
    #[serde(default)]
    unfolded: bool,
    /// Names of the classes; they stay with the owner.
    #[serde(default)]
    classes: Option<Vec<String>>,
    /// Most bytes that keys and weights may take on the edge.
    #[serde(default)]
    memory_limit: Option<u64>,
}

/// A request whose texts are understood.
struct Understood {
    scope: Scope,
    encrypted_input: bool,
    substitutions: Substitutions,
    preprocess: Option<Preprocess>,
    security: SecurityLevel,
}

impl Protect {
    /// Refuses what could not be protected so, before it is queued.
    pub fn check(&self) -> Answer<()> {
        subrosa_registry::validate_name(&self.name).map_err(|e| ApiError::bad(e.to_string()))?;
        if self.labels.is_some() && self.calibrate.is_none() {
            return Err(ApiError::bad("labels: they are those of calibration samples; give calibrate too"));
        }
        self.understood().map(|_| ())
    }

    /// Ids of the uploads that it takes.
    pub fn uploads(&self) -> impl Iterator<Item = &String> {
        [Some(&self.network), self.calibrate.as_ref(), self.labels.as_ref()].into_iter().flatten()
    }

    fn understood(&self) -> Answer<Understood> {
        fn field<T: std::str::FromStr>(name: &str, text: &str) -> Answer<T>
        where
            T::Err: std::fmt::Display,
        {
            text.parse().map_err(|e| ApiError::bad(format!("{name}: {e}")))
        }
        let scope = self.scope.as_deref().map_or(Ok(Scope::default()), |text| field("scope", text))?;
        let encrypted_input = match self.input.as_deref() {
            None | Some("encrypted") => true,
            Some("plain") => false,
            Some(_) => return Err(ApiError::bad("input: plain or encrypted")),
        };
        let mut substitutions = Substitutions::none();
        for text in &self.activations {
            substitutions.extend(&field("activations", text)?);
        }
        let preprocess = self.preprocess.as_deref().map(|text| field("preprocess", text)).transpose()?;
        let security = SecurityLevel::from_bits(self.security.unwrap_or(128));
        let security = security.map_err(|_| ApiError::bad("security: 128, 192 or 256"))?;
        Ok(Understood { scope, encrypted_input, substitutions, preprocess, security })
    }
}

/// Works until it is told to stop; a job that is under way is finished by another process, or at the next start.
pub(crate) async fn run(app: Arc<App>, mut stop: Stop) {
    loop {
        let queued = app.queued.notified();
        let claimed = app.blocking(|app| Ok(app.fleet.claim_job(&app.worker, LEASE)?)).await;
        match claimed {
            Ok(Some(job)) => {
                tokio::select! {
                    () = keep(&app, job.id.clone()) => {}
                    () = work(&app, job) => {}
                    () = stop.wait() => return,
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::error!(error = error.inside.as_deref().unwrap_or(&error.detail), "jobs wait"),
        }
        tokio::select! {
            () = queued => {}
            () = tokio::time::sleep(IDLE) => {}
            () = stop.wait() => return,
        }
    }
}

/// Extends a job's lease; ends if another process has the job.
async fn keep(app: &Arc<App>, job: String) {
    loop {
        tokio::time::sleep(KEEP).await;
        let id = job.clone();
        let kept = app.blocking(move |app| Ok(app.fleet.keep_job(&app.worker, &id, LEASE)?)).await;
        if let Ok(false) = kept {
            tracing::error!(job, "a job was taken over by another process: this one was away too long");
            return;
        }
    }
}

async fn work(app: &Arc<App>, job: JobRow) {
    let outcome = match serde_json::from_value::<Protect>(job.request.clone()) {
        Ok(wanted) => protect(app, &job.id, wanted.clone()).await.map(|report| (wanted, report)),
        Err(error) => Err(ApiError::bad(format!("the job's request is not understood: {error}"))),
    };
    let id = job.id.clone();
    let (wanted, written) = match outcome {
        Ok((wanted, report)) => {
            let written = app.blocking(move |app| Ok(app.fleet.finish(&app.worker, &id, Ok(&report))?)).await;
            (Some(wanted), written)
        }
        Err(error) => {
            if let Some(inside) = &error.inside {
                tracing::error!(job = job.id, error = inside.as_str(), "a job failed");
            }
            (None, app.blocking(move |app| Ok(app.fleet.finish(&app.worker, &id, Err(&error.detail))?)).await)
        }
    };
    if let Err(error) = written {
        tracing::error!(
            job = job.id,
            error = error.inside.as_deref().unwrap_or(&error.detail),
            "a job's end was not written"
        );
        return;
    }
    // Those of a failed job are kept for another try.
    for upload in wanted.iter().flat_map(Protect::uploads) {
        if let Err(error) = remove_upload(app, upload).await {
            tracing::warn!(upload, error = error.detail, "an upload was not removed");
        }
    }
}

/// Protects and gives what is to be kept of the report.
async fn protect(app: &Arc<App>, job: &str, wanted: Protect) -> Answer<Json> {
    let directory = tempfile::tempdir_in(app.owner.home()).map_err(ApiError::inside)?;
    let mut files = Vec::new();
    for id in wanted.uploads() {
        let upload = id.clone();
        let row = app.blocking(move |app| Ok(app.fleet.upload(&upload)?)).await?;
        let row = row.ok_or_else(|| ApiError::bad("an upload of this job is gone: upload it again"))?;
        let file = directory.path().join(&row.id).with_file_name(&row.name);
        // Two uploads of a job may have one name.
        let file = if files.contains(&file) { directory.path().join(format!("{}-{}", row.id, row.name)) } else { file };
        if !app.store.fetch(&upload_key(&row.id), &file).await? {
            return Err(ApiError::bad("an upload of this job is gone: upload it again"));
        }
        files.push(file);
    }
    let id = job.to_owned();
    let place = directory.path().display().to_string() + "/";
    let report = app
        .blocking(move |app| {
            let shown = Shown::new(app, id);
            protect_now(app, &wanted, &files, &shown).map_err(|error| {
                // Where the files lie is nobody's affair.
                ApiError { detail: error.detail.replace(&place, ""), ..error }
            })
        })
        .await?;
    if app.vault_in_store {
        shared_vault::push(app.owner.home(), &app.store).await.map_err(ApiError::inside)?;
    }
    drop(directory);
    Ok(report)
}

fn protect_now(app: &App, wanted: &Protect, files: &[std::path::PathBuf], shown: &Shown<'_>) -> Answer<Json> {
    let Understood { scope, encrypted_input, substitutions, preprocess, security } = wanted.understood()?;
    let mut files = files.iter();
    let network = files.next().ok_or_else(|| ApiError::inside("a job without a network"))?;
    let onnx = std::fs::read(network).map_err(ApiError::inside)?;
    let calibrate = wanted.calibrate.as_ref().and_then(|_| files.next()).map(|file| samples(file)).transpose()?;
    let calibrate = match (calibrate, wanted.labels.as_ref().and_then(|_| files.next())) {
        (Some(data), Some(labels)) => Some(with_labels(data, labels)?),
        (data, _) => data,
    };
    let request = ProtectRequest {
        scope,
        encrypted_input,
        substitutions,
        preprocess,
        calibrate: calibrate.as_ref(),
        security,
        force: wanted.force,
        fold: !wanted.unfolded,
        classes: wanted.classes.clone(),
        memory_limit: wanted.memory_limit,
        ..ProtectRequest::new(&onnx, &wanted.name)
    };
    shown.begin("planning", 1);
    let report = app.owner.protect(&request, &app.vault, shown);
    subrosa_fhe::release_free_buffers();
    let report = report.map_err(|error| match ApiError::from(error) {
        // What cannot be protected is the request's fault; its text says why.
        ApiError { inside: Some(inside), .. } => ApiError { inside: None, ..ApiError::bad(inside) },
        error => error,
    })?;
    // It is protected, whatever comes of this.
    let warnings: Vec<String> = app.agent(&report.id).ok().and_then(|agent| agent.warning()).into_iter().collect();
    let (id, seconds) = (&report.id, report.protect_seconds);
    Ok(json!({ "model": id, "name": report.name, "version": report.version, "seconds": seconds, "warnings": warnings }))
}

fn samples(file: &Path) -> Answer<Dataset> {
    subrosa_input::read(&file.to_string_lossy(), None).map_err(|e| ApiError::bad(e.to_string()))
}

fn with_labels(mut data: Dataset, file: &Path) -> Answer<Dataset> {
    let labels = subrosa_input::read_labels(&file.to_string_lossy()).map_err(|e| ApiError::bad(e.to_string()))?;
    if labels.len() != data.count {
        let (labels, samples) = (labels.len(), data.count);
        return Err(ApiError::bad(format!("{labels} labels and {samples} calibration samples: give one for each")));
    }
    data.labels = Some(labels);
    Ok(data)
}

/// Progress, written into the job's row now and then.
struct Shown<'a> {
    app: &'a App,
    job: String,
    state: Mutex<Step>,
}

struct Step {
    name: String,
    total: usize,
    done: usize,
    written: Instant,
}

impl<'a> Shown<'a> {
    fn new(app: &'a App, job: String) -> Self {
        let state = Step { name: String::new(), total: 1, done: 0, written: Instant::now() };
        Self { app, job, state: Mutex::new(state) }
    }

    fn update(&self, always: bool, change: impl FnOnce(&mut Step)) {
        let mut step = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut step);
        if !always && step.written.elapsed() < BEAT {
            return;
        }
        step.written = Instant::now();
        let share = step.done as f64 / step.total.max(1) as f64;
        // Not being able to tell is no reason to stop.
        if let Err(error) = self.app.fleet.progress(&self.app.worker, &self.job, &step.name, share.min(1.0)) {
            tracing::warn!(job = self.job, %error, "a job's progress was not written");
        }
    }
}

impl Progress for Shown<'_> {
    fn begin(&self, task: &str, total: usize) {
        self.update(true, |step| (step.name, step.total, step.done) = (task.to_owned(), total, 0));
    }

    fn advance(&self, parts: usize) {
        self.update(false, |step| step.done += parts);
    }

    fn end(&self) {
        self.update(true, |step| step.done = step.total);
    }
}
