//! Fits of activations by polynomials, for networks that were trained with an activation which encryption cannot
//! evaluate.
//!
//! A fit is asked for by its text, `METHOD(FUNCTION,DEGREE,LO,HI)`, as in `chebyshev(relu,4,-4,4)`, or as a [`Fit`].
//! Which values an activation gets decides on the interval: outside of it polynomials run away.

mod choice;
mod error;
mod function;
mod projection;
mod series;
mod sign;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::activation::ActivationKind;
use crate::polynomial::Polynomial;

pub use choice::{FitChoice, observed};
pub use error::FitError;
pub use function::ScalarFunction;
use projection::{Node, arcsine, checked, cuts, normal, project, uniform};
use series::{series, smooth_series};
pub use sign::{SignDegrees, composite_sign};

/// Highest degree of a fit. On intervals around 0 every fit up to degree 24 can be written in powers of x; beyond, and
/// on intervals beside 0, [`FitError::Unstable`] says where rounding would spoil it.
pub const MAX_FIT_DEGREE: usize = 32;

/// Largest magnitude of an interval's ends.
const FARTHEST: f64 = 1e6;
/// Smallest width of an interval.
const NARROWEST: f64 = 1e-6;

/// How a polynomial is made from a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FitMethod {
    /// The Taylor polynomial around the middle of the interval, as Chabanne et al. (2017) took it. Where straight
    /// pieces meet, smooth functions stand in as they did there: ln(1 + e^x) for max(x, 0) in `relu`, `leakyrelu`,
    /// `relu6` and `abs`, wherever the middle is.
    Taylor,
    /// The Chebyshev series on the interval, cut off behind the degree: the least mean of squared errors with the
    /// weight 1 / sqrt(1 - t^2), which counts the ends of the interval more and comes close to the least maximum.
    Chebyshev,
    /// The least mean of squared errors on the interval.
    LeastSquares,
    /// The least mean of squared errors if values are distributed normally around the middle of the interval, with a
    /// standard deviation of a quarter of its half: `normal(relu,2,-4,4)` is for what a batch norm puts out.
    Normal,
    /// The derivative's least squares on the interval, integrated, as Hesamifard et al. (2017) did; the constant is
    /// the one that leaves no error in the mean.
    Integral,
}

impl FitMethod {
    /// All methods, with the names they have in texts.
    pub const ALL: [(FitMethod, &'static str); 5] = [
        (FitMethod::Taylor, "taylor"),
        (FitMethod::Chebyshev, "chebyshev"),
        (FitMethod::LeastSquares, "least-squares"),
        (FitMethod::Normal, "normal"),
        (FitMethod::Integral, "integral"),
    ];
}

impl fmt::Display for FitMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find_map(|(method, name)| (method == self).then_some(*name));
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for FitMethod {
    type Err = FitError;

    fn from_str(text: &str) -> Result<Self, FitError> {
        let wanted = text.trim().to_ascii_lowercase().replace('_', "-");
        Self::ALL
            .iter()
            .find_map(|(method, name)| (*name == wanted).then_some(*method))
            .ok_or_else(|| FitError::UnknownMethod(text.trim().to_owned()))
    }
}

/// A closed interval between two numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    lo: f64,
    hi: f64,
}

impl Interval {
    /// From `lo` to `hi`.
    ///
    /// # Errors
    /// Ends beyond +-10^6, or less than 10^-6 apart.
    pub fn new(lo: f64, hi: f64) -> Result<Self, FitError> {
        // Negated, to refuse what is not a number.
        if !(lo.abs() <= FARTHEST && hi.abs() <= FARTHEST && hi - lo >= NARROWEST) {
            return Err(FitError::Interval { lo, hi });
        }
        Ok(Interval { lo, hi })
    }

    /// The lower end.
    pub fn lo(self) -> f64 {
        self.lo
    }

    /// The upper end.
    pub fn hi(self) -> f64 {
        self.hi
    }

    fn middle(self) -> f64 {
        (self.lo + self.hi) / 2.0
    }

    fn radius(self) -> f64 {
        (self.hi - self.lo) / 2.0
    }

    /// From -1 at the lower end to 1 at the upper.
    fn scaled(self, x: f64) -> f64 {
        (x - self.middle()) / self.radius()
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.lo, self.hi)
    }
}

/// A polynomial to be made from an activation.
///
/// As text: `METHOD(FUNCTION,DEGREE,LO,HI)`, for example `least-squares(relu,2,-3,3)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fit {
    method: FitMethod,
    function: ScalarFunction,
    degree: usize,
    interval: Interval,
}

impl Fit {
    /// A fit of `function` on `interval` by a polynomial of at most `degree`.
    ///
    /// # Errors
    /// A degree that is not in 1..=[`MAX_FIT_DEGREE`].
    pub fn new(
        method: FitMethod,
        function: ScalarFunction,
        degree: usize,
        interval: Interval,
    ) -> Result<Self, FitError> {
        allowed(degree)?;
        Ok(Fit { method, function, degree, interval })
    }

    /// How it is made.
    pub fn method(&self) -> FitMethod {
        self.method
    }

