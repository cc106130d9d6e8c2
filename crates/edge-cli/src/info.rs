//! `subrosa-edge info`: what a bundle asks of this machine.

use crate::failure;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use subrosa_edge_agent::{EdgeError, open_bundle};
use subrosa_program::container::Signer;
use subrosa_program::{Program, Step};
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
    weights: String,
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
    let (bundle, signer) = open_bundle(path, trust).map_err(edge)?;
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
        weights: manifest.weights.clone(),
        input_shape: manifest.input_shape.clone(),
        preprocess: manifest.preprocess.clone(),
        outputs: manifest.outputs,
        layers_plain: manifest.layers_plain,
        layers_encrypted: manifest.layers_encrypted,
        evaluation_keys: bundle.program.keys.len(),
        bundle_bytes: std::fs::metadata(path).map_or(0, |m| m.len()),
        model_bytes,
        key_bytes,
        memory_bytes: front_bytes.saturating_add(loaded_bytes(&bundle.program)),
        owner: signer.fingerprint(),
        trusted: trust.is_some(),
    })
}

/// Memory of the weights and keys once loaded: two polynomials for each ciphertext and each digit of a key, one for each plaintext,
/// packed to the bytes of their primes where they are read as streams, else of 8-byte words. Saturates, since whoever wrote the bundle
/// chose the numbers.
fn loaded_bytes(program: &Program) -> u64 {
    let n = 1u64.checked_shl(program.parameters.log_n).unwrap_or(u64::MAX);
    // `row` is the bytes of one residue in every limb.
    let polynomials = |count: usize, row: u64| [count as u64, row].into_iter().fold(n, u64::saturating_mul);
    let pairs = |count: usize, row: u64| polynomials(count, row).saturating_mul(2);
    let widths =
        |primes: &[u64]| -> u64 { primes.iter().map(|q| u64::from((u64::BITS - q.leading_zeros()).div_ceil(8))).sum() };
    let packed = |level: usize| widths(&program.parameters.level_primes(level));
    let words = |level: usize| 8u64.saturating_mul(program.parameters.level_primes(level).len() as u64);
    let matrices: BTreeSet<usize> = program
        .steps
        .iter()
        .flat_map(|step| match step {
            Step::DiagonalsPlain { weights, .. }
            | Step::DiagonalsCipher { weights, .. }
            | Step::LinearPlain { weights, .. } => vec![*weights],
            Step::Linear { products, .. } => products.iter().map(|p| p.weights).collect(),
            _ => Vec::new(),
        })
        .collect();
    let weights = program.constants.iter().enumerate().map(|(i, g)| {
        let row = if matrices.contains(&i) { packed(g.level) } else { words(g.level) };
        // The weights of exact integers are there for each plaintext modulus.
        let count = g.count.saturating_mul(program.channel_count());
        if g.plain { polynomials(count, row) } else { pairs(count, row) }
    });
    let keys = program.keys.iter().map(|k| {
        let specials = program.parameters.special_primes.get(..k.shape.specials).unwrap_or_default();
        let limbs = program.parameters.level_primes(k.shape.level).len();
        pairs(limbs.div_ceil(k.shape.digit.max(1)), packed(k.shape.level).saturating_add(widths(specials)))
    });
    let public = pairs(usize::from(program.input.encrypted), words(program.input.level));
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
            ("weights", self.weights.clone()),
            ("preprocessing", self.preprocess.clone().unwrap_or_else(|| "none".into())),
            ("outputs", self.outputs.to_string()),
            ("evaluation keys", self.evaluation_keys.to_string()),
            ("bundle", files),
            ("memory once loaded", text::bytes(self.memory_bytes)),
        ]))
    }
}
