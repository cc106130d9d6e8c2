//! The public face of the planner: the request, and the search for the program of least predicted time.

use crate::chain::{InputRange, Ranges, Stage, Trace, ranges, stages, traces};
use crate::cost::{CostModel, Prediction, predict};
use crate::forecast::Deviations;
use crate::keys::Shapes;
use crate::layouts::Layer;
use crate::plan::{Draft, Plan, declared};
use crate::primes::{MAX_PRIME_BITS, PrimePool, min_prime_bits};
use crate::{cost, single, slots};
use serde::Serialize;
use std::cmp::Ordering;
use std::fmt;
use subrosa_fhe::security::{SecurityLevel, max_log_qp};
use subrosa_fhe::{FheError, Kernel};
use subrosa_network::Chain;
use subrosa_program::{InputLayout, Step};

/// log2 of the scale of messages, or of the part of a single layer's error: what is tried.
const PRECISION: std::ops::RangeInclusive<u32> = 16..=46;
/// How much more noise than is there anyway a key switch may bring.
const TOLERANCES: [f64; 2] = [1.0, 8.0];
/// Precisions above the first that are tried with coarser keys and primes of whole bytes.
const PRECISION_STEPS: u32 = 3;
/// A ring whose first candidate takes so many times the best is not searched further.
const HOPELESS: f64 = 1.6;
/// Neither is any larger one if it takes so many times.
const FAR: f64 = 4.0;
/// What a byte of memory counts as in seconds, in turn, until the memory suffices.
const PER_BYTE: [f64; 6] = [1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-3];

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
    /// Most bytes of keys and weights that the edge may keep in memory.
    pub memory_limit: Option<u64>,
    /// What the engine's work costs on the edge.
    pub costs: &'a CostModel,
    /// Kernel for the last check of the parameters.
    pub kernel: Kernel,
}

/// A candidate that was considered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    /// log2 of the ring degree.
    pub log_n: u32,
    /// Its layout, for people; none if nothing fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Predicted time of preparing and evaluating one sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Forecast of the largest error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_abs_error: Option<f64>,
    /// Bytes of keys and weights in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What became of it.
    pub verdict: Verdict,
}

/// Why a candidate was taken or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is the plan.
    Taken,
    /// Another takes less time.
    Slower,
    /// Its modulus is beyond the security table, or the layers do not fit its slots.
    Modulus,
    /// Its error is too large.
    Error,
    /// It needs more memory than permitted.
    Memory,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "taken",
            Self::Slower => "slower",
            Self::Modulus => "no modulus under the security table, or too few slots",
            Self::Error => "error too large",
            Self::Memory => "too much memory",
        })
    }
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
         calibration data (--calibrate) so that the ranges are known better", cost::LOG_N.end()
    )]
    DoesNotFit {
        /// The level asked for.
        security: u32,
        /// Layers in the chain.
        layers: usize,
    },
    /// Everything that fits is too large for the edge.
    #[error(
        "the keys and weights of this network take at least {smallest} bytes of the edge's memory, --memory-limit permits {limit}: \
         permit as much, protect fewer layers (--scope last) or lower the security"
    )]
    Memory {
        /// The limit asked for.
        limit: u64,
        /// The least that was found.
        smallest: u64,
    },
    /// From the engine.
    #[error(transparent)]
    Fhe(#[from] FheError),
}

/// What does not depend on the candidate.
pub(crate) struct Task<'a> {
    pub request: &'a PlanRequest<'a>,
    pub stages: Vec<Stage>,
    pub ranges: Vec<Ranges>,
    pub traces: Vec<Vec<Trace>>,
    /// As many layers without samples.
    pub untraced: Vec<Vec<Trace>>,
}

/// A ring that is tried.
pub(crate) struct RingContext {
    pub log_n: u32,
    pub dev: Deviations,
    pub primes: PrimePool,
    /// The table's largest log2(QP).
    pub bound: f64,
}

