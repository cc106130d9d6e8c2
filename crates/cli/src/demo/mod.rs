//! `demo`: the whole life cycle on real images, in a temporary home, by the same code as the other commands.

mod fleet;
mod pictures;
mod story;

use crate::arguments::DemoModel;
use crate::failure::{failure, io};
use crate::samples::{self, OnBars};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::time::Instant;
use story::Story;
use subrosa_edge::{InferReport, InferRequest};
use subrosa_edge_agent::Options;
use subrosa_fhe::Kernel;
use subrosa_input::{Dataset, Preprocess};
use subrosa_network::Network;
use subrosa_owner::{Decrypted, Deployed, Owner, OwnerError, ProtectReport, ProtectRequest, Reveal};
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};
use subrosa_terminal::{Failure, Terminal, machine, text};

/// Images shown as text.
const SHOWN: usize = 3;
/// The secret key is looked for in the bundle piece by piece.
const PIECE: usize = 32;

/// What the demo measured; the top level is that of encrypted input.
#[derive(Serialize)]
struct DemoReport {
    model: String,
    images: usize,
    agreement: f64,
    accuracy_plain: f64,
    accuracy_encrypted: f64,
    max_abs_error: f64,
    protect_seconds: f64,
    infer_seconds: f64,
    bundle_bytes: u64,
    security_bits: u32,
    kernel: String,
    threads: usize,
    total_seconds: f64,
    modes: Vec<Mode>,
}

/// One way to hand in the images.
#[derive(Serialize)]
struct Mode {
    input: String,
    /// What is encrypted, for people.
    #[serde(skip)]
    encrypted: &'static str,
    /// Share of images whose decrypted class is the approximated network's.
    agreement: f64,
    /// Accuracy of the original network in plaintext, on the same images.
    accuracy_plain: f64,
    accuracy_encrypted: f64,
    /// Largest difference of a decrypted output from the approximated network's in f64.
    max_abs_error: f64,
    forecast_max_abs_error: f64,
    security_bits: u32,
    log_n: u32,
    log_qp: f64,
    moduli_bits: Vec<u32>,
    remaining_budget_bits: f64,
    table_slack_bits: f64,
    weights: usize,
    ciphertexts: usize,
    model_bytes: u64,
    key_bytes: u64,
    bundle_bytes: u64,
    input_ciphertext_bytes: u64,
    result_bytes: u64,
    keygen_seconds: f64,
    protect_seconds: f64,
    deploy_seconds: f64,
    load_seconds: f64,
    plain_seconds: f64,
    encrypt_seconds: f64,
    infer_seconds: f64,
    decrypt_seconds: f64,
}

/// The images to classify, and what the plaintext network says of them.
struct Reference {
    images: Dataset,
    calibration: Dataset,
    original: Vec<usize>,
}

