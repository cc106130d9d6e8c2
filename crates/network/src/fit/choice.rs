//! Fits whose interval, and perhaps degree, is chosen from what a network's activation gets on calibration data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::projection::{Node, project, uniform};
use super::sign::SignDegrees;
use super::{FARTHEST, FitError, FitMethod, Interval, ScalarFunction, allowed, values};
use crate::polynomial::Polynomial;

/// The name of the method that weighs values as they were observed.
const OBSERVED: &str = "observed";
/// The name of the method that composes a sign.
const MINIMAX: &str = "minimax";

/// How the polynomial in an activation's place is found once the network shows what values it gets there.
///
/// As text: `METHOD:DEGREE`, as in `chebyshev:7`, with an interval of one's own `METHOD:DEGREE@LO..HI`, or `auto`.
/// Methods are those of [`FitMethod`], `observed`: [`observed`], and `minimax`: [`composite_sign`](super::composite_sign), whose degrees are
/// several, as in `minimax:3x5`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum FitChoice {
    /// Least squares weighted as observed, of the lowest degree with which the network still answers as it did.
    Auto,
    /// A method of one's choice.
    Fit {
        /// `None` weighs values as they were observed.
        method: Option<FitMethod>,
        /// The highest degree that the polynomial may have.
        degree: usize,
        /// Where the fit is to be good; `None` takes it from the values observed.
        interval: Option<Interval>,
    },
    /// A sign composed of minimax polynomials.
    Sign {
        /// Their degrees.
        degrees: SignDegrees,
        /// Where the fit is to be good; `None` takes it from the values observed.
        interval: Option<Interval>,
    },
}

impl FitChoice {
    /// Whether it takes values observed to make the polynomial.
    pub fn needs_observations(&self) -> bool {
        !matches!(
            self,
            FitChoice::Fit { method: Some(_), interval: Some(_), .. } | FitChoice::Sign { interval: Some(_), .. }
        )
    }

    /// Whether a text is meant as one, right or wrong: `auto` or `NAME:…`, but for `poly:…`.
    pub(crate) fn is_meant(text: &str) -> bool {
        let text = text.trim();
        let name = text.split_once(':').map(|(name, _)| name.trim());
        text.eq_ignore_ascii_case("auto") || name.is_some_and(|name| !name.eq_ignore_ascii_case("poly"))
    }
}

impl fmt::Display for FitChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = match self {
            FitChoice::Auto => return f.write_str("auto"),
            FitChoice::Fit { method: Some(method), degree, interval } => {
                write!(f, "{method}:{degree}")?;
                interval
            }
            FitChoice::Fit { method: None, degree, interval } => {
                write!(f, "{OBSERVED}:{degree}")?;
                interval
            }
            FitChoice::Sign { degrees, interval } => {
                write!(f, "{MINIMAX}:{degrees}")?;
                interval
            }
        };
        match interval {
            Some(Interval { lo, hi }) => write!(f, "@{lo}..{hi}"),
            None => Ok(()),
        }
    }
}

impl FromStr for FitChoice {
    type Err = FitError;

    fn from_str(text: &str) -> Result<Self, FitError> {
        let bad = || FitError::Choice(text.trim().to_owned());
        let wanted = text.trim().to_ascii_lowercase();
        if wanted == "auto" {
            return Ok(FitChoice::Auto);
        }
        let (method, rest) = wanted.split_once(':').ok_or_else(bad)?;
        let (degree, interval) = match rest.split_once('@') {
            None => (rest, None),
            Some((degree, ends)) => {
                let (lo, hi) = ends.split_once("..").ok_or_else(bad)?;
                let end = |text: &str| text.trim().parse::<f64>().map_err(|_| bad());
                (degree, Some(Interval::new(end(lo)?, end(hi)?)?))
            }
        };
        if method.trim() == MINIMAX {
            return Ok(FitChoice::Sign { degrees: degree.parse()?, interval });
        }
        let method = match method.trim() {
            OBSERVED => None,
            // As Hesamifard et al. made it.
            "integrated" => Some(FitMethod::Integral),
            method => Some(method.parse::<FitMethod>()?),
        };
        let degree = degree.trim().parse().map_err(|_| bad())?;
        allowed(degree)?;
        Ok(FitChoice::Fit { method, degree, interval })
    }
}

