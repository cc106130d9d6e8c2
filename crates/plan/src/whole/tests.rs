//! A layout that the search need not choose.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::draft::draft;
use super::geometry::Geometry;
use super::simulate::simulate;
use super::{Choice, Constant, Primes, WholeRequest, WholeTask};
use crate::chain::InputRange;
use crate::cost::CostModel;
use crate::search::{RingContext, Special};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use subrosa_fhe::Kernel;
use subrosa_fhe::security::SecurityLevel;
use subrosa_network::{Circuit, CircuitLayer, LayerActivation, Place, Polynomial, Source, SparseMatrix, Term};
use subrosa_program::Step;

fn image(channels: u32, side: u32) -> Vec<Place> {
    (0..channels * side * side).map(|i| [i / (side * side), i / side % side, i % side]).collect()
}

/// Two layers that mix channels, 2 x 2 means, and scores.
fn circuit(rng: &mut ChaCha8Rng) -> Circuit {
    let (wide, narrow) = (image(4, 8), image(4, 4));
    let mut mixing = |source: Source, channels: u32| {
        let kernel: Vec<f64> = (0..16).map(|_| rng.random_range(-1.0..1.0)).collect();
        let row = |o: &Place| -> Vec<(u32, f64)> {
            let of = |c: u32| ((c * 8 + o[1]) * 8 + o[2], kernel[(o[0] * 4 + c) as usize]);
            (0..channels).map(of).collect()
        };
        let rows: Vec<_> = wide.iter().map(row).collect();
        Term { source, matrix: SparseMatrix::from_rows(channels as usize * 64, rows).unwrap() }
    };
    let first = mixing(Source::Input, 2);
    let second = mixing(Source::Layer(0), 4);
    let pool: Vec<Vec<(u32, f64)>> = narrow
        .iter()
        .map(|o| {
            let at = |k: u32| ((o[0] * 8 + 2 * o[1] + k / 2) * 8 + 2 * o[2] + k % 2, 0.25);
            (0..4).map(at).collect()
        })
        .collect();
    let pooled = Term { source: Source::Layer(1), matrix: SparseMatrix::from_rows(256, pool).unwrap() };
    let values: Vec<f64> = (0..3 * 64).map(|_| rng.random_range(-0.2..0.2)).collect();
    let scores = Term { source: Source::Layer(2), matrix: SparseMatrix::dense(3, 64, &values) };
    let square = |size: usize| LayerActivation::uniform(Polynomial::new(vec![0.0, 0.4, 0.3]), size).unwrap();
    let layer = |name: &str, places: &[Place], term: Term, activation: LayerActivation| CircuitLayer {
        name: name.into(),
        places: places.to_vec(),
        terms: vec![term],
        bias: places.iter().map(|p| 0.1 * f64::from(p[0])).collect(),
        activation,
    };
    let scored: Vec<Place> = (0..3).map(|i| [i, 0, 0]).collect();
    let layers = vec![
        layer("first", &wide, first, square(256)),
        layer("second", &wide, second, square(256)),
        layer("means", &narrow, pooled, LayerActivation::Identity),
        layer("scores", &scored, scores, LayerActivation::Identity),
    ];
    Circuit { input_places: image(2, 8), layers, weights: 0 }
}

#[test]
fn phases_that_are_pooled_share_weights_and_their_squares_are_summed() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let circuit = circuit(&mut rng);
    let samples: Vec<Vec<f64>> = (0..4).map(|_| (0..128).map(|_| rng.random_range(0.0..1.0)).collect()).collect();
    let costs = CostModel::builtin(Kernel::Portable);
    let request = WholeRequest {
        circuit: &circuit,
        input: InputRange { max_abs: 1.0, max_norm: 12.0 },
        samples: &samples,
        calibrated: true,
        plain_weights: false,
        encrypted_input: true,
        security: SecurityLevel::Bits128,
        max_error: 1e-2,
        memory_limit: None,
        prefer: crate::Prefer::Speed,
        costs: &costs,
        kernel: Kernel::Portable,
    };
    let task = WholeTask::new(&request).unwrap();
    let mut ring = RingContext::new(14, SecurityLevel::Bits128).unwrap();
    let geometry = Geometry::new(&task.stages, &circuit.input_places, &task.facts, ring.slots(), 2, true).unwrap();
    let arrangement = &geometry.stages[1];
    assert_eq!((arrangement.layout.blocks, arrangement.pairs.len(), arrangement.classes), (4, 2, 1));
    let kinds = [Primes::Prefix(Special::Larger(2)), Primes::Swapped(48)];
    for (primes, chained) in kinds.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        let choice = Choice { message_bits: 30, weight_bits: 28, primes, tolerance: 1.0, per_byte: 0.0, chained };
        let made = draft(&task, &mut ring, &choice, &geometry, true).unwrap();
        let linear = |s: &&Step| matches!(s, Step::Linear { dst, .. } if dst.len() == 2);
        let shared = made.program.steps.iter().filter(linear).count();
        assert!(
            if chained { shared >= 2 } else { shared == 2 },
            "{shared}: the weights of the first and of the second layer"
        );
        let counted = draft(&task, &mut ring, &choice, &geometry, false).unwrap().program.constants;
        assert_eq!(counted, made.program.constants, "what is counted is what is made");
        let constants: Vec<&Constant> = made.constants.iter().collect();
        for sample in &samples {
            let found = simulate(&made.program, &constants, sample, None).unwrap().outputs;
            let expected = circuit.eval(sample);
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-7), "{found:?} {expected:?}");
        }
    }
}
