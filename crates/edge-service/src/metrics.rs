//! What the agent counts, as Prometheus reads it and as the status report tells it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use subrosa_fleet::messages::{Deployment, Status};

/// Upper bounds of the histogram of evaluation times, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// A number that grows, or a level.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Parts of the agent that can be in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Update,
    Delivery,
    Queue,
    Source,
    Evaluation,
}

impl Part {
    const ALL: [Self; 5] = [Self::Update, Self::Delivery, Self::Queue, Self::Source, Self::Evaluation];

    fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Delivery => "delivery",
            Self::Queue => "queue",
            Self::Source => "source",
            Self::Evaluation => "evaluation",
        }
    }
}

/// Why samples or results are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shed {
    Oldest,
    Newest,
    /// A camera's frame that nobody was free to take.
    Frame,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub queued: Count,
    pub queued_bytes: Count,
    pub evaluated: Count,
    pub rejected: Count,
    pub repeated: Count,
    pub shed_oldest: Count,
    pub shed_newest: Count,
    pub shed_frames: Count,
    /// Whether samples wait for room in the queue.
    pub blocked: Count,
    pub stored: Count,
    pub duplicate: Count,
    pub refused: Count,
    pub delivery_failures: Count,
    pub poll_failures: Count,
    pub bundles_taken: Count,
    pub bundles_refused: Count,
    pub bundles_stale: Count,
    pub bundle_bytes: Count,
    pub published: Count,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    acquired: BTreeMap<String, u64>,
    troubles: BTreeMap<(Part, String), String>,
    deployment: Option<Deployment>,
    buckets: [u64; BUCKETS.len()],
    infer_sum: f64,
    infer_count: u64,
    last_infer: Option<f64>,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A source handed in a sample.
    pub fn acquired(&self, source: &str) {
        let mut inner = self.lock();
        match inner.acquired.get_mut(source) {
            Some(count) => *count += 1,
            None => drop(inner.acquired.insert(source.to_owned(), 1)),
        }
    }

    /// Samples or results were given up by policy.
    pub fn shed(&self, what: Shed, n: u64) {
        match what {
            Shed::Oldest => self.shed_oldest.add(n),
            Shed::Newest => self.shed_newest.add(n),
            Shed::Frame => self.shed_frames.add(n),
        }
    }

    /// A sample was evaluated.
    pub fn inferred(&self, seconds: f64) {
        self.evaluated.add(1);
        let mut inner = self.lock();
        inner.infer_sum += seconds;
        inner.infer_count += 1;
        inner.last_infer = Some(seconds);
        for (bucket, bound) in inner.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// A part is in trouble; logged when the text is new.
    pub fn trouble(&self, part: Part, text: String) {
        self.trouble_of(part, "", text);
    }

    /// The same of one of several of a kind.
    pub fn trouble_of(&self, part: Part, which: &str, text: String) {
        let before = self.lock().troubles.insert((part, which.to_owned()), text.clone());
        if before.as_deref() != Some(text.as_str()) {
            tracing::warn!(part = part.name(), which, "{text}");
        }
    }

    /// A part works again.
    pub fn well(&self, part: Part) {
        self.well_of(part, "");
    }

    /// One of several of a kind works again.
    pub fn well_of(&self, part: Part, which: &str) {
        let mut inner = self.lock();
        if !inner.troubles.is_empty() && inner.troubles.remove(&(part, which.to_owned())).is_some() {
            tracing::info!(part = part.name(), which, "works again");
        }
    }

    /// What runs now.
    pub fn runs(&self, deployment: Option<&Deployment>) {
        self.lock().deployment = deployment.cloned();
    }

    /// The status report.
    pub fn status(&self) -> Status {
        let inner = self.lock();
        let deployment = inner.deployment.as_ref();
        let named = |((part, which), text): (&(Part, String), &String)| match which.as_str() {
            "" => format!("{}: {text}", part.name()),
            which => format!("{} ({which}): {text}", part.name()),
        };
        let troubles: Vec<String> = inner.troubles.iter().map(named).collect();
        Status {
            agent: env!("CARGO_PKG_VERSION").into(),
            model: deployment.map(|d| d.model.clone()),
            version: deployment.map(|d| d.version),
            generation: deployment.map(|d| d.generation),
            evaluated: self.evaluated.get(),
            queued: self.queued.get(),
            shed: self.shed_oldest.get() + self.shed_newest.get() + self.shed_frames.get(),
            rejected: self.rejected.get(),
            last_infer_seconds: inner.last_infer,
            error: (!troubles.is_empty()).then(|| troubles.join("; ")),
        }
    }

    /// Prometheus' text format, version 0.0.4.
    pub fn text(&self, policy: &str) -> String {
        let mut out = String::new();
        let simple = [
            ("queued_results", "gauge", "Results that wait to be delivered.", &self.queued),
            ("queued_bytes", "gauge", "Bytes of these results.", &self.queued_bytes),
            ("blocked", "gauge", "1 while samples wait for room in the queue.", &self.blocked),
            ("evaluated_total", "counter", "Samples evaluated.", &self.evaluated),
            ("rejected_total", "counter", "Samples that do not fit the network or cannot be read.", &self.rejected),
            ("repeated_total", "counter", "Samples that came again and were not evaluated again.", &self.repeated),
            ("published_total", "counter", "Samples published for workers.", &self.published),
            (
                "delivery_failures_total",
                "counter",
                "Deliveries that failed and are tried again.",
                &self.delivery_failures,
            ),
            ("poll_failures_total", "counter", "Questions for the deployment that failed.", &self.poll_failures),
            ("bundles_taken_total", "counter", "Bundles that were put to use.", &self.bundles_taken),
            ("bundles_refused_total", "counter", "Bundles that were refused.", &self.bundles_refused),
            ("deployments_stale_total", "counter", "Deployments older than the one that runs.", &self.bundles_stale),
            ("bundle_bytes_total", "counter", "Bytes of bundles fetched.", &self.bundle_bytes),
        ];
        for (name, kind, help, count) in simple {
            head(&mut out, name, kind, help);
            line(&mut out, name, &[], count.get());
        }
        head(&mut out, "delivered_total", "counter", "Results with the backend's receipt, by outcome.");
        for (outcome, count) in [("stored", &self.stored), ("duplicate", &self.duplicate), ("refused", &self.refused)] {
            line(&mut out, "delivered_total", &[("outcome", outcome)], count.get());
        }
        head(&mut out, "shed_total", "counter", "Samples or results given up, by what.");
        for (what, count) in
            [("oldest", &self.shed_oldest), ("newest", &self.shed_newest), ("frame", &self.shed_frames)]
        {
            line(&mut out, "shed_total", &[("what", what)], count.get());
        }
        head(&mut out, "queue_policy", "gauge", "What happens to samples while the queue is full.");
        line(&mut out, "queue_policy", &[("policy", policy)], 1);
        let inner = self.lock();
        head(&mut out, "acquired_total", "counter", "Samples acquired, by source.");
        for (source, count) in &inner.acquired {
            line(&mut out, "acquired_total", &[("source", source)], *count);
        }
        head(&mut out, "trouble", "gauge", "1 while a part of the agent is in trouble.");
        for part in Part::ALL {
            line(
                &mut out,
                "trouble",
                &[("part", part.name())],
                u64::from(inner.troubles.keys().any(|(of, _)| *of == part)),
            );
        }
        head(&mut out, "deployment_info", "gauge", "What runs.");
        if let Some(d) = &inner.deployment {
            let (version, generation) = (d.version.to_string(), d.generation.to_string());
            let labels =
                [("model", d.model.as_str()), ("name", &d.name), ("version", &version), ("generation", &generation)];
            line(&mut out, "deployment_info", &labels, 1);
        }
        head(
            &mut out,
            "infer_seconds",
            "histogram",
            "Time of a sample's evaluation, plain part and encryption included.",
        );
        for (count, bound) in inner.buckets.iter().zip(BUCKETS) {
            line(&mut out, "infer_seconds_bucket", &[("le", &bound.to_string())], *count);
        }
        line(&mut out, "infer_seconds_bucket", &[("le", "+Inf")], inner.infer_count);
        let _ = writeln!(out, "subrosa_edge_infer_seconds_sum {}", inner.infer_sum);
        line(&mut out, "infer_seconds_count", &[], inner.infer_count);
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a String does not fail.
    let _ = writeln!(out, "# HELP subrosa_edge_{name} {help}\n# TYPE subrosa_edge_{name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "subrosa_edge_{name}{labels} {value}");
}
