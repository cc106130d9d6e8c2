//! One sample on its way from a source to the queue.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use subrosa_fleet::{ResultId, SampleId};
use subrosa_input::Dataset;
use tokio::sync::oneshot;

/// One sample, and who waits for it.
pub(crate) struct Sample {
    pub about: About,
    /// The one sample.
    pub data: Dataset,
    /// Is told when what became of the sample is durable. Where nobody waits any more, nothing is made durable: the source brings the
    /// sample again, or told its sender that it was not taken.
    pub done: oneshot::Sender<Fate>,
    /// Is told when the backend has given its receipt for the result.
    pub settled: Option<oneshot::Sender<()>>,
}

/// What a sample is, without its values.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub id: SampleId,
    /// The device that acquired it; this one if `None`.
    pub origin: Option<String>,
    /// For people; at most 200 bytes.
    pub label: String,
    /// Milliseconds since 1970.
    pub taken_at: u64,
    /// The source's name.
    pub source: Arc<str>,
    /// The file it is from: forgotten when the whole file is remembered.
    pub file: Option<Arc<str>>,
    /// How far the source is when this sample is done; only ever grows.
    pub progress: Option<u64>,
}

impl About {
    pub fn new(source: &Arc<str>, position: &str, label: &str) -> Self {
        Self {
            id: SampleId::of(source, position),
            origin: None,
            label: shortened(label),
            taken_at: now(),
            source: Arc::clone(source),
            file: None,
            progress: None,
        }
    }
}

/// What became of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its result is in the queue.
    Queued(ResultId),
    /// It was published for the group's workers.
    Published,
    /// It was seen before: the result that it has, if it has one.
    Repeated(Option<ResultId>),
    /// It does not fit the network.
    Rejected(String),
    /// It was given up by policy.
    Shed,
    /// Nobody waited for it any more; nothing was kept.
    Dropped,
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// At most 200 bytes, without control characters.
fn shortened(label: &str) -> String {
    let mut out = String::new();
    for c in label.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > 200 {
            break;
        }
        out.push(c);
    }
    out
}