impl RingContext {
    pub fn new(log_n: u32, security: SecurityLevel) -> Option<Self> {
        let bound = max_log_qp(log_n, security)?;
        Some(Self { log_n, dev: Deviations::new(log_n), primes: PrimePool::new(log_n), bound })
    }

    /// N/2.
    pub fn slots(&self) -> usize {
        1 << (self.log_n - 1)
    }
}

/// How large the special primes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    /// A few bits larger than the largest limb, so that key switching adds little noise.
    Larger,
    /// Whole bytes, as large as the largest limb.
    WholeBytes,
    /// So that this many fit under the table beside all limbs.
    Fitting(u32),
}

impl Special {
    const ALL: [Self; 4] = [Self::Larger, Self::WholeBytes, Self::Fitting(1), Self::Fitting(2)];

    /// The size for limbs of these sizes; `None` where it makes no sense.
    pub fn bits(self, limbs: &[u32], ring: &RingContext) -> Option<u32> {
        let largest = limbs.iter().copied().max()?;
        let larger = (largest + 4).min(MAX_PRIME_BITS);
        match self {
            Self::Larger => Some(larger),
            Self::WholeBytes => Some(largest.next_multiple_of(8)).filter(|&b| b < larger),
            Self::Fitting(count) => {
                let room = ring.bound - f64::from(limbs.iter().sum::<u32>());
                let bits = (room / f64::from(count)).max(0.0) as u32;
                Some(bits).filter(|&b| b < larger && b >= min_prime_bits(ring.log_n).max(largest.saturating_sub(16)))
            }
        }
    }
}

/// Everything that the search decides besides the ring.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub precision: u32,
    pub special: Special,
    /// Noise of key switches over what is there anyway.
    pub tolerance: f64,
    /// Whether sizes of primes are bent towards whole bytes.
    pub whole_bytes: bool,
    /// Seconds that a byte of memory counts as.
    pub per_byte: f64,
    /// The layers in the slots: all but the last.
    pub layers: Vec<Layer>,
}

/// A choice with its program.
pub(crate) struct Candidate {
    choice: Choice,
    shapes: Shapes,
    pub draft: Draft,
    pub prediction: Prediction,
}

impl Candidate {
    /// Drafts the program and its keys, without the error (but for a single layer); `None` if it does not fit.
    fn sketch(task: &Task<'_>, ring: &mut RingContext, choice: &Choice) -> Option<Self> {
        let (mut draft, shapes) = match task.stages.as_slice() {
            [only] => (single::draft(only, task, ring, choice)?, Shapes::new()),
            _ => {
                let draft = slots::draft(task, ring, choice, None)?;
                let shapes = slots::chooser(task, ring, choice, &draft.primes).shapes(&draft.sets)?;
                (draft, shapes)
            }
        };
        draft.set_keys(&shapes);
        let prediction = predict(&draft.program, task.request.costs);
        Some(Self { choice: choice.clone(), shapes, draft, prediction })
    }

    /// Forecasts the error.
    fn forecast(&mut self, task: &Task<'_>, ring: &mut RingContext) -> Option<f64> {
        if task.stages.len() > 1 {
            self.draft.max_abs_error = slots::draft(task, ring, &self.choice, Some(&self.shapes))?.max_abs_error;
        }
        Some(self.draft.max_abs_error)
    }

    /// What is to be small: the time of a sample.
    pub fn seconds(&self) -> f64 {
        self.prediction.prepare.seconds + self.prediction.infer.seconds
    }

    fn bytes(&self) -> u64 {
        self.prediction.memory.bytes()
    }

    fn alternative(&self, error: Option<f64>, verdict: Verdict) -> Alternative {
        Alternative {
            log_n: self.draft.program.parameters.log_n,
            layout: Some(layout(self)),
            seconds: Some(self.seconds()),
            max_abs_error: error,
            bytes: Some(self.bytes()),
            verdict,
        }
    }
}

