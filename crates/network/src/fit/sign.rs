//! ReLU and its kin from a sign that is composed of odd minimax polynomials.
//!
//! `relu(x) = x (1 + sgn(x)) / 2`, and sgn is near `p_k(... p_1(t))`, t = x / R, where `p_1` is the odd polynomial with the least
//! maximum of |p - 1| on [e, 1], and each further one that on the values that the one before takes there: Lee, Lee, Lee, Kim, No,
//! "Minimax Approximation of Sign Function by Composite Polynomial for Homomorphic Comparison" (ePrint 2020/834), for ReLU in "Precise
//! Approximation of Convolutional Neural Networks for Homomorphically Encrypted Data" (ePrint 2021/783). There the factors are
//! evaluated one after the other, between bootstrappings; here levels are what is scarce, and the composition is written out as
//! one polynomial, whose depth is less than the sum of theirs.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use super::{FitError, Interval, MAX_FIT_DEGREE, ScalarFunction};
use crate::activation::ActivationKind;
use crate::polynomial::Polynomial;

/// Most polynomials that are composed.
const MOST: usize = 4;
/// Highest degree of one of them: beyond, powers of t are too much alike for the exchange.
const HIGHEST: usize = 15;
/// Exchanges until the maxima are level; a handful suffices.
const EXCHANGES: usize = 60;
/// Places between two points of an exchange where the error is looked at.
const LOOKS: usize = 64;
/// Largest difference between the composition and its powers, on a scale of 1.
const MAX_LOSS: f64 = 1e-6;

/// Degrees of the odd polynomials that a sign is composed of, the innermost first; as text `3x5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignDegrees {
    degrees: [u8; MOST],
    count: u8,
}

impl SignDegrees {
    /// The degrees, the innermost first.
    ///
    /// # Errors
    /// None, or more than four; an even one, one below 3 or beyond 15; a ReLU of a degree beyond [`MAX_FIT_DEGREE`].
    pub fn new(wanted: &[usize]) -> Result<Self, FitError> {
        let total = wanted.iter().fold(1usize, |total, d| total.saturating_mul(*d)).saturating_add(1);
        let mut degrees = [0; MOST];
        for (place, degree) in degrees.iter_mut().zip(wanted) {
            *place = u8::try_from(*degree).unwrap_or(0);
        }
        let odd = wanted.iter().all(|d| d % 2 == 1 && (3..=HIGHEST).contains(d));
        if wanted.is_empty() || wanted.len() > MOST || !odd || total > MAX_FIT_DEGREE {
            return Err(FitError::SignDegrees(Self::text(wanted)));
        }
        Ok(Self { degrees, count: wanted.len() as u8 })
    }

    fn each(self) -> impl Iterator<Item = usize> {
        self.degrees.into_iter().take(usize::from(self.count)).map(usize::from)
    }

    /// Degree of x (1 + sgn(x)) / 2.
    pub fn total(self) -> usize {
        self.each().product::<usize>() + 1
    }

    fn text(degrees: &[usize]) -> String {
        degrees.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
    }
}

impl fmt::Display for SignDegrees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::text(&self.each().collect::<Vec<_>>()))
    }
}

impl FromStr for SignDegrees {
    type Err = FitError;

    fn from_str(text: &str) -> Result<Self, FitError> {
        let degrees: Result<Vec<usize>, _> = text.split('x').map(|d| d.trim().parse()).collect();
        Self::new(&degrees.map_err(|_| FitError::SignDegrees(text.trim().to_owned()))?)
    }
}

/// The polynomial in the place of `function` (relu, leakyrelu or abs) by a composed sign, good on [-R, R] where R is the interval's farthest
/// end. Where the sign changes, it is as steep as makes the largest error on all of [-R, R] least.
///
/// # Errors
/// Another function; degrees whose composition cannot be written in powers of x.
pub fn composite_sign(
    function: ScalarFunction,
    degrees: SignDegrees,
    interval: Interval,
) -> Result<Polynomial, FitError> {
    // function = a x + b x sgn(x)
    let (a, b) = match function.kind() {
        ActivationKind::Relu => (0.5, 0.5),
        ActivationKind::LeakyRelu => ((1.0 + function.parameter) / 2.0, (1.0 - function.parameter) / 2.0),
        ActivationKind::Abs => (0.0, 1.0),
        _ => return Err(FitError::NoSign(function)),
    };
    // The largest |t sgn(t) - t| on [0, 1] for a sign that is good from `from` on.
    let error = |from: f64| {
        let sign = sign(degrees, from);
        let at = |i: usize| (i as f64 / 2000.0).powi(2);
        (0..=2000).map(at).map(|t| (t * value(&sign, t) - t).abs()).fold(0.0, f64::max)
    };
    // On a logarithmic scale: too near to 0 the sign is nowhere good, too far it is good where it does not matter.
    let (mut low, mut high) = (1e-4f64.ln(), 0.9f64.ln());
    for _ in 0..50 {
        let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if error(left.exp()) < error(right.exp()) { high = right } else { low = left }
    }
    let sign = sign(degrees, ((low + high) / 2.0).exp());
    let radius = interval.lo().abs().max(interval.hi().abs());
    let mut powers = vec![0.0, a];
    for (power, c) in composed(&sign).into_iter().enumerate() {
        if powers.len() <= power + 1 {
            powers.resize(power + 2, 0.0);
        }
        if let Some(place) = powers.get_mut(power + 1) {
            *place += b * c;
        }
    }
    let polynomial = Polynomial::new(powers);
    let loss = |t: f64| (polynomial.eval(t) - a * t - b * t * value(&sign, t)).abs();
    let loss = (0..=1000).map(|i| loss(f64::from(i) / 500.0 - 1.0)).fold(0.0, f64::max);
    if loss.is_nan() || loss > MAX_LOSS {
        return Err(FitError::Unstable { degree: degrees.total(), interval, loss });
    }
    let scaled = |(power, c): (usize, &f64)| c * radius * radius.powi(-(power as i32));
    Ok(Polynomial::new(polynomial.coefficients().iter().enumerate().map(scaled).collect()))
}

