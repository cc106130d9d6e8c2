//! Polynomials in one variable, the activations that encryption can evaluate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Highest degree read from text or recognised in a graph.
pub const MAX_DEGREE: usize = 64;

/// A polynomial with real coefficients in ascending order: `[c0, c1, c2]` is `c0 + c1 x + c2 x^2`.
///
/// As text: `none` (x), `square` (x^2), `x2+2x`, `poly:c0,c1,c2,…` or a sum of terms such as
/// `0.5x^2+x-1`. [`Display`](fmt::Display) writes the sum of terms, which reads back equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Polynomial(Vec<f64>);

impl Polynomial {
    /// A polynomial of ascending coefficients; zeros at the top are dropped.
    pub fn new(mut coefficients: Vec<f64>) -> Self {
        while coefficients.last() == Some(&0.0) {
            coefficients.pop();
        }
        Polynomial(coefficients)
    }

    /// x, the polynomial that changes nothing.
    pub fn identity() -> Self {
        Polynomial(vec![0.0, 1.0])
    }

    /// x^2.
    pub fn square() -> Self {
        Polynomial(vec![0.0, 0.0, 1.0])
    }

    /// Coefficients, ascending; empty for the zero polynomial.
    pub fn coefficients(&self) -> &[f64] {
        &self.0
    }

    /// The degree; 0 for constants, zero included.
    pub fn degree(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// Its value at `x`, by Horner's rule.
    pub fn eval(&self, x: f64) -> f64 {
        self.0.iter().rev().fold(0.0, |sum, c| sum * x + c)
    }

    /// Whether it is exactly x.
    pub fn is_identity(&self) -> bool {
        self.0 == [0.0, 1.0]
    }
}

impl fmt::Display for Polynomial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (power, &c) in self.0.iter().enumerate().rev().filter(|(_, c)| **c != 0.0) {
            match (first, c < 0.0) {
                (true, false) => {}
                (false, false) => f.write_str("+")?,
                (_, true) => f.write_str("-")?,
            }
            first = false;
            if power == 0 || c.abs() != 1.0 {
                write!(f, "{}", c.abs())?;
            }
            match power {
                0 => {}
                1 => f.write_str("x")?,
                _ => write!(f, "x^{power}")?,
            }
        }
        if first { f.write_str("0") } else { Ok(()) }
    }
}

/// A text that names no polynomial.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "'{0}' is not a polynomial: write none, square, x2+2x, poly:c0,c1,c2,… (lowest power first, at most degree {MAX_DEGREE}) or a sum like 0.5x^2+x-1"
)]
pub struct ParsePolynomialError(String);

impl FromStr for Polynomial {
    type Err = ParsePolynomialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim().to_ascii_lowercase();
        let coefficients = match trimmed.as_str() {
            "none" => Some(vec![0.0, 1.0]),
            "square" => Some(vec![0.0, 0.0, 1.0]),
            other => match other.strip_prefix("poly:") {
                Some(list) => list.split(',').map(number).collect(),
                None => sum_of_terms(other),
            },
        };
        coefficients
            .filter(|c| !c.is_empty() && c.len() <= MAX_DEGREE + 1)
            .map(Polynomial::new)
            .ok_or_else(|| ParsePolynomialError(text.to_owned()))
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|value| value.is_finite())
}

/// Reads `a x^k` terms joined by plus and minus; `x2` is a spelling of `x^2`.
fn sum_of_terms(text: &str) -> Option<Vec<f64>> {
    let text: String = text.chars().filter(|c| !c.is_whitespace() && *c != '*').collect();
    let mut terms = Vec::new();
    let mut term = String::new();
    for c in text.chars() {
        // The sign of an exponent, as in 1e-3x, belongs to its number.
        if matches!(c, '+' | '-') && !term.is_empty() && !term.ends_with('e') {
            terms.push(std::mem::take(&mut term));
        }
        term.push(c);
    }
    terms.push(term);
    let mut coefficients = vec![0.0];
    for term in terms {
        let (factor, power) = match term.split_once('x') {
            None => (number(&term)?, 0),
            Some((factor, power)) => {
                let factor = match factor {
                    "" | "+" => 1.0,
                    "-" => -1.0,
                    other => number(other)?,
                };
                let power = match power {
                    "" => 1,
                    other => other.strip_prefix('^').unwrap_or(other).parse().ok()?,
                };
                (factor, power)
            }
        };
        if power > MAX_DEGREE {
            return None;
        }
        if coefficients.len() <= power {
            coefficients.resize(power + 1, 0.0);
        }
        *coefficients.get_mut(power)? += factor;
    }
    Some(coefficients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sums_read_and_print_back() {
        for (text, coefficients, printed) in [
            ("none", vec![0.0, 1.0], "x"),
            ("square", vec![0.0, 0.0, 1.0], "x^2"),
            ("x2+2x", vec![0.0, 2.0, 1.0], "x^2+2x"),
            ("poly:1,-2,0.5", vec![1.0, -2.0, 0.5], "0.5x^2-2x+1"),
            ("-x^3 + 1e-3*x - 4", vec![-4.0, 0.001, 0.0, -1.0], "-x^3+0.001x-4"),
            ("poly:0", vec![], "0"),
        ] {
            let polynomial: Polynomial = text.parse().unwrap();
            assert_eq!(polynomial.coefficients(), coefficients, "{text}");
            assert_eq!(polynomial.to_string(), printed);
            assert_eq!(printed.parse::<Polynomial>().unwrap(), polynomial);
        }
        assert_eq!("x2+2x".parse::<Polynomial>().unwrap().eval(3.0), 15.0);
    }

    #[test]
    fn what_is_no_polynomial_is_refused() {
        for text in ["", "poly:", "poly:1,nan", "x^999999999", "relu", "x^^2", "2y", "inf", "x^-1"] {
            let error = text.parse::<Polynomial>().unwrap_err();
            assert!(error.to_string().contains("is not a polynomial"), "{text}");
        }
    }
}
