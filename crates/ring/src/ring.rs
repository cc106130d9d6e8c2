//! A ring with all its primes: operations on whole polynomials.

use crate::uniform::fill_uniform;
use crate::{Galois, Kernel, Modulus, NttTable, RingError, RnsPoly};
use std::sync::Arc;

/// The ring `Z_Q[X]/(X^N+1)` with Q = p_0 * p_1 * ...; clones share the tables.
///
/// A polynomial with k limbs is understood modulo the first k primes. Operands of one call must have the ring's degree, no
/// more limbs than the ring has primes, and as many limbs as each other; anything else is a bug of the caller and panics.
#[derive(Clone)]
pub struct Ring {
    log_n: u32,
    kernel: Kernel,
    tables: Arc<[Arc<NttTable>]>,
}

impl Ring {
    /// The ring of degree N = 2^log_n with these distinct primes, each 1 modulo 2N and below 2^50.
    ///
    /// # Errors
    /// [`RingError::NoPrimes`], [`RingError::DuplicatePrime`], and those of [`Modulus::new`] and [`NttTable::new`].
    pub fn new(log_n: u32, primes: &[u64], kernel: Kernel) -> Result<Ring, RingError> {
        if primes.is_empty() {
            return Err(RingError::NoPrimes);
        }
        let mut tables = Vec::with_capacity(primes.len());
        for (i, &prime) in primes.iter().enumerate() {
            if primes[..i].contains(&prime) {
                return Err(RingError::DuplicatePrime { prime });
            }
            tables.push(Arc::new(NttTable::new(log_n, Modulus::new(prime)?, kernel)?));
        }
        Ok(Ring { log_n, kernel, tables: tables.into() })
    }

    /// The ring degree N.
    pub fn n(&self) -> usize {
        1 << self.log_n
    }

    /// log2 of the ring degree.
    pub fn log_n(&self) -> u32 {
        self.log_n
    }

    /// Number of primes.
    pub fn limbs(&self) -> usize {
        self.tables.len()
    }

    /// The kernel that runs the operations.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The i-th prime; i must be below [`limbs`](Self::limbs).
    pub fn modulus(&self, i: usize) -> &Modulus {
        self.tables[i].modulus()
    }

    /// Which of the primes this is, if it is one.
    pub fn position(&self, prime: &Modulus) -> Option<usize> {
        self.tables.iter().position(|table| table.modulus().value() == prime.value())
    }

    /// The tables of the i-th prime; i must be below [`limbs`](Self::limbs).
    pub fn table(&self, i: usize) -> &NttTable {
        &self.tables[i]
    }

    /// All primes in order.
    pub fn primes(&self) -> Vec<u64> {
        self.tables.iter().map(|table| table.modulus().value()).collect()
    }

    /// The ring with the primes at these indices, in this order, sharing the tables. Each index must be below [`limbs`](Self::limbs).
    pub fn select(&self, indices: &[usize]) -> Ring {
        Ring {
            log_n: self.log_n,
            kernel: self.kernel,
            tables: indices.iter().map(|&i| Arc::clone(&self.tables[i])).collect(),
        }
    }

    /// The ring with the first `limbs` primes, sharing the tables.
    pub fn prefix(&self, limbs: usize) -> Ring {
        Ring { log_n: self.log_n, kernel: self.kernel, tables: self.tables[..limbs].into() }
    }

    /// Coefficients to evaluations, all limbs.
    pub fn forward(&self, a: &mut RnsPoly) {
        self.for_each_limb(a, |table, a| table.forward(a));
    }

    /// Evaluations to coefficients, all limbs.
    pub fn inverse(&self, a: &mut RnsPoly) {
        self.for_each_limb(a, |table, a| table.inverse(a));
    }

    /// a += b.
    pub fn add_assign(&self, a: &mut RnsPoly, b: &RnsPoly) {
        self.for_each_limb_pair(a, b, |table, a, b| table.add_assign(a, b));
    }

    /// a -= b.
    pub fn sub_assign(&self, a: &mut RnsPoly, b: &RnsPoly) {
        self.for_each_limb_pair(a, b, |table, a, b| table.sub_assign(a, b));
    }

    /// a = -a.
    pub fn neg_assign(&self, a: &mut RnsPoly) {
        self.for_each_limb(a, |table, a| table.neg_assign(a));
    }

    /// a *= b, both in NTT form.
    pub fn mul_assign(&self, a: &mut RnsPoly, b: &RnsPoly) {
        self.for_each_limb_pair(a, b, |table, a, b| table.mul_assign(a, b));
    }

