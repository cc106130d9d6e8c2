//! An owner with bundles of a small network.

use std::path::{Path, PathBuf};
use subrosa_owner::{Owner, ProtectRequest, Silent};
use subrosa_program::container::Signer;
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fixtures");
/// Features of the network.
const FEATURES: usize = 30;

/// A file of models/fixtures.
pub fn fixture(name: &str) -> String {
    format!("{FIXTURES}/{name}")
}

/// A home with a protected network.
pub struct TestOwner {
    pub home: PathBuf,
    pub owner: Owner,
    vault: Vault,
    identity: OwnerIdentity,
}

impl TestOwner {
    pub fn new(home: &Path) -> Self {
        let passphrase = Passphrase::new("correct horse".to_owned()).unwrap();
        let owner = Owner::open(home).unwrap();
        let vault = Vault::create_or_open_for_tests(home, &passphrase).unwrap();
        let identity = OwnerIdentity::load_or_create(&vault).unwrap();
        Self { home: home.into(), owner, vault, identity }
    }

    pub fn signer(&self) -> Signer {
        self.identity.signer()
    }

    /// Protects the small network once more and writes its bundle: id and version.
    pub fn bundle(&self, out: &Path) -> (String, u32) {
        let onnx = std::fs::read(format!("{FIXTURES}/torch-tabular.onnx")).unwrap();
        let data = subrosa_input::read(&format!("{FIXTURES}/torch-tabular.input.npy"), None).unwrap();
        let request =
            ProtectRequest { encrypted_input: false, calibrate: Some(&data), ..ProtectRequest::new(&onnx, "tabular") };
        let report = self.owner.protect(&request, &self.vault, &Silent).unwrap();
        self.owner.deploy(&report.id, out, &self.identity).unwrap();
        (report.id, report.version)
    }

    /// The vault.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }
}

/// Samples of the small network, one a row, as its fixture has them, again and again.
pub fn samples(count: usize) -> Vec<Vec<f32>> {
    let data = subrosa_input::read(&format!("{FIXTURES}/torch-tabular.input.npy"), None).unwrap();
    let subrosa_input::Samples::Raw { data, .. } = data.samples else { panic!("not raw") };
    data.chunks(FEATURES).map(<[f32]>::to_vec).cycle().take(count).collect()
}

/// A float32 `.npy` file of samples.
pub fn npy(path: &Path, rows: &[Vec<f32>]) {
    let data = subrosa_input::Dataset {
        count: rows.len(),
        samples: subrosa_input::Samples::Raw { shape: vec![rows[0].len()], data: rows.concat() },
        labels: None,
        names: None,
    };
    // Written beside and renamed, as whoever fills a watched directory should.
    let part = path.with_extension("part");
    std::fs::write(&part, data.to_npy().unwrap()).unwrap();
    std::fs::rename(part, path).unwrap();
}

/// A grey image of 8 x 8.
pub fn png(path: &Path, value: u8) {
    image::GrayImage::from_pixel(8, 8, image::Luma([value])).save(path).unwrap();
}
