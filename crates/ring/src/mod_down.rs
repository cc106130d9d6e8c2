//! Division by some of a ring's primes.

use crate::aligned::with_scratch;
use crate::{BaseConverter, Ring, RingError, RnsPoly};
use rayon::prelude::*;

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
        assert_eq!((x.n(), x.limbs()), (self.kept_ring.n(), self.limbs), "the polynomial must have the ring's limbs");
        let [out] = self.apply_to(|limb, [out]| out.copy_from_slice(x.limb(limb)));
        out
    }

    /// [`apply`](Self::apply) for COUNT polynomials whose limbs are made when they are needed, so that they need not be kept:
    /// `produce(i, limbs)` writes limb i of each. It is called once for each dropped and each kept limb, perhaps from several
    /// threads of the current rayon pool.
    pub fn apply_to<const COUNT: usize>(
        &self,
        produce: impl Fn(usize, [&mut [u64]; COUNT]) + Sync,
    ) -> [RnsPoly; COUNT] {
        let n = self.kept_ring.n();
        let mut out = [(); COUNT].map(|()| RnsPoly::unspecified(n, self.kept.len()));
        // Of each polynomial the dropped limbs, in coefficients.
        let of_one = self.dropped.len() * n;
        with_scratch(COUNT * of_one, |dropped| {
            for (i, &index) in self.dropped.iter().enumerate() {
                let mut polys = dropped.chunks_exact_mut(of_one);
                let limbs =
                    [(); COUNT].map(|()| polys.next().map_or(&mut [][..], |poly| &mut poly[i * n..(i + 1) * n]));
                produce(index, limbs);
                for poly in dropped.chunks_exact_mut(of_one) {
                    self.dropped_ring.table(i).inverse(&mut poly[i * n..(i + 1) * n]);
                }
            }
            for (out, dropped) in out.iter_mut().zip(dropped.chunks_exact(of_one)) {
                let dropped: Vec<&[u64]> = dropped.chunks_exact(n).collect();
                let mut kept: Vec<&mut [u64]> = out.limbs_iter_mut().collect();
                self.converter.convert(&dropped, &mut kept, self.kept_ring.kernel());
            }
        });
        let keep = |(j, out): (usize, [&mut [u64]; COUNT])| {
            let (table, index, inverse) = (self.kept_ring.table(j), self.kept[j], self.inverses[j]);
            with_scratch(COUNT * n, |produced| {
                let mut limbs = produced.chunks_exact_mut(n);
                produce(index, [(); COUNT].map(|()| limbs.next().unwrap_or_default()));
                for (out, produced) in out.into_iter().zip(produced.chunks_exact(n)) {
                    table.forward(out);
                    table.rsub_mul_scalar_assign(out, produced, inverse);
                }
            });
        };
        let work: Vec<(usize, [&mut [u64]; COUNT])> = {
            let mut limbs = out.each_mut().map(RnsPoly::limbs_iter_mut);
            let mut next = || limbs.each_mut().map(|limbs| limbs.next().unwrap_or_default());
            (0..self.kept.len()).map(|j| (j, next())).collect()
        };
        if rayon::current_num_threads() > 1 && n * self.kept.len() * COUNT >= PARALLEL_WORDS {
            work.into_par_iter().with_max_len(1).for_each(keep);
        } else {
            work.into_iter().for_each(keep);
        }
        out
    }
}

/// Words of results from which on a second thread saves more than it costs.
const PARALLEL_WORDS: usize = 1 << 15;
