//! The search through rings, geometries and scales.

use super::draft::{Draft, Ladder, draft};
use super::geometry::Geometry;
use super::simulate::simulate;
use super::stages::trace;
use super::{Choice, Primes, WholeError, WholeRequest, WholeTask};
use crate::cost::{Arithmetic, LOG_N, Prediction, predict};
use crate::keys::{KeyChooser, KeySet};
use crate::plan::{Forecast, Plan};
use crate::search::{Alternative, PlanError, RingContext, Special, Verdict};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;
use subrosa_fhe::{NoiseModel, Parameters};
use subrosa_program::{KeyRequirement, Program};

/// Bits of scales that candidates are compared at.
const NOMINAL_BITS: u32 = 28;
/// Scales of messages that are tried.
const MESSAGE_BITS: std::ops::RangeInclusive<u32> = 20..=44;
/// Bits by which the scale of weights may be below that of messages.
const WEIGHTS_BELOW: [u32; 2] = [2, 0];
/// Most phases along an axis.
const MOST_PHASES: [u32; 4] = [1, 2, 4, 8];
/// Sizes of the large primes of swapped chains.
const SWAPPED: [u32; 3] = [50, 48, 45];
const TOLERANCES: [f64; 2] = [1.0, 8.0];
/// Candidates of a ring that are refined, the cheapest first.
const REFINED: usize = 3;
/// A ring whose cheapest candidate takes so many times the best is not searched.
const HOPELESS: f64 = 1.5;
/// Results that share their weights in the networks that gain most from it.
const SHARED: u64 = 2;
/// Samples whose errors are simulated.
const SIMULATED: usize = 4;
/// Errors are taken to be this much larger than on the simulated samples.
const SAMPLE_MARGIN: f64 = 1.5;
/// What a byte of memory counts as in seconds, in turn, until the memory suffices.
const PER_BYTE: [f64; 4] = [0.0, 1e-10, 1e-9, 1e-7];

/// A priced candidate.
struct Priced {
    log_n: u32,
    geometry: Rc<Geometry>,
    choice: Choice,
    seconds: f64,
    bytes: u64,
}

/// A candidate with everything.
struct Candidate {
    draft: Draft,
    error: f64,
    prediction: Prediction,
    log_n: u32,
    name: String,
}

/// Finds the program of least predicted time that is secure, precise enough and, if a limit is given, small enough.
///
/// # Errors
/// Circuits that cannot be planned, see [`WholeError`].
pub fn plan_whole(request: &WholeRequest<'_>) -> Result<Plan, PlanError> {
    let task = WholeTask::new(request)?;
    let mut alternatives = Vec::new();
    let mut best: Option<Candidate> = None;
    let (mut smallest, mut reached): (Option<u64>, Option<f64>) = (None, None);
    for log_n in LOG_N {
        let Some(mut ring) = RingContext::new(log_n, request.security) else { continue };
        let mut priced = price(&task, &mut ring);
        priced.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let refused = |verdict, error| Alternative {
            log_n,
            layout: None,
            seconds: None,
            max_abs_error: error,
            bytes: None,
            verdict,
        };
        let Some(first) = priced.first() else {
            alternatives.push(refused(Verdict::Modulus, None));
            continue;
        };
        let bound = best.as_ref().map_or(f64::INFINITY, Candidate::seconds);
        if first.seconds > HOPELESS * bound {
            alternatives.push(first.alternative(Verdict::Slower));
            break;
        }
        // A price counts weights that several results share as often as they are used: what is needed may be half of it.
        let fits = |p: &&Priced| request.memory_limit.is_none_or(|limit| p.bytes / SHARED <= limit);
        let mut fitting: Vec<&Priced> = priced.iter().filter(fits).take(REFINED).collect();
        if fitting.is_empty() {
            alternatives.push(refused(Verdict::Memory, None));
        }
        // The one of least memory, so that a refusal can say what would do.
        if request.memory_limit.is_some() && (smallest.is_none() || !fitting.is_empty()) {
            fitting.extend(priced.iter().min_by_key(|p| p.bytes));
        }
        for candidate in fitting {
            match refine(&task, &mut ring, candidate, &mut smallest) {
                Ok(found) => {
                    if best.as_ref().is_none_or(|b| found.seconds() < b.seconds()) {
                        alternatives.extend(best.take().map(|b| b.alternative(Verdict::Slower)));
                        best = Some(found);
                    } else {
                        alternatives.push(found.alternative(Verdict::Slower));
                    }
                }
                Err(error) => {
                    reached = error.into_iter().chain(reached).reduce(f64::min);
                    let verdict = if error.is_some() { Verdict::Error } else { Verdict::Modulus };
                    alternatives.push(refused(verdict, error));
                }
            }
        }
    }
    let Some(best) = best else {
        return Err(match (request.memory_limit, smallest, reached) {
            (Some(limit), Some(smallest), _) if smallest > limit => WholeError::Memory { limit, smallest },
            (_, _, Some(reached)) => WholeError::Precision { reached, wanted: request.max_error },
            _ => WholeError::DoesNotFit {
                security: request.security.bits(),
                stages: task.stages.len(),
                products: super::draft::drops(&task),
            },
        }
        .into());
    };
    alternatives.push(best.alternative(Verdict::Taken));
    alternatives.sort_by_key(|a| a.log_n);
    best.finish(&task, alternatives)
}

