//! `demo`: the whole life cycle on real images, in a temporary home, by the same code as the other commands.

mod fleet;
mod pictures;

use crate::arguments::DemoModel;
use crate::failure::{failure, io};
use crate::samples::OnBars;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use subrosa_edge::{InferReport, InferRequest};
use subrosa_edge_agent::Options;
use subrosa_fhe::{Kernel, SecurityLevel};
use subrosa_input::{Dataset, Preprocess, Samples};
use subrosa_network::{Network, Scope, Substitutions};
use subrosa_owner::{Decrypted, Deployed, Owner, OwnerError, ProtectReport, ProtectRequest, Reveal};
use subrosa_plain::PlainNetwork;
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};
use subrosa_terminal::{Failure, Terminal, machine, text};

const NETWORK: &[u8] = include_bytes!("../../../../models/mnist-cnn.onnx");
const IMAGES: &[u8] = include_bytes!("../../../../data/mnist-test-1000-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../../../data/mnist-test-1000-labels-idx1-ubyte.gz");
const PREPROCESS: &str = "scale=1/255";
/// The ranges come from the first digits; what is classified begins behind them.
const CALIBRATION: usize = 100;
/// Digits shown as pictures.
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
    /// Share of digits whose decrypted class is the approximated network's.
    agreement: f64,
    /// Accuracy of the original network in plaintext, on the same digits.
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

/// The digits to classify, and what the plaintext networks say of them.
struct Reference {
    pixels: Vec<u8>,
    labels: Vec<u32>,
    calibration: Dataset,
    original: Vec<usize>,
    approximated: Vec<Vec<f64>>,
}

impl Reference {
    /// The digits to classify.
    fn samples(&self) -> Dataset {
        Dataset {
            count: self.original.len(),
            samples: Samples::Pixels {
                height: pictures::SIDE,
                width: pictures::SIDE,
                channels: 1,
                data: self.pixels.clone(),
            },
            labels: None,
            names: None,
        }
    }
}

