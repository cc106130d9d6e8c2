//! The search through rings, geometries and scales.

use super::draft::{Draft, draft};
use super::geometry::Geometry;
use super::ladder::{Ladder, drops};
use super::simulate::simulate;
use super::single::plan_single;
use super::stages::Stage;
use super::{Choice, Nearest, Primes, WholeError, WholeRequest, WholeTask};
use crate::cost::{Arithmetic, LOG_N, Prediction, predict, predict_memory};
use crate::keys::{KeyChooser, KeySet};
use crate::plan::{Forecast, Plan};
use crate::prefer::Prefer;
use crate::search::{Alternative, PlanError, RingContext, Special, Verdict};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use subrosa_fhe::{NoiseModel, Parameters};
use subrosa_program::{KeyRequirement, Program};

/// Bits of scales that candidates are compared at; fewer where these do not fit.
const NOMINAL_BITS: [u32; 3] = [28, 24, 20];
/// Scales of messages that are tried.
const MESSAGE_BITS: std::ops::RangeInclusive<u32> = 20..=44;
/// Most phases along an axis.
const MOST_PHASES: [u32; 4] = [1, 2, 4, 8];
/// Sizes of the large primes of swapped chains.
const SWAPPED: [u32; 3] = [50, 48, 45];
const TOLERANCES: [f64; 2] = [1.0, 8.0];
/// Candidates of a ring that are refined, the best first.
const REFINED: usize = 24;
/// Evaluations that are simulated to find the least scales of a ring's candidates.
const EVALUATED: usize = 12;
/// A candidate that is not so much better than the best is not evaluated.
const GAIN: f64 = 0.985;
/// An error that is so much too large at some scales is too large for all candidates of a ring: they differ little in that.
const TOO_LARGE: f64 = 1.5;
/// Bits by which the scale of weights may be below that of messages.
const WEIGHTS_BELOW: [u32; 3] = [2, 0, 4];
/// One kind of primes tells within this factor what a ring can do.
const ROUGHLY: f64 = 1.3;
/// A ring whose best candidate is so many times worse than the best so far is not searched, nor is any larger one.
const HOPELESS: f64 = 1.5;
/// Errors are taken to be this much larger than on the simulated samples.
const SAMPLE_MARGIN: f64 = 1.5;

/// Bits of scales that networks mostly need.
const USUAL_BITS: u32 = 26;

/// A choice of these scales and primes, for speed.
fn at(bits: u32, primes: Primes) -> Choice {
    Choice { message_bits: bits, weight_bits: bits, primes, tolerance: 1.0, per_byte: 0.0, chained: false }
}

/// What a byte of keys and weights counts as in seconds where layouts are chosen, and whether giant steps are chained.
type Thrift = (f64, bool);
/// Where time counts most.
const FAST: &[Thrift] = &[(0.0, false), (3e-10, false)];
/// Where memory counts too, or does not suffice.
const LEAN: &[Thrift] = &[(1e-10, false), (1e-9, false), (1e-7, false), (1e-10, true), (1e-9, true), (1e-7, true)];

/// A candidate at nominal scales.
struct Priced {
    geometry: Arc<Geometry>,
    choice: Choice,
    prediction: Prediction,
    rank: f64,
}

/// A candidate with everything.
struct Candidate {
    draft: Draft,
    error: f64,
    prediction: Prediction,
    log_n: u32,
    name: String,
}

/// Finds the program that is secure, precise enough, small enough if a limit is given, and best in what is preferred.
///
/// # Errors
/// Circuits that cannot be planned, see [`WholeError`].
pub fn plan_whole(request: &WholeRequest<'_>) -> Result<Plan, PlanError> {
    let task = WholeTask::new(request)?;
    if let Some(planned) = plan_single(&task) {
        return planned;
    }
    task.check_input()?;
    let mut search = Search { task: &task, best: None, smallest: None, reached: None, alternatives: Vec::new() };
    for log_n in LOG_N {
        if let Some(ring) = RingContext::new(log_n, request.security)
            && !search.ring(ring)
        {
            break;
        }
    }
    search.finish()
}

