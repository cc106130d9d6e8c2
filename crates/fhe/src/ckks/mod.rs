//! CKKS (Cheon-Kim-Kim-Song 2016/421, RNS variant 2018/931): approximate arithmetic on vectors of complex numbers.

mod encoder;
mod evaluator;
mod rotation;

pub use encoder::Encoder;
pub use evaluator::Evaluator;

use crate::rlwe::check_scale;
use crate::{Ciphertext, FheError, Parameters, PublicKey};
use rand_core::CryptoRng;
use subrosa_ring::RnsPoly;

/// An encoded message.
#[derive(Clone, Debug, PartialEq)]
pub struct Plaintext {
    /// NTT form over the primes of `level`.
    pub poly: RnsPoly,
    /// What the message was multiplied by.
    pub scale: f64,
    /// The level, which says what primes the limbs belong to.
    pub level: usize,
}

impl Plaintext {
    /// The level.
    pub fn level(&self) -> usize {
        self.level
    }
}

impl PublicKey {
    /// Encrypts a plaintext at the plaintext's level, whose primes the key must have. `rng` must be cryptographic and freshly seeded by the system.
    pub fn encrypt<R: CryptoRng>(
        &self,
        parameters: &Parameters,
        plaintext: &Plaintext,
        rng: &mut R,
    ) -> Result<Ciphertext, FheError> {
        check_scale("plaintext", plaintext.scale)?;
        let components = self.encrypt_polynomial(parameters, &plaintext.poly, plaintext.level, 1, rng)?;
        Ok(Ciphertext { components: components.into(), scale: plaintext.scale, level: plaintext.level })
    }
}
