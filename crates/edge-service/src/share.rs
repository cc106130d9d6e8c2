//! Sharing work out over a JetStream work queue: an acquirer publishes samples, workers of its group evaluate them. JetStream hands a
//! sample that a worker does not acknowledge to another; whoever evaluates it, its result has the same id.

mod acquirer;
mod worker;

pub(crate) use acquirer::Publisher;
pub(crate) use worker::WorkerSource;

use crate::sample::About;
use async_nats::HeaderMap;

const SAMPLE: &str = "Subrosa-Sample";
const ORIGIN: &str = "Subrosa-Origin";
const LABEL: &str = "Subrosa-Label";
const TAKEN_AT: &str = "Subrosa-Taken-At";

/// The subject of a work queue.
fn subject(stream: &str) -> String {
    format!("subrosa.work.{stream}")
}

/// What a sample is, as headers of its message.
fn headers(about: &About, device: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SAMPLE, about.id.to_string());
    headers.insert(ORIGIN, about.origin.as_deref().unwrap_or(device));
    headers.insert(LABEL, about.label.as_str());
    headers.insert(TAKEN_AT, about.taken_at.to_string());
    headers
}

/// What a sample is, from the headers of its message.
fn about(headers: &HeaderMap, source: &std::sync::Arc<str>) -> Option<About> {
    let header = |name: &str| headers.get(name).map(|value| value.as_str());
    let origin = header(ORIGIN).filter(|o| !o.is_empty() && o.len() <= 200)?;
    Some(About {
        id: header(SAMPLE)?.parse().ok()?,
        origin: Some(origin.to_owned()),
        taken_at: header(TAKEN_AT)?.parse().ok()?,
        ..About::new(source, "", header(LABEL)?)
    })
}
