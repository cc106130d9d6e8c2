//! Measures every operation at one ring degree. What comes out is decrypted and held against plain arithmetic first: the time
//! of a wrong result is worth nothing.

use super::SEED;
use super::chain::{Chain, PRIME_BITS};
use super::report::Row;
use crate::bench::calibration::{fill, ns_per_butterfly};
use crate::bench::{Times, engine};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use subrosa_fhe::{
    Ciphertext, Encoder, EvaluationKeys, Evaluator, FheError, Galois, Kernel, KeyId, Parameters, Plaintext, PublicKey,
    RnsPoly, wire,
};
use subrosa_ring::sampler::os_rng;
use subrosa_secret::SecretKey;
use subrosa_terminal::Failure;

/// Rotations that share one decomposition.
const HOISTED: u32 = 16;
/// Transforms are short: they are timed so many times as often as the rest.
const MORE_RUNS: usize = 10;
// What rows are called, where more than one place has to know.
pub(super) const ENCRYPT: &str = "encrypt (public key)";
const TIMES_PLAIN: &str = "ct·pt";
pub(super) const MULTIPLY: &str = "ct·ct + relinearise + rescale";
pub(super) const ROTATE: &str = "rotate";
/// Per rotation of [`HOISTED`].
const HOISTED_ROTATE: &str = "hoisted rotate, each of 16";
/// A larger error is a defect, not noise.
const WRONG: f64 = 1e-5;

/// Keys, operands and whoever works on them.
struct Bench {
    parameters: Parameters,
    encoder: Encoder,
    evaluator: Evaluator,
    secret: SecretKey,
    public: PublicKey,
    keys: EvaluationKeys,
    x: Vec<f64>,
    y: Vec<f64>,
    plain: Plaintext,
    a: Ciphertext,
    b: Ciphertext,
}

/// Rows of one ring degree.
pub(super) fn measure(log_n: u32, runs: usize, threads: usize, kernel: Kernel) -> Result<Vec<Row>, Failure> {
    let chain = Chain::of(log_n)
        .ok_or_else(|| Failure::usage(format!("no chain of primes is set for ring degree 2^{log_n}")))?;
    let bench = Bench::new(chain, kernel).map_err(engine)?;
    let errors = bench.errors().map_err(engine)?;
    if let Some((what, error)) = errors.iter().find(|(_, error)| error.is_nan() || *error > WRONG) {
        return Err(Failure::failed(format!(
            "the result of '{what}' at N=2^{log_n} is off by {error:.1e}: no time is worth printing"
        )));
    }
    let times = bench.times(runs).map_err(engine)?;
    let ntt = times.first().map_or(f64::NAN, |(_, t)| t.median);
    let (parameters, shape) = (&bench.parameters, chain.shape());
    let row = |&(what, times): &(&'static str, Times)| Row {
        what,
        setting: format!("N=2^{log_n}, {} limbs", chain.limbs),
        security_bits: 128,
        threads,
        kernel: kernel.to_string(),
        runs: times.runs,
        median_seconds: times.median,
        least_seconds: times.least,
        ns_per_butterfly: what.ends_with("NTT").then(|| ns_per_butterfly(times.median, log_n)),
        ntt_multiples: times.median / ntt,
        max_abs_error: errors.iter().find(|(of, _)| *of == what).map(|(_, error)| *error),
        log_n,
        limbs: chain.limbs,
        specials: shape.specials,
        digit: shape.digit,
        log_q: parameters.log_q(chain.limbs),
        log_qp: parameters.log_qp(shape),
        ciphertext_bytes: wire::ciphertext_len(parameters, chain.limbs, 1) as u64,
        key_bytes: wire::switch_key_len(parameters, shape) as u64,
    };
    Ok(times.iter().map(row).collect())
}

impl Bench {
    fn new(chain: &Chain, kernel: Kernel) -> Result<Self, FheError> {
        let parameters = Parameters::new(chain.spec()?, kernel)?;
        let secret = SecretKey::generate(&parameters)?;
        let public = secret.public_key(chain.limbs)?;
        let mut keys = EvaluationKeys::new();
        keys.insert(secret.switch_key(KeyId::new(Galois::IDENTITY, 2), chain.relinearization())?.prepare(&parameters)?);
        for galois in rotations() {
            keys.insert(secret.switch_key(KeyId::new(galois, 1), chain.shape())?.prepare(&parameters)?);
        }
        let encoder = Encoder::new(&parameters);
        let mut messages = ChaCha20Rng::seed_from_u64(SEED);
        let mut draw = || (0..parameters.slots()).map(|_| messages.random_range(-1.0..1.0)).collect::<Vec<f64>>();
        let (x, y) = (draw(), draw());
        let plain = encoder.encode_real(&y, scale(), chain.limbs)?;
        let mut rng = os_rng()?;
        let a = public.encrypt(&parameters, &encoder.encode_real(&x, scale(), chain.limbs)?, &mut rng)?;
        let b = public.encrypt(&parameters, &plain, &mut rng)?;
        let evaluator = Evaluator::new(&parameters);
        Ok(Self { parameters, encoder, evaluator, secret, public, keys, x, y, plain, a, b })
    }

