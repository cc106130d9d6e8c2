//! Hybrid key switching: digits, accumulators, and one division by the special primes at the end.
//!
//! A polynomial is cut into digits of neighbouring limbs; each digit is lifted (centred) to all other limbs and to the special
//! primes, in NTT form. An automorphism commutes with all of that and is, in orbit order, a move of blocks: so one set of
//! digits serves any number of rotations ("hoisting", Halevi-Shoup 2018/244), each by reading the digits at an offset.

use super::key::extended_ring;
use super::pool::{Pool, Pooled};
use super::{KeyId, KeySwitchKey, check_poly};
use crate::parameters::KeyShape;
use crate::{FheError, Parameters};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use subrosa_ring::{BaseConverter, Galois, ModDown, Ring, RnsPoly};

/// Words of one limb handled at a time, so that the digits are still in the first-level cache for the second component.
const BLOCK: usize = 1024;
/// Most products that one lazy sum of the ring layer takes.
pub(crate) const MAX_LAZY_PRODUCTS: usize = 1024;

/// The digits of one polynomial in NTT form, over its ciphertext primes and the special primes.
pub struct Digits {
    level: usize,
    specials: usize,
    digit: usize,
    polys: Vec<Pooled>,
}

impl Digits {
    /// Level of the polynomial that was decomposed.
    pub fn level(&self) -> usize {
        self.level
    }
}

/// Two sums over `q_0 .. q_{level-1}, p_0 .. p_{specials-1}`, to be divided by the special primes once.
pub struct KeyAccumulator {
    extension: Arc<Extension>,
    parts: [Pooled; 2],
}

/// A ring with special primes and its divisions.
struct Extension {
    level: usize,
    specials: usize,
    ring: Ring,
    /// P modulo each ciphertext prime.
    p_mod_q: Vec<u64>,
    /// Division by P; none if there are no special primes.
    mod_down: Option<ModDown>,
    /// Division by P and the highest ciphertext prime; none at level 1.
    mod_down_rescale: Option<ModDown>,
}

/// How to cut a polynomial of one level into digits.
struct Decomposer {
    ring: Ring,
    digits: Vec<(Range<usize>, BaseConverter)>,
}

/// Decomposes, multiplies by keys and divides. Shareable between threads; tables are built on first use.
pub struct KeySwitcher {
    parameters: Parameters,
    pool: Arc<Pool>,
    extensions: RwLock<BTreeMap<(usize, usize), Arc<Extension>>>,
    decomposers: RwLock<BTreeMap<(usize, usize, usize), Arc<Decomposer>>>,
}

