//! Scalars modulo one prime, and the search for primes, against plain 128-bit arithmetic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

mod common;

use common::{residues, rng};
use rand_core::Rng;
use subrosa_ring::{Modulus, RingError, primes};

const PRIMES: [u64; 9] = [3, 5, 17, 97, 65537, 1_048_573, 1_099_511_480_321, 1_125_899_906_826_241, (1 << 50) - 27];

#[test]
fn modulus_agrees_with_u128_remainders() {
    let mut rng = rng(1);
    for prime in PRIMES {
        let p = Modulus::new(prime).unwrap();
        assert_eq!(p.bits(), prime.ilog2() + 1);
        let wide = u128::from(prime);
        let (xs, ys) = (residues(2000, &p, &mut rng), residues(2000, &p, &mut rng));
        for (&x, &y) in xs.iter().zip(&ys) {
            let (a, b) = (u128::from(x), u128::from(y));
            assert_eq!(u128::from(p.mul(x, y)), a * b % wide, "{x} * {y} mod {prime}");
            assert_eq!(u128::from(p.add(x, y)), (a + b) % wide);
            assert_eq!(u128::from(p.sub(x, y)), (a + wide - b) % wide);
            assert_eq!(p.add(x, p.neg(x)), 0);
            match p.inv(x) {
                Some(inverse) => assert_eq!(p.mul(x, inverse), 1),
                None => assert_eq!(x, 0),
            }
            let centered = p.center(x);
            assert!(2 * i128::from(centered) > -(wide as i128) && 2 * i128::from(centered) <= wide as i128);
            assert_eq!(p.from_i64(centered), x);
        }
        let random: Vec<u128> =
            (0..2000).map(|_| u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())).collect();
        for x in random.into_iter().chain([0, 1, wide - 1, wide, wide + 1, u128::MAX, u128::MAX - 1, 1 << 127]) {
            assert_eq!(u128::from(p.reduce_u128(x)), x % wide);
            assert_eq!(u128::from(p.reduce(x as u64)), u128::from(x as u64) % wide);
            assert_eq!(i128::from(p.from_i64(x as i64)), i128::from(x as i64).rem_euclid(wide as i128));
            assert_eq!(p.from_i128(x as i128) as i128, (x as i128).rem_euclid(wide as i128));
        }
        let exponent = rng.next_u64() % 1000;
        let expected = (0..exponent).fold(1u128, |power, _| power * u128::from(xs[5]) % wide);
        assert_eq!(u128::from(p.pow(xs[5], exponent)), expected);
    }
}

#[test]
fn only_odd_primes_below_2_to_50_are_moduli() {
    for value in [0, 1, 2, 9, 561, 1 << 49, (1 << 50) - 1, (1 << 50) + 55, u64::MAX, 3_215_031_751] {
        assert_eq!(Modulus::new(value), Err(RingError::InvalidModulus { value }));
    }
}

#[test]
fn is_prime_agrees_with_a_sieve() {
    const LIMIT: usize = 100_000;
    let mut composite = vec![false; LIMIT];
    for i in 2..LIMIT {
        assert_eq!(primes::is_prime(i as u64), !composite[i], "{i}");
        for multiple in (i * i..LIMIT).step_by(i) {
            composite[multiple] = true;
        }
    }
}

#[test]
fn find_gives_the_largest_fitting_primes_and_says_when_there_are_too_few() {
    let found = primes::find(13, 50, 6, &[]).unwrap();
    let mut expected: Vec<u64> = Vec::new();
    let mut candidate = (1u64 << 50) - (1 << 14) + 1;
    while expected.len() < 6 {
        if primes::is_prime(candidate) {
            expected.push(candidate);
        }
        candidate -= 1 << 14;
    }
    assert_eq!(found, expected);
    let without = primes::find(13, 50, 5, &found[..1]).unwrap();
    assert_eq!(without, found[1..]);
    assert!(matches!(primes::find(16, 18, 2, &[]), Err(RingError::NotEnoughPrimes { wanted: 2, .. })));
    assert!(matches!(primes::find(13, 51, 1, &[]), Err(RingError::BitsOutOfRange { bits: 51, .. })));
    assert!(matches!(primes::find(18, 50, 1, &[]), Err(RingError::UnsupportedDegree { log_n: 18 })));
}
