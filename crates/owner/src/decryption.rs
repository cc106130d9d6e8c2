//! The Decryption Agent: finds the secret key by the network's id in the results, and releases what the policy permits.

use crate::Owner;
use crate::calibration::argmax;
use crate::error::OwnerError;
use crate::exact::IntegerReader;
use crate::protection::{NETWORK_FILE, PROTECTED_FILE, ProtectReport, Settings, key_name};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use subrosa_fhe::{Ciphertext, Kernel};
use subrosa_network::{Network, Polynomial};
use subrosa_program::OutputSpec;
use subrosa_program::bundle::{Bundle, PROTECTED_KIND};
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

impl<'de> Deserialize<'de> for Reveal {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a signed result comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The device that signed it.
    pub device: String,
    /// Its number there.
    pub sequence: u64,
    /// What the device calls the sample.
    pub sample: String,
}

/// One revealed inference.
#[derive(Debug, Clone, Serialize)]
pub struct Prediction {
    /// Number of the sample, from 0.
    pub index: usize,
    /// Who signed it and what it says of the sample, of signed results.
    #[serde(flatten)]
    pub origin: Option<Origin>,
    /// Top class.
    pub label: usize,
    /// Its name, if names were given to `protect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Best classes and their probabilities (softmax of the outputs), best first, if revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<Vec<(usize, f64)>>,
    /// All outputs, if revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<f64>>,
}

/// An inference that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Number of the sample, from 0.
    pub index: usize,
    /// Who is named as its origin, of signed results.
    #[serde(flatten)]
    pub origin: Option<Origin>,
    /// [`crate::release::Refusal::code`].
    pub code: String,
    /// Why, for people.
    pub reason: String,
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
    /// Number of inferences, released and refused.
    pub count: usize,
    /// What was revealed.
    pub reveal: Reveal,
    /// The released inferences in order.
    pub predictions: Vec<Prediction>,
    /// The refused ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// Results of this network that were examined today (UTC), these included, and how many may be.
    pub examined_today: u64,
    /// The limit of them, if there is one.
    pub limit_today: Option<u64>,
    /// What devices' labels look unusual in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// log2 of the result modulus over the declared range of the outputs at their scale; in BGV the least noise budget of a result,
    /// measured with the secret key.
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
    /// For exact integers.
    pub(crate) integers: Option<IntegerReader>,
}

impl Owner {
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
        let integers = IntegerReader::new(&stored.program, parameters.kernel(), &packed)?;
        let Settings { output_activation, classes, .. } = self.report(record)?.settings;
        let output = stored.program.output.clone();
        Ok(Decryptor { secret, output, activation: output_activation, classes, integers })
    }
}

impl Decryptor {
    /// The network's secret key.
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// The coefficients of each result.
    pub fn coefficients(&self, ciphertexts: &[Ciphertext]) -> Result<Vec<Vec<f64>>, OwnerError> {
        Ok(ciphertexts.iter().map(|c| self.secret.decrypt_coefficients(c)).collect::<Result<_, _>>()?)
    }

    /// The linear outputs of the last layer, at the declared positions of the results' coefficients.
    pub fn linear(&self, coefficients: &[Vec<f64>]) -> Result<Vec<f64>, OwnerError> {
        let at = |&(register, coefficient): &(usize, usize)| {
            coefficients.get(register).and_then(|c| c.get(coefficient)).map(|v| v * self.output.factor)
        };
        let missing = || OwnerError::Report("its program names outputs that do not exist".into());
        self.output.positions.iter().map(|p| at(p).ok_or_else(missing)).collect()
    }

    /// The linear outputs of the last layer.
    pub fn linear_outputs(&self, ciphertexts: &[Ciphertext]) -> Result<Vec<f64>, OwnerError> {
        if let Some(reader) = &self.integers {
            return Ok(reader.outputs(&reader.read(ciphertexts)?.integers));
        }
        self.linear(&self.coefficients(ciphertexts)?)
    }

    /// The network's outputs: the activation after the last layer, if there is one.
    pub fn activated(&self, linear: Vec<f64>) -> Vec<f64> {
        match &self.activation {
            Some(p) => linear.into_iter().map(|z| p.eval(z)).collect(),
            None => linear,
        }
    }

    /// The top class and its name.
    pub fn label(&self, scores: &[f64]) -> (usize, Option<String>) {
        let label = argmax(scores.iter().copied());
        (label, self.classes.as_ref().and_then(|c| c.get(label)).cloned())
    }
}

/// The best `k` classes with the softmax of their outputs.
pub(crate) fn best(scores: &[f64], k: usize) -> Vec<(usize, f64)> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    let mut all: Vec<(usize, f64)> = scores.iter().map(|s| (s - largest).exp() / sum).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}