/// The state of the search.
struct Search<'a> {
    task: &'a WholeTask<'a>,
    best: Option<Candidate>,
    /// Of what does not fit into the memory, the least, with its layers.
    smallest: Option<Smallest>,
    /// The least error that was possible where it is too large.
    reached: Option<f64>,
    alternatives: Vec<Alternative>,
}

/// The keys and weights of a candidate: bytes, and what remains of them from each layer on.
struct Smallest {
    bytes: u64,
    from: Vec<(String, u64)>,
}

/// Why a candidate is not the best.
enum Lost {
    /// Its primes do not fit under the security table.
    Modulus,
    /// It needs more memory than is permitted.
    Memory,
    /// It would be precise enough at scales at which it is worse than another.
    Slower,
    /// At no scales it is precise enough; the least error.
    Error(f64),
}

/// What is known of a ring's scales.
#[derive(Default)]
struct Seen {
    evaluations: usize,
    /// Errors that are far too large, by the scales of messages and weights, and the noise of keys.
    too_large: BTreeMap<(u32, u32, u64), f64>,
}

impl Search<'_> {
    fn rank(&self, prediction: &Prediction) -> f64 {
        self.task.request.prefer.rank(prediction)
    }

    fn best_rank(&self) -> f64 {
        let needed = self.task.request.below.unwrap_or(f64::INFINITY);
        self.best.as_ref().map_or(needed, |b| self.rank(&b.prediction))
    }

    fn fits(&self, prediction: &Prediction) -> bool {
        self.task.request.memory_limit.is_none_or(|limit| prediction.memory.bytes() <= limit)
    }

    /// Searches one ring; says whether larger ones are worth a look.
    fn ring(&mut self, mut ring: RingContext) -> bool {
        let log_n = ring.log_n;
        let refused = |verdict, error| Alternative {
            log_n,
            layout: None,
            seconds: None,
            max_abs_error: error,
            bytes: None,
            verdict,
        };
        let geometries = self.geometries(&ring);
        // Cheaply, whether anything can fit: the thriftiest of each geometry at the least scales.
        if let Some(limit) = self.task.request.memory_limit {
            let least = |g: &Arc<Geometry>, bits: u32| {
                let all =
                    SWAPPED.map(|primes| Choice { per_byte: 1e-7, chained: true, ..at(bits, Primes::Swapped(primes)) });
                let priced = all.into_iter().filter_map(|choice| self.price_one(&mut ring.clone(), &choice, g));
                priced.min_by_key(|p| p.prediction.memory.bytes())
            };
            let all = |bits: u32| {
                let priced: Vec<Priced> = geometries.par_iter().filter_map(|g| least(g, bits)).collect();
                priced.into_iter().min_by_key(|p| p.prediction.memory.bytes())
            };
            if let Some(smallest) = all(*MESSAGE_BITS.start())
                && smallest.prediction.memory.bytes() > limit
            {
                let usual = all(USUAL_BITS).unwrap_or(smallest);
                self.note_smallest(&mut ring, &usual.choice, &usual.geometry);
                self.alternatives.push(usual.alternative(log_n, Verdict::Memory));
                return true;
            }
        }
        let roughly = |g: &Arc<Geometry>| self.price_one(&mut ring.clone(), &at(USUAL_BITS, Primes::Swapped(50)), g);
        if self.best.is_some() {
            let rough: Vec<Priced> = geometries.par_iter().filter_map(roughly).collect();
            if let Some(least) = rough.into_iter().min_by(|a, b| a.rank.total_cmp(&b.rank))
                && least.rank > ROUGHLY * HOPELESS * self.best_rank()
            {
                self.alternatives.push(least.alternative(log_n, Verdict::Slower));
                return false;
            }
        }
        let mut priced = self.price(&ring, &geometries);
        priced.sort_by(|a, b| a.rank.total_cmp(&b.rank));
        // The same programs in other ways.
        priced.dedup_by(|a, b| a.prediction == b.prediction);
        let Some(first) = priced.first() else {
            self.alternatives.push(refused(Verdict::Modulus, None));
            return true;
        };
        if first.rank > HOPELESS * self.best_rank() {
            self.alternatives.push(first.alternative(log_n, Verdict::Slower));
            return false;
        }
        // Fewer bits than nominal may suffice: what does not fit at the least scales never fits.
        let (mut tried, mut seen) = (0, Seen::default());
        for candidate in &priced {
            let least =
                Choice { message_bits: *MESSAGE_BITS.start(), weight_bits: *MESSAGE_BITS.start(), ..candidate.choice };
            let fits = self.fits(&candidate.prediction)
                || self.price_one(&mut ring, &least, &candidate.geometry).is_some_and(|p| self.fits(&p.prediction));
            if !fits {
                continue;
            }
            tried += 1;
            match self.refine(&mut ring, candidate, &mut seen) {
                Ok(found) => {
                    self.alternatives.extend(self.best.take().map(|b| b.alternative(Verdict::Slower)));
                    self.best = Some(found);
                }
                Err(Lost::Modulus) => self.alternatives.push(refused(Verdict::Modulus, None)),
                Err(Lost::Memory) => self.alternatives.push(candidate.alternative(log_n, Verdict::Memory)),
                Err(Lost::Slower) => self.alternatives.push(candidate.alternative(log_n, Verdict::Slower)),
                Err(Lost::Error(error)) => {
                    self.reached = Some(self.reached.map_or(error, |r| r.min(error)));
                    self.alternatives.push(refused(Verdict::Error, Some(error)));
                }
            }
            if tried == REFINED || seen.evaluations >= EVALUATED {
                break;
            }
        }
        if tried == 0
            && let Some(smallest) = priced.iter().min_by_key(|p| p.prediction.memory.bytes())
        {
            self.note_smallest(&mut ring, &smallest.choice, &smallest.geometry);
            self.alternatives.push(smallest.alternative(log_n, Verdict::Memory));
        }
        true
    }

    fn finish(self) -> Result<Plan, PlanError> {
        let request = self.task.request;
        let Some(best) = self.best else {
            return Err(match (request.memory_limit, self.smallest, self.reached) {
                _ if request.below.is_some() => WholeError::NotBetter,
                (Some(limit), Some(Smallest { bytes, from }), _) => {
                    let nearest = from.into_iter().find(|(_, bytes)| *bytes <= limit);
                    WholeError::Memory { limit, smallest: bytes, nearest: Nearest(nearest) }
                }
                (_, _, Some(reached)) => WholeError::Precision { reached, wanted: request.max_error },
                _ => WholeError::DoesNotFit {
                    security: request.security.bits(),
                    stages: self.task.stages.len(),
                    products: drops(self.task),
                },
            }
            .into());
        };
        let mut alternatives = self.alternatives;
        alternatives.push(best.alternative(Verdict::Taken));
        alternatives.sort_by_key(|a| a.log_n);
        best.finish(self.task, alternatives)
    }

    /// The layouts that a network can have in a ring; none if its rescales alone do not fit.
    fn geometries(&self, ring: &RingContext) -> Vec<Arc<Geometry>> {
        let (task, slots) = (self.task, ring.slots());
        let least = at(*MESSAGE_BITS.start(), Primes::Swapped(50));
        let ladder = Ladder::new(task, &least, ring.log_n, slots);
        let mut geometries: Vec<Arc<Geometry>> = Vec::new();
        if ladder.is_none_or(|l| f64::from(l.bits.iter().sum::<u32>()) > ring.bound) {
            return geometries;
        }
        for most_phases in MOST_PHASES {
            for single in [true, false] {
                let places = &task.request.circuit.input_places;
                let made = Geometry::new(&task.stages, places, &task.facts, slots, most_phases, single);
                geometries.extend(made.filter(|g| !geometries.iter().any(|known| known.is_like(g))).map(Arc::new));
            }
        }
        geometries
    }

    /// Prices the geometries of a ring at nominal scales, the weights only counted.
    fn price(&self, ring: &RingContext, geometries: &[Arc<Geometry>]) -> Vec<Priced> {
        let task = self.task;
        // Until something fits: the lean ones take longer.
        let turns: &[&[Thrift]] = match (task.request.prefer, task.request.memory_limit) {
            (Prefer::Speed, None) => &[FAST],
            _ => &[FAST, LEAN],
        };
        let mut out: Vec<Priced> = Vec::new();
        for turn in turns {
            let price = |(geometry, primes): (&Arc<Geometry>, Primes)| -> Vec<Priced> {
                let mut ring = ring.clone();
                let mut priced = Vec::new();
                for tolerance in TOLERANCES {
                    for &(per_byte, chained) in *turn {
                        let nominal = |bits: u32| Choice { tolerance, per_byte, chained, ..at(bits, primes) };
                        let mut one = NOMINAL_BITS.into_iter().map(nominal);
                        priced.extend(one.find_map(|choice| self.price_one(&mut ring, &choice, geometry)));
                    }
                }
                priced
            };
            let prefix = Special::ALL.into_iter().map(Primes::Prefix);
            let kinds: Vec<Primes> = SWAPPED.into_iter().map(Primes::Swapped).chain(prefix).collect();
            let all: Vec<(&Arc<Geometry>, Primes)> =
                geometries.iter().flat_map(|g| kinds.iter().map(move |k| (g, *k))).collect();
            out.par_extend(all.into_par_iter().flat_map_iter(price));
            if task.request.prefer == Prefer::Speed && out.iter().any(|p| self.fits(&p.prediction)) {
                break;
            }
        }
        out
    }

    fn price_one(&self, ring: &mut RingContext, choice: &Choice, geometry: &Arc<Geometry>) -> Option<Priced> {
        let (_, prediction) = sketch(self.task, ring, choice, geometry, false)?;
        let rank = self.rank(&prediction);
        Some(Priced { geometry: Arc::clone(geometry), choice: *choice, prediction, rank })
    }

    /// Remembers a candidate that does not fit into the memory, if it is the smallest.
    fn note_smallest(&mut self, ring: &mut RingContext, choice: &Choice, geometry: &Geometry) {
        let Some((draft, prediction)) = sketch(self.task, ring, choice, geometry, false) else { return };
        let bytes = prediction.memory.bytes();
        if self.smallest.as_ref().is_none_or(|s| bytes < s.bytes) {
            self.smallest = Some(Smallest { bytes, from: remaining(self.task, &draft) });
        }
    }

    /// The candidate at the least scales that are precise enough, if it is better than the best.
    fn refine(&mut self, ring: &mut RingContext, priced: &Priced, seen: &mut Seen) -> Result<Candidate, Lost> {
        let mut best: Option<Candidate> = None;
        let mut lost = Lost::Modulus;
        let mut start = priced.choice.message_bits;
        for below in WEIGHTS_BELOW {
            let at = |bits: u32| Choice { message_bits: bits, weight_bits: bits - below, ..priced.choice };
            let bound = best.as_ref().map_or(self.best_rank(), |b| self.rank(&b.prediction)) * GAIN;
            // Bits at which it is not worth a look, since it is too large or no better; more bits only make it worse.
            let mut too_many = MESSAGE_BITS.end() + 1;
            let mut known: BTreeMap<u32, bool> = BTreeMap::new();
            let mut bits = start;
            while MESSAGE_BITS.contains(&bits) && !known.contains_key(&bits) {
                if bits >= too_many {
                    bits = too_many - 1;
                    continue;
                }
                let counted = self.price_one(ring, &at(bits), &priced.geometry);
                let worth = counted.as_ref().is_some_and(|p| self.fits(&p.prediction) && p.rank < bound);
                if !worth {
                    lost = match counted {
                        None => lost,
                        Some(p) if !self.fits(&p.prediction) => Lost::Memory,
                        Some(_) => Lost::Slower,
                    };
                    too_many = bits;
                    bits -= 1;
                    continue;
                }
                let scales = (bits, below, priced.choice.tolerance.to_bits());
                let (made, error) = match seen.too_large.get(&scales) {
                    Some(error) => (None, *error),
                    None => {
                        seen.evaluations += 1;
                        let made = sketch(self.task, ring, &at(bits), &priced.geometry, true);
                        let Some(error) = made.as_ref().and_then(|(draft, _)| forecast(self.task, draft)) else {
                            break;
                        };
                        (made, error)
                    }
                };
                if error > TOO_LARGE * self.task.request.max_error {
                    seen.too_large.insert(scales, error);
                }
                let enough = error <= self.task.request.max_error;
                known.insert(bits, enough);
                // Every bit of scale halves the error.
                let missing = (error / self.task.request.max_error).log2();
                if let (true, Some((draft, prediction))) = (enough, made) {
                    let name = priced.geometry.name.clone();
                    let found = Candidate { draft, error, prediction, log_n: ring.log_n, name };
                    if self.fits(&found.prediction)
                        && self.rank(&found.prediction) < bound
                        && best.as_ref().is_none_or(|b| self.rank(&found.prediction) < self.rank(&b.prediction))
                    {
                        (best, start) = (Some(found), bits);
                    }
                    bits -= ((-missing).floor() as u32).clamp(1, 4);
                } else {
                    let wanted = bits + (missing.ceil() as u32).clamp(1, 8);
                    if too_many <= bits + 1 {
                        // So many bits would be precise enough, but they do not fit.
                        if matches!(lost, Lost::Memory) {
                            self.note_smallest(ring, &at(wanted.min(*MESSAGE_BITS.end())), &priced.geometry);
                        } else if matches!(lost, Lost::Modulus) {
                            lost = Lost::Error(error);
                        }
                        break;
                    }
                    bits = wanted;
                }
            }
        }
        best.ok_or(lost)
    }
}