    /// acc += a * b, all in NTT form.
    pub fn mul_add_assign(&self, acc: &mut RnsPoly, a: &RnsPoly, b: &RnsPoly) {
        assert_eq!(a.limbs(), b.limbs(), "operands must have as many limbs as each other");
        let mut limb = 0;
        self.for_each_limb_pair(acc, a, |table, acc, a| {
            table.mul_add_assign(acc, a, b.limb(limb));
            limb += 1;
        });
    }

    /// Multiplies limb i by the residue `scalars[i]`; `scalars` needs one entry for each limb of a.
    pub fn mul_scalars_assign(&self, a: &mut RnsPoly, scalars: &[u64]) {
        assert_eq!(a.limbs(), scalars.len(), "one scalar for each limb");
        let mut scalars = scalars.iter();
        self.for_each_limb(a, |table, a| {
            if let Some(&scalar) = scalars.next() {
                table.mul_scalar_assign(a, scalar);
            }
        });
    }

    /// The polynomial with these N signed coefficients, in coefficient form, modulo the first `limbs` primes.
    pub fn from_signed(&self, coefficients: &[i64], limbs: usize) -> RnsPoly {
        let mut poly = RnsPoly::zero(self.n(), limbs);
        self.for_each_limb(&mut poly, |table, limb| table.from_signed(limb, coefficients));
        poly
    }

    /// The polynomial with these N signed coefficients, in coefficient form, modulo the first `limbs` primes.
    pub fn from_i128(&self, coefficients: &[i128], limbs: usize) -> RnsPoly {
        assert_eq!(coefficients.len(), self.n(), "a polynomial has N coefficients");
        let mut poly = RnsPoly::zero(self.n(), limbs);
        self.for_each_limb(&mut poly, |table, limb| {
            for (residue, &coefficient) in limb.iter_mut().zip(coefficients) {
                *residue = table.modulus().from_i128(coefficient);
            }
        });
        poly
    }

    /// Applies the automorphism to a polynomial in NTT form, by block moves.
    pub fn automorphism(&self, a: &RnsPoly, g: Galois) -> RnsPoly {
        let mut out = RnsPoly::zero(a.n(), a.limbs());
        let segments = g.segments(self.n());
        self.for_each_limb_pair(&mut out, a, |_, out, a| {
            for (to, from, len) in segments {
                out[to..to + len].copy_from_slice(&a[from..from + len]);
            }
        });
        out
    }

    /// A uniform polynomial in NTT form, expanded from a public seed; the same on all machines.
    ///
    /// Wire format: limb i is drawn from the keystream of ChaCha20 (20 rounds, 64-bit block counter from 0, 64-bit stream
    /// number `domain * 64 + i` in state words 14 and 15) under the key `seed`. With b the bit length of the prime, the
    /// keystream is cut into words of ceil(b/8) bytes, little-endian; of each word the low b bits are kept; values below
    /// the prime are taken in order, others skipped. `limbs` must be at most 64, `domain` below 2^58.
    pub fn uniform(&self, limbs: usize, seed: &[u8; 32], domain: u64) -> RnsPoly {
        assert!(limbs <= 64 && domain >> 58 == 0, "a stream number has 6 bits for the limb and 58 for the domain");
        let mut poly = RnsPoly::zero(self.n(), limbs);
        let mut stream = domain * 64;
        self.for_each_limb(&mut poly, |table, limb| {
            fill_uniform(table.modulus(), limb, seed, stream);
            stream += 1;
        });
        poly
    }

    fn for_each_limb(&self, a: &mut RnsPoly, mut operation: impl FnMut(&NttTable, &mut [u64])) {
        self.assert_fits(a);
        for (table, a) in self.tables.iter().zip(a.limbs_iter_mut()) {
            operation(table, a);
        }
    }

    fn for_each_limb_pair(
        &self,
        a: &mut RnsPoly,
        b: &RnsPoly,
        mut operation: impl FnMut(&NttTable, &mut [u64], &[u64]),
    ) {
        self.assert_fits(a);
        assert_eq!(a.limbs(), b.limbs(), "operands must have as many limbs as each other");
        for ((table, a), b) in self.tables.iter().zip(a.limbs_iter_mut()).zip(b.limbs_iter()) {
            operation(table, a, b);
        }
    }

    fn assert_fits(&self, a: &RnsPoly) {
        assert_eq!(a.n(), self.n(), "the polynomial must have the ring's degree");
        assert!(a.limbs() <= self.limbs(), "the polynomial must not have more limbs than the ring has primes");
    }
}
