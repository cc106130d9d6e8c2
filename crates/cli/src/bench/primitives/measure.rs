//! Measures every operation at one ring degree. What comes out is decrypted and held against plain arithmetic first: the time
//! of a wrong result is worth nothing.

use super::SEED;
use super::chain::Chain;
use super::messages::{Expected, Messages};
use super::report::Row;
use crate::bench::calibration::{fill, ns_per_butterfly};
use crate::bench::{Times, engine};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use subrosa_fhe::{
    Ciphertext, EvaluationKeys, Evaluator, FheError, Galois, Kernel, KeyId, Parameters, Plaintext, PublicKey, RnsPoly,
    Scheme, wire,
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
/// Keys, operands and whoever works on them.
struct Bench {
    parameters: Parameters,
    messages: Messages,
    evaluator: Evaluator,
    secret: SecretKey,
    public: PublicKey,
    keys: EvaluationKeys,
    plain: Plaintext,
    a: Ciphertext,
    b: Ciphertext,
}

/// Rows of one ring degree and scheme.
pub(super) fn measure(
    scheme: Scheme,
    log_n: u32,
    runs: usize,
    threads: usize,
    kernel: Kernel,
) -> Result<Vec<Row>, Failure> {
    let chain = Chain::of(log_n)
        .ok_or_else(|| Failure::usage(format!("no chain of primes is set for ring degree 2^{log_n}")))?;
    let bench = Bench::new(scheme, chain, kernel).map_err(engine)?;
    let errors = bench.errors().map_err(engine)?;
    if let Some((what, error)) = errors.iter().find(|(_, error)| error.is_nan() || *error > bench.messages.wrong()) {
        return Err(Failure::failed(format!(
            "the result of '{what}' at N=2^{log_n} is off by {error:.1e}: no time is worth printing"
        )));
    }
    let times = bench.times(runs).map_err(engine)?;
    let ntt = times.first().map_or(f64::NAN, |(_, t)| t.median);
    let (parameters, shape) = (&bench.parameters, chain.shape());
    let row = |&(what, times): &(&'static str, Times)| Row {
        what,
        scheme,
        setting: format!("{}, N=2^{log_n}, {} limbs", bench.messages, chain.limbs),
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
    fn new(scheme: Scheme, chain: &Chain, kernel: Kernel) -> Result<Self, FheError> {
        let parameters = Parameters::new(chain.spec(scheme)?, kernel)?;
        let secret = SecretKey::generate(&parameters)?;
        let public = secret.public_key(chain.limbs)?;
        let mut keys = EvaluationKeys::new();
        keys.insert(secret.switch_key(KeyId::new(Galois::IDENTITY, 2), chain.relinearization())?.prepare(&parameters)?);
        for galois in rotations() {
            keys.insert(secret.switch_key(KeyId::new(galois, 1), chain.shape())?.prepare(&parameters)?);
        }
        let messages = Messages::draw(scheme, &parameters, &mut ChaCha20Rng::seed_from_u64(SEED))?;
        let [x, plain] = messages.encode(chain.limbs)?;
        let mut rng = os_rng()?;
        let a = public.encrypt(&parameters, &x, &mut rng)?;
        let b = public.encrypt(&parameters, &plain, &mut rng)?;
        let evaluator = Evaluator::new(&parameters);
        Ok(Self { parameters, messages, evaluator, secret, public, keys, plain, a, b })
    }

    /// Largest differences of decrypted results from plain arithmetic.
    fn errors(&self) -> Result<Vec<(&'static str, f64)>, FheError> {
        let error = |found: &Ciphertext, expected| self.messages.error(&self.secret, found, expected);
        let hoisted = self.evaluator.rotate_hoisted(&self.a, &rotations(), &self.keys)?;
        let mut worst = 0f64;
        for (by, rotation) in (1..).zip(&hoisted) {
            worst = worst.max(error(rotation, Expected::Rotated(by))?);
        }
        let by_plain = self.evaluator.mul_plain(&self.a, &self.plain)?;
        Ok(vec![
            (ENCRYPT, error(&self.a, Expected::Rotated(0))?),
            (TIMES_PLAIN, error(&by_plain, Expected::Product)?),
            (MULTIPLY, error(&self.multiplied()?, Expected::Product)?),
            (ROTATE, error(&self.rotated()?, Expected::Rotated(1))?),
            (HOISTED_ROTATE, worst),
        ])
    }

    /// The forward transform first: the others are told in multiples of it.
    fn times(&self, runs: usize) -> Result<Vec<(&'static str, Times)>, FheError> {
        let Self { parameters, messages, evaluator, secret, public, keys, plain, a, b } = self;
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
            ("encode", Times::of(runs, || messages.encode_one(level))?),
            (ENCRYPT, Times::of(runs, || public.encrypt(parameters, plain, &mut rng))?),
            ("decrypt, decode", Times::of(runs, || messages.decrypt(secret, a))?),
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
