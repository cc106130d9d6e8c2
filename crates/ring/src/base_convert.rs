//! Conversion of residues from one set of primes to another.

use crate::aligned::with_scratch;
use crate::backend::Backend;
use crate::twiddles::Factor;
use crate::{Kernel, Modulus, RingError, portable};
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};

/// Converts residues modulo D = d_0 * d_1 * ... to residues of the centred representative modulo other primes.
///
/// With y_i = x_i * (D/d_i)^-1 mod d_i, the representative is sum_i y_i * (D/d_i) - v * D, where v = floor(1/2 + sum_i y_i/d_i)
/// in f64 (Halevi, Polyakov, Shoup, eprint 2018/117). The f64 operations have a fixed order: all kernels agree bit by bit.
/// The result is exact unless |x| is within about 2^-45 * D of D/2; there it may be off by D.
pub struct BaseConverter {
    /// Whether residues are converted as they are, without factors.
    plain: bool,
    sources: Vec<Source>,
    targets: Vec<Target>,
}

/// The constants of one prime d_i to convert from.
pub(crate) struct Source {
    pub(crate) modulus: Modulus,
    /// (D/d_i)^-1 mod d_i, times the factor of the source.
    pub(crate) cofactor_inverse: Factor,
    /// 1/d_i, rounded.
    pub(crate) reciprocal: f64,
}

/// The constants of one prime p to convert to.
pub(crate) struct Target {
    pub(crate) modulus: Modulus,
    /// D/d_i mod p for each i, times the factor of the target.
    pub(crate) cofactors: Vec<u64>,
    /// -D mod p, times the factor of the target.
    pub(crate) minus_product: u64,
}

impl BaseConverter {
    /// A converter from the distinct primes `from` to the primes `to`. A prime may be in both lists.
    ///
    /// # Errors
    /// [`RingError::NoPrimes`] if `from` is empty, [`RingError::DuplicatePrime`] if it repeats a prime.
    pub fn new(from: &[Modulus], to: &[Modulus]) -> Result<Self, RingError> {
        Ok(BaseConverter { plain: true, ..Self::with_factors(from, to, |_| 1, |_, _| 1)? })
    }

    /// A converter with factors, which cost nothing: x is multiplied by `source(d_i)` modulo each d_i before the conversion, and the
    /// representative by `target(j, p)` modulo the j-th prime p of `to`. The factors are residues.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn with_factors(
        from: &[Modulus],
        to: &[Modulus],
        source: impl Fn(&Modulus) -> u64,
        target: impl Fn(usize, &Modulus) -> u64,
    ) -> Result<Self, RingError> {
        if from.is_empty() {
            return Err(RingError::NoPrimes);
        }
        let sources = from
            .iter()
            .enumerate()
            .map(|(i, d)| {
                // Zero exactly if a prime is repeated.
                let cofactor = product_without(from, Some(i), d);
                let inverse = d.inv(cofactor).ok_or(RingError::DuplicatePrime { prime: d.value() })?;
                Ok(Source {
                    modulus: *d,
                    cofactor_inverse: Factor::new(d, d.mul(inverse, source(d))),
                    reciprocal: 1.0 / d.value() as f64,
                })
            })
            .collect::<Result<_, RingError>>()?;
        let targets = to
            .iter()
            .enumerate()
            .map(|(j, p)| {
                let product = |skip| p.mul(product_without(from, skip, p), target(j, p));
                Target {
                    modulus: *p,
                    cofactors: (0..from.len()).map(|i| product(Some(i))).collect(),
                    minus_product: p.neg(product(None)),
                }
            })
            .collect();
        Ok(BaseConverter { plain: false, sources, targets })
    }

    /// Converts polynomials in coefficient form: `src` has one slice for each prime of `from`, `dst` one for each of `to`.
    ///
    /// All slices must have equal lengths and the counts must match; anything else is a bug of the caller and panics. A
    /// kernel that this machine lacks is replaced by the portable one; results do not depend on it.
    pub fn convert(&self, src: &[&[u64]], dst: &mut [&mut [u64]], kernel: Kernel) {
        assert_eq!(src.len(), self.sources.len(), "one source limb for each prime converted from");
        assert_eq!(dst.len(), self.targets.len(), "one target limb for each prime converted to");
        let n = src[0].len();
        assert!(
            src.iter().all(|limb| limb.len() == n) && dst.iter().all(|limb| limb.len() == n),
            "the limbs of one conversion must have equal lengths"
        );
        if n == 0 {
            return;
        }
        let backend = Backend::of(kernel);
        match src {
            [only] if self.plain => {
                for (target, dst) in self.targets.iter().zip(dst) {
                    lift_centered(&target.modulus, dst, only, &self.sources[0].modulus, backend);
                }
            }
            _ => self.convert_tiles(src, dst, backend),
        }
    }

    /// Tile by tile, so that the sources are in first-level cache for all targets.
    fn convert_tiles(&self, src: &[&[u64]], dst: &mut [&mut [u64]], backend: Backend) {
        let n = src[0].len();
        let tile = (TILE_WORDS / (src.len() + 2)).next_power_of_two().min(n);
        with_scratch((src.len() + 1) * tile, |scratch| {
            for start in (0..n).step_by(tile) {
                let range = start..n.min(start + tile);
                let (scaled, overflow) = scratch[..(src.len() + 1) * range.len()].split_at_mut(src.len() * range.len());
                for (scaled, src) in scaled.chunks_exact_mut(range.len()).zip(src) {
                    scaled.copy_from_slice(&src[range.clone()]);
                }
                self.prepare(scaled, overflow, backend);
                for (j, dst) in dst.iter_mut().enumerate() {
                    self.write_target(j, scaled, overflow, &mut dst[range.clone()], backend);
                }
            }
        });
    }

    /// First step, in place: x_i becomes y_i for all source limbs (n words each), and `overflow` (n words) the v above.
    fn prepare(&self, limbs: &mut [u64], overflow: &mut [u64], backend: Backend) {
        match backend {
            Backend::Portable => portable::convert::prepare(&self.sources, limbs, overflow),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::convert::prepare(token, &self.sources, limbs, overflow),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::convert::prepare(token, &self.sources, limbs, overflow),
        }
    }

    /// Second step: the limb of the j-th target prime, from the results of `prepare`.
    fn write_target(&self, j: usize, limbs: &[u64], overflow: &[u64], out: &mut [u64], backend: Backend) {
        match backend {
            Backend::Portable => portable::convert::accumulate(&self.targets[j], limbs, overflow, out),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::convert::accumulate(token, &self.targets[j], limbs, overflow, out),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::convert::accumulate(token, &self.targets[j], limbs, overflow, out),
        }
    }
}

/// Words of one tile in all its slices, which should not exceed half of a first-level cache.
const TILE_WORDS: usize = 2048;

/// See [`crate::NttTable::lift_centered`].
pub(crate) fn lift_centered(p: &Modulus, out: &mut [u64], src: &[u64], from: &Modulus, backend: Backend) {
    match backend {
        Backend::Portable => portable::limb::lift_centered(p, out, src, from),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2(token) => avx2::limb::lift_centered(token, p, out, src, from),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512(token) => avx512::limb::lift_centered(token, p, out, src, from),
    }
}

/// The product of all `factors` but the one at `skip`, modulo p.
fn product_without(factors: &[Modulus], skip: Option<usize>, p: &Modulus) -> u64 {
    factors
        .iter()
        .enumerate()
        .filter(|&(i, _)| Some(i) != skip)
        .fold(1, |product, (_, factor)| p.mul(product, p.reduce(factor.value())))
}