pub(crate) fn demo(terminal: &mut Terminal, model: DemoModel, images: Option<u16>, fleet: bool) -> Result<(), Failure> {
    let story = &Story::of(model);
    let start = Instant::now();
    let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
    let place = directory.path();
    let kernel = Kernel::active().map_err(|e| failure(OwnerError::Engine(e.into())))?;
    let threads = terminal.flags().threads();
    let (calibration, images) = story.read(place, images.map_or(story.usual, usize::from))?;
    let count = images.count;
    let what = if fleet {
        "MNIST digits and rows of AI4I sensors, by a backend and two edge agents on loopback"
    } else {
        story.what
    };
    terminal.text(format!(
        "Subrosa demo: {count} {}\n\
         {}, kernel {kernel}, {threads} threads; all files in a temporary home, removed at the end\n",
        what,
        machine::cpu_model()
    ))?;

    let preprocess: Preprocess = story.preprocess.parse().map_err(failure)?;
    let shape = Network::from_onnx(story.onnx).map_err(failure)?.input_shape().to_vec();
    let inputs = preprocess.apply(&images, &shape).map_err(failure)?;
    let original = story.original(&inputs, count, threads).map_err(failure)?;
    let reference = Reference { images, calibration, original };
    if fleet {
        return fleet::demo(terminal, place, story, &reference);
    }
    let samples = place.join("images.npy");
    samples::write_npy(&samples, &reference.images.samples)?;
    let home = place.join("home");
    let owner = Owner::open(&home).map_err(failure)?;
    let vault = Vault::create_or_open(&home, &random_passphrase()?).map_err(failure)?;
    let identity = OwnerIdentity::load_or_create(&vault).map_err(failure)?;

    let mut modes = Vec::new();
    for &encrypted in story.inputs {
        let run = Run { terminal, story, place, samples: &samples, owner: &owner, vault: &vault, identity: &identity };
        let (mode, classes) = run.mode(encrypted, &preprocess, &reference)?;
        terminal.text(&mode)?;
        if encrypted {
            terminal
                .text(format!("first {} of {count}, with the classes that the owner decrypted:\n", story.images))?;
            terminal.text(pictures::beside(&reference.images.samples, story.margin, &classes, SHOWN))?;
        }
        modes.push(mode);
    }
    let Some(last) = modes.last() else { return Err(Failure::failed("the demo ran in no mode")) };
    terminal.report(&DemoReport {
        model: story.model.into(),
        images: count,
        agreement: last.agreement,
        accuracy_plain: last.accuracy_plain,
        accuracy_encrypted: last.accuracy_encrypted,
        max_abs_error: last.max_abs_error,
        protect_seconds: last.protect_seconds,
        infer_seconds: last.infer_seconds,
        bundle_bytes: last.bundle_bytes,
        security_bits: last.security_bits,
        kernel: kernel.to_string(),
        threads,
        total_seconds: start.elapsed().as_secs_f64(),
        modes,
    })
}

/// What one mode of the demo works with.
struct Run<'a, 't> {
    terminal: &'a Terminal<'t>,
    story: &'a Story,
    place: &'a Path,
    samples: &'a Path,
    owner: &'a Owner,
    vault: &'a Vault,
    identity: &'a OwnerIdentity,
}

impl Run<'_, '_> {
    /// Protect, deploy, infer on the edge's side, decrypt, compare; also the decrypted classes, as people call them.
    fn mode(
        &self,
        encrypted: bool,
        preprocess: &Preprocess,
        reference: &Reference,
    ) -> Result<(Mode, Vec<String>), Failure> {
        let input = if encrypted { "encrypted" } else { "plain" };
        let name = format!("{}-{input}", self.story.images);
        let request = ProtectRequest {
            scope: self.story.scope.clone(),
            encrypted_input: encrypted,
            preprocess: Some(preprocess.clone()),
            calibrate: Some(&reference.calibration),
            classes: self.story.classes.clone(),
            ..ProtectRequest::new(self.story.onnx, &name)
        };
        let progress = OnBars(self.terminal.bars());
        let protected = self.owner.protect(&request, self.vault, &progress).map_err(failure)?;
        let bundle = self.place.join(format!("{input}.srb"));
        let deployed = self.owner.deploy(&protected.id, &bundle, self.identity).map_err(failure)?;
        self.check_for_secret(&protected.id, &bundle)?;
        let results = self.place.join(format!("{input}.srr"));
        let threads = self.terminal.flags().threads();
        let inferred = subrosa_edge::infer(
            &InferRequest {
                bundle: &bundle,
                input: &self.samples.to_string_lossy(),
                out: &results,
                profile: false,
                signer: None,
                limit: None,
                options: Options { trust: Some(self.identity.signer()), threads, kernel: None },
            },
            &self.terminal.bars(),
        )?;
        let decrypted = self.owner.decrypt(&results, Reveal::Scores, self.vault).map_err(failure)?;
        let expected = self.owner.plain_outputs(&protected.id, &reference.images).map_err(failure)?;
        let classes = decrypted.predictions.iter().map(|p| p.name.clone().unwrap_or_else(|| p.label.to_string()));
        let classes = classes.collect();
        let what = self.story.encrypted.get(usize::from(encrypted)).copied().unwrap_or_default();
        Ok((Mode::new(what, &protected, &deployed, &inferred, &decrypted, (reference, &expected)), classes))
    }

