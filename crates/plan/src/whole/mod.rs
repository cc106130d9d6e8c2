//! Whole networks: every linear map of a circuit between its activations, encrypted in the slots.
//!
//! A candidate is a ring, a geometry (how the values of each layer stand in the slots) and scales. The geometries of all rings are
//! priced first; then, from the cheapest on, the least scales are searched whose errors, simulated slot by slot on calibration data,
//! are small enough.

mod draft;
mod geometry;
mod ladder;
mod layout;
mod linear;
mod map;
mod polynomial;
mod search;
mod simulate;
mod single;
mod stages;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use map::Entry;
pub use search::plan_whole;
pub use simulate::{SimulateError, Simulation, StepError};
pub(crate) use simulate::{simulate, step_errors};
pub(crate) use task::WholeTask;

use crate::chain::InputRange;
use crate::cost::CostModel;
use crate::plan::at_positions;
use crate::prefer::Prefer;
use crate::search::{PlanError, Special};
use std::fmt;
use std::sync::Arc;
use subrosa_fhe::security::SecurityLevel;
use subrosa_fhe::{Complex64, Encoder, Kernel, Plaintext};
use subrosa_network::Circuit;
use subrosa_program::layout::CoefficientRows;

/// What is to be planned.
pub struct WholeRequest<'a> {
    /// The protected layers.
    pub circuit: &'a Circuit,
    /// Range of the input that the edge accepts.
    pub input: InputRange,
    /// Inputs of calibration data, or synthetic ones; at least one.
    pub samples: &'a [Vec<f64>],
    /// Whether the samples are real: then outputs are taken to stay near those of the samples.
    pub calibrated: bool,
    /// Whether the edge encrypts the input.
    pub encrypted_input: bool,
    /// Whether the weights are encoded only, not encrypted; needs an encrypted input.
    pub plain_weights: bool,
    /// Level of security.
    pub security: SecurityLevel,
    /// Largest absolute error wanted on an output, in the outputs' units.
    pub max_error: f64,
    /// Most bytes of keys and weights that the edge may keep in memory.
    pub memory_limit: Option<u64>,
    /// What the plan is to be best in.
    pub prefer: Prefer,
    /// The rank in that ([`Prefer::rank`]) that the plan must be better than, to be of use; the search ends soon where none is.
    pub below: Option<f64>,
    /// What the engine's work costs on the edge.
    pub costs: &'a CostModel,
    /// Kernel for the last check of the parameters.
    pub kernel: Kernel,
}

/// What in a circuit cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum WholeError {
    /// No plan is better than one that there is already.
    #[error("no plan is better than the one that there is")]
    NotBetter,
    /// A circuit that contradicts itself.
    #[error("the network's layers do not fit together: {0}")]
    Malformed(&'static str),
    /// A weight that is not a number, or becomes none.
    #[error(
        "layer '{layer}' has a weight or bias that is not finite once everything is folded into it: check the network"
    )]
    NotFinite {
        /// Its name.
        layer: String,
    },
    /// An activation that is no polynomial.
    #[error(
        "layer '{layer}' is followed by {function}, which cannot be computed on encrypted values: give a polynomial for it \
         (--activation '{function}=chebyshev:7' with --calibrate, or '{function}=x2+2x'), or adapt the network with `subrosa train --from`"
    )]
    Function {
        /// The layer before it.
        layer: String,
        /// Its name.
        function: String,
    },
    /// Features in the clear that enter in several places.
    #[error(
        "the features enter this network in several places ({layers}), and features that are not encrypted may enter in one only: \
         encrypt them (--input encrypted), or protect fewer layers (--scope classifier or from:LAYER)"
    )]
    PlainInput {
        /// The layers that read them.
        layers: String,
    },
    /// A quadratic activation with a channel without square.
    #[error(
        "the activation behind layer '{layer}' is quadratic, but linear in channel {channel}: train it with a coefficient of x^2 away from \
         zero, as `subrosa train` does"
    )]
    LinearChannel {
        /// The layer before it.
        layer: String,
        /// The channel.
        channel: u32,
    },
    /// Different polynomials of degree three or more.
    #[error(
        "the activation behind layer '{layer}' has several polynomials of degree 3 or more: use one for all its channels"
    )]
    MixedDegrees {
        /// The layer before it.
        layer: String,
    },
    /// A shape for which there is no layout.
    #[error("{0}")]
    Unsupported(String),
    /// Nothing under the security table.
    #[error(
        "no secure parameters up to ring degree 2^16 fit this network at {security} bits of security ({stages} linear maps, {products} levels): \
         protect fewer layers (--scope classifier or from:LAYER), or use activations of lower degree"
    )]
    DoesNotFit {
        /// The level asked for.
        security: u32,
        /// Linear maps.
        stages: usize,
        /// Rescales that it needs.
        products: usize,
    },
    /// Too large for the edge.
    #[error(
        "the keys and weights of this network take about {} of the edge's memory or more, {} are permitted: permit more \
         (--memory-limit){nearest}",
        amount(*.smallest), amount(*.limit)
    )]
    Memory {
        /// The limit.
        limit: u64,
        /// The least that was found.
        smallest: u64,
        /// What would fit.
        nearest: Nearest,
    },
    /// Not precise enough.
    #[error(
        "the best secure parameters leave an error of about {reached:.2e} on outputs, {wanted:.2e} are wanted: the network loses too much \
         precision on the way (activations far from their range, or too many layers)"
    )]
    Precision {
        /// The least error that was found.
        reached: f64,
        /// The error that was wanted.
        wanted: f64,
    },
}

