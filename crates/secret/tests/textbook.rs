//! The same ciphertexts and keys, evaluated by the textbook: big integers, schoolbook products, exact rounding.
#![allow(clippy::unwrap_used)] // helpers of tests fail the test

mod common;

use common::{Random, distinct_primes};
use num_bigint::BigInt;
use std::collections::BTreeSet;
use subrosa_fhe::{
    Ciphertext, Encoder, EvaluationKeys, Evaluator, Galois, Kernel, KeyId, KeyShape, KeySwitchKey, ParameterSpec,
    Parameters, Ring, RnsPoly,
};
use subrosa_secret::SecretKey;

/// Coefficients of a polynomial modulo X^N + 1.
type Poly = Vec<BigInt>;

fn modulo(x: &BigInt, q: &BigInt) -> BigInt {
    ((x % q) + q) % q
}

fn centred(x: &BigInt, q: &BigInt) -> BigInt {
    let r = modulo(x, q);
    if &r * 2 > *q { r - q } else { r }
}

fn product(primes: &[u64]) -> BigInt {
    primes.iter().map(|&p| BigInt::from(p)).product()
}

/// Rounds x/d to the nearest integer.
fn divide(x: &BigInt, d: &BigInt) -> BigInt {
    (x - centred(x, d)) / d
}

/// CRT of an NTT-form polynomial over the ring's first primes, centred.
fn lift(ring: &Ring, poly: &RnsPoly) -> Poly {
    let mut coefficients = poly.clone();
    ring.inverse(&mut coefficients);
    lift_coefficients(&ring.primes()[..poly.limbs()], &coefficients)
}

fn lift_coefficients(primes: &[u64], poly: &RnsPoly) -> Poly {
    let q = product(primes);
    let basis: Vec<BigInt> = primes
        .iter()
        .map(|&p| {
            let others = &q / p;
            let inverse = (&others % p).modpow(&BigInt::from(p - 2), &BigInt::from(p));
            others * inverse
        })
        .collect();
    (0..poly.n())
        .map(|k| centred(&basis.iter().enumerate().map(|(i, b)| b * poly.limb(i)[k]).sum::<BigInt>(), &q))
        .collect()
}

fn add(a: &Poly, b: &Poly) -> Poly {
    a.iter().zip(b).map(|(x, y)| x + y).collect()
}

fn times(a: &Poly, factor: &BigInt) -> Poly {
    a.iter().map(|x| x * factor).collect()
}

fn multiply(a: &Poly, b: &Poly) -> Poly {
    let n = a.len();
    let mut out = vec![BigInt::ZERO; n];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            if i + j < n { out[i + j] += x * y } else { out[i + j - n] -= x * y }
        }
    }
    out
}

/// X -> X^g, g the Galois element.
fn automorphism(a: &Poly, g: u64) -> Poly {
    let n = a.len();
    let mut out = vec![BigInt::ZERO; n];
    for (k, x) in a.iter().enumerate() {
        let power = k * g as usize % (2 * n);
        if power < n { out[power] += x } else { out[power - n] -= x }
    }
    out
}

/// Largest difference modulo q.
fn distance(a: &Poly, b: &Poly, q: &BigInt) -> BigInt {
    a.iter().zip(b).map(|(x, y)| centred(&(x - y), q)).map(|d| if d < BigInt::ZERO { -d } else { d }).max().unwrap()
}

#[track_caller]
fn assert_equal(found: &Poly, expected: &Poly, q: &BigInt) {
    assert_eq!(distance(found, expected, q), BigInt::ZERO);
}

#[track_caller]
fn assert_within_one(found: &Poly, expected: &Poly, q: &BigInt) {
    assert!(distance(found, expected, q) <= BigInt::from(1));
}

struct Textbook {
    parameters: Parameters,
    secret: SecretKey,
    s: Poly,
}

impl Textbook {
    fn components(&self, c: &Ciphertext) -> Vec<Poly> {
        c.components.iter().map(|p| lift(self.parameters.ring_of(c.level).unwrap(), p)).collect()
    }

    fn modulus(&self, level: usize) -> BigInt {
        product(&self.parameters.ring_of(level).unwrap().primes())
    }

