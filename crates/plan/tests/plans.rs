//! Plans of random chains of many shapes: secure, well formed, and filled with what the layers say.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use rand::{RngExt, SeedableRng, rngs::StdRng};
use subrosa_fhe::security::{SecurityLevel, max_log_qp};
use subrosa_fhe::{Encoder, Kernel, Parameters};
use subrosa_network::{Activation, Chain, Dense, Polynomial};
use subrosa_plan::{CostModel, InputRange, Plan, PlanError, PlanRequest, Prefer, plan};

/// A chain with He-like weights and this activation between its layers, and samples as after a ReLU.
fn chain(shape: &[usize], activation: &str, seed: u64) -> (Chain, Vec<Vec<f64>>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let layers = shape.windows(2).enumerate().map(|(i, pair)| {
        let (cols, rows) = (pair[0], pair[1]);
        let width = (3.0 / cols as f64).sqrt();
        let polynomial: Polynomial = activation.parse().unwrap();
        let last = i + 2 == shape.len();
        Dense {
            name: format!("{rows}x{cols}"),
            rows,
            cols,
            weights: (0..rows * cols).map(|_| rng.random_range(-width..width)).collect(),
            bias: (0..rows).map(|_| rng.random_range(-0.1..0.1)).collect(),
            activation: if last || polynomial.is_identity() {
                Activation::Identity
            } else {
                Activation::Polynomial(polynomial)
            },
        }
    });
    let layers = layers.collect();
    let mut feature = || if rng.random_range(0..5) < 3 { 0.0 } else { rng.random_range(0.0..1.0) };
    let samples = (0..8).map(|_| (0..shape[0]).map(|_| feature()).collect()).collect();
    (Chain { layers }, samples)
}

fn planned(
    chain: &Chain,
    samples: &[Vec<f64>],
    encrypted_input: bool,
    security: SecurityLevel,
) -> Result<Plan, PlanError> {
    planned_for(Prefer::Speed, chain, samples, encrypted_input, security)
}

fn planned_for(
    prefer: Prefer,
    chain: &Chain,
    samples: &[Vec<f64>],
    encrypted_input: bool,
    security: SecurityLevel,
) -> Result<Plan, PlanError> {
    let norm = |x: &Vec<f64>| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let max_norm = 1.5 * samples.iter().map(norm).fold(0.0, f64::max);
    let largest = samples.iter().flat_map(|x| chain.eval(x)).fold(0.0f64, |m, v| m.max(v.abs()));
    plan(&PlanRequest {
        chain,
        input: InputRange { max_abs: 1.5, max_norm },
        samples,
        encrypted_input,
        security,
        max_error: 1e-3 * largest,
        memory_limit: None,
        prefer,
        costs: &CostModel::builtin(Kernel::Avx512Ifma),
        kernel: Kernel::Portable,
    })
}

