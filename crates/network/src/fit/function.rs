//! The activations that are functions of one number without weights of their own, as values.

use std::fmt;
use std::str::FromStr;

use crate::activation::ActivationKind;

use super::FitError;

/// Largest magnitude of a parameter.
const MAX_PARAMETER: f64 = 1000.0;
/// Selu's steepness left of zero and its scale, as ONNX rounds them.
pub(super) const SELU_ALPHA: f64 = 1.673_263_192_181_876_8;
pub(super) const SELU_GAMMA: f64 = 1.050_701_022_148_132;

/// An activation as a function of one number: the kind, and the parameter of those kinds that have one.
///
/// As text: the kind alone, with the parameter that ONNX takes when a network names none, or with the parameter behind
/// a colon: `leakyrelu:0.2`.
///
/// | kind | the parameter | unless named |
/// |---|---|---|
/// | `leakyrelu` | slope left of 0 | 0.01 |
/// | `elu` | a in a (e^x - 1), left of 0 | 1 |
/// | `celu` | a in a (e^(x / a) - 1), left of 0; positive | 1 |
/// | `thresholdedrelu` | the threshold | 1 |
/// | `hardsigmoid` | slope of the middle piece; positive | 0.2 |
/// | `swish` | b in x / (1 + e^(-b x)); positive | 1 |
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalarFunction {
    kind: ActivationKind,
    /// 0 for kinds without.
    pub(super) parameter: f64,
}

impl ScalarFunction {
    /// The function of a kind; `parameter` is ONNX's default where it is `None`.
    ///
    /// # Errors
    /// A kind that has weights or bounds of its own (`prelu`, `clip`) or stands for many functions (`other`); a
    /// parameter for a kind without, or beyond +-1000, or less than 0.001 where it must be positive.
    pub fn new(kind: ActivationKind, parameter: Option<f64>) -> Result<Self, FitError> {
        use ActivationKind::*;
        if matches!(kind, Prelu | Clip | Max | Other) {
            return Err(FitError::NoFunction(kind));
        }
        let (default, least) = match kind {
            LeakyRelu => (0.01, -MAX_PARAMETER),
            Elu | ThresholdedRelu => (1.0, -MAX_PARAMETER),
            Celu | Swish => (1.0, 1.0 / MAX_PARAMETER),
            HardSigmoid => (0.2, 1.0 / MAX_PARAMETER),
            _ => (0.0, f64::INFINITY),
        };
        match parameter {
            None => Ok(ScalarFunction { kind, parameter: default }),
            Some(parameter) if (least..=MAX_PARAMETER).contains(&parameter) => Ok(ScalarFunction { kind, parameter }),
            Some(parameter) => Err(FitError::Parameter { kind, parameter }),
        }
    }

    /// The kind.
    pub fn kind(self) -> ActivationKind {
        self.kind
    }

    /// The value at `x`.
    pub fn eval(self, x: f64) -> f64 {
        use ActivationKind::*;
        let a = self.parameter;
        let pieces = |right: f64, left: f64| if x >= 0.0 { right } else { left };
        match self.kind {
            Relu => x.max(0.0),
            Relu6 => x.clamp(0.0, 6.0),
            LeakyRelu => pieces(x, a * x),
            ThresholdedRelu => {
                if x > a {
                    x
                } else {
                    0.0
                }
            }
            Elu => pieces(x, a * x.exp_m1()),
            Selu => SELU_GAMMA * pieces(x, SELU_ALPHA * x.exp_m1()),
            Celu => pieces(x, a * (x / a).exp_m1()),
            Softplus => softplus(x),
            Softsign => x / (1.0 + x.abs()),
            Sigmoid => sigmoid(x),
            HardSigmoid => (a * x + 0.5).clamp(0.0, 1.0),
            Tanh => x.tanh(),
            Gelu => x * normal_distribution(x),
            Swish => x * sigmoid(a * x),
            HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Mish => x * softplus(x).tanh(),
            Abs => x.abs(),
            Exp => x.exp(),
            // `new` makes none of these.
            Prelu | Clip | Max | Other => f64::NAN,
        }
    }

    /// Where one formula gives way to another, ascending; between these the function is analytic.
    pub(super) fn kinks(self) -> Vec<f64> {
        use ActivationKind::*;
        match self.kind {
            Relu | LeakyRelu | Elu | Selu | Celu | Softsign | Abs => vec![0.0],
            Relu6 => vec![0.0, 6.0],
            ThresholdedRelu => vec![self.parameter],
            HardSigmoid => vec![-0.5 / self.parameter, 0.5 / self.parameter],
            HardSwish => vec![-3.0, 3.0],
            _ => Vec::new(),
        }
    }

    /// Where the function jumps.
    pub(super) fn jump(self) -> Option<f64> {
        (self.kind == ActivationKind::ThresholdedRelu && self.parameter != 0.0).then_some(self.parameter)
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

pub(super) fn normal_distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

impl TryFrom<ActivationKind> for ScalarFunction {
    type Error = FitError;

    fn try_from(kind: ActivationKind) -> Result<Self, FitError> {
        ScalarFunction::new(kind, None)
    }
}

impl fmt::Display for ScalarFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ScalarFunction::new(self.kind, None) {
            Ok(usual) if usual == *self => self.kind.fmt(f),
            _ => write!(f, "{}:{}", self.kind, self.parameter),
        }
    }
}

impl FromStr for ScalarFunction {
    type Err = FitError;

    fn from_str(text: &str) -> Result<Self, FitError> {
        let (name, parameter) = match text.split_once(':') {
            None => (text, None),
            Some((name, number)) => {
                let number = number.trim().parse().map_err(|_| FitError::UnknownFunction(text.trim().to_owned()))?;
                (name, Some(number))
            }
        };
        let kind = name.parse().map_err(|_| FitError::UnknownFunction(text.trim().to_owned()))?;
        ScalarFunction::new(kind, parameter)
    }
}
