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
use std::sync::{Arc, PoisonError, RwLock};
use subrosa_ring::{BaseConverter, Galois, ModDown, NttTable, Ring, RnsPoly, TurnedProduct, WeightStream};

/// Most digits that one lazy sum of key products takes.
const MAX_LAZY_DIGITS: usize = 512;

/// The digits of one polynomial in NTT form, over its ciphertext primes and the special primes.
pub struct Digits<'p> {
    /// A digit's own limbs are those of the polynomial.
    poly: &'p RnsPoly,
    level: usize,
    specials: usize,
    digit: usize,
    decomposer: Arc<Decomposer>,
    /// Of each digit the limbs that are not its own, in order; of an empty digit a limb of zeros.
    others: Vec<RnsPoly>,
}

impl Digits<'_> {
    /// Level of the polynomial that was decomposed.
    pub fn level(&self) -> usize {
        self.level
    }

    /// All limbs of each digit, in order.
    fn limbs(&self) -> Vec<Vec<&[u64]>> {
        let all = self.decomposer.ring.limbs();
        let digits = self.decomposer.digits.iter().zip(&self.others);
        digits
            .map(|((own, converter), others)| {
                if converter.is_none() {
                    return vec![others.as_slice(); all];
                }
                let mut others = others.limbs_iter();
                let limb = |i| if own.contains(&i) { Some(self.poly.limb(i)) } else { others.next() };
                (0..all).filter_map(limb).collect()
            })
            .collect()
    }
}

/// What is summed in one key switch, to be divided by the special primes once.
pub struct Switch<'a> {
    /// Level of everything in it.
    pub level: usize,
    /// `(g, digits of c, key)`: the key product of sigma_g(c). All keys have the digits' special primes and digit size.
    pub products: &'a [(Galois, &'a Digits<'a>, &'a PreparedKey)],
    /// `(part, c, g)`: sigma_g(c), which is added to part 0 or 1 of the result as it is.
    pub direct: &'a [(usize, &'a RnsPoly, Galois)],
    /// `(part, x, y)`: the product x y, which is added to part 0 or 1 of the result as it is. It is made limb by limb and not kept.
    pub multiplied: &'a [(usize, &'a RnsPoly, &'a RnsPoly)],
    /// Whether the result is rescaled to the level below as well, in the same rounding.
    pub rescale: bool,
}

/// A ring with special primes and its divisions.
struct Extension {
    level: usize,
    specials: usize,
    /// Ciphertext primes.
    limbs: usize,
    ring: Ring,
    /// P modulo each ciphertext prime.
    p_mod_q: Vec<u64>,
    /// Division by P; none if there are no special primes.
    mod_down: Option<ModDown>,
    /// Division by P and what a rescale drops, with what it adds; none at level 1.
    mod_down_rescale: Option<ModDown>,
}

/// How to cut a polynomial of one level into digits.
struct Decomposer {
    ring: Ring,
    /// Limbs of each digit, and their conversion to all others; none for an empty digit.
    digits: Vec<(Vec<usize>, Option<BaseConverter>)>,
}

/// Level, number of special primes, and the limbs of each digit.
type Cut = (usize, usize, Vec<Vec<usize>>);

/// Decomposes, multiplies by keys and divides. Shareable between threads; tables are built on first use.
pub struct KeySwitcher {
    parameters: Parameters,
    extensions: RwLock<BTreeMap<(usize, usize), Arc<Extension>>>,
    decomposers: RwLock<BTreeMap<Cut, Arc<Decomposer>>>,
}

impl KeySwitcher {
    /// A key switcher for these parameters.
    pub fn new(parameters: &Parameters) -> Self {
        Self { parameters: parameters.clone(), extensions: RwLock::default(), decomposers: RwLock::default() }
    }