/// Prices the geometries of a ring at nominal scales.
fn price(task: &WholeTask<'_>, ring: &mut RingContext) -> Vec<Priced> {
    let slots = ring.slots();
    // Whether the rescales alone fit, whatever the geometry.
    let choice = Choice {
        message_bits: NOMINAL_BITS,
        weight_bits: NOMINAL_BITS,
        primes: Primes::Swapped(50),
        tolerance: 1.0,
        per_byte: 0.0,
    };
    let ladder = Ladder::new(task, &choice, ring.log_n, slots);
    if ladder.is_none_or(|l| f64::from(l.bits.iter().sum::<u32>()) > ring.bound) {
        return Vec::new();
    }
    let mut out: Vec<Priced> = Vec::new();
    let mut seen = Vec::new();
    for most_phases in MOST_PHASES {
        for single in [true, false] {
            let places = &task.request.circuit.input_places;
            let Some(geometry) = Geometry::new(&task.stages, places, &task.facts, slots, most_phases, single) else {
                continue;
            };
            let key: (Vec<_>, Vec<_>) =
                (geometry.input.at.clone(), geometry.stages.iter().map(|s| s.layout.at.clone()).collect());
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let geometry = Rc::new(geometry);
            let prefix = Special::ALL.into_iter().map(Primes::Prefix);
            for primes in SWAPPED.into_iter().map(Primes::Swapped).chain(prefix) {
                for tolerance in TOLERANCES {
                    for per_byte in PER_BYTE {
                        if per_byte > 0.0 && task.request.memory_limit.is_none() {
                            continue;
                        }
                        let choice = Choice {
                            message_bits: NOMINAL_BITS,
                            weight_bits: NOMINAL_BITS,
                            primes,
                            tolerance,
                            per_byte,
                        };
                        let Some((_, prediction)) = sketch(task, ring, &choice, &geometry, false) else { continue };
                        let geometry = Rc::clone(&geometry);
                        let seconds = prediction.prepare.seconds + prediction.infer.seconds;
                        let bytes = prediction.memory.bytes();
                        out.push(Priced { log_n: ring.log_n, geometry, choice, seconds, bytes });
                    }
                }
            }
        }
    }
    out
}

/// A draft with its keys.
fn sketch(
    task: &WholeTask<'_>,
    ring: &mut RingContext,
    choice: &Choice,
    geometry: &Geometry,
    full: bool,
) -> Option<(Draft, Prediction)> {
    let mut draft = draft(task, ring, choice, geometry, full)?;
    let chooser = KeyChooser {
        primes: &draft.primes,
        arithmetic: Arithmetic::new(task.request.costs, ring.log_n, &draft.primes.ciphertext, &draft.primes.special)
            .with_levels(draft.primes.levels.as_deref()),
        dev: ring.dev,
        tolerance: choice.tolerance,
        per_byte: choice.per_byte,
    };
    let keys = keys(&chooser, &draft.sets)?;
    draft.set_keys(keys);
    let prediction = predict(&draft.program, task.request.costs);
    Some((draft, prediction))
}

/// A key for each level that it is used at: keys that one step uses together have one shape.
fn keys(chooser: &KeyChooser<'_>, sets: &[KeySet]) -> Option<Vec<KeyRequirement>> {
    let mut by_level: BTreeMap<usize, Vec<KeySet>> = BTreeMap::new();
    for set in sets {
        let level = set.uses.iter().map(|u| u.level).max()?;
        by_level.entry(level).or_default().push(set.clone());
    }
    let mut out = Vec::new();
    for sets in by_level.values() {
        out.extend(chooser.shapes(sets)?.into_iter().map(|(id, shape)| KeyRequirement { id, shape }));
    }
    out.sort_by_key(|k| (k.id, k.shape.level));
    Some(out)
}

impl Draft {
    /// Gives the program its keys, and leaves only the special primes that they use.
    fn set_keys(&mut self, keys: Vec<KeyRequirement>) {
        self.primes.keep_specials(keys.iter().map(|k| k.shape.specials).max().unwrap_or(0));
        self.program.parameters.special_primes = self.primes.special.clone();
        self.program.keys = keys;
    }
}

