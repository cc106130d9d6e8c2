//! What can be wrong with a fit, and its cure.

use super::{FitMethod, Interval, MAX_FIT_DEGREE, ScalarFunction};
use crate::activation::ActivationKind;

/// Why an activation cannot be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FitError {
    /// A text that is no fit.
    #[error("'{0}' is not a fit: write METHOD(FUNCTION,DEGREE,LO,HI), for example chebyshev(relu,4,-4,4)")]
    Text(String),
    /// A text that is no choice of a fit.
    #[error(
        "'{0}' is not a fit: write auto, METHOD:DEGREE or METHOD:DEGREE@LO..HI, for example chebyshev:7 or chebyshev:7@-8..8"
    )]
    Choice(String),
    /// A method that is unknown.
    #[error(
        "'{0}' is not a way to fit: use taylor, chebyshev, least-squares, normal, integral or, as in observed:7 and minimax:3x5, observed and minimax"
    )]
    UnknownMethod(String),
    /// Degrees that no sign can be composed of.
    #[error(
        "minimax cannot have the degrees '{0}': write one to four odd degrees from 3 to 15, the innermost first, whose product is at most 31, \
         as in minimax:3x5"
    )]
    SignDegrees(String),
    /// A function without a sign in it.
    #[error("minimax composes a sign, which makes relu, leakyrelu and abs, not {0}: use chebyshev or least-squares")]
    NoSign(ScalarFunction),
    /// A function that is unknown.
    #[error(
        "'{0}' is not a function that can be fitted: use relu, relu6, leakyrelu (or leakyrelu:SLOPE), elu, selu, \
         softplus, sigmoid, tanh, gelu, swish, hardswish, mish, …"
    )]
    UnknownFunction(String),
    /// A kind of activation that is not one function.
    #[error(
        "{0} is not one function but depends on the network: fit the function that it is there, or write a polynomial"
    )]
    NoFunction(ActivationKind),
    /// A parameter that the kind does not have or that is out of range.
    #[error(
        "{kind} cannot have the parameter {parameter}: leave it out, or see that it is in -1000..1000 and fits the kind"
    )]
    Parameter {
        /// The kind.
        kind: ActivationKind,
        /// What was asked for.
        parameter: f64,
    },
    /// A degree that is not offered.
    #[error("a fit cannot have degree {0}: choose 1 to {MAX_FIT_DEGREE}")]
    Degree(usize),
    /// Ends that make no interval.
    #[error("no fit on [{lo}, {hi}]: write the lower end first, both within -1000000..1000000 and not the same")]
    Interval {
        /// The lower end.
        lo: f64,
        /// The upper end.
        hi: f64,
    },
    /// A function that lacks the derivatives which the method needs.
    #[error(
        "{method} needs derivatives that {function} does not have at {at}: \
         use chebyshev or least-squares, or an interval that lies elsewhere"
    )]
    NoDerivative {
        /// The method.
        method: FitMethod,
        /// The function.
        function: ScalarFunction,
        /// Where.
        at: f64,
    },
    /// A function that is too large.
    #[error("{function} is too large at {at} to be fitted: choose a smaller interval")]
    NotFinite {
        /// The function.
        function: ScalarFunction,
        /// Where.
        at: f64,
    },
    /// Powers of x that nearly cancel on the interval.
    #[error(
        "degree {degree} cannot be written in powers of x on {interval}: rounding would change the polynomial by {loss:.0e} of its size; \
         use a lower degree, or an interval with 0 in its middle"
    )]
    Unstable {
        /// The degree.
        degree: usize,
        /// Where.
        interval: Interval,
        /// The error by rounding, as a share of the polynomial's size.
        loss: f64,
    },
    /// A sample that is no usable number.
    #[error("the sample {0} cannot be used: samples must be within -1000000..1000000")]
    Sample(f64),
    /// Samples that do not determine the polynomial.
    #[error("too few different samples for degree {degree}: give more, or use a lower degree")]
    FewSamples {
        /// The degree.
        degree: usize,
    },
    /// No samples to measure on.
    #[error("no samples to measure a fit on")]
    NoSamples,
}
