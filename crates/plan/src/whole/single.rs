//! A network that is one linear map: planned as one dense layer, whose inner products need no rotations and no keys.

use super::{Nearest, WholeError, WholeTask};
use crate::plan::Plan;
use crate::search::{PlanError, PlanRequest, plan};
use subrosa_network::{Activation, Chain, Dense, Source};

/// An encrypted weight takes at least so many bytes: two residues, each of a prime of more than 24 bits.
const LEAST_BYTES: u64 = 8;

/// The plan of a network of one linear map of the features, with encrypted weights; `None` for any other.
pub(super) fn plan_single(task: &WholeTask<'_>) -> Option<Result<Plan, PlanError>> {
    let request = task.request;
    match task.stages.as_slice() {
        [only] if !request.plain_weights && only.terms.iter().all(|(source, _)| *source == Source::Input) => {}
        _ => return None,
    }
    Some(dense(task).and_then(|layer| {
        let plan = plan(&PlanRequest {
            chain: &Chain { layers: vec![layer] },
            input: request.input,
            samples: if request.calibrated { request.samples } else { &[] },
            encrypted_input: request.encrypted_input,
            security: request.security,
            max_error: request.max_error,
            memory_limit: request.memory_limit,
            prefer: request.prefer,
            costs: request.costs,
            kernel: request.kernel,
        })?;
        let is_better = request.below.is_none_or(|below| request.prefer.rank(&plan.prediction) < below);
        if is_better { Ok(plan) } else { Err(WholeError::NotBetter.into()) }
    }))
}

/// The matrix with all its zeros, if the edge may have the memory for it.
fn dense(task: &WholeTask<'_>) -> Result<Dense, PlanError> {
    let only = task.stages.first().ok_or(PlanError::Empty)?;
    let (rows, cols) = (only.size(), task.request.circuit.inputs());
    let smallest = LEAST_BYTES * rows as u64 * cols as u64;
    if let Some(limit) = task.request.memory_limit.filter(|&limit| smallest > limit) {
        return Err(WholeError::Memory { limit, smallest, nearest: Nearest(None) }.into());
    }
    let mut weights = vec![0.0; rows * cols];
    for (row, dense) in weights.chunks_mut(cols.max(1)).enumerate() {
        for (column, weight) in only.terms.iter().flat_map(|(_, matrix)| matrix.row(row)) {
            if let Some(place) = dense.get_mut(column as usize) {
                *place += weight;
            }
        }
    }
    let (name, bias) = (only.name.clone(), only.bias.clone());
    Ok(Dense { name, rows, cols, weights, bias, activation: Activation::Identity })
}
