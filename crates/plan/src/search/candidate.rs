//! Candidates: what the search decides, the program that follows, and what is said about it.

use super::Task;
use crate::cost::{Prediction, predict};
use crate::forecast::Deviations;
use crate::keys::Shapes;
use crate::layouts::Layer;
use crate::plan::Draft;
use crate::prefer::Prefer;
use crate::primes::{MAX_PRIME_BITS, PrimePool, min_prime_bits};
use crate::{single, slots};
use serde::Serialize;
use std::fmt;
use subrosa_fhe::security::{SecurityLevel, max_log_qp};
use subrosa_program::{InputLayout, Step};

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
    /// Another is better in what is preferred: with speed, it takes less time.
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

/// A ring that is tried.
#[derive(Clone)]
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
    /// So many bits larger than the largest limb: the more, the less noise key switching adds.
    Larger(u32),
    /// Whole bytes, as large as the largest limb.
    WholeBytes,
    /// So that this many fit under the table beside all limbs.
    Fitting(u32),
}

impl Special {
    pub const ALL: [Self; 5] = [Self::Larger(4), Self::Larger(2), Self::WholeBytes, Self::Fitting(1), Self::Fitting(2)];

    /// The size for limbs of these sizes; `None` where it makes no sense.
    pub fn bits(self, limbs: &[u32], ring: &RingContext) -> Option<u32> {
        let largest = limbs.iter().copied().max()?;
        match self {
            Self::Larger(by) => Some((largest + by).min(MAX_PRIME_BITS)),
            Self::WholeBytes => Some(largest.next_multiple_of(8)).filter(|&b| b <= MAX_PRIME_BITS),
            Self::Fitting(count) => {
                let room = ring.bound - f64::from(limbs.iter().sum::<u32>());
                let bits = ((room / f64::from(count)).max(0.0) as u32).min(MAX_PRIME_BITS);
                Some(bits).filter(|&b| b >= min_prime_bits(ring.log_n).max(largest.saturating_sub(16)))
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
    pub choice: Choice,
    pub shapes: Shapes,
    pub draft: Draft,
    pub prediction: Prediction,
}

impl Candidate {
    /// Drafts the program and its keys, without the error (but for a single layer); `None` if it does not fit.
    pub fn sketch(task: &Task<'_>, ring: &mut RingContext, choice: &Choice) -> Option<Self> {
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
    pub fn forecast(&mut self, task: &Task<'_>, ring: &mut RingContext) -> Option<f64> {
        if task.stages.len() > 1 {
            self.draft.max_abs_error = slots::draft(task, ring, &self.choice, Some(&self.shapes))?.max_abs_error;
        }
        Some(self.draft.max_abs_error)
    }

    /// What is to be small.
    pub fn rank(&self, prefer: Prefer) -> f64 {
        prefer.rank(&self.prediction)
    }

    pub fn bytes(&self) -> u64 {
        self.prediction.memory.bytes()
    }

    pub fn alternative(&self, error: Option<f64>, verdict: Verdict) -> Alternative {
        Alternative {
            log_n: self.draft.program.parameters.log_n,
            layout: Some(layout(self)),
            seconds: Some(self.prediction.seconds()),
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