pub(crate) fn demo(terminal: &mut Terminal, model: DemoModel, images: u16, fleet: bool) -> Result<(), Failure> {
    if model == DemoModel::Cifar10 {
        return Err(Failure::usage("the demo with cifar10 is not there yet: use --model mnist"));
    }
    let start = Instant::now();
    let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
    let place = directory.path();
    let kernel = Kernel::active().map_err(|e| failure(OwnerError::Engine(e.into())))?;
    let threads = terminal.flags().threads();
    if fleet {
        terminal.text(format!(
            "Subrosa demo: a backend and two edge agents on loopback; {images} MNIST digits and rows of AI4I sensors\n\
             {}, kernel {kernel}, {threads} threads; all files in a temporary home, removed at the end\n",
            machine::cpu_model()
        ))?;
        return fleet::demo(terminal, place, &reference(place, usize::from(images), threads)?);
    }
    terminal.text(format!(
        "Subrosa demo: {images} MNIST digits through a CNN whose classifier (1600-512-10) is encrypted\n\
         {}, kernel {kernel}, {threads} threads; all files in a temporary home, removed at the end\n",
        machine::cpu_model()
    ))?;

    let reference = reference(place, usize::from(images), threads)?;
    let samples = place.join("digits-idx3-ubyte");
    write(&samples, &idx_images(&reference.pixels))?;
    let home = place.join("home");
    let owner = Owner::open(&home).map_err(failure)?;
    let vault = Vault::create_or_open(&home, &random_passphrase()?).map_err(failure)?;
    let identity = OwnerIdentity::load_or_create(&vault).map_err(failure)?;

    let mut modes = Vec::new();
    for input in ["plain", "encrypted"] {
        let run = Run { terminal, place, samples: &samples, owner: &owner, vault: &vault, identity: &identity };
        let (mode, labels) = run.mode(input, &reference)?;
        terminal.text(&mode)?;
        if input == "encrypted" {
            terminal.text(format!("first digits of {images}, with the classes that the owner decrypted:\n"))?;
            terminal.text(pictures::beside(&reference.pixels, &labels, SHOWN))?;
        }
        modes.push(mode);
    }
    let Some(last) = modes.last() else { return Err(Failure::failed("the demo ran in no mode")) };
    terminal.report(&DemoReport {
        model: "mnist".into(),
        images: usize::from(images),
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

/// Reads the embedded digits as files and runs both plaintext networks on those to classify.
fn reference(place: &Path, count: usize, threads: usize) -> Result<Reference, Failure> {
    let (images, labels) = (place.join("images.gz"), place.join("labels.gz"));
    write(&images, IMAGES)?;
    write(&labels, LABELS)?;
    let all = subrosa_input::read(&images.to_string_lossy(), None).map_err(failure)?;
    let mut labels = subrosa_input::read_labels(&labels.to_string_lossy()).map_err(failure)?;
    let Samples::Pixels { height, width, channels, data: mut pixels } = all.samples else {
        return Err(Failure::failed("the embedded digits are not images"));
    };
    let size = height * width * channels;
    // Digits of the calibration come last, so that only runs of nearly all digits classify them too.
    let calibrated = CALIBRATION.min(all.count);
    let part = |pixels: &[u8], labels: &[u32], from: usize, to: usize| Dataset {
        count: to - from,
        samples: Samples::Pixels {
            height,
            width,
            channels,
            data: pixels.get(from * size..to * size).unwrap_or_default().to_vec(),
        },
        labels: labels.get(from..to).map(<[u32]>::to_vec),
        names: None,
    };
    let calibration = part(&pixels, &labels, 0, calibrated);
    pixels.rotate_left(calibrated * size);
    labels.rotate_left(calibrated);
    let count = count.min(all.count);
    let samples = part(&pixels, &labels, 0, count);
    pixels.truncate(count * size);
    labels.truncate(count);

    let network = Network::from_onnx(NETWORK).map_err(failure)?;
    let split = network.split(&Scope::Classifier, &Substitutions::none()).map_err(failure)?;
    let inputs = preprocess()?.apply(&samples, network.input_shape()).map_err(failure)?;
    let run = |onnx: &[u8]| -> Result<Vec<Vec<f64>>, OwnerError> {
        let network = PlainNetwork::load(onnx, threads)?;
        let out = network.run(count, &inputs)?;
        Ok(out.chunks(network.output_len().max(1)).map(|o| o.iter().map(|&x| f64::from(x)).collect()).collect())
    };
    let original = run(NETWORK).map_err(failure)?.iter().map(|o| top(o)).collect();
    let features = match &split.front {
        Some(front) => run(front).map_err(failure)?,
        None => return Err(Failure::failed("the embedded network has no plain part")),
    };
    let approximated = features.iter().map(|x| split.chain.eval(x)).collect();
    Ok(Reference { pixels, labels, calibration, original, approximated })
}

/// What one mode of the demo works with.
struct Run<'a, 't> {
    terminal: &'a Terminal<'t>,
    place: &'a Path,
    samples: &'a Path,
    owner: &'a Owner,
    vault: &'a Vault,
    identity: &'a OwnerIdentity,
}

impl Run<'_, '_> {
    /// Protect, deploy, infer on the edge's side, decrypt, compare; also the decrypted classes.
    fn mode(&self, input: &str, reference: &Reference) -> Result<(Mode, Vec<usize>), Failure> {
        let request = ProtectRequest {
            onnx: NETWORK,
            name: &format!("digits-{input}"),
            scope: Scope::Classifier,
            encrypted_input: input == "encrypted",
            plain_weights: false,
            substitutions: Substitutions::none(),
            preprocess: Some(preprocess()?),
            calibrate: Some(&reference.calibration),
            security: SecurityLevel::Bits128,
            force: false,
            fold: true,
            classes: None,
            memory_limit: None,
            costs: None,
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
                limit: None,
                options: Options { trust: Some(self.identity.signer()), threads, kernel: None },
            },
            &self.terminal.bars(),
        )?;
        let decrypted = self.owner.decrypt(&results, Reveal::Scores, self.vault).map_err(failure)?;
        let labels = decrypted.predictions.iter().map(|p| p.label).collect();
        Ok((Mode::new(&protected, &deployed, &inferred, &decrypted, reference), labels))
    }

    /// Fails if any piece of the packed secret key stands in the bundle.
    fn check_for_secret(&self, id: &str, bundle: &Path) -> Result<(), Failure> {
        let bytes = std::fs::read(bundle).map_err(io("read", bundle))?;
        let names = self.vault.list().map_err(failure)?;
        let name = names.iter().find(|n| n.ends_with(id));
        let name = name.ok_or_else(|| Failure::failed("the vault has no secret key for the network"))?;
        let secret = self.vault.get(name).map_err(failure)?;
        if secret.chunks_exact(PIECE).any(|piece| memchr::memmem::find(&bytes, piece).is_some()) {
            return Err(Failure::failed("a piece of the secret key stands in the bundle"));
        }
        Ok(())
    }
}

impl Mode {
    fn new(
        protected: &ProtectReport,
        deployed: &Deployed,
        inferred: &InferReport,
        decrypted: &Decrypted,
        reference: &Reference,
    ) -> Self {
        let count = decrypted.count.max(1) as f64;
        let pairs = decrypted.predictions.iter().zip(&reference.approximated);
        let errors = pairs
            .clone()
            .flat_map(|(p, expected)| p.scores.iter().flatten().zip(expected).map(|(got, want)| (got - want).abs()));
        let agreeing = pairs.filter(|(p, expected)| p.label == top(expected)).count();
        let right = |labels: &mut dyn Iterator<Item = usize>| {
            labels.zip(&reference.labels).filter(|(got, want)| *got == **want as usize).count() as f64 / count
        };
        Self {
            input: protected.input.clone(),
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

fn preprocess() -> Result<Preprocess, Failure> {
    PREPROCESS.parse().map_err(failure)
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

/// An IDX file of 28 x 28 images.
fn idx_images(pixels: &[u8]) -> Vec<u8> {
    let side = pictures::SIDE as u32;
    let count = (pixels.len() / (pictures::SIDE * pictures::SIDE)) as u32;
    let header = [0x0803, count, side, side].into_iter().flat_map(u32::to_be_bytes);
    header.chain(pixels.iter().copied()).collect()
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(io("write", path))
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (encrypted, prepare) = match self.input.as_str() {
            "encrypted" => ("weights and features encrypted", "encrypt the features"),
            _ => ("weights encrypted, features plain", "encode the features"),
        };
        writeln!(f, "{} input ({encrypted})", self.input)?;
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
        write!(f, "{} images, both modes, {} in all; {verdict}", self.images, text::seconds(self.total_seconds))
    }
}
