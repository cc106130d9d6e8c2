//! The secret key and everything that needs it.

use crate::crt::CenteredCrt;
use rand_core::Rng;
use subrosa_fhe::rlwe::{MAX_POWER, check_poly};
use subrosa_fhe::{
    Ciphertext, FheError, KeyId, KeyShape, KeySwitchKey, Parameters, Plaintext, PublicKey, SeededCiphertext,
};
use subrosa_ring::{Ring, RnsPoly, sampler, wipe_scratch};
use zeroize::{Zeroize, Zeroizing};

/// A uniform ternary secret. Wiped on drop; can neither be printed, cloned nor serialised by accident.
pub struct SecretKey {
    parameters: Parameters,
    /// Coefficients in {-1, 0, 1}.
    ternary: Zeroizing<Vec<i64>>,
    /// NTT form over all primes, ciphertext primes first.
    ntt: RnsPoly,
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.ntt.zeroize();
    }
}

impl SecretKey {
    /// A new secret key from the operating system's randomness.
    pub fn generate(parameters: &Parameters) -> Result<Self, FheError> {
        let mut rng = sampler::os_rng()?;
        Ok(Self::from_ternary(parameters, sampler::ternary(parameters.n(), &mut rng)))
    }

    /// Two bits a coefficient, lowest bits first, 0 for 0, 1 for 1, 3 for -1: N/4 bytes.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let byte = |four: &[i64]| four.iter().rev().fold(0u8, |byte, &c| byte << 2 | (c & 3) as u8);
        Zeroizing::new(self.ternary.chunks(4).map(byte).collect())
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, FheError> {
        let bad = |reason: String| Err(FheError::Wire { what: "secret key", reason });
        if bytes.len() != parameters.n() / 4 {
            return bad(format!("{} bytes instead of {}", bytes.len(), parameters.n() / 4));
        }
        let coefficient = |&byte: &u8| [0, 2, 4, 6].map(|shift| i64::from((byte >> shift & 3) as i8) << 62 >> 62);
        // full capacity from the start: a vector that grows leaves copies behind
        let mut ternary = Zeroizing::new(Vec::with_capacity(parameters.n()));
        ternary.extend(bytes.iter().flat_map(coefficient));
        if ternary.contains(&-2) {
            return bad("a coefficient is not -1, 0 or 1".into());
        }
        Ok(Self::from_ternary(parameters, ternary))
    }

    /// The parameters the key belongs to.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Encrypts a plaintext at its level: `c_1` from a fresh public seed, `c_0 = m - c_1 s + e`. May be called from many threads.
    pub fn encrypt(&self, plaintext: &Plaintext) -> Result<SeededCiphertext, FheError> {
        let message = plaintext.carried(&self.parameters)?;
        let (body, seed) = self.encrypt_polynomial(&message, plaintext.level)?;
        Ok(SeededCiphertext { body, seed, scale: plaintext.scale, level: plaintext.level })
    }

    /// Encrypts any polynomial (NTT form, at `level`) as `m - a s + e` with `a` from the returned seed.
    pub fn encrypt_polynomial(&self, message: &RnsPoly, level: usize) -> Result<(RnsPoly, [u8; 32]), FheError> {
        check_poly("plaintext", message, level, &self.parameters)?;
        let ring = self.parameters.ring_of(level)?;
        let seed = fresh_seed()?;
        let uniform = ring.uniform(ring.limbs(), &seed, 0);
        let mut body = self.mask(ring, self.parameters.level_limbs(level), &uniform)?;
        ring.add_assign(&mut body, message);
        Ok((body, seed))
    }

    /// A public key for encryption at `level`, and at lower levels that have no other primes.
    pub fn public_key(&self, level: usize) -> Result<PublicKey, FheError> {
        self.parameters.check_level("public key", level)?;
        let (body, seed) = self.encrypt_polynomial(&self.zero(level), level)?;
        PublicKey::from_parts(&self.parameters, level, body, seed)
    }

    /// A key that switches `sigma_g(s^power)` to `s`. Its modulus is checked against the security table.
    pub fn switch_key(&self, id: KeyId, shape: KeyShape) -> Result<KeySwitchKey, FheError> {
        id.check(&self.parameters)?;
        let ring = KeySwitchKey::ring(&self.parameters, shape)?;
        let (all, level) = (self.parameters.pool(), self.parameters.level_limbs(shape.level));
        let limbs: Vec<usize> = level.iter().copied().chain(all..all + shape.specials).collect();
        let seed = fresh_seed()?;
        let mut source = self.power(shape.level, id.power.min(MAX_POWER))?;
        let mut rotated = ring.automorphism(&source, id.galois);
        source.zeroize();
        let mut body = Vec::with_capacity(self.parameters.digits(shape));
        for (digit, uniform) in KeySwitchKey::uniform_halves(&ring, shape, &seed).iter().enumerate() {
            let mut masked = self.mask(&ring, &limbs, uniform)?;
            for i in digit * shape.digit..((digit + 1) * shape.digit).min(level.len()) {
                let q = ring.modulus(i);
                let specials = level.len()..level.len() + shape.specials;
                let p = specials.fold(1, |product, j| q.mul(product, q.reduce(ring.modulus(j).value())));
                ring.table(i).mul_scalar_add_assign(masked.limb_mut(i), rotated.limb(i), p);
            }
            body.push(masked);
        }
        rotated.zeroize();
        KeySwitchKey::from_parts(&self.parameters, id, shape, body, seed)
    }

