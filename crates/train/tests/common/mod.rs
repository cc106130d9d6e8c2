//! What several tests need: a plain evaluation of a network in f64, and random networks.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)] // helpers of tests, not all used by each

use std::collections::BTreeMap;

use rand::{Rng, RngExt};
use subrosa_train::{Activation, Array, Function, Model, Node, Op, Order, Pooling, Shape, Source, Window};

/// Values of one sample; images rows x columns x channels.
#[derive(Debug, Clone)]
struct Value {
    shape: Shape,
    data: Vec<f64>,
}

impl Value {
    fn image(&self) -> [usize; 3] {
        match self.shape {
            Shape::Image { height, width, channels } => [height, width, channels],
            Shape::Flat(_) => panic!("no image"),
        }
    }

    /// The value at a point, `None` outside.
    fn at(&self, row: isize, column: isize, channel: usize) -> Option<f64> {
        let [height, width, channels] = self.image();
        let (row, column) = (usize::try_from(row).ok()?, usize::try_from(column).ok()?);
        (row < height && column < width).then(|| self.data[(row * width + column) * channels + channel])
    }
}

/// The network's output for one sample in the order of its ONNX file, straight from the definitions of its operators.
pub fn evaluate(model: &Model, sample: &[f32]) -> Vec<f64> {
    let file: Vec<f64> = sample.iter().map(|&v| f64::from(v)).collect();
    let data = match (model.input.shape, model.input.order) {
        (Shape::Image { height, width, channels }, Order::Chw) => (0..height * width)
            .flat_map(|point| (0..channels).map(move |channel| channel * height * width + point))
            .map(|index| file[index])
            .collect(),
        _ => file,
    };
    let input = Value { shape: model.input.shape, data };
    let shapes = model.shapes().unwrap();
    let mut values: Vec<Value> = Vec::new();
    for (node, &shape) in model.nodes.iter().zip(&shapes) {
        let operand = |index: usize| match node.inputs[index] {
            Source::Input => &input,
            Source::Node(index) => &values[index],
        };
        let data = result(model, node, &operand, shape);
        assert_eq!(data.len(), shape.elements(), "{}", node.name);
        values.push(Value { shape, data });
    }
    values.last().map_or(input.data, |value| value.data.clone())
}

fn result<'a>(model: &Model, node: &Node, operand: &dyn Fn(usize) -> &'a Value, shape: Shape) -> Vec<f64> {
    let x = operand(0);
    let parameter = |part: &str| -> Vec<f64> {
        let array = &model.parameters[&format!("{}.{part}", node.name)];
        array.values.iter().map(|&v| f64::from(v)).collect()
    };
    let channels = x.shape.channels();
    let by_channel = |f: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        x.data.iter().enumerate().map(|(index, &value)| f(index % channels, value)).collect()
    };
    match &node.op {
        Op::Conv { window, filters, bias } => {
            let weight = parameter("weight");
            let bias = if *bias { parameter("bias") } else { vec![0.0; *filters] };
            over_windows(window, shape, |row, column, filter| {
                let mut sum = bias[filter];
                for (i, j) in points(window) {
                    for channel in 0..channels {
                        let w = weight[((i * window.size[1] + j) * channels + channel) * filters + filter];
                        sum += w * x.at(row + i as isize, column + j as isize, channel).unwrap_or(0.0);
                    }
                }
                sum
            })
        }
        Op::Pool { pooling, window } => over_windows(window, shape, |row, column, channel| {
            let inside: Vec<f64> = points(window)
                .into_iter()
                .filter_map(|(i, j)| x.at(row + i as isize, column + j as isize, channel))
                .collect();
            let sum: f64 = inside.iter().sum();
            match pooling {
                Pooling::Max => inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                Pooling::Mean => sum / inside.len() as f64,
                Pooling::Sum => sum,
            }
        }),
        Op::Dense { units, bias } => {
            let weight = parameter("weight");
            let bias = if *bias { parameter("bias") } else { vec![0.0; *units] };
            (0..*units)
                .map(|unit| {
                    bias[unit] + x.data.iter().enumerate().map(|(i, v)| v * weight[i * units + unit]).sum::<f64>()
                })
                .collect()
        }
        Op::BatchNorm { epsilon } => {
            let [scale, bias, mean, variance] = ["scale", "bias", "mean", "variance"].map(parameter);
            by_channel(&|c, v| scale[c] * (v - mean[c]) / (variance[c] + f64::from(*epsilon)).sqrt() + bias[c])
        }
        Op::Affine => {
            let [scale, bias] = ["scale", "bias"].map(parameter);
            by_channel(&|c, v| scale[c] * v + bias[c])
        }
        Op::Activation(Activation::Function(function)) => by_channel(&|_, v| apply(*function, v)),
        Op::Activation(Activation::Polynomial(polynomial)) => by_channel(&|_, v| polynomial.eval(v)),
        Op::Activation(Activation::Learned { degree, .. }) => {
            let c = parameter("coefficients");
            by_channel(&|channel, v| (0..=*degree).map(|k| c[k * channels + channel] * v.powi(k as i32)).sum())
        }
        Op::GlobalMean => {
            let points = x.data.len() / channels;
            (0..channels).map(|c| x.data.iter().skip(c).step_by(channels).sum::<f64>() / points as f64).collect()
        }
        Op::Flatten(order) => match (x.shape, order) {
            (Shape::Image { .. }, Order::Chw) => {
                (0..channels).flat_map(|c| x.data.iter().skip(c).step_by(channels).copied()).collect()
            }
            _ => x.data.clone(),
        },
        Op::Dropout { .. } => x.data.clone(),
        Op::Add => x.data.iter().zip(&operand(1).data).map(|(a, b)| a + b).collect(),
    }
}