    /// Fails if any piece of the packed secret key stands in the bundle.
    fn check_for_secret(&self, id: &str, bundle: &Path) -> Result<(), Failure> {
        let bytes = std::fs::read(bundle).map_err(io("read", bundle))?;
        let names = self.vault.list().map_err(failure)?;
        let name = names.iter().find(|n| n.ends_with(id));
        let name = name.ok_or_else(|| Failure::failed("the vault has no secret key for the network"))?;
        let secret = self.vault.get(name).map_err(failure)?;
        if stands_in(&bytes, &secret) {
            return Err(Failure::failed("a piece of the secret key stands in the bundle"));
        }
        Ok(())
    }
}

impl Mode {
    fn new(
        encrypted: &'static str,
        protected: &ProtectReport,
        deployed: &Deployed,
        inferred: &InferReport,
        decrypted: &Decrypted,
        (reference, expected): (&Reference, &[Vec<f64>]),
    ) -> Self {
        let count = decrypted.count.max(1) as f64;
        let pairs = decrypted.predictions.iter().zip(expected);
        let errors = pairs
            .clone()
            .flat_map(|(p, expected)| p.scores.iter().flatten().zip(expected).map(|(got, want)| (got - want).abs()));
        let agreeing = pairs.filter(|(p, expected)| p.label == top(expected)).count();
        let right = |labels: &mut dyn Iterator<Item = usize>| {
            labels.zip(reference.images.labels.iter().flatten()).filter(|(got, want)| *got == **want as usize).count()
                as f64
                / count
        };
        Self {
            input: protected.input.clone(),
            encrypted,
            agreement: agreeing as f64 / count,
            accuracy_plain: right(&mut reference.original.iter().copied()),
            accuracy_encrypted: right(&mut decrypted.predictions.iter().map(|p| p.label)),
            max_abs_error: errors.fold(0.0, f64::max),
            forecast_max_abs_error: protected.forecast.max_abs_error,
            security_bits: protected.security_bits,
            log_n: protected.log_n,
            log_qp: protected.log_qp,
            moduli_bits: protected.moduli_bits.clone(),
            remaining_budget_bits: protected.forecast.remaining_budget_bits,
            table_slack_bits: protected.forecast.table_slack_bits,
            weights: protected.weights,
            ciphertexts: protected.ciphertexts,
            model_bytes: protected.model_bytes,
            key_bytes: protected.key_bytes,
            bundle_bytes: deployed.bundle_bytes,
            input_ciphertext_bytes: inferred.input_ciphertext_bytes,
            result_bytes: inferred.result_bytes,
            keygen_seconds: protected.keygen_seconds,
            protect_seconds: protected.protect_seconds,
            deploy_seconds: deployed.seconds,
            load_seconds: inferred.load_seconds,
            plain_seconds: inferred.plain_seconds,
            encrypt_seconds: inferred.encrypt_seconds,
            infer_seconds: inferred.infer_seconds,
            decrypt_seconds: decrypted.seconds / count,
        }
    }
}

/// Index of the largest value, the first of equals.
fn top(values: &[f64]) -> usize {
    values.iter().enumerate().fold((0, f64::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best }).0
}

