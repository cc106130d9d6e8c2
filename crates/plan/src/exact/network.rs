//! The integer network: fixed point, and its plaintext evaluation, which the encrypted one must equal exactly.

use crate::chain::{Post, Stage, stages};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use subrosa_network::Chain;

/// What values are multiplied by before they are rounded to integers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FixedPoint {
    /// The features.
    pub input: f64,
    /// The weights of each layer (after folding).
    pub weights: Vec<f64>,
}

impl fmt::Display for FixedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights: Vec<String> = self.weights.iter().map(ToString::to_string).collect();
        write!(f, "input={},weights={}", self.input, weights.join("/"))
    }
}

impl FromStr for FixedPoint {
    type Err = String;

    /// As in `input=16,weights=128/64`.
    fn from_str(s: &str) -> Result<Self, String> {
        let form = || format!("'{s}' is no fixed point: write it as in input=16,weights=128/64, one factor a layer");
        let number = |s: &str| s.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0 && *x < 1e15);
        let (input, weights) = s.split_once(',').ok_or_else(form)?;
        let input = input.trim().strip_prefix("input=").and_then(number).ok_or_else(form)?;
        let weights = weights.trim().strip_prefix("weights=").ok_or_else(form)?;
        let weights: Option<Vec<f64>> = weights.split('/').map(number).collect();
        Ok(Self { input, weights: weights.ok_or_else(form)? })
    }
}

/// An integer linear map and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct IntegerStage {
    pub rows: usize,
    pub cols: usize,
    /// Row by row.
    pub weights: Vec<i64>,
    pub bias: Vec<i128>,
    /// Whether the results are squared.
    pub square: bool,
}

/// A chain of dense layers in integers, its quadratic activations brought to squares.
#[derive(Debug, Clone)]
pub struct IntegerNetwork {
    pub(crate) stages: Vec<IntegerStage>,
    fixed: FixedPoint,
    output_unit: f64,
}

/// Why a chain has no integer form.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IntegerError {
    /// An activation that is no square.
    #[error(
        "the activation after protected layer {layer} has degree {degree}: --scheme bgv takes squares, x^2+2x and other polynomials of \
         degree 2, and none; use such a one (--activation) or --scheme ckks"
    )]
    Degree {
        /// Number of the layer, from 1.
        layer: usize,
        /// Its degree.
        degree: usize,
    },
    /// A pinned fixed point for another number of layers.
    #[error(
        "the fixed point has {found} factors for weights, the network {expected} protected layers: give one for each"
    )]
    Layers {
        /// Layers.
        expected: usize,
        /// Factors.
        found: usize,
    },
    /// A weight or bias beyond 2^62 or 2^120.
    #[error("a weight or bias of layer {layer} does not fit the integers: use smaller factors (--fixed-point)")]
    Overflow {
        /// Number of the layer, from 1.
        layer: usize,
    },
}

/// The stages of a chain, if integers can follow them.
pub(crate) fn quadratic_stages(chain: &Chain) -> Result<Vec<Stage>, IntegerError> {
    let stages = stages(chain);
    for (stage, layer) in stages.iter().zip(1..) {
        if let Post::Polynomial(c) = &stage.post {
            return Err(IntegerError::Degree { layer, degree: c.len().saturating_sub(1) });
        }
    }
    Ok(stages)
}

impl IntegerNetwork {
    /// The chain's stages, rounded.
    ///
    /// # Errors
    /// Activations of degree 3 or more, another number of layers, numbers that are too large.
    pub fn new(chain: &Chain, fixed: &FixedPoint) -> Result<Self, IntegerError> {
        Self::of(&quadratic_stages(chain)?, fixed)
    }

    pub(crate) fn of(stages: &[Stage], fixed: &FixedPoint) -> Result<Self, IntegerError> {
        let (expected, found) = (stages.len(), fixed.weights.len());
        if expected != found {
            return Err(IntegerError::Layers { expected, found });
        }
        let mut unit = fixed.input;
        let mut out = Vec::with_capacity(stages.len());
        for ((stage, factor), layer) in stages.iter().zip(&fixed.weights).zip(1..) {
            unit *= factor;
            let fits =
                |x: f64, bits: f64| if x.abs() < bits.exp2() { Ok(x) } else { Err(IntegerError::Overflow { layer }) };
            let weight = |w: &f64| Ok(fits((w * factor).round(), 62.0)? as i64);
            let bias = |b: &f64| Ok(fits((b * unit).round(), 120.0)? as i128);
            out.push(IntegerStage {
                rows: stage.rows,
                cols: stage.cols,
                weights: stage.weights.iter().map(weight).collect::<Result<_, _>>()?,
                bias: stage.bias.iter().map(bias).collect::<Result<_, _>>()?,
                square: stage.post == Post::Square,
            });
            if stage.post == Post::Square {
                unit *= unit;
            }
        }
        Ok(Self { stages: out, fixed: fixed.clone(), output_unit: 1.0 / unit })
    }

    /// What values are multiplied by.
    pub fn fixed_point(&self) -> &FixedPoint {
        &self.fixed
    }

    /// What an integer output is worth.
    pub fn output_unit(&self) -> f64 {
        self.output_unit
    }

    /// A feature vector in integers, as the edge rounds it.
    pub fn input(&self, features: &[f64]) -> Vec<i128> {
        features.iter().map(|x| (x * self.fixed.input).round() as i128).collect()
    }

    /// The integer outputs for a feature vector; exact as long as no value exceeds 127 bits (no network whose outputs are proven to fit
    /// its moduli comes near).
    pub fn evaluate(&self, features: &[f64]) -> Vec<i128> {
        self.stages.iter().fold(self.input(features), |x, stage| {
            let rows = stage.weights.chunks(stage.cols.max(1)).zip(&stage.bias);
            rows.map(|(row, bias)| {
                let sum =
                    row.iter().zip(&x).fold(*bias, |sum, (w, x)| sum.wrapping_add(i128::from(*w).wrapping_mul(*x)));
                if stage.square { sum.wrapping_mul(sum) } else { sum }
            })
            .collect()
        })
    }
}
