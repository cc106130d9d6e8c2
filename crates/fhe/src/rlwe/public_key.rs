//! Public-key encryption (Lyubashevsky-Peikert-Regev): the edge encrypts its inputs without any secret.

use super::{Plaintext, check_poly};
use crate::{Ciphertext, FheError, Parameters};
use rand_core::CryptoRng;
use subrosa_ring::{RnsPoly, sampler, wipe_scratch};
use zeroize::Zeroize;

/// A seeded encryption of zero: `body + uniform * s = error`.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicKey {
    body: RnsPoly,
    uniform: RnsPoly,
    seed: [u8; 32],
    level: usize,
}

impl PublicKey {
    /// Builds the key from its body (NTT form, at `level`) and the seed of its uniform half, which is expanded here once.
    pub fn from_parts(parameters: &Parameters, level: usize, body: RnsPoly, seed: [u8; 32]) -> Result<Self, FheError> {
        check_poly("public key", &body, level, parameters)?;
        let uniform = parameters.ring_of(level)?.uniform(body.limbs(), &seed, 0);
        Ok(Self { body, uniform, seed, level })
    }

    /// Highest level that can be encrypted at.
    pub fn level(&self) -> usize {
        self.level
    }

    /// The half that carries the error, NTT form.
    pub fn body(&self) -> &RnsPoly {
        &self.body
    }

    /// The public seed of the uniform half.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Encrypts a plaintext at the plaintext's level, whose primes the key must have. `rng` must be cryptographic and freshly seeded by the system.
    pub fn encrypt<R: CryptoRng>(
        &self,
        parameters: &Parameters,
        plaintext: &Plaintext,
        rng: &mut R,
    ) -> Result<Ciphertext, FheError> {
        let message = plaintext.carried(parameters)?;
        let components = self.encrypt_polynomial(parameters, &message, plaintext.level, rng)?;
        Ok(Ciphertext { components: components.into(), scale: plaintext.scale, level: plaintext.level })
    }

    /// Encrypts any polynomial (NTT form) at `level`, whose primes the key must have: `(b u + e_0 + m, a u + e_1)` with fresh ternary
    /// `u`, Gaussian `e_0`, `e_1`.
    pub fn encrypt_polynomial<R: CryptoRng>(
        &self,
        parameters: &Parameters,
        message: &RnsPoly,
        level: usize,
        rng: &mut R,
    ) -> Result<[RnsPoly; 2], FheError> {
        check_poly("plaintext", message, level, parameters)?;
        let operation = "public-key encryption";
        if self.body.n() != parameters.n() || level > self.level() {
            return Err(FheError::Level { operation, expected: self.level(), found: level });
        }
        let places = parameters.limbs_within(level, self.level);
        let places = places.ok_or(FheError::Primes { operation, from: self.level, to: level })?;
        let (ring, limbs) = (parameters.ring_of(level)?, places.len());
        let sample = |signed: &[i64]| {
            let mut poly = ring.from_signed(signed, limbs);
            ring.forward(&mut poly);
            poly
        };
        let mut u = sample(&sampler::ternary(parameters.n(), rng));
        let mut c0 = sample(&sampler::gaussian(parameters.n(), rng));
        let mut c1 = sample(&sampler::gaussian(parameters.n(), rng));
        ring.add_assign(&mut c0, message);
        for (i, place) in places.into_iter().enumerate() {
            ring.table(i).mul_add_assign(c0.limb_mut(i), u.limb(i), self.body.limb(place));
            ring.table(i).mul_add_assign(c1.limb_mut(i), u.limb(i), self.uniform.limb(place));
        }
        u.zeroize();
        wipe_scratch();
        Ok([c0, c1])
    }
}
