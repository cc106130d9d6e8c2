//! Operations that switch keys: relinearization, rotations, folds and sums of rotated ciphertexts.

use super::{Evaluator, check_level};
use crate::parameters::KeyShape;
use crate::rlwe::{Switch, common_shape, needed_key};
use crate::{Ciphertext, Digits, EvaluationKeys, FheError, KeyId, PreparedKey};
use subrosa_ring::{Galois, RnsPoly};

impl Evaluator {
    /// Brings a ciphertext of degree 2 to 4 back to degree 1 with the keys (identity, 2), (identity, 3), ...; with `rescale`
    /// the division of a rescale is part of the same rounding.
    pub fn relinearize(&self, a: &Ciphertext, keys: &EvaluationKeys, rescale: bool) -> Result<Ciphertext, FheError> {
        a.check(&self.parameters)?;
        if a.degree() < 2 {
            return Err(FheError::Degree { operation: "relinearize", degree: a.degree(), expected: "degree 2 to 4" });
        }
        self.giant_sum(&[(Galois::IDENTITY, a)], keys, rescale)
    }

    /// `a * b`, slot by slot, relinearised, and with `rescale` rescaled in the same rounding: the same as
    /// [`Self::mul`] and [`Self::relinearize`], but the product of degree 2 is never whole in memory.
    pub fn mul_relinearize(
        &self,
        a: &Ciphertext,
        b: &Ciphertext,
        keys: &EvaluationKeys,
        rescale: bool,
    ) -> Result<Ciphertext, FheError> {
        let ([a0, a1], [_, _]) = (a.components.as_slice(), b.components.as_slice()) else {
            return self.relinearize(&self.mul(a, b)?, keys, rescale);
        };
        a.check(&self.parameters)?;
        b.check(&self.parameters)?;
        check_level("multiply", a.level(), b.level())?;
        let b = self.factor(b)?;
        let (b0, b1) = match b.components.as_slice() {
            [b0, b1] => (b0, b1),
            _ => return Err(FheError::Empty { operation: "multiply" }),
        };
        let (level, scale) = (a.level(), self.parameters.scale_of_product(a.scale, b.scale));
        let key = keys.get_for(KeyId::new(Galois::IDENTITY, 2), level)?;
        let mut square = self.parameters.ring_dots(level, &[], &[vec![(a1, b1)]])?;
        let square = square.pop().ok_or(FheError::Empty { operation: "multiply" })?;
        let digits = self.decompose(&square, level, key.shape())?;
        let switch = Switch {
            level,
            products: &[(Galois::IDENTITY, &digits, key)],
            direct: &[],
            multiplied: &[(0, a0, b0), (1, a0, b1), (1, a1, b0)],
            rescale,
        };
        let components = self.switcher.switch(&switch)?.into();
        let (level, scale) = if rescale { self.rescaled(level, scale)? } else { (level, scale) };
        Ok(Ciphertext { components, scale, level })
    }

    /// Applies an automorphism (rotation of the slots, conjugation) to a ciphertext of degree at most 1.
    pub fn rotate(&self, a: &Ciphertext, galois: Galois, keys: &EvaluationKeys) -> Result<Ciphertext, FheError> {
        self.check_linear("rotate", a)?;
        self.giant_sum(&[(galois, a)], keys, false)
    }

    /// All the given rotations of a ciphertext of degree at most 1, from one decomposition. The identity gives a copy.
    pub fn rotate_hoisted(
        &self,
        a: &Ciphertext,
        elements: &[Galois],
        keys: &EvaluationKeys,
    ) -> Result<Vec<Ciphertext>, FheError> {
        let hoisted = self.hoist(a, elements, keys)?;
        let mut rotated = Vec::with_capacity(elements.len());
        for (&galois, key) in elements.iter().zip(&hoisted.keys) {
            if galois.is_identity() {
                rotated.push(a.clone());
                continue;
            }
            rotated.push(self.sum_of_rotations(a, &[(galois, *key)], &hoisted)?);
        }
        Ok(rotated)
    }

    /// `a + sum_g sigma_g(a)` for a ciphertext of degree at most 1: one decomposition, one division by the special primes.
    pub fn fold(&self, a: &Ciphertext, elements: &[Galois], keys: &EvaluationKeys) -> Result<Ciphertext, FheError> {
        let hoisted = self.hoist(a, elements, keys)?;
        let mut terms = vec![(Galois::IDENTITY, None)];
        terms.extend(elements.iter().copied().zip(hoisted.keys.iter().copied()));
        self.sum_of_rotations(a, &terms, &hoisted)
    }