    /// What a rescale from this level multiplies by, and what it divides by.
    fn swap(&self, level: usize) -> [BigInt; 2] {
        let [higher, lower] = [level, level - 1].map(|level| self.parameters.ring_of(level).unwrap().primes());
        let only = |a: &[u64], b: &[u64]| product(&a.iter().copied().filter(|p| !b.contains(p)).collect::<Vec<_>>());
        [only(&lower, &higher), only(&higher, &lower)]
    }

    /// `sum_d [x]_{D_d} * key_d` over Q_level P, with the key's limbs above the level left out.
    fn key_product(&self, x: &Poly, level: usize, key: &KeySwitchKey) -> [Poly; 2] {
        let shape = key.shape();
        let ring = KeySwitchKey::ring(&self.parameters, shape).unwrap();
        let own = self.parameters.ring_of(shape.level).unwrap().primes();
        let at_level = self.parameters.ring_of(level).unwrap().primes();
        let place = |p: &u64| own.iter().position(|own| own == p).unwrap();
        let present: Vec<usize> = at_level.iter().map(place).chain(own.len()..own.len() + shape.specials).collect();
        let reduced = ring.select(&present);
        let n = self.parameters.n();
        let uniform = KeySwitchKey::uniform_halves(&ring, shape, key.seed());
        let mut sums = [vec![BigInt::ZERO; n], vec![BigInt::ZERO; n]];
        for (d, primes) in own.chunks(shape.digit).enumerate() {
            let primes: Vec<u64> = primes.iter().copied().filter(|p| at_level.contains(p)).collect();
            let digit: Poly = x.iter().map(|c| centred(c, &product(&primes))).collect();
            for (sum, halves) in sums.iter_mut().zip([key.body(), &uniform]) {
                let mut half = RnsPoly::zero(n, present.len());
                for (i, &limb) in present.iter().enumerate() {
                    half.limb_mut(i).copy_from_slice(halves[d].limb(limb));
                }
                *sum = add(sum, &multiply(&digit, &lift(&reduced, &half)));
            }
        }
        sums
    }

    /// `sum_i sigma_i(c_i)` divided by P (and rescaled), rounded to nearest.
    fn switched(
        &self,
        terms: &[(Galois, &Ciphertext)],
        keys: &[KeySwitchKey],
        shape: KeyShape,
        rescale: bool,
    ) -> [Poly; 2] {
        let (n, level, all) = (self.parameters.n(), terms[0].1.level(), self.parameters.pool());
        let primes = self.parameters.ring().primes();
        let p = product(&primes[all..all + shape.specials]);
        let mut sums = [vec![BigInt::ZERO; n], vec![BigInt::ZERO; n]];
        for (galois, c) in terms {
            for (power, component) in self.components(c).iter().enumerate() {
                let turned = automorphism(component, galois.element(n));
                if power == 0 || (power == 1 && galois.is_identity()) {
                    sums[power] = add(&sums[power], &times(&turned, &p));
                } else {
                    let id = KeyId::new(*galois, power as u8);
                    let key = keys.iter().find(|key| key.id() == id).unwrap();
                    let product = self.key_product(&turned, level, key);
                    sums = [add(&sums[0], &product[0]), add(&sums[1], &product[1])];
                }
            }
        }
        let total = self.modulus(level) * &p;
        let [added, dropped] = if rescale { self.swap(level) } else { [BigInt::from(1), BigInt::from(1)] };
        sums.map(|sum| sum.iter().map(|x| divide(&(centred(x, &total) * &added), &(&p * &dropped))).collect())
    }
}

#[test]
fn every_operation_agrees_with_big_integers() {
    let random = Random::new("textbook", 21);
    let kernels = Kernel::all_available();
    for round in 0..12usize {
        let digit = 1 + round % 3;
        let log_n = 4 + (round % 3) as u32;
        let q_bits: Vec<u32> = (0..random.range(3, 5)).map(|_| random.range(30, 50) as u32).collect();
        let p_bits: Vec<u32> = (0..digit).map(|_| random.range(40, 50) as u32).collect();
        let q = distinct_primes(log_n, &q_bits, &[]);
        let p = distinct_primes(log_n, &p_bits, &q);
        let parameters =
            Parameters::new(ParameterSpec::insecure_for_tests(log_n, q, p), kernels[round % kernels.len()]).unwrap();
        let secret = SecretKey::generate(&parameters).unwrap();
        let two_bits = |byte: &u8| [0, 2, 4, 6].map(|shift| [0, 1, -2, -1][usize::from(byte >> shift & 3)]);
        let s: Poly = secret.to_bytes().iter().flat_map(two_bits).map(BigInt::from).collect();
        assert!(s.iter().any(|c| *c == BigInt::from(-1)) && s.iter().all(|c| *c >= BigInt::from(-1)));
        let t = Textbook { parameters, secret, s };
        let highest = t.parameters.levels();
        check(&t, digit, random.range(2, highest), highest, &random);
    }
}

