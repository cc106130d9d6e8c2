//! Every operator, in many forms, in small networks from a printed seed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too
mod common;

use common::{Builder, compare, float, int, ints, text};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rten_onnx::onnx::AttributeProto;
use subrosa_network::{Circuit, LayerActivation, Network, Place, Scope, Substitutions};

const SEED: u64 = 20_261_124;

fn draws(rng: &mut ChaCha20Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-0.5..0.5)).collect()
}

fn circuit(name: &str, onnx: &[u8]) -> Circuit {
    let network = Network::from_onnx(onnx).unwrap_or_else(|e| panic!("{name}: {e}"));
    network.circuit(&Scope::All, &Substitutions::none()).unwrap_or_else(|e| panic!("{name}: {e}")).circuit
}

/// Checks the network against the runtime and returns its circuit.
fn check(name: &str, onnx: &[u8]) -> Circuit {
    let circuit = circuit(name, onnx);
    compare(name, onnx, &circuit, 2);
    for layer in &circuit.layers {
        assert_eq!(layer.places.len(), layer.size(), "{name}");
        assert!(layer.terms.iter().all(|term| term.matrix.rows() == layer.size()), "{name}");
        let distinct: std::collections::HashSet<&Place> = layer.places.iter().collect();
        assert_eq!(distinct.len(), layer.size(), "{name}: two values of '{}' stand at one place", layer.name);
    }
    circuit
}

fn conv(b: &mut Builder, rng: &mut ChaCha20Rng, x: &str, w: &[usize], attributes: Vec<AttributeProto>) -> String {
    let values = draws(rng, w.iter().product());
    let weights = b.weights(w, &values);
    let bias = draws(rng, w[0]);
    let bias = b.weights(&[w[0]], &bias);
    b.node("Conv", &[x, &weights, &bias], attributes)
}

fn square(b: &mut Builder, x: &str) -> String {
    b.op("Mul", &[x, x])
}

fn batch_norm(b: &mut Builder, rng: &mut ChaCha20Rng, x: &str, channels: usize) -> String {
    let mut parameters = Vec::new();
    for base in [1.0, 0.0, 0.0, 1.0] {
        let values: Vec<f32> = draws(rng, channels).iter().map(|v| v + base).collect();
        parameters.push(b.weights(&[channels], &values));
    }
    let [scale, shift, mean, variance] = parameters.as_slice() else { panic!() };
    b.node("BatchNormalization", &[x, scale, shift, mean, variance], vec![float("epsilon", 1e-3)])
}

fn degrees(circuit: &Circuit) -> Vec<usize> {
    circuit.layers.iter().map(|layer| layer.activation.degree()).collect()
}

#[test]
fn convolutions_and_pooling_with_every_option() {
    println!("seed {SEED}");
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    for round in 0..60 {
        let dims = if round % 3 == 0 { 1 } else { 2 };
        let groups = [1, 1, 2, 4][rng.random_range(0..4)];
        let (channels, out) = (groups * rng.random_range(1..3), groups * rng.random_range(1..3));
        let sizes: Vec<usize> = (0..dims).map(|_| rng.random_range(7..11)).collect();
        let kernel: Vec<usize> = (0..dims).map(|_| rng.random_range(1..4)).collect();
        let pick = |rng: &mut ChaCha20Rng, range: std::ops::Range<i64>, count: usize| -> Vec<i64> {
            (0..count).map(|_| rng.random_range(range.clone())).collect()
        };
        let mut attributes = vec![ints("strides", &pick(&mut rng, 1..4, dims)), int("group", groups as i64)];
        let auto = *["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"].choose(&mut rng).unwrap();
        if auto == "NOTSET" {
            attributes.push(ints("pads", &pick(&mut rng, 0..3, 2 * dims)));
            attributes.push(ints("dilations", &pick(&mut rng, 1..3, dims)));
        } else {
            attributes.push(text("auto_pad", auto));
        }
        let mut shape = vec![channels];
        shape.extend(&sizes);
        let mut b = Builder::new(&shape);
        let mut w = vec![out, channels / groups];
        w.extend(&kernel);
        let x = conv(&mut b, &mut rng, "x", &w, attributes);
        let x = square(&mut b, &x);
        let pool_kernel = pick(&mut rng, 1..3, dims);
        let pads: Vec<i64> = pool_kernel.iter().chain(&pool_kernel).map(|k| rng.random_range(0..*k)).collect();
        let pool = vec![
            ints("kernel_shape", &pool_kernel),
            ints("strides", &pick(&mut rng, 1..3, dims)),
            ints("pads", &pads),
            int("count_include_pad", rng.random_range(0..2)),
        ];
        let output = match round % 4 {
            0 => b.op("GlobalAveragePool", &[&x]),
            _ if dims == 2 => b.node("AveragePool", &[&x], pool),
            _ => x,
        };
        let name = format!("round {round}: {shape:?} by {w:?}, {auto}");
        let circuit = check(&name, &b.finish(&output));
        assert_eq!(circuit.layers[0].activation.degree(), 2, "{name}");
    }
}

