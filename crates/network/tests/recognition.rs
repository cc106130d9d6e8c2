//! Polynomials written in many ways are recognised, and splitting keeps the function.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too
mod common;

use common::{Builder, float, int, relative_difference};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use subrosa_network::{Activation, Network, Scope, Substitutions};
use subrosa_plain::PlainNetwork;

const SEED: u64 = 20_260_101;

type Spelling = fn(&mut Builder, &str) -> String;

/// Ways to write an activation after the tensor `x`, with the polynomial that must come out.
fn spellings() -> Vec<(&'static str, Spelling, &'static str)> {
    vec![
        ("x*x", |b, x| b.op("Mul", &[x, x]), "x^2"),
        (
            "Pow(x,2)",
            |b, x| {
                let two = b.scalar(2.0);
                b.op("Pow", &[x, &two])
            },
            "x^2",
        ),
        (
            "x*(x+2)",
            |b, x| {
                let two = b.weights(&[1], &[2.0]);
                let sum = b.op("Add", &[&two, x]);
                b.op("Mul", &[x, &sum])
            },
            "x^2+2x",
        ),
        (
            "x*x+2*x",
            |b, x| {
                let two = b.scalar(2.0);
                let square = b.op("Mul", &[x, x]);
                let twice = b.op("Mul", &[&two, x]);
                b.op("Add", &[&square, &twice])
            },
            "x^2+2x",
        ),
        (
            "(x+1)^2-1",
            |b, x| {
                let one = b.weights(&[1, 1], &[1.0]);
                let two = b.scalar(2.0);
                let sum = b.op("Add", &[x, &one]);
                let square = b.op("Pow", &[&sum, &two]);
                b.op("Sub", &[&square, &one])
            },
            "x^2+2x",
        ),
        (
            "x*x-(-x)-(-x) by Neg and Sum",
            |b, x| {
                let negative = b.op("Neg", &[x]);
                let square = b.op("Mul", &[&negative, &negative]);
                b.op("Sum", &[&square, x, x])
            },
            "x^2+2x",
        ),
        (
            "0.5*x^2+0.25*x+3 by Div and Identity",
            |b, x| {
                let (two, three) = (b.scalar(2.0), b.scalar(3.0));
                let square = b.op("Mul", &[x, x]);
                let half = b.op("Div", &[&square, &two]);
                let half = b.op("Identity", &[&half]);
                let quarter = b.scalar(0.25);
                let linear = b.op("Mul", &[x, &quarter]);
                let sum = b.op("Add", &[&half, &linear]);
                b.op("Add", &[&sum, &three])
            },
            "0.5x^2+0.25x+3",
        ),
        (
            "3-x^3",
            |b, x| {
                let three = b.scalar(3.0);
                let cube = b.op("Pow", &[x, &three]);
                b.op("Sub", &[&three, &cube])
            },
            "-x^3+3",
        ),
    ]
}

fn compare(onnx: &[u8], expected: Option<&str>, what: &str, rng: &mut ChaCha20Rng) {
    let network = Network::from_onnx(onnx).unwrap_or_else(|e| panic!("{what}: {e}"));
    let split = network.split(&Scope::All, &Substitutions::none()).unwrap_or_else(|e| panic!("{what}: {e}"));
    if let Some(expected) = expected {
        let activation = split.chain.layers[0].activation.to_string();
        assert_eq!(activation, expected, "{what}");
    }
    let whole = PlainNetwork::load(onnx, 1).unwrap();
    for chain in [split.chain.folded(), split.chain] {
        for _ in 0..5 {
            let input: Vec<f32> = (0..whole.input_len()).map(|_| rng.random_range(-1.0..1.0)).collect();
            let wide: Vec<f64> = input.iter().map(|&v| v.into()).collect();
            let difference = relative_difference(&chain.eval(&wide), &whole.run(1, &input).unwrap());
            assert!(difference < 1e-4, "{what}: off by {difference}");
        }
    }
}

#[test]
fn every_spelling_of_a_polynomial_is_one_activation() {
    println!("seed {SEED}");
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    for (what, write, expected) in spellings() {
        let mut builder = Builder::new(&[5]);
        let x = builder.dense("x", 7, 5, || rng.random_range(-0.7..0.7));
        let activated = write(&mut builder, &x);
        let output = builder.dense(&activated, 3, 7, || rng.random_range(-0.7..0.7));
        compare(&builder.finish(&output), Some(expected), what, &mut rng);
    }
}

