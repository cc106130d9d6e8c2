//! The Decryption Agent for one network: what one result must be, and what of it is released.

use super::flooding::flood;
use super::structure::Structure;
use super::{Audience, LabelCounts, Refusal, ReleasePolicy};
use crate::calibration::margin;
use crate::decryption::{Decryptor, best};
use crate::error::OwnerError;
use crate::{Origin, Owner, Prediction, Reveal};
use serde::Serialize;
use subrosa_fhe::{Ciphertext, Parameters};
use subrosa_fleet::SignedResult;
use subrosa_program::OutputSpec;
use subrosa_program::container::Signer;
use subrosa_program::results::{inference_len, read_inference};
use subrosa_registry::Vault;
use subrosa_registry::fleet::Decision;

/// What no honest evaluation leaves may be so large a part of the forecast's bound, as a root mean square. The bound is fifteen to some
/// twenty deviations; honest results reach at most half of what is permitted (a test of `tests/release` prints it for many networks).
const PERMITTED: f64 = 1.0 / 3.0;

/// Where honest evaluation determines a smaller share of a result's numbers, by chance of the noise mostly, the check is worth nothing.
const WEAK: f64 = 0.01;

/// A network's key and the end of its program, loaded once; used by any number of threads.
pub struct ReleaseAgent {
    id: String,
    version: u32,
    decryptor: Decryptor,
    output: OutputSpec,
    remaining_budget_bits: f64,
    structure: Option<Structure>,
    /// Root mean square of what noise explains of a result, in units of the outputs.
    permitted: f64,
    /// Bound of the error on any output.
    max_abs_error: f64,
    /// Largest output of calibration.
    largest_output: f64,
    /// Two best outputs so near each other are counted.
    near_margin: f64,
    /// How calibration data is answered.
    reference: Option<LabelCounts>,
    weights_encrypted: bool,
}

/// What is released of one result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Released {
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
    /// Deviation of the noise that was added to the outputs before anything was taken from them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flooded: Option<f64>,
    /// Whether the two best outputs are nearer each other than those of 19 in 20 calibration samples: for [`LabelCounts`], not for
    /// anybody outside.
    pub near: bool,
    /// The noise budget that was left, of exact integers: for the owner.
    #[serde(skip)]
    pub budget_bits: Option<f64>,
}

impl Released {
    /// As the registry keeps it.
    pub fn decision(&self) -> Decision {
        let prediction = serde_json::to_value(self).unwrap_or_default();
        Decision::Release { class: self.label as u64, prediction, near: self.near }
    }

    /// The label alone.
    pub fn label_only(&self) -> Self {
        Self { top: None, scores: None, flooded: None, ..self.clone() }
    }

    /// As one of several.
    pub fn into_prediction(self, index: usize, origin: Option<Origin>) -> Prediction {
        let Self { label, name, top, scores, .. } = self;
        Prediction { index, origin, label, name, top, scores }
    }
}

impl ReleaseAgent {
    /// Takes a network's key out of the vault and decrypts the last layer of its stored copy.
    ///
    /// # Errors
    /// A network that is not here, a vault without its key, a damaged stored copy.
    pub fn load(owner: &Owner, model: &str, vault: &Vault) -> Result<Self, OwnerError> {
        let record = owner.registry.get(model)?;
        let stored = owner.stored(&record)?;
        let report = owner.report(&record)?;
        let decryptor = owner.decryptor(&record, &stored, vault)?;
        let permitted = PERMITTED * report.forecast.max_abs_error;
        Ok(Self {
            id: record.id.to_string(),
            version: record.version,
            structure: match decryptor.integers {
                // Their checks are the noise budget and the proven bound.
                Some(_) => None,
                None => Structure::new(&stored, decryptor.secret(), permitted / stored.program.output.factor)?,
            },
            permitted,
            decryptor,
            remaining_budget_bits: stored.program.remaining_budget_bits(),
            output: stored.program.results(),
            max_abs_error: report.forecast.max_abs_error,
            largest_output: report.calibration.largest_output,
            near_margin: report.calibration.near_margin.max(report.forecast.max_abs_error),
            reference: LabelCounts::of_calibration(&report.calibration),
            weights_encrypted: report.weights_encrypted,
        })
    }

    /// Id of the network.
    pub fn model(&self) -> &str {
        &self.id
    }

    /// Its version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Classes: outputs of the network.
    pub fn classes(&self) -> usize {
        self.output.positions.len()
    }

    /// log2 of the result modulus over the declared range of the outputs at their scale.
    pub fn remaining_budget_bits(&self) -> f64 {
        self.remaining_budget_bits
    }

    /// How calibration data is answered, to watch devices by; `None` for a network that was protected without, or by an earlier version.
    pub fn reference(&self) -> Option<&LabelCounts> {
        self.reference.as_ref()
    }

    /// Where its outputs are.
    pub(crate) fn output(&self) -> &OutputSpec {
        &self.output
    }

    /// Bytes of the packed ciphertexts of one inference.
    pub fn payload_len(&self) -> usize {
        inference_len(self.parameters(), &self.output)
    }

    /// The parameters of its results.
    pub fn parameters(&self) -> &Parameters {
        self.decryptor.secret().parameters()
    }

    /// Share of a result's numbers that honest evaluation determines by the others: what the check of the undeclared ones has to go by.
    pub fn structure_strength(&self) -> f64 {
        self.structure.as_ref().map_or(0.0, Structure::strength)
    }

