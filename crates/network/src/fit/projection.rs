//! Weighted least squares in orthogonal polynomials, and the way from there to powers of x.
//!
//! All fits are found in t = (x - middle) / radius, which runs from -1 to 1, as sums of Chebyshev polynomials T_k(t):
//! these are well conditioned at every degree. Powers of x are not, so they come last.

use std::f64::consts::PI;

use super::{FitError, Interval, ScalarFunction};

/// Gauss-Legendre nodes on every panel: enough for a product of two polynomials of the largest degree and more.
const NODES: usize = 64;
/// The smallest panel around 0 ends at 2^-12: no activation changes its form faster, see [`ScalarFunction`]'s bounds.
const FINEST: i32 = -12;
/// Chebyshev coefficients below this share of the largest are rounding noise, and zero in truth.
const NOISE: f64 = 1e-13;
/// Largest loss to rounding, as a share of the polynomial's size on the interval.
const MAX_LOSS: f64 = 1e-8;

/// A point of a measure: where, and its weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub x: f64,
    pub weight: f64,
}

/// The ends of the interval, where the function's formula changes, and points ever closer around 0, where activations
/// bend: between neighbours the function is as good as a polynomial.
pub(super) fn cuts(function: ScalarFunction, interval: Interval) -> Vec<f64> {
    let Interval { lo, hi } = interval;
    let mut cuts = vec![lo, interval.middle(), hi, 0.0];
    cuts.extend((FINEST..=20).map(|power| 2f64.powi(power)).flat_map(|x| [x, -x]));
    cuts.extend(function.kinks());
    cuts.retain(|x| (lo..=hi).contains(x));
    cuts.sort_by(f64::total_cmp);
    cuts.dedup();
    cuts
}

/// Nodes of the integral of a function over the interval.
pub(super) fn uniform(function: ScalarFunction, interval: Interval) -> Vec<Node> {
    quadrature(&cuts(function, interval))
}

/// The same with the weight 1 / sqrt(1 - t^2) of the Chebyshev polynomials: as an integral over the angle with
/// t = cos(angle), which has no poles.
pub(super) fn arcsine(function: ScalarFunction, interval: Interval) -> Vec<Node> {
    let angle = |x: f64| interval.scaled(x).clamp(-1.0, 1.0).acos();
    let mut angles: Vec<f64> = cuts(function, interval).into_iter().map(angle).collect();
    angles.reverse();
    let mut nodes = quadrature(&angles);
    for node in &mut nodes {
        node.x = interval.middle() + interval.radius() * node.x.cos();
    }
    nodes
}

/// The same with the normal distribution around the middle, whose standard deviation is a quarter of the radius.
pub(super) fn normal(function: ScalarFunction, interval: Interval) -> Vec<Node> {
    let mut nodes = uniform(function, interval);
    for node in &mut nodes {
        node.weight *= (-8.0 * interval.scaled(node.x).powi(2)).exp();
    }
    nodes
}

fn quadrature(cuts: &[f64]) -> Vec<Node> {
    let rule = gauss_legendre();
    let panels = cuts.iter().zip(cuts.iter().skip(1));
    panels
        .flat_map(|(from, to)| {
            let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
            rule.iter().map(move |node| Node { x: middle + half * node.x, weight: half * node.weight })
        })
        .collect()
}

/// Nodes and weights on [-1, 1], by Newton's method on the Legendre polynomial from the asymptotic zeros.
fn gauss_legendre() -> Vec<Node> {
    let n = NODES as f64;
    let legendre = |x: f64| {
        let (mut before, mut value) = (1.0, x);
        for k in 1..NODES {
            let k = k as f64;
            (before, value) = (value, ((2.0 * k + 1.0) * x * value - k * before) / (k + 1.0));
        }
        (value, n * (x * value - before) / (x * x - 1.0))
    };
    (0..NODES)
        .map(|i| {
            let mut x = -(PI * (i as f64 + 0.75) / (n + 0.5)).cos();
            for _ in 0..8 {
                let (value, slope) = legendre(x);
                x -= value / slope;
            }
            let (_, slope) = legendre(x);
            Node { x, weight: 2.0 / ((1.0 - x * x) * slope * slope) }
        })
        .collect()
}

/// The sum of Chebyshev polynomials of at most `degree` that is nearest to `values` at `nodes` in the weighted mean of
/// squares: orthonormal polynomials of the measure by Stieltjes' three-term recurrence, one coefficient at a time from
/// what the ones before left over.
///
/// `None` if the nodes are too few or too close to each other to tell polynomials of this degree apart.
pub(super) fn project(interval: Interval, nodes: &[Node], values: &[f64], degree: usize) -> Option<Series> {
    let t: Vec<f64> = nodes.iter().map(|node| interval.scaled(node.x)).collect();
    let total: f64 = nodes.iter().map(|node| node.weight).sum();
    let inner = |a: &[f64], b: &[f64]| {
        nodes.iter().zip(a.iter().zip(b)).map(|(node, (a, b))| node.weight * a * b).sum::<f64>() / total
    };
    // The fit's values where it will be read: degree + 1 zeros of the next Chebyshev polynomial determine it.
    let zeros: Vec<f64> = (0..=degree).map(|j| (PI * (j as f64 + 0.5) / (degree + 1) as f64).cos()).collect();
    let mut fitted = vec![0.0; zeros.len()];
    let mut left = values.to_vec();
    let mut current = (vec![1.0; t.len()], vec![1.0; zeros.len()]);
    let mut before = (vec![0.0; t.len()], vec![0.0; zeros.len()]);
    let mut norm = 0.0;
    for k in 0..=degree {
        let c = inner(&left, &current.0);
        left.iter_mut().zip(&current.0).for_each(|(left, p)| *left -= c * p);
        fitted.iter_mut().zip(&current.1).for_each(|(sum, p)| *sum += c * p);
        if k == degree {
            break;
        }
        let products: Vec<f64> = t.iter().zip(&current.0).map(|(t, p)| t * p).collect();
        let a = inner(&products, &current.0);
        let next = |t: &[f64], p: &[f64], q: &[f64]| -> Vec<f64> {
            t.iter().zip(p.iter().zip(q)).map(|(t, (p, q))| (t - a) * p - norm * q).collect()
        };
        let mut following = (next(&t, &current.0, &before.0), next(&zeros, &current.1, &before.1));
        norm = inner(&following.0, &following.0).sqrt();
        if norm.is_nan() || norm < 1e-9 {
            return None;
        }
        following.0.iter_mut().chain(&mut following.1).for_each(|p| *p /= norm);
        before = std::mem::replace(&mut current, following);
    }
    let count = zeros.len() as f64;
    let coefficient = |k: usize| {
        let sum: f64 = (0..zeros.len()).map(|j| fitted[j] * (PI * k as f64 * (j as f64 + 0.5) / count).cos()).sum();
        sum * if k == 0 { 1.0 } else { 2.0 } / count
    };
    Some(Series { interval, terms: (0..=degree).map(coefficient).collect() })
}