fn random_text() -> Result<String, Failure> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| Failure::failed(format!("the operating system gives no random bytes: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn random_passphrase() -> Result<Passphrase, Failure> {
    Passphrase::new(random_text()?).map_err(failure)
}

/// Whether any piece of a secret stands in the bytes: one pass over them, however many pieces there are.
fn stands_in(bytes: &[u8], secret: &[u8]) -> bool {
    let begin = |window: &[u8]| match window {
        [a, b, ..] => usize::from(u16::from_le_bytes([*a, *b])),
        _ => 0,
    };
    let mut begins = vec![false; 1 << 16];
    let pieces: HashSet<&[u8]> = secret.chunks_exact(PIECE).collect();
    for piece in &pieces {
        if let Some(known) = begins.get_mut(begin(piece)) {
            *known = true;
        }
    }
    let known = |window: &&[u8]| begins.get(begin(window)).copied().unwrap_or(true);
    bytes.windows(PIECE).filter(known).any(|window| pieces.contains(window))
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prepare = match self.input.as_str() {
            "encrypted" => "encrypt",
            _ => "encode",
        };
        writeln!(f, "{} input ({})", self.input, self.encrypted)?;
        let parameters = format!(
            "{} bits: ring degree 2^{}, log2(QP) {:.0} ({:.0} below the bound), primes of {:?} bits",
            self.security_bits, self.log_n, self.log_qp, self.table_slack_bits, self.moduli_bits
        );
        let sizes = format!(
            "bundle {}: {} weights in {} ciphertexts {}, keys {}",
            text::bytes(self.bundle_bytes),
            self.weights,
            self.ciphertexts,
            text::bytes(self.model_bytes),
            text::bytes(self.key_bytes)
        );
        let input = match self.input_ciphertext_bytes {
            0 => String::new(),
            bytes => format!("encrypted input {}, ", text::bytes(bytes)),
        };
        let owner = format!(
            "protect {} (keys {}), deploy {}, decrypt {} each",
            text::seconds(self.protect_seconds),
            text::seconds(self.keygen_seconds),
            text::seconds(self.deploy_seconds),
            text::seconds(self.decrypt_seconds)
        );
        let edge = format!(
            "load {}; each image: plain part {}, {prepare} {}, blind evaluation {}",
            text::seconds(self.load_seconds),
            text::seconds(self.plain_seconds),
            text::seconds(self.encrypt_seconds),
            text::seconds(self.infer_seconds)
        );
        let error =
            format!("{:.2e}; forecast before any run: at most {:.2e}", self.max_abs_error, self.forecast_max_abs_error);
        let accuracy = format!(
            "{} encrypted, {} original in plaintext",
            text::percent(self.accuracy_encrypted),
            text::percent(self.accuracy_plain)
        );
        f.write_str(&text::fields(&[
            ("  security", parameters),
            ("  sizes", sizes),
            ("  per image", format!("{input}encrypted result {}", text::bytes(self.result_bytes))),
            ("  owner", owner),
            ("  edge", edge),
            ("  agreement", format!("{} with the approximated network in f64", text::percent(self.agreement))),
            ("  accuracy", accuracy),
            ("  largest error", error),
            ("  budget left", format!("{:.1} bits", self.remaining_budget_bits)),
            ("  secret key", format!("none of its packed form's {PIECE}-byte pieces stands in the bundle")),
        ]))
    }
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong = self.modes.iter().any(|m| m.max_abs_error > m.forecast_max_abs_error);
        let verdict =
            if wrong { "an error exceeded its forecast: please report it" } else { "all errors within forecast" };
        let modes = if self.modes.len() > 1 { ", both modes" } else { "" };
        write!(f, "{} images{modes}, {} in all; {verdict}", self.images, text::seconds(self.total_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_secret_is_found_wherever_it_stands() {
        let secret: Vec<u8> = (0..100u32).map(|i| (i * 37 % 251) as u8).collect();
        let mut bytes = vec![secret[0]; 1000];
        assert!(!stands_in(&bytes, &secret));
        for (at, piece) in [(0, 0), (333, 1), (1000 - PIECE, 2)] {
            let mut with = bytes.clone();
            with[at..at + PIECE].copy_from_slice(&secret[piece * PIECE..(piece + 1) * PIECE]);
            assert!(stands_in(&with, &secret));
            with[at + PIECE - 1] ^= 1;
            assert!(!stands_in(&with, &secret));
        }
        bytes.truncate(PIECE - 1);
        assert!(!stands_in(&bytes, &secret));
    }
}
