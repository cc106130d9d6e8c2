//! The search against the rule that it took the place of: the smallest ring, in it the smallest modulus, layouts by rough costs,
//! and as many special primes as limbs in a digit.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use super::candidate::Special;
use super::*;
use crate::cost::predict;
use crate::keys::Shapes;
use crate::layouts::Layer;
use crate::{single, slots};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use subrosa_fhe::KeyShape;
use subrosa_network::{Activation, Dense};
use subrosa_program::layout::{Diagonals, Packing};

const SHAPES: [&[usize]; 8] = [
    &[64, 10],
    &[784, 128, 10],
    &[1600, 512, 10],
    &[30, 16, 2],
    &[4096, 1024, 100],
    &[577, 61, 7],
    &[2304, 512, 10],
    &[64, 37, 19, 10],
];

/// A chain with squares between its layers, features as after a ReLU, and the wanted error.
fn network(shape: &[usize], seed: u64) -> (Chain, Vec<Vec<f64>>, f64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let layers = shape.windows(2).enumerate().map(|(i, pair)| {
        let (cols, rows) = (pair[0], pair[1]);
        let width = (3.0 / cols as f64).sqrt();
        let last = i + 2 == shape.len();
        Dense {
            name: format!("{rows}x{cols}"),
            rows,
            cols,
            weights: (0..rows * cols).map(|_| rng.random_range(-width..width)).collect(),
            bias: (0..rows).map(|_| rng.random_range(-0.1..0.1)).collect(),
            activation: if last { Activation::Identity } else { Activation::Polynomial("x2+2x".parse().unwrap()) },
        }
    });
    let chain = Chain { layers: layers.collect() };
    let mut feature = || if rng.random_bool(0.6) { 0.0 } else { rng.random_range(0.0..1.0) };
    let samples: Vec<Vec<f64>> = (0..4).map(|_| (0..shape[0]).map(|_| feature()).collect()).collect();
    let largest = samples.iter().flat_map(|x| chain.eval(x)).fold(0.0f64, |m, v| m.max(v.abs()));
    (chain, samples, 1e-3 * largest)
}

fn request<'a>(
    (chain, samples, max_error): &'a (Chain, Vec<Vec<f64>>, f64),
    encrypted_input: bool,
    security: SecurityLevel,
    costs: &'a CostModel,
) -> PlanRequest<'a> {
    let norm = |x: &Vec<f64>| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let max_norm = 1.5 * samples.iter().map(norm).fold(0.0, f64::max);
    PlanRequest {
        chain,
        input: InputRange { max_abs: 1.5, max_norm },
        samples,
        encrypted_input,
        security,
        max_error: *max_error,
        memory_limit: None,
        prefer: Prefer::Speed,
        costs,
        kernel: Kernel::Portable,
    }
}

/// The layouts of the old rule.
fn old_layers(task: &Task<'_>, ring: &RingContext) -> Option<Vec<Layer>> {
    let cost = |d: &Diagonals| {
        let babies: usize = d.tiles.iter().map(|t| t.babies).sum();
        babies as f64 + 2.2 * (d.giants - 1) as f64 + 0.1 * d.products() as f64
    };
    let mut period = None;
    let mut layers = Vec::new();
    for stage in task.stages.split_last()?.1 {
        let layout = |giants| match period {
            Some(period) => Diagonals::periodic(ring.slots(), stage.rows, stage.cols, period, giants).ok(),
            None => {
                let max_tiles = if task.request.encrypted_input { 2 } else { usize::MAX };
                let packing = Packing { span: usize::MAX, giants, max_tiles, complex: true };
                Diagonals::packed(ring.slots(), stage.rows, stage.cols, packing).ok()
            }
        };
        let most = if period.is_some() || task.request.encrypted_input { 8 } else { 1 };
        let layout = (0..most).filter_map(|g| layout(1 << g)).min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
        period = Some(layout.row_period);
        let folds = layout.fold_doublings().div_ceil(2) as usize;
        layers.push(Layer { layout, folds });
    }
    Some(layers)
}

/// The shapes of the old rule: for each key the highest level of any that is used with it.
fn old_shapes(draft: &crate::plan::Draft, bound: f64) -> Option<Shapes> {
    let mut levels = std::collections::BTreeMap::new();
    for _ in 0..=draft.sets.len() {
        for set in &draft.sets {
            let own = set.uses.iter().map(|u| u.level).max()?;
            let highest = set.ids.iter().filter_map(|id| levels.get(id)).copied().max().unwrap_or(0).max(own);
            levels.extend(set.ids.iter().map(|&id| (id, highest)));
        }
    }
    let special_bits = draft.primes.log_p(1).ceil();
    let shape = |level: usize| {
        let digit = (((bound - draft.primes.log_q(level)) / special_bits) as usize).min(level);
        (digit > 0).then(|| level.div_ceil(level.div_ceil(digit))).map(|digit| KeyShape {
            level,
            specials: digit,
            digit,
        })
    };
    levels.into_iter().map(|(id, level)| Some((id, shape(level)?))).collect()
}

