//! Gradients against differences, and results against plain loops.

use candle_core::{Device, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Apply, BatchNorm, Conv, Curve, Pool, global_mean};
use crate::model::{Function, Pooling, Window};

type Made = candle_core::Result<Tensor>;

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-1.5..1.5)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares the gradients of `sum(weights * op(operands))` with differences in f64 of a step that f32 still resolves.
fn check_gradients(what: &str, operands: &[Tensor], op: impl Fn(&[Tensor]) -> Made) {
    let variables: Vec<Var> = operands.iter().map(|operand| Var::from_tensor(operand).unwrap()).collect();
    let tracked: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let result = op(&tracked).unwrap();
    let weights = random(result.dims(), 99);
    let gradients = (&result * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let loss = |operands: &[Tensor]| -> f64 {
        let result = values(&op(operands).unwrap());
        result.iter().zip(values(&weights)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum()
    };
    for (index, variable) in variables.iter().enumerate() {
        let found = values(gradients.get(variable.as_tensor()).unwrap());
        let at = values(&operands[index]);
        let step = 1e-2f32;
        for element in 0..at.len() {
            let moved = |by: f32| {
                let mut list = operands.to_vec();
                let mut moved = at.clone();
                moved[element] += by;
                list[index] = Tensor::from_vec(moved, operands[index].shape(), &Device::Cpu).unwrap();
                loss(&list)
            };
            let expected = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let error = (f64::from(found[element]) - expected).abs();
            let bound = 4e-3 * (1.0 + expected.abs());
            assert!(error < bound, "{what}, operand {index}, element {element}: {} for {expected}", found[element]);
        }
    }
}

fn window(size: [usize; 2], stride: [usize; 2], before: [usize; 2], after: [usize; 2]) -> Window {
    Window { size, stride, before, after }
}

#[test]
fn convolutions_are_what_a_plain_loop_gives() {
    for window in [
        Window::same(3),
        Window::square(2, 2),
        window([3, 2], [2, 1], [1, 0], [0, 1]),
        window([1, 3], [1, 2], [0, 2], [0, 2]),
    ] {
        let (image, weight, bias) =
            (random(&[3, 5, 6, 2], 1), random(&[window.size[0], window.size[1], 2, 4], 2), random(&[4], 3));
        let result = image.apply_op3(&weight, &bias, Conv { window }).unwrap();
        let [rows, columns] = window.over(5, 6).unwrap();
        assert_eq!(result.dims(), [3, rows, columns, 4]);
        let (x, w, b, found) = (values(&image), values(&weight), values(&bias), values(&result));
        for sample in 0..3 {
            for (row, column, filter) in places(rows, columns, 4) {
                let mut sum = b[filter];
                for (i, j, channel) in places(window.size[0], window.size[1], 2) {
                    let y = (row * window.stride[0] + i).checked_sub(window.before[0]).filter(|y| *y < 5);
                    let z = (column * window.stride[1] + j).checked_sub(window.before[1]).filter(|z| *z < 6);
                    if let (Some(y), Some(z)) = (y, z) {
                        sum += x[((sample * 5 + y) * 6 + z) * 2 + channel]
                            * w[((i * window.size[1] + j) * 2 + channel) * 4 + filter];
                    }
                }
                let got = found[((sample * rows + row) * columns + column) * 4 + filter];
                assert!((got - sum).abs() < 1e-4, "{window:?} at {row}, {column}, {filter}: {got} for {sum}");
            }
        }
    }
}

fn places(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

#[test]
fn gradients_of_convolutions() {
    for window in [Window::same(3), window([2, 3], [2, 1], [0, 1], [1, 1])] {
        // More images than one group of them.
        let operands = [random(&[9, 4, 5, 2], 4), random(&[window.size[0], window.size[1], 2, 3], 5), random(&[3], 6)];
        check_gradients("conv", &operands, |o| o[0].apply_op3(&o[1], &o[2], Conv { window }));
    }
}

#[test]
fn gradients_of_norms_with_and_without_an_activation() {
    let x = random(&[7, 3, 2, 3], 7);
    let rows = random(&[5, 3], 8);
    let polynomial = Curve::FREE;
    check_gradients("norm and quadratic", &[x.clone(), rows.clone()], |o| {
        o[0].apply_op2(&o[1], BatchNorm::new(1e-3, polynomial))
    });
    let rows = rows.narrow(0, 0, 2).unwrap().contiguous().unwrap();
    check_gradients("norm", &[x.clone(), rows.clone()], |o| {
        o[0].apply_op2(&o[1], BatchNorm::new(1e-3, Curve::Identity))
    });
    check_gradients("norm and tanh", &[x, rows], |o| {
        o[0].apply_op2(&o[1], BatchNorm::new(1e-3, Curve::Function(Function::Tanh)))
    });
}

#[test]
fn a_norm_keeps_its_digits_beside_a_large_mean() {
    let x = (random(&[2000, 1], 9) * 0.01).unwrap().affine(1.0, 1000.0).unwrap();
    let rows = Tensor::new(&[[1.0f32], [0.0]], &Device::Cpu).unwrap();
    let y = values(&x.apply_op2(&rows, BatchNorm::new(0.0, Curve::Identity)).unwrap());
    let exact: Vec<f64> = values(&x).into_iter().map(f64::from).collect();
    let mean = exact.iter().sum::<f64>() / 2000.0;
    let deviation = (exact.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2000.0).sqrt();
    for (y, x) in y.iter().zip(exact) {
        // 1000 in float32 has steps of 6e-5, of a deviation of 9e-3.
        assert!((f64::from(*y) - (x - mean) / deviation).abs() < 0.02, "{y} for {x}");
    }
}

#[test]
fn gradients_of_curves() {
    let x = random(&[5, 4, 3], 10);
    for powers in [1, 3, 5] {
        check_gradients("polynomial", &[x.clone(), random(&[powers, 3], 11)], |o| {
            o[0].apply_op2(&o[1], Apply(Curve::FREE))
        });
    }
    for function in [
        Function::Softplus,
        Function::Sigmoid,
        Function::Tanh,
        Function::Elu { alpha: 0.7 },
        Function::LeakyRelu { slope: 0.1 },
        Function::Relu,
    ] {
        // Away from the kink, which differences would step over.
        let away = x.affine(1.0, 0.0).unwrap();
        let away = values(&away).into_iter().map(|v| if v.abs() < 0.02 { 0.5 } else { v }).collect::<Vec<f32>>();
        let away = Tensor::from_vec(away, x.shape(), &Device::Cpu).unwrap();
        let none = Tensor::zeros((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        check_gradients(function.name(), &[away], |o| o[0].apply_op2(&none, Apply(Curve::Function(function))));
    }
}

#[test]
fn values_beyond_the_bound_are_pulled_back_and_others_left_alone() {
    let x = Var::new(&[[-3.0f32], [-1.0], [0.5], [4.0]], &Device::Cpu).unwrap();
    let identity = Tensor::new(&[[0.0f32], [1.0]], &Device::Cpu).unwrap();
    let curve = Curve::Polynomial { bound: 2.0, penalty: 10.0 };
    let y = x.apply_op2(&identity, Apply(curve)).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    // The loss's own 1, and 2 * 10 / 4 samples * (|x| - 2) with the sign of x.
    assert_eq!(values(gradients.get(x.as_tensor()).unwrap()), [-4.0, 1.0, 1.0, 11.0]);
}

#[test]
fn gradients_of_poolings() {
    // Values far enough apart that a step changes no order.
    let count = 2 * 5 * 4 * 2;
    let mut order: Vec<f32> = (0..count).map(|i| i as f32 * 0.1).collect();
    rand::seq::SliceRandom::shuffle(order.as_mut_slice(), &mut ChaCha8Rng::seed_from_u64(12));
    let x = Tensor::from_vec(order, (2, 5, 4, 2), &Device::Cpu).unwrap();
    for pooling in [Pooling::Max, Pooling::Mean, Pooling::Sum] {
        for window in [Window::square(2, 2), window([3, 2], [2, 1], [1, 1], [1, 0])] {
            check_gradients("pool", std::slice::from_ref(&x), |o| o[0].apply_op1(Pool { pooling, window }));
        }
    }
    check_gradients("global mean", &[x], |o| global_mean(&o[0]));
}

#[test]
fn padding_counts_as_nothing_for_means_and_largest_values() {
    let x = Tensor::from_vec(vec![-1.0f32, -2.0, -3.0, -4.0], (1, 2, 2, 1), &Device::Cpu).unwrap();
    let window = window([2, 2], [1, 1], [1, 1], [0, 0]);
    let pooled = |pooling| values(&x.apply_op1(Pool { pooling, window }).unwrap());
    assert_eq!(pooled(Pooling::Max), [-1.0, -1.0, -1.0, -1.0]);
    assert_eq!(pooled(Pooling::Mean), [-1.0, -1.5, -2.0, -2.5]);
    assert_eq!(pooled(Pooling::Sum), [-1.0, -3.0, -4.0, -10.0]);
}

#[test]
fn equal_largest_values_share_no_gradient() {
    let x = Var::new(&[[[[1.0f32], [1.0]], [[1.0], [0.0]]]], &Device::Cpu).unwrap();
    let pooled = x.apply_op1(Pool { pooling: Pooling::Max, window: Window::square(2, 2) }).unwrap();
    let gradients = pooled.sum_all().unwrap().backward().unwrap();
    assert_eq!(values(gradients.get(x.as_tensor()).unwrap()), [1.0, 0.0, 0.0, 0.0]);
}
