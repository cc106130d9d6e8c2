//! Networks that cannot be circuits end in an error that names the node and what to do.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too
mod common;

use std::time::Instant;

use common::{Builder, float, int, ints, text};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rten_onnx::onnx::{AttributeProto, AttributeType, GraphProto};
use subrosa_network::{Network, Scope, Substitutions};

fn error(onnx: &[u8], scope: &str) -> String {
    let started = Instant::now();
    let error = match Network::from_onnx(onnx) {
        Ok(network) => match network.circuit(&scope.parse().unwrap(), &Substitutions::none()) {
            Ok(split) => panic!("a circuit of {} layers", split.circuit.layers.len()),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    assert!(started.elapsed().as_secs() < 5, "{error} took {:?}", started.elapsed());
    error
}

/// A network on pictures of 3 channels, 4 by 5, with one operator in it.
fn network(make: impl Fn(&mut Builder, &str) -> String) -> Vec<u8> {
    let mut b = Builder::new(&[3, 4, 5]);
    let output = make(&mut b, "x");
    b.finish(&output)
}

#[test]
fn operators_that_cannot_be_protected_name_a_remedy() {
    type Make = fn(&mut Builder, &str) -> String;
    let later = "protect from a later layer on";
    let cases: &[(Make, &str)] = &[
        (
            |b, x| b.node("MaxPool", &[x], vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]),
            "node 'net/maxpool_1/MaxPool' (MaxPool) takes the largest of several values, which cannot be protected: \
             give --activation max=mean to put mean pooling in its place (and adapt the network to it with subrosa \
             train --from), or train it with mean pooling",
        ),
        (
            |b, x| {
                let (w, s) = (b.weights(&[5], &[1.0; 5]), b.weights(&[5], &[0.0; 5]));
                b.node("LayerNormalization", &[x, &w, &s], vec![int("axis", -1)])
            },
            "node 'net/layernormalization_3/LayerNormalization' (LayerNormalization) is neither linear nor a function of \
             each value alone, which cannot be protected: it divides by a statistic of each sample; use batch norms, \
             which have constants, and train again",
        ),
        (
            |b, x| {
                let gate = b.node("GlobalAveragePool", &[x], vec![]);
                let gate = b.op("Sigmoid", &[&gate]);
                b.op("Mul", &[x, &gate])
            },
            "node 'net/mul_3/Mul' (Mul) multiplies 'x' by 'Sigmoid_2', two different functions of the input, which \
             cannot be protected: gates and attention are not possible; use a network whose activations are functions \
             of each value alone, or protect from a later layer on",
        ),
        (
            |b, x| {
                let t = b.node("Transpose", &[x], vec![ints("perm", &[0, 1, 3, 2])]);
                b.op("MatMul", &[x, &t])
            },
            "node 'net/matmul_2/MatMul' (MatMul) multiplies two tensors that depend on the input, which cannot be \
             protected: attention is not possible; use convolutions and FC layers, or protect from a later layer on",
        ),
        (
            |b, x| b.op("Div", &[x, x]),
            "node 'net/div_1/Div' (Div) divides by values that depend on the input, which cannot be protected: scale by \
             constants instead, such as a batch norm, and train again",
        ),
        (
            |b, x| {
                let y = b.node("Softmax", &[x], vec![int("axis", 1)]);
                b.op("Neg", &[&y])
            },
            "node 'net/softmax_1/Softmax' (Softmax) is not the network's last step on its scores, which cannot be \
             protected: encryption cannot divide; use another activation in its place, or protect from a later layer on",
        ),
        (
            |b, x| b.node("ReduceMax", &[x], vec![ints("axes", &[1]), int("keepdims", 0)]),
            "node 'net/reducemax_1/ReduceMax' (ReduceMax) is neither linear nor a function of each value alone, which \
             cannot be protected: encryption cannot compare values; use means or sums in its place and train again",
        ),
        (
            |b, x| {
                let pow = b.scalar(0.5);
                b.op("Pow", &[x, &pow])
            },
            "node 'net/pow_2/Pow' (Pow) raises to the power of 0.5, which cannot be protected: use an exponent of 1, 2, \
             3 or 4",
        ),
        (
            |b, x| {
                let w = b.weights(&[3], &[1.0, 0.0, 1.0]);
                let y = b.node("Transpose", &[x], vec![ints("perm", &[0, 2, 3, 1])]);
                b.op("Div", &[&y, &w])
            },
            "node 'net/div_3/Div' (Div) divides by zero, which cannot be protected: check the network's constants and \
             export it again",
        ),
        (
            |b, x| {
                let picks = b.op("Shape", &[x]);
                let (zero, one, two) = (b.integers(&[0]), b.integers(&[1]), b.integers(&[2]));
                let ends = b.op("Slice", &[&picks, &one, &two]);
                b.op("Slice", &[x, &zero, &ends, &one])
            },
            "node 'net/slice_6/Slice' (Slice) takes its input 2 ('Slice_5') from values that are no constants, which \
             cannot be protected: export the network with fixed shapes and constants, or simplify the file with onnxsim",
        ),
        (
            |b, x| {
                let w = b.weights(&[1], &[0.0]);
                let mask = b.op("Greater", &[x, &w]);
                b.op("Where", &[&mask, x, &w])
            },
            "node 'net/greater_2/Greater' (Greater) is neither linear nor a function of each value alone, which cannot \
             be protected: use operators of docs/operators.md in its place, or protect from a later layer on",
        ),
        (
            |b, x| {
                let mut rng = ChaCha20Rng::seed_from_u64(1);
                let w: Vec<f32> = (0..24).map(|_| rng.random()).collect();
                let w = b.weights(&[3, 2, 2, 2], &w);
                b.node("ConvTranspose", &[x, &w], vec![ints("kernel_shape", &[2, 2])])
            },
            "node 'net/convtranspose_2/ConvTranspose' (ConvTranspose) is neither linear nor a function of each value \
             alone, which cannot be protected: use convolutions with a stride of 1 or pads instead, or protect from a \
             later layer on",
        ),
        (
            |b, x| {
                let y = b.node("Cast", &[x], vec![int("to", 6)]);
                b.node("Cast", &[&y], vec![int("to", 1)])
            },
            "node 'net/cast_1/Cast' (Cast) rounds values to integers, which cannot be protected: export the network in \
             float32 without a change of type inside",
        ),
    ];
    for (make, expected) in cases {
        let found = error(&network(make), "all");
        assert_eq!(found, *expected);
        assert!(found.contains(later) || !expected.contains(later));
    }
}

#[test]
fn the_batch_is_left_alone() {
    type Make = fn(&mut Builder, &str) -> String;
    let cases: &[Make] = &[
        |b, x| b.node("Transpose", &[x], vec![ints("perm", &[1, 0, 2, 3])]),
        |b, x| b.node("ReduceMean", &[x], vec![ints("axes", &[0, 1])]),
        |b, x| b.node("Concat", &[x, x], vec![int("axis", 0)]),
        |b, x| b.node("Flatten", &[x], vec![int("axis", 2)]),
        |b, x| {
            let shape = b.integers(&[3, 20]);
            b.op("Reshape", &[x, &shape])
        },
        |b, x| {
            let axes = b.integers(&[0]);
            b.op("Unsqueeze", &[x, &axes])
        },
        |b, x| {
            let w = b.weights(&[2, 3, 4, 5], &[1.0; 120]);
            b.op("Mul", &[x, &w])
        },
        |b, x| {
            let w = b.weights(&[1, 1, 3, 4, 5], &[1.0; 60]);
            b.op("Add", &[x, &w])
        },
    ];
    for make in cases {
        let found = error(&network(make), "all");
        assert!(
            found.ends_with(
                "moves or mixes the first axis, the batch, which cannot be protected: keep the batch first and \
                 untouched: export the network for a batch of one sample per row"
            ),
            "{found}"
        );
    }
}

#[test]
fn layers_too_large_are_refused_before_memory_is_taken() {
    // A million channels, in a file of 4 MB.
    let million = |size: usize, kernel: usize| {
        let mut b = Builder::new(&[1, size, size]);
        let count = 1_000_000;
        let w = b.weights(&[count, 1, 1, 1], &vec![1.0; count]);
        let y = b.node("Conv", &["x", &w], vec![ints("pads", &[0, 0, kernel as i64, kernel as i64])]);
        let output = b.node("GlobalAveragePool", &[&y], vec![]);
        b.finish(&output)
    };
    assert_eq!(
        error(&million(28, 0), "all"),
        "the network cannot be imported: node 'net/conv_2/Conv' (Conv) gives values of shape [1, 1000000, 28, 28] for a \
         sample, where 268435456 are the most; use fewer channels or smaller pictures, or check the file's weights and \
         attributes"
    );
    // Its values fit, its matrix does not.
    let mut b = Builder::new(&[64, 64, 64]);
    let w = b.weights(&[64, 64, 5, 5], &vec![0.01; 64 * 64 * 25]);
    let output = b.node("Conv", &["x", &w], vec![ints("pads", &[2, 2, 2, 2])]);
    assert_eq!(
        error(&b.finish(&output), "all"),
        "node 'net/conv_2/Conv' (Conv) is a linear map with 403849216 weights once it is written out, where at most \
         268435456 can be protected: protect less (--scope classifier, or from a later layer on), or use a network with \
         smaller pictures or fewer channels"
    );
    let huge = network(|b, x| {
        let pads = b.integers(&[0, 0, 0, 0, 0, 1 << 40, 0, 0]);
        b.op("Pad", &[x, &pads])
    });
    assert!(error(&huge, "all").contains("(Pad) gives values of shape [1, 1099511627779, 4, 5] for a sample"));
    let huge = network(|b, _| {
        let shape = b.integers(&[1 << 20, 1 << 20]);
        b.op("ConstantOfShape", &[&shape])
    });
    assert!(error(&huge, "all").contains("(ConstantOfShape) gives values of shape"), "{}", error(&huge, "all"));
}

#[test]
fn networks_that_are_none_say_so() {
    // Axes that vary.
    let mut b = Builder::new(&[3, 4, 5]);
    let dimension = &mut b.graph.input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    dimension.shape.as_mut().unwrap().dim[2].dim_value = None;
    let output = b.op("Neg", &["x"]);
    assert_eq!(
        error(&b.finish(&output), "all"),
        "the ONNX network cannot be used: axis 2 of its input has no fixed size; only the first axis, the batch, may vary"
    );
    // Control flow.
    let branch = AttributeProto {
        name: Some("then_branch".into()),
        g: Some(GraphProto::default()),
        r#type: Some(AttributeType::GRAPH),
        ..AttributeProto::default()
    };
    let mut b = Builder::new(&[3]);
    let output = b.node("If", &["x"], vec![branch]);
    assert!(
        error(&b.finish(&output), "all").contains("branches or loops at run time; export the network for inference")
    );
    // Weights that are not finite, or become so.
    let mut b = Builder::new(&[3]);
    let w = b.weights(&[3], &[1.0, f32::INFINITY, 2.0]);
    let output = b.op("Mul", &["x", &w]);
    assert!(
        error(&b.finish(&output), "all").contains("hold inf at position 1; the training has diverged, train again")
    );
    let mut b = Builder::new(&[3]);
    let big = b.weights(&[3], &[f32::MAX; 3]);
    let mut x = "x".to_owned();
    for _ in 0..9 {
        x = b.op("Mul", &[&x, &big]);
    }
    assert!(error(&b.finish(&x), "all").contains("overflow when the layers around it are folded in"));
    // Nothing in it.
    let mut b = Builder::new(&[3]);
    let w = b.weights(&[3, 0], &[]);
    let output = b.op("MatMul", &["x", &w]);
    assert!(error(&b.finish(&output), "all").contains("its output has no values for a sample"));
    // Training mode.
    let onnx = network(|b, x| {
        let p = b.weights(&[3], &[1.0, 1.0, -1.0]);
        b.node("BatchNormalization", &[x, &p, &p, &p, &p], vec![float("epsilon", 1e-5)])
    });
    assert!(error(&onnx, "all").contains("has a variance that is not positive"), "{}", error(&onnx, "all"));
    let onnx =
        network(|b, x| b.node("AveragePool", &[x], vec![ints("kernel_shape", &[2, 2]), text("auto_pad", "ODD")]));
    assert!(error(&onnx, "all").contains("cannot be loaded"));
}

#[test]
fn cuts_that_need_several_tensors_name_the_layers_that_do_not() {
    let mut b = Builder::new(&[4]);
    let x = b.dense("x", 4, 4, || 0.5);
    let x = b.op("Mul", &[&x, &x]);
    let y = b.dense(&x, 4, 4, || 0.25);
    let y = b.op("Mul", &[&y, &y]);
    let y = b.dense(&y, 4, 4, || 0.125);
    let sum = b.op("Add", &[&x, &y]);
    let output = b.dense(&sum, 2, 4, || 0.5);
    let onnx = b.finish(&output);
    assert_eq!(
        error(&onnx, "from:matmul_13"),
        "the network cannot be cut before 'matmul_13': node 'net/add_15/Add' also reads 'Mul_5', which is computed \
         before the cut; choose a layer where no branch is open, one of: matmul_3, mul_5, matmul_8, matmul_18"
    );
    assert_eq!(
        error(&onnx, "from:nothing"),
        "no layer is called 'nothing'; the layers are: matmul_3, mul_5, matmul_8, mul_10, matmul_13, add_15, matmul_18"
    );
    let network = Network::from_onnx(&onnx).unwrap();
    let split = network.circuit(&Scope::From("matmul_8".into()), &Substitutions::none()).unwrap();
    assert_eq!(split.circuit.layers.len(), 2);
}

#[test]
fn no_damage_to_a_file_makes_a_circuit_panic() {
    let seed = 5;
    println!("seed {seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut b = Builder::new(&[2, 4, 4]);
    let w = b.weights(&[2, 2, 3, 3], &[0.5; 36]);
    let x = b.node("Conv", &["x", &w], vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[1, 1])]);
    let y = b.op("Mul", &[&x, &x]);
    let y = b.node("Transpose", &[&y], vec![ints("perm", &[0, 2, 3, 1])]);
    let (starts, ends, axes, steps) =
        (b.integers(&[3, 0]), b.integers(&[-9, 2]), b.integers(&[1, 2]), b.integers(&[-1, 1]));
    let y = b.op("Slice", &[&y, &starts, &ends, &axes, &steps]);
    let pads = b.integers(&[0, 0, 1, 0, 0, 1, 0, 0]);
    let y = b.op("Pad", &[&y, &pads]);
    let parts = b.node_with_outputs("Split", &[&y], 2, vec![int("axis", 3)]);
    let y = b.node("Concat", &[&parts[1], &parts[0]], vec![int("axis", 2)]);
    let pooled = b.node("AveragePool", &[&y], vec![ints("kernel_shape", &[2, 1]), ints("strides", &[1, 1])]);
    let output = b.node("ReduceMean", &[&pooled], vec![ints("axes", &[2]), int("keepdims", 0)]);
    let sound = b.finish_opset(&output, 13);
    assert!(Network::from_onnx(&sound).unwrap().circuit(&Scope::All, &Substitutions::none()).is_ok());
    let mut circuits = 0;
    for _ in 0..600 {
        let mut damaged = sound.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..damaged.len());
            damaged[at] = if rng.random() { rng.random() } else { rng.random_range(0..5) };
        }
        if let Ok(network) = Network::from_onnx(&damaged) {
            let split = network.circuit(&Scope::All, &Substitutions::none());
            circuits += usize::from(split.is_ok());
        }
    }
    println!("{circuits} of 600 are circuits still");
    assert!(circuits > 40);
}
