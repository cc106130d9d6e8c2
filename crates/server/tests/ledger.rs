//! One ledger: what `subrosa decrypt` decrypts in a home and what a server on it decrypts are replays for each other, use up the same budgets and
//! stand in one audit log. The command line's part is played by the library it calls, on a registry that it opens for itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Backend, Edge, PASSPHRASE, digits, protect};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use subrosa_edge_agent::Processor;
use subrosa_fleet::messages::{Deployment, Outcome};
use subrosa_fleet::{SignedResult, encode_batch};
use subrosa_owner::release::{AuditLog, Budget, DecryptRequest, ReleasePolicy};
use subrosa_owner::{Decrypted, Owner, OwnerError};
use subrosa_registry::{Passphrase, Vault};

/// A server, a device with results, and the home's command line.
struct World {
    backend: Backend,
    edge: Edge,
    deployment: Deployment,
    processor: Processor,
    policy: ReleasePolicy,
}

impl World {
    async fn new(budget: Budget) -> Self {
        let policy = ReleasePolicy { budget, ..ReleasePolicy::default() };
        let backend = Backend::start_with(|config| config.policy = policy.clone()).await;
        protect(backend.home.path(), "digits");
        let edge = backend.http.device("g", "camera").await;
        backend.http.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
        let (deployment, processor) = edge.processor().await;
        Self { backend, edge, deployment, processor, policy }
    }

    fn results(&mut self, count: usize) -> Vec<SignedResult> {
        self.edge.evaluate(&self.deployment, &self.processor, &digits(count))
    }

    fn terminal(&self) -> Terminal {
        Terminal { home: self.backend.home.path().to_owned(), policy: self.policy.clone() }
    }

    /// Entries of the audit log of a kind, by result.
    async fn told(&self, kind: &str) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        let log = self.backend.http.get("/audit?limit=1000").await;
        for entry in log["entries"].as_array().unwrap().iter().filter(|entry| entry["event"]["event"] == kind) {
            *count.entry(entry["event"]["result"].as_str().unwrap_or_default().to_owned()).or_insert(0) += 1;
        }
        count
    }

    /// Ends the server; both agree about the log.
    async fn end(mut self) {
        let chain = self.backend.http.get("/audit/verify").await;
        let owner = Owner::open(self.backend.home.path()).unwrap();
        let head = AuditLog::of(&owner).unwrap().verify().unwrap();
        assert_eq!(chain, json!({ "intact": true, "entries": head.count, "head": hex::encode(head.hash) }));
        self.backend.stop().await;
    }
}

/// `subrosa decrypt` in a home.
#[derive(Clone)]
struct Terminal {
    home: PathBuf,
    policy: ReleasePolicy,
}

impl Terminal {
    fn decrypt_file(&self, file: &Path, again: bool) -> Result<Decrypted, OwnerError> {
        let owner = Owner::open(&self.home).unwrap();
        let vault = Vault::open(&self.home, &Passphrase::new(PASSPHRASE.to_owned()).unwrap()).unwrap();
        let request = DecryptRequest { results: file, policy: self.policy.clone(), devices: &[], again };
        owner.decrypt_results(&request, &vault)
    }