    /// What is fitted.
    pub fn function(&self) -> ScalarFunction {
        self.function
    }

    /// The highest degree that the polynomial may have.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// Where it is fitted.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// The polynomial. Its degree is lower than asked for where higher powers do not help: the fit of ReLU on an
    /// interval around 0 has no cubic term.
    ///
    /// # Errors
    /// A function without the derivatives that the method needs; a function that overflows on the interval; a degree
    /// that is too high for the interval, see [`MAX_FIT_DEGREE`].
    pub fn polynomial(&self) -> Result<Polynomial, FitError> {
        let coefficients = match self.method {
            FitMethod::Taylor => self.taylor()?,
            FitMethod::Chebyshev => self.nearest(&arcsine(self.function, self.interval))?,
            FitMethod::LeastSquares => self.nearest(&uniform(self.function, self.interval))?,
            FitMethod::Normal => self.nearest(&normal(self.function, self.interval))?,
            FitMethod::Integral => self.integral()?,
        };
        Ok(Polynomial::new(coefficients))
    }

    /// How far the polynomial is from the function on the interval.
    ///
    /// # Errors
    /// Those of [`polynomial`](Self::polynomial).
    pub fn error_on_interval(&self) -> Result<FitErrors, FitError> {
        Ok(errors_between(&self.polynomial()?, self.function, self.interval))
    }

    /// Reads a fit; one without a function, `METHOD(DEGREE,LO,HI)`, is of `kind`.
    ///
    /// # Errors
    /// A text that is no fit, and what [`Fit::new`], [`ScalarFunction::new`] and [`Interval::new`] refuse.
    pub fn parse_for(kind: ActivationKind, text: &str) -> Result<Self, FitError> {
        Self::parse(Some(kind), text)
    }

    fn parse(usual: Option<ActivationKind>, text: &str) -> Result<Self, FitError> {
        let bad = || FitError::Text(text.trim().to_owned());
        let (method, rest) = text.trim().split_once('(').ok_or_else(bad)?;
        let mut arguments: Vec<&str> = rest.strip_suffix(')').ok_or_else(bad)?.split(',').map(str::trim).collect();
        let method = method.parse()?;
        let function = match (arguments.len(), usual) {
            (4, _) => arguments.remove(0).parse()?,
            (3, Some(kind)) => ScalarFunction::new(kind, None)?,
            _ => return Err(bad()),
        };
        let [degree, lo, hi] = arguments[..] else { return Err(bad()) };
        let end = |text: &str| text.parse::<f64>().map_err(|_| bad());
        let degree = degree.parse().map_err(|_| bad())?;
        Fit::new(method, function, degree, Interval::new(end(lo)?, end(hi)?)?)
    }

    fn taylor(&self) -> Result<Vec<f64>, FitError> {
        let at = self.interval.middle();
        let terms = match smooth_series(self.function, at, self.degree) {
            Some(terms) => terms,
            None if self.function.kinks().contains(&at) => return Err(self.no_derivative(at)),
            None => series(self.function, at, self.degree),
        };
        let size = terms.iter().rev().fold(0.0, |sum, term| sum * self.interval.radius() + term.abs());
        if !size.is_finite() {
            return Err(FitError::NotFinite { function: self.function, at });
        }
        // Horner's rule with x - at for the variable.
        let shifted = terms.iter().rev().fold(Vec::new(), |sum: Vec<f64>, term| {
            let mut next: Vec<f64> = std::iter::once(0.0).chain(sum.iter().copied()).collect();
            next.iter_mut().zip(&sum).for_each(|(next, c)| *next -= at * c);
            next[0] += term;
            next
        });
        checked(shifted, self.interval, size)
    }

    /// The polynomial nearest to the function in the mean of squares over `nodes`.
    fn nearest(&self, nodes: &[Node]) -> Result<Vec<f64>, FitError> {
        let values = values(self.function, nodes)?;
        project(self.interval, nodes, &values, self.degree).ok_or_else(|| self.spoilt())?.powers()
    }

    fn integral(&self) -> Result<Vec<f64>, FitError> {
        if let Some(at) = self.function.jump().filter(|at| (self.interval.lo..=self.interval.hi).contains(at)) {
            return Err(self.no_derivative(at));
        }
        let nodes = uniform(self.function, self.interval);
        let values = values(self.function, &nodes)?;
        let slopes: Vec<f64> = nodes.iter().map(|node| series(self.function, node.x, 1)[1]).collect();
        let slope = project(self.interval, &nodes, &slopes, self.degree - 1).ok_or_else(|| self.spoilt())?;
        let mut fitted = slope.integrated();
        let total: f64 = nodes.iter().map(|node| node.weight).sum();
        let gap = |(node, value): (&Node, &f64)| node.weight * (value - fitted.eval(node.x));
        let mean = nodes.iter().zip(&values).map(gap).sum::<f64>() / total;
        fitted.add(mean);
        fitted.powers()
    }

    fn no_derivative(&self, at: f64) -> FitError {
        FitError::NoDerivative { method: self.method, function: self.function, at }
    }