#[test]
fn one_output_and_no_bias_are_no_special_case() {
    println!("seed {SEED}");
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    for (what, write, _) in spellings() {
        let mut builder = Builder::new(&[4]);
        let w: Vec<f32> = (0..4).map(|_| rng.random_range(-0.7..0.7)).collect();
        let w = builder.weights(&[4, 1], &w);
        let product = builder.op("MatMul", &["x", &w]);
        let output = write(&mut builder, &product);
        compare(&builder.finish(&output), None, what, &mut rng);
    }
}

#[test]
fn affine_steps_fold_wherever_they_stand() {
    println!("seed {SEED}");
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    let n = 6;
    let steps = ["none", "batchnorm", "mul-add", "scalar-sub-div", "reshape"];
    for before in steps {
        for after in steps {
            for uneven in [false, true] {
                let mut b = Builder::new(&[2, 2]);
                let shape = b.weights(&[2], &[]);
                b.graph.initializer.pop();
                b.graph.initializer.push(int64s(&shape, &[-1, 4]));
                // Standardised input, flattened: folds into the first layer's columns.
                let mean = b.weights(&[2, 2], &[0.1, 0.2, 0.3, 0.4]);
                let centred = b.op("Sub", &["x", &mean]);
                let flat = b.op("Reshape", &[&centred, &shape]);
                // Gemm with all its attributes.
                let w: Vec<f32> = (0..n * 4).map(|_| rng.random_range(-0.7..0.7)).collect();
                let bias: Vec<f32> = (0..n).map(|_| rng.random_range(-0.7..0.7)).collect();
                let (w, bias) = (b.weights(&[n, 4], &w), b.weights(&[1, n], &bias));
                let attributes = vec![int("transB", 1), float("alpha", 0.8), float("beta", -1.5)];
                let x = b.node("Gemm", &[&flat, &w, &bias], attributes);
                let x = affine(&mut b, before, &x, n, &mut rng);
                let activated = if uneven {
                    // A learned quadratic with coefficients of its own for each unit.
                    let mut draw = || -> Vec<f32> { (0..n).map(|_| rng.random_range(0.5..1.5)).collect() };
                    let (p, q, r) = (draw(), draw(), draw());
                    let (p, q, r) = (b.weights(&[n], &p), b.weights(&[n], &q), b.weights(&[n], &r));
                    let square = b.op("Mul", &[&x, &x]);
                    let square = b.op("Mul", &[&p, &square]);
                    let linear = b.op("Mul", &[&q, &x]);
                    let sum = b.op("Add", &[&square, &linear]);
                    b.op("Add", &[&sum, &r])
                } else {
                    spellings()[3].1(&mut b, &x)
                };
                let x = affine(&mut b, after, &activated, n, &mut rng);
                let output = b.dense(&x, 3, n, || rng.random_range(-0.7..0.7));
                let output = b.op("Softmax", &[&output]);
                let onnx = b.finish(&output);
                let what = format!("{before}, then {after}, uneven {uneven}");
                let network = Network::from_onnx(&onnx).unwrap();
                let split =
                    network.split(&Scope::Classifier, &Substitutions::none()).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(split.front.is_none(), "{what}");
                assert_eq!(split.chain.layers[0].activation.degree(), 2, "{what}");
                assert_eq!(split.chain.layers[1].activation, Activation::Identity);
                let whole = PlainNetwork::load(&onnx, 1).unwrap();
                for _ in 0..3 {
                    let input: Vec<f32> = (0..4).map(|_| rng.random_range(-1.0..1.0)).collect();
                    let wide: Vec<f64> = input.iter().map(|&v| v.into()).collect();
                    let exponentials: Vec<f64> = split.chain.eval(&wide).iter().map(|v| v.exp()).collect();
                    let sum: f64 = exponentials.iter().sum();
                    let probabilities: Vec<f64> = exponentials.iter().map(|e| e / sum).collect();
                    let difference = relative_difference(&probabilities, &whole.run(1, &input).unwrap());
                    assert!(difference < 1e-4, "{what}: off by {difference}");
                }
            }
        }
    }
}