/// What keys and weights take if the network is only protected from each of its layers on, the second first.
fn remaining(task: &WholeTask<'_>, draft: &Draft) -> Vec<(String, u64)> {
    let predicted = |first: usize| -> u64 {
        let named = |name: &str| {
            let of = |s: &Stage| name.ends_with(&format!("'{}'", s.name));
            task.stages.iter().position(of).is_some_and(|at| at >= first)
        };
        let mut program = draft.program.clone();
        program.constants.retain(|g| named(&g.name));
        let top = program.constants.iter().map(|g| g.level).max().unwrap_or(1);
        program.keys.retain(|k| k.shape.level <= top);
        program.input.level = top;
        predict_memory(&program, task.request.costs).bytes()
    };
    (1..task.stages.len()).filter_map(|i| Some((task.stages.get(i)?.name.clone(), predicted(i)))).collect()
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

/// A bound on the error of an output, from simulated evaluations.
fn forecast(task: &WholeTask<'_>, draft: &Draft) -> Option<f64> {
    let constants: Vec<_> = draft.constants.iter().collect();
    let samples: Vec<(&Vec<f64>, &Vec<f64>)> = task.request.samples.iter().zip(&task.outputs).collect();
    let error_of = |(seed, (sample, expected)): (usize, &(&Vec<f64>, &Vec<f64>))| -> Option<f64> {
        let noisy = simulate(&draft.program, &constants, sample, Some(seed as u64)).ok()?;
        let squares: f64 = noisy.outputs.iter().zip(*expected).map(|(a, b)| (a - b) * (a - b)).sum();
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
    fn alternative(&self, log_n: u32, verdict: Verdict) -> Alternative {
        Alternative {
            log_n,
            layout: Some(self.geometry.name.clone()),
            seconds: Some(self.prediction.seconds()),
            max_abs_error: None,
            bytes: Some(self.prediction.memory.bytes()),
            verdict,
        }
    }
}

impl Candidate {
    fn alternative(&self, verdict: Verdict) -> Alternative {
        Alternative {
            log_n: self.log_n,
            layout: Some(self.name.clone()),
            seconds: Some(self.prediction.seconds()),
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