#[test]
fn residual_blocks_with_batch_norms_keep_one_layer_an_activation() {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED + 1);
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    let mut b = Builder::new(&[3, 8, 8]);
    let x = conv(&mut b, &mut rng, "x", &[4, 3, 3, 3], pads());
    let x = batch_norm(&mut b, &mut rng, &x, 4);
    let mut x = square(&mut b, &x);
    for (channels, stride) in [(4, 1), (6, 2)] {
        let width = 4;
        let y = conv(
            &mut b,
            &mut rng,
            &x,
            &[channels, width, 3, 3],
            [pads(), vec![ints("strides", &[stride, stride])]].concat(),
        );
        let y = batch_norm(&mut b, &mut rng, &y, channels);
        let y = square(&mut b, &y);
        let y = conv(&mut b, &mut rng, &y, &[channels, channels, 3, 3], pads());
        let y = batch_norm(&mut b, &mut rng, &y, channels);
        let skip = if stride == 1 {
            x
        } else {
            let s = conv(&mut b, &mut rng, &x, &[channels, width, 1, 1], vec![ints("strides", &[2, 2])]);
            batch_norm(&mut b, &mut rng, &s, channels)
        };
        let sum = b.op("Add", &[&y, &skip]);
        x = square(&mut b, &sum);
    }
    let x = b.op("GlobalAveragePool", &[&x]);
    let x = b.node("Flatten", &[&x], vec![]);
    let output = b.dense(&x, 5, 6, || rng.random_range(-0.5..0.5));
    let circuit = check("resnet", &b.finish(&output));
    assert_eq!(degrees(&circuit), [2, 2, 2, 2, 2, 1]);
    for layer in &circuit.layers {
        // Batch norms are in the weights, so one polynomial does for all channels.
        if let LayerActivation::Polynomial { polynomials, .. } = &layer.activation {
            assert_eq!(polynomials.len(), 1, "{}", layer.name);
        }
    }
    assert_eq!(circuit.layers[2].terms.len(), 2, "the skip connection is a term of its own");
}

#[test]
fn polynomials_by_channel_are_one_activation() {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED + 2);
    let mut b = Builder::new(&[2, 5, 5]);
    let x = conv(&mut b, &mut rng, "x", &[3, 2, 2, 2], vec![]);
    let slopes = b.weights(&[3, 1, 1], &[0.5, 0.25, -1.0]);
    let shifts = b.weights(&[3, 1, 1], &[1.0, 2.0, 0.5]);
    let y = b.op("Mul", &[&slopes, &x]);
    let y = b.op("Add", &[&y, &shifts]);
    let x = b.op("Mul", &[&y, &x]);
    let x = b.node("Flatten", &[&x], vec![]);
    let output = b.dense(&x, 2, 48, || 0.1);
    let circuit = check("by channel", &b.finish(&output));
    assert_eq!(degrees(&circuit), [2, 1]);
    let LayerActivation::Polynomial { polynomials, of } = &circuit.layers[0].activation else { panic!() };
    let texts: Vec<String> = polynomials.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["0.5x^2+x", "0.25x^2+2x", "-x^2+0.5x"]);
    assert_eq!((of[0], of[16], of[47]), (0, 1, 2));
}

#[test]
fn powers_and_arithmetic_act_on_the_polynomial() {
    for exponent in 1..=4 {
        let mut b = Builder::new(&[4]);
        let x = b.dense("x", 3, 4, || 0.3);
        let c = b.scalar(exponent as f32);
        let x = b.op("Pow", &[&x, &c]);
        let two = b.scalar(2.0);
        let x = b.op("Sub", &[&two, &x]);
        let x = b.op("Div", &[&x, &two]);
        let x = b.op("Neg", &[&x]);
        let output = b.op("Sum", &[&x, &x, &two]);
        let circuit = check(&format!("power {exponent}"), &b.finish(&output));
        assert_eq!(degrees(&circuit), [exponent]);
    }
}