/// The layouts of a candidate, for people.
fn layout(c: &Candidate) -> String {
    let program = &c.draft.program;
    if let InputLayout::CoefficientDot(d) = &program.input.layout {
        return format!("{} rows a ciphertext", d.rows_per_ciphertext());
    }
    let folds = program.steps.iter().filter_map(|s| match s {
        Step::Fold { stages, .. } => Some(stages.iter().map(|s| s.len().to_string()).collect::<Vec<_>>().join("+")),
        _ => None,
    });
    let mut folds = folds.collect::<Vec<_>>().into_iter();
    let layers = c.choice.layers.iter().map(|layer| {
        let d = &layer.layout;
        let tiles: Vec<String> = d.tiles.iter().map(|t| t.babies.to_string()).collect();
        let folded = if d.fold_doublings() > 0 { folds.next().unwrap_or_default() } else { "none".into() };
        let packing = if d.complex { ", complex" } else { "" };
        format!("{} x ({}) diagonals, {} groups{packing}, fold {folded}", d.giants, tiles.join("+"), d.span)
    });
    layers.collect::<Vec<_>>().join("; ")
}

/// Finds the program of least predicted time that is secure, precise enough and, if a limit is given, small enough.
///
/// Errors: an empty chain, numbers that are not finite, no parameters up to N = 2^16 that fit, or none within the memory.
pub fn plan(request: &PlanRequest<'_>) -> Result<Plan, PlanError> {
    let task = task(request)?;
    let mut search = Search { task: &task, best: None, smallest: None, alternatives: Vec::new() };
    for log_n in cost::LOG_N {
        if let Some(ring) = RingContext::new(log_n, request.security)
            && !search.ring(ring)
        {
            break;
        }
    }
    let Search { best, smallest, mut alternatives, .. } = search;
    let Some((best, mut ring)) = best else {
        return Err(match (request.memory_limit, smallest) {
            (Some(limit), Some(smallest)) => PlanError::Memory { limit, smallest },
            _ => PlanError::DoesNotFit { security: request.security.bits(), layers: task.stages.len() },
        });
    };
    alternatives.retain(|a| a.log_n != ring.log_n);
    alternatives.push(best.alternative(Some(best.draft.max_abs_error), Verdict::Taken));
    alternatives.extend(splits(&task, &mut ring, &best));
    alternatives.sort_by(|a, b| a.log_n.cmp(&b.log_n).then(by_seconds(a.seconds, b.seconds)));
    let Task { stages, ranges, .. } = task;
    best.draft.finish((stages, ranges), alternatives, request.kernel, request.costs)
}

fn by_seconds(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
}

/// Checks a request and computes what all candidates share.
pub(crate) fn task<'a>(request: &'a PlanRequest<'a>) -> Result<Task<'a>, PlanError> {
    let stages = stages(request.chain);
    let input = InputRange { max_abs: declared(request.input.max_abs), max_norm: declared(request.input.max_norm) };
    if stages.is_empty() {
        return Err(PlanError::Empty);
    }
    if stages.iter().any(|s| s.weights.iter().chain(&s.bias).any(|w| !w.is_finite())) {
        return Err(PlanError::NotFinite("a weight"));
    }
    let traces = traces(&stages, request.samples);
    let mut ranges = ranges(&stages, input, &traces);
    if let Some(last) = ranges.last_mut() {
        last.linear_max = declared(last.linear_max);
    }
    if !(request.max_error.is_finite() && request.max_error > 0.0 && ranges.iter().all(|r| r.linear_max.is_finite())) {
        return Err(PlanError::NotFinite("the range of a value"));
    }
    let untraced = stages.iter().map(|_| Vec::new()).collect();
    Ok(Task { request, stages, ranges, traces, untraced })
}

