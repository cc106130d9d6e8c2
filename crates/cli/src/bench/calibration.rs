//! How fast this machine is at this moment: printed with every bench, since absolute times move between machines and hours.

use super::Times;
use serde::Serialize;
use std::fmt;
use subrosa_fhe::{FheError, Kernel, Ring, RnsPoly, primes};
use subrosa_terminal::text;

const LOG_N: u32 = 14;
const PRIME_BITS: u32 = 45;
const RUNS: usize = 301;

/// One forward NTT of one limb.
#[derive(Serialize)]
pub(super) struct Calibration {
    what: &'static str,
    log_n: u32,
    runs: usize,
    median_seconds: f64,
    ns_per_butterfly: f64,
}

impl Calibration {
    pub fn measure(kernel: Kernel) -> Result<Self, FheError> {
        let ring = Ring::new(LOG_N, &primes::find(LOG_N, PRIME_BITS, 1, &[])?, kernel)?;
        let mut poly = RnsPoly::zero(1 << LOG_N, 1);
        fill(&mut poly);
        let times = Times::of(RUNS, || {
            ring.table(0).forward(poly.limb_mut(0));
            Ok(())
        })?;
        Ok(Self {
            what: "forward NTT",
            log_n: LOG_N,
            runs: times.runs,
            median_seconds: times.median,
            ns_per_butterfly: ns_per_butterfly(times.median, LOG_N),
        })
    }
}

/// Distinct small residues.
pub(super) fn fill(poly: &mut RnsPoly) {
    poly.as_mut_slice().iter_mut().zip(0..).for_each(|(word, i)| *word = i);
}

/// A transform of degree 2^`log_n` has N/2 log2 N butterflies.
pub(super) fn ns_per_butterfly(seconds: f64, log_n: u32) -> f64 {
    seconds * 1e9 / (f64::from(log_n - 1).exp2() * f64::from(log_n))
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (time, each) = (text::seconds(self.median_seconds), self.ns_per_butterfly);
        write!(f, "calibration: forward NTT of one limb, N=2^{}: {time}, {each:.3} ns per butterfly", self.log_n)
    }
}