    /// The digits of `poly` (NTT form, at `level`) for keys of the given shape; `shape.level` may be above the polynomial's level, whose
    /// primes it must have.
    pub fn decompose<'p>(&self, poly: &'p RnsPoly, level: usize, shape: KeyShape) -> Result<Digits<'p>, FheError> {
        let operation = "digit decomposition";
        check_poly("polynomial to decompose", poly, level, &self.parameters)?;
        self.parameters.check_key(shape)?;
        if shape.level < level {
            return Err(FheError::Level { operation, expected: shape.level, found: level });
        }
        let cut = self.parameters.digit_limbs(shape, level);
        let cut = cut.ok_or(FheError::Primes { operation, from: shape.level, to: level })?;
        let (n, kernel) = (self.parameters.n(), self.parameters.kernel());
        let decomposer = self.decomposer((level, shape.specials, cut))?;
        let mut coefficients = RnsPoly::unspecified(n, poly.limbs());
        for (i, limb) in coefficients.limbs_iter_mut().enumerate() {
            decomposer.ring.table(i).inverse_into(poly.limb(i), limb);
        }
        let limbs = decomposer.ring.limbs();
        let mut digits = Vec::with_capacity(decomposer.digits.len());
        for (own, converter) in &decomposer.digits {
            let Some(converter) = converter else {
                digits.push(RnsPoly::zero(n, 1));
                continue;
            };
            let source: Vec<&[u64]> = own.iter().map(|&i| coefficients.limb(i)).collect();
            let mut others = RnsPoly::unspecified(n, limbs - own.len());
            converter.convert(&source, &mut others.limbs_iter_mut().collect::<Vec<_>>(), kernel);
            let foreign = (0..limbs).filter(|i| !own.contains(i));
            for (i, limb) in foreign.zip(others.limbs_iter_mut()) {
                decomposer.ring.table(i).forward(limb);
            }
            digits.push(others);
        }
        Ok(Digits { poly, level, specials: shape.specials, digit: shape.digit, decomposer, others: digits })
    }

    /// The two parts of the sum: `round((sum <sigma(digits), key> + P (sum sigma(direct) + sum x y)) / P)`, or rescaled as well.
    ///
    /// Limb by limb, so that the sums before the division stay in the caches; on several threads of the current rayon pool if
    /// that pays.
    pub fn switch(&self, switch: &Switch<'_>) -> Result<[RnsPoly; 2], FheError> {
        let &Switch { level, products, rescale, .. } = switch;
        let specials = products.first().map_or(0, |(_, digits, _)| digits.specials);
        let extension = self.extension(level, specials)?;
        self.check_switch(switch, &extension)?;
        let inputs: Vec<Vec<Vec<&[u64]>>> = products.iter().map(|(_, digits, _)| digits.limbs()).collect();
        let products: Vec<TurnedProduct<'_>> = products
            .iter()
            .zip(&inputs)
            .map(|((galois, _, key), inputs)| {
                let (weights, group) = key.halves();
                TurnedProduct { weights, group, inputs, galois: *galois }
            })
            .collect();
        let digits = inputs.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let at_a_time = (MAX_LAZY_DIGITS / digits).max(1);
        let ring = &extension.ring;
        let produce = |limb: usize, mut parts: [&mut [u64]; 2]| {
            // What comes in with the factor P, first; it is zero modulo the special primes.
            let mut initial = [0; 2];
            if let Some(&p) = extension.p_mod_q.get(limb) {
                for ((index, part), factor) in parts.iter_mut().enumerate().zip(&mut initial) {
                    if sum_direct(ring.table(limb), limb, part, index, switch) {
                        *factor = p;
                    }
                }
            }
            if products.is_empty() {
                let empty = parts.iter_mut().zip(initial).filter(|(_, factor)| *factor == 0);
                empty.for_each(|(part, _)| part.fill(0));
            }
            for products in products.chunks(at_a_time) {
                let acc = parts.each_mut().map(|part| &mut **part);
                WeightStream::sum_turned_products(ring, limb, products, initial, acc);
                initial = [1; 2];
            }
        };
        match (rescale, &extension.mod_down, &extension.mod_down_rescale) {
            (false, Some(divide), _) | (true, _, Some(divide)) => Ok(divide.apply_to(produce)),
            (true, _, None) => Err(FheError::Level { operation: "rescale", expected: 2, found: level }),
            (false, None, _) => {
                let mut sums = [(); 2].map(|()| RnsPoly::unspecified(self.parameters.n(), extension.limbs));
                let [part0, part1] = &mut sums;
                for (limb, parts) in part0.limbs_iter_mut().zip(part1.limbs_iter_mut()).enumerate() {
                    produce(limb, parts.into());
                }
                Ok(sums)
            }
        }
    }

    fn check_switch(&self, switch: &Switch<'_>, extension: &Extension) -> Result<(), FheError> {
        let (level, specials) = (extension.level, extension.specials);
        let operation = "key switch";
        let direct = switch.direct.iter().map(|&(part, poly, _)| (part, poly));
        let multiplied = switch.multiplied.iter().flat_map(|&(part, x, y)| [(part, x), (part, y)]);
        for (part, poly) in direct.chain(multiplied) {
            if part > 1 {
                return Err(FheError::Length { what: "parts of a key switch", expected: 2, found: part + 1 });
            }
            check_poly("operand of a key switch", poly, level, &self.parameters)?;
        }
        for (_, digits, key) in switch.products {
            let unfit = |reason: String| Err(FheError::UnfitKey { id: key.id(), reason });
            if (digits.level(), digits.specials) != (level, specials) {
                return Err(FheError::Level { operation, expected: level, found: digits.level() });
            }
            if key.shape().level < level {
                return unfit(format!("it is at level {}, the ciphertext at {level}", key.shape().level));
            }
            let Some(cut) = self.parameters.digit_limbs(key.shape(), level) else {
                return unfit(format!("it is at level {}, which lacks primes of level {level}", key.shape().level));
            };
            if (key.shape().specials, key.shape().digit) != (specials, digits.digit) {
                return unfit(format!(
                    "it has {} special primes and digits of {} limbs, this operation {specials} and {}; keys used together must agree",
                    key.shape().specials,
                    key.shape().digit,
                    digits.digit
                ));
            }
            if !cut.iter().eq(digits.decomposer.digits.iter().map(|(own, _)| own)) {
                return unfit("it cuts the ciphertext at other limbs than the keys it is used with".into());
            }
            if !key.fits(&extension.ring) {
                return unfit("it belongs to another ring".into());
            }
        }
        Ok(())
    }

    /// Rescales a polynomial in NTT form from `level` to the level below.
    pub fn rescale(&self, poly: &RnsPoly, level: usize) -> Result<RnsPoly, FheError> {
        check_poly("polynomial to rescale", poly, level, &self.parameters)?;
        match &self.extension(level, 0)?.mod_down_rescale {
            Some(divide) => Ok(divide.apply(poly)),
            None => Err(FheError::Level { operation: "rescale", expected: 2, found: level }),
        }
    }

    /// From `level` to any lower level of a polynomial in NTT form: round(c A poly / D) with D the product of the primes that only `level` has,
    /// A that of those that only `lower` has, and `c` the integer nearest to D/A; also returns the scale c A/D, by which the message grows.
    pub(crate) fn divide_to(&self, poly: &RnsPoly, level: usize, lower: usize) -> Result<(RnsPoly, f64), FheError> {
        check_poly("polynomial to divide", poly, level, &self.parameters)?;
        let (from, to) = (self.parameters.ring_of(level)?, self.parameters.ring_of(lower)?);
        let dropped: Vec<usize> = (0..from.limbs()).filter(|&i| to.position(from.modulus(i)).is_none()).collect();
        let mut added = (0..to.limbs()).map(|j| to.modulus(j)).filter(|p| from.position(p).is_none());
        // In turn, so that nothing overflows.
        let mut ratio = 1.0;
        for &i in &dropped {
            ratio *= from.modulus(i).value() as f64;
            ratio /= added.next().map_or(1.0, |a| a.value() as f64);
        }
        ratio = added.fold(ratio, |ratio, a| ratio / a.value() as f64);
        // An f64 from 2^53 on is an integer: its 53 bits times a power of two.
        let factor = ratio.round();
        let (mut exponent, mut mantissa) = (0, factor);
        while mantissa >= 2f64.powi(53) && exponent < 2048 {
            (mantissa, exponent) = (mantissa / 2.0, exponent + 1);
        }
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(FheError::Level { operation: "change of level", expected: level, found: lower });
        }
        let residue = |i: usize| {
            let q = from.modulus(i);
            q.mul(q.reduce(mantissa as u64), q.pow(q.reduce(2), exponent))
        };
        let mut scaled = poly.clone();
        from.mul_scalars_assign(&mut scaled, &(0..from.limbs()).map(residue).collect::<Vec<_>>());
        let growth = match self.parameters.plain() {
            None => factor / ratio,
            Some(plain) => {
                let added = (0..to.limbs()).map(|j| to.modulus(j)).filter(|p| from.position(p).is_none());
                let t = plain.modulus();
                let c = t.mul(t.reduce(mantissa as u64), t.pow(t.reduce(2), exponent));
                let divided = plain.product(dropped.iter().map(|&i| from.modulus(i).value()));
                plain.quotient(t.mul(c, plain.product(added.map(|p| p.value()))), divided) as f64
            }
        };
        Ok((ModDown::with_added(from, &dropped, to)?.apply(&scaled), growth))
    }

    fn extension(&self, level: usize, specials: usize) -> Result<Arc<Extension>, FheError> {
        cached(&self.extensions, (level, specials), || {
            self.parameters.check_level("key switching", level)?;
            if specials > 0 {
                self.parameters.check_key(KeyShape { level, specials, digit: 1 })?;
            }
            let ring = extended_ring(&self.parameters, level, specials);
            let limbs = ring.limbs() - specials;
            let special: Vec<usize> = (limbs..limbs + specials).collect();
            let p_mod_q = (0..limbs)
                .map(|i| {
                    let q = ring.modulus(i);
                    special.iter().fold(1, |product, &p| q.mul(product, q.reduce(ring.modulus(p).value())))
                })
                .collect();
            let kept: Vec<usize> = (0..limbs).collect();
            let mod_down = if specials > 0 { Some(ModDown::new(&ring, &special, &kept)?) } else { None };
            let mod_down_rescale = if level > 1 {
                let lower = self.parameters.ring_of(level - 1)?;
                let gone = kept.into_iter().filter(|&i| lower.position(ring.modulus(i)).is_none());
                let dropped: Vec<usize> = special.iter().copied().chain(gone).collect();
                Some(ModDown::with_added(&ring, &dropped, lower)?)
            } else {
                None
            };
            Ok(Extension { level, specials, limbs, ring, p_mod_q, mod_down, mod_down_rescale })
        })
    }

    fn decomposer(&self, cut: Cut) -> Result<Arc<Decomposer>, FheError> {
        cached(&self.decomposers, cut.clone(), || {
            let (level, specials, cut) = cut;
            let ring = self.extension(level, specials)?.ring.clone();
            let mut digits = Vec::new();
            for own in cut {
                let moduli = |limbs: &[usize]| -> Vec<_> { limbs.iter().map(|&i| *ring.modulus(i)).collect() };
                let others: Vec<usize> = (0..ring.limbs()).filter(|i| !own.contains(i)).collect();
                let converter = match own.as_slice() {
                    [] => None,
                    own => Some(BaseConverter::new(&moduli(own), &moduli(&others))?),
                };
                digits.push((own, converter));
            }
            Ok(Decomposer { ring, digits })
        })
    }
}

