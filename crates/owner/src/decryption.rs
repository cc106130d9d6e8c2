//! The Decryption Agent: finds the secret key by the network's id in the results, and reveals what the policy permits.

use crate::Owner;
use crate::calibration::argmax;
use crate::error::OwnerError;
use crate::protection::{NETWORK_FILE, PROTECTED_FILE, ProtectReport, Settings, key_name};
use serde::{Serialize, Serializer};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;
use subrosa_fhe::{Ciphertext, Kernel};
use subrosa_network::{Network, Polynomial};
use subrosa_program::OutputSpec;
use subrosa_program::bundle::{Bundle, PROTECTED_KIND};
use subrosa_program::results::Results;
use subrosa_registry::{Record, Vault};
use subrosa_secret::SecretKey;

/// What of an inference is revealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reveal {
    /// The top class only.
    Label,
    /// The best K classes with their probabilities.
    Top(usize),
    /// Every output. For the owner's own eyes: many exact outputs help to extract the network, and approximate decryptions of
    /// CKKS say something about the key (Li and Micciancio, eprint 2020/1533).
    Scores,
}

impl FromStr for Reveal {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match (s, s.strip_prefix("top:").map(str::parse)) {
            ("label", _) => Ok(Self::Label),
            ("scores", _) => Ok(Self::Scores),
            (_, Some(Ok(k))) if k > 0 => Ok(Self::Top(k)),
            _ => Err(format!("'{s}' is not a way to reveal: use label, top:K (K at least 1) or scores")),
        }
    }
}

impl fmt::Display for Reveal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label => write!(f, "label"),
            Self::Top(k) => write!(f, "top:{k}"),
            Self::Scores => write!(f, "scores"),
        }
    }
}

