//! Measured errors against their forecasts: never above the bound, and the bound never far above what is seen.
#![allow(clippy::unwrap_used)] // helpers of tests fail the test

mod common;

use common::{Random, Setup, rotated, zip};
use subrosa_fhe::chain::swap_chain;
use subrosa_fhe::noise::tail_bound;
use subrosa_fhe::{
    Ciphertext, Complex64, FheError, Galois, Kernel, KeyId, KeyShape, NoiseModel, ParameterSpec, Parameters,
    SecurityLevel,
};

/// A bound above this many times the largest error seen would be useless.
const MAX_SLACK: f64 = 64.0;

/// Largest errors seen over many runs of one primitive, in integer units, in coefficients and in slots.
struct Measured {
    what: &'static str,
    coefficient: f64,
    slot: f64,
    runs: usize,
}

impl Measured {
    fn new(what: &'static str) -> Self {
        Self { what, coefficient: 0.0, slot: 0.0, runs: 0 }
    }

    /// Notes the difference of two slot vectors, times `scale`.
    fn note(&mut self, s: &Setup, found: &[Complex64], expected: &[Complex64], scale: f64) {
        let error = zip(found, expected, |a, b| (a - b) * scale);
        let coefficients = s.encoder.slots_to_coefficients(&error).unwrap();
        self.slot = error.iter().map(|e| e.norm()).fold(self.slot, f64::max);
        self.coefficient = coefficients.iter().map(|e| e.abs()).fold(self.coefficient, f64::max);
        self.runs += 1;
    }

    fn assert_within(&self, s: &Setup, model: NoiseModel, forecast: f64) {
        let n = s.parameters.n();
        let bounds = [(self.coefficient, tail_bound(forecast, n)), (self.slot, model.slot_bound(forecast, n / 2))];
        for (domain, (seen, bound)) in ["coefficient", "slot"].into_iter().zip(bounds) {
            println!("{:>34} N={n} {domain:>11}: seen {seen:.3e} of {bound:.3e} in {} runs", self.what, self.runs);
            assert!(seen <= bound, "{} exceeds its forecast", self.what);
            assert!(bound <= MAX_SLACK * seen, "the forecast of {} is useless", self.what);
        }
    }
}

/// The same ciphertext, decrypted.
fn slots_of(s: &Setup, c: &Ciphertext) -> Vec<Complex64> {
    s.decrypt(c)
}

