//! What exact integers (BGV) take at the owner's: planning, encryption of constants, decryption with its checks, and the trace of the
//! noise budget.

use crate::error::OwnerError;
use crate::normalise;
use crate::protection::ProtectRequest;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use subrosa_edge_agent::{Input, Processor};
use subrosa_fhe::bgv::crt::Channels;
use subrosa_fhe::{Ciphertext, FheError, IntegerEncoder, Kernel, Parameters, SeededCiphertext};
use subrosa_network::Chain;
use subrosa_plan::{
    CostModel, ExactRequest, FixedPoint, InputRange, IntegerNetwork, Plan, PlanError, forecast_budgets, plan_exact,
};
use subrosa_program::{InputSpec, OutputSpec, Program};
use subrosa_secret::SecretKey;

/// What is needed to repeat the integer network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntegerSettings {
    /// What values are multiplied by before they are rounded.
    pub fixed_point: FixedPoint,
    /// Whether layers without an activation between them were multiplied into one.
    pub fold: bool,
}

/// Plans a chain in integers.
pub(crate) fn plan_chain(
    request: &ProtectRequest,
    chain: &Chain,
    (input, samples): (InputRange, &[Vec<f64>]),
    costs: &CostModel,
    kernel: Kernel,
) -> Result<Plan, PlanError> {
    plan_exact(&ExactRequest {
        chain,
        input,
        samples,
        fixed_point: request.fixed_point.as_ref(),
        encrypted_input: request.encrypted_input,
        security: request.security,
        memory_limit: request.memory_limit,
        costs,
        kernel,
    })
}

/// The integer network of stored settings, for features as `input` brings them to one range.
pub(crate) fn integer_network(
    chain: &Chain,
    settings: &IntegerSettings,
    input: &InputSpec,
) -> Result<IntegerNetwork, OwnerError> {
    let chain = match input.normalise.as_slice() {
        [] => chain.clone(),
        normalise => normalise::opposite(chain, normalise),
    };
    let network = if settings.fold {
        IntegerNetwork::new(&chain.folded(), &settings.fixed_point)
    } else {
        IntegerNetwork::new(&chain, &settings.fixed_point)
    };
    network.map_err(|e| OwnerError::Report(e.to_string()))
}

/// The constants of every channel, ready to be encrypted.
pub(crate) struct IntegerConstants<'a> {
    plan: &'a Plan,
    channels: Vec<(Program, IntegerEncoder, Parameters)>,
}

impl<'a> IntegerConstants<'a> {
    /// None if the plan is one of CKKS.
    pub fn new(plan: &'a Plan, parameters: &Parameters) -> Result<Option<Self>, FheError> {
        if plan.integer_network().is_none() {
            return Ok(None);
        }
        let channel = |program: Program| {
            let parameters = Parameters::new(program.parameters.clone(), parameters.kernel())?;
            Ok((program, IntegerEncoder::new(&parameters)?, parameters))
        };
        let channels = plan.program.channels().into_iter().map(channel).collect::<Result<_, FheError>>()?;
        Ok(Some(Self { plan, channels }))
    }

    /// Channel, group and number of each constant, in the bundle's order.
    pub fn all(&self) -> Vec<(usize, usize, usize)> {
        let channels = self.channels.iter().enumerate();
        let groups =
            channels.flat_map(|(c, (program, ..))| program.constants.iter().enumerate().map(move |(g, s)| (c, g, s)));
        groups.flat_map(|(c, g, spec)| (0..spec.count).map(move |i| (c, g, i))).collect()
    }

    /// Encrypts constants on all cores. The secret may be that of any channel: keys do not depend on the plaintext modulus.
    pub fn encrypt(
        &self,
        secrets: &[SecretKey],
        batch: &[(usize, usize, usize)],
    ) -> Result<Vec<SeededCiphertext>, OwnerError> {
        let one = |&(channel, group, index): &(usize, usize, usize)| {
            let (Some((program, encoder, parameters)), Some(secret)) =
                (self.channels.get(channel), secrets.get(channel))
            else {
                return Err(PlanError::Empty.into());
            };
            let scale = program.constants.get(group).map_or(1.0, |g| g.scale);
            let plaintext = self.plan.integer_constant((encoder, parameters), scale, group, index)?;
            Ok(secret.encrypt(&plaintext)?)
        };
        batch.par_iter().map(one).collect()
    }
}

