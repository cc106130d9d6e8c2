//! The shapes of switching keys: for each set of keys that are used together, the cheapest that is precise enough.

use crate::cost::{Arithmetic, KeyWork};
use crate::forecast::Deviations;
use crate::primes::PrimeChain;
use std::collections::BTreeMap;
use subrosa_fhe::{KeyId, KeyShape};

/// One shape for each key.
pub(crate) type Shapes = BTreeMap<KeyId, KeyShape>;

/// One step's use of keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    pub level: usize,
    pub work: KeyWork,
    /// Deviation per coefficient of what is there anyway, before the division by the highest prime if there is one.
    pub floor: f64,
}

impl Use {
    /// A use of keys beside whose noise there is the rounding of their division.
    pub fn rounded(dev: &Deviations, primes: &PrimeChain, level: usize, work: KeyWork) -> Self {
        let top = if work.rescale { primes.top(level) } else { 1.0 };
        Self { level, work, floor: dev.rescale() * top }
    }
}

/// Keys that one step uses together: they must have one shape.
#[derive(Debug, Clone)]
pub(crate) struct KeySet {
    pub ids: Vec<KeyId>,
    pub uses: Vec<Use>,
}

/// What keys are chosen by.
pub(crate) struct KeyChooser<'a> {
    pub primes: &'a PrimeChain,
    pub arithmetic: Arithmetic<'a>,
    pub dev: Deviations,
    /// Noise of a key switch over what is there anyway that is accepted.
    pub tolerance: f64,
    /// Seconds that a byte of memory counts as.
    pub per_byte: f64,
}

impl KeyChooser<'_> {
    /// The cheapest tolerable shape for `keys` keys of these uses, or the most precise if none is tolerable, and its cost.
    pub fn best(&self, uses: &[Use], keys: usize) -> Option<(KeyShape, f64)> {
        let level = uses.iter().map(|u| u.level).max()?;
        let rated = self.primes.shapes(level).into_iter().map(|shape| {
            let excess = uses.iter().map(|u| self.noise(u, shape) / u.floor).fold(0.0, f64::max);
            let seconds: f64 = uses.iter().map(|u| self.arithmetic.switch(u.work, u.level, shape).seconds).sum();
            let bytes = (keys * self.arithmetic.key_bytes(shape)) as f64;
            (shape, excess.max(self.tolerance), seconds + self.per_byte * bytes)
        });
        let (shape, _, cost) = rated.min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.total_cmp(&b.2)))?;
        Some((shape, cost))
    }

    /// A shape for every key; sets that share a key are one set. `None` if no key fits under the security table.
    pub fn shapes(&self, sets: &[KeySet]) -> Option<Shapes> {
        let mut merged: Vec<KeySet> = Vec::new();
        for set in sets {
            let (shared, apart) = merged.into_iter().partition(|m| m.ids.iter().any(|id| set.ids.contains(id)));
            merged = apart;
            let mut all = set.clone();
            for other in Vec::<KeySet>::from_iter(shared) {
                all.ids.extend(other.ids);
                all.uses.extend(other.uses);
            }
            all.ids.sort_unstable();
            all.ids.dedup();
            merged.push(all);
        }
        let mut shapes = Shapes::new();
        for set in merged {
            let (shape, _) = self.best(&set.uses, set.ids.len())?;
            shapes.extend(set.ids.into_iter().map(|id| (id, shape)));
        }
        Some(shapes)
    }

    /// Deviation per coefficient of the key products in one division, before the division by the highest prime.
    fn noise(&self, u: &Use, shape: KeyShape) -> f64 {
        let products = u.work.products as f64 / u.work.divisions.max(1) as f64;
        let digits = self.primes.log_digits(shape.digit, u.level);
        self.dev.key_product(&digits, self.primes.log_p(shape.specials)) * products.sqrt()
    }
}
