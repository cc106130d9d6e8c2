//! Arithmetic on ciphertexts of either scheme. Operations that need keys are in `rotation.rs`.
//!
//! The schemes differ in how scales are computed with (`scale.rs`) and in two places here: BGV's ciphertexts are carried divided by t
//! (see [`crate::bgv`]), so products of two ciphertexts are multiplied by t, and plaintexts that are added are divided by it.

mod rotation;

use crate::rlwe::{KeySwitcher, MAX_DEGREE, Plaintext};
use crate::{Ciphertext, FheError, Parameters};
use std::borrow::Cow;
use subrosa_ring::RnsPoly;

/// Most products that one lazy sum of the ring layer takes.
const MAX_LAZY_PRODUCTS: usize = 1024;

/// Computes on ciphertexts; shareable between threads. Every operation checks rings, levels, degrees and scales.
pub struct Evaluator {
    parameters: Parameters,
    switcher: KeySwitcher,
}

impl Evaluator {
    /// An evaluator for these parameters.
    pub fn new(parameters: &Parameters) -> Self {
        Self { parameters: parameters.clone(), switcher: KeySwitcher::new(parameters) }
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The key switcher, for sums of key products that the methods here don't offer.
    pub fn switcher(&self) -> &KeySwitcher {
        &self.switcher
    }

    /// `a += b`; levels and scales equal, degrees may differ.
    pub fn add_assign(&self, a: &mut Ciphertext, b: &Ciphertext) -> Result<(), FheError> {
        self.check_sum("add", a, b)?;
        let ring = self.parameters.ring_of(a.level)?;
        for (x, y) in a.components.iter_mut().zip(&b.components) {
            ring.add_assign(x, y);
        }
        let missing = b.components.iter().skip(a.components.len()).cloned().collect::<Vec<_>>();
        a.components.extend(missing);
        Ok(())
    }

    /// `a -= b`; levels and scales equal, degrees may differ.
    pub fn sub_assign(&self, a: &mut Ciphertext, b: &Ciphertext) -> Result<(), FheError> {
        self.check_sum("subtract", a, b)?;
        let ring = self.parameters.ring_of(a.level)?;
        for (x, y) in a.components.iter_mut().zip(&b.components) {
            ring.sub_assign(x, y);
        }
        let mut missing = b.components.iter().skip(a.components.len()).cloned().collect::<Vec<_>>();
        missing.iter_mut().for_each(|c| ring.neg_assign(c));
        a.components.extend(missing);
        Ok(())
    }

    /// `a += plaintext`; level and scale equal.
    pub fn add_plain_assign(&self, a: &mut Ciphertext, plaintext: &Plaintext) -> Result<(), FheError> {
        a.check(&self.parameters)?;
        self.check_plain("add plaintext", a.level(), plaintext)?;
        self.parameters.check_same_scale("add plaintext", a.scale, plaintext.scale)?;
        if let Some(c0) = a.components.first_mut() {
            self.parameters.ring_of(plaintext.level)?.add_assign(c0, plaintext.carried(&self.parameters)?.as_ref());
        }
        Ok(())
    }

    /// `a = -a`.
    pub fn neg_assign(&self, a: &mut Ciphertext) -> Result<(), FheError> {
        a.check(&self.parameters)?;
        let ring = self.parameters.ring_of(a.level)?;
        a.components.iter_mut().for_each(|c| ring.neg_assign(c));
        Ok(())
    }

    /// `a * plaintext`, slot by slot; scales multiply.
    pub fn mul_plain(&self, a: &Ciphertext, plaintext: &Plaintext) -> Result<Ciphertext, FheError> {
        self.dot_plain(&[(a, plaintext)])
    }

    /// `a * b`, slot by slot, not relinearized: degrees add (at most 4 in all), scales multiply.
    pub fn mul(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext, FheError> {
        self.dot(&[(a, b)])
    }

    /// `a * a`, as [`Self::mul`].
    pub fn square(&self, a: &Ciphertext) -> Result<Ciphertext, FheError> {
        self.dot(&[(a, a)])
    }

    /// `sum_i a_i * p_i`; one lazy sum per output word. All levels equal, all products of equal scale.
    pub fn dot_plain(&self, terms: &[(&Ciphertext, &Plaintext)]) -> Result<Ciphertext, FheError> {
        self.dot_plain_onto(None, terms)
    }

    /// `start + sum_i a_i * p_i` without a pass over the sum for `start`, which has the products' level and scale.
    pub fn dot_plain_onto(
        &self,
        start: Option<&Ciphertext>,
        terms: &[(&Ciphertext, &Plaintext)],
    ) -> Result<Ciphertext, FheError> {
        let operation = "sum of products with plaintexts";
        let (first, first_plain) = terms.first().ok_or(FheError::Empty { operation })?;
        let scale_of = |a: &Ciphertext, p: &Plaintext| self.parameters.scale_of_product(a.scale, p.scale);
        let (level, scale) = (first.level(), scale_of(first, first_plain));
        for (a, plaintext) in terms {
            a.check(&self.parameters)?;
            check_level(operation, level, a.level())?;
            self.check_plain(operation, level, plaintext)?;
            self.parameters.check_same_scale(operation, scale, scale_of(a, plaintext))?;
        }
        let start = self.start(start, level, scale)?;
        let degree = terms.iter().map(|(a, _)| a.degree()).max().unwrap_or(0).max(start.len().saturating_sub(1));
        let pairs = |k| terms.iter().filter_map(|(a, p)| Some((a.components.get::<usize>(k)?, &p.poly))).collect();
        let components = self.parameters.ring_dots(level, start, &(0..=degree).map(pairs).collect::<Vec<_>>())?;
        Ok(Ciphertext { components, scale, level })
    }

    /// The components that a sum at this level and scale starts with.
    fn start<'a>(&self, start: Option<&'a Ciphertext>, level: usize, scale: f64) -> Result<&'a [RnsPoly], FheError> {
        let (operation, Some(start)) = ("start of a sum of products", start) else { return Ok(&[]) };
        start.check(&self.parameters)?;
        check_level(operation, level, start.level())?;
        self.parameters.check_same_scale(operation, scale, start.scale)?;
        Ok(&start.components)
    }

