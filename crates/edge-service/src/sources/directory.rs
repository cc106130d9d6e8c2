//! A watched directory: every file of a known format is read once it has settled, and remembered by name, size and time of change.

use super::Intake;
use crate::backoff::sleep;
use crate::config::{After, Directory};
use crate::metrics::Part;
use crate::sample::{About, Fate};
use crate::store::FileState;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subrosa_fleet::SampleId;
use tokio::sync::Semaphore;

/// Files in work at a time at most.
const FILES: usize = 16;
/// Samples of one file in work at a time.
const SAMPLES: usize = 64;
/// Unit of the memory that files in work take together.
const UNIT: u64 = 1 << 12;

/// A watched directory.
pub(crate) struct DirectorySource {
    intake: Intake,
    settings: Directory,
    source: Arc<str>,
    memory: Arc<Semaphore>,
    units: u32,
}

/// How reading a file ended.
enum Read {
    Done {
        kept: bool,
    },
    /// The agent ends, or the file is to be tried again.
    NotYet,
}

impl DirectorySource {
    pub fn new(intake: Intake, settings: Directory) -> Arc<Self> {
        let name = settings.name.clone().unwrap_or_else(|| settings.path.display().to_string());
        let units = u32::try_from((settings.max_file_bytes / UNIT).max(1)).unwrap_or(u32::MAX >> 4);
        let memory = Arc::new(Semaphore::new(units as usize));
        Arc::new(Self { intake, settings, source: format!("directory {name}").into(), memory, units })
    }

    /// Looks again and again until the agent ends.
    pub async fn run(self: Arc<Self>) {
        let Some(known) = self.intake.store.files(&self.source).await else { return };
        let mut known: HashMap<String, FileState> = known.into_iter().map(|f| (f.name.clone(), f)).collect();
        let mut work = FuturesUnordered::new();
        let mut in_work: HashSet<String> = HashSet::new();
        loop {
            let mut waiting = match self.list() {
                Ok(found) => {
                    self.intake.metrics.well_of(Part::Source, &self.source);
                    if self.forget(&mut known, &found).await.is_none() {
                        return;
                    }
                    self.finish_known(&known, &found);
                    found.into_iter().filter(|file| self.is_due(file, &known, &in_work)).collect()
                }
                Err(error) => {
                    let path = self.settings.path.display();
                    self.intake.metrics.trouble_of(
                        Part::Source,
                        &self.source,
                        format!("{path}: cannot be read: {error}"),
                    );
                    Vec::new()
                }
            }
            .into_iter();
            // Files are taken in the order of their names; the next look waits until all of this one are begun.
            loop {
                while work.len() < FILES {
                    let Some(file) = waiting.next() else { break };
                    in_work.insert(file.name.clone());
                    let this = Arc::clone(&self);
                    work.push(async move {
                        let read = this.read(&file).await;
                        (file, read)
                    });
                }
                if work.is_empty() {
                    break;
                }
                let ended = tokio::select! {
                    () = self.intake.stop.cancelled() => return,
                    ended = work.next() => ended,
                    // Long files do not keep new ones waiting.
                    () = tokio::time::sleep(self.settings.scan_seconds.0), if waiting.len() == 0 => break,
                };
                let Some((file, read)) = ended else { break };
                in_work.remove(&file.name);
                if let Read::Done { kept } = read {
                    known.insert(file.name.clone(), FileState { kept, ..file });
                }
            }
            if work.is_empty() && !sleep(&self.intake.stop, self.settings.scan_seconds.0).await {
                return;
            }
        }
    }

    /// Regular files of the directory, by name.
    fn list(&self) -> io::Result<Vec<FileState>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.settings.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let unfinished = [".tmp", ".part", "~"].iter().any(|end| name.ends_with(end));
            // What vanishes meanwhile is not there.
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            if name.starts_with('.') || unfinished || !metadata.is_file() {
                continue;
            }
            let changed = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            let changed = u64::try_from(changed.as_nanos()).unwrap_or(u64::MAX >> 1);
            out.push(FileState { name, size: metadata.len(), changed, kept: false });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    /// Whether a file is new and has settled.
    fn is_due(&self, file: &FileState, known: &HashMap<String, FileState>, in_work: &HashSet<String>) -> bool {
        let done = known.get(&file.name).is_some_and(|k| (k.size, k.changed) == (file.size, file.changed));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.saturating_sub(Duration::from_nanos(file.changed));
        !done && !in_work.contains(&file.name) && age >= self.settings.settle_seconds.0
    }

    /// Forgets files that are gone.
    async fn forget(&self, known: &mut HashMap<String, FileState>, found: &[FileState]) -> Option<()> {
        let there: HashSet<&str> = found.iter().map(|f| f.name.as_str()).collect();
        let gone: Vec<String> = known.keys().filter(|name| !there.contains(name.as_str())).cloned().collect();
        if !gone.is_empty() {
            known.retain(|name, _| there.contains(name.as_str()));
            self.intake.store.forget_files(&self.source, gone).await?;
        }
        Some(())
    }