    /// Largest differences of decrypted results from plain arithmetic.
    fn errors(&self) -> Result<Vec<(&'static str, f64)>, FheError> {
        let products: Vec<f64> = self.x.iter().zip(&self.y).map(|(x, y)| x * y).collect();
        let rotated = |by: usize| self.x.iter().cycle().skip(by).take(self.x.len()).copied().collect::<Vec<f64>>();
        let hoisted = self.evaluator.rotate_hoisted(&self.a, &rotations(), &self.keys)?;
        let mut worst = 0f64;
        for (by, rotation) in (1..).zip(&hoisted) {
            worst = worst.max(self.error(rotation, &rotated(by))?);
        }
        let by_plain = self.evaluator.mul_plain(&self.a, &self.plain)?;
        Ok(vec![
            (ENCRYPT, self.error(&self.a, &self.x)?),
            (TIMES_PLAIN, self.error(&by_plain, &products)?),
            (MULTIPLY, self.error(&self.multiplied()?, &products)?),
            (ROTATE, self.error(&self.rotated()?, &rotated(1))?),
            (HOISTED_ROTATE, worst),
        ])
    }

    fn error(&self, found: &Ciphertext, expected: &[f64]) -> Result<f64, FheError> {
        let slots = self.encoder.decode(&self.secret.decrypt_coefficients(found)?)?;
        Ok(slots.iter().zip(expected).map(|(s, e)| (s.re - e).hypot(s.im)).fold(0.0, f64::max))
    }

    /// The forward transform first: the others are told in multiples of it.
    fn times(&self, runs: usize) -> Result<Vec<(&'static str, Times)>, FheError> {
        let Self { parameters, encoder, evaluator, secret, public, keys, plain, a, b, .. } = self;
        let level = a.level();
        let table = parameters.ring().table(0);
        let mut poly = RnsPoly::zero(parameters.n(), 1);
        fill(&mut poly);
        let mut rng = os_rng()?;
        let product = evaluator.mul(a, b)?;
        let elements = rotations();
        let mut transform = |inverse: bool| {
            Times::of(runs * MORE_RUNS, || {
                if inverse {
                    table.inverse(poly.limb_mut(0))
                } else {
                    table.forward(poly.limb_mut(0))
                }
                Ok(())
            })
        };
        let (forward, inverse) = (transform(false)?, transform(true)?);
        let hoisted = Times::of(runs, || evaluator.rotate_hoisted(a, &elements, keys))?;
        let each = |seconds: f64| seconds / elements.len() as f64;
        Ok(vec![
            ("forward NTT", forward),
            ("inverse NTT", inverse),
            ("encode", Times::of(runs, || encoder.encode_real(&self.x, scale(), level))?),
            (ENCRYPT, Times::of(runs, || public.encrypt(parameters, plain, &mut rng))?),
            ("decrypt, decode", Times::of(runs, || encoder.decode(&secret.decrypt_coefficients(a)?))?),
            (TIMES_PLAIN, Times::of(runs, || evaluator.mul_plain(a, plain))?),
            ("ct·ct", Times::of(runs, || evaluator.mul(a, b))?),
            ("relinearise", Times::of(runs, || evaluator.relinearize(&product, keys, false))?),
            ("rescale", Times::of(runs, || evaluator.rescale(a))?),
            (MULTIPLY, Times::of(runs, || self.multiplied())?),
            (ROTATE, Times::of(runs, || self.rotated())?),
            (HOISTED_ROTATE, Times { median: each(hoisted.median), least: each(hoisted.least), ..hoisted }),
        ])
    }

    /// `a * b`, relinearised and rescaled in one division.
    fn multiplied(&self) -> Result<Ciphertext, FheError> {
        self.evaluator.mul_relinearize(&self.a, &self.b, &self.keys, true)
    }

    fn rotated(&self) -> Result<Ciphertext, FheError> {
        self.evaluator.rotate(&self.a, Galois::rotation(1), &self.keys)
    }
}

fn rotations() -> Vec<Galois> {
    (1..=HOISTED).map(Galois::rotation).collect()
}

fn scale() -> f64 {
    f64::from(PRIME_BITS).exp2()
}
