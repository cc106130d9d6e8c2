//! The public face of the planner: the request, the plan, and the search for the smallest parameters that do.

use crate::chain::{InputRange, Ranges, Stage, ranges, stages, traces};
use crate::{single, slots};
use serde::{Deserialize, Serialize};
use subrosa_fhe::security::SecurityLevel;
use subrosa_fhe::{Encoder, FheError, Kernel, Parameters, Plaintext};
use subrosa_network::Chain;
use subrosa_program::Program;
use subrosa_program::layout::{CoefficientDot, CoefficientRows, Diagonals};

/// Rings that are tried, by log2 of their degree: those of the security table that make sense for inference.
const LOG_N: std::ops::RangeInclusive<u32> = 11..=16;

/// What is to be planned.
pub struct PlanRequest<'a> {
    /// The protected layers.
    pub chain: &'a Chain,
    /// Range of the features.
    pub input: InputRange,
    /// Feature vectors of calibration data; may be empty.
    pub samples: &'a [Vec<f64>],
    /// Whether the edge encrypts the features.
    pub encrypted_input: bool,
    /// Level of security.
    pub security: SecurityLevel,
    /// Largest absolute error wanted on an output, in the outputs' units.
    pub max_error: f64,
    /// Kernel for the (cheap) arithmetic of the search.
    pub kernel: Kernel,
}

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
}

/// A program with everything needed to fill its constants.
pub struct Plan {
    /// What the edge executes.
    pub program: Program,
    /// What is predicted.
    pub forecast: Forecast,
    /// Bounds of the values, layer by layer.
    pub ranges: Vec<Ranges>,
    /// Largest log2(QP) in use.
    pub log_qp: f64,
    pub(crate) kinds: Vec<ConstantKind>,
    pub(crate) stages: Vec<Stage>,
}

/// What the constants of a group hold.
pub(crate) enum ConstantKind {
    Diagonals { stage: usize, layout: Diagonals },
    SlotBias { stage: usize, layout: Diagonals },
    Dot { stage: usize, layout: CoefficientDot },
    DotBias { stage: usize, layout: CoefficientDot },
    Rows { stage: usize, layout: CoefficientRows },
    RowsBias { stage: usize, layout: CoefficientRows },
}

/// Why no plan was found.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A chain without layers.
    #[error("there is no fully connected layer to protect")]
    Empty,
    /// A weight, bias or range that is not a number.
    #[error("{0} is not a finite number: check the network and its calibration data")]
    NotFinite(&'static str),
    /// Nothing fits.
    #[error(
        "no secure parameters up to ring degree 2^{} fit this network at {security} bits of security: its {layers} protected layers need a \
         modulus beyond the security table. Protect fewer layers (--scope last), use lower-degree activations, or give \
         calibration data (--calibrate) so that the ranges are known better", LOG_N.end()
    )]
    DoesNotFit {
        /// The level asked for.
        security: u32,
        /// Layers in the chain.
        layers: usize,
    },
    /// From the engine.
    #[error(transparent)]
    Fhe(#[from] FheError),
}

/// Finds the smallest ring, and in it the smallest modulus, that is secure and precise enough.
///
/// Errors: an empty chain, numbers that are not finite, or no parameters up to N = 2^16 that fit.
pub fn plan(request: &PlanRequest) -> Result<Plan, PlanError> {
    let stages = stages(request.chain);
    let input = InputRange { max_abs: declared(request.input.max_abs), max_norm: declared(request.input.max_norm) };
    if stages.is_empty() {
        return Err(PlanError::Empty);
    }
    if stages.iter().any(|s| s.weights.iter().chain(&s.bias).any(|w| !w.is_finite())) {
        return Err(PlanError::NotFinite("a weight"));
    }
    let traces = traces(&stages, request.samples);
    let mut bounds = ranges(&stages, input, &traces);
    if let Some(last) = bounds.last_mut() {
        last.linear_max = declared(last.linear_max);
    }
    if !(request.max_error.is_finite() && request.max_error > 0.0 && bounds.iter().all(|r| r.linear_max.is_finite())) {
        return Err(PlanError::NotFinite("the range of a value"));
    }
    for log_n in LOG_N {
        for precision in (16..=46).step_by(1) {
            let draft = match stages.as_slice() {
                [only] => single::draft(only, &bounds, log_n, precision, request),
                _ => slots::draft(&stages, &bounds, &traces, log_n, precision, request),
            };
            // A larger precision needs a larger modulus: once one does not fit, none after it does.
            let Some(draft) = draft else { if precision > 30 { break } else { continue } };
            if draft.max_abs_error <= request.max_error {
                return draft.finish(stages, bounds, request.kernel);
            }
        }
    }
    Err(PlanError::DoesNotFit { security: request.security.bits(), layers: stages.len() })
}

