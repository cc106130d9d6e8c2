//! Hybrid key switching: digits, accumulators, and one division by the special primes at the end.
//!
//! A polynomial is cut into digits of neighbouring limbs; each digit is lifted (centred) to all other limbs and to the special
//! primes, in NTT form. An automorphism commutes with all of that and is, in orbit order, a move of blocks: so one set of
//! digits serves any number of rotations ("hoisting", Halevi-Shoup 2018/244), each by reading the digits at an offset.

use super::key::extended_ring;
use super::{KeyId, PreparedKey, check_poly};
use crate::parameters::KeyShape;
use crate::{FheError, Parameters};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use subrosa_ring::{BaseConverter, Galois, ModDown, Ring, RnsPoly, TurnedProduct, WeightStream};

/// Most products that one lazy sum of the ring layer takes.
pub(crate) const MAX_LAZY_PRODUCTS: usize = 1024;
/// Most digits that one lazy sum of key products takes.
const MAX_LAZY_DIGITS: usize = 512;

/// The digits of one polynomial in NTT form, over its ciphertext primes and the special primes.
pub struct Digits<'p> {
    /// A digit's own limbs are those of the polynomial.
    poly: &'p RnsPoly,
    specials: usize,
    digit: usize,
    digits: Vec<Digit>,
}

/// One digit: the limbs that are not its own.
struct Digit {
    own: Range<usize>,
    others: RnsPoly,
}

impl Digits<'_> {
    /// Level of the polynomial that was decomposed.
    pub fn level(&self) -> usize {
        self.poly.limbs()
    }

    /// All limbs of each digit.
    fn limbs(&self) -> Vec<Vec<&[u64]>> {
        self.digits.iter().map(|digit| digit.limbs(self.poly)).collect()
    }
}

impl Digit {
    /// All limbs, in order.
    fn limbs<'a>(&'a self, poly: &'a RnsPoly) -> Vec<&'a [u64]> {
        let own = &self.own;
        let place = |i: usize| if i < own.start { i } else { i - own.len() };
        let limb = |i| if own.contains(&i) { poly.limb(i) } else { self.others.limb(place(i)) };
        (0..own.len() + self.others.limbs()).map(limb).collect()
    }
}

