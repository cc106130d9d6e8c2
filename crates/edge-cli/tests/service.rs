//! `subrosa-edge run` as a process, against a stub of the backend over TLS.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

#[path = "../../edge-service/tests/common/mod.rs"]
mod common;

use common::{Agent, Faults, Stub, TestOwner, npy, samples, wait_for};
use std::path::Path;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_subrosa-edge");

/// An owner, a stub of its backend, two versions of a network.
struct Fleet {
    directory: TempDir,
    owner: TestOwner,
    stub: Stub,
    model: (String, u32),
}

impl Fleet {
    /// The first version is deployed.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let owner = TestOwner::new(&directory.path().join("home"));
        let stub = Stub::start(owner.signer());
        let bundle = directory.path().join("first.srb");
        let model = owner.bundle(&bundle);
        stub.deploy(1, &model.0, model.1, &bundle);
        Self { directory, owner, stub, model }
    }

    fn place(&self) -> &Path {
        self.directory.path()
    }

    fn agent(&self, more: &str) -> Agent {
        Agent::new(PROGRAM, &self.place().join("agent"), &self.stub, more)
    }

    /// Labels of all results, sorted.
    fn labels(&self) -> Vec<String> {
        let mut labels: Vec<String> =
            self.stub.world().results.values().map(|a| a.result.statement.label.clone()).collect();
        labels.sort();
        labels
    }
}

const DIRECTORY: &str = "[[source.directory]]\npath = \"in\"\nscan_seconds = 0.1\nsettle_seconds = 0.05\n";

#[test]
fn files_of_a_watched_directory_arrive_once_each() {
    let fleet = Fleet::new();
    let mut agent = fleet.agent(DIRECTORY);
    std::fs::create_dir(agent.path("in")).unwrap();
    let rows = samples(40);
    npy(&agent.path("in/many.npy"), &rows[..37]);
    for (i, row) in rows[37..].iter().enumerate() {
        npy(&agent.path(&format!("in/one-{i}.npy")), &[row.clone()]);
    }
    agent.start();
    wait_for("40 results", || fleet.stub.stored() == 40);
    assert_eq!(agent.terminate(), 0);
    agent.start();
    npy(&agent.path("in/new.npy"), &rows[..1]);
    wait_for("the new one", || fleet.stub.stored() == 41);
    assert_eq!(agent.terminate(), 0);
    let labels = fleet.labels();
    assert!(labels.contains(&"new.npy".to_owned()) && labels.contains(&"many.npy #36".to_owned()), "{labels:?}");
    assert!(fleet.stub.world().results.values().all(|a| a.times == 1));
}
