//! The durable queue: results that wait to be delivered, and which samples are done. One thread owns the database; what arrives while it
//! commits is committed together by the next transaction.

mod database;

pub(crate) use database::{FileState, Queued, Seen};

use crate::config::{Policy, Queue};
use crate::error::ServiceError;
use crate::metrics::{Metrics, Part, Shed};
use crate::sample::{About, Fate};
use database::Sql;
use rusqlite::{Connection, TransactionBehavior};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use subrosa_fleet::{DeviceKey, SampleId, SignedResult, Statement};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

/// Commands of one transaction at most.
const GROUP: usize = 64;
/// Wait before a transaction that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Free pages that are given back to the file system at a time.
const VACUUM: &str = "PRAGMA incremental_vacuum(256)";

/// What became of a sample, with what is to be kept.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its encrypted result.
    Result {
        /// Id of the network.
        model: String,
        /// Its version.
        version: u32,
        /// The packed ciphertexts.
        payload: Vec<u8>,
    },
    /// It was published for the group's workers.
    Published,
    /// It does not fit the network.
    Rejected(String),
    /// It was given up by policy.
    Shed,
}

/// A sample that is to be made durable as done.
pub(crate) struct Finish {
    pub about: About,
    pub outcome: Outcome,
    pub done: oneshot::Sender<Fate>,
    pub settled: Option<oneshot::Sender<()>>,
    /// Given back when the sample is durable.
    pub _permit: Option<OwnedSemaphorePermit>,
}

enum Command {
    Finish(Finish),
    Seen(Vec<SampleId>, oneshot::Sender<Vec<Option<Seen>>>),
    Attach(u64, oneshot::Sender<()>),
    Oldest(usize, u64, oneshot::Sender<Vec<Queued>>),
    Settle(Vec<u64>, oneshot::Sender<()>),
    Files(String, oneshot::Sender<Vec<FileState>>),
    FileDone(String, FileState, String, oneshot::Sender<()>),
    ForgetFiles(String, Vec<String>, oneshot::Sender<()>),
    Progress(String, oneshot::Sender<u64>),
}

/// What a command gives once its transaction is committed.
enum Answer {
    Fate(Fate, Option<u64>),
    Seen(Vec<Option<Seen>>),
    Batch(Vec<Queued>),
    Files(Vec<FileState>),
    Number(u64),
    Nothing,
}

/// Changes of the level of the queue in one transaction.
#[derive(Default)]
struct Changes {
    added: (u64, u64),
    removed: (u64, u64),
    shed: u64,
}

/// The queue as the parts of the agent use it.
#[derive(Clone)]
pub(crate) struct Store {
    commands: Sender<Command>,
    /// Told after every commit that finishes samples or settles results.
    pub changed: Arc<Notify>,
    /// The number of this start of the agent, from 1.
    pub run: u64,
}

/// Who signs results.
pub(crate) struct Device {
    pub id: String,
    pub key: DeviceKey,
}