/// The largest part of a network that would fit into the memory: from which layer on, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest(Option<(String, u64)>);

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((layer, bytes)) => {
                write!(f, ", or protect fewer layers: --scope 'from:{layer}' takes about {}", amount(*bytes))
            }
            None => f.write_str(", or protect the last layers only (--scope classifier or last)"),
        }
    }
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    match bytes as f64 {
        few if few < 1e6 => format!("{few} bytes"),
        some if some < 1e9 => format!("{:.0} MB", some / 1e6),
        many => format!("{:.1} GB", many / 1e9),
    }
}

/// How moduli are made of primes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Primes {
    /// A prime for each rescale, and special primes of another size.
    Prefix(Special),
    /// Large primes of so many bits, and small ones that rescales swap for others.
    Swapped(u32),
}

/// Everything that the search decides besides ring and geometry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// log2 of the scale of messages.
    pub message_bits: u32,
    /// log2 of the scale of weights.
    pub weight_bits: u32,
    pub primes: Primes,
    /// Noise of key switches over what is there anyway.
    pub tolerance: f64,
    /// Seconds that a byte of memory counts as.
    pub per_byte: f64,
    /// Whether giant steps are taken one after the other with one key, instead of all at once with a key each.
    pub chained: bool,
}

/// What the constants of a group hold.
pub(crate) enum Constant {
    /// Not made, only counted.
    Counted,
    /// Numbers in slots, repeated with a period: one list for each ciphertext.
    Slots { entries: Vec<Arc<Vec<Entry>>>, period: usize },
    /// Rows of the last layer: (slot, weight) of each, for one of the vectors it reads.
    Rows { layout: CoefficientRows, rows: Vec<Vec<(u32, f64)>> },
    /// Biases of the last layer.
    RowsBias { layout: CoefficientRows, bias: Arc<Vec<f64>> },
}

impl Constant {
    /// A bound of the coefficients of the group's plaintexts, before they are scaled; 0 where they are not made.
    pub fn largest(&self) -> f64 {
        let of = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0f64, |m, v| m.max(v.abs()));
        match self {
            Self::Counted => 0.0,
            Self::Slots { entries, .. } => of(&mut entries.iter().flat_map(|e| e.iter()).map(|e| e.value)),
            Self::Rows { layout, rows } => {
                let sum = |row: &Vec<(u32, f64)>| row.iter().map(|(_, weight)| weight.abs()).sum::<f64>();
                of(&mut rows.iter().map(|row| sum(row) / layout.period as f64))
            }
            Self::RowsBias { layout, bias } => of(&mut bias.iter().map(|b| b / layout.period as f64)),
        }
    }

    /// The plaintext that number `index` of the group encrypts.
    pub fn encode(
        &self,
        encoder: &Encoder,
        log_n: u32,
        index: usize,
        scale: f64,
        level: usize,
    ) -> Result<Plaintext, PlanError> {
        let slots = 1usize << (log_n - 1);
        match self {
            Self::Counted => Err(PlanError::Empty),
            Self::Slots { entries, period } => {
                let mut values = vec![Complex64::default(); slots];
                for entry in entries.get(index).ok_or(PlanError::Empty)?.iter() {
                    let value = if entry.is_imaginary() {
                        Complex64::new(0.0, entry.value)
                    } else {
                        Complex64::new(entry.value, 0.0)
                    };
                    values.iter_mut().skip(entry.slot()).step_by(*period).for_each(|slot| *slot += value);
                }
                Ok(encoder.encode(&values, scale, level)?)
            }
            Self::Rows { layout, rows } => {
                let mut dense = vec![0.0; layout.rows * layout.cols];
                for (row, entries) in rows.iter().enumerate() {
                    for (slot, value) in entries {
                        if let Some(place) = dense.get_mut(row * layout.cols + *slot as usize) {
                            *place += value;
                        }
                    }
                }
                let weight = |row: usize, col: usize| dense.get(row * layout.cols + col).copied().unwrap_or(0.0);
                let embed = |slots: &[f64]| {
                    let slots: Vec<_> = slots.iter().map(|&x| Complex64::new(x, 0.0)).collect();
                    encoder.slots_to_coefficients(&slots)
                };
                let coefficients = layout.weight_coefficients(index, &weight, embed)?;
                Ok(encoder.encode_coefficients(&coefficients, scale, level)?)
            }
            Self::RowsBias { layout, bias } => {
                let mut coefficients = at_positions(layout.n, bias, index, |r| layout.position(r));
                coefficients.iter_mut().for_each(|c| *c /= layout.period as f64);
                Ok(encoder.encode_coefficients(&coefficients, scale, level)?)
            }
        }
    }
}
