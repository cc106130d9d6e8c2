//! Base conversion and division by dropped primes against exact integers, for every kernel.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

mod common;

use common::{moduli, residues, rng};
use num_bigint::BigInt;
use rand_core::Rng;
use subrosa_ring::{BaseConverter, Kernel, ModDown, Modulus, Ring, RingError, RnsPoly, primes};

/// Large enough for whole vectors and a remainder.
const LEN: usize = 8 * 37 + 5;

fn product(moduli: &[Modulus]) -> BigInt {
    moduli.iter().map(|p| BigInt::from(p.value())).product()
}

fn modulo(x: &BigInt, p: &Modulus) -> u64 {
    let p = BigInt::from(p.value());
    u64::try_from(((x % &p) + &p) % &p).unwrap()
}

/// The representative in (-D/2, D/2] of the residues modulo the product D of `moduli`, by the Chinese remainder theorem.
fn centered(residues: &[u64], moduli: &[Modulus]) -> BigInt {
    let d = product(moduli);
    let mut x = BigInt::ZERO;
    for (&r, p) in residues.iter().zip(moduli) {
        let cofactor = &d / BigInt::from(p.value());
        let inverse = p.inv(modulo(&cofactor, p)).unwrap();
        x += cofactor * p.mul(r, inverse);
    }
    x %= &d;
    if BigInt::from(2) * &x > d { x - d } else { x }
}

/// Primes of mixed sizes, all distinct.
fn mixed_moduli(sizes: &[u32]) -> Vec<Modulus> {
    let mut taken = Vec::new();
    for &bits in sizes {
        let p = primes::find(5, bits, 1, &taken).unwrap()[0];
        taken.push(p);
    }
    taken.iter().map(|&p| Modulus::new(p).unwrap()).collect()
}

#[test]
fn conversion_gives_the_centred_representative_exactly() {
    let mut rng = rng(5);
    for sizes in
        [&[50][..], &[20], &[17], &[50, 50], &[20, 50, 35], &[17, 50, 18], &[28; 9], &[50; 5], &[45; 17], &[50; 30]]
    {
        let from = mixed_moduli(sizes);
        // Among the targets is one of the sources.
        let mut to = mixed_moduli(&[17, 20, 21, 30, 40, 49, 50, 50]);
        to.push(from[0]);
        let d = product(&from);
        let mut columns: Vec<Vec<u64>> = from.iter().map(|p| residues(LEN, p, &mut rng)).collect();
        // Small values of both signs, and values within 2^-40 of the halves of D from inside.
        let edge: BigInt = &d / 2 - (&d >> 40);
        for (i, x) in (-20..20).map(BigInt::from).chain([edge.clone(), -edge]).enumerate() {
            for (column, p) in columns.iter_mut().zip(&from) {
                column[i] = modulo(&x, p);
            }
        }
        let converter = BaseConverter::new(&from, &to).unwrap();
        let src: Vec<&[u64]> = columns.iter().map(Vec::as_slice).collect();
        for kernel in Kernel::all_available() {
            let mut out = vec![vec![u64::MAX; LEN]; to.len()];
            let mut dst: Vec<&mut [u64]> = out.iter_mut().map(Vec::as_mut_slice).collect();
            converter.convert(&src, &mut dst, kernel);
            for i in 0..LEN {
                let x = centered(&columns.iter().map(|c| c[i]).collect::<Vec<_>>(), &from);
                for (p, out) in to.iter().zip(&out) {
                    assert_eq!(out[i], modulo(&x, p), "kernel {kernel}, sizes {sizes:?}, x = {x}");
                }
            }
        }
    }
}

#[test]
fn conversion_refuses_repeated_and_missing_primes() {
    let p = moduli(5, 30, 2);
    assert_eq!(BaseConverter::new(&[], &p).err(), Some(RingError::NoPrimes));
    let repeated = BaseConverter::new(&[p[0], p[1], p[0]], &p).err();
    assert_eq!(repeated, Some(RingError::DuplicatePrime { prime: p[0].value() }));
}

