//! Every operation of the evaluator against plaintext arithmetic, over random rings, primes, digits and levels.
#![allow(clippy::unwrap_used)] // helpers of tests fail the test

mod common;

use common::{Random, Setup, max_distance, rotated, zip};
use subrosa_fhe::{
    Ciphertext, Complex64, Encoder, EvaluationKeys, Evaluator, FheError, Galois, Kernel, KeyBank, KeyId, KeyShape,
    ParameterSpec, Parameters,
};

const SCALE: f64 = (1u64 << 36) as f64;
/// Far above every error at this scale, far below any wrong result.
const TOLERANCE: f64 = 1e-6;

/// A random ring with 3 to 6 ciphertext primes of 44 to 49 bits and specials of 50 bits for digits of the given size.
fn random_setup(random: &Random, digit: usize) -> Setup {
    let q: Vec<u32> = (0..random.range(3, 6)).map(|_| random.range(44, 49) as u32).collect();
    Setup::insecure(random.range(3, 7) as u32, &q, &vec![50; digit])
}

#[test]
fn linear_operations_and_products_match_plaintext_arithmetic() {
    let random = Random::new("linear operations and products", 1);
    for _ in 0..40 {
        let s = random_setup(&random, 1);
        let (e, slots, level) = (&s.evaluator, s.parameters.slots(), random.range(3, s.parameters.levels()));
        let [x, y, z] = [0; 3].map(|_| random.slots(slots));
        let [cx, cy, cz] = [&x, &y, &z].map(|v| s.encrypt(v, SCALE, level));
        let py = s.encoder.encode(&y, SCALE, level).unwrap();
        let pz = s.encoder.encode(&z, SCALE, level).unwrap();
        s.assert_decrypts_to(&cx, &x, TOLERANCE);

        let mut sum = cx.clone();
        e.add_assign(&mut sum, &cy).unwrap();
        s.assert_decrypts_to(&sum, &zip(&x, &y, |a, b| a + b), TOLERANCE);
        e.sub_assign(&mut sum, &cz).unwrap();
        e.neg_assign(&mut sum).unwrap();
        e.add_plain_assign(&mut sum, &pz).unwrap();
        let expected = zip(&zip(&x, &y, |a, b| -a - b), &z, |a, b| a + 2.0 * b);
        s.assert_decrypts_to(&sum, &expected, TOLERANCE);

        let xy = e.mul(&cx, &cy).unwrap();
        assert_eq!((xy.degree(), xy.level(), xy.scale), (2, level, SCALE * SCALE));
        s.assert_decrypts_to(&xy, &zip(&x, &y, |a, b| a * b), TOLERANCE);
        s.assert_decrypts_to(&e.mul_plain(&cx, &py).unwrap(), &zip(&x, &y, |a, b| a * b), TOLERANCE);
        s.assert_decrypts_to(&e.square(&cx).unwrap(), &zip(&x, &x, |a, b| a * b), TOLERANCE);

        let dot = e.dot(&[(&cx, &cy), (&cy, &cz), (&cz, &cz)]).unwrap();
        let expected: Vec<_> = (0..slots).map(|j| x[j] * y[j] + y[j] * z[j] + z[j] * z[j]).collect();
        s.assert_decrypts_to(&dot, &expected, TOLERANCE);
        let dot = e.dot_plain(&[(&cx, &py), (&cy, &pz)]).unwrap();
        s.assert_decrypts_to(
            &dot,
            &zip(&zip(&x, &y, |a, b| a * b), &zip(&y, &z, |a, b| a * b), |a, b| a + b),
            TOLERANCE,
        );

        // Sums that start with something are those that it is added to, whatever its degree.
        let square = e.square(&cz).unwrap();
        for start in [&cz.clone(), &square].map(|c| Ciphertext { scale: SCALE * SCALE, ..c.clone() }) {
            let added = |mut sum: Ciphertext| {
                e.add_assign(&mut sum, &start).unwrap();
                sum
            };
            assert_eq!(
                e.dot_onto(Some(&start), &[(&cx, &cy), (&cy, &cz)]).unwrap(),
                added(e.dot(&[(&cx, &cy), (&cy, &cz)]).unwrap())
            );
            assert_eq!(e.dot_plain_onto(Some(&start), &[(&cx, &py)]).unwrap(), added(e.mul_plain(&cx, &py).unwrap()));
        }

        // different degrees
        let mut mixed = e.mul_plain(&cz, &py).unwrap();
        e.sub_assign(&mut mixed, &xy).unwrap();
        assert_eq!(mixed.degree(), 2);
        s.assert_decrypts_to(&mixed, &zip(&zip(&z, &x, |a, b| a - b), &y, |a, b| a * b), TOLERANCE);

        let lower = e.drop_level(&xy, level - 1).unwrap();
        s.assert_decrypts_to(&lower, &zip(&x, &y, |a, b| a * b), TOLERANCE);
        let scaled = e.rescale(&e.mul_plain(&cx, &py).unwrap()).unwrap();
        assert_eq!(scaled.scale, SCALE * SCALE / s.parameters.ciphertext_modulus(level - 1).unwrap().value() as f64);
        let rounding = (s.parameters.n() + 1) as f64 * s.parameters.n() as f64 / scaled.scale;
        s.assert_decrypts_to(&scaled, &zip(&x, &y, |a, b| a * b), TOLERANCE + rounding);
    }
}

