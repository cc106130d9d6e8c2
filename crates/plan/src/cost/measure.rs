//! Measuring the inner loops on this machine.

use super::{CostModel, LOG_N, Stream};
use std::hint::black_box;
use std::time::{Duration, Instant};
use subrosa_fhe::{
    Ciphertext, Encoder, EvaluationKeys, Evaluator, FheError, Galois, Kernel, KeyId, KeyShape, KeySwitchKey,
    ParameterSpec, Parameters, PublicKey, SecurityLevel,
};
use subrosa_program::layout::{Diagonals, LayoutError, Packing};
use subrosa_ring::sampler::os_rng;
use subrosa_ring::{Ring, RingError, RnsPoly, WeightStream, primes};

/// The ring that everything but the NTT is measured in.
const MEASURED_LOG_N: u32 = 13;
/// Bits of the primes that are measured with: whole bytes, and the size that most plans use.
const PRIME_BITS: u32 = 40;
/// Ciphertext and special primes.
const LEVEL: usize = 2;
const SPECIALS: usize = 2;
/// Automorphisms of the longer of two folds.
const MANY: usize = 7;
/// Rows of the layer that inputs are laid out for.
const ROWS: usize = 64;
/// Ciphertexts of that ring and one prime whose weights stay in the second-level cache (0.7 MB), and more and more that at best
/// stay in the last (31, 63 and 126 MB).
const TERMS_NEAR: usize = 8;
const TERMS: [usize; 3] = [384, 768, 1536];
/// Weights count as cached while they take at most so many times what fewer take.
const CACHED: f64 = 1.4;
/// Each loop runs for at least this long in all.
const TIME_EACH: Duration = Duration::from_millis(60);
/// And at least so often.
const RUNS: usize = 7;
/// Dispatch, buffers and locks of a step; too small to be told from noise, and of no weight beside any NTT.
pub(super) const STEP_NANOSECONDS: f64 = 200.0;

