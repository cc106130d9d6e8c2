//! Frames at a rate: the image files of a directory one after the other, or an address that answers with the frame of the moment.

use super::Intake;
use crate::backend::{client, limited_to, tls};
use crate::config::Camera;
use crate::error::ServiceError;
use crate::metrics::{Part, Shed};
use crate::sample::{About, now};
use reqwest::Client;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use subrosa_input::{Dataset, image_files};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// Bytes of one frame at most.
const MAX_FRAME: usize = 64 << 20;
/// Longest wait for a frame.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Frames before the last durable one that are looked at again on a start: more than can be in work at a time.
const LOOK_BACK: u64 = 1024;

/// A camera or what stands for one.
pub(crate) struct CameraSource {
    intake: Intake,
    settings: Camera,
    source: Arc<str>,
    client: Client,
}

impl CameraSource {
    pub fn new(intake: Intake, settings: Camera) -> Result<Self, ServiceError> {
        let client = client(tls("source.camera.ca", settings.ca.as_deref())?, TIMEOUT)?;
        Ok(Self { intake, source: format!("camera {}", settings.name).into(), settings, client })
    }

    /// Runs until the last frame or the agent's end.
    pub async fn run(self) {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / self.settings.rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let work = async {
            match (&self.settings.path, &self.settings.url) {
                (Some(path), _) => drop(self.files(path, &mut ticks).await),
                (None, Some(url)) => drop(self.address(url, &mut ticks).await),
                (None, None) => {}
            }
        };
        tokio::select! {
            () = self.intake.stop.cancelled() => {}
            () = work => {}
        }
    }

    fn trouble(&self, text: String) {
        self.intake.metrics.rejected.add(1);
        self.intake.metrics.trouble_of(Part::Source, &self.source, text);
    }

    /// The files of a directory in the order of their names; none is left out, however late it gets. How far it is counts across
    /// starts: the upper half is the pass through the directory, the lower one the file.
    async fn files(&self, path: &Path, ticks: &mut Interval) -> Option<()> {
        let done = self.intake.store.progress(&self.source).await?;
        let (mut pass, mut from) = (done >> 32, (done & u64::from(u32::MAX)).saturating_sub(LOOK_BACK));
        loop {
            let files = match image_files(path) {
                Ok(files) => files,
                Err(error) => {
                    self.trouble(error.to_string());
                    Vec::new()
                }
            };
            if files.is_empty() {
                tokio::time::sleep(TIMEOUT).await;
                continue;
            }
            for (index, file) in files.into_iter().enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
                self.file(pass, index, file, ticks).await?;
            }
            if !self.settings.repeat {
                tracing::info!("{}: the last frame is handed in", self.source);
                return None;
            }
            (pass, from) = (pass + 1, 0);
        }
    }

    async fn file(&self, pass: u64, index: usize, file: PathBuf, ticks: &mut Interval) -> Option<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let metadata = std::fs::metadata(&file).ok();
        let changed = metadata.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let (size, changed) = (metadata.map_or(0, |m| m.len()), changed.unwrap_or_default().as_nanos());
        let position = format!("pass {pass} {name} {size} {changed}");
        let progress = Some(pass << 32 | index as u64);
        let about = About { progress, ..About::new(&self.source, &position, &name) };
        if self.intake.store.seen(vec![about.id]).await?.into_iter().flatten().next().is_some() {
            return Some(());
        }
        ticks.tick().await;
        let read = tokio::task::spawn_blocking(move || subrosa_input::read(&file.to_string_lossy(), Some(1))).await;
        match read {
            Ok(Ok(data)) => {
                // What becomes of it is durable by itself.
                self.hold(self.intake.hand_in(About { taken_at: now(), ..about }, data).await?);
            }
            Ok(Err(error)) => self.trouble(error.to_string()),
            Err(_) => self.trouble(format!("{name}: internal error while it was read")),
        }
        Some(())
    }

    /// The frame of the moment, again and again; a frame that nobody is free to take before the next is due is given up.
    async fn address(&self, url: &str, ticks: &mut Interval) -> Option<()> {
        loop {
            ticks.tick().await;
            let (taken_at, frame) = (now(), self.fetch(url).await);
            let data = match frame {
                Ok(data) => data,
                Err(error) => {
                    self.trouble(error);
                    continue;
                }
            };
            self.intake.metrics.well_of(Part::Source, &self.source);
            let position = format!("run {} at {taken_at}", self.intake.store.run);
            let label = format!("{} at {taken_at}", self.settings.name);
            let about = About { taken_at, ..About::new(&self.source, &position, &label) };
            match timeout(ticks.period(), self.intake.hand_in(about, data)).await {
                Ok(fate) => self.hold(fate?),
                Err(_) => self.intake.metrics.shed(Shed::Frame, 1),
            }
        }
    }

    async fn fetch(&self, url: &str) -> Result<Dataset, String> {
        let answer = self.client.get(url).timeout(TIMEOUT).send().await;
        let answer = answer.map_err(|e| format!("no frame: {}", e.without_url()))?;
        if !answer.status().is_success() {
            return Err(format!("no frame: the camera answers {}", answer.status()));
        }
        let bytes = limited_to(answer, MAX_FRAME).await.map_err(|_| "the frame broke off or is too long".to_owned())?;
        let read = tokio::task::spawn_blocking(move || subrosa_input::read_bytes("frame", &bytes, Some(1))).await;
        read.map_err(|_| "internal error while a frame was read".to_owned())?.map_err(|e| e.to_string())
    }

    /// Somebody must wait for what becomes of a sample, else it is dropped.
    fn hold(&self, fate: tokio::sync::oneshot::Receiver<crate::sample::Fate>) {
        tokio::spawn(async move { drop(fate.await) });
    }
}