#[test]
fn a_square_that_several_layers_read_is_one_layer() {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED + 3);
    let mut b = Builder::new(&[2, 6, 6]);
    let x = conv(&mut b, &mut rng, "x", &[4, 2, 3, 3], vec![]);
    let squared = square(&mut b, &x);
    let three = b.scalar(3.0);
    let scaled = b.op("Mul", &[&squared, &three]);
    let one = conv(&mut b, &mut rng, &squared, &[2, 4, 3, 3], vec![]);
    let two = conv(&mut b, &mut rng, &scaled, &[3, 4, 1, 1], vec![]);
    let two = b.node("AveragePool", &[&two], vec![ints("kernel_shape", &[3, 3]), ints("strides", &[1, 1])]);
    let joined = b.node("Concat", &[&one, &two], vec![int("axis", 1)]);
    let output = square(&mut b, &joined);
    let circuit = check("shared square", &b.finish(&output));
    assert_eq!(degrees(&circuit), [2, 2]);
    assert_eq!(circuit.layers[1].places.last(), Some(&[4, 1, 1]));
}

#[test]
fn networks_with_channels_last_know_where_values_stand() {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED + 4);
    let mut b = Builder::new(&[6, 7, 3]);
    let scale = b.weights(&[3], &[0.5, 1.0, 2.0]);
    let x = b.op("Mul", &["x", &scale]);
    let x = b.node("Transpose", &[&x], vec![ints("perm", &[0, 3, 1, 2])]);
    let x = conv(&mut b, &mut rng, &x, &[4, 3, 3, 3], vec![text("auto_pad", "SAME_UPPER")]);
    let x = b.node("Transpose", &[&x], vec![ints("perm", &[0, 2, 3, 1])]);
    let x = square(&mut b, &x);
    let x = b.node("Transpose", &[&x], vec![ints("perm", &[0, 3, 1, 2])]);
    let x = conv(&mut b, &mut rng, &x, &[2, 4, 3, 3], vec![ints("strides", &[2, 2])]);
    let x = b.node("Transpose", &[&x], vec![ints("perm", &[0, 2, 3, 1])]);
    let x = square(&mut b, &x);
    let x = b.node("Flatten", &[&x], vec![]);
    let output = b.dense(&x, 3, 12, || rng.random_range(-0.5..0.5));
    let circuit = check("channels last", &b.finish(&output));
    assert_eq!(degrees(&circuit), [2, 2, 1]);
    assert_eq!(circuit.input_places[..4], [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 0, 1]]);
    assert_eq!(circuit.input_places[21], [0, 1, 0]);
    assert_eq!(circuit.layers[0].places[..5], [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [0, 0, 1]]);
    assert_eq!(circuit.layers[1].places[..3], [[0, 0, 0], [1, 0, 0], [0, 0, 1]]);
}

#[test]
fn a_picture_given_flat_stands_as_the_convolution_reads_it() {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED + 5);
    let mut b = Builder::new(&[36]);
    let shape = b.integers(&[-1, 1, 6, 6]);
    let x = b.op("Reshape", &["x", &shape]);
    let pads = b.integers(&[0, 0, 1, 1, 0, 0, 1, 1]);
    let x = b.op("Pad", &[&x, &pads]);
    let x = conv(&mut b, &mut rng, &x, &[2, 1, 3, 3], vec![]);
    let output = square(&mut b, &x);
    let circuit = check("flat", &b.finish(&output));
    assert_eq!((circuit.input_places[0], circuit.input_places[35]), ([0, 0, 0], [0, 5, 5]));
}

