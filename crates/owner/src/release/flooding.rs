//! Noise on revealed outputs, so that they say next to nothing about the noise of the ciphertexts, and with it the key.
//!
//! Li and Micciancio (ePrint 2020/1533): a CKKS decryption is the message plus the ciphertext's noise, and enough exact noise gives the key.
//! The cure of Li, Micciancio, Schultz and Sorrell (2022/816): add Gaussian noise to what is revealed, so that it is nearly the
//! same with the ciphertext's noise as without. Let every one of `d` outputs be off by at most `E` (the forecast's bound), and let each get
//! independent noise of deviation `sigma`. For one result the Kullback-Leibler divergence is at most `d E^2 / (2 sigma^2)`; for `q` results,
//! chosen adaptively, it adds up; by Pinsker's inequality the statistical distance of all that is revealed to what does not depend on
//! the ciphertexts' noise at all is at most
//!
//! ```text
//! sqrt(q d) E / (2 sigma)  =  2^-s       for     sigma = E sqrt(q d) 2^(s-1)
//! ```
//!
//! Precision pays for it: of the outputs' bits over their error, `s - 1 + log2(q d)/2` are lost.

use super::Refusal;
use rand_core::Rng;
use serde::{Deserialize, Serialize};
use std::f64::consts::{LN_2, TAU};
use std::str::FromStr;
use subrosa_fhe::FheError;
use subrosa_ring::sampler;

/// Noise may be so large a part of the largest output seen in calibration.
const LARGEST_SHARE: f64 = 1.0 / 16.0;
/// More is beyond the exactness of the sampler.
const MAX_BITS: u32 = 50;

/// To which bound outputs are flooded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flooding {
    /// s: the statistical distance of everything revealed is at most 2^-s, up to 50.
    pub bits: u32,
    /// q: results that are revealed of one network in all; the budget of the network must not be larger.
    pub results: u64,
}

/// What noise does to outputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FloodedForecast {
    /// Everything revealed is statistically within 2^-this of what does not depend on the ciphertexts' noise,
    pub bits: u32,
    /// for so many results.
    pub results: u64,
    /// Deviation of the noise on every output.
    pub deviation: f64,
    /// Bound of the error on any output with it, exceeded with probability at most 2^-39.
    pub max_abs_error: f64,
}

impl FromStr for Flooding {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let parsed = s.split_once(':').and_then(|(bits, results)| {
            let (bits, results) = (bits.parse().ok()?, results.parse().ok()?);
            ((1..=MAX_BITS).contains(&bits) && results > 0).then_some(Self { bits, results })
        });
        parsed.ok_or_else(|| {
            format!("'{s}' is not BITS:RESULTS, as in 20:1000: a statistical distance of 2^-20 (up to {MAX_BITS}) for 1000 results")
        })
    }
}

impl Flooding {
    /// What is predicted of outputs that are off by at most `error` without it.
    pub fn forecast(&self, error: f64, outputs: usize) -> FloodedForecast {
        let deviation = self.deviation(error, outputs);
        let max_abs_error = error + subrosa_fhe::noise::tail_bound(deviation, outputs);
        FloodedForecast { bits: self.bits, results: self.results, deviation, max_abs_error }
    }

    /// Deviation of the noise on each of `outputs` values that are off by at most `error`.
    pub fn deviation(&self, error: f64, outputs: usize) -> f64 {
        error * (self.results as f64 * outputs as f64).sqrt() * (f64::from(self.bits) - 1.0).exp2()
    }

    /// The error that a plan may have at most, for noise that outputs up to `largest` bear.
    pub fn error_wanted(&self, largest: f64, outputs: usize) -> f64 {
        LARGEST_SHARE * largest / self.deviation(1.0, outputs)
    }