/// The factors of a sign that is good on [from, 1], the innermost first, by their odd coefficients.
fn sign(degrees: SignDegrees, from: f64) -> Vec<Vec<f64>> {
    let (mut low, mut high) = (from, 1.0);
    let mut factors = Vec::new();
    for degree in degrees.each() {
        let (factor, error) = minimax(degree, low, high);
        factors.push(factor);
        (low, high) = (1.0 - error, 1.0 + error);
    }
    factors
}

/// The composition's value.
fn value(factors: &[Vec<f64>], t: f64) -> f64 {
    factors.iter().fold(t, |t, factor| odd(factor, t))
}

/// `sum_i c_i t^(2i+1)`.
fn odd(coefficients: &[f64], t: f64) -> f64 {
    t * coefficients.iter().rev().fold(0.0, |sum, c| sum * t * t + c)
}

/// The composition in powers of t.
fn composed(factors: &[Vec<f64>]) -> Vec<f64> {
    let product = |a: &[f64], b: &[f64]| {
        let mut out = vec![0.0; (a.len() + b.len()).saturating_sub(1)];
        for (i, x) in a.iter().enumerate() {
            out.iter_mut().skip(i).zip(b).for_each(|(o, y)| *o += x * y);
        }
        out
    };
    let mut inner = vec![0.0, 1.0];
    for factor in factors {
        let square = product(&inner, &inner);
        let mut sum = Vec::new();
        for c in factor.iter().rev() {
            sum = product(&sum, &square);
            if sum.is_empty() {
                sum.push(0.0);
            }
            if let Some(constant) = sum.first_mut() {
                *constant += c;
            }
        }
        inner = product(&sum, &inner);
    }
    inner
}

/// The odd polynomial of this degree with the least maximum of |p - 1| on [low, high], by Remez' exchange, and that maximum.
fn minimax(degree: usize, low: f64, high: f64) -> (Vec<f64>, f64) {
    let unknowns = degree.div_ceil(2);
    // n coefficients and the error, level with alternating signs at n + 1 points.
    let mut points: Vec<f64> = (0..=unknowns)
        .map(|i| (low + high) / 2.0 - (high - low) / 2.0 * (PI * i as f64 / unknowns as f64).cos())
        .collect();
    let mut best = (vec![0.0; unknowns], f64::INFINITY);
    for _ in 0..EXCHANGES {
        let rows = points.iter().enumerate().map(|(i, &t)| {
            let powers = (0..unknowns).map(|k| t * (t * t).powi(k as i32));
            let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
            powers.chain([sign, 1.0]).collect::<Vec<f64>>()
        });
        let Some(mut solution) = solved(rows.collect()) else { break };
        let level = solution.pop().unwrap_or(0.0).abs();
        let gap = |t: f64| odd(&solution, t) - 1.0;
        // The largest error of each sign between the zeros around a point, the ends included.
        let mut extremes: Vec<f64> = Vec::new();
        for i in 0..points.len() {
            let at = |i: usize| points.get(i).copied();
            let from = i.checked_sub(1).and_then(at).unwrap_or(low);
            let to = at(i + 1).unwrap_or(high);
            let own = at(i).map_or(0.0, &gap).signum();
            let look = |k: usize| from + (to - from) * k as f64 / LOOKS as f64;
            let there = (0..=LOOKS).map(look).max_by(|a, b| (own * gap(*a)).total_cmp(&(own * gap(*b))));
            let mut there = there.unwrap_or(from);
            let mut step = (to - from) / LOOKS as f64;
            // Narrowed down.
            for _ in 0..40 {
                step /= 2.0;
                let near = [there - step, there, there + step].map(|t| t.clamp(low, high));
                there = near.into_iter().max_by(|a, b| (own * gap(*a)).total_cmp(&(own * gap(*b)))).unwrap_or(there);
            }
            extremes.push(there);
        }
        let largest = extremes.iter().map(|t| gap(*t).abs()).fold(0.0, f64::max);
        let done = largest <= level * (1.0 + 1e-9) + 1e-15;
        if largest < best.1 {
            best = (solution, largest);
        }
        if done {
            break;
        }
        points = extremes;
    }
    best
}

