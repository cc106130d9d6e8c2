//! What would work where a request in integers does not fit: the same with less asked for, planned.

use super::{ExactRequest, SAMPLE_MARGIN, attempt};
use crate::chain::{InputRange, norm};
use std::fmt;
use subrosa_fhe::SecurityLevel;
use subrosa_network::Chain;

/// The smallest change of a request with which there is a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NearestExact {
    /// The fixed point is found instead of given.
    OwnFixedPoint,
    /// So many bits of security.
    Security(u32),
    /// Only so many layers, the last ones.
    Layers(usize),
    /// None of these.
    OtherScheme,
}

impl fmt::Display for NearestExact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnFixedPoint => f.write_str("without --fixed-point there is a plan"),
            Self::Security(bits) => write!(f, "with --security {bits} there is a plan"),
            Self::Layers(1) => f.write_str("the last layer alone can be protected (--scope last)"),
            Self::Layers(count) => write!(f, "the last {count} layers can be protected (--scope from:LAYER)"),
            Self::OtherScheme => f.write_str("use --scheme ckks"),
        }
    }
}

/// Looks for it: fewer layers are planned on what the samples give them.
pub(super) fn nearest(request: &ExactRequest<'_>) -> NearestExact {
    let fits = |request: &ExactRequest<'_>| attempt(request).is_ok();
    let found = ExactRequest { fixed_point: None, ..*request };
    if request.fixed_point.is_some() && fits(&found) {
        return NearestExact::OwnFixedPoint;
    }
    let lower = SecurityLevel::ALL.into_iter().rev().filter(|level| level.bits() < request.security.bits());
    for security in lower {
        if fits(&ExactRequest { security, ..found }) {
            return NearestExact::Security(security.bits());
        }
    }
    let layers = &request.chain.layers;
    for first in 1..layers.len() {
        let (before, after) = layers.split_at(first);
        let (before, chain) = (Chain { layers: before.to_vec() }, Chain { layers: after.to_vec() });
        let samples: Vec<Vec<f64>> = request.samples.iter().map(|x| before.eval(x)).collect();
        let largest = |size: fn(&[f64]) -> f64| SAMPLE_MARGIN * samples.iter().map(|x| size(x)).fold(0.0, f64::max);
        let input =
            InputRange { max_abs: largest(|x| x.iter().fold(0.0, |m, v| m.max(v.abs()))), max_norm: largest(norm) };
        if fits(&ExactRequest { chain: &chain, input, samples: &samples, ..found }) {
            return NearestExact::Layers(after.len());
        }
    }
    NearestExact::OtherScheme
}