    /// `sum_i a_i * b_i`, not relinearized; one lazy sum per output word. All levels equal, all products of equal scale; the
    /// degree is the largest of the products' degrees, at most 4.
    pub fn dot(&self, terms: &[(&Ciphertext, &Ciphertext)]) -> Result<Ciphertext, FheError> {
        self.dot_onto(None, terms)
    }

    /// `start + sum_i a_i * b_i` without a pass over the sum for `start` (but in BGV), which has the products' level and scale.
    pub fn dot_onto(
        &self,
        start: Option<&Ciphertext>,
        terms: &[(&Ciphertext, &Ciphertext)],
    ) -> Result<Ciphertext, FheError> {
        let operation = "sum of products";
        let (first_a, first_b) = terms.first().ok_or(FheError::Empty { operation })?;
        let scale_of = |a: &Ciphertext, b: &Ciphertext| self.parameters.scale_of_product(a.scale, b.scale);
        let (level, scale) = (first_a.level(), scale_of(first_a, first_b));
        for (a, b) in terms {
            a.check(&self.parameters)?;
            b.check(&self.parameters)?;
            check_level(operation, level, a.level())?;
            check_level(operation, level, b.level())?;
            self.parameters.check_same_scale(operation, scale, scale_of(a, b))?;
        }
        let degree = terms.iter().map(|(a, b)| a.degree() + b.degree()).max().unwrap_or(0);
        if degree > MAX_DEGREE {
            return Err(FheError::Degree { operation, degree, expected: "a product of degree at most 4" });
        }
        let start = self.start(start, level, scale)?;
        // The component of s^k: all products of components i and k - i.
        let mut pairs = vec![Vec::new(); degree.max(start.len().saturating_sub(1)) + 1];
        for (a, b) in terms {
            for (i, x) in a.components.iter().enumerate() {
                for (pairs, y) in pairs.iter_mut().skip(i).zip(&b.components) {
                    pairs.push((x, y));
                }
            }
        }
        // In BGV the products are multiplied by t before anything is added to them.
        let (first, later): (&[_], &[_]) = if self.parameters.plain().is_none() { (start, &[]) } else { (&[], start) };
        let mut components = self.parameters.ring_dots(level, first, &pairs)?;
        self.times_t(level, &mut components)?;
        let ring = self.parameters.ring_of(level)?;
        components.iter_mut().zip(later).for_each(|(sum, start)| ring.add_assign(sum, start));
        Ok(Ciphertext { components, scale, level })
    }