    /// Nodes that cannot tell polynomials apart, which only intervals do that are too narrow for f64 at their place.
    fn spoilt(&self) -> FitError {
        FitError::Unstable { degree: self.degree, interval: self.interval, loss: 1.0 }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval { lo, hi } = self.interval;
        write!(f, "{}({},{},{lo},{hi})", self.method, self.function, self.degree)
    }
}

impl FromStr for Fit {
    type Err = FitError;

    fn from_str(text: &str) -> Result<Self, FitError> {
        Self::parse(None, text)
    }
}

impl From<Fit> for String {
    fn from(fit: Fit) -> String {
        fit.to_string()
    }
}

impl TryFrom<String> for Fit {
    type Error = FitError;

    fn try_from(text: String) -> Result<Self, FitError> {
        text.parse()
    }
}

/// The polynomial of at most `degree` with the least mean of squared errors over `samples`, the values that a network's
/// activation gets.
///
/// # Errors
/// A degree that is not in 1..=[`MAX_FIT_DEGREE`]; samples that are not finite or beyond +-10^6; fewer different ones
/// than the polynomial has coefficients; powers of x that rounding would spoil, see [`MAX_FIT_DEGREE`].
pub fn least_squares_on(function: ScalarFunction, degree: usize, samples: &[f64]) -> Result<Polynomial, FitError> {
    allowed(degree)?;
    if let Some(bad) = samples.iter().find(|x| x.is_nan() || x.abs() > FARTHEST) {
        return Err(FitError::Sample(*bad));
    }
    let lo = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let hi = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let few = || FitError::FewSamples { degree };
    let interval = Interval::new(lo, hi).map_err(|_| few())?;
    let nodes: Vec<Node> = samples.iter().map(|x| Node { x: *x, weight: 1.0 }).collect();
    let values = values(function, &nodes)?;
    let series = project(interval, &nodes, &values, degree).ok_or_else(few)?;
    Ok(Polynomial::new(series.powers()?))
}

/// How far a polynomial is from a function.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FitErrors {
    /// The largest difference.
    pub max_abs: f64,
    /// The square root of the mean squared difference.
    pub rms: f64,
    /// Where the difference is largest.
    pub at: f64,
}

/// How far `polynomial` is from `function` on samples.
///
/// # Errors
/// No samples.
pub fn errors_on(polynomial: &Polynomial, function: ScalarFunction, samples: &[f64]) -> Result<FitErrors, FitError> {
    let mut errors = FitErrors { max_abs: f64::NEG_INFINITY, rms: 0.0, at: 0.0 };
    for &x in samples {
        let gap = (polynomial.eval(x) - function.eval(x)).abs();
        errors.rms += gap * gap / samples.len() as f64;
        if gap > errors.max_abs {
            (errors.max_abs, errors.at) = (gap, x);
        }
    }
    errors.rms = errors.rms.sqrt();
    if samples.is_empty() { Err(FitError::NoSamples) } else { Ok(errors) }
}

/// How far `polynomial` is from `function` on an interval.
pub fn errors_between(polynomial: &Polynomial, function: ScalarFunction, interval: Interval) -> FitErrors {
    /// Looked at between two cuts, before the place is narrowed down.
    const LOOKS: usize = 128;
    let gap = |x: f64| (polynomial.eval(x) - function.eval(x)).abs();
    let nodes = uniform(function, interval);
    let squares: f64 = nodes.iter().map(|node| node.weight * gap(node.x).powi(2)).sum();
    let cuts = cuts(function, interval);
    let (mut max_abs, mut at) = (gap(interval.lo), interval.lo);
    for (&from, &to) in cuts.iter().zip(cuts.iter().skip(1)) {
        // Next to the cut, where a function that jumps there is already on its way.
        let from = from.next_up();
        let look = |i: usize| from + (to - from) * i.min(LOOKS) as f64 / LOOKS as f64;
        let best = (0..=LOOKS).max_by(|a, b| gap(look(*a)).total_cmp(&gap(look(*b)))).unwrap_or(0);
        let (mut lower, mut upper) = (look(best.saturating_sub(1)), look(best + 1));
        for _ in 0..40 {
            let (left, right) = (lower + (upper - lower) / 3.0, upper - (upper - lower) / 3.0);
            if gap(left) < gap(right) { lower = left } else { upper = right }
        }
        for x in [look(best), (lower + upper) / 2.0] {
            if gap(x) > max_abs {
                (max_abs, at) = (gap(x), x);
            }
        }
    }
    FitErrors { max_abs, rms: (squares / (interval.hi - interval.lo)).sqrt(), at }
}

fn allowed(degree: usize) -> Result<(), FitError> {
    if (1..=MAX_FIT_DEGREE).contains(&degree) { Ok(()) } else { Err(FitError::Degree(degree)) }
}

fn values(function: ScalarFunction, nodes: &[Node]) -> Result<Vec<f64>, FitError> {
    let value = |node: &Node| {
        let value = function.eval(node.x);
        // The squares must be finite too.
        if value.abs() < 1e100 { Ok(value) } else { Err(FitError::NotFinite { function, at: node.x }) }
    };
    nodes.iter().map(value).collect()
}