/// Why a machine could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The kernel is not available.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// From the engine.
    #[error(transparent)]
    Fhe(#[from] FheError),
    /// From the layout of inputs.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No thread for the measurement.
    #[error("cannot start a thread to measure with: {0}")]
    Thread(#[from] rayon::ThreadPoolBuildError),
}

impl CostModel {
    /// Measures the inner loops with this kernel on one thread of this machine; takes a few seconds.
    ///
    /// Errors: a kernel that this machine lacks, no thread, no random numbers.
    pub fn measure(kernel: Kernel) -> Result<Self, MeasureError> {
        rayon::ThreadPoolBuilder::new().num_threads(1).build()?.install(|| measure(kernel))
    }
}

fn measure(kernel: Kernel) -> Result<CostModel, MeasureError> {
    if !kernel.is_available() {
        return Err(RingError::KernelUnavailable { kernel }.into());
    }
    let bench = Bench::new(kernel)?;
    let ring = bench.parameters.ring();
    let words = ring.n() as f64;
    let (plain_products, cache_bytes, slower) = bench.stream(plain_products);
    let (cipher_products, ..) = bench.stream(cipher_products);
    let mut model = CostModel {
        kernel: kernel.to_string(),
        machine: machine(),
        date: None,
        butterfly: [0.0; 6],
        multiply_add: 0.0,
        convert: 0.0,
        elementwise: 0.0,
        buffer: 0.0,
        cache_bytes,
        plain_products,
        cipher_products,
        keys: Stream { word: 0.0, byte: 0.0 },
        encode: 0.0,
        encrypt: 0.0,
        step: STEP_NANOSECONDS,
    };
    for (log_n, out) in LOG_N.zip(&mut model.butterfly) {
        *out = one_butterfly(log_n, kernel)?;
    }
    let (a, b, mut sum) = (ring.uniform(4, &[7; 32], 1), ring.uniform(4, &[7; 32], 2), ring.uniform(1, &[7; 32], 3));
    let pairs: Vec<(&[u64], &[u64])> = a.limbs_iter().zip(b.limbs_iter()).collect();
    let table = ring.table(0);
    model.multiply_add = median(|| table.dot_add_assign(sum.limb_mut(0), black_box(&pairs))) / (4.0 * words);
    model.elementwise = median(|| table.mul_scalar_add_assign(sum.limb_mut(0), black_box(a.limb(0)), 12_345)) / words;
    // What follows is the rest of an operation's time once the parts that are known already are taken off.
    bench.switching(&mut model)?;
    // The few keys of the measurement stay nearer than those of a program.
    model.keys.word *= slower;
    bench.inputs(&mut model)?;
    Ok(model)
}

/// A ring with random keys and ciphertexts: times do not depend on what they hold.
struct Bench {
    parameters: Parameters,
    evaluator: Evaluator,
}

impl Bench {
    fn new(kernel: Kernel) -> Result<Self, MeasureError> {
        let mut primes = primes::find(MEASURED_LOG_N, PRIME_BITS, LEVEL + SPECIALS, &[])?;
        let special = primes.split_off(LEVEL);
        let spec = ParameterSpec::new(MEASURED_LOG_N, primes, special, SecurityLevel::Bits128);
        let parameters = Parameters::new(spec, kernel)?;
        Ok(Self { evaluator: Evaluator::new(&parameters), parameters })
    }

    fn poly(&self, domain: u64) -> RnsPoly {
        self.parameters.ring().uniform(LEVEL, &[6; 32], domain)
    }

    /// A product's cost, the bytes of weights that stay in the cache, and how much slower the last cache is than the second.
    fn stream(&self, product: fn(&Ring, usize) -> f64) -> (Stream, f64, f64) {
        let ring = self.parameters.ring();
        let residues = |terms: usize| (2 * ring.n() * terms) as f64;
        let of_word = |terms: usize| product(ring, terms) / residues(terms);
        let bytes = f64::from(PRIME_BITS / 8);
        let near = of_word(TERMS_NEAR);
        let (mut word, mut cached, mut last) = (near, residues(TERMS_NEAR) * bytes, near);
        for terms in TERMS {
            last = of_word(terms);
            if last > CACHED * word {
                break;
            }
            word = word.max(last);
            cached = residues(terms) * bytes;
        }
        (Stream { word, byte: last / bytes }, cached, word / near)
    }

    /// Base conversion, key products, and the buffers of a key switch.
    fn switching(&self, model: &mut CostModel) -> Result<(), MeasureError> {
        let (n, shape) = (self.parameters.n() as f64, KeyShape { level: LEVEL, specials: SPECIALS, digit: LEVEL });
        let ring = KeySwitchKey::ring(&self.parameters, shape)?;
        let elements: Vec<Galois> = (1..=MANY).map(|i| Galois::rotation(i as u32)).collect();
        let mut keys = EvaluationKeys::default();
        for (i, &galois) in elements.iter().enumerate() {
            let body = (0..shape.digits()).map(|d| ring.uniform(ring.limbs(), &[5; 32], d as u64)).collect();
            let id = KeyId::new(galois, 1);
            let key = KeySwitchKey::from_parts(&self.parameters, id, shape, body, [i as u8; 32])?;
            keys.insert(key.prepare(&self.parameters)?);
        }
        let c = Ciphertext { components: vec![self.poly(1), self.poly(2)], scale: 1.0, level: LEVEL };
        let c1 = self.poly(3);

        let decompose = tried(|| self.evaluator.decompose(black_box(&c1), LEVEL, shape).map(drop))?;
        let digits_ntts = (LEVEL + SPECIALS) as f64 * self.ntt(model);
        model.convert = rest(decompose, digits_ntts) / (n * (LEVEL * SPECIALS) as f64);

        let few = tried(|| self.evaluator.fold(black_box(&c), elements.get(..1).unwrap_or_default(), &keys).map(drop))?;
        let many = tried(|| self.evaluator.fold(black_box(&c), &elements, &keys).map(drop))?;
        let product = rest(many, few) / (MANY - 1) as f64;
        let added = model.elementwise * n * LEVEL as f64;
        model.keys = Stream {
            word: rest(product, added) / (2.0 * n * (LEVEL + SPECIALS) as f64),
            byte: model.plain_products.byte,
        };

        // Rotations from one decomposition: each has a product, a division and a result of its own.
        let few = tried(|| {
            self.evaluator.rotate_hoisted(black_box(&c), elements.get(..1).unwrap_or_default(), &keys).map(drop)
        })?;
        let many = tried(|| self.evaluator.rotate_hoisted(black_box(&c), &elements, &keys).map(drop))?;
        let rotation = rest(many, few) / (MANY - 1) as f64;
        let divided = 2.0 * (digits_ntts + n * (LEVEL * SPECIALS) as f64 * model.convert + added);
        model.buffer = rest(rotation, product + divided) / (2.0 * n * (2 * LEVEL + SPECIALS) as f64);
        Ok(())
    }

    /// Encoding and encrypting.
    fn inputs(&self, model: &mut CostModel) -> Result<(), MeasureError> {
        let (n, half) = (self.parameters.n(), self.parameters.slots());
        let packing = Packing { span: half / ROWS, giants: 1, max_tiles: 1, complex: true };
        let cols = 2 * half;
        let layout = Diagonals::packed(half, ROWS, cols, packing)?;
        let encoder = Encoder::new(&self.parameters);
        let x: Vec<f64> = (0..cols).map(|i| (i % 17) as f64 / 17.0).collect();
        let encoding = tried(|| encoder.encode(&layout.input_slots(0, black_box(&x)), 1e9, LEVEL).map(drop))?;
        let transformed = half as f64 * f64::from(half.ilog2());
        model.encode = rest(encoding, LEVEL as f64 * self.ntt(model)) / transformed;

        let key = PublicKey::from_parts(&self.parameters, LEVEL, self.poly(4), [4; 32])?;
        let plaintext = encoder.encode(&layout.input_slots(0, &x), 1e9, LEVEL)?;
        let mut rng = os_rng()?;
        let encrypting = tried(|| key.encrypt(&self.parameters, black_box(&plaintext), &mut rng).map(drop))?;
        let known = 3.0 * self.ntt(model) + n as f64 * (4.0 * model.elementwise + 2.0 * model.multiply_add);
        model.encrypt = rest(encrypting, LEVEL as f64 * known) / n as f64;
        Ok(())
    }

    fn ntt(&self, model: &CostModel) -> f64 {
        1e9 * model.ntt_seconds(MEASURED_LOG_N)
    }
}

/// What is left of a time, at least a hundredth of it: parts measured alone may seem to take longer than in the whole.
fn rest(whole: f64, parts: f64) -> f64 {
    (whole - parts).max(0.01 * whole)
}

/// The median time of an operation that may fail.
fn tried<E>(mut run: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    run()?;
    let mut failed = None;
    let time = median(|| {
        if let Err(e) = run() {
            failed = Some(e);
        }
    });
    failed.map_or(Ok(time), Err)
}

/// Half the time of a forward and an inverse NTT, per butterfly.
fn one_butterfly(log_n: u32, kernel: Kernel) -> Result<f64, RingError> {
    let ring = Ring::new(log_n, &primes::find(log_n, PRIME_BITS, 1, &[])?, kernel)?;
    let mut a = ring.uniform(1, &[7; 32], 1);
    let both = median(|| {
        ring.forward(black_box(&mut a));
        ring.inverse(&mut a);
    });
    Ok(both / (ring.n() as f64 * f64::from(log_n)))
}

/// Random weights, so that every page of the stream is its own.
fn stream(ring: &Ring, terms: usize) -> WeightStream {
    let (a, b) = (ring.uniform(1, &[8; 32], 1), ring.uniform(1, &[8; 32], 2));
    let mut stream = WeightStream::zeroed(ring, 1, 1, terms);
    stream.write(0, &vec![[&a, &b]; terms]);
    stream
}

fn plain_products(ring: &Ring, terms: usize) -> f64 {
    let stream = stream(ring, terms);
    let x = ring.uniform(1, &[9; 32], 1);
    let (mut c0, mut c1) = (x.clone(), x.clone());
    median(|| stream.product_plain(black_box(&[(&x, terms)]), [&mut c0, &mut c1]))
}

fn cipher_products(ring: &Ring, terms: usize) -> f64 {
    let stream = stream(ring, terms);
    let inputs: Vec<_> =
        (0..8).map(|i| (ring.uniform(1, &[9; 32], 2 * i), ring.uniform(1, &[9; 32], 2 * i + 1))).collect();
    let inputs: Vec<_> = inputs.iter().cycle().take(terms).map(|(a, b)| [a, b]).collect();
    let mut out: Vec<_> = (0..3).map(|_| ring.uniform(1, &[9; 32], 0)).collect();
    median(|| stream.product_cipher(black_box(&inputs), &mut out.iter_mut().collect::<Vec<_>>()))
}

/// The median time of a loop's runs, ns; the first run is not counted.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < RUNS || (start.elapsed() < TIME_EACH && times.len() < 10_000) {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::MAX)
}

/// The processor's name, where the system tells; else the architecture.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
