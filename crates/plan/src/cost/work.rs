//! The engine's operations as sums of the inner loops that a [`CostModel`] knows.
//!
//! Levels l, special primes s, D = ceil(l/digit) digits of a key. The counts are those of `subrosa_fhe::rlwe` and
//! `subrosa_fhe::ckks`.

use super::{CostModel, Stream};
use serde::Serialize;
use std::ops::{Add, AddAssign, Mul};
use subrosa_fhe::KeyShape;

/// What loops take in a program, whose other steps have filled the caches, over what they take measured alone: the middle of what
/// `subrosa bench classifier` showed for seven shapes with plain and with encrypted input (1.06 to 1.34).
const IN_A_PROGRAM: f64 = 1.15;

/// Predicted work, with the counts behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Work {
    /// Predicted time.
    pub seconds: f64,
    /// NTTs, forward and inverse, of one limb each.
    pub ntts: usize,
    /// Products of a weight ciphertext with an input.
    pub products: usize,
    /// Products of all digits of one polynomial with one key.
    pub key_products: usize,
    /// Bytes of keys that are read.
    pub key_bytes: u64,
    /// Bytes of weights that are read.
    pub weight_bytes: u64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.ntts += other.ntts;
        self.products += other.products;
        self.key_products += other.key_products;
        self.key_bytes += other.key_bytes;
        self.weight_bytes += other.weight_bytes;
    }
}

impl Add for Work {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Mul<usize> for Work {
    type Output = Self;

    fn mul(self, times: usize) -> Self {
        Self {
            seconds: self.seconds * times as f64,
            ntts: self.ntts * times,
            products: self.products * times,
            key_products: self.key_products * times,
            key_bytes: self.key_bytes * times as u64,
            weight_bytes: self.weight_bytes * times as u64,
        }
    }
}

/// How often a step decomposes, multiplies with keys and divides by the special primes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyWork {
    pub decompositions: usize,
    pub products: usize,
    pub divisions: usize,
    /// Whether the division drops the highest prime too.
    pub rescale: bool,
}

impl KeyWork {
    /// `count` rotations from one decomposition, each divided on its own.
    pub fn hoisted(count: usize) -> Self {
        Self { decompositions: 1, products: count, divisions: count, rescale: false }
    }

    /// A stage of a fold with `count` automorphisms.
    pub fn fold(count: usize) -> Self {
        Self { decompositions: 1, products: count, divisions: 1, rescale: false }
    }

    /// The sum of `giants` rotated ciphertexts of degree 2; the first is not rotated, so only its s^2 needs a key.
    pub fn giants(giants: usize, rescale: bool) -> Self {
        Self::switched(2 * giants - 1, rescale)
    }

    /// Back to degree 1 from `degree`.
    pub fn relinearize(degree: usize, rescale: bool) -> Self {
        Self::switched(degree.saturating_sub(1), rescale)
    }

    /// The same `count` times.
    pub fn times(self, count: usize) -> Self {
        let Self { decompositions, products, divisions, rescale } = self;
        Self {
            decompositions: decompositions * count,
            products: products * count,
            divisions: divisions * count,
            rescale,
        }
    }

    fn switched(components: usize, rescale: bool) -> Self {
        Self { decompositions: components, products: components, divisions: 1, rescale }
    }
}

/// A ring's operations, priced.
#[derive(Debug, Clone)]
pub(crate) struct Arithmetic<'a> {
    model: &'a CostModel,
    n: usize,
    /// One NTT.
    ntt: f64,
    /// Bytes of the whole program, where that is known.
    resident: u64,
    /// Whole bytes of a residue of each ciphertext prime, and of each special prime.
    ciphertext: Vec<usize>,
    special: Vec<usize>,
    /// The primes of each level, if they are not the first ones.
    levels: Option<&'a [Vec<usize>]>,
}