impl KeySwitcher {
    /// A key switcher for these parameters.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            parameters: parameters.clone(),
            pool: Arc::default(),
            extensions: RwLock::default(),
            decomposers: RwLock::default(),
        }
    }

    /// The digits of `poly` (NTT form) for keys of the given special primes and digit size; `shape.level` may be above the
    /// polynomial's level.
    pub fn decompose(&self, poly: &RnsPoly, shape: KeyShape) -> Result<Digits, FheError> {
        let level = poly.limbs();
        check_poly("polynomial to decompose", poly, level, &self.parameters)?;
        self.parameters.check_key(shape)?;
        if shape.level < level {
            return Err(FheError::Level { operation: "digit decomposition", expected: shape.level, found: level });
        }
        let (n, kernel) = (self.parameters.n(), self.parameters.kernel());
        let decomposer = self.decomposer(level, shape.specials, shape.digit)?;
        let mut coefficients = self.pool.take(n, level);
        coefficients.as_mut_slice().copy_from_slice(poly.as_slice());
        decomposer.ring.inverse(&mut coefficients);
        let limbs = level + shape.specials;
        let mut polys = Vec::with_capacity(decomposer.digits.len());
        for (own, converter) in &decomposer.digits {
            let mut digit = self.pool.take(n, limbs);
            for i in own.clone() {
                digit.limb_mut(i).copy_from_slice(poly.limb(i));
            }
            let source: Vec<&[u64]> = own.clone().map(|i| coefficients.limb(i)).collect();
            let mut others: Vec<(usize, &mut [u64])> =
                digit.as_mut_slice().chunks_exact_mut(n).enumerate().filter(|(i, _)| !own.contains(i)).collect();
            let mut targets: Vec<&mut [u64]> = others.iter_mut().map(|(_, limb)| &mut **limb).collect();
            converter.convert(&source, &mut targets, kernel);
            for (i, limb) in &mut others {
                decomposer.ring.table(*i).forward(limb);
            }
            polys.push(digit);
        }
        Ok(Digits { level, specials: shape.specials, digit: shape.digit, polys })
    }

    /// An accumulator of zeros at `level` with `specials` special primes (0: plain ciphertext arithmetic).
    pub fn accumulator(&self, level: usize, specials: usize) -> Result<KeyAccumulator, FheError> {
        let extension = self.extension(level, specials)?;
        let zero = || self.pool.take_zero(self.parameters.n(), level + specials);
        Ok(KeyAccumulator { parts: [zero(), zero()], extension })
    }

    /// Adds `sum_t <sigma_t(digits_t), key_t>` to both parts: one lazy sum over all terms per output word.
    pub fn key_inner_product(
        &self,
        acc: &mut KeyAccumulator,
        terms: &[(Galois, &Digits, &KeySwitchKey)],
    ) -> Result<(), FheError> {
        let (level, specials) = (acc.extension.level, acc.extension.specials);
        for (_, digits, key) in terms {
            let unfit = |reason: String| Err(FheError::UnfitKey { id: key.id(), reason });
            if (digits.level, digits.specials) != (level, specials) {
                return Err(FheError::Level { operation: "key product", expected: level, found: digits.level });
            }
            if key.shape().level < level {
                return unfit(format!("it is at level {}, the ciphertext at {level}", key.shape().level));
            }
            if (key.shape().specials, key.shape().digit) != (specials, digits.digit) {
                return unfit(format!(
                    "it has {} special primes and digits of {} limbs, this operation {specials} and {}; keys used together must agree",
                    key.shape().specials,
                    key.shape().digit,
                    digits.digit
                ));
            }
            if key.body().iter().any(|b| b.n() != self.parameters.n()) {
                return unfit("it belongs to another ring".into());
            }
        }
        let elements: Vec<Galois> = terms.iter().map(|(galois, ..)| *galois).collect();
        let blocks = common_blocks(self.parameters.n(), &elements);
        let KeyAccumulator { extension, parts } = acc;
        let [part0, part1] = parts;
        let mut pairs0 = Vec::new();
        let mut pairs1 = Vec::new();
        for i in 0..level + specials {
            let table = extension.ring.table(i);
            for (target, sources) in &blocks {
                pairs0.clear();
                pairs1.clear();
                for ((_, digits, key), &source) in terms.iter().zip(sources) {
                    let key_limb = if i < level { i } else { key.shape().level + i - level };
                    let halves = key.body().iter().zip(key.uniform());
                    for (digit, (body, uniform)) in digits.polys.iter().zip(halves) {
                        let x = &digit.limb(i)[source..source + target.len()];
                        pairs0.push((x, &body.limb(key_limb)[target.clone()]));
                        pairs1.push((x, &uniform.limb(key_limb)[target.clone()]));
                    }
                }
                for (part, pairs) in [(&mut *part0, &pairs0), (&mut *part1, &pairs1)] {
                    for chunk in pairs.chunks(MAX_LAZY_PRODUCTS) {
                        table.dot_add_assign(&mut part.limb_mut(i)[target.clone()], chunk);
                    }
                }
            }
        }
        Ok(())
    }

    /// Divides both parts by the special primes, and by the highest ciphertext prime as well if `rescale`, rounding once.
    pub fn finish(&self, acc: KeyAccumulator, rescale: bool) -> Result<[RnsPoly; 2], FheError> {
        let KeyAccumulator { extension, parts } = acc;
        match (rescale, &extension.mod_down, &extension.mod_down_rescale) {
            (false, None, _) => Ok(parts.map(|part| part.clone())),
            (false, Some(divide), _) | (true, _, Some(divide)) => Ok(parts.map(|part| divide.apply(&part))),
            (true, _, None) => Err(FheError::Level { operation: "rescale", expected: 2, found: extension.level }),
        }
    }

    /// Divides by the highest prime of a polynomial in NTT form.
    pub fn rescale(&self, poly: &RnsPoly) -> Result<RnsPoly, FheError> {
        let level = poly.limbs();
        check_poly("polynomial to rescale", poly, level, &self.parameters)?;
        match &self.extension(level, 0)?.mod_down_rescale {
            Some(divide) => Ok(divide.apply(poly)),
            None => Err(FheError::Level { operation: "rescale", expected: 2, found: level }),
        }
    }

    fn extension(&self, level: usize, specials: usize) -> Result<Arc<Extension>, FheError> {
        cached(&self.extensions, (level, specials), || {
            self.parameters.check_level("key switching", level)?;
            if specials > 0 {
                self.parameters.check_key(KeyShape { level, specials, digit: 1 })?;
            }
            let ring = extended_ring(&self.parameters, level, specials);
            let special: Vec<usize> = (level..level + specials).collect();
            let p_mod_q = (0..level)
                .map(|i| {
                    let q = ring.modulus(i);
                    special.iter().fold(1, |product, &p| q.mul(product, q.reduce(ring.modulus(p).value())))
                })
                .collect();
            let kept: Vec<usize> = (0..level).collect();
            let mod_down = if specials > 0 { Some(ModDown::new(&ring, &special, &kept)?) } else { None };
            let mod_down_rescale = match kept.split_last() {
                Some((&last, lower)) if !lower.is_empty() => {
                    let dropped: Vec<usize> = special.iter().copied().chain([last]).collect();
                    Some(ModDown::new(&ring, &dropped, lower)?)
                }
                _ => None,
            };
            Ok(Extension { level, specials, ring, p_mod_q, mod_down, mod_down_rescale })
        })
    }

    fn decomposer(&self, level: usize, specials: usize, digit: usize) -> Result<Arc<Decomposer>, FheError> {
        cached(&self.decomposers, (level, specials, digit), || {
            let ring = self.extension(level, specials)?.ring.clone();
            let mut digits = Vec::new();
            for start in (0..level).step_by(digit) {
                let own = start..(start + digit).min(level);
                let (from, to): (Vec<_>, Vec<_>) = (0..level + specials).partition(|i| own.contains(i));
                let moduli = |limbs: Vec<usize>| -> Vec<_> { limbs.into_iter().map(|i| *ring.modulus(i)).collect() };
                digits.push((own, BaseConverter::new(&moduli(from), &moduli(to))?));
            }
            Ok(Decomposer { ring, digits })
        })
    }
}