impl Store {
    /// Opens the queue and starts its thread, which ends when all handles are gone.
    pub fn open(
        path: &Path,
        device: Device,
        limits: Queue,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<(Self, JoinHandle<()>), ServiceError> {
        let wrong = |what: String| ServiceError::Queue { path: path.into(), what };
        let connection = database::open(path).map_err(wrong)?;
        let sql = |e: rusqlite::Error| wrong(format!("the queue cannot be read: {e}"));
        let (queued, bytes) = database::level(&connection).map_err(sql)?;
        let run = database::begin_run(&connection).map_err(sql)?;
        metrics.queued.set(queued);
        metrics.queued_bytes.set(bytes);
        let (commands, receiver) = channel();
        let changed = Arc::new(Notify::new());
        let keeper = Keeper {
            connection,
            device,
            limits,
            metrics,
            changed: Arc::clone(&changed),
            stop,
            waiting: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("queue".into())
            .spawn(move || keeper.run(&receiver))
            .map_err(|e| ServiceError::System(format!("a thread cannot be started: {e}")))?;
        Ok((Self { commands, changed, run }, thread))
    }

    /// Hands in what became of a sample.
    pub fn finish(&self, finish: Finish) {
        // The thread is gone only when the process ends; then nobody waits for the answer.
        let _ = self.commands.send(Command::Finish(finish));
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(command(sender)).ok()?;
        receiver.await.ok()
    }

    /// Which samples were seen before; `None` while the agent ends.
    pub async fn seen(&self, samples: Vec<SampleId>) -> Option<Vec<Option<Seen>>> {
        self.ask(|reply| Command::Seen(samples, reply)).await
    }

    /// Is told when the result with this sequence number has left the queue.
    pub fn attach(&self, sequence: u64, settled: oneshot::Sender<()>) {
        let _ = self.commands.send(Command::Attach(sequence, settled));
    }

    /// The oldest results, for delivery.
    pub async fn oldest(&self, results: usize, bytes: u64) -> Option<Vec<Queued>> {
        self.ask(|reply| Command::Oldest(results, bytes, reply)).await
    }

    /// These results have the backend's receipt.
    pub async fn settle(&self, sequences: Vec<u64>) -> Option<()> {
        self.ask(|reply| Command::Settle(sequences, reply)).await
    }

    /// Files of a directory all of whose samples are done.
    pub async fn files(&self, source: &str) -> Option<Vec<FileState>> {
        self.ask(|reply| Command::Files(source.into(), reply)).await
    }

    /// All samples of the file that `key` names are done.
    pub async fn file_done(&self, source: &str, file: FileState, key: &str) -> Option<()> {
        self.ask(|reply| Command::FileDone(source.into(), file, key.into(), reply)).await
    }

    /// These files are gone.
    pub async fn forget_files(&self, source: &str, names: Vec<String>) -> Option<()> {
        self.ask(|reply| Command::ForgetFiles(source.into(), names, reply)).await
    }

    /// How far a source is.
    pub async fn progress(&self, source: &str) -> Option<u64> {
        self.ask(|reply| Command::Progress(source.into(), reply)).await
    }
}

/// The thread's state.
struct Keeper {
    connection: Connection,
    device: Device,
    limits: Queue,
    metrics: Arc<Metrics>,
    changed: Arc<Notify>,
    stop: CancellationToken,
    /// By sequence number, who waits for the receipt of a result.
    waiting: HashMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Keeper {
    fn run(mut self, commands: &Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let mut group = vec![first];
            group.extend(commands.try_iter().take(GROUP - 1));
            loop {
                match self.commit(&group) {
                    Ok((answers, changes)) => {
                        self.metrics.well(Part::Queue);
                        self.committed(group, answers, &changes);
                        break;
                    }
                    Err(error) => {
                        self.metrics.trouble(Part::Queue, format!("the queue cannot be written: {error}"));
                        if self.stop.is_cancelled() {
                            // Whoever waits learns that nothing was made durable.
                            return;
                        }
                        std::thread::sleep(RETRY);
                    }
                }
            }
        }
    }

    /// One transaction for all; nothing of it counts unless it is committed.
    fn commit(&mut self, group: &[Command]) -> Sql<(Vec<Answer>, Changes)> {
        let level = (self.metrics.queued.get(), self.metrics.queued_bytes.get());
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut changes = Changes::default();
        let mut work =
            Work { t: &transaction, device: &self.device, limits: &self.limits, level, changes: &mut changes };
        let answers = group.iter().map(|command| work.answer(command)).collect::<Sql<Vec<_>>>()?;
        transaction.commit()?;
        if level.0 + changes.added.0 == changes.removed.0 && changes.removed.0 > 0 {
            self.connection.execute_batch(VACUUM)?;
        }
        Ok((answers, changes))
    }

    fn committed(&mut self, group: Vec<Command>, answers: Vec<Answer>, changes: &Changes) {
        let metrics = &self.metrics;
        metrics.queued.set(metrics.queued.get() + changes.added.0 - changes.removed.0);
        metrics.queued_bytes.set(metrics.queued_bytes.get() + changes.added.1 - changes.removed.1);
        if changes.shed > 0 {
            metrics.shed(Shed::Oldest, changes.shed);
        }
        // Who waits for a change may itself have asked: an answer alone is none. A finished sample, even one without result, is no longer in work.
        let changed = group.iter().any(|command| matches!(command, Command::Finish(_) | Command::Settle(..)));
        // Who asked may be gone; that is its own affair.
        for (command, answer) in group.into_iter().zip(answers) {
            match (command, answer) {
                (Command::Finish(finish), Answer::Fate(fate, sequence)) => {
                    match &fate {
                        Fate::Rejected(_) => self.metrics.rejected.add(1),
                        Fate::Repeated(_) => self.metrics.repeated.add(1),
                        Fate::Shed => self.metrics.shed(Shed::Newest, 1),
                        Fate::Published => self.metrics.published.add(1),
                        Fate::Queued(_) | Fate::Dropped => {}
                    }
                    if let (Some(sequence), Some(settled)) = (sequence, finish.settled) {
                        self.waiting.entry(sequence).or_default().push(settled);
                    }
                    let _ = finish.done.send(fate);
                }
                (Command::Seen(_, reply), Answer::Seen(seen)) => drop(reply.send(seen)),
                (Command::Attach(sequence, settled), Answer::Number(queued)) => {
                    if queued > 0 {
                        self.waiting.entry(sequence).or_default().push(settled);
                    } else {
                        let _ = settled.send(());
                    }
                }
                (Command::Oldest(.., reply), Answer::Batch(batch)) => drop(reply.send(batch)),
                (Command::Settle(sequences, reply), _) => {
                    for sequence in sequences {
                        for settled in self.waiting.remove(&sequence).into_iter().flatten() {
                            let _ = settled.send(());
                        }
                    }
                    let _ = reply.send(());
                }
                (Command::Files(_, reply), Answer::Files(files)) => drop(reply.send(files)),
                (Command::FileDone(.., reply) | Command::ForgetFiles(.., reply), _) => drop(reply.send(())),
                (Command::Progress(_, reply), Answer::Number(position)) => drop(reply.send(position)),
                // An answer of another kind is never made.
                _ => {}
            }
        }
        if changed {
            self.changed.notify_waiters();
        }
    }
}

/// One transaction at work.
struct Work<'a> {
    t: &'a rusqlite::Transaction<'a>,
    device: &'a Device,
    limits: &'a Queue,
    /// Results and bytes in the queue before the transaction.
    level: (u64, u64),
    changes: &'a mut Changes,
}

impl Work<'_> {
    fn answer(&mut self, command: &Command) -> Sql<Answer> {
        Ok(match command {
            Command::Finish(finish) => return self.finish(finish),
            Command::Seen(samples, _) => {
                Answer::Seen(samples.iter().map(|&s| database::seen(self.t, s)).collect::<Sql<_>>()?)
            }
            Command::Attach(sequence, _) => Answer::Number(database::holds(self.t, *sequence)?),
            Command::Oldest(results, bytes, _) => Answer::Batch(database::oldest(self.t, *results, *bytes)?),
            Command::Settle(sequences, _) => {
                for &sequence in sequences {
                    if let Some(size) = database::take(self.t, sequence)? {
                        self.removed(size);
                    }
                }
                Answer::Nothing
            }
            Command::Files(source, _) => Answer::Files(database::files(self.t, source)?),
            Command::FileDone(source, file, key, _) => {
                database::file_done(self.t, source, file, key)?;
                Answer::Nothing
            }
            Command::ForgetFiles(source, names, _) => {
                names.iter().try_for_each(|name| database::forget_file(self.t, source, name))?;
                Answer::Nothing
            }
            Command::Progress(source, _) => Answer::Number(database::progress(self.t, source)?),
        })
    }

