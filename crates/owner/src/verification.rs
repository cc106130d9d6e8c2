//! `verify`: the original, the approximated and the encrypted network side by side.

use crate::calibration::{argmax, top_classes};
use crate::deployment::Deployed;
use crate::error::OwnerError;
use crate::exact::{self, TracedBudget};
use crate::protected::Protected;
use crate::{Owner, Progress};
use serde::Serialize;
use std::time::Instant;
use subrosa_edge_agent::{Options, Processor};
use subrosa_input::Dataset;
use subrosa_plain::PlainNetwork;
use subrosa_registry::{OwnerIdentity, Record, Vault};

/// What is to be verified.
pub struct VerifyRequest<'a> {
    /// The network: id, prefix, name or name@version.
    pub id: &'a str,
    /// Samples, with labels where they are known.
    pub data: &'a Dataset,
    /// Threads of the plain part; 0 means all cores.
    pub threads: usize,
}

/// What the comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Samples compared.
    pub count: usize,
    /// Top-class accuracy of the original network, if labels are known.
    pub accuracy_original: Option<f64>,
    /// The same of the approximated network in plaintext.
    pub accuracy_approximated: Option<f64>,
    /// The same of the encrypted network.
    pub accuracy_encrypted: Option<f64>,
    /// Share of samples whose encrypted result has the approximated network's top class.
    pub agreement: f64,
    /// The same with the original network's top class.
    pub agreement_original: f64,
    /// Largest absolute difference of an encrypted output from the approximated network's.
    pub max_abs_error: f64,
    /// Largest absolute output of the approximated network.
    pub largest_output: f64,
    /// Outputs of all samples that differ from those of the integer network in plaintext; none in CKKS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integer_differences: Option<usize>,
    /// The least noise budget of a result, measured with the secret key, bits; none in CKKS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_budget_bits: Option<f64>,
    /// The planner's bound of the error.
    pub forecast_max_abs_error: f64,
    /// Mean time of a blind evaluation.
    pub mean_infer_seconds: f64,
    /// Median time of a blind evaluation.
    pub median_infer_seconds: f64,
    /// Median time of encoding or encrypting the features.
    pub median_prepare_seconds: f64,
    /// Time of the plain part per sample.
    pub plain_seconds: f64,
    /// Bytes of the bundle.
    pub bundle_bytes: u64,
}

