//! A plan: a program, what its constants hold, and what is predicted of it.

use crate::chain::{Ranges, Stage, traces};
use crate::cost::{CostModel, Prediction, predict};
use crate::exact::IntegerNetwork;
use crate::forecast::Deviations;
use crate::keys::{KeySet, Shapes};
use crate::primes::PrimeChain;
use crate::search::{Alternative, PlanError};
use crate::whole::{Constant, SimulateError, Simulation, StepError, simulate, step_errors};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};
use subrosa_fhe::{Encoder, Kernel, ParameterSpec, Parameters, Plaintext};
use subrosa_program::bundle::PredictedTimes;
use subrosa_program::layout::{CoefficientDot, CoefficientRows, Diagonals};
use subrosa_program::{KeyRequirement, Program};

/// What is predicted of the encrypted evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Bound of the absolute error on any output, exceeded with probability at most 2^-40: for every input in the range, or, if
    /// that is smaller, for inputs whose values are at most twice those of the calibration data.
    pub max_abs_error: f64,
    /// log2 of the result modulus over the declared range of the outputs at their scale.
    pub remaining_budget_bits: f64,
    /// Bound of the table minus the largest log2(QP) in use.
    pub table_slack_bits: f64,
    /// log2 of the largest output over the largest error.
    pub precision_bits: f64,
    /// Time of encoding and encrypting one sample's features on one thread of the machine the cost model is of; 0 in reports of
    /// earlier versions.
    #[serde(default)]
    pub prepare_seconds: f64,
    /// The same of one blind evaluation.
    #[serde(default)]
    pub infer_seconds: f64,
}

/// A program with everything needed to fill its constants.
pub struct Plan {
    /// What the edge executes.
    pub program: Program,
    /// What is predicted.
    pub forecast: Forecast,
    /// Time and memory, step by step.
    pub prediction: Prediction,
    /// What was considered, and why it was taken or not.
    pub alternatives: Vec<Alternative>,
    /// What the predictions are made with.
    pub costs: CostModel,
    /// Bounds of the values, layer by layer.
    pub ranges: Vec<Ranges>,
    /// Largest log2(QP) in use.
    pub log_qp: f64,
    pub(crate) kinds: Vec<ConstantKind>,
    pub(crate) stages: Vec<Stage>,
    /// The integers that are encrypted; none in CKKS.
    pub(crate) exact: Option<IntegerNetwork>,
}

/// What the constants of a group hold.
pub(crate) enum ConstantKind {
    Diagonals {
        stage: usize,
        layout: Diagonals,
    },
    SlotBias {
        stage: usize,
        layout: Diagonals,
    },
    Dot {
        stage: usize,
        layout: CoefficientDot,
    },
    DotBias {
        stage: usize,
        layout: CoefficientDot,
    },
    Rows {
        stage: usize,
        layout: CoefficientRows,
    },
    RowsBias {
        stage: usize,
        layout: CoefficientRows,
    },
    /// Of a whole network.
    Circuit(Constant),
}

impl ConstantKind {
    /// A bound of the coefficients of the group's plaintexts, before they are scaled.
    fn largest(&self, stages: &[Stage]) -> f64 {
        let stage_of = |i: &usize| stages.get(*i);
        match self {
            Self::Diagonals { stage, .. } | Self::Dot { stage, .. } => stage_of(stage).map_or(0.0, |s| s.max_weight),
            Self::Rows { stage, layout } => {
                stage_of(stage).map_or(0.0, |s| s.max_row_norm * (s.cols as f64).sqrt() / layout.period as f64)
            }
            Self::SlotBias { stage, .. } | Self::DotBias { stage, .. } => stage_of(stage).map_or(0.0, |s| s.max_bias()),
            Self::RowsBias { stage, layout } => stage_of(stage).map_or(0.0, |s| s.max_bias() / layout.period as f64),
            Self::Circuit(constant) => constant.largest(),
        }
    }
}

/// A candidate: a program, what its constants hold, its error, and the keys it uses together.
pub(crate) struct Draft {
    pub program: Program,
    pub kinds: Vec<ConstantKind>,
    pub max_abs_error: f64,
    pub sets: Vec<KeySet>,
    pub primes: PrimeChain,
}

impl Draft {
    /// The draft, if its results, its input and its constants fit its moduli.
    pub fn that_fits(self, stages: &[Stage]) -> Option<Self> {
        let largest: Vec<f64> = self.kinds.iter().map(|kind| kind.largest(stages)).collect();
        self.primes.hold(&self.program, &largest).then_some(self)
    }

