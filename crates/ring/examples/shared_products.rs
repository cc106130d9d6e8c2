//! Times products of one stream of weights with one and several sets of inputs, on the calling thread: N = 2^14, ten limbs of 28-bit
//! primes (four bytes to a residue), 64 terms by 8 groups. Medians, with the fastest run in brackets.
//!
//! `taskset -c 1 cargo run --release -p subrosa-ring --example shared_products`

use std::hint::black_box;
use std::time::Instant;
use subrosa_ring::{Kernel, Ring, RingError, RnsPoly, WeightStream, primes};

const LOG_N: u32 = 14;
const BITS: u32 = 28;
const LIMBS: usize = 10;
const TERMS: usize = 64;
const GROUPS: usize = 8;
const RUNS: usize = 7;

fn main() -> Result<(), RingError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|error| RingError::OsRandom { reason: error.to_string() })?;
    println!("kernel      sets   seconds  ns/(weight, set, limb, point)  weights GB/s");
    for kernel in Kernel::all_available() {
        let ring = Ring::new(LOG_N, &primes::find(LOG_N, BITS, LIMBS, &[])?, kernel)?;
        let mut stream = WeightStream::zeroed(&ring, LIMBS, GROUPS, TERMS);
        let poly = |domain: usize| ring.uniform(LIMBS, &[3; 32], domain as u64);
        for place in 0..GROUPS * TERMS {
            let weight = [poly(2 * (place % 8)), poly(2 * (place % 8) + 1)];
            stream.write(place, &[weight.each_ref()]);
        }
        let inputs: Vec<[RnsPoly; 2]> = (0..4 * TERMS).map(|t| [poly(100 + 2 * t), poly(101 + 2 * t)]).collect();
        for sets in 1..=4 {
            let inputs: Vec<Vec<Option<[&RnsPoly; 2]>>> =
                inputs.chunks(TERMS).take(sets).map(|x| x.iter().map(|x| Some(x.each_ref())).collect()).collect();
            let mut out: Vec<RnsPoly> = (0..3 * GROUPS * sets).map(|_| RnsPoly::zero(ring.n(), LIMBS)).collect();
            let mut out: Vec<&mut RnsPoly> = out.iter_mut().collect();
            let mut times: Vec<f64> = (0..RUNS)
                .map(|_| {
                    let start = Instant::now();
                    pool.install(|| stream.product_cipher_shared(black_box(&inputs), black_box(&mut out)));
                    start.elapsed().as_secs_f64()
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let products = (GROUPS * TERMS * sets * LIMBS * ring.n()) as f64;
            let (median, fastest) = (times[RUNS / 2], times[0]);
            let (nanoseconds, rate) = (|t: f64| t * 1e9 / products, |t: f64| stream.packed_bytes() as f64 / t / 1e9);
            println!(
                "{:<12}{sets:>4}{median:>10.3}{:>18.4} ({:.4}){:>12.2} ({:.2})",
                kernel.to_string(),
                nanoseconds(median),
                nanoseconds(fastest),
                rate(median),
                rate(fastest)
            );
        }
    }
    Ok(())
}
