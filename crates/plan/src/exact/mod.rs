//! Chains of dense layers in exact integers (BGV): fixed point, proof of ranges, plaintext moduli, and the program of least predicted
//! time whose noise fits.

mod bounds;
mod constants;
mod draft;
mod nearest;
mod network;
mod scales;
mod spectrum;
#[cfg(test)]
mod tests;
mod walk;

pub use nearest::NearestExact;
pub use network::{FixedPoint, IntegerError, IntegerNetwork};

use crate::chain::{InputRange, Ranges, Stage, Trace, ranges, traces};
use crate::cost::{self, CostModel, Prediction, predict};
use crate::plan::{Forecast, Plan, declared};
use crate::search::{Alternative, PlanError, RingContext, Special, Verdict};
use draft::{Choice, Draft, Wanted, cheapest_layers, draft, first_layers};
use scales::{Measured, Sensitivity, expected_changes, measure};
use subrosa_fhe::{Kernel, Parameters, SecurityLevel, primes};
use subrosa_network::Chain;
use subrosa_program::{Channel, Integers, Program};
use walk::{Walked, walk};

/// Deviation of outputs by rounding, over the largest output that samples show: the first that is tried.
const FIRST_ERROR: f64 = 8e-3;
/// Largest error over the largest output that is accepted.
const LARGEST_ERROR: f64 = 3e-2;
/// Share of answers that rounding may be expected to change.
const EXPECTED_CHANGES: f64 = 1e-3;
/// Rounds of finer and finer fixed points.
const ROUNDS: u32 = 20;
/// Largest plaintext modulus, bits: residues and their halves fit an f64.
const MAX_T_BITS: u32 = 49;
/// Bits that all plaintext moduli may have together: outputs are joined in 127 bits.
const MOST_BITS: u32 = 124;
/// Most plaintext moduli that are tried.
const MAX_CHANNELS: usize = 8;
/// Least noise budget at any step.
const LEAST_BUDGET: f64 = 1.0;
/// Primes of a size that are left to the ciphertexts' moduli.
const LEFT_PRIMES: usize = 24;
/// Noise above the least that a rescale may leave, bits.
const SLACKS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 8.0];
/// Noise of keys over what is there anyway.
const TOLERANCES: [f64; 2] = [1.0, 8.0];
/// Real inputs may have values this much larger than the samples'.
const SAMPLE_MARGIN: f64 = 2.0;
/// A larger ring is not looked at once one takes so many times the best.
const FAR: f64 = 3.0;

/// What is to be planned.
pub struct ExactRequest<'a> {
    /// The protected layers.
    pub chain: &'a Chain,
    /// Range of the features.
    pub input: InputRange,
    /// Feature vectors, of calibration data or synthetic ones, on which the fixed point is chosen.
    pub samples: &'a [Vec<f64>],
    /// Factors that the owner chose; else they are found.
    pub fixed_point: Option<&'a FixedPoint>,
    /// Whether the edge encrypts the features.
    pub encrypted_input: bool,
    /// Level of security.
    pub security: SecurityLevel,
    /// Most bytes of keys and weights that the edge may keep in memory.
    pub memory_limit: Option<u64>,
    /// What the engine's work costs on the edge.
    pub costs: &'a CostModel,
    /// Kernel for the checks of the parameters.
    pub kernel: Kernel,
}

