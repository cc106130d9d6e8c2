//! Measuring the inner loops on this machine.

use super::{CostModel, LOG_N, Stream};
use std::hint::black_box;
use std::time::{Duration, Instant};
use subrosa_fhe::{Encoder, FheError, Kernel, ParameterSpec, Parameters, SecurityLevel};
use subrosa_ring::sampler::{gaussian, os_rng, ternary};
use subrosa_ring::{BaseConverter, Ring, RingError, WeightStream, primes};

/// Bits of the primes that are measured with: whole bytes, and the size that most plans use.
const PRIME_BITS: u32 = 40;
/// The ring that everything but the NTT is measured in.
const MEASURED_LOG_N: u32 = 13;
/// Weights that stay in the second-level cache, and weights that do not, as ciphertexts of that ring and one prime.
const TERMS_IN_CACHE: usize = 8;
const TERMS_IN_MEMORY: usize = 768;
/// Each loop runs for at least this long in all.
const TIME_EACH: Duration = Duration::from_millis(60);
/// And at least so often.
const RUNS: usize = 7;
/// Dispatch, buffers and locks of a step; too small to be told from noise, and of no weight beside any NTT.
pub(super) const STEP_NANOSECONDS: f64 = 2000.0;

/// Why a machine could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The kernel is not available.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// From the engine.
    #[error(transparent)]
    Fhe(#[from] FheError),
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
    let n = 1usize << MEASURED_LOG_N;
    let words = n as f64;
    let moduli = primes::find(MEASURED_LOG_N, PRIME_BITS, 5, &[])?;
    let ring = Ring::new(MEASURED_LOG_N, &moduli, kernel)?;
    let random = |domain| ring.uniform(5, &[7; 32], domain);
    let (a, b) = (random(1), random(2));

    let mut butterfly = [0.0; 6];
    for (log_n, out) in LOG_N.zip(&mut butterfly) {
        *out = one_butterfly(log_n, kernel)?;
    }

    let mut sum = random(3);
    let pairs: Vec<(&[u64], &[u64])> = (0..4).map(|i| (a.limb(i), b.limb(i))).collect();
    let table = ring.table(0);
    let multiply_add = median(|| table.dot_add_assign(sum.limb_mut(0), black_box(&pairs))) / (4.0 * words);
    let elementwise = median(|| table.mul_scalar_add_assign(sum.limb_mut(0), black_box(a.limb(0)), 12_345)) / words;

    let select = |from: std::ops::Range<usize>| -> Vec<_> { from.map(|i| *ring.modulus(i)).collect() };
    let converter = BaseConverter::new(&select(0..2), &select(2..5))?;
    let source: Vec<&[u64]> = (0..2).map(|i| a.limb(i)).collect();
    let mut converted = random(4);
    let convert = median(|| {
        let mut targets: Vec<&mut [u64]> = converted.as_mut_slice().chunks_exact_mut(n).take(3).collect();
        converter.convert(black_box(&source), &mut targets, kernel);
    }) / (6.0 * words);

    let plain_products = Stream {
        word: plain_products(&ring, TERMS_IN_CACHE) / residues(n, TERMS_IN_CACHE),
        byte: plain_products(&ring, TERMS_IN_MEMORY) / bytes(n, TERMS_IN_MEMORY),
    };
    let cipher_products = Stream {
        word: cipher_products(&ring, TERMS_IN_CACHE) / residues(n, TERMS_IN_CACHE),
        byte: cipher_products(&ring, TERMS_IN_MEMORY) / bytes(n, TERMS_IN_MEMORY),
    };
    // Keys are read as weights with a plain factor are: unpacked, multiplied by a digit, once.
    let keys = plain_products;

    let spec = ParameterSpec::new(MEASURED_LOG_N, moduli.iter().copied().take(3).collect(), Vec::new(), SecurityLevel::Bits128);
    let parameters = Parameters::new(spec, kernel)?;
    let encoder = Encoder::new(&parameters);
    let slots: Vec<f64> = (0..n / 2).map(|i| (i % 17) as f64 / 17.0).collect();
    let mut failed = None;
    let encoding = median(|| failed = encoder.encode_real(black_box(&slots), 1e9, 3).err());
    if let Some(e) = failed {
        return Err(e.into());
    }
    let in_slots = words / 2.0 * f64::from((n / 2).ilog2());
    let measured = (MEASURED_LOG_N - LOG_N.start()) as usize;
    let ntts = 3.0 * butterfly.get(measured).copied().unwrap_or(0.0) * words / 2.0 * f64::from(MEASURED_LOG_N);
    let encode = (encoding - ntts).max(0.1 * encoding) / in_slots;

    let mut rng = os_rng()?;
    let sampled = median(|| {
        black_box((ternary(n, &mut rng), gaussian(n, &mut rng), gaussian(n, &mut rng)));
    });
    Ok(CostModel {
        kernel: kernel.to_string(),
        machine: machine(),
        date: None,
        butterfly,
        multiply_add,
        convert,
        elementwise,
        plain_products,
        cipher_products,
        keys,
        encode,
        encrypt: sampled / words,
        step: STEP_NANOSECONDS,
    })
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

fn residues(n: usize, terms: usize) -> f64 {
    (2 * n * terms) as f64
}

fn bytes(n: usize, terms: usize) -> f64 {
    residues(n, terms) * f64::from(PRIME_BITS / 8)
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
    let inputs: Vec<_> = (0..8).map(|i| (ring.uniform(1, &[9; 32], 2 * i), ring.uniform(1, &[9; 32], 2 * i + 1))).collect();
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
