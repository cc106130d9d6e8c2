//! `subrosa-edge infer`: from a bundle and samples to a results file.

use crate::failure;
use crate::output::{Output, SigningDevice};
use crate::profile::Profile;
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::time::Instant;
use subrosa_edge_agent::{Options, Processor};
use subrosa_fhe::wire;
use subrosa_terminal::machine::median;
use subrosa_terminal::{Bars, Failure, text};

/// Samples whose features are held at once.
const BATCH: usize = 256;

/// What is to be inferred.
pub struct InferRequest<'a> {
    /// The bundle.
    pub bundle: &'a Path,
    /// File of samples, or `-` for NDJSON on standard input.
    pub input: &'a str,
    /// The results file to write.
    pub out: &'a Path,
    /// Only the first so many samples.
    pub limit: Option<usize>,
    /// Whether every step of the evaluation is timed.
    pub profile: bool,
    /// Who signs the results, if anybody does.
    pub signer: Option<SigningDevice>,
    /// Whom to trust, and threads.
    pub options: Options,
}

/// What `infer` did and how long it took.
#[derive(Debug, Clone, Serialize)]
pub struct InferReport {
    /// The network's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// "plain" or "encrypted".
    pub input: String,
    /// Samples.
    pub count: usize,
    /// Time to check and load the bundle.
    pub load_seconds: f64,
    /// Time of the plain part for one sample, the mean.
    pub plain_seconds: f64,
    /// Time to encode, and with encrypted input to encrypt, one sample's features, the median.
    pub encrypt_seconds: f64,
    /// Time of the blind evaluation of one sample, the median.
    pub infer_seconds: f64,
    /// Time of everything.
    pub total_seconds: f64,
    /// Result ciphertexts of one sample.
    pub result_bytes: u64,
    /// The whole results file.
    pub results_file_bytes: u64,
    /// Input ciphertexts of one sample; 0 with plain input.
    pub input_ciphertext_bytes: u64,
    /// Fingerprint of the bundle's signer.
    pub owner: String,
    /// Whether that is the owner given with `--trust`.
    pub trusted: bool,
    /// Public key of the device that signed the results, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
    /// Where the time of the evaluation goes, with `--profile`.
    #[serde(flatten)]
    pub profile: Option<Profile>,
}

/// Loads the bundle, runs every sample through the plain part and the blind evaluation, writes the results file.
///
/// # Errors
/// A bundle or samples that cannot be used, named with the sample's number (from 0); no results file is written then.
pub fn infer(request: &InferRequest, bars: &Bars) -> Result<InferReport, Failure> {
    let start = Instant::now();
    let processor = Processor::load(request.bundle, &request.options).map_err(failure)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let samples = subrosa_input::read(request.input, request.limit).map_err(|e| failure(e.into()))?;
    let samples = processor.preprocess(&samples).map_err(|e| failure(e).at(request.input))?;
    let mut results = Output::begin(&processor, request)?;
    let parameters = processor.parameters();

    let (mut plain_seconds, mut encrypt_times, mut infer_times) = (0.0, Vec::new(), Vec::new());
    let mut input_ciphertext_bytes = 0;
    let mut step_times: Vec<Vec<f64>> = Vec::new();
    let length = samples.data.len() / samples.count.max(1);
    bars.begin("inferring", samples.count);
    for batch in samples.data.chunks((BATCH * length).max(1)) {
        let plain = Instant::now();
        let features = processor.features(batch.len() / length.max(1), batch).map_err(failure)?;
        plain_seconds += plain.elapsed().as_secs_f64();
        for sample in features.chunks(processor.feature_count()) {
            let at = |e| failure(e).at(format_args!("{}, sample {}", request.input, infer_times.len()));
            let prepare = Instant::now();
            let input = processor.prepare(sample).map_err(at)?;
            encrypt_times.push(prepare.elapsed().as_secs_f64());
            input_ciphertext_bytes = input.ciphertext_bytes(parameters) as u64;
            let evaluate = Instant::now();
            let result = if request.profile {
                let (result, times) = processor.infer_profiled(&input).map_err(at)?;
                step_times.resize_with(times.len(), Vec::new);
                step_times.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
                result
            } else {
                processor.infer(&input).map_err(at)?
            };
            infer_times.push(evaluate.elapsed().as_secs_f64());
            results.push(&processor, &result)?;
            bars.advance(1);
        }
    }
    bars.end();
    let results_file_bytes = results.finish()?;

    let (manifest, output) = (processor.manifest(), &processor.program().output);
    let (signer, trusted) = processor.signer();
    let profile = request.profile.then(|| Profile::new(&processor, &mut step_times));
    Ok(InferReport {
        id: manifest.id.clone(),
        name: manifest.name.clone(),
        version: manifest.version,
        input: manifest.input.clone(),
        count: samples.count,
        load_seconds,
        plain_seconds: plain_seconds / samples.count.max(1) as f64,
        encrypt_seconds: median(&mut encrypt_times),
        infer_seconds: median(&mut infer_times),
        total_seconds: start.elapsed().as_secs_f64(),
        result_bytes: (processor.program().channel_count()
            * output.registers.len()
            * wire::ciphertext_len(parameters, output.level, output.degree)) as u64,
        results_file_bytes,
        input_ciphertext_bytes,
        owner: signer.fingerprint(),
        trusted,
        device_key: request.signer.as_ref().map(SigningDevice::public_key),
        profile,
    })
}

impl fmt::Display for InferReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prepare = if self.input == "encrypted" { "encrypt" } else { "encode" };
        let sent = if self.input_ciphertext_bytes == 0 {
            String::new()
        } else {
            format!(", its encrypted input {}", text::bytes(self.input_ciphertext_bytes))
        };
        let results =
            format!("{} (one result {}{sent})", text::bytes(self.results_file_bytes), text::bytes(self.result_bytes));
        f.write_str(&text::fields(&[
            ("network", format!("{}@{} ({})", self.name, self.version, self.id)),
            ("samples", self.count.to_string()),
            ("load", text::seconds(self.load_seconds)),
            ("plain part, each", text::seconds(self.plain_seconds)),
            (&format!("{prepare}, each"), text::seconds(self.encrypt_seconds)),
            ("blind evaluation, each", text::seconds(self.infer_seconds)),
            ("in all", text::seconds(self.total_seconds)),
            ("results", results),
        ]))?;
        if let Some(key) = &self.device_key {
            write!(f, "{}", text::fields(&[("signed by", key.clone())]))?;
        }
        self.profile.as_ref().map_or(Ok(()), |profile| profile.fmt(f))
    }
}