/// Why there is no plan in integers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExactError {
    /// The chain has no integer form.
    #[error(transparent)]
    Integer(#[from] IntegerError),
    /// Rounding costs too much, however fine.
    #[error(
        "no fixed point keeps the answers: the finest that was tried moves an output by {error:.1e} of {largest:.1e} and changes \
         {changed} of {samples} answers; use --scheme ckks, or calibration data with larger outputs (--calibrate)"
    )]
    Accuracy {
        /// Largest error.
        error: f64,
        /// Largest output.
        largest: f64,
        /// Samples with another top output.
        changed: usize,
        /// Samples.
        samples: usize,
    },
    /// The outputs need more than all plaintext moduli.
    #[error(
        "outputs of 2^{bits:.0} and more do not fit {most} bits of plaintext moduli with the fixed point {fixed}: {nearest}; calibration \
         data (--calibrate) that shows smaller features, or a coarser --fixed-point, help too"
    )]
    Range {
        /// log2 of the bound of outputs.
        bits: f64,
        /// What there is.
        most: u32,
        /// The fixed point.
        fixed: FixedPoint,
        /// What would fit.
        nearest: NearestExact,
    },
    /// No modulus under the security table.
    #[error(
        "no secure parameters up to ring degree 2^{ring} hold the noise of {layers} layers in integers of {bits:.0} bits at {security} \
         bits of security with the fixed point {fixed}: {nearest}; a coarser --fixed-point helps too"
    )]
    DoesNotFit {
        /// Largest ring that was tried.
        ring: u32,
        /// Layers.
        layers: usize,
        /// log2 of the plaintext moduli.
        bits: f64,
        /// Security asked for.
        security: u32,
        /// The fixed point.
        fixed: FixedPoint,
        /// What would fit.
        nearest: NearestExact,
    },
}

/// A candidate that passed.
struct Found {
    draft: Draft,
    walked: Vec<Walked>,
    moduli: Vec<u64>,
    seconds: f64,
}

/// Finds the integer program of least predicted time that is secure, whose outputs cannot overflow and whose noise fits.
///
/// # Errors
/// Chains without layers or with activations of degree 3 and more; numbers that are not finite; no fixed point, modulus or ring that
/// fits; too little memory.
pub fn plan_exact(request: &ExactRequest<'_>) -> Result<Plan, PlanError> {
    let mut plan = attempt(request);
    if let Err(PlanError::Exact(ExactError::Range { nearest, .. } | ExactError::DoesNotFit { nearest, .. })) = &mut plan
    {
        *nearest = nearest::nearest(request);
    }
    plan
}

/// The same, with nothing known of what would fit.
fn attempt(request: &ExactRequest<'_>) -> Result<Plan, PlanError> {
    let stages = network::quadratic_stages(request.chain).map_err(ExactError::from)?;
    if stages.is_empty() {
        return Err(PlanError::Empty);
    }
    if stages.iter().any(|s| s.weights.iter().chain(&s.bias).any(|w| !w.is_finite())) {
        return Err(PlanError::NotFinite("a weight"));
    }
    let input = InputRange { max_abs: declared(request.input.max_abs), max_norm: declared(request.input.max_norm) };
    let traces = traces(&stages, request.samples);
    let largest = traces.last().into_iter().flatten().flat_map(|t| &t.linear).fold(0.0f64, |m, v| m.max(v.abs()));
    if !(input.max_norm.is_finite() && largest.is_finite() && largest > 0.0) {
        return Err(PlanError::NotFinite("the range of a value"));
    }
    let sensitivity = Sensitivity::measure(&stages, &traces);
    let (fixed, measured) = fixed_point(request, &stages, &traces, &sensitivity, largest)?;
    let network = IntegerNetwork::of(&stages, &fixed).map_err(ExactError::from)?;
    let bound = declared(bounds::output_bound(&network, input));
    let bits = (2.0 * bound + 1.0).log2();
    if bits > f64::from(MOST_BITS) {
        return Err(
            ExactError::Range { bits: bits - 1.0, most: MOST_BITS, fixed, nearest: NearestExact::OtherScheme }.into()
        );
    }
    let integers = Integers {
        input_unit: fixed.input,
        output_unit: network.output_unit(),
        output_bound: bound,
        budget_bits: LEAST_BUDGET,
        channels: Vec::new(),
    };
    let wanted = Wanted {
        stages: &stages,
        encrypted: request.encrypted_input,
        security: request.security,
        output_max: bound * network.output_unit(),
        integers,
        max_abs: input.max_abs,
        max_norm: input.max_norm,
        costs: request.costs,
    };
    let mut search = Search { request, wanted: &wanted, bits, best: None, smallest: None, alternatives: Vec::new() };
    for log_n in cost::LOG_N {
        if !search.ring(log_n) {
            break;
        }
    }
    let Search { best, smallest, mut alternatives, .. } = search;
    let Some(best) = best else {
        return Err(match (request.memory_limit, smallest) {
            (Some(limit), Some(smallest)) => PlanError::Memory { limit, smallest },
            _ => {
                let (ring, layers, security) = (*cost::LOG_N.end(), stages.len(), request.security.bits());
                ExactError::DoesNotFit { ring, layers, bits, security, fixed, nearest: NearestExact::OtherScheme }
                    .into()
            }
        });
    };
    if let Some(taken) = alternatives.iter_mut().find(|a| a.log_n == best.draft.program.parameters.log_n) {
        taken.verdict = Verdict::Taken;
    }
    let error = subrosa_fhe::noise::tail_bound(sensitivity.deviation(&fixed), stages.last().map_or(1, |s| s.rows));
    // For inputs whose values are at most twice those of the samples.
    let error = SAMPLE_MARGIN * error.max(measured.max_abs_error);
    let ranges = ranges(&stages, input, &traces);
    best.finish(request, (stages, ranges), network, error, alternatives)
}

