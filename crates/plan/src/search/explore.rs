//! The search through rings and choices.

use super::Task;
use super::candidate::{Alternative, Candidate, Choice, RingContext, Special, Verdict};
use crate::layouts::Layer;
use crate::prefer::Prefer;
use crate::slots;

/// log2 of the scale of messages, or of the part of a single layer's error: what is tried.
const PRECISION: std::ops::RangeInclusive<u32> = 16..=46;
/// How much more noise than is there anyway a key switch may bring.
const TOLERANCES: [f64; 2] = [1.0, 8.0];
/// Precisions above the first that are tried with coarser keys and primes of whole bytes.
const PRECISION_STEPS: u32 = 3;
/// A ring whose first candidate is so many times worse than the best is not searched further.
const HOPELESS: f64 = 1.6;
/// Neither is any larger one if it is so many times worse.
const FAR: f64 = 4.0;
/// What a byte of memory counts as in seconds, in turn, until the memory suffices.
const PER_BYTE: [f64; 6] = [1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-3];

/// The state of the search.
pub(super) struct Search<'a> {
    task: &'a Task<'a>,
    /// The best so far, and its ring.
    pub best: Option<(Candidate, RingContext)>,
    /// The least memory of a candidate that is precise enough.
    pub smallest: Option<u64>,
    pub alternatives: Vec<Alternative>,
}

impl<'a> Search<'a> {
    pub fn new(task: &'a Task<'a>) -> Self {
        Self { task, best: None, smallest: None, alternatives: Vec::new() }
    }

    /// Searches one ring; says whether larger ones are worth a look.
    pub fn ring(&mut self, mut ring: RingContext) -> bool {
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
        let prefer = self.task.request.prefer;
        let best_rank = self.best.as_ref().map_or(f64::INFINITY, |(b, _)| b.rank(prefer));
        let first_rank = first.rank(prefer);
        let limit = self.task.request.memory_limit;
        let mut found = Found { limit, prefer, best: None, smallest: self.smallest };
        let start = first.choice.clone();
        found.offer(first);
        if first_rank < HOPELESS * best_rank && self.task.stages.len() > 1 {
            self.refine(&mut ring, &start, &mut found);
        }
        let Found { best, smallest, .. } = found;
        self.smallest = smallest;
        match best {
            None => self.alternatives.push(refused(None, None, Verdict::Memory)),
            Some(candidate) => {
                let error = Some(candidate.draft.max_abs_error);
                self.alternatives.push(candidate.alternative(error, Verdict::Slower));
                if candidate.rank(prefer) < best_rank {
                    self.best = Some((candidate, ring));
                }
            }
        }
        first_rank < FAR * best_rank
    }

    /// A first candidate of a ring: sound layouts, the least precision that suffices. Else the least error that was possible, if
    /// anything fitted.
    fn first(&self, ring: &mut RingContext) -> Result<Candidate, Option<f64>> {
        let layers =
            if self.task.stages.len() > 1 { slots::first_layers(self.task, ring).ok_or(None)? } else { Vec::new() };
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
        let fitting: Vec<u32> = PRECISION.filter(|&p| Candidate::sketch(self.task, ring, &at(p)).is_some()).collect();
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

    /// Tries coarser keys, other special primes, primes of whole bytes, and, if the memory does not suffice, smaller layouts; then
    /// other numbers of giant steps, since only a whole program shows what fits the cache.
    fn refine(&self, ring: &mut RingContext, start: &Choice, found: &mut Found) {
        for per_byte in [0.0].into_iter().chain(PER_BYTE) {
            if per_byte > 0.0 && found.prefer == Prefer::Speed && (found.limit.is_none() || found.best.is_some()) {
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
        if let Some(choice) = found.best.as_ref().map(|b| b.choice.clone()) {
            for layers in giant_splits(self.task, ring, &choice) {
                self.climb(ring, Choice { layers, ..choice.clone() }, found);
            }
        }
    }

    /// Offers the least precision from about that of `choice` on that suffices.
    fn climb(&self, ring: &mut RingContext, choice: Choice, found: &mut Found) {
        for precision in choice.precision.saturating_sub(1)..=choice.precision + PRECISION_STEPS {
            let Some(mut candidate) = Candidate::sketch(self.task, ring, &Choice { precision, ..choice.clone() })
            else {
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
    prefer: Prefer,
    best: Option<Candidate>,
    smallest: Option<u64>,
}

impl Found {
    /// Whether a candidate would be the best within the memory, or the smallest at all, if it were precise enough.
    fn is_wanted(&self, candidate: &Candidate) -> bool {
        let bytes = candidate.bytes();
        if self.limit.is_some_and(|limit| bytes > limit) {
            return self.smallest.is_none_or(|s| bytes < s);
        }
        self.best.as_ref().is_none_or(|b| candidate.rank(self.prefer) < b.rank(self.prefer))
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

/// The layouts of least time with each other number of giant steps of the first layer.
fn giant_splits(task: &Task<'_>, ring: &mut RingContext, choice: &Choice) -> Vec<Vec<Layer>> {
    let Some(first) = choice.layers.first().filter(|_| task.request.encrypted_input) else { return Vec::new() };
    let others = (0..ring.log_n).map(|i| 1usize << i).filter(|&g| g != first.layout.giants);
    others.map_while(|giants| slots::cheapest_layers(task, ring, choice, Some(giants))).collect()
}

/// The best of the chosen ring with other numbers of giant steps.
pub(super) fn splits(task: &Task<'_>, ring: &mut RingContext, best: &Candidate) -> Vec<Alternative> {
    let mut out = Vec::new();
    for layers in giant_splits(task, ring, &best.choice) {
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