/// The best of the chosen ring with other numbers of giant steps.
fn splits(task: &Task<'_>, ring: &mut RingContext, best: &Candidate) -> Vec<Alternative> {
    let mut out = Vec::new();
    let taken = best.choice.layers.first().map_or(1, |l| l.layout.giants);
    let powers = (0..ring.log_n).map(|i| 1usize << i).filter(|&g| g != taken && task.request.encrypted_input);
    for giants in powers.filter(|_| task.stages.len() > 1) {
        let Some(layers) = slots::cheapest_layers(task, ring, &best.choice, Some(giants)) else { break };
        let choice = Choice { layers, ..best.choice.clone() };
        let Some(mut other) = Candidate::sketch(task, ring, &choice) else { continue };
        let error = other.forecast(task, ring);
        let verdict = match error {
            Some(e) if e <= task.request.max_error => match task.request.memory_limit {
                Some(limit) if other.bytes() > limit => Verdict::Memory,
                _ => Verdict::Slower,
            },
            _ => Verdict::Error,
        };
        out.push(other.alternative(error, verdict));
    }
    out
}

/// The state of the search.
struct Search<'a> {
    task: &'a Task<'a>,
    /// The best so far, and its ring.
    best: Option<(Candidate, RingContext)>,
    /// The least memory of a candidate that is precise enough.
    smallest: Option<u64>,
    alternatives: Vec<Alternative>,
}

