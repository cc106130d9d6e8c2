//! Buffers that outlive one operation: touching fresh memory costs more than the arithmetic done on it.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use subrosa_ring::RnsPoly;

/// Polynomials of one ring degree, by number of limbs. Holds what the busiest moment needed. Only public values pass through.
#[derive(Default)]
pub(super) struct Pool(Mutex<BTreeMap<usize, Vec<RnsPoly>>>);

/// A polynomial that goes back to its pool when dropped.
pub(super) struct Pooled {
    poly: RnsPoly,
    pool: Arc<Pool>,
}

impl Pool {
    /// A polynomial with unspecified contents.
    pub fn take(self: &Arc<Self>, n: usize, limbs: usize) -> Pooled {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let poly = free.get_mut(&limbs).and_then(Vec::pop);
        drop(free);
        Pooled { poly: poly.unwrap_or_else(|| RnsPoly::zero(n, limbs)), pool: Arc::clone(self) }
    }

    /// A zero polynomial.
    pub fn take_zero(self: &Arc<Self>, n: usize, limbs: usize) -> Pooled {
        let mut taken = self.take(n, limbs);
        taken.as_mut_slice().fill(0);
        taken
    }
}

impl Deref for Pooled {
    type Target = RnsPoly;

    fn deref(&self) -> &RnsPoly {
        &self.poly
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut RnsPoly {
        &mut self.poly
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let poly = std::mem::replace(&mut self.poly, RnsPoly::zero(0, 0));
        let mut free = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(poly.limbs()).or_default().push(poly);
    }
}