    /// The noise's deviation for a network whose forecast is `error` and whose outputs reach `largest`.
    ///
    /// # Errors
    /// [`Refusal::Policy`] with the figures where the noise would drown the outputs.
    pub fn check(&self, error: f64, largest: f64, outputs: usize) -> Result<f64, Refusal> {
        if !(1..=MAX_BITS).contains(&self.bits) || self.results == 0 {
            return Err(Refusal::Policy(format!(
                "outputs are flooded to 2^-1 up to 2^-{MAX_BITS}, for at least one result"
            )));
        }
        let deviation = self.deviation(error, outputs);
        if deviation <= LARGEST_SHARE * largest {
            return Ok(deviation);
        }
        Err(Refusal::Policy(format!(
            "outputs cannot be flooded to 2^-{} for {} results: that takes noise of deviation {deviation:.2e}, the outputs reach {largest:.3}. \
             The network's error is at most {error:.2e}; it would have to be at most {:.2e}. Reveal labels only, or fewer results",
            self.bits,
            self.results,
            self.error_wanted(largest, outputs)
        )))
    }
}

/// Adds Gaussian noise of this deviation to every value and rounds to a grid that is fine beside it, so that low bits of the values,
/// which noise does not hide, are not revealed.
pub(super) fn flood(values: &mut [f64], deviation: f64) -> Result<(), FheError> {
    let mut rng = sampler::os_rng()?;
    let grid = (deviation.log2().floor() - 10.0).exp2();
    for value in values {
        *value = ((*value + deviation * gaussian(&mut rng)) / grid).round() * grid;
    }
    Ok(())
}

/// A standard normal number (Box and Muller), from 53 bits each of radius and angle.
pub(super) fn gaussian(rng: &mut impl Rng) -> f64 {
    // In (0, 1] and [0, 1).
    let mut unit = |offset: f64| ((rng.next_u64() >> 11) as f64 + offset) / 2f64.powi(53);
    let (radius, angle) = (unit(1.0), unit(0.0));
    (-2.0 * radius.log2() * LN_2).sqrt() * (TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_the_one_stated() {
        let flooding = Flooding { bits: 20, results: 1000 };
        let (error, outputs) = (1e-9, 10);
        let deviation = flooding.deviation(error, outputs);
        let distance = (1000.0f64 * 10.0).sqrt() * error / (2.0 * deviation);
        assert!((distance.log2() + 20.0).abs() < 1e-9);
        assert_eq!(flooding.check(error, 100.0, outputs), Ok(deviation));
        let text = flooding.check(4e-3, 7.2, outputs).unwrap_err().to_string();
        assert!(text.contains("2^-20") && text.contains("1000 results") && text.contains("7.2"), "{text}");
        let wanted = flooding.error_wanted(7.2, outputs);
        assert!(
            flooding.check(wanted * 0.999, 7.2, outputs).is_ok()
                && flooding.check(wanted * 1.001, 7.2, outputs).is_err()
        );
        assert!(Flooding { bits: 0, results: 1 }.check(0.0, 1.0, 1).is_err());
        assert!(Flooding { bits: 51, results: 1 }.check(0.0, 1.0, 1).is_err());
    }

    #[test]
    fn noise_has_the_deviation_and_the_tails_of_a_gaussian() {
        let mut values = vec![3.0; 200_000];
        flood(&mut values, 0.5).unwrap();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        // Five standard errors.
        assert!((mean - 3.0).abs() < 5.0 * 0.5 / 447.0, "{mean}");
        assert!((variance / 0.25 - 1.0).abs() < 5.0 * (2.0f64 / 200_000.0).sqrt(), "{variance}");
        let beyond = values.iter().filter(|v| (*v - 3.0).abs() > 1.5).count() as f64 / 200_000.0;
        assert!((beyond - 0.0027).abs() < 5.0 * (0.0027f64 / 200_000.0).sqrt(), "{beyond}");
        assert!(values.iter().all(|v| (v * 4096.0).fract() == 0.0), "off the grid");
    }
}
