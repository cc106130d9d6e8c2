//! Times key switches with a chain of small primes and with swapped large ones, N = 2^14, a modulus of about 290 bits and rescales by
//! 28 bits, on the calling thread. Medians in milliseconds, with the fastest run in brackets.
//!
//! `taskset -c 1 cargo run --release -p subrosa-secret --example swapped_primes`

use std::hint::black_box;
use std::time::Instant;
use subrosa_fhe::chain::swap_chain;
use subrosa_fhe::{
    Encoder, EvaluationKeys, Evaluator, FheError, Galois, Kernel, KeyId, KeyShape, ParameterSpec, Parameters,
    SecurityLevel, primes,
};
use subrosa_secret::SecretKey;

const LOG_N: u32 = 14;
const RUNS: usize = 41;
/// Rotations or terms between few and many.
const MORE: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let special = primes::find(LOG_N, 50, 2, &[])?;
    let mut special = [special, primes::find(LOG_N, 40, 1, &[])?].concat();
    special.truncate(3);
    // A bottom of 38 bits and nine of 28.
    let mut small = primes::find(LOG_N, 38, 1, &special)?;
    small.extend(primes::find(LOG_N, 28, 9, &special)?);
    let prefix = ParameterSpec::new(LOG_N, small, special.clone(), SecurityLevel::Bits128);
    let chain = swap_chain(LOG_N, 38.0, &[28.0; 9], 50, &special)?;
    let swapped = ParameterSpec::new(LOG_N, chain.pool, special, SecurityLevel::Bits128).with_levels(chain.levels);
    println!("chain    limbs  P   digit  mul_relinearize+rescale   hoisted rotation        giant step + rescale");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    for (name, spec, shapes) in [
        ("prefix", prefix, [(1, 1), (1, 3), (2, 3), (2, 4), (3, 5)]),
        ("swapped", swapped, [(1, 1), (2, 2), (2, 1), (3, 2), (3, 3)]),
    ] {
        for (specials, digit) in shapes {
            pool.install(|| measure(name, &spec, specials, digit))?;
        }
    }
    Ok(())
}

fn measure(name: &str, spec: &ParameterSpec, specials: usize, digit: usize) -> Result<(), FheError> {
    let parameters = Parameters::new(spec.clone(), Kernel::active()?)?;
    let level = parameters.levels();
    let shape = KeyShape { level, specials, digit };
    parameters.check_key(shape)?;
    let secret = SecretKey::generate(&parameters)?;
    let (encoder, evaluator) = (Encoder::new(&parameters), Evaluator::new(&parameters));
    let elements: Vec<Galois> = (1..=MORE as u32 + 1).map(Galois::rotation).collect();
    let ids = elements.iter().flat_map(|&g| [KeyId::new(g, 1), KeyId::new(g, 2)]);
    let keys: EvaluationKeys = ids
        .chain([KeyId::new(Galois::IDENTITY, 2)])
        .map(|id| secret.switch_key(id, shape)?.prepare(&parameters))
        .collect::<Result<_, FheError>>()?;
    let x: Vec<f64> = (0..parameters.slots()).map(|j| (j % 13) as f64 / 13.0).collect();
    let c = secret.encrypt(&encoder.encode_real(&x, 28f64.exp2(), level)?)?.expand(&parameters)?;
    let square = evaluator.square(&c)?;
    let terms: Vec<(Galois, &_)> = elements.iter().map(|&g| (g, &square)).collect();
    let few = |count: usize| &elements[..count];
    let product = time(|| evaluator.mul_relinearize(black_box(&c), &c, &keys, true).map(drop))?;
    let one = time(|| evaluator.rotate_hoisted(black_box(&c), few(1), &keys).map(drop))?;
    let many = time(|| evaluator.rotate_hoisted(black_box(&c), few(MORE + 1), &keys).map(drop))?;
    let step = time(|| evaluator.giant_sum(black_box(&terms[..1]), &keys, true).map(drop))?;
    let steps = time(|| evaluator.giant_sum(black_box(&terms), &keys, true).map(drop))?;
    let more = |many: [f64; 2], one: [f64; 2]| [0, 1].map(|i| (many[i] - one[i]) / MORE as f64);
    print!("{name:<9}{:>4}{:>6.0}{digit:>5}", parameters.level_limbs(level).len(), parameters.log_p(specials));
    for [median, fastest] in [product, more(many, one), more(steps, step)] {
        print!("{:>16.3} ({fastest:.3})", median);
    }
    println!("   log2 Q {:.1}, QP {:.1}", parameters.log_q(level), parameters.log_qp(shape));
    Ok(())
}

/// Median and fastest of the run times in milliseconds.
fn time(mut work: impl FnMut() -> Result<(), FheError>) -> Result<[f64; 2], FheError> {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok([times[RUNS / 2], times[0]])
}