fn points(window: &Window) -> Vec<(usize, usize)> {
    (0..window.size[0]).flat_map(|i| (0..window.size[1]).map(move |j| (i, j))).collect()
}

/// Calls `f` with the first row and column of each window and the channel of the result.
fn over_windows(window: &Window, shape: Shape, f: impl Fn(isize, isize, usize) -> f64) -> Vec<f64> {
    let Shape::Image { height, width, channels } = shape else { panic!("no image") };
    let mut values = Vec::new();
    for row in 0..height {
        for column in 0..width {
            let row = (row * window.stride[0]) as isize - window.before[0] as isize;
            let column = (column * window.stride[1]) as isize - window.before[1] as isize;
            values.extend((0..channels).map(|channel| f(row, column, channel)));
        }
    }
    values
}

fn apply(function: Function, x: f64) -> f64 {
    match function {
        Function::Relu => x.max(0.0),
        Function::LeakyRelu { slope } => {
            if x < 0.0 {
                f64::from(slope) * x
            } else {
                x
            }
        }
        Function::Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Function::Softplus => x.exp().ln_1p(),
        Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Function::Tanh => x.tanh(),
    }
}

/// Random parameters for every operator; variances are positive.
pub fn fill(model: &mut Model, rng: &mut impl Rng) {
    let mut parameters = BTreeMap::new();
    for (name, shape) in model.expected_parameters().unwrap() {
        let count = shape.iter().product::<usize>();
        // Keeps values near 1 through the layers.
        let fan_in = match *shape.as_slice() {
            [rows, columns, channels, _] => rows * columns * channels,
            [inputs, _] if name.ends_with(".weight") => inputs,
            _ => 1,
        };
        let bound = (3.0 / fan_in as f32).sqrt().min(1.0);
        let low = if name.ends_with(".variance") { 0.2 } else { -bound };
        let values = (0..count).map(|_| rng.random_range(low..bound)).collect();
        parameters.insert(name, Array { shape, values });
    }
    model.parameters = parameters;
}

/// Names of the operators, in short.
pub fn operators(model: &Model) -> String {
    let name = |op: &Op| match op {
        Op::Conv { .. } => "conv".to_owned(),
        Op::Dense { .. } => "dense".to_owned(),
        Op::BatchNorm { .. } => "norm".to_owned(),
        Op::Affine => "affine".to_owned(),
        Op::Activation(Activation::Function(function)) => format!("{function:?}").to_lowercase(),
        Op::Activation(Activation::Polynomial(polynomial)) => format!("poly{}", polynomial.degree()),
        Op::Activation(Activation::Learned { degree, .. }) => format!("learned{degree}"),
        Op::Pool { pooling, .. } => format!("{pooling:?}").to_lowercase(),
        Op::GlobalMean => "global".to_owned(),
        Op::Flatten(order) => format!("flatten-{order:?}").to_lowercase(),
        Op::Dropout { .. } => "dropout".to_owned(),
        Op::Add => "add".to_owned(),
    };
    model.nodes.iter().map(|node| name(&node.op)).collect::<Vec<_>>().join(" ")
}

/// Largest difference between two lists, by the largest value of the second or 1.
pub fn difference(values: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(values.len(), expected.len());
    let largest = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    values.iter().zip(expected).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f64::max)
}
