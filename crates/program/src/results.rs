//! The results file: encrypted inferences on their way to the owner.
//!
//! Sections (docs/format.md): `manifest` (JSON) and `ciphertexts`, the packed result ciphertexts of inference after inference.

use crate::bundle::{FileError, json, to_json};
use crate::container::{Container, ContainerWriter, FileInfo};
use crate::program::OutputSpec;
use serde::{Deserialize, Serialize};
use std::path::Path;
use subrosa_fhe::{Ciphertext, Parameters, wire};

/// Kind of a results file.
pub const RESULTS_KIND: [u8; 8] = *b"SRRESULT";

const MANIFEST: &str = "manifest";
const CIPHERTEXTS: &str = "ciphertexts";

/// Whose results these are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultsManifest {
    /// Id of the network in its owner's registry.
    pub model: String,
    /// Name of the network.
    pub name: String,
    /// Version of the network.
    pub version: u32,
    /// Number of inferences.
    pub count: usize,
    /// Ciphertexts of one inference.
    pub ciphertexts: usize,
}

/// Writes results as they come.
pub struct ResultsWriter {
    out: ContainerWriter,
    file: String,
    manifest: ResultsManifest,
}

impl ResultsWriter {
    /// Begins a results file; nothing appears at `path` before [`Self::finish`].
    pub fn create(path: &Path, manifest: ResultsManifest) -> Result<Self, FileError> {
        let mut out = ContainerWriter::create(path, RESULTS_KIND)?;
        out.begin_section(CIPHERTEXTS)?;
        Ok(Self { out, file: path.display().to_string(), manifest: ResultsManifest { count: 0, ..manifest } })
    }

    /// Appends one inference.
    pub fn push(&mut self, parameters: &Parameters, result: &[Ciphertext]) -> Result<(), FileError> {
        let bad = |reason: String| FileError::Section { file: self.file.clone(), section: CIPHERTEXTS, reason };
        if result.len() != self.manifest.ciphertexts {
            return Err(bad(format!("{} ciphertexts instead of {}", result.len(), self.manifest.ciphertexts)));
        }
        for ciphertext in result {
            self.out.write(&ciphertext.to_bytes(parameters).map_err(|e| bad(e.to_string()))?)?;
        }
        self.manifest.count += 1;
        Ok(())
    }

    /// Puts the file in place.
    pub fn finish(mut self) -> Result<FileInfo, FileError> {
        self.out.end_section()?;
        self.out.add_section(MANIFEST, &to_json(&self.file, MANIFEST, &self.manifest)?)?;
        Ok(self.out.finish(None)?)
    }
}

/// An open results file.
pub struct Results {
    container: Container,
    file: String,
    /// Whose results these are.
    pub manifest: ResultsManifest,
}

impl Results {
    /// Opens a results file and checks all of it against damage.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let container = Container::open(path, RESULTS_KIND)?;
        container.verify_all()?;
        let file = path.display().to_string();
        let manifest = json(&container, &file, MANIFEST)?;
        Ok(Self { container, file, manifest })
    }

    /// The packed ciphertexts of each inference, as many as the file says; [`read_inference`] reads them.
    pub fn inferences(&self, parameters: &Parameters, output: &OutputSpec) -> Result<Vec<&[u8]>, FileError> {
        let bad = |reason: String| FileError::Section { file: self.file.clone(), section: CIPHERTEXTS, reason };
        let length = inference_len(parameters, output);
        let bytes = self.container.section(CIPHERTEXTS)?;
        let expected = self.manifest.count.checked_mul(length);
        if output.registers.len() != self.manifest.ciphertexts || expected != Some(bytes.len()) {
            return Err(bad("its length is not that of the results of this network".into()));
        }
        Ok(bytes.chunks(length.max(1)).collect())
    }
}

/// Bytes of one inference.
pub fn inference_len(parameters: &Parameters, output: &OutputSpec) -> usize {
    output.registers.len() * wire::ciphertext_len(parameters, output.level, output.degree)
}

/// The result ciphertexts of one inference, checked to be exactly what the network's program ends in: count, level, degree, scale, and
/// not a byte more. The error says what is not.
pub fn read_inference(parameters: &Parameters, output: &OutputSpec, bytes: &[u8]) -> Result<Vec<Ciphertext>, String> {
    let (found, expected) = (bytes.len(), inference_len(parameters, output));
    if found != expected {
        return Err(format!("{found} bytes instead of {expected}"));
    }
    let length = wire::ciphertext_len(parameters, output.level, output.degree);
    let one = |packed: &[u8]| {
        let c = Ciphertext::from_bytes(parameters, packed).map_err(|e| e.to_string())?;
        // Exact integers have another scale in each channel; who decrypts them compares it.
        let scale_fits = parameters.plain().is_some() || (c.scale / output.scale - 1.0).abs() < 1e-9;
        if c.level() != output.level || c.degree() != output.degree || !scale_fits {
            return Err("a ciphertext is not at the level, degree and scale this network ends in".to_owned());
        }
        Ok(c)
    };
    bytes.chunks(length).map(one).collect()
}
