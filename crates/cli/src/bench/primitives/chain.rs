//! The primes that primitives are measured with.

use subrosa_fhe::{FheError, KeyShape, ParameterSpec, Scheme, SecurityLevel, primes};

/// Ciphertext primes have so many bits: 6 of them exceed 2^260 and 12 exceed 2^520, the moduli of the peer's chains.
pub(super) const PRIME_BITS: u32 = 44;
/// The plaintext modulus of exact integers has so many, as the peer's.
pub(super) const PLAIN_BITS: u32 = 22;
/// Special primes have two more, so that a digit never exceeds the special primes of a rotation's key.
const SPECIAL_BITS: u32 = 46;

/// Ciphertext primes, special primes and limbs in a digit. The larger a digit, the fewer transforms, and the more special primes,
/// which have to fit under the table's bound as well: halves are the largest that do, and were the fastest when thirds and
/// quarters were measured beside them (from N=2^14; 2^13 has room for one special prime).
pub(super) struct Chain {
    log_n: u32,
    pub limbs: usize,
    specials: usize,
    digit: usize,
    /// Special primes and limbs in a digit of the relinearisation key: fewer and larger. What that adds to the noise is small
    /// beside the scale of a product, and is divided by the prime that a rescale drops.
    relinearization: (usize, usize),
}

const CHAINS: [Chain; 4] = [
    Chain { log_n: 13, limbs: 3, specials: 1, digit: 1, relinearization: (1, 2) },
    Chain { log_n: 14, limbs: 6, specials: 3, digit: 3, relinearization: (2, 3) },
    Chain { log_n: 15, limbs: 12, specials: 6, digit: 6, relinearization: (5, 6) },
    Chain { log_n: 16, limbs: 24, specials: 12, digit: 12, relinearization: (11, 12) },
];

impl Chain {
    /// That of a ring degree; `None` for one that is not measured.
    pub fn of(log_n: u32) -> Option<&'static Self> {
        CHAINS.iter().find(|c| c.log_n == log_n)
    }

    pub fn shape(&self) -> KeyShape {
        KeyShape { level: self.limbs, specials: self.specials, digit: self.digit }
    }

    pub fn relinearization(&self) -> KeyShape {
        let (specials, digit) = self.relinearization;
        KeyShape { level: self.limbs, specials, digit }
    }

    pub fn spec(&self, scheme: Scheme) -> Result<ParameterSpec, FheError> {
        let ciphertext = primes::find(self.log_n, PRIME_BITS, self.limbs, &[])?;
        let special = primes::find(self.log_n, SPECIAL_BITS, self.specials, &ciphertext)?;
        let spec = ParameterSpec::new(self.log_n, ciphertext, special, SecurityLevel::Bits128);
        Ok(match scheme {
            Scheme::Ckks => spec,
            Scheme::Bgv => primes::find(self.log_n, PLAIN_BITS, 1, &[])?
                .into_iter()
                .fold(spec, ParameterSpec::with_plaintext_modulus),
        })
    }
}
