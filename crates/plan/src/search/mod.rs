//! The public face of the planner: the request, and the search for the best program.

mod candidate;
mod explore;
#[cfg(test)]
mod tests;

pub use candidate::{Alternative, Verdict};
pub(crate) use candidate::{Choice, RingContext, Special};

use crate::chain::{InputRange, Ranges, Stage, Trace, ranges, stages, traces};
use crate::cost::{self, CostModel};
use crate::plan::{Plan, declared};
use crate::prefer::Prefer;
use explore::{Search, splits};
use std::cmp::Ordering;
use subrosa_fhe::security::SecurityLevel;
use subrosa_fhe::{FheError, Kernel};
use subrosa_network::Chain;

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
    /// What the plan is to be best in.
    pub prefer: Prefer,
    /// What the engine's work costs on the edge.
    pub costs: &'a CostModel,
    /// Kernel for the last check of the parameters.
    pub kernel: Kernel,
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
    /// Nothing is precise enough.
    #[error(
        "the best secure parameters leave an error of about {reached:.2e} on outputs, {wanted:.2e} are wanted: the values on the way are too \
         large for that. Give calibration data (--calibrate) so that their ranges are known better, or protect fewer layers (--scope last)"
    )]
    Precision {
        /// The least error that was found.
        reached: f64,
        /// The error that was wanted.
        wanted: f64,
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
    /// A chain that cannot be planned in integers.
    #[error(transparent)]
    Exact(#[from] crate::exact::ExactError),
    /// A whole network that cannot be planned.
    #[error(transparent)]
    Whole(#[from] crate::whole::WholeError),
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

/// Finds the program that is secure, precise enough, small enough if a limit is given, and best in what is preferred.
///
/// Errors: an empty chain, numbers that are not finite, no parameters up to N = 2^16 that fit, or none within the memory.
pub fn plan(request: &PlanRequest<'_>) -> Result<Plan, PlanError> {
    let task = task(request)?;
    let mut search = Search::new(&task);
    for log_n in cost::LOG_N {
        if let Some(ring) = RingContext::new(log_n, request.security)
            && !search.ring(ring)
        {
            break;
        }
    }
    let Search { best, smallest, mut alternatives, .. } = search;
    let Some((best, mut ring)) = best else {
        let reached = alternatives.iter().filter_map(|a| a.max_abs_error).fold(f64::INFINITY, f64::min);
        return Err(match (request.memory_limit, smallest) {
            (Some(limit), Some(smallest)) => PlanError::Memory { limit, smallest },
            _ if reached.is_finite() => PlanError::Precision { reached, wanted: request.max_error },
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
