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
}

impl PublicKey {
    /// Builds the key from its body (NTT form, at any level) and the seed of its uniform half, which is expanded here once.
    pub fn from_parts(parameters: &Parameters, body: RnsPoly, seed: [u8; 32]) -> Result<Self, FheError> {
        check_poly("public key", &body, body.limbs(), parameters)?;
        let uniform = parameters.ring().uniform(body.limbs(), &seed, 0);
        Ok(Self { body, uniform, seed })
    }

    /// Highest level that can be encrypted at.
    pub fn level(&self) -> usize {
        self.body.limbs()
    }

    /// The half that carries the error, NTT form.
    pub fn body(&self) -> &RnsPoly {
        &self.body
    }

    /// The public seed of the uniform half.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Encrypts any polynomial (NTT form): `(b u + k e_0 + m, a u + k e_1)` with fresh ternary `u`, Gaussian `e_0`, `e_1` and
    /// `k = error_multiplier`: 1 for CKKS, the plaintext modulus for an exact scheme.
    pub fn encrypt_polynomial<R: CryptoRng>(
        &self,
        parameters: &Parameters,
        message: &RnsPoly,
        error_multiplier: u64,
        rng: &mut R,
    ) -> Result<[RnsPoly; 2], FheError> {
        let level = message.limbs();
        check_poly("plaintext", message, level, parameters)?;
        if self.body.n() != parameters.n() || level > self.level() {
            return Err(FheError::Level { operation: "public-key encryption", expected: self.level(), found: level });
        }
        let ring = parameters.ring();
        let multiplier: Vec<u64> = (0..level).map(|i| ring.modulus(i).reduce(error_multiplier)).collect();
        let sample = |signed: &[i64], scaled: bool| {
            let mut poly = ring.from_signed(signed, level);
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
        for i in 0..level {
            ring.table(i).mul_add_assign(c0.limb_mut(i), u.limb(i), self.body.limb(i));
            ring.table(i).mul_add_assign(c1.limb_mut(i), u.limb(i), self.uniform.limb(i));
        }
        u.zeroize();
        wipe_scratch();
        Ok([c0, c1])
    }
}