impl Search<'_> {
    /// Searches one ring; says whether larger ones are worth a look.
    fn ring(&mut self, mut ring: RingContext) -> bool {
        let log_n = ring.log_n;
        let refused = |layout, max_abs_error, verdict| Alternative {
            log_n,
            layout,
            seconds: None,
            max_abs_error,
            bytes: None,
            verdict,
        };
        let first = match self.first(&mut ring) {
            Ok(first) => first,
            Err(error) => {
                let verdict = if error.is_some() { Verdict::Error } else { Verdict::Modulus };
                self.alternatives.push(refused(None, error, verdict));
                return true;
            }
        };
        let best_seconds = self.best.as_ref().map_or(f64::INFINITY, |(b, _)| b.seconds());
        let first_seconds = first.seconds();
        let mut found = Found { limit: self.task.request.memory_limit, best: None, smallest: self.smallest };
        let start = first.choice.clone();
        found.offer(first);
        if first_seconds < HOPELESS * best_seconds && self.task.stages.len() > 1 {
            self.refine(&mut ring, &start, &mut found);
        }
        let Found { best, smallest, .. } = found;
        self.smallest = smallest;
        match best {
            None => self.alternatives.push(refused(None, None, Verdict::Memory)),
            Some(candidate) => {
                let error = Some(candidate.draft.max_abs_error);
                self.alternatives.push(candidate.alternative(error, Verdict::Slower));
                if candidate.seconds() < best_seconds {
                    self.best = Some((candidate, ring));
                }
            }
        }
        first_seconds < FAR * best_seconds
    }

    /// A first candidate of a ring: sound layouts, the least precision that suffices. Else the least error that was possible, if
    /// anything fitted.
    fn first(&self, ring: &mut RingContext) -> Result<Candidate, Option<f64>> {
        let layers = if self.task.stages.len() > 1 { slots::first_layers(self.task, ring).ok_or(None)? } else { Vec::new() };
        let mut least_error = None;
        for special in Special::ALL {
            let tolerance = TOLERANCES.first().copied().unwrap_or(1.0);
            let mut choice =
                Choice { precision: 0, special, tolerance, whole_bytes: false, per_byte: 0.0, layers: layers.clone() };
            // Twice: the layouts for the primes, the primes for the layouts.
            for _ in 0..2 {
                match self.least_precision(ring, &choice) {
                    Ok(candidate) => choice = candidate.choice,
                    Err(error) => {
                        least_error = error.or(least_error);
                        break;
                    }
                }
                if self.task.stages.len() > 1
                    && let Some(layers) = slots::cheapest_layers(self.task, ring, &choice, None)
                {
                    choice.layers = layers;
                }
            }
            if let Ok(candidate) = self.least_precision(ring, &choice) {
                return Ok(candidate);
            }
            if self.task.stages.len() == 1 {
                break;
            }
        }
        Err(least_error)
    }

    /// The candidate of least precision whose error is small enough; else the least error, if anything fits.
    fn least_precision(&self, ring: &mut RingContext, choice: &Choice) -> Result<Candidate, Option<f64>> {
        let at = |precision| Choice { precision, ..choice.clone() };
        let fitting: Vec<u32> =
            PRECISION.filter(|&p| Candidate::sketch(self.task, ring, &at(p)).is_some()).collect();
        let (mut low, mut high) = (0, fitting.len());
        let mut found = None;
        let mut least_error: Option<f64> = None;
        // The error halves with each bit: a guess from the last one is seldom far off.
        let mut guess = fitting.iter().position(|&p| p >= choice.precision.max(24)).unwrap_or(0);
        while low < high {
            let i = guess.clamp(low, high - 1);
            let precision = fitting.get(i).copied().unwrap_or(0);
            let candidate = Candidate::sketch(self.task, ring, &at(precision));
            let Some(mut candidate) = candidate else { break };
            let error = candidate.forecast(self.task, ring).unwrap_or(f64::INFINITY);
            least_error = Some(least_error.map_or(error, |e| e.min(error)));
            let bits = (error / self.task.request.max_error).log2();
            if bits <= 0.0 {
                found = Some(candidate);
                high = i;
                guess = i.saturating_sub((-bits).max(1.0) as usize);
            } else {
                low = i + 1;
                guess = i.saturating_add(bits.ceil() as usize);
            }
        }
        found.ok_or(least_error)
    }

    /// Tries coarser keys, other special primes, primes of whole bytes, and, if the memory does not suffice, smaller layouts.
    fn refine(&self, ring: &mut RingContext, start: &Choice, found: &mut Found) {
        let fits = |found: &Found| found.limit.is_none() || found.best.is_some();
        for per_byte in [0.0].into_iter().chain(PER_BYTE) {
            if per_byte > 0.0 && fits(found) {
                break;
            }
            for whole_bytes in [false, true] {
                for special in Special::ALL {
                    for tolerance in TOLERANCES {
                        let choice = Choice { special, tolerance, whole_bytes, per_byte, ..start.clone() };
                        if let Some(layers) = slots::cheapest_layers(self.task, ring, &choice, None) {
                            self.climb(ring, Choice { layers, ..choice }, found);
                        }
                    }
                }
            }
        }
    }

    /// Offers the least precision from about that of `choice` on that suffices.
    fn climb(&self, ring: &mut RingContext, choice: Choice, found: &mut Found) {
        for precision in choice.precision.saturating_sub(1)..=choice.precision + PRECISION_STEPS {
            let Some(mut candidate) = Candidate::sketch(self.task, ring, &Choice { precision, ..choice.clone() }) else {
                continue;
            };
            if !found.is_wanted(&candidate) {
                break;
            }
            if candidate.forecast(self.task, ring).is_some_and(|e| e <= self.task.request.max_error) {
                found.offer(candidate);
                break;
            }
        }
    }
}

/// The best of a ring.
struct Found {
    limit: Option<u64>,
    best: Option<Candidate>,
    smallest: Option<u64>,
}

impl Found {
    /// Whether a candidate would be the fastest within the memory, or the smallest at all, if it were precise enough.
    fn is_wanted(&self, candidate: &Candidate) -> bool {
        let bytes = candidate.bytes();
        if self.limit.is_some_and(|limit| bytes > limit) {
            return self.smallest.is_none_or(|s| bytes < s);
        }
        self.best.as_ref().is_none_or(|b| candidate.seconds() < b.seconds())
    }

    /// Takes a candidate that is precise enough.
    fn offer(&mut self, candidate: Candidate) {
        let bytes = candidate.bytes();
        let wanted = self.is_wanted(&candidate);
        self.smallest = Some(self.smallest.map_or(bytes, |s| s.min(bytes)));
        if wanted && self.limit.is_none_or(|limit| bytes <= limit) {
            self.best = Some(candidate);
        }
    }
}