/// A sum of Chebyshev polynomials on an interval.
#[derive(Debug, Clone)]
pub(super) struct Series {
    interval: Interval,
    terms: Vec<f64>,
}

impl Series {
    /// Its integral in x, up to a constant.
    pub fn integrated(&self) -> Series {
        let term = |k: usize| self.terms.get(k).copied().unwrap_or_default();
        let mut terms = vec![0.0];
        for k in 1..=self.terms.len() {
            // The integral of T_0 is T_1, of T_1 (T_0 + T_2) / 4, of T_k T_(k+1) / (2 (k + 1)) - T_(k-1) / (2 (k - 1)).
            let below = if k == 1 { 2.0 * term(0) } else { term(k - 1) };
            terms.push(self.interval.radius() * (below - term(k + 1)) / (2 * k) as f64);
        }
        Series { interval: self.interval, terms }
    }

    /// Its value at `x`, by Clenshaw's rule.
    pub fn eval(&self, x: f64) -> f64 {
        let t = self.interval.scaled(x);
        let (mut b1, mut b2) = (0.0, 0.0);
        for term in self.terms.iter().skip(1).rev() {
            (b1, b2) = (term + 2.0 * t * b1 - b2, b1);
        }
        self.terms[0] + t * b1 - b2
    }

    pub fn add(&mut self, constant: f64) {
        self.terms[0] += constant;
    }

    /// Coefficients of powers of x, ascending; coefficients that are rounding noise are taken out before.
    ///
    /// # Errors
    /// Powers of x in which the polynomial loses more than [`MAX_LOSS`] to rounding.
    pub fn powers(&self) -> Result<Vec<f64>, FitError> {
        let largest = self.terms.iter().fold(0.0, |max: f64, term| max.max(term.abs()));
        let terms: Vec<f64> =
            self.terms.iter().map(|term| if term.abs() < NOISE * largest { 0.0 } else { *term }).collect();
        // t = slope x + offset.
        let (slope, offset) = (self.interval.radius().recip(), -self.interval.middle() / self.interval.radius());
        let twice_t = |p: &[f64]| -> Vec<f64> {
            (0..=p.len())
                .map(|k| {
                    let same = p.get(k).copied().unwrap_or_default();
                    let below = k.checked_sub(1).map_or(0.0, |k| p[k]);
                    2.0 * (offset * same + slope * below)
                })
                .collect()
        };
        let minus = |p: &mut Vec<f64>, q: &[f64]| p.iter_mut().zip(q).for_each(|(p, q)| *p -= q);
        // Clenshaw's rule with polynomials in x for numbers.
        let (mut b1, mut b2): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        for term in terms.iter().skip(1).rev() {
            let mut b = if b1.is_empty() { vec![0.0] } else { twice_t(&b1) };
            b[0] += term;
            minus(&mut b, &b2);
            b2 = std::mem::replace(&mut b1, b);
        }
        let mut sum: Vec<f64> = twice_t(&b1).iter().map(|c| c / 2.0).collect();
        sum[0] += terms[0];
        minus(&mut sum, &b2);
        checked(sum, self.interval, largest)
    }
}

/// `coefficients` of powers of x, if rounding costs little of a polynomial that is as large as `size` on the interval.
///
/// Each power is rounded by up to 2^-52 of its own size; far from 0, powers are large and nearly cancel.
pub(super) fn checked(coefficients: Vec<f64>, interval: Interval, size: f64) -> Result<Vec<f64>, FitError> {
    let far = interval.lo.abs().max(interval.hi.abs());
    let sum = coefficients.iter().rev().fold(0.0, |sum, c| sum * far + c.abs());
    let loss = if size > 0.0 { f64::EPSILON * sum / size } else { 0.0 };
    if loss <= MAX_LOSS {
        Ok(coefficients)
    } else {
        Err(FitError::Unstable { degree: coefficients.len().saturating_sub(1), interval, loss })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quadrature_is_exact_on_polynomials() {
        let nodes = gauss_legendre();
        for power in 0..=127 {
            let integral: f64 = nodes.iter().map(|node| node.weight * node.x.powi(power)).sum();
            let exact = if power % 2 == 0 { 2.0 / f64::from(power + 1) } else { 0.0 };
            assert!((integral - exact).abs() < 1e-14, "{power}: {integral} {exact}");
        }
    }
}
