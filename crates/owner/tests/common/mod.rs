//! A home with a vault, and the networks and samples of the repository.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::PathBuf;
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Dataset, read, read_labels};
use subrosa_network::Scope;
use subrosa_owner::{Comparison, Owner, ProtectReport, ProtectRequest, Silent, VerifyRequest};
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A network with samples to calibrate and verify it on.
pub struct Fixture {
    pub onnx: Vec<u8>,
    pub data: Dataset,
    pub preprocess: &'static str,
}

#[allow(dead_code)]
pub fn fixture(name: &str) -> Fixture {
    let path = |suffix: &str| root().join("models/fixtures").join(format!("{name}{suffix}"));
    let mut data = read(path(".input.npy").to_str().unwrap(), None).unwrap();
    data.labels = Some(read_labels(path(".labels.npy").to_str().unwrap()).unwrap());
    Fixture { onnx: std::fs::read(path(".onnx")).unwrap(), data, preprocess: "" }
}

#[allow(dead_code)]
pub fn digits(limit: usize) -> Fixture {
    let path = |what: &str| root().join(format!("data/mnist-test-1000-{what}.gz")).to_str().unwrap().to_string();
    let mut data = read(&path("images-idx3-ubyte"), Some(limit)).unwrap();
    data.labels = Some(read_labels(&path("labels-idx1-ubyte")).unwrap()[..limit].to_vec());
    Fixture { onnx: std::fs::read(root().join("models/mnist-cnn.onnx")).unwrap(), data, preprocess: "scale=1/255" }
}

/// What is encrypted.
#[allow(dead_code)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Encrypted {
    Both,
    Weights,
    Input,
}

#[allow(dead_code)]
pub struct Home {
    pub owner: Owner,
    pub vault: Vault,
    pub identity: OwnerIdentity,
    _dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let owner = Owner::open(dir.path()).unwrap();
        let vault = Vault::create_or_open_for_tests(dir.path(), &Passphrase::new("test".to_string()).unwrap()).unwrap();
        let identity = OwnerIdentity::load_or_create(&vault).unwrap();
        Self { owner, vault, identity, _dir: dir }
    }

    #[allow(dead_code)]
    pub fn protect_and_verify(
        &self,
        f: &Fixture,
        calibrate: Option<&Dataset>,
        scope: &Scope,
        activation: &str,
        encrypted_input: bool,
        security: SecurityLevel,
    ) -> (ProtectReport, Comparison) {
        let encrypted = if encrypted_input { Encrypted::Both } else { Encrypted::Weights };
        self.protect_and_verify_encrypted(f, calibrate, scope, activation, encrypted, security)
    }

    #[allow(dead_code)]
    pub fn protect_and_verify_encrypted(
        &self,
        f: &Fixture,
        calibrate: Option<&Dataset>,
        scope: &Scope,
        activation: &str,
        encrypted: Encrypted,
        security: SecurityLevel,
    ) -> (ProtectReport, Comparison) {
        let request = ProtectRequest {
            scope: scope.clone(),
            encrypted_input: encrypted != Encrypted::Weights,
            plain_weights: encrypted == Encrypted::Input,
            substitutions: if activation.is_empty() { Default::default() } else { activation.parse().unwrap() },
            preprocess: (!f.preprocess.is_empty()).then(|| f.preprocess.parse().unwrap()),
            calibrate,
            security,
            ..ProtectRequest::new(&f.onnx, "fixture")
        };
        let report = self.owner.protect(&request, &self.vault, &Silent).unwrap();
        let verify = VerifyRequest { id: &report.id, data: &f.data, threads: 1 };
        let found = self.owner.verify(&verify, &self.vault, &self.identity, &Silent).unwrap();
        (report, found)
    }
}
