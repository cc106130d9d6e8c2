//! What the encrypted constants of a program of integers hold.

use super::network::{IntegerNetwork, IntegerStage};
use crate::plan::{ConstantKind, Plan};
use crate::search::PlanError;
use subrosa_fhe::{FheError, IntegerEncoder, Modulus, Parameters, Plaintext};
use subrosa_program::Packed;

impl Plan {
    /// The integer network that is encrypted; none in CKKS.
    pub fn integer_network(&self) -> Option<&IntegerNetwork> {
        self.exact.as_ref()
    }

    /// The plaintext that constant `index` of group `group` encrypts modulo the plaintext modulus of `parameters`, at this scale. Errors: an
    /// unknown constant, or a plan of CKKS.
    pub fn integer_constant(
        &self,
        (encoder, parameters): (&IntegerEncoder, &Parameters),
        scale: f64,
        group: usize,
        index: usize,
    ) -> Result<Plaintext, PlanError> {
        let (Some(kind), Some(spec), Some(network), Some(plain)) =
            (self.kinds.get(group), self.program.constants.get(group), &self.exact, parameters.plain())
        else {
            return Err(PlanError::Empty);
        };
        let (t, level) = (plain.modulus(), spec.level);
        let stage_of = |i: usize| network.stages.get(i).ok_or(PlanError::Empty);
        let plaintext = match kind {
            ConstantKind::Diagonals { stage, layout } => {
                let stage = stage_of(*stage)?;
                let (giant, tile, baby) = layout.place(index);
                let slots = layout.weight_slots(giant, tile, baby, &|r, c| stage.modulo(t, r, c));
                encoder.encode(&layout.rows_of(&slots, Packed::Weight), scale, level)?
            }
            ConstantKind::SlotBias { stage, layout } => {
                let row = layout.replicate(&stage_of(*stage)?.biases(t, 1));
                encoder.encode(&both_rows(&row), scale, level)?
            }
            ConstantKind::Dot { stage, layout } => {
                let stage = stage_of(*stage)?;
                let (output, chunk) = (index / layout.chunks(), index % layout.chunks());
                let coefficients = layout.weight_coefficients(output, chunk, &|r, c| stage.modulo(t, r, c));
                encoder.encode_coefficients(&whole(&coefficients), scale, level)?
            }
            ConstantKind::DotBias { stage, layout } => {
                let biases = stage_of(*stage)?.biases(t, 1);
                let coefficients = crate::plan::at_positions(layout.n, &biases, index, |r| layout.position(r));
                encoder.encode_coefficients(&whole(&coefficients), scale, level)?
            }
            ConstantKind::Rows { stage, layout } => {
                let stage = stage_of(*stage)?;
                let embed = |slots: &[f64]| -> Result<Vec<f64>, FheError> {
                    let coefficients = encoder.slots_to_coefficients(&both_rows(slots))?;
                    Ok(coefficients.into_iter().map(|c| c as f64).collect())
                };
                let coefficients = layout.weight_coefficients(index, &|r, c| stage.modulo(t, r, c), embed)?;
                // Two rows meet in one coefficient.
                let centered: Vec<i64> = whole(&coefficients).into_iter().map(|c| t.center(t.from_i64(c))).collect();
                encoder.encode_coefficients(&centered, scale, level)?
            }
            ConstantKind::RowsBias { stage, layout } => {
                // Outputs are read times the period.
                let share = t.inv(t.reduce(layout.period as u64)).ok_or(PlanError::Empty)?;
                let biases = stage_of(*stage)?.biases(t, share);
                let coefficients = crate::plan::at_positions(layout.n, &biases, index, |r| layout.position(r));
                encoder.encode_coefficients(&whole(&coefficients), scale, level)?
            }
            ConstantKind::Circuit(_) => return Err(PlanError::Empty),
        };
        Ok(plaintext)
    }
}

impl IntegerStage {
    /// A weight modulo t, in (-t/2, t/2): below 2^49, so an f64 holds it and its half.
    fn modulo(&self, t: &Modulus, row: usize, col: usize) -> f64 {
        let weight = self.weights.get(row * self.cols + col).copied().unwrap_or(0);
        t.center(t.from_i64(weight)) as f64
    }

    /// The biases times `factor` modulo t, in (-t/2, t/2).
    fn biases(&self, t: &Modulus, factor: u64) -> Vec<f64> {
        self.bias.iter().map(|&b| t.center(t.mul(t.from_i128(b), factor)) as f64).collect()
    }
}

/// The same in both rows.
fn both_rows(row: &[f64]) -> Vec<i64> {
    row.iter().chain(row).map(|&x| x as i64).collect()
}

fn whole(values: &[f64]) -> Vec<i64> {
    values.iter().map(|&x| x as i64).collect()
}