/// The owner's factors, or the coarsest that keep the answers of all samples.
fn fixed_point(
    request: &ExactRequest<'_>,
    stages: &[Stage],
    traces: &[Vec<Trace>],
    sensitivity: &Sensitivity,
    largest: f64,
) -> Result<(FixedPoint, Measured), ExactError> {
    if let Some(fixed) = request.fixed_point {
        return Ok((fixed.clone(), measure(stages, traces, fixed)?));
    }
    let mut error = FIRST_ERROR * largest;
    let mut last = None;
    for _ in 0..ROUNDS {
        let fixed = sensitivity.fixed_point(error);
        error /= std::f64::consts::SQRT_2;
        if expected_changes(traces, sensitivity.deviation(&fixed)) > EXPECTED_CHANGES {
            continue;
        }
        let measured = match measure(stages, traces, &fixed) {
            Ok(measured) => measured,
            Err(IntegerError::Overflow { .. }) => {
                let most = MOST_BITS;
                return Err(ExactError::Range {
                    bits: f64::from(most),
                    most,
                    fixed,
                    nearest: NearestExact::OtherScheme,
                });
            }
            Err(other) => return Err(other.into()),
        };
        if measured.disagreements == 0 && measured.max_abs_error <= LARGEST_ERROR * largest {
            return Ok((fixed, measured));
        }
        last = Some(measured);
    }
    Err(inaccurate(last.unwrap_or(Measured { max_abs_error: f64::INFINITY, disagreements: 0 }), largest, request))
}

fn inaccurate(measured: Measured, largest: f64, request: &ExactRequest<'_>) -> ExactError {
    let (error, changed, samples) = (measured.max_abs_error, measured.disagreements, request.samples.len());
    ExactError::Accuracy { error, largest, changed, samples }
}

struct Search<'a> {
    request: &'a ExactRequest<'a>,
    wanted: &'a Wanted<'a>,
    /// log2 of what the plaintext moduli must hold.
    bits: f64,
    best: Option<Found>,
    smallest: Option<u64>,
    alternatives: Vec<Alternative>,
}