    /// What an operand of a product becomes so that the product of ciphertexts is carried as a ciphertext: t times it in BGV, itself in
    /// CKKS. Products that are summed elsewhere ([`subrosa_ring::WeightStream`]) take one of their operands so.
    pub fn factor<'a>(&self, a: &'a Ciphertext) -> Result<Cow<'a, Ciphertext>, FheError> {
        if self.parameters.plain().is_none() {
            return Ok(Cow::Borrowed(a));
        }
        let mut a = a.clone();
        self.times_t(a.level, &mut a.components)?;
        Ok(Cow::Owned(a))
    }

    /// Multiplies by t in BGV.
    fn times_t(&self, level: usize, components: &mut [RnsPoly]) -> Result<(), FheError> {
        let Some(plain) = self.parameters.plain() else { return Ok(()) };
        let ring = self.parameters.ring_of(level)?;
        let t = plain.residues(self.parameters.level_limbs(level));
        components.iter_mut().for_each(|c| ring.mul_scalars_assign(c, &t));
        Ok(())
    }

    /// `a` with another scale, of which sums need equal ones; BGV only. The message stays; it is multiplied by the quotient of the scales
    /// modulo t, and the noise by as much.
    pub fn to_scale(&self, a: &Ciphertext, scale: f64) -> Result<Ciphertext, FheError> {
        a.check(&self.parameters)?;
        self.parameters.check_scale("ciphertext", scale)?;
        let Some(plain) = self.parameters.plain() else {
            self.parameters.check_same_scale("change of scale", a.scale, scale)?;
            return Ok(a.clone());
        };
        let factor = plain.modulus().center(plain.divide_scales(scale, a.scale) as u64);
        let ring = self.parameters.ring_of(a.level)?;
        let factors: Vec<u64> = (0..ring.limbs()).map(|i| ring.modulus(i).from_i64(factor)).collect();
        let mut out = Ciphertext { scale, ..a.clone() };
        out.components.iter_mut().for_each(|c| ring.mul_scalars_assign(c, &factors));
        Ok(out)
    }

    /// `a *= X^power` (power modulo 2N). `X^(N/2)` multiplies every slot by i; multiples of N/2 cost one pass.
    pub fn mul_monomial_assign(&self, a: &mut Ciphertext, power: usize) -> Result<(), FheError> {
        a.check(&self.parameters)?;
        let (n, ring) = (self.parameters.n(), self.parameters.ring_of(a.level)?);
        let limbs = ring.limbs();
        let power = power % (2 * n);
        if power.is_multiple_of(n / 2) {
            // X^(N/2) is psi^(N/2) at the points 5^j and its negative, the conjugate, at the points -5^j.
            for c in &mut a.components {
                for i in 0..limbs {
                    let (table, q) = (ring.table(i), ring.modulus(i));
                    let value = q.pow(table.root(), power as u64);
                    let conjugate = q.pow(table.root(), (2 * n - power) as u64);
                    let (first, second) = c.limb_mut(i).split_at_mut(n / 2);
                    table.mul_scalar_assign(first, value);
                    table.mul_scalar_assign(second, conjugate);
                }
            }
            return Ok(());
        }
        let mut signed = vec![0i64; n];
        if let Some(c) = signed.get_mut(power % n) {
            *c = if power < n { 1 } else { -1 };
        }
        let mut monomial = ring.from_signed(&signed, limbs);
        ring.forward(&mut monomial);
        a.components.iter_mut().for_each(|c| ring.mul_assign(c, &monomial));
        Ok(())
    }

    /// The same message modulo fewer primes; the scale stays. The lower level must have no other primes: see [`Self::to_level`].
    pub fn drop_level(&self, a: &Ciphertext, level: usize) -> Result<Ciphertext, FheError> {
        a.check(&self.parameters)?;
        if level == 0 || level > a.level() {
            return Err(FheError::Level { operation: "drop level", expected: a.level(), found: level });
        }
        let places = self.parameters.limbs_within(level, a.level);
        let places = places.ok_or(FheError::Primes { operation: "drop level", from: a.level, to: level })?;
        let lower = |c: &RnsPoly| {
            let mut lower = RnsPoly::unspecified(c.n(), places.len());
            for (limb, &place) in lower.limbs_iter_mut().zip(&places) {
                limb.copy_from_slice(c.limb(place));
            }
            lower
        };
        Ok(Ciphertext { components: a.components.iter().map(lower).collect(), scale: a.scale, level })
    }

    /// The same message at any lower level. Where that has no other primes, it is [`Self::drop_level`]; else the ciphertext is
    /// multiplied by the integer nearest to D/A and divided by D/A, D being the product of the primes that are dropped and A
    /// that of those added. The scale changes by the quotient of both, the noise by one rounding.
    pub fn to_level(&self, a: &Ciphertext, level: usize) -> Result<Ciphertext, FheError> {
        a.check(&self.parameters)?;
        if level == 0 || level > a.level {
            return Err(FheError::Level { operation: "change of level", expected: a.level, found: level });
        }
        if self.parameters.limbs_within(level, a.level).is_some() {
            return self.drop_level(a, level);
        }
        let (mut components, mut scale) = (Vec::with_capacity(a.components.len()), a.scale);
        for component in &a.components {
            let (lower, growth) = self.switcher.divide_to(component, a.level, level)?;
            components.push(lower);
            scale = self.parameters.scale_of_product(a.scale, growth);
        }
        Ok(Ciphertext { components, scale, level })
    }

    /// To the level below: multiplies by the primes that only that one has and divides by those that only the level itself has (the
    /// highest, if no primes are swapped), rounding; the scale is divided by exactly [`Parameters::rescale_factor`]. Needs level 2 or more.
    pub fn rescale(&self, a: &Ciphertext) -> Result<Ciphertext, FheError> {
        a.check(&self.parameters)?;
        let components = a.components.iter().map(|c| self.switcher.rescale(c, a.level)).collect::<Result<_, _>>()?;
        let (level, scale) = self.rescaled(a.level, a.scale)?;
        Ok(Ciphertext { components, scale, level })
    }

    /// Level and scale after a rescale from `level`.
    fn rescaled(&self, level: usize, scale: f64) -> Result<(usize, f64), FheError> {
        Ok((level.saturating_sub(1), self.parameters.scale_after_rescale(level, scale)?))
    }

    fn check_sum(&self, operation: &'static str, a: &Ciphertext, b: &Ciphertext) -> Result<(), FheError> {
        a.check(&self.parameters)?;
        b.check(&self.parameters)?;
        check_level(operation, a.level(), b.level())?;
        self.parameters.check_same_scale(operation, a.scale, b.scale)
    }

    fn check_plain(&self, operation: &'static str, level: usize, plaintext: &Plaintext) -> Result<(), FheError> {
        check_level(operation, level, plaintext.level())?;
        plaintext.check(&self.parameters)
    }
}