    fn decrypt(&self, results: &[SignedResult], again: bool) -> Result<Decrypted, OwnerError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), encode_batch(results)).unwrap();
        self.decrypt_file(file.path(), again)
    }

    /// Codes of what is refused.
    fn codes(&self, results: &[SignedResult]) -> Vec<String> {
        match self.decrypt(results, false) {
            Ok(decrypted) => decrypted.refused.into_iter().map(|refused| refused.code).collect(),
            // Of a file of which nothing is revealed the log tells.
            Err(OwnerError::NothingReleased { count, .. }) => {
                let owner = Owner::open(&self.home).unwrap();
                let (entries, _) = AuditLog::of(&owner).unwrap().last(count as u64).unwrap();
                let code = |entry: &Value| entry["code"].as_str().unwrap().to_owned();
                entries.iter().map(|entry| code(&entry.event)).collect()
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn counts(decided: &[Value], key: &str) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    decided
        .iter()
        .filter_map(|row| row[key].as_str())
        .for_each(|value| *count.entry(value.to_owned()).or_insert(0) += 1);
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_decrypted_is_a_replay_for_the_other() {
    let mut w = World::new(Budget::default()).await;
    let results = w.results(8);
    let terminal = w.terminal();
    // First the command line: an enrolled device need not be named.
    let first = terminal.decrypt(&results[..4], false).unwrap();
    assert_eq!((first.predictions.len(), first.examined_today), (4, 4));
    assert_eq!(w.edge.deliver(&results[..4]).await, vec![Outcome::Duplicate; 4]);
    let stolen = w.edge.statement(&w.deployment, 100, 2);
    let stolen = SignedResult::sign(&w.edge.key, stolen, results[7].payload.clone()).unwrap();
    assert!(
        matches!(&w.edge.deliver(&[stolen]).await[0], Outcome::Refused { reason } if reason.contains("used before"))
    );
    // Then the server.
    assert_eq!(w.edge.deliver(&results[4..]).await, vec![Outcome::Stored; 4]);
    let decided = w.backend.http.decided(8).await;
    assert_eq!(counts(&decided, "state"), BTreeMap::from([("released".to_owned(), 8)]));
    assert_eq!(terminal.codes(&results[4..]), ["replay"; 4]);
    // The same sample under another number is the same inference.
    let again = w.edge.statement(&w.deployment, 5, 900);
    let again = SignedResult::sign(&w.edge.key, again, results[5].payload.clone()).unwrap();
    assert_eq!(terminal.codes(std::slice::from_ref(&again)), ["duplicate"]);
    assert_eq!(w.edge.deliver(&[again]).await, [Outcome::Duplicate]);
    // All the same, whoever decrypted.
    let labels: Vec<usize> = terminal.decrypt(&results, true).unwrap().predictions.iter().map(|p| p.label).collect();
    let row = |i: usize| decided.iter().find(|row| row["label"] == format!("digit {i}")).unwrap();
    assert_eq!(labels, (0..8).map(|i| row(i)["class"].as_u64().unwrap() as usize).collect::<Vec<_>>());
    assert!(w.told("result released").await.values().all(|&count| count == 2), "once each, and once again as asked");
    // Who was revoked is revoked for both.
    let more = w.results(1);
    w.backend.http.post(&format!("/devices/{}/revoke", w.edge.enrolled.device), Value::Null).await;
    assert_eq!(terminal.codes(&more), ["revoked"]);
    w.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_not_doubled_by_splitting_it_over_both() {
    let budget = Budget { per_device_total: Some(6), per_model_total: Some(9), ..Budget::default() };
    let mut w = World::new(budget).await;
    let results = w.results(9);
    let terminal = w.terminal();
    assert_eq!(terminal.decrypt(&results[..3], false).unwrap().predictions.len(), 3);
    w.edge.deliver(&results[3..7]).await;
    let decided = w.backend.http.decided(7).await;
    assert_eq!(counts(&decided, "state"), BTreeMap::from([("released".to_owned(), 6), ("refused".to_owned(), 1)]));
    assert_eq!(counts(&decided, "code"), BTreeMap::from([("budget".to_owned(), 1)]));
    assert_eq!(terminal.codes(&results[7..]), ["budget"; 2]);
    // What nobody signed counts for the network, and is in the same log.
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut plain = w.processor.results(file.path()).unwrap();
    let samples = w.processor.preprocess(&digits(5)).unwrap();
    let features = w.processor.features(samples.count, &samples.data).unwrap();
    for sample in features.chunks(w.processor.feature_count()) {
        let inferred = w.processor.infer(&w.processor.prepare(sample).unwrap()).unwrap();
        plain.push(w.processor.parameters(), &inferred).unwrap();
    }
    plain.finish().unwrap();
    let decrypted = terminal.decrypt_file(file.path(), false).unwrap();
    assert_eq!((decrypted.predictions.len(), decrypted.refused.len(), decrypted.examined_today), (3, 2, 9));
    let log = w.backend.http.get("/audit?limit=1000").await;
    let last = &log["entries"].as_array().unwrap().last().unwrap()["event"];
    assert_eq!((&last["event"], &last["examined"]), (&json!("unsigned results decrypted"), &json!(3)));
    // Nor does another device get more than is left of the network.
    let mut other = w.backend.http.device("g", "other").await;
    let results = other.evaluate(&w.deployment, &w.processor, &digits(2));
    other.deliver(&results).await;
    let decided = w.backend.http.decided(9).await;
    assert_eq!(counts(&decided, "code"), BTreeMap::from([("budget".to_owned(), 3)]));
    w.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strikes_at_one_suspend_the_device_at_the_other() {
    let mut w = World::new(Budget::default()).await;
    let results = w.results(5);
    let terminal = w.terminal();
    let spoilt = |w: &World, sequence: u64, payload: &[u8]| {
        let mut payload = payload.to_vec();
        let middle = payload.len() / 2;
        payload[middle] ^= 1;
        SignedResult::sign(&w.edge.key, w.edge.statement(&w.deployment, sequence as usize, sequence), payload).unwrap()
    };
    let bad: Vec<SignedResult> = (100..102).map(|i| spoilt(&w, i, &results[0].payload)).collect();
    assert_eq!(terminal.codes(&bad), ["slots"; 2]);
    let third = spoilt(&w, 102, &results[0].payload);
    w.edge.deliver(&[third]).await;
    w.backend.http.decided(3).await;
    assert_eq!(terminal.codes(&results[..1]), ["suspended"]);
    w.edge.deliver(&results[1..2]).await;
    let decided = w.backend.http.decided(4).await;
    let codes = BTreeMap::from([("slots".to_owned(), 3), ("suspended".to_owned(), 1)]);
    assert_eq!(counts(&decided, "code"), codes);
    // Let in by one, it is let in by both.
    assert!(Owner::open(w.backend.home.path()).unwrap().let_in(&w.edge.enrolled.device).unwrap());
    w.edge.deliver(&results[2..3]).await;
    assert_eq!(terminal.decrypt(&results[3..], false).unwrap().predictions.len(), 2);
    let decided = w.backend.http.decided(7).await;
    assert_eq!(counts(&decided, "code"), codes);
    w.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_first_each_result_is_released_once() {
    let budget = Budget { per_device_total: Some(40), ..Budget::default() };
    let mut w = World::new(budget).await;
    // Twelve more than there is budget for.
    let results: Vec<SignedResult> = w.results(52);
    let terminals: Vec<_> = (0..2)
        .map(|start| {
            let (terminal, results) = (w.terminal(), results.clone());
            tokio::task::spawn_blocking(move || {
                let mut released = Vec::new();
                for part in results.chunks(4).skip(start).chain(results.chunks(4).take(start)) {
                    match terminal.decrypt(part, false) {
                        Ok(decrypted) => {
                            released.extend(decrypted.predictions.into_iter().map(|p| p.origin.unwrap().sequence));
                        }
                        Err(OwnerError::NothingReleased { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                released
            })
        })
        .collect();
    for part in results.chunks(3).rev() {
        assert!(w.edge.deliver(part).await.iter().all(|outcome| !matches!(outcome, Outcome::Refused { .. })));
    }
    let mut by_hand = Vec::new();
    for terminal in terminals {
        by_hand.extend(terminal.await.unwrap());
    }
    let decided = w.backend.http.decided(52).await;
    // No terminal showed what the other showed, and nothing was released but what the budget permits.
    let shown = by_hand.len();
    by_hand.sort_unstable();
    by_hand.dedup();
    assert_eq!(by_hand.len(), shown);
    let told = w.told("result released").await;
    assert_eq!((told.len(), told.values().max()), (40, Some(&1)));
    assert_eq!(counts(&decided, "state")["released"], 40);
    assert_eq!((decided.len(), counts(&decided, "code")), (52, BTreeMap::from([("budget".to_owned(), 12)])));
    w.end().await;
}