#[test]
fn every_operation_agrees_with_big_integers_where_primes_are_swapped() {
    let random = Random::new("swapped primes in the textbook", 22);
    let kernels = Kernel::all_available();
    for round in 0..6usize {
        let (digit, log_n) = (1 + round % 3, 4 + (round % 3) as u32);
        let q = distinct_primes(log_n, &[50, 49, 48, 30, 20, 35, 17], &[]);
        let p = distinct_primes(log_n, &[49, 50, 47][..digit], &q);
        // 67, 119, 154, 182, 199 and 232 bits; orders differ, several primes are swapped at once, keys serve levels below the next.
        let levels = [&[0, 6][..], &[0, 1, 4], &[4, 1, 0, 5], &[0, 2, 1, 5], &[0, 1, 2, 5, 6], &[2, 3, 4, 5, 1, 0]];
        let levels = levels.map(<[usize]>::to_vec).to_vec();
        let spec = ParameterSpec::insecure_for_tests(log_n, q, p).with_levels(levels);
        let parameters = Parameters::new(spec, kernels[round % kernels.len()]).unwrap();
        let secret = SecretKey::generate(&parameters).unwrap();
        let two_bits = |byte: &u8| [0, 2, 4, 6].map(|shift| [0, 1, -2, -1][usize::from(byte >> shift & 3)]);
        let s: Poly = secret.to_bytes().iter().flat_map(two_bits).map(BigInt::from).collect();
        let t = Textbook { parameters, secret, s };
        for level in 2..=6 {
            for key_level in (level..=6).filter(|&key| t.parameters.limbs_within(level, key).is_some()) {
                check(&t, digit, level, key_level, &random);
            }
        }
    }
}

