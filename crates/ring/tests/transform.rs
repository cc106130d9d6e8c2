//! The NTT, its orbit order, and the automorphisms, against their definitions, for every kernel.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

mod common;

use common::{below, moduli, residues, rng};
use subrosa_ring::{Galois, Kernel, Modulus, NttTable, Ring, RingError, RnsPoly};

/// The exponent of psi at each index of the orbit order.
fn orbit_exponents(n: usize) -> Vec<u64> {
    let order = 2 * n as u64;
    let powers: Vec<u64> = std::iter::successors(Some(1), |e| Some(e * 5 % order)).take(n / 2).collect();
    powers.iter().copied().chain(powers.iter().map(|e| order - e)).collect()
}

fn schoolbook_negacyclic(a: &[u64], b: &[u64], p: &Modulus) -> Vec<u64> {
    let n = a.len();
    let mut out = vec![0; n];
    for (i, &x) in a.iter().enumerate() {
        for (j, &y) in b.iter().enumerate() {
            let product = p.mul(x, y);
            let k = (i + j) % n;
            out[k] = if i + j < n { p.add(out[k], product) } else { p.sub(out[k], product) };
        }
    }
    out
}

#[test]
fn root_is_the_smallest_generators_power() {
    let p = moduli(4, 20, 1)[0];
    let table = NttTable::new(4, p, Kernel::Portable).unwrap();
    let order_of = |x: u64| (1..=32).find(|&e| p.pow(x, e) == 1);
    let expected = (2..).map(|g| p.pow(g, (p.value() - 1) / 32)).find(|&root| order_of(root) == Some(32));
    assert_eq!(Some(table.root()), expected);
}

#[test]
fn forward_evaluates_at_the_orbit_of_5_and_inverse_undoes_it() {
    let mut rng = rng(2);
    for kernel in Kernel::all_available() {
        for log_n in 3..=9 {
            for bits in [17, 20, 28, 36, 47, 50] {
                let p = moduli(log_n, bits, 1)[0];
                let table = NttTable::new(log_n, p, kernel).unwrap();
                let a = residues(table.n(), &p, &mut rng);
                let expected: Vec<u64> = orbit_exponents(table.n())
                    .into_iter()
                    .map(|e| {
                        let point = p.pow(table.root(), e);
                        a.iter().rev().fold(0, |value, &c| p.add(p.mul(value, point), c))
                    })
                    .collect();
                let mut transformed = a.clone();
                table.forward(&mut transformed);
                assert_eq!(transformed, expected, "kernel {kernel}, N = 2^{log_n}, p = {}", p.value());
                table.inverse(&mut transformed);
                assert_eq!(transformed, a);
            }
        }
    }
}

#[test]
fn products_of_transforms_are_negacyclic_products() {
    let mut rng = rng(3);
    for kernel in Kernel::all_available() {
        for (log_n, bits) in [(3, 50), (6, 50), (10, 50), (11, 50), (11, 17), (12, 17), (11, 28)] {
            let p = moduli(log_n, bits, 1)[0];
            let table = NttTable::new(log_n, p, kernel).unwrap();
            let (mut a, mut b) = (residues(table.n(), &p, &mut rng), residues(table.n(), &p, &mut rng));
            let expected = schoolbook_negacyclic(&a, &b, &p);
            table.forward(&mut a);
            table.forward(&mut b);
            table.mul_assign(&mut a, &b);
            table.inverse(&mut a);
            assert_eq!(a, expected, "kernel {kernel}, N = 2^{log_n}");
        }
    }
}

#[test]
fn automorphism_substitutes_powers_of_x() {
    let mut rng = rng(4);
    let log_n = 6;
    let primes: Vec<u64> = moduli(log_n, 45, 2).iter().map(Modulus::value).collect();
    let ring = Ring::new(log_n, &primes, Kernel::Portable).unwrap();
    let n = ring.n();
    for trial in 0..20 {
        let g = Galois { rotation: below(n / 2, &mut rng) as u32, conjugate: trial % 2 == 1 };
        let mut a = RnsPoly::zero(n, 2);
        let mut expected = RnsPoly::zero(n, 2);
        for i in 0..2 {
            let p = ring.modulus(i);
            a.limb_mut(i).copy_from_slice(&residues(n, p, &mut rng));
            for (k, &c) in a.limb(i).iter().enumerate() {
                // X^e with e mod 2N, and X^N = -1.
                let e = (k as u64 * g.element(n) % (2 * n as u64)) as usize;
                expected.limb_mut(i)[e % n] = if e < n { c } else { p.neg(c) };
            }
        }
        let original = a.clone();
        ring.forward(&mut a);
        let mut moved = ring.automorphism(&a, g);
        assert!(ring.automorphism(&moved, g.inverse(n)) == a);
        ring.inverse(&mut moved);
        assert!(moved == expected, "{g:?}");
        assert_eq!(g.is_identity(), moved == original);
    }
}

#[test]
fn automorphism_rotates_halves_left_and_conjugation_swaps_them() {
    let primes = [moduli(4, 30, 1)[0].value()];
    let ring = Ring::new(4, &primes, Kernel::Portable).unwrap();
    let mut a = RnsPoly::zero(16, 1);
    a.as_mut_slice().copy_from_slice(&(0..16).collect::<Vec<u64>>());
    assert_eq!(
        ring.automorphism(&a, Galois::rotation(3)).as_slice(),
        [3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10]
    );
    assert_eq!(
        ring.automorphism(&a, Galois::conjugation()).as_slice(),
        [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]
    );
}

#[test]
fn rings_refuse_unfit_primes() {
    let p = moduli(5, 30, 2);
    let (first, second) = (p[0].value(), p[1].value());
    let refusal = |log_n, primes: &[u64]| Ring::new(log_n, primes, Kernel::Portable).map(|_| ()).unwrap_err();
    assert_eq!(refusal(5, &[]), RingError::NoPrimes);
    assert_eq!(refusal(5, &[first, second, first]), RingError::DuplicatePrime { prime: first });
    assert_eq!(refusal(5, &[first + 2]), RingError::InvalidModulus { value: first + 2 });
    assert_eq!(refusal(5, &[97 * 97]), RingError::InvalidModulus { value: 97 * 97 });
    assert_eq!(refusal(6, &[97]), RingError::PrimeNotNttFriendly { prime: 97, log_n: 6 });
    assert_eq!(refusal(2, &[first]), RingError::UnsupportedDegree { log_n: 2 });
}
