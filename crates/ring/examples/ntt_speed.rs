//! Times the transforms and dot products of every kernel of this machine. Figures are medians of many runs,
//! with the fastest run beside it in brackets: on a shared machine the two differ.
//!
//! `cargo run --release -p subrosa-ring --example ntt_speed`

use std::hint::black_box;
use std::time::Instant;
use subrosa_ring::{Kernel, Modulus, NttTable, RingError, primes};

const RUNS: usize = 301;
/// Pairs of one dot product.
const PAIRS: usize = 8;

/// Median and minimum of the run times in nanoseconds.
fn time_ns(mut work: impl FnMut()) -> (f64, f64) {
    let mut times: Vec<u128> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    (times[RUNS / 2] as f64, times[0] as f64)
}

fn main() -> Result<(), RingError> {
    println!("kernel      log N  bits      forward ns      inverse ns    ns/butterfly dot ns/pair/word");
    for kernel in Kernel::all_available() {
        for bits in [45, 48, 50] {
            for log_n in 12..=15 {
                let prime = primes::find(log_n, bits, 1, &[])?[0];
                let table = NttTable::new(log_n, Modulus::new(prime)?, kernel)?;
                let n = table.n();
                let mut a: Vec<u64> = (0..n as u64).map(|i| i * i % prime).collect();
                let forward = time_ns(|| table.forward(black_box(&mut a)));
                let inverse = time_ns(|| table.inverse(black_box(&mut a)));
                let factors: Vec<Vec<u64>> =
                    (0..2 * PAIRS).map(|k| a.iter().map(|&x| x ^ k as u64 & 1).collect()).collect();
                let pairs: Vec<(&[u64], &[u64])> =
                    factors.chunks_exact(2).map(|pair| (pair[0].as_slice(), pair[1].as_slice())).collect();
                let mut out = vec![0; n];
                let dot = time_ns(|| table.dot(black_box(&mut out), black_box(&pairs)));
                let columns = [(forward, 0, 1.0), (inverse, 0, 1.0), (forward, 3, n as f64 / 2.0 * f64::from(log_n))];
                print!("{:<12}{log_n:>5}{bits:>6}", kernel.to_string());
                for ((median, fastest), digits, units) in columns.into_iter().chain([(dot, 3, (n * PAIRS) as f64)]) {
                    let text = format!("{:.digits$} ({:.digits$})", median / units, fastest / units);
                    print!("{text:>16}");
                }
                println!();
            }
        }
    }
    Ok(())
}