impl Serialize for Reveal {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// One revealed inference.
#[derive(Debug, Clone, Serialize)]
pub struct Prediction {
    /// Number of the sample, from 0.
    pub index: usize,
    /// Top class.
    pub label: usize,
    /// Its name, if names were given to `protect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Present and true if an output lies outside the range the network was protected for: the answer may be wrong.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub out_of_range: bool,
    /// Best classes and their probabilities (softmax of the outputs), best first, if revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<Vec<(usize, f64)>>,
    /// All outputs, if revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<f64>>,
}

/// Decrypted results.
#[derive(Debug, Clone, Serialize)]
pub struct Decrypted {
    /// The network's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Number of inferences.
    pub count: usize,
    /// What was revealed.
    pub reveal: Reveal,
    /// The inferences in order.
    pub predictions: Vec<Prediction>,
    /// log2 of the result modulus over the declared range of the outputs at their scale.
    pub remaining_budget_bits: f64,
    /// Time it took.
    pub seconds: f64,
}

/// A network's secret key and where its outputs are.
pub(crate) struct Decryptor {
    secret: SecretKey,
    output: OutputSpec,
    /// Activation after the last layer, applied here in the clear.
    activation: Option<Polynomial>,
    classes: Option<Vec<String>>,
}

impl Owner {
    /// Decrypts a results file.
    ///
    /// # Errors
    /// A file that is damaged or of a network that is not here; a vault without the key; results that are not what the network's
    /// program ends in. Outputs outside their declared range are marked, not refused.
    pub fn decrypt(&self, results: &Path, reveal: Reveal, vault: &Vault) -> Result<Decrypted, OwnerError> {
        let start = Instant::now();
        let opened = Results::open(results)?;
        let foreign = || OwnerError::ForeignResults {
            file: results.display().to_string(),
            name: opened.manifest.name.clone(),
            id: opened.manifest.model.clone(),
        };
        let record = self.registry.get(&opened.manifest.model).map_err(|_| foreign())?;
        if record.id.to_string() != opened.manifest.model {
            return Err(foreign());
        }
        let stored = self.stored(&record)?;
        let decryptor = self.decryptor(&record, &stored, vault)?;
        let inferences = opened.read(decryptor.secret.parameters(), &stored.program.output)?;
        let mut predictions = Vec::with_capacity(inferences.len());
        for (index, inference) in inferences.iter().enumerate() {
            let linear = decryptor.linear_outputs(inference)?;
            let out_of_range = linear.iter().any(|v| v.abs() > stored.program.output.max_abs);
            predictions.push(decryptor.revealed(index, linear, out_of_range, reveal));
        }
        Ok(Decrypted {
            id: opened.manifest.model.clone(),
            name: record.name,
            version: record.version,
            count: predictions.len(),
            reveal,
            predictions,
            remaining_budget_bits: stored.program.remaining_budget_bits(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The owner's stored copy of a protected network.
    pub(crate) fn stored(&self, record: &Record) -> Result<Bundle, OwnerError> {
        Ok(Bundle::open(&self.registry.file(record, PROTECTED_FILE)?, PROTECTED_KIND)?)
    }

    /// What `protect` reported of a network.
    pub(crate) fn report(&self, record: &Record) -> Result<ProtectReport, OwnerError> {
        serde_json::from_value(record.report.clone()).map_err(|e| OwnerError::Report(e.to_string()))
    }

    /// The original network.
    pub(crate) fn network(&self, record: &Record) -> Result<Network, OwnerError> {
        let path = self.registry.file(record, NETWORK_FILE)?;
        let onnx = std::fs::read(&path).map_err(|e| OwnerError::io("read", &path, e))?;
        Ok(Network::from_onnx(&onnx)?)
    }

    /// Takes a network's secret key from the vault.
    pub(crate) fn decryptor(&self, record: &Record, stored: &Bundle, vault: &Vault) -> Result<Decryptor, OwnerError> {
        let id = record.id.to_string();
        let parameters = stored.parameters(Kernel::active()?)?;
        let packed = vault.get(&key_name(&id))?;
        let secret = SecretKey::from_bytes(&parameters, &packed)
            .map_err(|e| OwnerError::SecretKey { id, reason: e.to_string() })?;
        let Settings { output_activation, classes, .. } = self.report(record)?.settings;
        Ok(Decryptor { secret, output: stored.program.output.clone(), activation: output_activation, classes })
    }
}

impl Decryptor {
    /// The linear outputs of the last layer.
    pub fn linear_outputs(&self, ciphertexts: &[Ciphertext]) -> Result<Vec<f64>, OwnerError> {
        let decrypted: Result<Vec<Vec<f64>>, _> =
            ciphertexts.iter().map(|c| self.secret.decrypt_coefficients(c)).collect();
        let decrypted = decrypted?;
        let at = |&(register, coefficient): &(usize, usize)| {
            decrypted.get(register).and_then(|c| c.get(coefficient)).map(|v| v * self.output.factor)
        };
        let missing = || OwnerError::Report("its program names outputs that do not exist".into());
        self.output.positions.iter().map(|p| at(p).ok_or_else(missing)).collect()
    }

    /// The network's outputs: the activation after the last layer, if there is one.
    pub fn activated(&self, linear: Vec<f64>) -> Vec<f64> {
        match &self.activation {
            Some(p) => linear.into_iter().map(|z| p.eval(z)).collect(),
            None => linear,
        }
    }

    /// What the policy reveals of one inference, from its linear outputs.
    fn revealed(&self, index: usize, linear: Vec<f64>, out_of_range: bool, reveal: Reveal) -> Prediction {
        let scores = self.activated(linear);
        let label = argmax(scores.iter().copied());
        let name = self.classes.as_ref().and_then(|c| c.get(label)).cloned();
        let top = match reveal {
            Reveal::Label => None,
            Reveal::Top(k) => Some(best(&scores, k)),
            Reveal::Scores => Some(best(&scores, scores.len())),
        };
        Prediction { index, label, name, out_of_range, top, scores: (reveal == Reveal::Scores).then_some(scores) }
    }
}

/// The best `k` classes with the softmax of their outputs.
fn best(scores: &[f64], k: usize) -> Vec<(usize, f64)> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    let mut all: Vec<(usize, f64)> = scores.iter().map(|s| (s - largest).exp() / sum).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}