    /// What the owner should know who lets others send results of this network: that whatever is of their form passes for one.
    pub fn warning(&self) -> Option<String> {
        // Exact integers have checks of their own, and of weights that are not encrypted nothing is told.
        let checked = self.decryptor.integers.is_some() || !self.weights_encrypted || self.structure_strength() >= WEAK;
        (!checked).then(|| {
            "any ciphertexts of the right form pass for results of this network, since its encrypted layer leaves no mark in them that could be \
             checked: encrypt more than one layer (--scope classifier or all), or set a small budget in release.json (SECURITY.md)"
                .to_owned()
        })
    }

    /// Root mean square of what no honest evaluation leaves in these ciphertexts, in units of the outputs, and how much is permitted.
    ///
    /// # Errors
    /// [`Refusal::Form`].
    pub fn deviation(&self, payload: &[u8]) -> Result<(f64, f64), Refusal> {
        let ciphertexts = read_inference(self.parameters(), &self.output, payload).map_err(Refusal::Form)?;
        let coefficients = self.decryptor.coefficients(&ciphertexts).map_err(internal)?;
        Ok((self.deviation_of(&coefficients)?, self.permitted))
    }

    fn deviation_of(&self, coefficients: &[Vec<f64>]) -> Result<f64, Refusal> {
        let Some(structure) = &self.structure else { return Ok(0.0) };
        Ok(structure.deviation(coefficients).map_err(internal)? * self.output.factor)
    }

    /// Whether a policy can be kept for this network, and the deviation of the noise that it puts on outputs. To be asked before
    /// the policy is accepted; [`examine`](Self::examine) asks again.
    ///
    /// # Errors
    /// [`Refusal::Policy`] with what would be needed.
    pub fn check_policy(&self, policy: &ReleasePolicy) -> Result<Option<f64>, Refusal> {
        if policy.reveal == Reveal::Label || policy.audience == Audience::Owner {
            return Ok(None);
        }
        let Some(flooding) = &policy.flooding else {
            return Err(Refusal::Policy(format!(
                "'{}' leaves the owner's process only with noise that covers that of the ciphertexts (flooding to 2^-s for q results): say how \
                 much, or reveal labels",
                policy.reveal
            )));
        };
        if policy.budget.per_model_total.is_none_or(|most| most > flooding.results) {
            return Err(Refusal::Policy(format!(
                "outputs are flooded for {0} results of the network in all, the budget permits more: set its per_model_total to {0} at most",
                flooding.results
            )));
        }
        flooding.check(self.max_abs_error, self.largest_output, self.classes()).map(Some)
    }

    /// Examines a signed result and releases of it what the policy says. Knows nothing of other results: whether the device is
    /// enrolled, replays and budgets are for the caller to check *before*.
    ///
    /// # Errors
    /// The [`Refusal`] to be written into the audit log.
    pub fn examine(&self, device: &Signer, result: &SignedResult, policy: &ReleasePolicy) -> Result<Released, Refusal> {
        let statement = &result.statement;
        result.verify(device).map_err(|_| Refusal::Signature { device: statement.device.clone() })?;
        if statement.model != self.id || statement.version != self.version {
            return Err(Refusal::Model {
                stated: format!("{}@{}", statement.model, statement.version),
                expected: format!("{}@{}", self.id, self.version),
            });
        }
        self.examine_unsigned(&result.payload, policy)
    }

    /// The same of the packed ciphertexts of one inference that nobody signed.
    ///
    /// # Errors
    /// The [`Refusal`] to be written into the audit log.
    pub fn examine_unsigned(&self, payload: &[u8], policy: &ReleasePolicy) -> Result<Released, Refusal> {
        let flooding = self.check_policy(policy)?;
        let ciphertexts = read_inference(self.parameters(), &self.output, payload).map_err(Refusal::Form)?;
        let (mut linear, budget_bits) = match &self.decryptor.integers {
            Some(reader) => {
                let read = reader.read(&ciphertexts).map_err(internal)?;
                (reader.outputs(&read.integers), Some(read.budget))
            }
            None => (self.approximate(&ciphertexts)?, None),
        };
        if !linear.iter().all(|v| v.abs() <= self.output.max_abs) {
            return Err(Refusal::Range { max_abs: self.output.max_abs });
        }
        let near = margin(&self.decryptor.activated(linear.clone())) <= self.near_margin;
        if let Some(deviation) = flooding {
            flood(&mut linear, deviation).map_err(|e| internal(e.into()))?;
        }
        let scores = self.decryptor.activated(linear);
        let (label, name) = self.decryptor.label(&scores);
        let top = match policy.reveal {
            Reveal::Label => None,
            Reveal::Top(k) => Some(best(&scores, k)),
            Reveal::Scores => Some(best(&scores, scores.len())),
        };
        let scores = (policy.reveal == Reveal::Scores).then_some(scores);
        Ok(Released { label, name, top, scores, flooded: flooding, near, budget_bits })
    }

    /// The linear outputs of CKKS, if the rest of the ciphertexts is what an evaluation leaves.
    fn approximate(&self, ciphertexts: &[Ciphertext]) -> Result<Vec<f64>, Refusal> {
        let coefficients = self.decryptor.coefficients(ciphertexts).map_err(internal)?;
        let (deviation, permitted) = (self.deviation_of(&coefficients)?, self.permitted);
        // What is not a number is refused too.
        if deviation.is_nan() || deviation > permitted {
            return Err(Refusal::Slots { deviation, permitted });
        }
        self.decryptor.linear(&coefficients).map_err(internal)
    }
}

/// What the engine does not take.
fn internal(error: OwnerError) -> Refusal {
    match error {
        OwnerError::Dishonest(what) => what.into(),
        error => Refusal::Form(error.to_string()),
    }
}
