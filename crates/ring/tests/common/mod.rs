//! Seeded random inputs shared by the test-suites.
#![allow(dead_code, clippy::unwrap_used, reason = "each suite uses its own part; a failed set-up is a failed test")]

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use subrosa_ring::{Modulus, primes};

/// A generator with a fixed seed, printed so that a failure can be repeated.
pub fn rng(seed: u64) -> ChaCha20Rng {
    println!("random seed {seed}");
    ChaCha20Rng::seed_from_u64(seed)
}

/// A random index below `bound`.
pub fn below(bound: usize, rng: &mut impl Rng) -> usize {
    (rng.next_u64() % bound as u64) as usize
}

/// Random residues, with the extreme ones 0 and p-1 mixed in.
pub fn residues(len: usize, p: &Modulus, rng: &mut impl Rng) -> Vec<u64> {
    (0..len)
        .map(|_| match rng.next_u32() % 16 {
            0 => 0,
            1 => p.value() - 1,
            _ => p.reduce(rng.next_u64()),
        })
        .collect()
}

/// The largest `count` primes of `bits` bits for degree 2^log_n.
pub fn moduli(log_n: u32, bits: u32, count: usize) -> Vec<Modulus> {
    primes::find(log_n, bits, count, &[]).unwrap().into_iter().map(|p| Modulus::new(p).unwrap()).collect()
}