impl<'a> Arithmetic<'a> {
    /// For the ring 2^log_n with these primes.
    pub fn new(model: &'a CostModel, log_n: u32, ciphertext: &[u64], special: &[u64]) -> Self {
        let n = 1usize << log_n;
        let widths = |primes: &[u64]| primes.iter().map(|&q| bytes_of(q)).collect();
        Self {
            model,
            n,
            resident: 0,
            ntt: 1e9 * model.ntt_seconds(log_n),
            ciphertext: widths(ciphertext),
            special: widths(special),
            levels: None,
        }
    }

    /// The same for levels of these primes.
    pub fn with_levels(self, levels: Option<&'a [Vec<usize>]>) -> Self {
        Self { levels, ..self }
    }

    /// Limbs of a polynomial at `level`.
    pub fn limbs(&self, level: usize) -> usize {
        self.of_level(level).map_or(level, <[usize]>::len)
    }

    fn of_level(&self, level: usize) -> Option<&'a [usize]> {
        self.levels?.get(level.checked_sub(1)?).map(Vec::as_slice)
    }

    /// The same for a program of which so many bytes are kept.
    pub fn with_resident(self, bytes: u64) -> Self {
        Self { resident: bytes, ..self }
    }

    /// Bytes of a polynomial at `level` with `specials` special primes.
    pub fn polynomial_bytes(&self, level: usize, specials: usize) -> usize {
        let sum = |widths: &[usize], count: usize| widths.iter().take(count).sum::<usize>();
        let ciphertext = match self.of_level(level) {
            Some(limbs) => limbs.iter().filter_map(|&i| self.ciphertext.get(i)).sum(),
            None => sum(&self.ciphertext, level),
        };
        self.n * (ciphertext + sum(&self.special, specials))
    }

    /// Bytes of a loaded key.
    pub fn key_bytes(&self, shape: KeyShape) -> usize {
        2 * shape.digits_at(self.limbs(shape.level)) * self.polynomial_bytes(shape.level, shape.specials)
    }

    /// The overhead of a step.
    pub fn step(&self) -> Work {
        self.time(self.model.step)
    }

    /// NTTs of single limbs.
    pub fn ntts(&self, count: usize) -> Work {
        Work { ntts: count, ..self.time(self.ntt * count as f64) }
    }

    /// Elementwise passes over `limbs` limbs.
    pub fn elementwise(&self, limbs: usize) -> Work {
        self.time(self.model.elementwise * (self.n * limbs) as f64)
    }

    /// Fresh buffers of `limbs` limbs: of sums and of results.
    pub fn buffers(&self, limbs: usize) -> Work {
        self.time(self.model.buffer * (self.n * limbs) as f64)
    }

    /// Multiply-adds of `limbs` pairs of limbs.
    pub fn multiply_adds(&self, limbs: usize) -> Work {
        self.time(self.model.multiply_add * (self.n * limbs) as f64)
    }

    /// Key switching of polynomials at `level` with keys of this shape.
    pub fn switch(&self, work: KeyWork, level: usize, shape: KeyShape) -> Work {
        self.decompose(level, shape) * work.decompositions
            + self.key_product(level, shape) * work.products
            + self.divide(level, shape.specials, work.rescale, 2) * work.divisions
            + self.elementwise(self.limbs(level) * work.products)
    }

    /// l inverse NTTs, then each digit converted to all other limbs and transformed.
    fn decompose(&self, level: usize, shape: KeyShape) -> Work {
        let ciphertext = self.limbs(level);
        let (limbs, digits) = (ciphertext + shape.specials, shape.digits_at(ciphertext));
        let mut converted = 0;
        for d in 0..digits {
            let own = shape.digit.min(ciphertext - d * shape.digit);
            converted += own * (limbs - own);
        }
        self.ntts(digits * limbs) + self.time(self.model.convert * (self.n * converted) as f64)
    }

    fn key_product(&self, level: usize, shape: KeyShape) -> Work {
        let digits = shape.digits_at(self.limbs(level));
        let bytes = 2 * digits * self.polynomial_bytes(level, shape.specials);
        let words = 2 * digits * (self.limbs(level) + shape.specials) * self.n;
        Work { key_products: 1, key_bytes: bytes as u64, ..self.stream(self.model.keys, words, bytes) }
    }

    /// Division of `parts` polynomials by the special primes, and by the highest prime if `rescale`.
    pub fn divide(&self, level: usize, specials: usize, rescale: bool, parts: usize) -> Work {
        let (dropped, kept) = match (rescale, self.of_level(level), self.of_level(level.saturating_sub(1))) {
            (true, Some(higher), Some(lower)) => {
                (specials + higher.iter().filter(|i| !lower.contains(i)).count(), lower.len())
            }
            _ => (specials + usize::from(rescale), self.limbs(level) - usize::from(rescale)),
        };
        if dropped == 0 {
            return Work::default();
        }
        let accumulated = if specials > 0 { self.limbs(level) + specials } else { 0 };
        let each = self.ntts(dropped + kept)
            + self.time(self.model.convert * (self.n * dropped * kept) as f64)
            + self.elementwise(kept)
            + self.buffers(accumulated + kept);
        each * parts
    }

    /// `products` packed weight ciphertexts times plain inputs.
    pub fn plain_products(&self, level: usize, products: usize) -> Work {
        self.weights(self.model.plain_products, level, products)
    }

    /// `products` packed weight ciphertexts times encrypted inputs.
    pub fn cipher_products(&self, level: usize, products: usize) -> Work {
        self.weights(self.model.cipher_products, level, products)
    }

    fn weights(&self, stream: Stream, level: usize, products: usize) -> Work {
        let bytes = 2 * products * self.polynomial_bytes(level, 0);
        let words = 2 * products * self.limbs(level) * self.n;
        Work { products, weight_bytes: bytes as u64, ..self.stream(stream, words, bytes) }
    }

    /// Encoding `polynomials` vectors of slots at `level`.
    pub fn encode_slots(&self, level: usize, polynomials: usize) -> Work {
        let transform = self.model.encode * (self.n / 2) as f64 * f64::from((self.n / 2).ilog2());
        (self.time(transform) + self.ntts(self.limbs(level))) * polynomials
    }

    /// Encoding `polynomials` vectors of coefficients at `level`: no transform but the NTTs; laying out and rounding a coefficient
    /// takes about as long as two levels of a slot's transform.
    pub fn encode_coefficients(&self, level: usize, polynomials: usize) -> Work {
        (self.time(2.0 * self.model.encode * self.n as f64) + self.ntts(self.limbs(level))) * polynomials
    }

    /// Encrypting `polynomials` plaintexts with the public key: three samples, two products.
    pub fn encrypt(&self, level: usize, polynomials: usize) -> Work {
        let sampled = self.time(self.model.encrypt * self.n as f64);
        let level = self.limbs(level);
        (sampled + self.ntts(3 * level) + self.elementwise(4 * level) + self.multiply_adds(2 * level)) * polynomials
    }

    fn stream(&self, stream: Stream, words: usize, bytes: usize) -> Work {
        let cached = stream.word * words as f64;
        let from_memory = self.uncached_share(self.resident.max(bytes as u64));
        self.time(cached + from_memory * (stream.byte * bytes as f64 - cached).max(0.0))
    }

    /// What part of so many bytes comes from memory: from the size of the cache to twice that, more and more.
    fn uncached_share(&self, bytes: u64) -> f64 {
        (bytes as f64 / self.model.cache_bytes - 1.0).clamp(0.0, 1.0)
    }

    fn time(&self, nanoseconds: f64) -> Work {
        Work { seconds: 1e-9 * IN_A_PROGRAM * nanoseconds, ..Work::default() }
    }
}

fn bytes_of(prime: u64) -> usize {
    (u64::BITS - prime.leading_zeros()).div_ceil(8) as usize
}