/// Time and error of the plan that the old rule would have made.
fn old_plan(task: &Task<'_>) -> Option<(f64, f64)> {
    for log_n in cost::LOG_N {
        let mut ring = RingContext::new(log_n, task.request.security)?;
        let layers = if task.stages.len() > 1 { old_layers(task, &ring) } else { Some(Vec::new()) };
        let Some(layers) = layers else { continue };
        for precision in 16..=46 {
            let (special, layers) = (Special::Larger(4), layers.clone());
            let choice = Choice { precision, special, tolerance: 1.0, whole_bytes: false, per_byte: 0.0, layers };
            let drafted = match task.stages.as_slice() {
                [only] => single::draft(only, task, &mut ring, &choice),
                _ => slots::draft(task, &mut ring, &choice, None).and_then(|mut draft| {
                    let shapes = old_shapes(&draft, ring.bound)?;
                    draft.set_keys(&shapes);
                    draft.max_abs_error = slots::draft(task, &mut ring, &choice, Some(&shapes))?.max_abs_error;
                    Some(draft)
                }),
            };
            if let Some(draft) = drafted.filter(|d| d.max_abs_error <= task.request.max_error) {
                let p = predict(&draft.program, task.request.costs);
                return Some((p.prepare.seconds + p.infer.seconds, draft.max_abs_error));
            }
        }
    }
    None
}

#[test]
fn plans_are_precise_enough_and_predicted_no_slower_than_by_the_old_rule() {
    let costs = CostModel::builtin(Kernel::Avx512Ifma);
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let network = network(shape, i as u64);
        for encrypted_input in [false, true] {
            for security in SecurityLevel::ALL {
                let request = request(&network, encrypted_input, security, &costs);
                let what = format!("{shape:?} encrypted {encrypted_input} {security}");
                let p = plan(&request).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(p.forecast.max_abs_error <= request.max_error, "{what}: {:?}", p.forecast);
                let seconds = p.forecast.prepare_seconds + p.forecast.infer_seconds;
                if let Some((old, error)) = old_plan(&task(&request).unwrap()) {
                    println!(
                        "{what}: {:.2} ms, by the old rule {:.2} ms (error {error:.1e})",
                        1e3 * seconds,
                        1e3 * old
                    );
                    assert!(seconds <= 1.001 * old, "{what}: {seconds} is slower than {old}");
                }
                let taken: Vec<_> = p.alternatives.iter().filter(|a| a.verdict == Verdict::Taken).collect();
                assert_eq!(taken.len(), 1, "{what}");
                assert_eq!(taken[0].bytes, Some(p.prediction.memory.bytes()), "{what}");
                let faster = p.alternatives.iter().filter(|a| a.verdict == Verdict::Slower);
                assert!(faster.filter_map(|a| a.seconds).all(|s| s >= 0.999 * seconds), "{what}: {:?}", p.alternatives);
            }
        }
    }
}

#[test]
fn a_memory_limit_is_kept_and_an_impossible_one_is_refused_with_the_least_that_is_possible() {
    let costs = CostModel::builtin(Kernel::Avx512Ifma);
    let network = network(&[784, 128, 10], 1);
    let free = request(&network, true, SecurityLevel::Bits128, &costs);
    let unlimited = plan(&free).unwrap();
    let bytes = unlimited.prediction.memory.bytes();
    let refused =
        plan(&PlanRequest { memory_limit: Some(1000), ..request(&network, true, SecurityLevel::Bits128, &costs) });
    let Err(PlanError::Memory { limit: 1000, smallest }) = refused else { panic!("a kilobyte is not enough") };
    assert!(smallest < bytes, "{smallest} is not below {bytes}");
    for limit in [smallest, (smallest + bytes) / 2] {
        let limited =
            PlanRequest { memory_limit: Some(limit), ..request(&network, true, SecurityLevel::Bits128, &costs) };
        let p = plan(&limited).unwrap();
        assert!(p.prediction.memory.bytes() <= limit);
        assert!(p.forecast.max_abs_error <= limited.max_error);
        assert!(p.predicted_seconds() >= 0.999 * unlimited.predicted_seconds());
    }
}