/// The secret key for each channel of a program.
pub(crate) fn secrets(program: &Program, kernel: Kernel, packed: &[u8]) -> Result<Vec<SecretKey>, FheError> {
    let secret =
        |program: &Program| SecretKey::from_bytes(&Parameters::new(program.parameters.clone(), kernel)?, packed);
    program.channels().iter().map(secret).collect()
}

/// Results of exact integers that no honest evaluation leaves: they are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Dishonest {
    /// Less noise budget than is forecast.
    #[error(
        "a result has {budget:.1} bits of noise budget left, and an honest evaluation leaves at least {least:.1}: the edge computed \
         something else or the result was damaged, and what it decrypts to means nothing; have the edge compute it again"
    )]
    Exhausted {
        /// What is left.
        budget: f64,
        /// What is left at least.
        least: f64,
    },
    /// An output beyond what the network can give.
    #[error(
        "a result says {output:.3e}, and no input within the network's range gives more than {bound:.3e}: the edge computed something \
         else or the result was damaged; have the edge compute it again"
    )]
    BeyondBound {
        /// The output.
        output: f64,
        /// The proven bound.
        bound: f64,
    },
}

/// Reads exact results.
pub(crate) struct IntegerReader {
    /// Secret key and outputs modulo each plaintext modulus.
    channels: Vec<(SecretKey, OutputSpec)>,
    crt: Channels,
    unit: f64,
    bound: f64,
    budget: f64,
}

/// A decrypted inference.
pub(crate) struct ReadIntegers {
    /// The outputs of the last linear map.
    pub integers: Vec<i128>,
    /// The noise budget that was left.
    pub budget: f64,
}

impl IntegerReader {
    /// None for a program of CKKS.
    pub fn new(program: &Program, kernel: Kernel, packed: &[u8]) -> Result<Option<Self>, FheError> {
        let Some(integers) = &program.integers else { return Ok(None) };
        let outputs = program.channels().into_iter().map(|channel| channel.output);
        Ok(Some(Self {
            channels: secrets(program, kernel, packed)?.into_iter().zip(outputs).collect(),
            crt: Channels::new(&program.plaintext_moduli())?,
            unit: integers.output_unit,
            bound: integers.output_bound,
            budget: integers.budget_bits,
        }))
    }

    /// The secret key modulo a plaintext modulus.
    pub fn secret(&self, channel: usize) -> Option<&SecretKey> {
        self.channels.get(channel).map(|(secret, _)| secret)
    }

