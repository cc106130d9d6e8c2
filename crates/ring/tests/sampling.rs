//! Statistics of the samplers. Seeds are fixed, so the bounds cannot fail by chance.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

mod common;

use common::rng;
use num_bigint::BigInt;
use rand_core::{CryptoRng, Infallible, Rng, TryCryptoRng, TryRng};
use subrosa_ring::sampler::{self, SIGMA};

const SAMPLES: usize = 1 << 20;

fn count(values: &[i64], x: i64) -> f64 {
    values.iter().filter(|&&v| v == x).count() as f64
}

/// The standard normal distribution's variance of a chi-square statistic with k degrees of freedom is 2k: five sigma off.
fn assert_chi_square(statistic: f64, degrees: usize) {
    let k = degrees as f64;
    assert!((statistic - k).abs() < 5.0 * (2.0 * k).sqrt() + 3.0, "chi-square {statistic} with {degrees} degrees");
}

#[test]
fn ternary_is_uniform_on_three_values_and_independent_of_position() {
    let values = sampler::ternary(SAMPLES, &mut rng(8));
    assert_eq!(values.len(), SAMPLES);
    let expected = SAMPLES as f64 / 3.0;
    let chi: f64 = (-1..=1).map(|x| (count(&values, x) - expected).powi(2) / expected).sum();
    assert_eq!((-1..=1).map(|x| count(&values, x)).sum::<f64>(), SAMPLES as f64);
    assert_chi_square(chi, 2);
    // Neighbours within and across the groups of five digits.
    for lag in 1..=5 {
        let mut pairs = [[0f64; 3]; 3];
        for (a, b) in values.iter().zip(&values[lag..]) {
            pairs[(a + 1) as usize][(b + 1) as usize] += 1.0;
        }
        let expected = (SAMPLES - lag) as f64 / 9.0;
        assert_chi_square(pairs.iter().flatten().map(|n| (n - expected).powi(2) / expected).sum(), 8);
    }
}

#[test]
fn gaussian_has_the_right_moments_and_frequencies() {
    let values = sampler::gaussian(SAMPLES, &mut rng(9));
    let n = SAMPLES as f64;
    let mean = values.iter().sum::<i64>() as f64 / n;
    let variance = values.iter().map(|&v| (v * v) as f64).sum::<f64>() / n;
    assert!(mean.abs() < 5.0 * SIGMA / n.sqrt(), "mean {mean}");
    assert!((variance / SIGMA.powi(2) - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "variance {variance}");
    let weight = |x: i64| (-(x * x) as f64 / (2.0 * SIGMA * SIGMA)).exp();
    let total: f64 = (-60..=60).map(weight).sum();
    let chi: f64 = (-12..=12)
        .map(|x| {
            let expected = n * weight(x) / total;
            (count(&values, x) - expected).powi(2) / expected
        })
        .sum();
    assert_chi_square(chi, 25);
    let beyond = |bound: i64| values.iter().filter(|v| v.abs() > bound).count() as f64;
    let expected = n * (13..=60).map(|x| 2.0 * weight(x)).sum::<f64>() / total;
    assert!((beyond(12) - expected).abs() < 5.0 * expected.sqrt());
    assert_eq!(beyond(20), 0.0, "a value beyond 6 sigma has probability below 2^-9 in this sample");
}

/// Returns one word for all upper halves, then another for the lower ones that are asked for.
struct Halves {
    upper: u64,
    lower: u64,
    asked: usize,
}

impl TryRng for Halves {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("the sampler takes bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("the sampler takes bytes")
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        let word = if self.asked == 0 { self.upper } else { self.lower };
        self.asked += 1;
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&word.to_le_bytes()));
        Ok(())
    }
}

impl TryCryptoRng for Halves {}

/// The value at a number, and whether its lower half was asked for.
fn gaussian_of(number: u128) -> (i64, bool) {
    fn one(rng: &mut impl CryptoRng) -> i64 {
        sampler::gaussian(1, rng)[0]
    }
    let mut rng = Halves { upper: (number >> 64) as u64, lower: number as u64, asked: 0 };
    let value = one(&mut rng);
    (value, rng.asked > 1)
}

/// exp(-k^2 / (2 sigma^2)) * 2^precision by its Taylor series in exact fractions, sigma = 319/100.
fn weight(k: u64, precision: u64) -> BigInt {
    let (numerator, denominator) = (BigInt::from(k * k * 100 * 100), BigInt::from(2u64 * 319 * 319));
    let (mut term, mut sum) = (BigInt::from(1) << precision, BigInt::ZERO);
    for i in 1..2000 {
        sum += &term;
        term = -term * &numerator / (&denominator * i);
    }
    sum
}

#[test]
fn gaussian_steps_lie_where_exact_arithmetic_puts_them() {
    const PRECISION: u64 = 400;
    let weights: Vec<BigInt> = (0..120).map(|k| weight(k, PRECISION)).collect();
    let total: BigInt = weights.iter().skip(1).sum::<BigInt>() * 2 + &weights[0];
    let mut cumulative = BigInt::ZERO;
    let mut reached = 0;
    for (k, weight) in weights.iter().enumerate() {
        cumulative += if k == 0 { weight.clone() } else { weight * 2 };
        let step = u128::try_from((&cumulative << 127u32) / &total).unwrap();
        if step >= u128::MAX >> 1 {
            break;
        }
        assert_eq!(gaussian_of(step - 1), (k as i64, true), "just below step {k}");
        assert_eq!(gaussian_of(step), (k as i64 + 1, true), "at step {k}");
        assert_eq!(gaussian_of(step | 1 << 127), (-(k as i64 + 1), true), "the top bit is the sign");
        // Where the upper half is no step's, it decides.
        let upper = step >> 64 << 64;
        if k < 30 {
            assert_eq!(gaussian_of(upper - 1), (k as i64, false), "the upper half below that of step {k}");
        }
        if k < 29 {
            assert_eq!(gaussian_of(upper + (1 << 64)), (k as i64 + 1, false), "the upper half beyond that of step {k}");
        }
        reached = k + 1;
    }
    assert!(reached as f64 > 12.0 * SIGMA, "the table ends at {reached}");
}

#[test]
fn os_generators_differ() {
    let (mut a, mut b) = (sampler::os_rng().unwrap(), sampler::os_rng().unwrap());
    assert_ne!((a.next_u64(), a.next_u64()), (b.next_u64(), b.next_u64()));
}