#[test]
fn mod_down_divides_with_rounding_to_nearest() {
    let mut rng = rng(6);
    let log_n = 5;
    let primes: Vec<u64> = mixed_moduli(&[50, 40, 30, 35, 50, 50]).iter().map(Modulus::value).collect();
    for kernel in Kernel::all_available() {
        let ring = Ring::new(log_n, &primes, kernel).unwrap();
        for (dropped, kept) in [(&[5][..], &[0, 1, 2, 3, 4][..]), (&[4, 5], &[0, 1, 2, 3]), (&[1, 3, 5, 4], &[2, 0])] {
            let pick = |indices: &[usize]| -> Vec<Modulus> { indices.iter().map(|&i| *ring.modulus(i)).collect() };
            let (d, all) = (product(&pick(dropped)), pick(&[0, 1, 2, 3, 4, 5]));
            let mut x = RnsPoly::zero(ring.n(), 6);
            for i in 0..6 {
                x.limb_mut(i).copy_from_slice(&residues(ring.n(), ring.modulus(i), &mut rng));
            }
            let expected: Vec<BigInt> = (0..ring.n())
                .map(|k| {
                    let value = centered(&x.limbs_iter().map(|limb| limb[k]).collect::<Vec<_>>(), &all);
                    // floor((2v + d) / 2d) rounds to nearest; d is odd, so there are no ties.
                    let (numerator, denominator) = (BigInt::from(2) * value + &d, BigInt::from(2) * &d);
                    let remainder = ((&numerator % &denominator) + &denominator) % &denominator;
                    (numerator - remainder) / denominator
                })
                .collect();
            ring.forward(&mut x);
            let mut out = ModDown::new(&ring, dropped, kept).unwrap().apply(&x);
            ring.select(kept).inverse(&mut out);
            for (limb, p) in out.limbs_iter().zip(pick(kept)) {
                for (k, expected) in expected.iter().enumerate() {
                    assert_eq!(limb[k], modulo(expected, &p), "kernel {kernel}, dropped {dropped:?}");
                }
            }
        }
    }
}

#[test]
fn mod_down_with_added_primes_multiplies_by_them_first() {
    let mut rng = rng(8);
    let log_n = 5;
    let pool: Vec<u64> = mixed_moduli(&[50, 49, 17, 35, 28, 48, 30]).iter().map(Modulus::value).collect();
    // Limbs of the polynomial, those of them that are dropped, limbs of the result.
    let cases: [(&[usize], &[usize], &[usize]); 5] = [
        (&[0, 1, 3], &[2], &[0, 1, 2]),
        (&[0, 1, 3], &[2], &[1, 2, 4, 0]),
        (&[5, 2, 0, 4], &[3, 0], &[6, 0, 2]),
        (&[5, 2, 0, 4], &[0, 1, 2, 3], &[6, 3]),
        (&[2, 3, 6], &[0], &[3, 6]),
    ];
    for kernel in Kernel::all_available() {
        let whole = Ring::new(log_n, &pool, kernel).unwrap();
        for (limbs, dropped, result) in cases {
            let (ring, to) = (whole.select(limbs), whole.select(result));
            let moduli = |ring: &Ring| -> Vec<Modulus> { (0..ring.limbs()).map(|i| *ring.modulus(i)).collect() };
            let d = product(&dropped.iter().map(|&i| *ring.modulus(i)).collect::<Vec<_>>());
            let a = product(&moduli(&to).into_iter().filter(|p| ring.position(p).is_none()).collect::<Vec<_>>());
            let mut x = RnsPoly::zero(ring.n(), limbs.len());
            for (i, limb) in x.limbs_iter_mut().enumerate() {
                limb.copy_from_slice(&residues(1 << log_n, ring.modulus(i), &mut rng));
            }
            let expected: Vec<BigInt> = (0..ring.n())
                .map(|k| {
                    let value = centered(&x.limbs_iter().map(|limb| limb[k]).collect::<Vec<_>>(), &moduli(&ring));
                    let (numerator, denominator) = (BigInt::from(2) * &a * value + &d, BigInt::from(2) * &d);
                    let remainder = ((&numerator % &denominator) + &denominator) % &denominator;
                    (numerator - remainder) / denominator
                })
                .collect();
            ring.forward(&mut x);
            let mut out = ModDown::with_added(&ring, dropped, &to).unwrap().apply(&x);
            to.inverse(&mut out);
            for (limb, p) in out.limbs_iter().zip(moduli(&to)) {
                for (k, expected) in expected.iter().enumerate() {
                    assert_eq!(limb[k], modulo(expected, &p), "kernel {kernel}, {limbs:?} to {result:?}");
                }
            }
        }
        let ring = whole.select(&[0, 1, 3]);
        let refusal = |dropped: &[usize], to: &[usize]| ModDown::with_added(&ring, dropped, &whole.select(to)).err();
        assert_eq!(refusal(&[], &[0]), Some(RingError::NoPrimes));
        assert_eq!(refusal(&[3], &[0]), Some(RingError::LimbOutOfRange { index: 3, limbs: 3 }));
        assert_eq!(refusal(&[2], &[0, 3]), Some(RingError::DuplicatePrime { prime: pool[3] }));
    }
}