/// A candidate: a program, what its constants hold, and its error.
pub(crate) struct Draft {
    pub program: Program,
    pub kinds: Vec<ConstantKind>,
    pub max_abs_error: f64,
}

impl Draft {
    fn finish(self, stages: Vec<Stage>, ranges: Vec<Ranges>, kernel: Kernel) -> Result<Plan, PlanError> {
        let Self { program, kinds, max_abs_error } = self;
        let parameters = Parameters::new(program.parameters.clone(), kernel)?;
        for key in &program.keys {
            parameters.check_key(key.shape)?;
        }
        let log = |p: &[u64]| p.iter().map(|&q| (q as f64).log2()).sum::<f64>();
        let spec = &program.parameters;
        let key_bits = program.keys.iter().map(|k| {
            let q = spec.ciphertext_primes.get(..k.shape.level).unwrap_or_default();
            let p = spec.special_primes.get(..k.shape.specials).unwrap_or_default();
            log(q) + log(p)
        });
        let log_qp = key_bits.fold(log(&spec.ciphertext_primes), f64::max);
        let bound = spec.security().and_then(|s| subrosa_fhe::security::max_log_qp(spec.log_n, s)).unwrap_or(0.0);
        let output_max = ranges.last().map_or(0.0, |r| r.linear_max);
        let forecast = Forecast {
            max_abs_error,
            remaining_budget_bits: program.remaining_budget_bits(),
            table_slack_bits: bound - log_qp,
            precision_bits: (output_max / max_abs_error).log2(),
        };
        Ok(Plan { program, forecast, ranges, log_qp, kinds, stages })
    }
}

/// A range as it is declared in the bundle: up to the next eighth of a power of two, so that it says little about the
/// weights and the calibration data it was computed from.
pub(crate) fn declared(range: f64) -> f64 {
    if range > 0.0 && range.is_finite() { ((range.log2() * 8.0 - 1e-9).ceil() / 8.0).exp2() } else { range }
}

impl Plan {
    /// The plaintext that constant `index` of group `group` encrypts. Errors: an unknown constant, or a value that does not
    /// fit the modulus.
    pub fn constant(&self, encoder: &Encoder, group: usize, index: usize) -> Result<Plaintext, PlanError> {
        let (Some(kind), Some(spec)) = (self.kinds.get(group), self.program.constants.get(group)) else {
            return Err(PlanError::Empty);
        };
        let (scale, level) = (spec.scale, spec.level);
        let stage_of = |i: usize| self.stages.get(i).ok_or(PlanError::Empty);
        let plaintext = match kind {
            ConstantKind::Diagonals { stage, layout } => {
                let stage = stage_of(*stage)?;
                let per_giant = layout.products() / layout.giants;
                let (giant, mut baby) = (index / per_giant, index % per_giant);
                let mut tile = 0;
                while let Some(t) = layout.tiles.get(tile).filter(|t| baby >= t.babies) {
                    baby -= t.babies;
                    tile += 1;
                }
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
fn at_positions(n: usize, values: &[f64], output: usize, position: impl Fn(usize) -> (usize, usize)) -> Vec<f64> {
    let mut coefficients = vec![0.0; n];
    for (row, v) in values.iter().enumerate() {
        let (o, at) = position(row);
        if let (true, Some(c)) = (o == output, coefficients.get_mut(at)) {
            *c = *v;
        }
    }
    coefficients
}