#[test]
fn monomials_multiply_slot_j_by_zeta_to_the_5_to_the_j() {
    let random = Random::new("monomials", 2);
    for round in 0..40 {
        let s = random_setup(&random, 1);
        let (n, slots) = (s.parameters.n(), s.parameters.slots());
        let power = if round % 2 == 0 { n / 2 * random.range(0, 5) } else { random.range(0, 2 * n) };
        let x = random.slots(slots);
        let mut c = s.encrypt(&x, SCALE, 2);
        s.evaluator.mul_monomial_assign(&mut c, power).unwrap();
        let mut five = 1;
        let expected: Vec<_> = x
            .iter()
            .map(|v| {
                let angle = std::f64::consts::PI * (five * power % (2 * n)) as f64 / n as f64;
                five = five * 5 % (2 * n);
                v * Complex64::from_polar(1.0, angle)
            })
            .collect();
        s.assert_decrypts_to(&c, &expected, TOLERANCE);
    }
}

#[test]
fn key_switching_matches_plaintext_arithmetic_at_the_keys_level_and_below() {
    let random = Random::new("key switching", 3);
    for round in 0..45 {
        let digit = 1 + round % 3;
        let s = random_setup(&random, digit);
        let (e, slots) = (&s.evaluator, s.parameters.slots());
        let shape = KeyShape { level: random.range(3, s.parameters.levels()), specials: digit, digit };
        let level = random.range(2, shape.level);
        let elements: Vec<Galois> = (0..3).map(|_| random.galois(slots)).collect();
        let mut ids: Vec<KeyId> = (2..=4).map(|power| KeyId::new(Galois::IDENTITY, power)).collect();
        for &g in &elements {
            ids.extend(
                [1, 2].map(|power| KeyId::new(g, power)).into_iter().filter(|id| id.check(&s.parameters).is_ok()),
            );
        }
        let keys = s.keys(&ids, shape);
        let [x, y, z] = [0; 3].map(|_| random.slots(slots));
        // Products of four stay below two primes.
        let scale = (1u64 << 20) as f64;
        let [cx, cy, cz] = [&x, &y, &z].map(|v| s.encrypt(v, scale, level));
        let tolerance = 3e-3;
        let xy = e.mul(&cx, &cy).unwrap();
        let xyz = e.mul(&xy, &cz).unwrap();
        let xyxy = e.mul(&xy, &xy).unwrap();
        for (product, expected) in [
            (&xy, zip(&x, &y, |a, b| a * b)),
            (&xyz, zip(&zip(&x, &y, |a, b| a * b), &z, |a, b| a * b)),
            (&xyxy, zip(&x, &y, |a, b| a * b * a * b)),
        ] {
            let linear = e.relinearize(product, &keys, false).unwrap();
            assert_eq!((linear.degree(), linear.level(), linear.scale), (1, level, product.scale));
            s.assert_decrypts_to(&linear, &expected, tolerance);
        }

        // At this scale any error of the switch itself would show.
        let cx = s.encrypt(&x, SCALE, level);
        let mut sum = x.clone();
        let hoisted = e.rotate_hoisted(&cx, &elements, &keys).unwrap();
        for (&g, from_hoisted) in elements.iter().zip(&hoisted) {
            let alone = e.rotate(&cx, g, &keys).unwrap();
            assert!(alone == *from_hoisted, "hoisting must not change a bit");
            s.assert_decrypts_to(&alone, &rotated(&x, g), TOLERANCE);
            sum = zip(&sum, &rotated(&x, g), |a, b| a + b);
        }
        let folded = e.fold(&cx, &elements, &keys).unwrap();
        s.assert_decrypts_to(&folded, &sum, TOLERANCE);

        let cy = s.encrypt(&y, SCALE, level);
        let products = [e.mul(&cx, &cy).unwrap(), e.square(&cx).unwrap(), e.square(&cy).unwrap()];
        let plain = [zip(&x, &y, |a, b| a * b), zip(&x, &x, |a, b| a * b), zip(&y, &y, |a, b| a * b)];
        let terms: Vec<_> = elements.iter().copied().zip(&products).chain([(Galois::IDENTITY, &products[0])]).collect();
        let mut expected = plain[0].clone();
        for (g, p) in elements.iter().zip(&plain) {
            expected = zip(&expected, &rotated(p, *g), |a, b| a + b);
        }
        let giant = e.giant_sum(&terms, &keys, false).unwrap();
        s.assert_decrypts_to(&giant, &expected, TOLERANCE);
        let fused = e.giant_sum(&terms, &keys, true).unwrap();
        let separate = e.rescale(&giant).unwrap();
        assert_eq!((fused.level(), fused.scale), (level - 1, separate.scale));
        // The rounding of a division differs by at most one unit in each component.
        let unit = (1.0 + s.parameters.n() as f64) * s.parameters.n() as f64 / fused.scale;
        let difference = max_distance(&s.decrypt(&fused), &s.decrypt(&separate));
        assert!(difference <= unit, "{difference:e} above {unit:e}");
        s.assert_decrypts_to(&fused, &expected, TOLERANCE + unit);
    }
}

