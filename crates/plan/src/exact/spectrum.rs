//! Certified bounds of the largest eigenvalue of a symmetric positive semidefinite matrix.

use crate::chain::dot;

/// Rounds of the power iteration that guesses the eigenvalue.
const ROUNDS: usize = 30;
/// What is added to the guess at first, and when a guess was too small.
const FIRST: f64 = 1.02;
const MORE: f64 = 1.15;
/// Far above what the roundings of a factorisation of matrices of this size amount to, relative to their norm.
const ROUNDINGS: f64 = 1e-9;

/// A bound of the largest eigenvalue of `matrix` (n x n, row by row): a guess g is taken if g I - A has a Cholesky factorisation, which proves
/// that it is positive definite; else, and at most, the Frobenius norm.
pub(super) fn largest_eigenvalue(matrix: &[f64], n: usize) -> f64 {
    let frobenius = matrix.iter().map(|a| a * a).sum::<f64>().sqrt();
    if n == 0 || frobenius == 0.0 {
        return 0.0;
    }
    let mut bound = guess(matrix, n) * FIRST;
    while bound < frobenius {
        if is_definite(matrix, n, bound) {
            return bound * (1.0 + ROUNDINGS) + ROUNDINGS * frobenius;
        }
        bound *= MORE;
    }
    frobenius
}

/// The eigenvalue by power iteration, from below.
fn guess(matrix: &[f64], n: usize) -> f64 {
    let mut v: Vec<f64> = (0..n).map(|i| 1.0 + ((i * 7919) % 101) as f64 / 101.0).collect();
    let mut value = 0.0;
    for _ in 0..ROUNDS {
        let length = dot(&v, &v).sqrt();
        if length == 0.0 {
            break;
        }
        v.iter_mut().for_each(|x| *x /= length);
        let next: Vec<f64> = matrix.chunks(n).map(|row| dot(row, &v)).collect();
        value = dot(&next, &next).sqrt();
        v = next;
    }
    value
}

/// Whether shift I - A has a Cholesky factorisation.
fn is_definite(matrix: &[f64], n: usize, shift: f64) -> bool {
    // Rows of the lower factor, so that all sums are over neighbours in memory.
    let mut factor: Vec<Vec<f64>> = Vec::with_capacity(n);
    for (i, row) in matrix.chunks(n).enumerate() {
        let mut own: Vec<f64> = Vec::with_capacity(i + 1);
        for (j, other) in factor.iter().enumerate() {
            let (before, diagonal) = (other.get(..j).unwrap_or_default(), other.get(j).copied().unwrap_or(1.0));
            let entry = -row.get(j).copied().unwrap_or(0.0);
            own.push((entry - dot(&own, before)) / diagonal);
        }
        let rest = shift - row.get(i).copied().unwrap_or(0.0) - dot(&own, &own);
        if !(rest.is_finite() && rest > 0.0) {
            return false;
        }
        own.push(rest.sqrt());
        factor.push(own);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn the_bound_holds_and_is_near_the_eigenvalue() {
        let mut rng = StdRng::seed_from_u64(21);
        for _ in 0..60 {
            let (n, k) = (rng.random_range(1..30), rng.random_range(1..40));
            let b: Vec<Vec<f64>> = (0..n).map(|_| (0..k).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
            let matrix: Vec<f64> = b.iter().flat_map(|x| b.iter().map(|y| dot(x, y)).collect::<Vec<_>>()).collect();
            let bound = largest_eigenvalue(&matrix, n);
            // Many rounds from a random vector come as near as wanted.
            let mut v: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
            let mut value = 0.0;
            for _ in 0..3000 {
                let length = dot(&v, &v).sqrt();
                v.iter_mut().for_each(|x| *x /= length);
                v = matrix.chunks(n).map(|row| dot(row, &v)).collect();
                value = dot(&v, &v).sqrt();
            }
            assert!(bound >= value * (1.0 - 1e-12), "{bound} below {value}");
            assert!(bound <= 1.35 * value, "{bound} far above {value}");
        }
        assert_eq!(largest_eigenvalue(&[0.0; 9], 3), 0.0);
    }
}
