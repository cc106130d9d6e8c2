//! Plans of whole networks, simulated in exact slot arithmetic.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use rand::{RngExt, SeedableRng, rngs::StdRng};
use subrosa_fhe::Kernel;
use subrosa_fhe::security::SecurityLevel;
use subrosa_network::{Network, Scope, Substitutions};
use subrosa_plan::{CostModel, InputRange, WholeRequest, plan_whole};

#[test]
fn the_cifar10_network_simulates_to_its_plaintext_result() {
    let onnx = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/cifar10-quadratic.onnx")).unwrap();
    let network = Network::from_onnx(&onnx).unwrap();
    let split = network.circuit(&Scope::All, &Substitutions::none()).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let samples: Vec<Vec<f64>> =
        (0..8).map(|_| (0..split.features).map(|_| rng.random_range(0.0..1.0)).collect()).collect();
    let costs = CostModel::builtin(Kernel::Avx512Ifma);
    let request = WholeRequest {
        circuit: &split.circuit,
        input: InputRange { max_abs: 255.0, max_norm: 1e5 },
        samples: &samples,
        calibrated: true,
        encrypted_input: true,
        security: SecurityLevel::Bits128,
        max_error: 0.1,
        memory_limit: None,
        costs: &costs,
        kernel: Kernel::Portable,
    };
    let start = std::time::Instant::now();
    let plan = plan_whole(&request).unwrap();
    eprintln!("planned in {:.1} s", start.elapsed().as_secs_f64());
    for a in &plan.alternatives {
        eprintln!("{a:?}");
    }
    eprintln!("{:?}", plan.forecast);
    eprintln!("{:?}", plan.prediction.memory);
    for (step, work) in plan.program.steps.iter().zip(&plan.prediction.steps) {
        if work.work.seconds > 1e-3 {
            eprintln!("{} level {} {:.1} ms products {} ntts {} keys {}", step.name(), work.level, work.work.seconds*1e3, work.work.products, work.work.ntts, work.work.key_products);
        }
    }
    for sample in &samples {
        let expected = split.circuit.eval(sample);
        let found = plan.simulate(sample, None).unwrap().outputs;
        let worst = expected.iter().zip(&found).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        let noisy = plan.simulate(sample, Some(7)).unwrap();
        let noise = expected.iter().zip(&noisy.outputs).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        eprintln!("{expected:?} exact to {worst:.1e}, with noise {noise:.1e}, largest slot {}", noisy.largest);
        assert!(worst < 1e-6, "{worst}");
    }
}