    /// Decrypts one inference.
    ///
    /// # Errors
    /// Less noise budget than every honest evaluation leaves, or an output beyond what honest ones are proven to be: the edge computed
    /// something else, or its results were damaged, and what they decrypt to means nothing.
    pub fn read(&self, ciphertexts: &[Ciphertext]) -> Result<ReadIntegers, OwnerError> {
        let missing = || OwnerError::Report("its program names outputs that do not exist".into());
        let (mut rest, mut budget) = (ciphertexts, f64::INFINITY);
        let mut residues: Vec<Vec<i64>> = Vec::new();
        for (secret, output) in &self.channels {
            let (own, others) = rest.split_at_checked(output.registers.len()).ok_or_else(missing)?;
            rest = others;
            let t = *secret.parameters().plain().ok_or_else(missing)?.modulus();
            let mut decrypted = Vec::with_capacity(own.len());
            for ciphertext in own {
                if ciphertext.scale != output.scale {
                    return Err(
                        FheError::Scale { operation: "decrypt", left: output.scale, right: ciphertext.scale }.into()
                    );
                }
                let read = secret.decrypt_integers(ciphertext)?;
                budget = budget.min(read.budget);
                decrypted.push(read.residues);
            }
            let factor = t.reduce(output.factor as u64);
            let at = |&(register, coefficient): &(usize, usize)| {
                let residue = decrypted.get(register).and_then(|c| c.get(coefficient)).ok_or_else(missing)?;
                Ok(t.center(t.mul(*residue, factor)))
            };
            residues.push(output.positions.iter().map(at).collect::<Result<_, OwnerError>>()?);
        }
        if budget < self.budget {
            return Err(Dishonest::Exhausted { budget: budget.max(0.0), least: self.budget }.into());
        }
        let outputs = residues.first().map_or(0, Vec::len);
        let joined = |i| {
            let each: Vec<i64> = residues.iter().filter_map(|of| of.get(i)).copied().collect();
            self.crt.join(&each)
        };
        let integers: Vec<i128> = (0..outputs).map(joined).collect();
        if let Some(&beyond) = integers.iter().find(|v| (**v as f64).abs() > self.bound) {
            return Err(
                Dishonest::BeyondBound { output: beyond as f64 * self.unit, bound: self.bound * self.unit }.into()
            );
        }
        Ok(ReadIntegers { integers, budget })
    }

    /// The outputs in the network's units.
    pub fn outputs(&self, integers: &[i128]) -> Vec<f64> {
        integers.iter().map(|&v| v as f64 * self.unit).collect()
    }
}

/// The noise budget after a step of one evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct TracedBudget {
    /// The step; "input" for the fresh input ciphertexts.
    pub step: String,
    /// The register that was looked at.
    pub register: usize,
    /// Level of the ciphertext.
    pub level: usize,
    /// Budget measured with the secret key, bits: the least over the plaintext moduli.
    pub budget_bits: f64,
    /// Budget that was forecast, bits; none for the input.
    pub forecast_bits: Option<f64>,
}

/// Evaluates one prepared sample and measures the budget after every step.
pub(crate) fn trace(
    reader: &IntegerReader,
    processor: &Processor,
    input: &Input,
) -> Result<Vec<TracedBudget>, OwnerError> {
    let program = processor.program();
    let forecasts = forecast_budgets(program, processor.parameters().kernel()).unwrap_or_default();
    let mut out: Vec<TracedBudget> = Vec::new();
    let mut failed: Option<FheError> = None;
    let inputs = match input {
        Input::Channels(inputs) => inputs.as_slice(),
        one => std::slice::from_ref(one),
    };
    for (channel, input) in inputs.iter().enumerate() {
        let (Input::Encrypted(ciphertexts), Some(secret)) = (input, reader.secret(channel)) else { continue };
        for (register, c) in ciphertexts.iter().enumerate() {
            let budget_bits = secret.noise_budget(c)?;
            match out.get_mut(register) {
                Some(seen) => seen.budget_bits = seen.budget_bits.min(budget_bits),
                None => {
                    let level = c.level();
                    out.push(TracedBudget { step: "input".into(), register, level, budget_bits, forecast_bits: None });
                }
            }
        }
    }
    let first = out.len();
    let mut at = first;
    processor.infer_watched(input, &mut |channel, step, registers| {
        let (Some(secret), Some(done)) = (reader.secret(channel), program.steps.get(step)) else { return };
        at = if step == 0 { first } else { at };
        for register in done.targets(&program.input.layout) {
            let Some(c) = registers(register) else { continue };
            match secret.noise_budget(&c) {
                Err(e) => failed = Some(e),
                Ok(budget_bits) => match out.get_mut(at) {
                    Some(seen) => seen.budget_bits = seen.budget_bits.min(budget_bits),
                    None => out.push(TracedBudget {
                        step: done.name().into(),
                        register,
                        level: c.level(),
                        budget_bits,
                        forecast_bits: forecasts.get(step).copied(),
                    }),
                },
            }
            at += 1;
        }
    })?;
    failed.map_or(Ok(out), |e| Err(e.into()))
}