fn check(t: &Textbook, digit: usize, level: usize, key_level: usize, random: &Random) {
    let (ring, n) = (t.parameters.ring_of(level).unwrap(), t.parameters.n());
    let (encoder, evaluator) = (Encoder::new(&t.parameters), Evaluator::new(&t.parameters));
    let shape = KeyShape { level: key_level, specials: digit, digit };
    let q = t.modulus(level);
    let scale = f64::from(1u32 << 20);
    let plain = [0; 2].map(|_| encoder.encode(&random.slots(n / 2), scale, level).unwrap());
    let fresh = [0, 1].map(|i| t.secret.encrypt(&plain[i]).unwrap().expand(&t.parameters).unwrap());
    let [a, b] = &fresh;
    let ([ta, tb], [ma, mb]) =
        ([t.components(a), t.components(b)], [&plain[0], &plain[1]].map(|p| lift(ring, &p.poly)));

    // encryption: c_0 + c_1 s - m is an error below 14 sigma and not zero everywhere
    for (c, m) in [(&ta, &ma), (&tb, &mb)] {
        let phase = add(&c[0], &multiply(&c[1], &t.s));
        let error = distance(&phase, m, &q);
        assert!(error > BigInt::ZERO && error < BigInt::from(45), "error {error}");
    }

    // linear operations and tensor product: exact
    let mut sum = a.clone();
    evaluator.add_assign(&mut sum, b).unwrap();
    let mut difference = a.clone();
    evaluator.sub_assign(&mut difference, b).unwrap();
    let minus = BigInt::from(-1);
    for k in 0..2 {
        assert_equal(&t.components(&sum)[k], &add(&ta[k], &tb[k]), &q);
        assert_equal(&t.components(&difference)[k], &add(&ta[k], &times(&tb[k], &minus)), &q);
        assert_equal(&t.components(&evaluator.mul_plain(a, &plain[1]).unwrap())[k], &multiply(&ta[k], &mb), &q);
    }
    let tensor = evaluator.mul(a, b).unwrap();
    let tt = t.components(&tensor);
    assert_equal(&tt[0], &multiply(&ta[0], &tb[0]), &q);
    assert_equal(&tt[1], &add(&multiply(&ta[0], &tb[1]), &multiply(&ta[1], &tb[0])), &q);
    assert_equal(&tt[2], &multiply(&ta[1], &tb[1]), &q);
    let mut shifted = a.clone();
    let power = random.range(0, 2 * n - 1);
    evaluator.mul_monomial_assign(&mut shifted, power).unwrap();
    let mut monomial = vec![BigInt::ZERO; n];
    monomial[power % n] = BigInt::from(if power < n { 1 } else { -1 });
    assert_equal(&t.components(&shifted)[1], &multiply(&ta[1], &monomial), &q);

    // decryption of degree 2: exact phase, f64 coefficients to its precision
    let phase = add(&tt[0], &multiply(&add(&tt[1], &multiply(&tt[2], &t.s)), &t.s));
    assert_equal(&lift_coefficients(&ring.primes(), &t.secret.decrypt_phase(&tensor).unwrap()), &phase, &q);
    for (x, f) in phase.iter().zip(t.secret.decrypt_coefficients(&tensor).unwrap()) {
        let exact: f64 = centred(x, &q).to_string().parse().unwrap();
        assert!((f * tensor.scale - exact).abs() <= exact.abs() * 1e-14, "{f} instead of {exact}");
    }

    // approximate operations: within one unit of exact rounding
    let rescaled = evaluator.rescale(a).unwrap();
    let (lower, [added, dropped]) = (t.modulus(level - 1), t.swap(level));
    for (found, exact) in t.components(&rescaled).iter().zip(&ta) {
        let expected: Poly = exact.iter().map(|x| divide(&(x * &added), &dropped)).collect();
        assert_within_one(found, &expected, &lower);
    }
    let elements = [0; 2].map(|_| random.galois(n / 2));
    let ids =
        elements.iter().flat_map(|&g| [KeyId::new(g, 1), KeyId::new(g, 2)]).chain([KeyId::new(Galois::IDENTITY, 2)]);
    // The elements may be equal, or the identity.
    let ids: BTreeSet<KeyId> = ids.collect();
    let textbook_keys: Vec<KeySwitchKey> = ids
        .into_iter()
        .filter(|id| id.check(&t.parameters).is_ok())
        .map(|id| t.secret.switch_key(id, shape).unwrap())
        .collect();
    let keys: EvaluationKeys = textbook_keys.iter().cloned().map(|key| key.prepare(&t.parameters).unwrap()).collect();
    let compare = |found: &Ciphertext, expected: [Poly; 2], q: &BigInt| {
        for (x, y) in t.components(found).iter().zip(&expected) {
            assert_within_one(x, y, q);
        }
    };
    let g = elements[0];
    compare(&evaluator.rotate(a, g, &keys).unwrap(), t.switched(&[(g, a)], &textbook_keys, shape, false), &q);
    let folded = evaluator.fold(a, &elements, &keys).unwrap();
    let terms = [(Galois::IDENTITY, a), (elements[0], a), (elements[1], a)];
    compare(&folded, t.switched(&terms, &textbook_keys, shape, false), &q);
    let square = evaluator.square(b).unwrap();
    let terms = [(elements[0], &tensor), (elements[1], &square), (Galois::IDENTITY, &square)];
    for (rescale, q) in [(false, &q), (true, &lower)] {
        let id = [(Galois::IDENTITY, &tensor)];
        compare(
            &evaluator.relinearize(&tensor, &keys, rescale).unwrap(),
            t.switched(&id, &textbook_keys, shape, rescale),
            q,
        );
        let fused = evaluator.mul_relinearize(a, b, &keys, rescale).unwrap();
        assert!(fused == evaluator.relinearize(&tensor, &keys, rescale).unwrap());
        compare(
            &evaluator.giant_sum(&terms, &keys, rescale).unwrap(),
            t.switched(&terms, &textbook_keys, shape, rescale),
            q,
        );
    }
}