fn int64s(name: &str, values: &[i64]) -> rten_onnx::onnx::TensorProto {
    rten_onnx::onnx::TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(rten_onnx::onnx::DataType::INT64),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn affine(b: &mut Builder, step: &str, x: &str, n: usize, rng: &mut ChaCha20Rng) -> String {
    let mut draw = |low: f32, high: f32| -> Vec<f32> { (0..n).map(|_| rng.random_range(low..high)).collect() };
    match step {
        "batchnorm" => {
            let values = [draw(-1.0, 1.0), draw(-1.0, 1.0), draw(-1.0, 1.0), draw(0.5, 1.5)];
            let names: Vec<String> = values.iter().map(|v| b.weights(&[n], v)).collect();
            let inputs: Vec<&str> = std::iter::once(x).chain(names.iter().map(String::as_str)).collect();
            b.node("BatchNormalization", &inputs, vec![float("epsilon", 1e-3)])
        }
        "mul-add" => {
            let (scale, shift) = (draw(-1.0, 1.0), draw(-1.0, 1.0));
            let (scale, shift) = (b.weights(&[n], &scale), b.weights(&[1, n], &shift));
            let scaled = b.op("Mul", &[&scale, x]);
            b.op("Add", &[&scaled, &shift])
        }
        "scalar-sub-div" => {
            let (three, half) = (b.scalar(3.0), b.scalar(0.5));
            let difference = b.op("Sub", &[&half, x]);
            b.op("Div", &[&difference, &three])
        }
        "reshape" => {
            let dropped = b.op("Dropout", &[x]);
            let flat = b.node("Flatten", &[&dropped], vec![int("axis", 1)]);
            b.node("Cast", &[&flat], vec![int("to", 1)])
        }
        _ => x.to_owned(),
    }
}

#[test]
fn a_substitution_stands_exactly_where_the_activation_stood() {
    println!("seed {SEED}");
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    let swish: Spelling = |b, x| {
        let sigmoid = b.op("Sigmoid", &[x]);
        b.op("Mul", &[x, &sigmoid])
    };
    let gelu: Spelling = |b, x| {
        let (root, one, half) = (b.scalar(2f32.sqrt()), b.scalar(1.0), b.scalar(0.5));
        let scaled = b.op("Div", &[x, &root]);
        let erf = b.op("Erf", &[&scaled]);
        let sum = b.op("Add", &[&erf, &one]);
        let product = b.op("Mul", &[x, &sum]);
        b.op("Mul", &[&product, &half])
    };
    let cases: [(&str, Spelling); 5] = [
        ("relu", |b, x| b.op("Relu", &[x])),
        ("tanh", |b, x| b.op("Tanh", &[x])),
        ("elu", |b, x| b.op("Elu", &[x])),
        ("swish", swish),
        ("gelu", gelu),
    ];
    for (name, write) in cases {
        for polynomial in ["square", "poly:1,0.5,0.25", "none"] {
            // The same network, once with the activation and once with the polynomial.
            let build = |activation: &dyn Fn(&mut Builder, &str) -> String| {
                let mut rng = ChaCha20Rng::seed_from_u64(SEED);
                let mut b = Builder::new(&[5]);
                let x = b.dense("x", 6, 5, || rng.random_range(-0.7..0.7));
                let x = affine(&mut b, "scalar-sub-div", &x, 6, &mut rng);
                let x = activation(&mut b, &x);
                let x = affine(&mut b, "mul-add", &x, 6, &mut rng);
                let output = b.dense(&x, 2, 6, || rng.random_range(-0.7..0.7));
                b.finish(&output)
            };
            let original = build(&|b, x| write(b, x));
            let replacement = build(&|b, x| match polynomial {
                "square" => b.op("Mul", &[x, x]),
                "none" => x.to_owned(),
                _ => {
                    let (half, one) = (b.scalar(0.5), b.scalar(1.0));
                    let scaled = b.op("Mul", &[x, &half]);
                    let square = b.op("Mul", &[&scaled, &scaled]);
                    let sum = b.op("Add", &[&square, &scaled]);
                    b.op("Add", &[&sum, &one])
                }
            });
            let substitutions: Substitutions = format!("{name}={polynomial}").parse().unwrap();
            let network = Network::from_onnx(&original).unwrap();
            assert!(network.split(&Scope::All, &Substitutions::none()).is_err());
            let split = network.split(&Scope::All, &substitutions).unwrap();
            assert_eq!(split.replaced.len(), 1);
            assert_eq!(split.replaced[0].from.to_string(), name);
            assert_eq!(split.replaced[0].layer, split.chain.layers[0].name);
            let whole = PlainNetwork::load(&replacement, 1).unwrap();
            let input: Vec<f32> = (0..5).map(|_| rng.random_range(-1.0..1.0)).collect();
            let wide: Vec<f64> = input.iter().map(|&v| v.into()).collect();
            let difference = relative_difference(&split.chain.eval(&wide), &whole.run(1, &input).unwrap());
            assert!(difference < 1e-4, "{name}={polynomial}: off by {difference}");
        }
    }
}