impl Search<'_> {
    /// Searches one ring; says whether larger ones are worth a look.
    fn ring(&mut self, log_n: u32) -> bool {
        let Some(mut ring) = RingContext::new(log_n, self.request.security) else { return true };
        let before = self.best.as_ref().map_or(f64::INFINITY, |b| b.seconds);
        let mut least: Option<Alternative> = None;
        for count in 1..=MAX_CHANNELS {
            let Some(moduli) = moduli(log_n, self.bits, count) else { continue };
            if let Some(found) = self.channels(&mut ring, &moduli)
                && least.as_ref().and_then(|a| a.seconds).is_none_or(|s| found.seconds.is_some_and(|f| f < s))
            {
                least = Some(found);
            }
        }
        let seconds = least.as_ref().and_then(|a| a.seconds);
        let (layout, max_abs_error, bytes, verdict) = (None, None, None, Verdict::Modulus);
        self.alternatives.push(least.unwrap_or(Alternative {
            log_n,
            layout,
            seconds: None,
            max_abs_error,
            bytes,
            verdict,
        }));
        seconds.is_none_or(|s| s < FAR * before)
    }

    /// Tries one set of plaintext moduli; the best of it for people.
    fn channels(&mut self, ring: &mut RingContext, moduli: &[u64]) -> Option<Alternative> {
        let (first, slots) = (*moduli.iter().max()?, ring.slots());
        let single = self.wanted.stages.len() == 1;
        let guess = if single { Vec::new() } else { first_layers(self.wanted, slots)? };
        let mut least: Option<Alternative> = None;
        for special in Special::ALL {
            for slack in SLACKS {
                for tolerance in TOLERANCES {
                    let mut choice =
                        Choice { t: first, slack, special, tolerance, extra: [0.0; 2], layers: guess.clone() };
                    if !single && let Some(layers) = cheapest_layers(self.wanted, &choice, ring) {
                        choice.layers = layers;
                    }
                    let Some(offered) = self.offer(ring, choice, moduli) else { continue };
                    if least.as_ref().and_then(|a| a.seconds).is_none_or(|s| offered.seconds.is_some_and(|o| o < s)) {
                        least = Some(offered);
                    }
                    if single {
                        return least;
                    }
                }
            }
        }
        least
    }

    /// Takes the candidate if it is the fastest so far; `None` if it does not fit.
    fn offer(&mut self, ring: &mut RingContext, mut choice: Choice, moduli: &[u64]) -> Option<Alternative> {
        for _ in 0..4 {
            let draft = draft(self.wanted, &choice, ring)?;
            let prediction = predicted(&draft.program, self.request.costs, moduli.len());
            let (seconds, bytes) = (prediction.seconds(), prediction.memory.bytes());
            let layout = Some(describe(&draft, moduli));
            let mut seen = Alternative {
                log_n: ring.log_n,
                layout,
                seconds: Some(seconds),
                max_abs_error: None,
                bytes: Some(bytes),
                verdict: Verdict::Slower,
            };
            if self.best.as_ref().is_some_and(|b| b.seconds <= seconds) {
                return Some(seen);
            }
            let walked = walked(&draft.program, moduli, self.request.kernel)?;
            let least = walked.iter().map(|w| w.least).fold(f64::INFINITY, f64::min);
            if least < LEAST_BUDGET {
                let missing = LEAST_BUDGET - least + 0.25;
                choice.extra.iter_mut().for_each(|e| *e += missing);
                continue;
            }
            self.smallest = Some(self.smallest.map_or(bytes, |s| s.min(bytes)));
            if self.request.memory_limit.is_some_and(|limit| bytes > limit) {
                seen.verdict = Verdict::Memory;
                return Some(seen);
            }
            self.best = Some(Found { draft, walked, moduli: moduli.to_vec(), seconds });
            return Some(seen);
        }
        None
    }
}

/// What a program takes that is executed modulo `count` plaintext moduli.
fn predicted(program: &Program, costs: &CostModel, count: usize) -> Prediction {
    let mut all = predict(program, costs);
    all.prepare = all.prepare * count;
    all.infer = all.infer * count;
    all.steps.iter_mut().for_each(|step| step.work = step.work * count);
    all.memory.weight_bytes *= count as u64;
    all.bundle.weight_bytes *= count as u64;
    all
}

/// The walk of each channel; `None` if a modulus is in use already, or the engine refuses.
fn walked(program: &Program, moduli: &[u64], kernel: Kernel) -> Option<Vec<Walked>> {
    moduli
        .iter()
        .map(|&t| {
            let spec = program.parameters.clone().with_plaintext_modulus(t);
            walk(program, &Parameters::new(spec, kernel).ok()?)
        })
        .collect()
}