    /// `sum_i sigma_{g_i}(a_i)` for ciphertexts of any degree: the component of `s^k` is switched with the key (g_i, k), all in
    /// one accumulator with one division by the special primes, which rescales as well if `rescale`.
    ///
    /// All levels and scales equal; all keys with the same special primes. The identity needs no key for degree 1.
    pub fn giant_sum(
        &self,
        terms: &[(Galois, &Ciphertext)],
        keys: &EvaluationKeys,
        rescale: bool,
    ) -> Result<Ciphertext, FheError> {
        let operation = "sum of rotations";
        let (_, first) = terms.first().ok_or(FheError::Empty { operation })?;
        let (level, scale) = (first.level(), first.scale);
        let mut used = Vec::new();
        for (galois, a) in terms {
            a.check(&self.parameters)?;
            self.check_galois(*galois)?;
            check_level(operation, level, a.level())?;
            self.parameters.check_same_scale(operation, scale, a.scale)?;
            for id in (1..=a.degree()).filter_map(|power| needed_key(*galois, power)) {
                used.push(keys.get_for(id, level)?);
            }
        }
        let shape = common_shape(&used)?;
        let mut decomposed: Vec<(Galois, Digits<'_>, &PreparedKey)> = Vec::with_capacity(used.len());
        let mut direct = Vec::new();
        for (galois, a) in terms {
            for (power, component) in a.components.iter().enumerate() {
                match (needed_key(*galois, power), shape) {
                    (Some(id), Some(shape)) => {
                        let digits = self.decompose(component, level, shape)?;
                        decomposed.push((*galois, digits, keys.get_for(id, level)?));
                    }
                    _ => direct.push((power, component, *galois)),
                }
            }
        }
        let products: Vec<_> = decomposed.iter().map(|(galois, digits, key)| (*galois, digits, *key)).collect();
        let switch = Switch { level, products: &products, direct: &direct, multiplied: &[], rescale };
        let components = self.switcher.switch(&switch)?.into();
        let (level, scale) = if rescale { self.rescaled(level, scale)? } else { (level, scale) };
        Ok(Ciphertext { components, scale, level })
    }

    /// The digits of a polynomial in NTT form at `level`, for [`crate::rlwe::KeySwitcher::switch`].
    pub fn decompose<'p>(&self, poly: &'p RnsPoly, level: usize, shape: KeyShape) -> Result<Digits<'p>, FheError> {
        self.switcher.decompose(poly, level, shape)
    }

    fn check_linear(&self, operation: &'static str, a: &Ciphertext) -> Result<(), FheError> {
        a.check(&self.parameters)?;
        if a.degree() > 1 {
            return Err(FheError::Degree { operation, degree: a.degree(), expected: "degree 1" });
        }
        Ok(())
    }

    fn check_galois(&self, galois: Galois) -> Result<(), FheError> {
        if galois.rotation as usize >= self.parameters.slots() {
            let reason = format!("rotation by {}; slots are {}", galois.rotation, self.parameters.slots());
            return Err(FheError::Malformed { what: "automorphism", reason });
        }
        Ok(())
    }

    /// Checks a ciphertext and the keys for its rotations, and decomposes it once.
    fn hoist<'k>(
        &self,
        a: &'k Ciphertext,
        elements: &[Galois],
        keys: &'k EvaluationKeys,
    ) -> Result<Hoisted<'k>, FheError> {
        self.check_linear("rotate", a)?;
        let mut found = Vec::with_capacity(elements.len());
        for &galois in elements {
            self.check_galois(galois)?;
            found.push(needed_key(galois, a.degree()).map(|id| keys.get_for(id, a.level)).transpose()?);
        }
        let used: Vec<&PreparedKey> = found.iter().copied().flatten().collect();
        let shape = common_shape(&used)?;
        let digits = match (shape, a.components.get(1)) {
            (Some(shape), Some(c1)) => Some(self.decompose(c1, a.level, shape)?),
            _ => None,
        };
        Ok(Hoisted { keys: found, digits })
    }

    fn sum_of_rotations(
        &self,
        a: &Ciphertext,
        terms: &[(Galois, Option<&PreparedKey>)],
        hoisted: &Hoisted<'_>,
    ) -> Result<Ciphertext, FheError> {
        let (mut products, mut direct) = (Vec::new(), Vec::new());
        for &(galois, key) in terms {
            for (part, component) in a.components.iter().enumerate() {
                match (part, key, &hoisted.digits) {
                    (1, Some(key), Some(digits)) => products.push((galois, digits, key)),
                    _ => direct.push((part, component, galois)),
                }
            }
        }
        let switch = Switch { level: a.level(), products: &products, direct: &direct, multiplied: &[], rescale: false };
        let components = self.switcher.switch(&switch)?.into();
        Ok(Ciphertext { components, scale: a.scale, level: a.level })
    }
}

/// One decomposition and the keys of several rotations (`None`: no key needed).
struct Hoisted<'k> {
    keys: Vec<Option<&'k PreparedKey>>,
    digits: Option<Digits<'k>>,
}