impl From<FitChoice> for String {
    fn from(choice: FitChoice) -> String {
        choice.to_string()
    }
}

impl TryFrom<String> for FitChoice {
    type Error = FitError;

    fn try_from(text: String) -> Result<Self, FitError> {
        text.parse()
    }
}

/// The polynomial of at most `degree` with the least mean of squared errors over `samples` and over the interval: each
/// sample in it weighs the same, all together 1 - `evenly`, and the interval as a whole `evenly`, which keeps the
/// polynomial from running away where no sample lies.
///
/// # Errors
/// A degree that is not in 1..=[`MAX_FIT_DEGREE`](super::MAX_FIT_DEGREE); a function that overflows on the interval;
/// powers of x that rounding would spoil.
pub fn observed(
    function: ScalarFunction,
    degree: usize,
    samples: &[f64],
    interval: Interval,
    evenly: f64,
) -> Result<Polynomial, FitError> {
    allowed(degree)?;
    if let Some(bad) = samples.iter().find(|x| x.is_nan() || x.abs() > FARTHEST) {
        return Err(FitError::Sample(*bad));
    }
    let mut nodes = uniform(function, interval);
    let within: Vec<f64> = samples.iter().copied().filter(|x| (interval.lo..=interval.hi).contains(x)).collect();
    let evenly = if within.is_empty() { 1.0 } else { evenly.clamp(1e-6, 1.0) };
    for node in &mut nodes {
        node.weight *= evenly / (interval.hi - interval.lo);
    }
    let weight = (1.0 - evenly) / within.len().max(1) as f64;
    nodes.extend(within.into_iter().map(|x| Node { x, weight }));
    let values = values(function, &nodes)?;
    let spoilt = FitError::Unstable { degree, interval, loss: 1.0 };
    Ok(Polynomial::new(project(interval, &nodes, &values, degree).ok_or(spoilt)?.powers()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::ActivationKind;

    #[test]
    fn choices_read_and_print_back() {
        for (text, printed) in [
            ("auto", "auto"),
            ("Chebyshev: 7", "chebyshev:7"),
            ("integrated:5", "integral:5"),
            ("least_squares:9@-8..8.5", "least-squares:9@-8..8.5"),
            ("observed:3@-1e1..2", "observed:3@-10..2"),
            ("Minimax:3 x 5@-4..4", "minimax:3x5@-4..4"),
            ("minimax:7", "minimax:7"),
        ] {
            let choice: FitChoice = text.parse().unwrap();
            assert_eq!(choice.to_string(), printed);
            assert_eq!(printed.parse::<FitChoice>().unwrap(), choice);
        }
        let needs = |text: &str| text.parse::<FitChoice>().unwrap().needs_observations();
        assert!(needs("auto") && needs("taylor:5") && needs("observed:5@-1..1") && !needs("taylor:5@-1..1"));
    }

    #[test]
    fn observed_values_weigh_more() {
        let relu = ScalarFunction::try_from(ActivationKind::Relu).unwrap();
        let interval = Interval::new(-10.0, 10.0).unwrap();
        let samples: Vec<f64> = (0..500).map(|i| f64::from(i) / 250.0 - 1.0).collect();
        let rms = |evenly: f64| {
            let p = observed(relu, 4, &samples, interval, evenly).unwrap();
            super::super::errors_on(&p, relu, &samples).unwrap().rms
        };
        assert!(rms(0.01) < rms(0.1) && rms(0.1) < rms(1.0) / 2.0, "{} {} {}", rms(0.01), rms(0.1), rms(1.0));
    }
}
