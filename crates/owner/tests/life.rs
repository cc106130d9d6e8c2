//! The whole life of a protected network on the demo network and on fixtures, through the agents.

use std::path::PathBuf;
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Dataset, read, read_labels};
use subrosa_network::{Scope, Substitutions};
use subrosa_owner::{Owner, ProtectRequest, Silent, VerifyRequest};
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Home {
    owner: Owner,
    vault: Vault,
    identity: OwnerIdentity,
    _dir: tempfile::TempDir,
}

fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let owner = Owner::open(dir.path()).unwrap();
    let vault = Vault::create_or_open_for_tests(dir.path(), &Passphrase::new("test".to_string()).unwrap()).unwrap();
    let identity = OwnerIdentity::load_or_create(&vault).unwrap();
    Home { owner, vault, identity, _dir: dir }
}

fn digits(limit: usize) -> Dataset {
    let data = root().join("data");
    let mut d = read(data.join("mnist-test-1000-images-idx3-ubyte.gz").to_str().unwrap(), Some(limit)).unwrap();
    d.labels = Some(read_labels(data.join("mnist-test-1000-labels-idx1-ubyte.gz").to_str().unwrap()).unwrap()[..limit].to_vec());
    d
}

#[test]
fn the_demo_network_agrees_with_itself_under_encryption() {
    let h = home();
    let onnx = std::fs::read(root().join("models/mnist-cnn.onnx")).unwrap();
    let calibration = digits(100);
    for encrypted_input in [false, true] {
        let report = h
            .owner
            .protect(
                &ProtectRequest {
                    onnx: &onnx,
                    name: "digits",
                    scope: Scope::Classifier,
                    encrypted_input,
                    substitutions: Substitutions::none(),
                    preprocess: Some("scale=1/255".parse().unwrap()),
                    calibrate: Some(&calibration),
                    security: SecurityLevel::Bits128,
                    force: false,
                },
                &h.vault,
                &Silent,
            )
            .unwrap();
        println!("{}", serde_json::to_string(&report).unwrap());
        let found = h
            .owner
            .verify(&VerifyRequest { id: &report.id, data: &digits(20), threads: 1 }, &h.vault, &h.identity, &Silent)
            .unwrap();
        println!("{}", serde_json::to_string(&found).unwrap());
        assert_eq!(found.agreement, 1.0);
        assert!(found.max_abs_error <= report.forecast.max_abs_error, "{found:?}");
        assert!(found.max_abs_error <= 1e-3 * found.largest_output, "{found:?}");
    }
}
