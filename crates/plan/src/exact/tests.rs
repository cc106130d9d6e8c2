use super::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use subrosa_network::{Activation, Dense, Polynomial};

fn chain(rng: &mut StdRng, sizes: &[usize], activations: &[Activation]) -> Chain {
    let mut layers = Vec::new();
    for (i, pair) in sizes.windows(2).enumerate() {
        let (cols, rows) = (pair[0], pair[1]);
        let mut draw = |n: usize| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
        let (weights, bias) = (draw(rows * cols), draw(rows));
        let activation = activations.get(i).cloned().unwrap_or(Activation::Identity);
        layers.push(Dense { name: format!("{i}"), rows, cols, weights, bias, activation });
    }
    Chain { layers }
}

fn square() -> Activation {
    Activation::Polynomial(Polynomial::new(vec![0.0, 2.0, 1.0]))
}

#[test]
fn no_input_in_the_range_gives_an_output_beyond_the_bound() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut tightest = f64::INFINITY;
    for trial in 0..300 {
        let depth = rng.random_range(1..4);
        let sizes: Vec<usize> = (0..=depth).map(|_| rng.random_range(1..9)).collect();
        let activations: Vec<Activation> =
            (0..depth).map(|_| if rng.random_bool(0.7) { square() } else { Activation::Identity }).collect();
        let chain = chain(&mut rng, &sizes, &activations);
        let fixed = FixedPoint {
            input: rng.random_range(1.0..40.0),
            weights: (0..depth).map(|_| rng.random_range(1.0..60.0)).collect(),
        };
        let network = IntegerNetwork::new(&chain, &fixed).unwrap();
        let max_abs: f64 = rng.random_range(0.1..3.0);
        let max_norm = max_abs * rng.random_range(0.5..1.2) * (sizes[0] as f64).sqrt();
        let bound = bounds::output_bound(&network, InputRange { max_abs, max_norm });
        // Inputs at the edge of the range, climbing towards the largest output.
        for _ in 0..20 {
            let mut x: Vec<f64> = (0..sizes[0]).map(|_| rng.random_range(-max_abs..=max_abs)).collect();
            let largest = |x: &[f64]| network.evaluate(x).iter().map(|v| v.unsigned_abs()).max().unwrap();
            let inside = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt() <= max_norm;
            for _ in 0..60 {
                let mut other = x.clone();
                let at = rng.random_range(0..other.len());
                other[at] = [max_abs, -max_abs, rng.random_range(-max_abs..=max_abs)][rng.random_range(0..3)];
                if inside(&other) && (!inside(&x) || largest(&other) >= largest(&x)) {
                    x = other;
                }
            }
            if inside(&x) {
                let found = largest(&x) as f64;
                assert!(found <= bound, "trial {trial}: {found} beyond {bound}, {fixed}");
                tightest = tightest.min(bound / found.max(1.0));
            }
        }
    }
    println!("the bound is up to {tightest:.3} times what was found");
    assert!(tightest < 1.1, "a bound that is never near what is possible: {tightest}");
}

#[test]
fn the_integer_network_rounds_like_the_float_one_computes() {
    let mut rng = StdRng::seed_from_u64(12);
    let chain = chain(&mut rng, &[20, 10, 4], &[square()]);
    let fixed = FixedPoint { input: 4096.0, weights: vec![65536.0, 65536.0] };
    let network = IntegerNetwork::new(&chain, &fixed).unwrap();
    for _ in 0..20 {
        let x: Vec<f64> = (0..20).map(|_| rng.random_range(-2.0..2.0)).collect();
        for (i, f) in network.evaluate(&x).iter().zip(chain.eval(&x)) {
            let value = *i as f64 * network.output_unit();
            assert!((value - f).abs() < 2e-2 * (1.0 + f.abs()), "{value} is not {f}");
        }
    }
    assert!(matches!(
        IntegerNetwork::new(&chain, &FixedPoint { input: 1.0, weights: vec![1.0] }),
        Err(IntegerError::Layers { expected: 2, found: 1 })
    ));
}

#[test]
fn plaintext_moduli_hold_what_they_must_and_no_more_bits_than_needed() {
    for log_n in [11, 13, 15] {
        for bits in [18.3, 30.0, 47.9, 60.5, 96.0] {
            for count in 1..=4 {
                let Some(moduli) = moduli(log_n, bits, count) else { continue };
                let held: f64 = moduli.iter().map(|&t| (t as f64).log2()).sum();
                assert!(held > bits && moduli.len() == count);
                assert!(held < bits.max(f64::from(log_n + 2) * count as f64) + 3.0 * count as f64, "{bits} {moduli:?}");
                assert!(moduli.iter().all(|&t| t % (1 << (log_n + 1)) == 1 && primes::is_prime(t)));
                // A results file is checked against the first one.
                assert_eq!(moduli.first(), moduli.iter().max());
            }
        }
    }
}

#[test]
fn a_fixed_point_is_read_as_it_is_written() {
    let fixed: FixedPoint = "input=16,weights=128/0.5".parse().unwrap();
    assert_eq!(fixed.to_string().parse(), Ok(fixed));
    for bad in
        ["", "16", "input=16", "input=16,weights=", "input=0,weights=1", "input=nan,weights=1", "weights=1,input=1"]
    {
        assert!(bad.parse::<FixedPoint>().is_err(), "{bad}");
    }
}

#[test]
fn a_refusal_names_a_choice_that_fits() {
    let mut rng = StdRng::seed_from_u64(13);
    // Squares of squares: twice the bits with each layer.
    let depth = 8;
    let mut chain = chain(&mut rng, &vec![3; depth + 1], &vec![square(); depth - 1]);
    chain.layers.iter_mut().flat_map(|layer| &mut layer.weights).for_each(|w| *w *= 0.4);
    let samples: Vec<Vec<f64>> = (0..20).map(|_| (0..3).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    let costs = CostModel::builtin(Kernel::Portable);
    let request = ExactRequest {
        chain: &chain,
        input: InputRange { max_abs: 1.0, max_norm: 2.0 },
        samples: &samples,
        fixed_point: None,
        encrypted_input: true,
        security: SecurityLevel::Bits256,
        memory_limit: None,
        costs: &costs,
        kernel: Kernel::Portable,
    };
    let text = plan_exact(&request).map(|_| ()).unwrap_err().to_string();
    let count = text.split("the last ").nth(1).and_then(|t| t.split(' ').next()?.parse::<usize>().ok());
    let count = count.unwrap_or_else(|| panic!("no number of layers in: {text}"));
    let plan_last = |count: usize| {
        let (before, after) = chain.layers.split_at(depth - count);
        let before = Chain { layers: before.to_vec() };
        let samples: Vec<Vec<f64>> = samples.iter().map(|x| before.eval(x)).collect();
        let largest = samples.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        let input = InputRange { max_abs: 2.0 * largest, max_norm: 4.0 * largest };
        let chain = Chain { layers: after.to_vec() };
        plan_exact(&ExactRequest { chain: &chain, input, samples: &samples, ..request }).is_ok()
    };
    assert!(plan_last(count), "{text}");
    assert!(!plan_last(depth), "{text}");
}