/// `count` plaintext moduli of one size whose product exceeds 2^`bits`: the fewest bits that suffice.
fn moduli(log_n: u32, bits: f64, count: usize) -> Option<Vec<u64>> {
    let least = ((bits / count as f64).floor() as u32).max(log_n + 2);
    for size in least..=MAX_T_BITS.min(least + 3) {
        let mut found = None;
        for left in [LEFT_PRIMES, 4, 0] {
            if let Ok(all) = primes::find(log_n, size, count + left, &[]) {
                found = all.get(left..).map(<[u64]>::to_vec);
                break;
            }
        }
        let Some(found) = found else { continue };
        if found.iter().map(|&t| (t as f64).log2()).sum::<f64>() > bits + 1e-6 {
            return Some(found);
        }
    }
    None
}

fn describe(draft: &Draft, moduli: &[u64]) -> String {
    let bits: Vec<String> = moduli.iter().map(|t| format!("{:.0}", (*t as f64).log2())).collect();
    let layers = draft.layers.iter().map(|layer| {
        let d = &layer.layout;
        let tiles: Vec<String> = d.tiles.iter().map(|t| t.babies.to_string()).collect();
        let packing = if d.complex { ", two columns a slot" } else { "" };
        format!("{} x ({}) diagonals, {} groups{packing}", d.giants, tiles.join("+"), d.span)
    });
    let layers: Vec<String> = layers.collect();
    let layers = if layers.is_empty() { "inner products in the coefficients".into() } else { layers.join("; ") };
    format!("plaintext moduli of {} bits; {layers}", bits.join("+"))
}

impl Found {
    fn finish(
        self,
        request: &ExactRequest<'_>,
        (stages, ranges): (Vec<Stage>, Vec<Ranges>),
        network: IntegerNetwork,
        max_abs_error: f64,
        alternatives: Vec<Alternative>,
    ) -> Result<Plan, PlanError> {
        let Self { draft, walked, moduli, .. } = self;
        let Draft { mut program, kinds, .. } = draft;
        let mut channels = moduli.iter().zip(&walked);
        if let Some((&t, first)) = channels.next() {
            program.parameters = program.parameters.with_plaintext_modulus(t);
            program.output.scale = first.scale;
            for (group, &scale) in program.constants.iter_mut().zip(&first.constants) {
                group.scale = scale;
            }
        }
        let further = channels.map(|(&modulus, w)| Channel {
            modulus,
            input: 1.0,
            constants: w.constants.clone(),
            output: w.scale,
        });
        if let Some(integers) = &mut program.integers {
            integers.channels = further.collect();
            integers.budget_bits = walked.iter().map(|w| w.output).fold(f64::INFINITY, f64::min);
        }
        let parameters = Parameters::new(program.parameters.clone(), request.kernel)?;
        for key in &program.keys {
            parameters.check_key(key.shape)?;
        }
        let top = parameters.log_q(parameters.levels());
        let log_qp = program.keys.iter().map(|k| parameters.log_qp(k.shape)).fold(top, f64::max);
        let bound = subrosa_fhe::security::max_log_qp(program.parameters.log_n, request.security).unwrap_or(0.0);
        let prediction = predicted(&program, request.costs, moduli.len());
        let forecast = Forecast {
            max_abs_error,
            remaining_budget_bits: program.remaining_budget_bits(),
            table_slack_bits: bound - log_qp,
            precision_bits: (program.output.max_abs / max_abs_error).log2(),
            prepare_seconds: prediction.prepare.seconds,
            infer_seconds: prediction.infer.seconds,
        };
        Ok(Plan {
            program,
            forecast,
            prediction,
            alternatives,
            costs: request.costs.clone(),
            ranges,
            log_qp,
            kinds,
            stages,
            exact: Some(network),
        })
    }
}

/// The noise budget that is forecast after every step of a program of integers, the least over its plaintext moduli; `None` for one of
/// CKKS.
pub fn forecast_budgets(program: &Program, kernel: Kernel) -> Option<Vec<f64>> {
    let walked = walked(program, &program.plaintext_moduli(), kernel)?;
    let mut all = walked.into_iter().map(|w| w.budgets);
    let first = all.next()?;
    Some(all.fold(first, |least, next| least.iter().zip(&next).map(|(a, b)| a.min(*b)).collect()))
}