impl Parameters {
    /// For each list of pairs, `start + sum_i x_i * y_i` in NTT form at `level`, `start` being zero for lists without. Limb by limb, so
    /// that what the sums share stays in the caches.
    fn ring_dots(
        &self,
        level: usize,
        start: &[RnsPoly],
        sums: &[Vec<(&RnsPoly, &RnsPoly)>],
    ) -> Result<Vec<RnsPoly>, FheError> {
        let ring = self.ring_of(level)?;
        let mut out: Vec<RnsPoly> = sums.iter().map(|_| RnsPoly::unspecified(self.n(), ring.limbs())).collect();
        for i in 0..ring.limbs() {
            let table = ring.table(i);
            let starts = start.iter().map(Some).chain(std::iter::repeat(None));
            for ((sum, pairs), start) in out.iter_mut().zip(sums).zip(starts) {
                let limbs: Vec<(&[u64], &[u64])> = pairs.iter().map(|(x, y)| (x.limb(i), y.limb(i))).collect();
                let mut chunks = limbs.chunks(MAX_LAZY_PRODUCTS);
                match start {
                    Some(start) => sum.limb_mut(i).copy_from_slice(start.limb(i)),
                    None => table.dot(sum.limb_mut(i), chunks.next().unwrap_or_default()),
                }
                chunks.for_each(|chunk| table.dot_add_assign(sum.limb_mut(i), chunk));
            }
        }
        Ok(out)
    }
}

fn check_level(operation: &'static str, expected: usize, found: usize) -> Result<(), FheError> {
    if expected == found { Ok(()) } else { Err(FheError::Level { operation, expected, found }) }
}