#[test]
fn public_key_encryption_works_at_and_below_the_keys_level() {
    let random = Random::new("public key", 4);
    let mut rng = subrosa_ring::sampler::os_rng().unwrap();
    for _ in 0..20 {
        let s = random_setup(&random, 1);
        let key = s.secret.public_key(random.range(2, s.parameters.levels())).unwrap();
        let x = random.slots(s.parameters.slots());
        for level in 1..=key.level() {
            let plaintext = s.encoder.encode(&x, SCALE, level).unwrap();
            let c = key.encrypt(&s.parameters, &plaintext, &mut rng).unwrap();
            assert_eq!((c.level(), c.degree()), (level, 1));
            s.assert_decrypts_to(&c, &x, TOLERANCE);
        }
        if key.level() < s.parameters.levels() {
            let plaintext = s.encoder.encode(&x, SCALE, key.level() + 1).unwrap();
            assert!(matches!(key.encrypt(&s.parameters, &plaintext, &mut rng), Err(FheError::Level { .. })));
        }
    }
}

#[test]
fn every_kernel_gives_the_same_bits() {
    let random = Random::new("kernels", 7);
    for (log_n, q_bits, p_bits) in [(5, [44, 50, 31], [49, 50]), (10, [50, 49, 36], [50, 50])] {
        let s = Setup::insecure(log_n, &q_bits, &p_bits);
        let slots = s.parameters.slots();
        let shape = KeyShape { level: 3, specials: 2, digit: 2 };
        let elements = [random.galois(slots), Galois::conjugation()];
        let ids: Vec<KeyId> = elements
            .iter()
            .flat_map(|&g| [1, 2].map(|p| KeyId::new(g, p)))
            .filter(|id| id.check(&s.parameters).is_ok())
            .collect();
        let keys = s.keys(&ids, shape);
        let x = random.slots(slots);
        let seeded = s.secret.encrypt(&s.encoder.encode(&x, SCALE, 3).unwrap()).unwrap();
        let results = Kernel::all_available().into_iter().map(|kernel| {
            let parameters = Parameters::new(s.parameters.spec().clone(), kernel).unwrap();
            assert_eq!(parameters.kernel(), kernel);
            let (e, encoder) = (Evaluator::new(&parameters), Encoder::new(&parameters));
            let c = seeded.expand(&parameters).unwrap();
            let square = e.square(&c).unwrap();
            let product = e.mul_plain(&c, &encoder.encode(&x, SCALE, 3).unwrap()).unwrap();
            let giant = e.giant_sum(&[(elements[0], &square), (elements[1], &product)], &keys, true).unwrap();
            [e.fold(&c, &elements, &keys).unwrap(), giant].map(|c| c.to_bytes(&parameters).unwrap())
        });
        let results: Vec<_> = results.collect();
        assert!(results.windows(2).all(|w| w[0] == w[1]));
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let random = Random::new("refusals", 5);
    let s = Setup::insecure(4, &[45, 45, 45], &[50, 50]);
    let other = Setup::insecure(5, &[45, 45, 45], &[50, 50]);
    let (e, x) = (&s.evaluator, random.slots(8));
    let (a, low, scaled) = (s.encrypt(&x, SCALE, 3), s.encrypt(&x, SCALE, 2), s.encrypt(&x, SCALE * 1.001, 3));
    let foreign = other.encrypt(&random.slots(16), SCALE, 3);
    let plain = s.encoder.encode(&x, SCALE, 2).unwrap();
    assert!(matches!(e.add_assign(&mut a.clone(), &low), Err(FheError::Level { .. })));
    assert!(matches!(e.sub_assign(&mut a.clone(), &scaled), Err(FheError::Scale { .. })));
    assert!(matches!(e.mul(&a, &foreign), Err(FheError::Malformed { .. })));
    assert!(matches!(e.mul_plain(&a, &plain), Err(FheError::Level { .. })));
    assert!(matches!(e.dot(&[]), Err(FheError::Empty { .. })));
    let start = |c| e.dot_onto(Some(c), &[(&a, &a)]);
    assert!(matches!(start(&low), Err(FheError::Level { .. })));
    assert!(matches!(start(&a), Err(FheError::Scale { .. })));
    assert!(matches!(start(&foreign), Err(FheError::Malformed { .. })));
    assert!(matches!(e.rescale(&s.encrypt(&x, 1024.0, 1)), Err(FheError::Level { .. })));
    assert!(matches!(e.drop_level(&low, 3), Err(FheError::Level { .. })));
    let square = e.square(&a).unwrap();
    assert!(matches!(e.mul(&square, &e.mul(&square, &a).unwrap()), Err(FheError::Degree { degree: 5, .. })));

    let g = Galois::rotation(1);
    let id = KeyId::new(g, 1);
    let none = s.keys(&[], KeyShape { level: 3, specials: 1, digit: 1 });
    assert!(matches!(e.rotate(&a, g, &none), Err(FheError::MissingKey(missing)) if missing == id));
    assert!(matches!(e.rotate(&square, g, &none), Err(FheError::Degree { .. })));
    assert!(matches!(e.relinearize(&a, &none, false), Err(FheError::Degree { .. })));
    assert!(matches!(e.rotate(&a, Galois::rotation(8), &none), Err(FheError::Malformed { .. })));
    let low_key = s.keys(&[id], KeyShape { level: 2, specials: 1, digit: 1 });
    assert!(e.rotate(&a, g, &low_key).is_err());
    assert!(e.rotate(&low, g, &low_key).is_ok());
    let foreign_key = other.keys(&[id], KeyShape { level: 3, specials: 1, digit: 1 });
    assert!(matches!(e.rotate(&a, g, &foreign_key), Err(FheError::UnfitKey { .. })));
    let mut unlike = s.keys(&[id], KeyShape { level: 3, specials: 1, digit: 1 });
    unlike.insert(
        s.secret
            .switch_key(KeyId::new(Galois::rotation(2), 1), KeyShape { level: 3, specials: 2, digit: 2 })
            .unwrap()
            .prepare(&s.parameters)
            .unwrap(),
    );
    assert!(matches!(e.fold(&a, &[g, Galois::rotation(2)], &unlike), Err(FheError::UnfitKey { .. })));
    assert!(
        s.secret.switch_key(KeyId::new(Galois::IDENTITY, 1), KeyShape { level: 3, specials: 1, digit: 1 }).is_err()
    );
    assert!(s.secret.decrypt_coefficients(&foreign).is_err());
}

#[test]
fn secret_keys_survive_their_bytes_and_nothing_else_is_accepted() {
    let s = Setup::insecure(5, &[45, 45], &[]);
    let x = Random::new("secret bytes", 6).slots(16);
    let c = s.encrypt(&x, SCALE, 2);
    let bytes = s.secret.to_bytes();
    assert_eq!(bytes.len(), 8);
    let again = subrosa_secret::SecretKey::from_bytes(&s.parameters, &bytes).unwrap();
    assert!(again.to_bytes() == bytes);
    let decoded = s.encoder.decode(&again.decrypt_coefficients(&c).unwrap()).unwrap();
    assert!(max_distance(&decoded, &x) < TOLERANCE);
    assert!(subrosa_secret::SecretKey::from_bytes(&s.parameters, &bytes[1..]).is_err());
    let mut bad = bytes.to_vec();
    bad[3] = 0b10;
    assert!(subrosa_secret::SecretKey::from_bytes(&s.parameters, &bad).is_err());
}

/// A ring whose levels have primes in common, or not, in several orders.
fn swapped_setup() -> Setup {
    let q = common::distinct_primes(6, &[49, 48, 47, 20, 45], &[]);
    let p = common::distinct_primes(6, &[50, 50], &q);
    // 48 + 20, 49 + 48, 49 + 48 + 45, 49 + 48 + 47 + 20 bits.
    let levels = vec![vec![1, 3], vec![0, 1], vec![4, 1, 0], vec![0, 1, 2, 3]];
    let spec = ParameterSpec::insecure_for_tests(6, q, p).with_levels(levels);
    Setup::new(Parameters::new(spec, Kernel::active().unwrap()).unwrap())
}

#[test]
fn levels_with_swapped_primes_are_reached_where_they_can_be() {
    let random = Random::new("levels with swapped primes", 8);
    let s = swapped_setup();
    let (e, x) = (&s.evaluator, random.slots(s.parameters.slots()));
    let tolerance = 1e-6;
    for from in 1..=4 {
        let c = s.encrypt(&x, SCALE, from);
        s.assert_decrypts_to(&c, &x, tolerance);
        for to in 1..=from {
            let subset = [(4, 2), (4, 1), (3, 2)].contains(&(from, to)) || from == to;
            let dropped = e.drop_level(&c, to);
            match subset {
                true => {
                    assert_eq!(dropped.as_ref().unwrap().scale, SCALE);
                    s.assert_decrypts_to(&dropped.unwrap(), &x, tolerance);
                }
                false => {
                    assert!(matches!(dropped, Err(FheError::Primes { from: f, to: t, .. }) if (f, t) == (from, to)));
                }
            }
            let moved = e.to_level(&c, to).unwrap();
            assert!(moved.level() == to && (moved.scale / SCALE - 1.0).abs() < 0.3 && (moved.scale == SCALE) >= subset);
            let rounding = (1.0 + s.parameters.n() as f64) * s.parameters.n() as f64 / SCALE;
            s.assert_decrypts_to(&moved, &x, tolerance + rounding);
        }
    }
    // A product of a few bits less than each modulus, rescaled where that is possible.
    for level in 2..=4 {
        let product = e.mul_plain(&s.encrypt(&x, SCALE, level), &s.encoder.encode(&x, SCALE, level).unwrap()).unwrap();
        let rescaled = e.rescale(&product).unwrap();
        assert_eq!(rescaled.level(), level - 1);
        assert_eq!(rescaled.scale, product.scale / s.parameters.rescale_factor(level).unwrap());
        let rounding = (1.0 + s.parameters.n() as f64) * s.parameters.n() as f64 / rescaled.scale;
        s.assert_decrypts_to(&rescaled, &zip(&x, &x, |a, b| a * b), tolerance + rounding);
    }
    // Public keys serve levels with their primes.
    let mut rng = subrosa_ring::sampler::os_rng().unwrap();
    let key = s.secret.public_key(4).unwrap();
    for level in 1..=4 {
        let c = key.encrypt(&s.parameters, &s.encoder.encode(&x, SCALE, level).unwrap(), &mut rng);
        match level {
            3 => assert!(matches!(c, Err(FheError::Primes { from: 4, to: 3, .. }))),
            _ => s.assert_decrypts_to(&c.unwrap(), &x, tolerance),
        }
    }
}

#[test]
fn keys_of_a_bank_give_what_each_gives_alone() {
    let random = Random::new("keys of a bank", 12);
    let s = Setup::insecure(6, &[45, 40, 40], &[45, 45]);
    let (e, shape) = (&s.evaluator, KeyShape { level: 3, specials: 2, digit: 2 });
    let elements = [Galois::rotation(3), Galois::conjugation(), Galois::rotation(1)];
    let keys: Vec<_> = elements.iter().map(|&g| s.secret.switch_key(KeyId::new(g, 1), shape).unwrap()).collect();
    let alone: EvaluationKeys = keys.iter().cloned().map(|key| key.prepare(&s.parameters).unwrap()).collect();
    let mut bank = KeyBank::new(&s.parameters, shape, keys.len()).unwrap();
    let unlike = s.secret.switch_key(keys[0].id(), KeyShape { level: 2, ..shape }).unwrap();
    let unlike = bank.push(&unlike.expand(&s.parameters).unwrap());
    assert!(matches!(unlike, Err(FheError::UnfitKey { .. })));
    for key in &keys {
        bank.push(&key.clone().expand(&s.parameters).unwrap()).unwrap();
    }
    assert!(matches!(bank.push(&keys[0].clone().expand(&s.parameters).unwrap()), Err(FheError::Length { .. })));
    let together: EvaluationKeys = bank.finish().into_iter().collect();
    let bytes = |keys: &EvaluationKeys| keys.iter().map(|key| key.packed_bytes()).sum::<usize>();
    assert_eq!((together.len(), bytes(&together)), (alone.len(), bytes(&alone)));
    for level in 1..=3 {
        let c = s.encrypt(&random.slots(s.parameters.slots()), SCALE, level);
        // All of them, some in another order, one.
        for elements in [&elements[..], &[elements[2], elements[0]], &elements[1..2]] {
            assert!(e.fold(&c, elements, &together).unwrap() == e.fold(&c, elements, &alone).unwrap());
        }
    }
}

#[test]
fn keys_with_swapped_primes_serve_the_levels_whose_primes_they_have() {
    let random = Random::new("keys with swapped primes", 9);
    let s = swapped_setup();
    let (e, slots) = (&s.evaluator, s.parameters.slots());
    let x = random.slots(slots);
    let elements = [Galois::rotation(3), Galois::conjugation(), Galois { rotation: 5, conjugate: true }];
    let ids: Vec<KeyId> = elements.iter().map(|&g| KeyId::new(g, 1)).collect();
    for digit in 1..=2 {
        let mut keys = s.keys(&ids, KeyShape { level: 4, specials: digit, digit });
        let needed = |keys: &EvaluationKeys, level| keys.get_for(ids[0], level).map(|key| key.shape().level);
        assert!(matches!(needed(&keys, 3), Err(FheError::UnfitKey { .. })));
        assert_eq!([1, 2, 4].map(|level| needed(&keys, level)), [Ok(4), Ok(4), Ok(4)]);
        for &id in &ids {
            let key = s.secret.switch_key(id, KeyShape { level: 3, specials: digit, digit }).unwrap();
            assert!(keys.insert(key.prepare(&s.parameters).unwrap()).is_none());
        }
        assert_eq!([1, 2, 3, 4].map(|level| needed(&keys, level)), [Ok(4), Ok(3), Ok(3), Ok(4)]);
        assert_eq!(keys.len(), 6);
        for level in 1..=4 {
            let c = s.encrypt(&x, SCALE, level);
            let mut sum = x.clone();
            for (&g, turned) in elements.iter().zip(e.rotate_hoisted(&c, &elements, &keys).unwrap()) {
                assert!(turned == e.rotate(&c, g, &keys).unwrap());
                s.assert_decrypts_to(&turned, &rotated(&x, g), 1e-5);
                sum = zip(&sum, &rotated(&x, g), |a, b| a + b);
            }
            s.assert_decrypts_to(&e.fold(&c, &elements, &keys).unwrap(), &sum, 1e-5);
        }
    }
    // Two keys that cut a level at different limbs are refused in one sum.
    let mut unlike = s.keys(&ids[..1], KeyShape { level: 3, specials: 2, digit: 2 });
    unlike.insert(s.keys(&ids[1..2], KeyShape { level: 4, specials: 2, digit: 2 }).into_iter().next().unwrap());
    let c = s.encrypt(&x, SCALE, 2);
    assert!(matches!(e.fold(&c, &elements[..2], &unlike), Err(FheError::UnfitKey { .. })));
}