    /// The phase `sum_k c_k s^k` in coefficient form: scaled message plus noise, modulo the primes of the level.
    pub fn decrypt_phase(&self, ciphertext: &Ciphertext) -> Result<RnsPoly, FheError> {
        ciphertext.check(&self.parameters)?;
        let (ring, level) = (self.parameters.ring_of(ciphertext.level())?, ciphertext.level());
        let mut secret = self.at(level);
        let mut phase = self.zero(level);
        for component in ciphertext.components.iter().rev() {
            ring.mul_assign(&mut phase, &secret);
            ring.add_assign(&mut phase, component);
        }
        secret.zeroize();
        ring.inverse(&mut phase);
        Ok(phase)
    }

    /// The N centred coefficients of the phase, divided by the scale; [`subrosa_fhe::Encoder::decode`] turns them into slots.
    pub fn decrypt_coefficients(&self, ciphertext: &Ciphertext) -> Result<Vec<f64>, FheError> {
        let phase = self.decrypt_phase(ciphertext)?;
        self.for_each_coefficient(&phase, ciphertext.level(), |crt, residues, digits| {
            crt.centered(residues, digits) / ciphertext.scale
        })
    }

    /// What `f` makes of the residues of each coefficient of a polynomial at `level`; both of its slices are scratch.
    pub(crate) fn for_each_coefficient<T>(
        &self,
        phase: &RnsPoly,
        level: usize,
        f: impl Fn(&CenteredCrt, &mut [u64], &mut Vec<u64>) -> T,
    ) -> Result<Vec<T>, FheError> {
        let crt = CenteredCrt::new(self.parameters.ciphertext_moduli(level))
            .ok_or_else(|| FheError::Parameters { reason: "the ciphertext primes are not distinct".into() })?;
        let (mut residues, mut digits) = (vec![0; phase.limbs()], Vec::new());
        Ok((0..phase.n())
            .map(|k| {
                for (i, r) in residues.iter_mut().enumerate() {
                    *r = phase.limb(i)[k];
                }
                f(&crt, &mut residues, &mut digits)
            })
            .collect())
    }

    fn from_ternary(parameters: &Parameters, ternary: Zeroizing<Vec<i64>>) -> Self {
        let ring = parameters.ring();
        let mut ntt = ring.from_signed(&ternary, ring.limbs());
        ring.forward(&mut ntt);
        wipe_scratch();
        Self { parameters: parameters.clone(), ternary, ntt }
    }

    /// `e - uniform * s` over `ring`, whose limbs are the parameters' limbs `limbs`; `e` is fresh Gaussian.
    fn mask(&self, ring: &Ring, limbs: &[usize], uniform: &RnsPoly) -> Result<RnsPoly, FheError> {
        let mut rng = sampler::os_rng()?;
        let mut masked = ring.from_signed(&sampler::gaussian(self.parameters.n(), &mut rng), limbs.len());
        ring.forward(&mut masked);
        wipe_scratch();
        // Signs: -(uniform * s - e), so that one pass multiplies and adds.
        for (i, &limb) in limbs.iter().enumerate() {
            let table = ring.table(i);
            table.neg_assign(masked.limb_mut(i));
            table.mul_add_assign(masked.limb_mut(i), uniform.limb(i), self.ntt.limb(limb));
            table.neg_assign(masked.limb_mut(i));
        }
        Ok(masked)
    }

    /// The secret in NTT form over the primes of a level; to be wiped.
    fn at(&self, level: usize) -> RnsPoly {
        let mut secret = self.zero(level);
        for (limb, &place) in secret.limbs_iter_mut().zip(self.parameters.level_limbs(level)) {
            limb.copy_from_slice(self.ntt.limb(place));
        }
        secret
    }

    /// The zero polynomial of a level.
    fn zero(&self, level: usize) -> RnsPoly {
        RnsPoly::zero(self.parameters.n(), self.parameters.level_limbs(level).len())
    }

    /// `s^power` in NTT form over the primes of a level; to be wiped.
    fn power(&self, level: usize, power: u8) -> Result<RnsPoly, FheError> {
        let ring = self.parameters.ring_of(level)?;
        let mut secret = self.at(level);
        let mut product = secret.clone();
        for _ in 1..power {
            ring.mul_assign(&mut product, &secret);
        }
        secret.zeroize();
        Ok(product)
    }
}

/// A public seed, drawn from the system and used for nothing else.
fn fresh_seed() -> Result<[u8; 32], FheError> {
    let mut seed = [0; 32];
    sampler::os_rng()?.fill_bytes(&mut seed);
    Ok(seed)
}
