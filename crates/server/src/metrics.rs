//! What is counted, in the format of Prometheus.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Route {
    pub method: String,
    pub route: String,
    pub status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct State {
    pub state: String,
}

/// The metrics of a process.
pub(crate) struct Metrics {
    registry: Registry,
    pub requests: Family<Route, Counter>,
    pub latency: Histogram,
    pub connections: Gauge,
    pub results: Family<Outcome, Counter>,
    pub result_bytes: Counter,
    pub decided: Family<Outcome, Counter>,
    pub decrypt_seconds: Histogram,
    pub denied: Family<Outcome, Counter>,
    pub results_in_state: Family<State, Gauge>,
    pub jobs_in_state: Family<State, Gauge>,
    pub devices: Gauge,
    pub audit_entries: Gauge,
    pub label_alarms: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let metrics = Self {
            registry: Registry::with_prefix("subrosa"),
            requests: Family::default(),
            latency: seconds(),
            connections: Gauge::default(),
            results: Family::default(),
            result_bytes: Counter::default(),
            decided: Family::default(),
            decrypt_seconds: seconds(),
            denied: Family::default(),
            results_in_state: Family::default(),
            jobs_in_state: Family::default(),
            devices: Gauge::default(),
            audit_entries: Gauge::default(),
            label_alarms: Gauge::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("http_requests", "Requests by route and status", self.requests.clone());
        r.register("http_request_seconds", "Time until a request's answer begins", self.latency.clone());
        r.register("connections", "Open connections", self.connections.clone());
        r.register("results_received", "Results that devices sent, by outcome", self.results.clone());
        r.register("result_bytes", "Bytes of stored results", self.result_bytes.clone());
        r.register("results_decided", "Results that were released or refused here, by outcome", self.decided.clone());
        r.register("decrypt_seconds", "Time to examine one result", self.decrypt_seconds.clone());
        r.register("denied", "Requests without a valid token, by kind", self.denied.clone());
        r.register("results", "Results in the registry, by state", self.results_in_state.clone());
        r.register("jobs", "Jobs in the registry, by state", self.jobs_in_state.clone());
        r.register("devices", "Devices that are enrolled and not revoked", self.devices.clone());
        r.register("audit_entries", "Entries of the audit log", self.audit_entries.clone());
        r.register("label_alarms", "Alarms about labels that nobody has looked into", self.label_alarms.clone());
        self
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    pub fn count(family: &Family<Outcome, Counter>, outcome: &str) {
        family.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc();
    }
}
