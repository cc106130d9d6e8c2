//! Division by some of a ring's primes.

use crate::aligned::with_scratch;
use crate::{BaseConverter, Modulus, Ring, RingError, RnsPoly};
use rayon::prelude::*;

/// Divides by the product D of the dropped primes, rounding to the nearest integer: x becomes (x - r) / D with r the
/// representative of x modulo D in (-D/2, D/2]. Serves both as rescaling and as the last step of key switching.
///
/// With primes to be added, of product A, x becomes (A x - r) / D with r that of A x, modulo the kept primes and A: A x is zero modulo
/// the added primes. The factors are part of the constants and cost nothing ("Grafting", eprint 2024/1014, changes moduli so).
pub struct ModDown {
    /// Limbs that polynomials must have: the ring's.
    limbs: usize,
    dropped: Vec<usize>,
    /// The limb of x for each limb of the result; none for added primes.
    kept: Vec<Option<usize>>,
    dropped_ring: Ring,
    kept_ring: Ring,
    /// To r/A modulo kept primes, -r/D modulo added ones.
    converter: BaseConverter,
    /// A/D modulo each kept prime.
    factors: Vec<u64>,
}

impl ModDown {
    /// For polynomials whose limbs follow `ring`: `dropped` and `kept` are disjoint lists of its limbs. Limbs in neither are ignored.
    ///
    /// # Errors
    /// [`RingError::NoPrimes`] if a list is empty, [`RingError::LimbOutOfRange`], [`RingError::DuplicatePrime`].
    pub fn new(ring: &Ring, dropped: &[usize], kept: &[usize]) -> Result<Self, RingError> {
        let limbs = ring.limbs();
        if let Some(&index) = dropped.iter().chain(kept).find(|&&i| i >= limbs) {
            return Err(RingError::LimbOutOfRange { index, limbs });
        }
        Self::build(ring, dropped, kept.iter().copied().map(Some).collect(), ring.select(kept))
    }

    /// For polynomials whose limbs follow `ring`, to polynomials whose limbs follow `to`: the primes of `to` that are not in `ring` are
    /// added. `dropped` are limbs of `ring` that are not in `to`; limbs that are neither dropped nor in `to` are ignored.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_added(ring: &Ring, dropped: &[usize], to: &Ring) -> Result<Self, RingError> {
        let limbs = ring.limbs();
        if let Some(&index) = dropped.iter().find(|&&i| i >= limbs) {
            return Err(RingError::LimbOutOfRange { index, limbs });
        }
        let kept = (0..to.limbs()).map(|j| ring.position(to.modulus(j))).collect();
        Self::build(ring, dropped, kept, to.clone())
    }

    fn build(ring: &Ring, dropped: &[usize], kept: Vec<Option<usize>>, kept_ring: Ring) -> Result<Self, RingError> {
        if dropped.is_empty() || kept.is_empty() {
            return Err(RingError::NoPrimes);
        }
        let targets: Vec<Modulus> = (0..kept_ring.limbs()).map(|j| *kept_ring.modulus(j)).collect();
        let added: Vec<Modulus> =
            targets.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(p, _)| *p).collect();
        let divided: Vec<Modulus> = dropped.iter().map(|&i| *ring.modulus(i)).collect();
        let product = |of: &[Modulus], p: &Modulus| of.iter().fold(1, |product, d| p.mul(product, p.reduce(d.value())));
        // Zero, and so without inverse, exactly if a prime is in both lists.
        let inverse =
            |of: &[Modulus], p: &Modulus| p.inv(product(of, p)).ok_or(RingError::DuplicatePrime { prime: p.value() });
        let mut factors = Vec::with_capacity(targets.len());
        let mut of_remainder = Vec::with_capacity(targets.len());
        for (p, kept) in targets.iter().zip(&kept) {
            let by_d = inverse(&divided, p)?;
            match kept {
                Some(_) => {
                    factors.push(p.mul(product(&added, p), by_d));
                    of_remainder.push(inverse(&added, p)?);
                }
                None => {
                    factors.push(0);
                    of_remainder.push(p.neg(by_d));
                }
            }
        }
        let converter = if added.is_empty() {
            BaseConverter::new(&divided, &targets)?
        } else {
            BaseConverter::with_factors(&divided, &targets, |d| product(&added, d), |j, _| of_remainder[j])?
        };
        let dropped_ring = ring.select(dropped);
        Ok(ModDown {
            limbs: ring.limbs(),
            dropped: dropped.to_vec(),
            kept,
            dropped_ring,
            kept_ring,
            converter,
            factors,
        })
    }

    /// round(A x / D) for x in NTT form with the ring's limbs; the result is in NTT form, with the kept and added limbs.
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
            let (table, factor) = (self.kept_ring.table(j), self.factors[j]);
            let Some(index) = self.kept[j] else {
                return out.into_iter().for_each(|out| table.forward(out));
            };
            with_scratch(COUNT * n, |produced| {
                let mut limbs = produced.chunks_exact_mut(n);
                produce(index, [(); COUNT].map(|()| limbs.next().unwrap_or_default()));
                for (out, produced) in out.into_iter().zip(produced.chunks_exact(n)) {
                    table.forward(out);
                    table.rsub_mul_scalar_assign(out, produced, factor);
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