/// Two sums over `q_0 .. q_{level-1}, p_0 .. p_{specials-1}` of key products, to be divided by the special primes once, and two
/// sums of polynomials that come in with the weight P.
pub struct KeyAccumulator<'p> {
    extension: Arc<Extension>,
    products: Option<[RnsPoly; 2]>,
    direct: [Vec<(&'p RnsPoly, Galois)>; 2],
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
    extensions: RwLock<BTreeMap<(usize, usize), Arc<Extension>>>,
    decomposers: RwLock<BTreeMap<(usize, usize, usize), Arc<Decomposer>>>,
}

impl KeySwitcher {
    /// A key switcher for these parameters.
    pub fn new(parameters: &Parameters) -> Self {
        Self { parameters: parameters.clone(), extensions: RwLock::default(), decomposers: RwLock::default() }
    }

    /// The digits of `poly` (NTT form) for keys of the given special primes and digit size; `shape.level` may be above the
    /// polynomial's level.
    pub fn decompose<'p>(&self, poly: &'p RnsPoly, shape: KeyShape) -> Result<Digits<'p>, FheError> {
        let level = poly.limbs();
        check_poly("polynomial to decompose", poly, level, &self.parameters)?;
        self.parameters.check_key(shape)?;
        if shape.level < level {
            return Err(FheError::Level { operation: "digit decomposition", expected: shape.level, found: level });
        }
        let (n, kernel) = (self.parameters.n(), self.parameters.kernel());
        let decomposer = self.decomposer(level, shape.specials, shape.digit)?;
        let mut coefficients = RnsPoly::unspecified(n, level);
        for (i, limb) in coefficients.limbs_iter_mut().enumerate() {
            decomposer.ring.table(i).inverse_into(poly.limb(i), limb);
        }
        let limbs = level + shape.specials;
        let mut digits = Vec::with_capacity(decomposer.digits.len());
        for (own, converter) in &decomposer.digits {
            let source: Vec<&[u64]> = own.clone().map(|i| coefficients.limb(i)).collect();
            let mut others = RnsPoly::unspecified(n, limbs - own.len());
            converter.convert(&source, &mut others.limbs_iter_mut().collect::<Vec<_>>(), kernel);
            let foreign = (0..limbs).filter(|i| !own.contains(i));
            for (i, limb) in foreign.zip(others.limbs_iter_mut()) {
                decomposer.ring.table(i).forward(limb);
            }
            digits.push(Digit { own: own.clone(), others });
        }
        Ok(Digits { poly, specials: shape.specials, digit: shape.digit, digits })
    }

    /// An empty accumulator at `level` with `specials` special primes (0: plain ciphertext arithmetic).
    pub fn accumulator<'p>(&self, level: usize, specials: usize) -> Result<KeyAccumulator<'p>, FheError> {
        Ok(KeyAccumulator {
            extension: self.extension(level, specials)?,
            products: None,
            direct: [Vec::new(), Vec::new()],
        })
    }

    /// Adds `sum_t <sigma_t(digits_t), key_t>` to both parts: one lazy sum over all terms per output word.
    pub fn key_inner_product(
        &self,
        acc: &mut KeyAccumulator<'_>,
        terms: &[(Galois, &Digits<'_>, &PreparedKey)],
    ) -> Result<(), FheError> {
        let (level, specials) = (acc.extension.level, acc.extension.specials);
        for (_, digits, key) in terms {
            let unfit = |reason: String| Err(FheError::UnfitKey { id: key.id(), reason });
            if (digits.level(), digits.specials) != (level, specials) {
                return Err(FheError::Level { operation: "key product", expected: level, found: digits.level() });
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
            if !key.fits(&acc.extension.ring, level) {
                return unfit("it belongs to another ring".into());
            }
        }
        let (n, limbs) = (self.parameters.n(), level + specials);
        let inputs: Vec<Vec<Vec<&[u64]>>> = terms.iter().map(|(_, digits, _)| digits.limbs()).collect();
        let products: Vec<TurnedProduct<'_>> = terms
            .iter()
            .zip(&inputs)
            .map(|((galois, _, key), inputs)| TurnedProduct { weights: key.halves(), inputs, galois: *galois })
            .collect();
        let digits = inputs.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for products in products.chunks((MAX_LAZY_DIGITS / digits).max(1)) {
            let is_first = acc.products.is_none();
            let part = || RnsPoly::unspecified(n, limbs);
            let parts = acc.products.get_or_insert_with(|| [part(), part()]).each_mut();
            WeightStream::sum_turned_products(&acc.extension.ring, parts, is_first, level, products);
        }
        Ok(())
    }

    /// Divides both parts by the special primes, and by the highest ciphertext prime as well if `rescale`, rounding once.
    pub fn finish(&self, acc: KeyAccumulator<'_>, rescale: bool) -> Result<[RnsPoly; 2], FheError> {
        let KeyAccumulator { extension, products, direct } = acc;
        let (n, level) = (self.parameters.n(), extension.level);
        let too_low = FheError::Level { operation: "rescale", expected: 2, found: level };
        let (Some(mut parts), Some(mod_down)) = (products, &extension.mod_down) else {
            let ring = &extension.ring;
            let parts = direct.map(|direct| {
                let mut sum = RnsPoly::zero(n, level);
                for (poly, galois) in direct {
                    for_each_segment(&mut sum, poly, galois, |i, sum, poly| ring.table(i).add_assign(sum, poly));
                }
                sum
            });
            return match (rescale, &self.extension(level, 0)?.mod_down_rescale) {
                (false, _) => Ok(parts),
                (true, Some(divide)) => Ok(parts.map(|part| divide.apply(&part))),
                (true, None) => Err(too_low),
            };
        };
        if rescale {
            let divide = extension.mod_down_rescale.as_ref().ok_or(too_low)?;
            for (part, direct) in parts.iter_mut().zip(&direct) {
                for (poly, galois) in direct {
                    for_each_segment(part, poly, *galois, |i, part, poly| {
                        let p = extension.p_mod_q.get(i).copied().unwrap_or_default();
                        extension.ring.table(i).mul_scalar_add_assign(part, poly, p);
                    });
                }
            }
            return Ok(parts.map(|part| divide.apply(&part)));
        }
        // (x + P d) / P rounds to round(x / P) + d.
        let mut out = parts.map(|part| mod_down.apply(&part));
        for (out, direct) in out.iter_mut().zip(&direct) {
            for (poly, galois) in direct {
                let ring = &extension.ring;
                for_each_segment(out, poly, *galois, |i, out, poly| ring.table(i).add_assign(out, poly));
            }
        }
        Ok(out)
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

impl<'p> KeyAccumulator<'p> {
    /// Level of the ciphertexts that are summed.
    pub fn level(&self) -> usize {
        self.extension.level
    }

    /// Adds `P * sigma_galois(poly)` to part 0 or 1; `poly` in NTT form at the accumulator's level.
    pub fn add_scaled(&mut self, part: usize, poly: &'p RnsPoly, galois: Galois) -> Result<(), FheError> {
        let level = self.extension.level;
        let Some(sum) = self.direct.get_mut(part) else {
            return Err(FheError::Length { what: "parts of a key accumulator", expected: 2, found: part + 1 });
        };
        if poly.n() != self.extension.ring.n() || poly.limbs() != level {
            return Err(FheError::Level { operation: "key accumulator", expected: level, found: poly.limbs() });
        }
        sum.push((poly, galois));
        Ok(())
    }
}

/// Runs `work` on limb i of the sum and of `sigma_galois(poly)`, segment by segment, for all limbs of `poly`.
fn for_each_segment(sum: &mut RnsPoly, poly: &RnsPoly, galois: Galois, work: impl Fn(usize, &mut [u64], &[u64])) {
    let segments = galois.segments(poly.n());
    for (i, (sum, poly)) in sum.limbs_iter_mut().zip(poly.limbs_iter()).enumerate() {
        for (target, source, len) in segments {
            work(i, &mut sum[target..target + len], &poly[source..source + len]);
        }
    }
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
pub(crate) fn common_shape(keys: &[&PreparedKey]) -> Result<Option<KeyShape>, FheError> {
    let Some(first) = keys.first() else { return Ok(None) };
    let agree =
        |k: &PreparedKey| (k.shape().specials, k.shape().digit) == (first.shape().specials, first.shape().digit);
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