#[test]
fn moves_of_values_are_followed() {
    type Move = fn(&mut Builder, &str) -> String;
    let moves: &[(&str, Move, i64)] = &[
        (
            "pad with a value",
            |b, x| {
                let pads = b.integers(&[0, 1, 0, 2, 0, 0, 1, 0]);
                let value = b.scalar(1.5);
                b.op("Pad", &[x, &pads, &value])
            },
            15,
        ),
        (
            "pad by cutting",
            |b, x| {
                let pads = b.integers(&[0, 0, -1, 2, 0, 0, 1, -2]);
                b.op("Pad", &[x, &pads])
            },
            15,
        ),
        (
            "reflect",
            |b, x| {
                let pads = b.integers(&[0, 0, 2, 1, 0, 0, 1, 2]);
                b.node("Pad", &[x, &pads], vec![text("mode", "reflect")])
            },
            15,
        ),
        (
            "slice",
            |b, x| {
                let (starts, ends) = (b.integers(&[1, -1]), b.integers(&[i64::MAX, -4]));
                let (axes, steps) = (b.integers(&[1, 3]), b.integers(&[1, -2]));
                b.op("Slice", &[x, &starts, &ends, &axes, &steps])
            },
            15,
        ),
        (
            "split",
            |b, x| {
                let sizes = b.integers(&[1, 3]);
                let parts = b.node_with_outputs("Split", &[x, &sizes], 2, vec![int("axis", 2)]);
                let pads = b.integers(&[0, 0, 0, 0, 0, 0, 2, 0]);
                let first = b.op("Pad", &[&parts[0], &pads]);
                b.op("Add", &[&first, &parts[1]])
            },
            15,
        ),
        (
            "gather",
            |b, x| {
                let picks = b.integers(&[2, 0, -1]);
                b.node("Gather", &[x, &picks], vec![int("axis", 1)])
            },
            15,
        ),
        (
            "concat with a constant",
            |b, x| {
                let w = b.weights(&[1, 1, 4, 5], &[0.25; 20]);
                b.node("Concat", &[x, &w, x], vec![int("axis", -3)])
            },
            15,
        ),
        (
            "squeeze and back",
            |b, x| {
                let (one, axes) = (b.integers(&[0, 1, 4, 5]), b.integers(&[1]));
                let start = b.integers(&[0]);
                let end = b.integers(&[1]);
                let x = b.op("Slice", &[x, &start, &end, &axes]);
                let x = b.op("Squeeze", &[&x, &axes]);
                let x = b.op("Unsqueeze", &[&x, &axes]);
                let _ = one;
                b.op("Identity", &[&x])
            },
            15,
        ),
        (
            "reshape through another shape",
            |b, x| {
                let (shape, back) = (b.integers(&[0, -1, 10]), b.integers(&[-1, 3, 4, 5]));
                let x = b.op("Reshape", &[x, &shape]);
                let x = b.node("Transpose", &[&x], vec![ints("perm", &[0, 2, 1])]);
                b.op("Reshape", &[&x, &back])
            },
            15,
        ),
        ("mean over rows", |b, x| b.node("ReduceMean", &[x], vec![ints("axes", &[2]), int("keepdims", 1)]), 13),
        (
            "sum over channels and columns",
            |b, x| {
                let axes = b.integers(&[1, -1]);
                b.node("ReduceSum", &[x, &axes], vec![int("keepdims", 0)])
            },
            13,
        ),
        (
            "matmul over columns",
            |b, x| {
                let w = b.weights(&[5, 2], &[0.5, -1.0, 0.25, 2.0, 0.0, 0.125, 1.0, 1.5, -0.75, 0.1]);
                b.op("MatMul", &[x, &w])
            },
            15,
        ),
        (
            "matmul over rows",
            |b, x| {
                let w = b.weights(&[1, 1, 2, 4], &[0.5, -1.0, 0.25, 2.0, 0.0, 0.125, 1.0, 1.5]);
                b.op("MatMul", &[&w, x])
            },
            15,
        ),
        (
            "matmul by channel",
            |b, x| {
                let w: Vec<f32> = (0..15).map(|k| k as f32 / 10.0).collect();
                let w = b.weights(&[3, 5, 1], &w);
                b.op("MatMul", &[x, &w])
            },
            15,
        ),
        (
            "matmul with a vector",
            |b, x| {
                let w = b.weights(&[5], &[0.5, -1.0, 0.25, 2.0, 3.0]);
                b.op("MatMul", &[x, &w])
            },
            15,
        ),
        (
            "depth to space",
            |b, x| {
                let pads = b.integers(&[0, 1, 0, 0, 0, 0, 0, 1]);
                let x = b.op("Pad", &[x, &pads]);
                b.node("DepthToSpace", &[&x], vec![int("blocksize", 2)])
            },
            15,
        ),
        (
            "adding tensors that are repeated",
            |b, x| {
                let rows = b.node("ReduceMean", &[x], vec![ints("axes", &[3]), int("keepdims", 1)]);
                let columns = b.node("ReduceMean", &[x], vec![ints("axes", &[2]), int("keepdims", 1)]);
                let sum = b.op("Sub", &[&rows, &columns]);
                b.op("Add", &[&sum, x])
            },
            13,
        ),
        (
            "a constant that repeats the tensor",
            |b, x| {
                let mean = b.node("ReduceMean", &[x], vec![ints("axes", &[2, 3]), int("keepdims", 1)]);
                let w = b.weights(&[3, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
                b.op("Mul", &[&w, &mean])
            },
            13,
        ),
        (
            "mean of tensors",
            |b, x| {
                let y = b.node("Dropout", &[x], vec![]);
                let w = b.scalar(3.0);
                let z = square(b, x);
                b.op("Mean", &[&y, &z, &w])
            },
            15,
        ),
    ];
    for (name, make, opset) in moves {
        for squared in [false, true] {
            let mut b = Builder::new(&[3, 4, 5]);
            let x = if squared { square(&mut b, "x") } else { "x".to_owned() };
            let x = make(&mut b, &x);
            let output = if squared { square(&mut b, &x) } else { x };
            check(name, &b.finish_opset(&output, *opset));
        }
    }
}

#[test]
fn linear_layers_are_composed_unless_the_product_is_far_larger() {
    let mut rng = ChaCha20Rng::seed_from_u64(SEED + 6);
    let sizes = |b: &mut Builder, rng: &mut ChaCha20Rng, middle: usize, out: usize| {
        let x = b.dense("x", middle, 1500, || rng.random_range(-0.1..0.1));
        b.dense(&x, out, middle, || rng.random_range(-0.1..0.1))
    };
    let mut b = Builder::new(&[1500]);
    let output = sizes(&mut b, &mut rng, 10, 1200);
    let circuit = check("bottleneck", &b.finish(&output));
    assert_eq!(circuit.layers.len(), 2);
    assert_eq!(circuit.layers[0].activation, LayerActivation::Identity);
    let mut b = Builder::new(&[1500]);
    let output = sizes(&mut b, &mut rng, 40, 20);
    assert_eq!(check("composed", &b.finish(&output)).layers.len(), 1);
}

#[test]
fn functions_are_recognised_in_all_their_forms() {
    type Make = fn(&mut Builder, &str) -> String;
    let cases: &[(&str, Make)] = &[
        ("swish", |b, x| {
            let y = b.op("Sigmoid", &[x]);
            b.op("Mul", &[x, &y])
        }),
        ("gelu", |b, x| {
            let (root, one, half) = (b.scalar(std::f32::consts::SQRT_2), b.scalar(1.0), b.scalar(0.5));
            let y = b.op("Div", &[x, &root]);
            let y = b.op("Erf", &[&y]);
            let y = b.op("Add", &[&y, &one]);
            let y = b.op("Mul", &[x, &y]);
            b.op("Mul", &[&y, &half])
        }),
        ("relu", |b, x| {
            let zero = b.scalar(0.0);
            b.op("Max", &[&zero, x])
        }),
        ("relu6", |b, x| {
            let (low, high) = (b.scalar(0.0), b.scalar(6.0));
            b.op("Clip", &[x, &low, &high])
        }),
        ("leakyrelu", |b, x| b.node("LeakyRelu", &[x], vec![float("alpha", 0.01)])),
        // Its slope is not that of the kind, so it must not be taken for it.
        ("other", |b, x| b.node("LeakyRelu", &[x], vec![float("alpha", 0.3)])),
    ];
    for (kind, make) in cases {
        let mut b = Builder::new(&[4]);
        let x = b.dense("x", 3, 4, || 0.3);
        let x = make(&mut b, &x);
        let output = b.dense(&x, 2, 3, || 0.4);
        let onnx = b.finish(&output);
        let circuit = circuit(kind, &onnx);
        let functions: Vec<String> = circuit.functions().map(|(_, _, kind)| kind.to_string()).collect();
        assert_eq!(functions, [*kind]);
        let known = Network::from_onnx(&onnx).unwrap().circuit(&Scope::All, &Substitutions::none()).unwrap().functions;
        let known: Vec<String> = known.iter().map(|(layer, function)| format!("{layer} {function}")).collect();
        // It is known all the same, to be fitted.
        assert_eq!(known, [format!("0 {}", if *kind == "other" { "leakyrelu:0.3" } else { kind })]);
        if *kind != "other" {
            check(kind, &onnx);
        }
    }
}

#[test]
fn a_tampered_circuit_is_noticed() {
    let mut b = Builder::new(&[3]);
    let x = b.dense("x", 2, 3, || 0.5);
    let output = square(&mut b, &x);
    let onnx = b.finish(&output);
    let mut circuit = check("sound", &onnx);
    circuit.layers[0].bias[1] += 0.01;
    assert!(std::panic::catch_unwind(|| compare("tampered", &onnx, &circuit, 1)).is_err());
}