    /// Moves or deletes what was done when the agent was stopped before it could.
    fn finish_known(&self, known: &HashMap<String, FileState>, found: &[FileState]) {
        for file in found {
            let same = |k: &&FileState| (k.size, k.changed) == (file.size, file.changed) && !k.kept;
            if known.get(&file.name).filter(same).is_some() {
                self.put_away(&file.name);
            }
        }
    }

    async fn read(&self, file: &FileState) -> Read {
        let path = self.settings.path.join(&file.name);
        if file.size > self.settings.max_file_bytes {
            let limit = self.settings.max_file_bytes;
            return self.refuse(file, &format!("larger than max_file_bytes ({limit}): split it")).await;
        }
        let units = u32::try_from(file.size.div_ceil(UNIT)).unwrap_or(self.units).clamp(1, self.units);
        let Ok(_memory) = self.memory.acquire_many(units).await else { return Read::NotYet };
        let reading = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || read(&path))
        };
        let data = match reading.await {
            Ok(Ok(data)) => data,
            Ok(Err(subrosa_input::InputError::Io { source, .. })) => {
                tracing::warn!("{}: cannot be read: {source}; it is tried again", path.display());
                return Read::NotYet;
            }
            Ok(Err(error)) => return self.refuse(file, &error.to_string()).await,
            Err(_) => return self.refuse(file, "internal error while it was read").await,
        };
        let key: Arc<str> = format!("{} {} {} {}", self.source, file.name, file.size, file.changed).into();
        let position = |i: usize| format!("{} {} {} {i}", file.name, file.size, file.changed);
        let ids = (0..data.count).map(|i| SampleId::of(&self.source, &position(i))).collect();
        let Some(seen) = self.intake.store.seen(ids).await else { return Read::NotYet };
        let (mut fates, mut kept) = (FuturesUnordered::new(), false);
        for i in seen.iter().enumerate().filter_map(|(i, seen)| seen.is_none().then_some(i)) {
            let label = if data.count == 1 { file.name.clone() } else { format!("{} #{i}", file.name) };
            let about = About { file: Some(Arc::clone(&key)), ..About::new(&self.source, &position(i), &label) };
            let Some(sample) = data.sample(i) else { continue };
            let Some(fate) = self.intake.hand_in(about, sample).await else { return Read::NotYet };
            fates.push(fate);
            if fates.len() >= SAMPLES {
                let Some(Ok(fate)) = fates.next().await else { return Read::NotYet };
                kept |= matches!(fate, Fate::Rejected(_));
            }
        }
        while let Some(fate) = fates.next().await {
            let Ok(fate) = fate else { return Read::NotYet };
            kept |= matches!(fate, Fate::Rejected(_));
        }
        self.done(file, kept, &key).await
    }

    /// All samples are durable: the file is remembered, then put away.
    async fn done(&self, file: &FileState, kept: bool, key: &str) -> Read {
        let state = FileState { kept, ..file.clone() };
        if self.intake.store.file_done(&self.source, state, key).await.is_none() {
            return Read::NotYet;
        }
        if !kept {
            self.put_away(&file.name);
        }
        Read::Done { kept }
    }

    /// A file that cannot be used stays where it is and is not read again unless it changes.
    async fn refuse(&self, file: &FileState, why: &str) -> Read {
        tracing::warn!("{}: refused: {why}", self.settings.path.join(&file.name).display());
        self.intake.metrics.rejected.add(1);
        self.done(file, true, "").await
    }

    fn put_away(&self, name: &str) {
        let path = self.settings.path.join(name);
        let result = match (&self.settings.after, &self.settings.move_to) {
            (After::Keep, _) => return,
            (After::Delete, _) => std::fs::remove_file(&path),
            (After::Move, Some(to)) => move_into(&path, to, name),
            (After::Move, None) => return,
        };
        if let Err(error) = result {
            tracing::warn!("{}: cannot be put away: {error}", path.display());
        }
    }
}

fn read(path: &Path) -> Result<subrosa_input::Dataset, subrosa_input::InputError> {
    subrosa_input::read(&path.to_string_lossy(), None)
}

/// Moves a file, without overwriting one of the same name.
fn move_into(path: &Path, directory: &Path, name: &str) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let free = |path: &PathBuf| !path.exists();
    let numbered = (0..10_000).map(|i| directory.join(if i == 0 { name.to_owned() } else { format!("{name}.{i}") }));
    let target = numbered.into_iter().find(free).ok_or(io::ErrorKind::AlreadyExists)?;
    std::fs::rename(path, target)
}