fn check_all_primitives(setups: &[Setup], shapes: &[KeyShape], runs: usize, random: &Random) {
    let scale = f64::from(1u32 << 20);
    let mut rng = subrosa_ring::sampler::os_rng().unwrap();
    for &shape in shapes {
        let level = shape.level;
        let mut measured = [
            "encoding",
            "symmetric encryption",
            "public-key encryption",
            "addition",
            "ciphertext times plaintext",
            "ciphertext times ciphertext",
            "relinearization",
            "rescaling",
            "relinearization with rescaling",
            "rotation",
            "fold of four",
            "giant sum of three",
            "giant sum with rescaling",
            "product, rescaled, folded",
        ]
        .map(Measured::new);
        for s in setups {
            let e = &s.evaluator;
            let elements =
                [Galois::rotation(1), Galois::conjugation(), random.galois(s.parameters.slots()), Galois::rotation(7)];
            let ids: Vec<KeyId> = elements
                .into_iter()
                .flat_map(|g| [KeyId::new(g, 1), KeyId::new(g, 2)])
                .chain([KeyId::new(Galois::IDENTITY, 2)])
                .filter(|id| id.check(&s.parameters).is_ok())
                .collect();
            let mut keys = s.keys(&ids, shape);
            let lower = KeyShape {
                level: level - 1,
                digit: shape.digit.min(s.parameters.level_limbs(level - 1).len()),
                ..shape
            };
            if s.parameters.limbs_within(level - 1, level).is_none() {
                // Keys lack primes of the level below.
                assert!(matches!(keys.get_for(ids[0], level - 1), Err(FheError::UnfitKey { .. })));
                for &id in &ids {
                    keys.insert(s.secret.switch_key(id, lower).unwrap().prepare(&s.parameters).unwrap());
                }
                assert_eq!(keys.get_for(ids[0], level - 1).unwrap().shape(), lower);
                assert_eq!(keys.get_for(ids[0], level).unwrap().shape(), shape);
            }
            let public = s.secret.public_key(level).unwrap();
            for _ in 0..runs.div_ceil(setups.len()) {
                let [x, y] = [0; 2].map(|_| random.slots(s.parameters.slots()));
                let [px, py] = [&x, &y].map(|v| s.encoder.encode(v, scale, level).unwrap());
                let [cx, cy] = [&x, &y].map(|v| s.encrypt(v, scale, level));
                let xy = zip(&x, &y, |a, b| a * b);
                let mut step = measured.iter_mut();
                let mut note = |found: &[Complex64], expected: &[Complex64], scale: f64| {
                    step.next().unwrap().note(s, found, expected, scale)
                };

                let encoded = Ciphertext { components: vec![px.poly.clone()], scale, level };
                note(&slots_of(s, &encoded), &x, scale);
                note(&slots_of(s, &cx), &x, scale);
                note(&slots_of(s, &public.encrypt(&s.parameters, &px, &mut rng).unwrap()), &x, scale);
                let mut sum = cx.clone();
                e.add_assign(&mut sum, &cy).unwrap();
                note(&slots_of(s, &sum), &zip(&x, &y, |a, b| a + b), scale);
                note(&slots_of(s, &e.mul_plain(&cx, &py).unwrap()), &xy, scale * scale);
                let product = e.mul(&cx, &cy).unwrap();
                let in_product = slots_of(s, &product);
                note(&in_product, &xy, scale * scale);

                // From here on the reference is what the input decrypts to, so that only the primitive itself is measured.
                let linear = e.relinearize(&product, &keys, false).unwrap();
                note(&slots_of(s, &linear), &in_product, linear.scale);
                let rescaled = e.rescale(&linear).unwrap();
                note(&slots_of(s, &rescaled), &slots_of(s, &linear), rescaled.scale);
                let fused = e.relinearize(&product, &keys, true).unwrap();
                note(&slots_of(s, &fused), &in_product, fused.scale);
                let in_x = slots_of(s, &cx);
                let turned = e.rotate(&cx, elements[2], &keys).unwrap();
                note(&slots_of(s, &turned), &rotated(&in_x, elements[2]), scale);
                let folded = e.fold(&cx, &elements, &keys).unwrap();
                let expected =
                    elements.iter().fold(in_x.clone(), |sum, &g| zip(&sum, &rotated(&in_x, g), |a, b| a + b));
                note(&slots_of(s, &folded), &expected, scale);
                let terms = [(Galois::IDENTITY, &product), (elements[0], &product), (elements[1], &product)];
                let expected = zip(
                    &zip(&in_product, &rotated(&in_product, elements[0]), |a, b| a + b),
                    &rotated(&in_product, elements[1]),
                    |a, b| a + b,
                );
                let giant = e.giant_sum(&terms, &keys, false).unwrap();
                note(&slots_of(s, &giant), &expected, giant.scale);
                let giant = e.giant_sum(&terms, &keys, true).unwrap();
                note(&slots_of(s, &giant), &expected, giant.scale);

                // A whole circuit against plaintext arithmetic: every error from encoding on.
                let out = e.fold(&fused, &elements[..2], &keys).unwrap();
                let expected =
                    elements[..2].iter().fold(xy.clone(), |sum, &g| zip(&sum, &rotated(&xy, g), |a, b| a + b));
                note(&slots_of(s, &out), &expected, out.scale);
            }
        }

        let s = &setups[0];
        let model = NoiseModel::new(s.parameters.log_n());
        let top = s.parameters.rescale_factor(level).unwrap();
        let fresh = model.add(&[model.fresh_symmetric(), model.encoding()]);
        let product = model.mul(fresh, scale, fresh, scale);
        let (digits, log_p) = (s.parameters.log_digits(shape, level), s.parameters.log_p(shape.specials));
        let switched = |products| model.key_switch(&digits, log_p, products);
        let rescaled = |noise, products| model.key_switch_rescale(noise, &digits, log_p, top.log2(), products);
        let circuit = rescaled(product, 1);
        let below = model.key_switch(&s.parameters.log_digits(shape, level - 1), log_p, 2);
        let forecasts = [
            model.encoding(),
            fresh,
            model.add(&[model.fresh_public(), model.encoding()]),
            model.add(&[fresh, fresh]),
            model.mul(fresh, scale, model.encoding(), scale),
            product,
            switched(1),
            model.rescale(0.0, top, 1),
            rescaled(0.0, 1),
            switched(1),
            switched(4),
            switched(5),
            rescaled(0.0, 5),
            model.add(&[circuit, circuit, circuit, below]),
        ];
        for (measured, forecast) in measured.iter().zip(forecasts) {
            assert!(measured.runs >= runs);
            measured.assert_within(s, model, forecast);
        }
    }
}

