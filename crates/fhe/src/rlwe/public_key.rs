//! Public-key encryption (Lyubashevsky-Peikert-Regev): the edge encrypts its inputs without any secret.

use super::check_poly;
use crate::{FheError, Parameters};
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

    /// Encrypts any polynomial (NTT form) at `level`, whose primes the key must have: `(b u + k e_0 + m, a u + k e_1)` with fresh ternary `u`, Gaussian `e_0`, `e_1` and
    /// `k = error_multiplier`: 1 for CKKS, the plaintext modulus for an exact scheme.
    pub fn encrypt_polynomial<R: CryptoRng>(
        &self,
        parameters: &Parameters,
        message: &RnsPoly,
        level: usize,
        error_multiplier: u64,
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
        let multiplier: Vec<u64> = (0..limbs).map(|i| ring.modulus(i).reduce(error_multiplier)).collect();
        let sample = |signed: &[i64], scaled: bool| {
            let mut poly = ring.from_signed(signed, limbs);
            if scaled && error_multiplier != 1 {
                ring.mul_scalars_assign(&mut poly, &multiplier);
            }
            ring.forward(&mut poly);
            poly
        };
        let mut u = sample(&sampler::ternary(parameters.n(), rng), false);
        let mut c0 = sample(&sampler::gaussian(parameters.n(), rng), true);
        let mut c1 = sample(&sampler::gaussian(parameters.n(), rng), true);
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