impl KeyAccumulator {
    /// Level of the ciphertexts that are summed.
    pub fn level(&self) -> usize {
        self.extension.level
    }

    /// Adds `P * sigma_galois(poly)` to part 0 or 1; `poly` in NTT form at the accumulator's level.
    pub fn add_scaled(&mut self, part: usize, poly: &RnsPoly, galois: Galois) -> Result<(), FheError> {
        let level = self.extension.level;
        let Some(sum) = self.parts.get_mut(part) else {
            return Err(FheError::Length { what: "parts of a key accumulator", expected: 2, found: part + 1 });
        };
        if poly.n() != sum.n() || poly.limbs() != level {
            return Err(FheError::Level { operation: "key accumulator", expected: level, found: poly.limbs() });
        }
        let n = sum.n();
        for (i, &p) in self.extension.p_mod_q.iter().enumerate() {
            for (target, source, len) in galois.segments(n) {
                let source = &poly.limb(i)[source..source + len];
                let target = &mut sum.limb_mut(i)[target..target + len];
                match self.extension.specials {
                    0 => self.extension.ring.table(i).add_assign(target, source),
                    _ => self.extension.ring.table(i).mul_scalar_add_assign(target, source, p),
                }
            }
        }
        Ok(())
    }
}

/// Cuts 0..n into blocks within which every automorphism is one contiguous move; gives the start of each one's source.
fn common_blocks(n: usize, elements: &[Galois]) -> Vec<(Range<usize>, Vec<usize>)> {
    let segments: Vec<Vec<(usize, usize, usize)>> =
        elements.iter().map(|g| g.segments(n).into_iter().filter(|s| s.2 > 0).collect()).collect();
    let mut starts: BTreeSet<usize> = segments.iter().flatten().map(|s| s.0).collect();
    starts.extend((0..=n).step_by(BLOCK.min(n)));
    let starts: Vec<usize> = starts.into_iter().collect();
    starts
        .windows(2)
        .map(|w| {
            let source = |of: &Vec<(usize, usize, usize)>| {
                of.iter()
                    .find(|(target, _, len)| (*target..target + len).contains(&w[0]))
                    .map_or(w[0], |(target, source, _)| source + w[0] - target)
            };
            (w[0]..w[1], segments.iter().map(source).collect())
        })
        .collect()
}

fn cached<K: Ord + Copy, V>(
    cache: &RwLock<BTreeMap<K, Arc<V>>>,
    key: K,
    make: impl FnOnce() -> Result<V, FheError>,
) -> Result<Arc<V>, FheError> {
    if let Some(found) = cache.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(Arc::clone(found));
    }
    let made = Arc::new(make()?);
    Ok(Arc::clone(cache.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(made)))
}

/// The shape shared by keys that are used in one sum, if any key is used.
pub(crate) fn common_shape(keys: &[&KeySwitchKey]) -> Result<Option<KeyShape>, FheError> {
    let Some(first) = keys.first() else { return Ok(None) };
    let agree =
        |k: &KeySwitchKey| (k.shape().specials, k.shape().digit) == (first.shape().specials, first.shape().digit);
    match keys.iter().find(|k| !agree(k)) {
        Some(other) => Err(FheError::UnfitKey {
            id: other.id(),
            reason: format!(
                "keys used in one sum must have the same special primes and digits; the key for {} differs",
                first.id()
            ),
        }),
        None => {
            let level = keys.iter().map(|k| k.shape().level).min().unwrap_or(0);
            Ok(Some(KeyShape { level, ..first.shape() }))
        }
    }
}

/// The id of the key for one component of a ciphertext under an automorphism; `None` if no key is needed.
pub(crate) fn needed_key(galois: Galois, power: usize) -> Option<KeyId> {
    let power = u8::try_from(power).ok()?;
    (power > 1 || (power == 1 && !galois.is_identity())).then(|| KeyId::new(galois, power))
}