#[test]
fn plans_of_any_shape_are_well_formed_and_within_the_security_table() {
    let shapes: [&[usize]; 8] = [
        &[64, 10],
        &[784, 128, 10],
        &[1600, 512, 10],
        &[30, 16, 2],
        &[577, 61, 7],
        &[64, 37, 19, 10],
        &[1, 1, 1],
        &[5, 300, 3],
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        let (chain, samples) = chain(shape, "x2+2x", i as u64);
        for encrypted_input in [false, true] {
            for security in SecurityLevel::ALL {
                let what = format!("{shape:?} encrypted {encrypted_input} {security}");
                let p = planned(&chain, &samples, encrypted_input, security).unwrap_or_else(|e| panic!("{what}: {e}"));
                p.program.validate().unwrap_or_else(|e| panic!("{what}: {e}"));
                let parameters = Parameters::new(p.program.parameters.clone(), Kernel::Portable).unwrap();
                let bound = max_log_qp(parameters.log_n(), security).unwrap();
                for key in &p.program.keys {
                    parameters.check_key(key.shape).unwrap();
                    assert!(parameters.log_qp(key.shape) <= p.log_qp && p.log_qp <= bound, "{what}");
                }
                assert!((p.forecast.table_slack_bits - (bound - p.log_qp)).abs() < 1e-9);
                assert!(
                    p.forecast.remaining_budget_bits > 0.0 && p.forecast.max_abs_error > 0.0,
                    "{what}: {:?}",
                    p.forecast
                );
                assert_eq!(p.program.output.positions.len(), *shape.last().unwrap());
                // Every constant can be encoded at its scale and level.
                let encoder = Encoder::new(&parameters);
                for (g, group) in p.program.constants.iter().enumerate() {
                    for index in [0, group.count - 1] {
                        let plaintext = p.constant(&encoder, g, index).unwrap_or_else(|e| panic!("{what}: {e}"));
                        assert_eq!((plaintext.level(), plaintext.scale), (group.level, group.scale), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_request_without_weights_or_with_numbers_that_are_none_is_refused() {
    let (good, samples) = chain(&[8, 4, 2], "square", 1);
    assert!(matches!(
        planned(&Chain { layers: Vec::new() }, &samples, false, SecurityLevel::Bits128),
        Err(PlanError::Empty)
    ));
    let mut bad = good;
    bad.layers[0].weights[3] = f64::NAN;
    assert!(matches!(planned(&bad, &samples, false, SecurityLevel::Bits128), Err(PlanError::NotFinite(_))));
}

#[test]
fn a_chain_too_deep_for_any_ring_is_refused_with_the_cure() {
    let (deep, samples) = chain(&[4; 24], "poly:0,0.9,0.1", 1);
    let error = planned(&deep, &samples, true, SecurityLevel::Bits256).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("--scope last"), "{error}");
}

#[test]
fn what_is_preferred_is_not_larger_than_with_other_preferences() {
    for (shape, encrypted_input) in [(&[784, 128, 10][..], true), (&[1600, 512, 10], true), (&[64, 37, 19, 10], false)]
    {
        let (chain, samples) = chain(shape, "x2+2x", 5);
        let plans =
            Prefer::ALL.map(|p| planned_for(p, &chain, &samples, encrypted_input, SecurityLevel::Bits128).unwrap());
        let [speed, memory, bundle] = &plans;
        let (memory_of, bundle_of) =
            (|p: &Plan| p.prediction.memory.bytes() as f64, |p: &Plan| p.prediction.bundle.bytes() as f64);
        for p in &plans {
            println!("{shape:?} {:.2e} s {:.2e} {:.2e}", p.prediction.seconds(), memory_of(p), bundle_of(p));
        }
        for other in &plans {
            // Of two that differ little, the faster is taken.
            assert!(speed.prediction.seconds() <= 1.01 * other.prediction.seconds(), "{shape:?}");
            assert!(memory_of(memory) <= 1.1 * memory_of(other), "{shape:?}");
            assert!(bundle_of(bundle) <= 1.1 * bundle_of(other), "{shape:?}");
        }
        assert!(memory_of(memory) <= memory_of(speed) && bundle_of(bundle) <= bundle_of(speed), "{shape:?}");
    }
}

#[test]
fn what_cannot_be_precise_enough_is_refused_with_the_error_that_can_be_reached() {
    let (chain, samples) = chain(&[64, 10], "none", 5);
    let costs = CostModel::builtin(Kernel::Avx512Ifma);
    let request = |max_error| PlanRequest {
        chain: &chain,
        input: InputRange { max_abs: 1.5, max_norm: 12.0 },
        samples: &samples,
        encrypted_input: true,
        security: SecurityLevel::Bits128,
        max_error,
        memory_limit: None,
        prefer: Prefer::Speed,
        costs: &costs,
        kernel: Kernel::Portable,
    };
    let refused = plan(&request(1e-30)).err().unwrap();
    let PlanError::Precision { reached, wanted } = refused else { panic!("{refused}") };
    assert!(wanted == 1e-30 && reached > wanted && reached < 1e-9, "{reached}");
    // So much can be reached.
    assert!(plan(&request(1.01 * reached)).is_ok());
}

#[test]
fn biases_of_a_single_layer_are_where_its_sums_start_and_cost_nothing() {
    for (cols, encrypted_input) in [(64, false), (3000, false), (3000, true)] {
        let (chain, samples) = chain(&[cols, 10], "none", 6);
        let p = planned(&chain, &samples, encrypted_input, SecurityLevel::Bits128).unwrap();
        let (dots, biases) = p.prediction.steps.split_first().unwrap();
        let expected: Vec<_> = (0..biases.len()).map(|index| (1, index)).collect();
        assert_eq!(p.program.biases_behind(0), Some(expected), "{cols}");
        assert!(dots.work.seconds > 0.0 && biases.iter().all(|step| step.work.seconds == 0.0), "{cols}");
        // Not where one is missing, another is added, or a step is no product.
        let mut other = p.program.clone();
        assert_eq!(other.biases_behind(1), None);
        other.steps.pop();
        assert_eq!(other.biases_behind(0), None);
        let mut plain = p.program.clone();
        plain.constants[1].plain = true;
        assert_eq!(plain.biases_behind(0), None);
    }
}