/// Writes one limb of what is added to a part as it is; says whether there is anything.
fn sum_direct(table: &NttTable, limb: usize, part: &mut [u64], index: usize, switch: &Switch<'_>) -> bool {
    let multiplied = switch.multiplied.iter().filter(|(part, ..)| *part == index);
    let pairs: Vec<(&[u64], &[u64])> = multiplied.map(|(_, x, y)| (x.limb(limb), y.limb(limb))).collect();
    let mut found = !pairs.is_empty();
    if found {
        table.dot(part, &pairs);
    }
    for (_, poly, galois) in switch.direct.iter().filter(|(part, ..)| *part == index) {
        let poly = poly.limb(limb);
        for (target, source, len) in galois.segments(poly.len()) {
            let (part, poly) = (&mut part[target..target + len], &poly[source..source + len]);
            if found { table.add_assign(part, poly) } else { part.copy_from_slice(poly) }
        }
        found = true;
    }
    found
}

fn cached<K: Ord, V>(
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

/// The shape of the first of keys that are used in one sum, if any key is used: their special primes and digits agree.
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
        None => Ok(Some(first.shape())),
    }
}

/// The id of the key for one component of a ciphertext under an automorphism; `None` if no key is needed.
pub(crate) fn needed_key(galois: Galois, power: usize) -> Option<KeyId> {
    let power = u8::try_from(power).ok()?;
    (power > 1 || (power == 1 && !galois.is_identity())).then(|| KeyId::new(galois, power))
}