impl Owner {
    /// Deploys the network into a temporary directory, runs every sample through the original, the approximated and the encrypted
    /// network, and compares.
    pub fn verify(
        &self,
        request: &VerifyRequest,
        vault: &Vault,
        identity: &OwnerIdentity,
        progress: &dyn Progress,
    ) -> Result<Comparison, OwnerError> {
        let record = self.registry.get(request.id)?;
        let stored = self.stored(&record)?;
        let report = self.report(&record)?;
        let settings = &report.settings;
        let network = self.network(&record)?;
        let protected = Protected::again(&network, settings)?;
        let decryptor = self.decryptor(&record, &stored, vault)?;
        let (processor, deployed, _dir) = self.deployed(&record, identity, request.threads)?;
        let integers = match (&protected, &settings.integers) {
            (Protected::Chain(split), Some(integers)) => {
                Some(exact::integer_network(&split.chain, integers, &stored.program.input)?)
            }
            _ => None,
        };
        let (mut integer_differences, mut noise_budget) = (0, f64::INFINITY);

        let preprocess = settings.preprocess.clone().unwrap_or_default();
        let inputs = preprocess.apply(request.data, network.input_shape())?;
        let count = request.data.count;
        if count == 0 {
            return Err(OwnerError::Usage("there are no samples to verify with".into()));
        }
        let original = PlainNetwork::load(network.onnx(), request.threads)?;
        let original_labels = top_classes(&original, count, &inputs)?;
        let plain_start = Instant::now();
        let features = processor.features(count, &inputs)?;
        let plain_seconds = plain_start.elapsed().as_secs_f64() / count as f64;

        let (mut approximated_labels, mut encrypted_labels) = (Vec::new(), Vec::new());
        let (mut max_abs_error, mut largest_output) = (0.0f64, 0.0f64);
        let (mut infer_times, mut prepare_times) = (Vec::new(), Vec::new());
        progress.begin("verifying", count);
        for sample in features.chunks(processor.feature_count()) {
            let start = Instant::now();
            let input = processor.prepare(sample)?;
            prepare_times.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let result = processor.infer(&input)?;
            infer_times.push(start.elapsed().as_secs_f64());
            let x: Vec<f64> = sample.iter().map(|&v| f64::from(v)).collect();
            let decrypted = match (&decryptor.integers, &integers) {
                (Some(reader), Some(network)) => {
                    let read = reader.read(&result)?;
                    noise_budget = noise_budget.min(read.budget);
                    let expected = network.evaluate(&stored.program.input.normalised(x.iter().copied()));
                    integer_differences += read.integers.iter().zip(&expected).filter(|(a, b)| a != b).count();
                    reader.outputs(&read.integers)
                }
                _ => decryptor.linear_outputs(&result)?,
            };
            let Some((linear, output)) = protected.evaluate(&[x]).pop() else { continue };
            for (d, r) in decrypted.iter().zip(&linear) {
                max_abs_error = max_abs_error.max((d - r).abs());
                largest_output = largest_output.max(r.abs());
            }
            approximated_labels.push(argmax(output.into_iter()));
            encrypted_labels.push(argmax(decryptor.activated(decrypted).into_iter()));
            progress.advance(1);
        }
        progress.end();

        let share = |a: &[usize], b: &[usize]| a.iter().zip(b).filter(|(x, y)| x == y).count() as f64 / count as f64;
        let labels: Option<Vec<usize>> =
            request.data.labels.as_ref().map(|l| l.iter().take(count).map(|&x| x as usize).collect());
        let accuracy = |of: &[usize]| labels.as_ref().map(|l| share(of, l));
        Ok(Comparison {
            count,
            accuracy_original: accuracy(&original_labels),
            accuracy_approximated: accuracy(&approximated_labels),
            accuracy_encrypted: accuracy(&encrypted_labels),
            agreement: share(&encrypted_labels, &approximated_labels),
            agreement_original: share(&encrypted_labels, &original_labels),
            max_abs_error,
            largest_output,
            integer_differences: integers.as_ref().map(|_| integer_differences),
            noise_budget_bits: integers.as_ref().map(|_| noise_budget),
            forecast_max_abs_error: report.forecast.max_abs_error,
            mean_infer_seconds: infer_times.iter().sum::<f64>() / count as f64,
            median_infer_seconds: median(&mut infer_times),
            median_prepare_seconds: median(&mut prepare_times),
            plain_seconds,
            bundle_bytes: deployed.bundle_bytes,
        })
    }
}

impl Owner {
    /// Evaluates the first sample and measures the noise budget after every step, beside what was forecast.
    ///
    /// # Errors
    /// Those of [`verify`](Self::verify), and a network of CKKS, which has no noise budget.
    pub fn trace_budget(
        &self,
        request: &VerifyRequest,
        vault: &Vault,
        identity: &OwnerIdentity,
    ) -> Result<Vec<TracedBudget>, OwnerError> {
        let record = self.registry.get(request.id)?;
        let stored = self.stored(&record)?;
        let network = self.network(&record)?;
        let decryptor = self.decryptor(&record, &stored, vault)?;
        let none =
            || OwnerError::Usage("--trace follows the noise budget, which only networks of --scheme bgv have".into());
        let reader = decryptor.integers.as_ref().ok_or_else(none)?;
        let (processor, _, _dir) = self.deployed(&record, identity, request.threads)?;
        let preprocess = self.report(&record)?.settings.preprocess.unwrap_or_default();
        let inputs = preprocess.apply(request.data, network.input_shape())?;
        let first = inputs.get(..network.input_shape().iter().product::<usize>()).unwrap_or_default();
        let features = processor.features(1, first)?;
        exact::trace(reader, &processor, &processor.prepare(&features)?)
    }

    /// The network as an edge loads it, its bundle in a directory that goes with it.
    fn deployed(
        &self,
        record: &Record,
        identity: &OwnerIdentity,
        threads: usize,
    ) -> Result<(Processor, Deployed, tempfile::TempDir), OwnerError> {
        let dir = tempfile::tempdir().map_err(|e| OwnerError::io("create a directory in", &std::env::temp_dir(), e))?;
        let path = dir.path().join("bundle.srb");
        let deployed = self.deploy(&record.id.to_string(), &path, identity)?;
        let options = Options { trust: Some(identity.signer()), threads, kernel: None };
        Ok((Processor::load(&path, &options)?, deployed, dir))
    }
}

/// The middle value; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