    /// Gives the program its keys, and leaves only the special primes that they use.
    pub fn set_keys(&mut self, shapes: &Shapes) {
        self.primes.keep_specials(shapes.values().map(|s| s.specials).max().unwrap_or(0));
        let spec = &self.program.parameters;
        let (q, p) = (self.primes.ciphertext.clone(), self.primes.special.clone());
        if let Some(security) = spec.security() {
            self.program.parameters = ParameterSpec::new(spec.log_n, q, p, security);
        }
        self.program.keys = shapes.iter().map(|(&id, &shape)| KeyRequirement { id, shape }).collect();
    }

    /// The plan, its parameters checked by the engine.
    pub fn finish(
        self,
        (stages, ranges): (Vec<Stage>, Vec<Ranges>),
        alternatives: Vec<Alternative>,
        kernel: Kernel,
        costs: &CostModel,
    ) -> Result<Plan, PlanError> {
        let Self { program, kinds, max_abs_error, .. } = self;
        let parameters = Parameters::new(program.parameters.clone(), kernel)?;
        for key in &program.keys {
            parameters.check_key(key.shape)?;
        }
        let levels = parameters.levels();
        let log_qp = program.keys.iter().map(|k| parameters.log_qp(k.shape)).fold(parameters.log_q(levels), f64::max);
        let spec = &program.parameters;
        let bound = spec.security().and_then(|s| subrosa_fhe::security::max_log_qp(spec.log_n, s)).unwrap_or(0.0);
        let output_max = ranges.last().map_or(0.0, |r| r.linear_max);
        let prediction = predict(&program, costs);
        let forecast = Forecast {
            max_abs_error,
            remaining_budget_bits: program.remaining_budget_bits(),
            table_slack_bits: bound - log_qp,
            precision_bits: (output_max / max_abs_error).log2(),
            prepare_seconds: prediction.prepare.seconds,
            infer_seconds: prediction.infer.seconds,
        };
        let costs = costs.clone();
        Ok(Plan { program, forecast, prediction, alternatives, costs, ranges, log_qp, kinds, stages, exact: None })
    }
}

/// A range as it is declared in the bundle: up to the next eighth of a power of two, so that it says little about the
/// weights and the calibration data it was computed from.
pub(crate) fn declared(range: f64) -> f64 {
    if range > 0.0 && range.is_finite() { ((range.log2() * 8.0 - 1e-9).ceil() / 8.0).exp2() } else { range }
}