#[test]
fn mod_down_refuses_bad_limb_lists() {
    let primes: Vec<u64> = moduli(5, 40, 3).iter().map(Modulus::value).collect();
    let ring = Ring::new(5, &primes, Kernel::Portable).unwrap();
    let refusal = |dropped: &[usize], kept: &[usize]| ModDown::new(&ring, dropped, kept).err();
    assert_eq!(refusal(&[], &[0]), Some(RingError::NoPrimes));
    assert_eq!(refusal(&[2], &[]), Some(RingError::NoPrimes));
    assert_eq!(refusal(&[3], &[0]), Some(RingError::LimbOutOfRange { index: 3, limbs: 3 }));
    assert_eq!(refusal(&[1], &[0, 1]), Some(RingError::DuplicatePrime { prime: primes[1] }));
    assert_eq!(refusal(&[1, 1], &[0]), Some(RingError::DuplicatePrime { prime: primes[1] }));
}

#[test]
fn centred_lift_keeps_the_signed_value() {
    let mut rng = rng(7);
    for (from_bits, to_bits) in [(50, 17), (17, 50), (50, 20), (20, 50), (40, 40), (50, 50), (30, 31)] {
        let (from, to) = (moduli(5, from_bits, 1)[0], moduli(5, to_bits, 2)[1]);
        let mut src = residues(32, &from, &mut rng);
        src[..4].copy_from_slice(&[0, from.value() / 2, from.value() / 2 + 1, from.value() - 1]);
        let values: Vec<i64> = (0..32).map(|_| rng.next_u64() as i64).chain([i64::MIN, i64::MAX, 0, -1]).collect();
        for kernel in Kernel::all_available() {
            let ring = Ring::new(5, &[to.value()], kernel).unwrap();
            let mut out = vec![0; 32];
            ring.table(0).lift_centered(&mut out, &src, &from);
            let expected: Vec<u64> = src.iter().map(|&x| modulo(&centered(&[x], &[from]), &to)).collect();
            assert_eq!(out, expected, "kernel {kernel}, {from_bits} to {to_bits} bits");
            let mut out = vec![0; values.len()];
            ring.table(0).from_signed(&mut out, &values);
            let expected: Vec<u64> = values.iter().map(|&v| modulo(&BigInt::from(v), &to)).collect();
            assert_eq!(out, expected, "kernel {kernel}");
        }
    }
}