    fn finish(&mut self, finish: &Finish) -> Sql<Answer> {
        let about = &finish.about;
        if finish.done.is_closed() {
            return Ok(Answer::Fate(Fate::Dropped, None));
        }
        if let Some(seen) = database::seen(self.t, about.id)? {
            return Ok(Answer::Fate(Fate::Repeated(seen.result), seen.queued));
        }
        let (fate, sequence) = match &finish.outcome {
            Outcome::Published => (Fate::Published, None),
            Outcome::Shed => (Fate::Shed, None),
            Outcome::Rejected(why) => (Fate::Rejected(why.clone()), None),
            Outcome::Result { model, version, payload } => {
                let sequence = database::next_sequence(self.t)?;
                match self.sign(about, model, *version, sequence, payload) {
                    Ok(queued) => {
                        self.make_room(queued.record.len() as u64)?;
                        database::push(self.t, about.id, &queued)?;
                        self.changes.added.0 += 1;
                        self.changes.added.1 += queued.record.len() as u64;
                        (Fate::Queued(queued.result), Some(sequence))
                    }
                    Err(why) => (Fate::Rejected(why), None),
                }
            }
        };
        let result = if let Fate::Queued(result) = &fate { Some(*result) } else { None };
        database::mark(self.t, about.id, result, about.file.as_deref())?;
        if let Some(position) = about.progress {
            database::advance(self.t, &about.source, position)?;
        }
        Ok(Answer::Fate(fate, sequence))
    }

    fn sign(&self, about: &About, model: &str, version: u32, sequence: u64, payload: &[u8]) -> Result<Queued, String> {
        let statement = Statement {
            model: model.to_owned(),
            version,
            device: self.device.id.clone(),
            sequence,
            origin: about.origin.clone().unwrap_or_else(|| self.device.id.clone()),
            sample: about.id,
            label: about.label.clone(),
            taken_at: about.taken_at,
            payload_sha256: String::new(),
        };
        let signed = SignedResult::sign(&self.device.key, statement, payload.to_vec()).map_err(|e| e.to_string())?;
        Ok(Queued { sequence, result: signed.statement.result_id(), record: signed.encode() })
    }

    /// By policy, the oldest results give way to a new one of this size.
    fn make_room(&mut self, size: u64) -> Sql<()> {
        while self.limits.policy == Policy::ShedOldest {
            let results = self.level.0 + self.changes.added.0 - self.changes.removed.0;
            let bytes = self.level.1 + self.changes.added.1 - self.changes.removed.1;
            if results < self.limits.max_results && (bytes + size <= self.limits.max_bytes || results == 0) {
                break;
            }
            let Some((_, gone)) = database::take_oldest(self.t)? else { break };
            self.removed(gone);
            self.changes.shed += 1;
        }
        Ok(())
    }

    fn removed(&mut self, size: u64) {
        self.changes.removed.0 += 1;
        self.changes.removed.1 += size;
    }
}

#[cfg(test)]
mod tests;