impl Plan {
    /// The plan of a whole network.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn of_circuit(
        program: Program,
        forecast: Forecast,
        prediction: Prediction,
        alternatives: Vec<Alternative>,
        costs: CostModel,
        log_qp: f64,
        constants: Vec<Constant>,
    ) -> Self {
        let kinds = constants.into_iter().map(ConstantKind::Circuit).collect();
        Self {
            program,
            forecast,
            prediction,
            alternatives,
            costs,
            ranges: Vec::new(),
            log_qp,
            kinds,
            stages: Vec::new(),
            exact: None,
        }
    }

    /// Executes the plan on plain vectors: exactly, or with noise of the forecast size from a seed. A whole network's is executed in the
    /// arithmetic of its slots, with noise in every step; of a chain of dense layers the outputs get all the noise that is forecast for them.
    ///
    /// # Errors
    /// An input of another length.
    pub fn simulate(&self, input: &[f64], seed: Option<u64>) -> Result<Simulation, SimulateError> {
        if input.len() != self.program.input.features {
            return Err(SimulateError::OTHER_LENGTH);
        }
        let input = self.program.input.normalised(input.iter().copied());
        if !self.stages.is_empty() {
            return Ok(self.simulate_chain(&input, seed));
        }
        simulate(&self.program, &self.circuit_constants(), &input, seed)
    }

    /// How exact what each step writes will be on one input, with noise of the forecast size from a seed; nothing for a chain of dense
    /// layers.
    ///
    /// # Errors
    /// An input of another length.
    pub fn step_errors(&self, input: &[f64], seed: u64) -> Result<Vec<StepError>, SimulateError> {
        if !self.is_simulated_by_step() {
            return Ok(Vec::new());
        }
        if input.len() != self.program.input.features {
            return Err(SimulateError::OTHER_LENGTH);
        }
        let input = self.program.input.normalised(input.iter().copied());
        step_errors(&self.program, &self.circuit_constants(), &input, seed)
    }

    fn circuit_constants(&self) -> Vec<&Constant> {
        let mut constants = Vec::with_capacity(self.kinds.len());
        for kind in &self.kinds {
            if let ConstantKind::Circuit(constant) = kind {
                constants.push(constant);
            }
        }
        constants
    }

    /// Whether [`simulate`](Self::simulate) follows every step.
    pub fn is_simulated_by_step(&self) -> bool {
        self.stages.is_empty()
    }

    fn simulate_chain(&self, input: &[f64], seed: Option<u64>) -> Simulation {
        let traced = traces(&self.stages, &[input.to_vec()]);
        let linear = traced.iter().flatten().map(|t| &t.linear);
        let largest = linear.flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        let mut outputs = traced.into_iter().last().and_then(|mut t| t.pop()).map(|t| t.linear).unwrap_or_default();
        if let Some(seed) = seed {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let tail = Deviations::new(self.program.parameters.log_n).tail(1.0, outputs.len());
            let deviation = self.forecast.max_abs_error / tail;
            outputs.iter_mut().for_each(|y| *y += deviation * rng.sample::<f64, _>(StandardNormal));
        }
        Simulation { outputs, largest }
    }

    /// The times as a bundle carries them.
    pub fn predicted_times(&self) -> PredictedTimes {
        let nanoseconds = |seconds: f64| (1e9 * seconds).round() as u64;
        let steps = self.prediction.steps.iter().map(|step| nanoseconds(step.work.seconds)).collect();
        PredictedTimes { ntt: nanoseconds(self.costs.ntt_seconds(self.program.parameters.log_n)), steps }
    }

    /// Predicted time of one blind evaluation on one thread.
    pub fn predicted_seconds(&self) -> f64 {
        self.prediction.infer.seconds
    }

    /// The plaintext that constant `index` of group `group` encrypts. Errors: an unknown constant, or a value that does not
    /// fit the modulus.
    pub fn constant(&self, encoder: &Encoder, group: usize, index: usize) -> Result<Plaintext, PlanError> {
        let (Some(kind), Some(spec)) = (self.kinds.get(group), self.program.constants.get(group)) else {
            return Err(PlanError::Empty);
        };
        let (scale, level) = (spec.scale, spec.level);
        let stage_of = |i: usize| self.stages.get(i).ok_or(PlanError::Empty);
        let plaintext = match kind {
            ConstantKind::Circuit(constant) => {
                constant.encode(encoder, self.program.parameters.log_n, index, scale, level)?
            }
            ConstantKind::Diagonals { stage, layout } => {
                let stage = stage_of(*stage)?;
                let (giant, tile, baby) = layout.place(index);
                encoder.encode(&layout.weight_slots(giant, tile, baby, &|r, c| stage.weight(r, c)), scale, level)?
            }
            ConstantKind::SlotBias { stage, layout } => {
                encoder.encode_real(&layout.replicate(&stage_of(*stage)?.bias), scale, level)?
            }
            ConstantKind::Dot { stage, layout } => {
                let stage = stage_of(*stage)?;
                let (output, chunk) = (index / layout.chunks(), index % layout.chunks());
                let coefficients = layout.weight_coefficients(output, chunk, &|r, c| stage.weight(r, c));
                encoder.encode_coefficients(&coefficients, scale, level)?
            }
            ConstantKind::DotBias { stage, layout } => {
                let coefficients = at_positions(layout.n, &stage_of(*stage)?.bias, index, |r| layout.position(r));
                encoder.encode_coefficients(&coefficients, scale, level)?
            }
            ConstantKind::Rows { stage, layout } => {
                let stage = stage_of(*stage)?;
                let embed = |slots: &[f64]| {
                    let slots: Vec<_> = slots.iter().map(|&x| subrosa_program::Complex64::new(x, 0.0)).collect();
                    encoder.slots_to_coefficients(&slots)
                };
                let coefficients = layout.weight_coefficients(index, &|r, c| stage.weight(r, c), embed)?;
                encoder.encode_coefficients(&coefficients, scale, level)?
            }
            ConstantKind::RowsBias { stage, layout } => {
                let mut coefficients = at_positions(layout.n, &stage_of(*stage)?.bias, index, |r| layout.position(r));
                coefficients.iter_mut().for_each(|c| *c /= layout.period as f64);
                encoder.encode_coefficients(&coefficients, scale, level)?
            }
        };
        Ok(plaintext)
    }
}

/// A polynomial with `values[row]` at the coefficient of each row that lies in result `output`.
pub(crate) fn at_positions(
    n: usize,
    values: &[f64],
    output: usize,
    position: impl Fn(usize) -> (usize, usize),
) -> Vec<f64> {
    let mut coefficients = vec![0.0; n];
    for (row, v) in values.iter().enumerate() {
        let (o, at) = position(row);
        if let (true, Some(c)) = (o == output, coefficients.get_mut(at)) {
            *c = *v;
        }
    }
    coefficients
}