/// The least scales of a priced candidate that are precise enough; else the least error that was possible, if anything fitted.
fn refine(
    task: &WholeTask<'_>,
    ring: &mut RingContext,
    priced: &Priced,
    smallest: &mut Option<u64>,
) -> Result<Candidate, Option<f64>> {
    let mut best: Option<Candidate> = None;
    let mut reached: Option<f64> = None;
    let mut start = NOMINAL_BITS;
    for below in WEIGHTS_BELOW {
        let mut bits = start;
        let mut tried: Vec<(u32, bool)> = Vec::new();
        while MESSAGE_BITS.contains(&bits) && !tried.iter().any(|t| t.0 == bits) {
            let choice = Choice { message_bits: bits, weight_bits: bits - below, ..priced.choice };
            let Some((draft, prediction)) = sketch(task, ring, &choice, &priced.geometry, true) else {
                tried.push((bits, false));
                bits -= 1;
                continue;
            };
            let Some(error) = forecast(task, &draft) else { break };
            let enough = error <= task.request.max_error;
            let bytes = prediction.memory.bytes();
            tried.push((bits, enough));
            let fits = task.request.memory_limit.is_none_or(|l| bytes <= l);
            if enough {
                *smallest = Some(smallest.map_or(bytes, |s| s.min(bytes)));
            } else {
                reached = Some(reached.map_or(error, |r: f64| r.min(error)));
            }
            if enough && fits {
                let name = priced.geometry.name.clone();
                let found = Candidate { draft, error, prediction, log_n: ring.log_n, name };
                if best.as_ref().is_none_or(|b| found.seconds() < b.seconds()) {
                    (best, start) = (Some(found), bits);
                }
            }
            // Every bit of scale halves the error.
            let missing = (error / task.request.max_error).log2();
            bits = if enough {
                bits - ((-missing).floor() as u32).clamp(1, 4)
            } else {
                bits + (missing.ceil() as u32).clamp(1, 8)
            };
        }
    }
    best.ok_or(reached)
}

/// A bound on the error of an output, from simulated evaluations.
fn forecast(task: &WholeTask<'_>, draft: &Draft) -> Option<f64> {
    let constants: Vec<_> = draft.constants.iter().collect();
    let samples: Vec<&Vec<f64>> = task.request.samples.iter().take(SIMULATED).collect();
    let error_of = |(seed, sample): (usize, &&Vec<f64>)| -> Option<f64> {
        let expected = trace(&task.stages, sample).pop()?.0;
        let noisy = simulate(&draft.program, &constants, sample, Some(seed as u64)).ok()?;
        let squares: f64 = noisy.outputs.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum();
        Some((squares / expected.len().max(1) as f64).sqrt())
    };
    let errors: Vec<f64> = samples.par_iter().enumerate().map(error_of).collect::<Option<_>>()?;
    let worst = errors.into_iter().fold(0.0, f64::max);
    let rows = task.stages.last()?.size();
    let model = NoiseModel::new(draft.program.parameters.log_n);
    let tail = subrosa_fhe::noise::tail_bound(1.0, rows).max(model.slot_bound(1.0, 1) / model.slot_std(1.0) / 2.0);
    worst.is_finite().then_some(SAMPLE_MARGIN * tail * worst)
}

impl Priced {
    fn alternative(&self, verdict: Verdict) -> Alternative {
        Alternative {
            log_n: self.log_n,
            layout: Some(self.geometry.name.clone()),
            seconds: Some(self.seconds),
            max_abs_error: None,
            bytes: Some(self.bytes),
            verdict,
        }
    }
}

impl Candidate {
    fn seconds(&self) -> f64 {
        self.prediction.prepare.seconds + self.prediction.infer.seconds
    }

    fn alternative(&self, verdict: Verdict) -> Alternative {
        Alternative {
            log_n: self.log_n,
            layout: Some(self.name.clone()),
            seconds: Some(self.seconds()),
            max_abs_error: Some(self.error),
            bytes: Some(self.prediction.memory.bytes()),
            verdict,
        }
    }

    fn finish(self, task: &WholeTask<'_>, alternatives: Vec<Alternative>) -> Result<Plan, PlanError> {
        let program: Program = self.draft.program;
        let parameters = Parameters::new(program.parameters.clone(), task.request.kernel)?;
        for key in &program.keys {
            parameters.check_key(key.shape)?;
        }
        let levels = parameters.levels();
        let log_qp = program.keys.iter().map(|k| parameters.log_qp(k.shape)).fold(parameters.log_q(levels), f64::max);
        let spec = &program.parameters;
        let bound = spec.security().and_then(|s| subrosa_fhe::security::max_log_qp(spec.log_n, s)).unwrap_or(0.0);
        let forecast = Forecast {
            max_abs_error: self.error,
            remaining_budget_bits: program.remaining_budget_bits(),
            table_slack_bits: bound - log_qp,
            precision_bits: (task.output_max / self.error).log2(),
            prepare_seconds: self.prediction.prepare.seconds,
            infer_seconds: self.prediction.infer.seconds,
        };
        Ok(Plan::of_circuit(
            program,
            forecast,
            self.prediction,
            alternatives,
            task.request.costs.clone(),
            log_qp,
            self.draft.constants,
        ))
    }
}