/// The solution of linear equations, each with its right side behind it, by elimination with pivots.
fn solved(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let n = rows.len();
    for column in 0..n {
        let size = |row: &Vec<f64>| row.get(column).map_or(0.0, |x| x.abs());
        let pivot =
            (column..n).max_by(|a, b| rows.get(*a).map_or(0.0, size).total_cmp(&rows.get(*b).map_or(0.0, size)))?;
        rows.swap(column, pivot);
        let pivot = rows.get(column)?.clone();
        let head = *pivot.get(column)?;
        if head == 0.0 {
            return None;
        }
        for (other, row) in rows.iter_mut().enumerate() {
            let factor = row.get(column)? / head;
            if other != column && factor != 0.0 {
                row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= factor * p);
            }
        }
    }
    rows.iter().enumerate().map(|(i, row)| Some(row.last()? / row.get(i)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::errors_between;
    use super::*;

    fn relu() -> ScalarFunction {
        ScalarFunction::try_from(ActivationKind::Relu).unwrap()
    }

    #[test]
    fn minimax_errors_are_level_and_known() {
        // Degree 3 on [e, 1] in closed form: p = c t (3 m - t^2) with m = (1 + e + e^2) / 3, whose extremes are at e, sqrt(m) and 1.
        let e = 0.1f64;
        let m = (1.0 + e + e * e) / 3.0;
        let (inner, end) = (2.0 * m * m.sqrt(), 3.0 * m - 1.0);
        let expected = (inner - end) / (inner + end);
        let (p, error) = minimax(3, e, 1.0);
        assert!((error - expected).abs() < 1e-9, "{error} {expected}");
        for t in [e, m.sqrt(), 1.0] {
            assert!(((odd(&p, t) - 1.0).abs() - error).abs() < 1e-8, "{t}");
        }
        for (degree, from) in [(5, 0.05), (7, 0.2), (9, 0.02), (15, 0.01)] {
            let (p, error) = minimax(degree, from, 1.0);
            let looked = (0..=4000).map(|i| from + (1.0 - from) * f64::from(i) / 4000.0);
            let largest = looked.map(|t| (odd(&p, t) - 1.0).abs()).fold(0.0, f64::max);
            assert!(error < 1.0 && (largest / error - 1.0).abs() < 1e-3, "degree {degree}: {largest} {error}");
        }
    }

    #[test]
    fn composed_signs_make_relu_leaky_relu_and_the_absolute_value() {
        let interval = Interval::new(-5.0, 8.0).unwrap();
        let leaky = ScalarFunction::new(ActivationKind::LeakyRelu, Some(0.3)).unwrap();
        let abs = ScalarFunction::try_from(ActivationKind::Abs).unwrap();
        for (function, slope) in [(relu(), 0.5), (leaky, 0.35), (abs, 1.0)] {
            let mut last = f64::INFINITY;
            for degrees in ["3", "3x3", "15", "5x5", "9x3"] {
                let degrees: SignDegrees = degrees.parse().unwrap();
                let p = composite_sign(function, degrees, interval).unwrap();
                assert_eq!(p.degree(), degrees.total(), "{function} {degrees}");
                let wide = Interval::new(-8.0, 8.0).unwrap();
                let error = errors_between(&p, function, wide).max_abs / (8.0 * slope);
                println!("{function} {degrees}: {error}");
                assert!(error < last, "{function} {degrees}: {error} after {last}");
                last = error;
            }
            // No polynomial of degree n is nearer to |t| than 0.2801 / n (Bernstein), and this is not far from it.
            assert!((0.2801 / 28.0..0.03).contains(&last), "{last}");
        }
    }

    #[test]
    fn degrees_that_cannot_be_composed_are_refused() {
        for text in ["", "x", "2", "1", "17", "3x4", "7x7", "3x3x3x3x3", "99"] {
            assert!(matches!(text.parse::<SignDegrees>(), Err(FitError::SignDegrees(_))), "{text}");
        }
        let tanh = ScalarFunction::try_from(ActivationKind::Tanh).unwrap();
        let refused = composite_sign(tanh, "3x3".parse().unwrap(), Interval::new(-1.0, 1.0).unwrap());
        assert!(matches!(refused, Err(FitError::NoSign(_))));
    }
}
