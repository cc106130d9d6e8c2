//! Division by some of a ring's primes.

use crate::aligned::with_scratch;
use crate::{BaseConverter, Ring, RingError, RnsPoly};

/// Divides by the product D of the dropped primes, rounding to the nearest integer: x becomes (x - r) / D with r the
/// representative of x modulo D in (-D/2, D/2]. Serves both as rescaling and as the last step of key switching.
pub struct ModDown {
    /// Limbs that polynomials must have: the ring's.
    limbs: usize,
    dropped: Vec<usize>,
    kept: Vec<usize>,
    dropped_ring: Ring,
    kept_ring: Ring,
    converter: BaseConverter,
    /// D^-1 modulo each kept prime.
    inverses: Vec<u64>,
}

impl ModDown {
    /// For polynomials whose limbs follow `ring`: `dropped` and `kept` are disjoint lists of its limbs. Limbs in neither are ignored.
    ///
    /// # Errors
    /// [`RingError::NoPrimes`] if a list is empty, [`RingError::LimbOutOfRange`], [`RingError::DuplicatePrime`].
    pub fn new(ring: &Ring, dropped: &[usize], kept: &[usize]) -> Result<Self, RingError> {
        let limbs = ring.limbs();
        if dropped.is_empty() || kept.is_empty() {
            return Err(RingError::NoPrimes);
        }
        if let Some(&index) = dropped.iter().chain(kept).find(|&&i| i >= limbs) {
            return Err(RingError::LimbOutOfRange { index, limbs });
        }
        let moduli = |indices: &[usize]| -> Vec<_> { indices.iter().map(|&i| *ring.modulus(i)).collect() };
        let inverses = moduli(kept)
            .iter()
            .map(|p| {
                let product = moduli(dropped).iter().fold(1, |product, d| p.mul(product, p.reduce(d.value())));
                // Zero exactly if a kept prime is also dropped.
                p.inv(product).ok_or(RingError::DuplicatePrime { prime: p.value() })
            })
            .collect::<Result<_, _>>()?;
        Ok(ModDown {
            limbs,
            dropped: dropped.to_vec(),
            kept: kept.to_vec(),
            dropped_ring: ring.select(dropped),
            kept_ring: ring.select(kept),
            converter: BaseConverter::new(&moduli(dropped), &moduli(kept))?,
            inverses,
        })
    }

    /// round(x / D) for x in NTT form with the ring's limbs; the result is in NTT form with the kept limbs, in the order of `kept`.
    pub fn apply(&self, x: &RnsPoly) -> RnsPoly {
        let mut out = RnsPoly::unspecified(self.kept_ring.n(), self.kept.len());
        self.apply_into(x, &mut out);
        out
    }

    /// [`apply`](Self::apply) into an existing polynomial with as many limbs as `kept`; its content is replaced.
    pub fn apply_into(&self, x: &RnsPoly, out: &mut RnsPoly) {
        let n = self.kept_ring.n();
        assert_eq!((x.n(), x.limbs()), (n, self.limbs), "the polynomial must have the ring's limbs");
        assert_eq!((out.n(), out.limbs()), (n, self.kept.len()), "the result must have the kept limbs");
        with_scratch(self.dropped.len() * n, |scratch| {
            for ((i, &index), limb) in self.dropped.iter().enumerate().zip(scratch.chunks_exact_mut(n)) {
                self.dropped_ring.table(i).inverse_into(x.limb(index), limb);
            }
            let dropped: Vec<&[u64]> = scratch.chunks_exact(n).collect();
            let mut kept: Vec<&mut [u64]> = out.limbs_iter_mut().collect();
            self.converter.convert(&dropped, &mut kept, self.kept_ring.kernel());
            for (j, ((&index, &inverse), out)) in self.kept.iter().zip(&self.inverses).zip(kept).enumerate() {
                let table = self.kept_ring.table(j);
                table.forward(out);
                table.rsub_mul_scalar_assign(out, x.limb(index), inverse);
            }
        });
    }
}
