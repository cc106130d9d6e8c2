//! `subrosa-edge info`: what a bundle asks of this machine.

use crate::failure;
use serde::Serialize;
use std::fmt;
use std::path::Path;
use subrosa_edge_agent::EdgeError;
use subrosa_program::Program;
use subrosa_program::bundle::{BUNDLE_KIND, Bundle};
use subrosa_program::container::Signer;
use subrosa_terminal::{Failure, text};

/// What `info` found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct InfoReport {
    id: String,
    name: String,
    version: u32,
    scheme: String,
    security_bits: u32,
    log_n: u32,
    scope: String,
    input: String,
    input_shape: Vec<usize>,
    preprocess: Option<String>,
    outputs: usize,
    layers_plain: usize,
    layers_encrypted: usize,
    evaluation_keys: usize,
    bundle_bytes: u64,
    model_bytes: u64,
    key_bytes: u64,
    memory_bytes: u64,
    pub(crate) owner: String,
    pub(crate) trusted: bool,
}

/// Checks a bundle completely and says what it is.
pub(crate) fn info(path: &Path, trust: Option<&Signer>) -> Result<InfoReport, Failure> {
    let edge = |e: EdgeError| failure(e);
    let bundle = Bundle::open(path, BUNDLE_KIND).map_err(|e| edge(e.into()))?;
    let file = || path.display().to_string();
    let signer = bundle.signer().ok_or_else(|| edge(EdgeError::Unsigned { file: file() }))?;
    if let Some(trusted) = trust.filter(|t| *t != signer) {
        let (found, trusted) = (signer.fingerprint(), trusted.fingerprint());
        return Err(edge(EdgeError::ForeignOwner { file: file(), found, trusted }));
    }
    let (model_bytes, key_bytes) = bundle.sizes().map_err(|e| edge(e.into()))?;
    let front_bytes = bundle.front().map_err(|e| edge(e.into()))?.map_or(0, <[u8]>::len) as u64;
    let manifest = &bundle.manifest;
    Ok(InfoReport {
        id: manifest.id.clone(),
        name: manifest.name.clone(),
        version: manifest.version,
        scheme: manifest.scheme.clone(),
        security_bits: manifest.security_bits,
        log_n: bundle.program.parameters.log_n,
        scope: manifest.scope.clone(),
        input: manifest.input.clone(),
        input_shape: manifest.input_shape.clone(),
        preprocess: manifest.preprocess.clone(),
        outputs: manifest.outputs,
        layers_plain: manifest.layers_plain,
        layers_encrypted: manifest.layers_encrypted,
        evaluation_keys: bundle.program.keys.len(),
        bundle_bytes: std::fs::metadata(path).map_or(0, |m| m.len()),
        model_bytes,
        key_bytes,
        memory_bytes: front_bytes + expanded_bytes(&bundle.program),
        owner: signer.fingerprint(),
        trusted: trust.is_some(),
    })
}

/// Memory of the unpacked weights and keys: two polynomials of 8-byte words for each ciphertext and each digit of a key.
/// Saturates, since whoever wrote the bundle chose the numbers.
fn expanded_bytes(program: &Program) -> u64 {
    let n = 1u64.checked_shl(program.parameters.log_n).unwrap_or(u64::MAX);
    let pairs = |count: usize, limbs: usize| [16, count as u64, limbs as u64].into_iter().fold(n, u64::saturating_mul);
    let weights = program.constants.iter().map(|g| pairs(g.count, g.level));
    let keys = program.keys.iter().map(|k| pairs(k.shape.digits(), k.shape.level.saturating_add(k.shape.specials)));
    let public = pairs(usize::from(program.input.encrypted), program.input.level);
    weights.chain(keys).fold(public, u64::saturating_add)
}

impl fmt::Display for InfoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = format!("{} plain, {} encrypted (scope {})", self.layers_plain, self.layers_encrypted, self.scope);
        let files = format!(
            "{} (weights {}, keys {})",
            text::bytes(self.bundle_bytes),
            text::bytes(self.model_bytes),
            text::bytes(self.key_bytes)
        );
        let trust = if self.trusted { "trusted" } else { "not verified" };
        f.write_str(&text::fields(&[
            ("network", format!("{}@{} ({})", self.name, self.version, self.id)),
            ("owner", format!("{} ({trust})", self.owner)),
            ("security", format!("{} bits, {}, ring degree 2^{}", self.security_bits, self.scheme, self.log_n)),
            ("layers", parts),
            ("input", format!("{} of shape {:?}", self.input, self.input_shape)),
            ("preprocessing", self.preprocess.clone().unwrap_or_else(|| "none".into())),
            ("outputs", self.outputs.to_string()),
            ("evaluation keys", self.evaluation_keys.to_string()),
            ("bundle", files),
            ("memory once loaded", text::bytes(self.memory_bytes)),
        ]))
    }
}