#[test]
fn forecasts_bound_a_thousand_runs_and_are_tight() {
    let random = Random::new("forecasts", 11);
    // Key noise below the rounding, and (digits of two limbs, small special primes) far above it.
    let shapes = [KeyShape { level: 3, specials: 1, digit: 1 }, KeyShape { level: 3, specials: 2, digit: 2 }];
    let setups: Vec<Setup> = (0..4).map(|_| Setup::insecure(10, &[26, 28, 27], &[30, 20])).collect();
    check_all_primitives(&setups, &shapes, 1000, &random);
}

#[test]
fn forecasts_hold_in_a_secure_ring() {
    let random = Random::new("forecasts in a secure ring", 12);
    let q = common::distinct_primes(13, &[40, 28, 27], &[]);
    let p = common::distinct_primes(13, &[44, 44], &q);
    let spec = ParameterSpec::new(13, q, p, SecurityLevel::Bits128);
    let parameters = Parameters::new(spec, Kernel::active().unwrap()).unwrap();
    // As planned: single limbs for rotations, one digit above P for what is rescaled in the same division.
    let shapes = [KeyShape { level: 3, specials: 1, digit: 1 }, KeyShape { level: 3, specials: 2, digit: 3 }];
    check_all_primitives(&[Setup::new(parameters)], &shapes, 12, &random);
}

#[test]
fn forecasts_hold_where_primes_are_swapped() {
    let random = Random::new("forecasts with swapped primes", 13);
    let kernel = Kernel::active().unwrap();
    let swapped = |log_n, base, drops: &[f64], max, p: &[u32]| {
        let p = common::distinct_primes(log_n, p, &[]);
        let chain = swap_chain(log_n, base, drops, max, &p).unwrap();
        (chain, p)
    };
    // Rescales multiply by a prime and divide by two.
    let (chain, p) = swapped(10, 30.0, &[27.0, 26.0], 30, &[30, 20]);
    assert_eq!(chain.levels.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 3]);
    let spec = ParameterSpec::insecure_for_tests(10, chain.pool, p).with_levels(chain.levels);
    let setups: Vec<Setup> = (0..4).map(|_| Setup::new(Parameters::new(spec.clone(), kernel).unwrap())).collect();
    let shapes = [KeyShape { level: 3, specials: 1, digit: 1 }, KeyShape { level: 3, specials: 2, digit: 2 }];
    check_all_primitives(&setups, &shapes, 400, &random);
    let (chain, p) = swapped(13, 40.0, &[28.0, 27.0], 50, &[50, 49]);
    let spec = ParameterSpec::new(13, chain.pool, p, SecurityLevel::Bits128).with_levels(chain.levels);
    let shapes = [KeyShape { level: 3, specials: 1, digit: 1 }, KeyShape { level: 3, specials: 2, digit: 2 }];
    check_all_primitives(&[Setup::new(Parameters::new(spec, kernel).unwrap())], &shapes, 12, &random);
}
