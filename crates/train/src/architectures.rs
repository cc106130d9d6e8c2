//! Networks to train from nothing.

use std::fmt;
use std::str::FromStr;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use subrosa_network::{Fit, Polynomial};

use crate::error::TrainError;
use crate::model::{Activation, Array, Function, Input, Model, Op, Order, Pooling, Shape, Source, Window};

/// A network by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Architecture {
    /// The paper's network, Keras' `cifar10_cnn.py`: two blocks of two 3 x 3 convolutions (32, 64 filters), pooling and
    /// dropout, then FC 512 and the classes.
    KerasCnn,
    /// LeNet-5 in today's form: two 5 x 5 convolutions (6, 16 filters) with pooling, then FC 120, 84 and the classes.
    LeNet,
    /// CryptoNets (Gilad-Bachrach et al. 2016): one 5 x 5 convolution of stride 2 with 5 filters, an FC layer of 100, the classes.
    CryptoNets,
    /// A small residual network: 16 filters, then three stages (16, 32, 64) of one residual block, global mean, the classes.
    Residual,
    /// FC layers of these widths, then the classes.
    Mlp(Vec<usize>),
}

impl FromStr for Architecture {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let unknown = || {
            TrainError::Option(format!(
                "'{text}' is not an architecture: use keras-cnn, lenet, cryptonets, residual, mlp or mlp:128,64 (widths of the hidden layers)"
            ))
        };
        match text {
            "keras-cnn" => Ok(Self::KerasCnn),
            "lenet" => Ok(Self::LeNet),
            "cryptonets" => Ok(Self::CryptoNets),
            "residual" => Ok(Self::Residual),
            "mlp" => Ok(Self::Mlp(vec![128])),
            other => {
                let widths = other.strip_prefix("mlp:").ok_or_else(unknown)?;
                let widths: Result<Vec<usize>, _> = widths.split(',').map(|w| w.trim().parse()).collect();
                let widths = widths.ok().filter(|w| w.iter().all(|w| (1..=65_536).contains(w))).ok_or_else(unknown)?;
                Ok(Self::Mlp(widths))
            }
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KerasCnn => f.write_str("keras-cnn"),
            Self::LeNet => f.write_str("lenet"),
            Self::CryptoNets => f.write_str("cryptonets"),
            Self::Residual => f.write_str("residual"),
            Self::Mlp(widths) => {
                let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
                write!(f, "mlp:{}", widths.join(","))
            }
        }
    }
}

/// An activation that a layer of a new network may have.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// None.
    None,
    /// A function, or one polynomial for all channels.
    Fixed(Activation),
    /// a x^2 + b x, with a and b learned for each channel, from a = 0.1, b = 0.5.
    Quadratic,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::None => f.write_str("none"),
            Choice::Quadratic => f.write_str("quadratic"),
            Choice::Fixed(Activation::Function(function)) => f.write_str(function.name()),
            Choice::Fixed(Activation::Polynomial(polynomial)) => polynomial.fmt(f),
            Choice::Fixed(Activation::Learned { degree, .. }) => write!(f, "learned polynomial of degree {degree}"),
        }
    }
}

impl FromStr for Choice {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let function = |function| Ok(Choice::Fixed(Activation::Function(function)));
        match text.trim().to_ascii_lowercase().as_str() {
            "none" | "identity" => Ok(Choice::None),
            "quadratic" => Ok(Choice::Quadratic),
            "relu" => function(Function::Relu),
            "leaky-relu" | "leakyrelu" => function(Function::LeakyRelu { slope: 0.01 }),
            "elu" => function(Function::Elu { alpha: 1.0 }),
            "softplus" => function(Function::Softplus),
            "sigmoid" => function(Function::Sigmoid),
            "tanh" => function(Function::Tanh),
            other if other.contains('(') => {
                let fit: Fit = other.parse().map_err(|error| TrainError::Option(format!("'{text}': {error}")))?;
                let polynomial = fit.polynomial().map_err(|error| TrainError::Option(format!("'{text}': {error}")))?;
                Ok(Choice::Fixed(Activation::Polynomial(polynomial)))
            }
            other => {
                let polynomial: Polynomial = other.parse().map_err(|_| {
                    TrainError::Option(format!(
                        "'{text}' is not an activation: use relu, leaky-relu, elu, softplus, sigmoid, tanh, square, x2+2x, quadratic (learned a x^2 + b x for each channel), none, \
                         a polynomial such as poly:0,0.5,0.1, or a fit such as chebyshev(relu,3,-4,4)"
                    ))
                })?;
                if polynomial.is_identity() {
                    return Ok(Choice::None);
                }
                Ok(Choice::Fixed(Activation::Polynomial(polynomial)))
            }
        }
    }
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The network.
    pub architecture: Architecture,
    /// After every layer but the last: one for all, or one for each in their order.
    pub activations: Vec<Choice>,
    /// Before the last FC layer, if another one than elsewhere.
    pub last_activation: Option<Choice>,
    /// How feature maps shrink.
    pub pooling: Pooling,
    /// Batch norm before each activation.
    pub batch_norm: bool,
    /// Share of values dropped before the last layer; half of it after each pooling.
    pub dropout: f32,
    /// For the first values of the weights.
    pub seed: u64,
}

impl Recipe {
    /// The activation of each layer but the last.
    fn each_activation(&self) -> Result<Vec<Choice>, TrainError> {
        let count = match &self.architecture {
            Architecture::KerasCnn => 5,
            Architecture::LeNet => 4,
            Architecture::CryptoNets => 2,
            Architecture::Residual => 7,
            Architecture::Mlp(widths) => widths.len(),
        };
        let mut list = match self.activations.as_slice() {
            [one] => vec![one.clone(); count],
            several if several.len() == count => several.to_vec(),
            several => {
                return Err(TrainError::Option(format!(
                    "{} has {count} activations, --activation lists {}: give one for all, or one for each",
                    self.architecture,
                    several.len()
                )));
            }
        };
        if let (Some(wanted), Some(last)) = (&self.last_activation, list.last_mut()) {
            *last = wanted.clone();
        }
        Ok(list)
    }
}

const EPSILON: f32 = 1e-3;

/// Builds a network for samples of `shape` with `mean` and `deviation` of each channel (its own first layer normalises them),
/// for so many classes.
///
/// # Errors
/// An architecture for images on a table, images that are too small.
pub fn build(
    recipe: &Recipe,
    shape: Shape,
    mean: &[f32],
    deviation: &[f32],
    classes: usize,
) -> Result<Model, TrainError> {
    let input = Input { name: "input".into(), shape, order: Order::Chw };
    let mut model = Model::new(input);
    model.push("normalise", Op::Affine);
    let scale: Vec<f32> = deviation.iter().map(|d| 1.0 / d).collect();
    let bias = mean.iter().zip(&scale).map(|(m, s)| -m * s).collect();
    model.parameters.insert("normalise.scale".into(), Array { shape: vec![scale.len()], values: scale });
    model.parameters.insert("normalise.bias".into(), Array { shape: vec![mean.len()], values: bias });
    let activations = recipe.each_activation()?.into_iter();
    let mut builder = Builder { recipe, model, count: 0, activations };
    match &recipe.architecture {
        Architecture::KerasCnn => {
            for filters in [32, 64] {
                builder.conv(filters, Window::same(3), true);
                builder.conv(filters, Window::square(3, 1), true);
                builder.pool();
            }
            builder.flatten();
            builder.dense(512);
        }
        Architecture::LeNet => {
            builder.conv(6, Window::same(5), true);
            builder.pool();
            builder.conv(16, Window::square(5, 1), true);
            builder.pool();
            builder.flatten();
            builder.dense(120);
            builder.dense(84);
        }
        Architecture::CryptoNets => {
            let window = Window { stride: [2; 2], before: [1; 2], after: [2; 2], ..Window::same(5) };
            builder.conv(5, window, true);
            builder.flatten();
            builder.dense(100);
        }
        Architecture::Residual => {
            builder.conv(16, Window::same(3), true);
            for (stage, filters) in [16, 32, 64].into_iter().enumerate() {
                builder.residual(filters, if stage == 0 { 1 } else { 2 });
            }
            builder.model.push("global-mean", Op::GlobalMean);
        }
        Architecture::Mlp(widths) => {
            builder.flatten();
            widths.iter().for_each(|width| builder.dense(*width));
        }
    }
    builder.dropout(recipe.dropout);
    builder.model.push("scores", Op::Dense { units: classes, bias: true });
    let Builder { mut model, .. } = builder;
    if let Err(TrainError::Model(why)) = model.shapes() {
        return Err(TrainError::Option(format!(
            "architecture {} does not fit samples of {shape}: {why}; use mlp, or larger images",
            recipe.architecture
        )));
    }
    initialise(&mut model, recipe.seed)?;
    Ok(model)
}

struct Builder<'a> {
    recipe: &'a Recipe,
    model: Model,
    /// Layers with weights so far.
    count: usize,
    /// Those of the layers to come.
    activations: std::vec::IntoIter<Choice>,
}

impl Builder<'_> {
    fn name(&mut self, what: &str) -> String {
        self.count += 1;
        format!("{what}{}", self.count)
    }

    fn conv(&mut self, filters: usize, window: Window, activate: bool) {
        let name = self.name("conv");
        self.model.push(name.clone(), Op::Conv { window, filters, bias: !self.recipe.batch_norm });
        if self.recipe.batch_norm {
            self.model.push(format!("{name}-norm"), Op::BatchNorm { epsilon: EPSILON });
        }
        if activate {
            self.activate(&name);
        }
    }

    fn dense(&mut self, units: usize) {
        let name = self.name("dense");
        self.model.push(name.clone(), Op::Dense { units, bias: !self.recipe.batch_norm });
        if self.recipe.batch_norm {
            self.model.push(format!("{name}-norm"), Op::BatchNorm { epsilon: EPSILON });
        }
        self.activate(&name);
    }

    fn activate(&mut self, name: &str) {
        let op = match self.activations.next() {
            Some(Choice::None) | None => return,
            Some(Choice::Fixed(activation)) => activation,
            Some(Choice::Quadratic) => Activation::Learned { degree: 2, constant: false },
        };
        self.model.push(format!("{name}-activation"), Op::Activation(op));
    }

    fn pool(&mut self) {
        let name = format!("pool{}", self.count);
        self.model.push(name.clone(), Op::Pool { pooling: self.recipe.pooling, window: Window::square(2, 2) });
        self.dropout(self.recipe.dropout / 2.0);
    }

    fn dropout(&mut self, rate: f32) {
        if rate > 0.0 {
            self.model.push(format!("dropout{}", self.model.nodes.len()), Op::Dropout { rate });
        }
    }

    fn flatten(&mut self) {
        self.model.push("flatten", Op::Flatten(Order::Chw));
    }

    /// Two convolutions beside the value itself (or one of 1 x 1, where the shape changes), summed, then the activation.
    fn residual(&mut self, filters: usize, stride: usize) {
        let from = self.model.last();
        let same = Window { stride: [stride; 2], ..Window::same(3) };
        self.conv(filters, same, true);
        self.conv(filters, Window::same(3), false);
        let long = self.model.last();
        let short = if stride == 1 { from } else { self.shortcut(from, filters, stride) };
        let name = format!("block{}", self.count);
        self.model.push_from(name.clone(), Op::Add, vec![long, short]);
        self.activate(&name);
    }

    fn shortcut(&mut self, from: Source, filters: usize, stride: usize) -> Source {
        let name = self.name("conv");
        let window = Window { stride: [stride; 2], ..Window::square(1, 1) };
        self.model.push_from(name.clone(), Op::Conv { window, filters, bias: !self.recipe.batch_norm }, vec![from]);
        if self.recipe.batch_norm {
            self.model.push(format!("{name}-norm"), Op::BatchNorm { epsilon: EPSILON });
        }
        self.model.last()
    }
}

/// Coefficients of a learned quadratic at the start, lowest power first.
const QUADRATIC: [f64; 3] = [0.0, 0.5, 0.1];

/// First values: normal weights, batch norms that only normalise, learned quadratics of 0.1 x^2 + 0.5 x.
///
/// The weights' variance is that of He et al. (2015), which keeps the size of what passes through ReLU, made for the polynomial
/// that stands before the layer: x^2 + 2x gives values 14 times larger in the square.
fn initialise(model: &mut Model, seed: u64) -> Result<(), TrainError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for (name, shape) in model.expected_parameters()? {
        if model.parameters.contains_key(&name) {
            continue;
        }
        let count: usize = shape.iter().product();
        let values = match name.rsplit_once('.').map_or("", |(_, part)| part) {
            "weight" => {
                let fan_in = count / shape.last().copied().unwrap_or(1).max(1);
                let node = name.rsplit_once('.').map_or("", |(node, _)| node);
                let deviation = (1.0 / (mean_square_before(model, node) * fan_in.max(1) as f64)).sqrt();
                (0..count).map(|_| (deviation * normal(&mut random)) as f32).collect()
            }
            "scale" | "variance" => vec![1.0; count],
            "coefficients" => {
                let channels = shape.last().copied().unwrap_or(1);
                let start = |power: usize| QUADRATIC.get(power).copied().unwrap_or_default() as f32;
                (0..count).map(|index| start(index / channels.max(1))).collect()
            }
            _ => vec![0.0; count],
        };
        model.parameters.insert(name, Array { shape, values });
    }
    Ok(())
}

/// The mean square of what a layer's weights are multiplied by, if what enters the activation before it is normally distributed.
fn mean_square_before(model: &Model, layer: &str) -> f64 {
    let mut at = model.nodes.iter().find(|node| node.name == layer);
    while let Some(node) = at {
        let Some(Source::Node(index)) = node.inputs.first() else { break };
        at = model.nodes.get(*index);
        match at.map(|node| &node.op) {
            Some(Op::Activation(Activation::Polynomial(polynomial))) => return mean_square(polynomial.coefficients()),
            Some(Op::Activation(Activation::Learned { .. })) => return mean_square(&QUADRATIC),
            Some(Op::Pool { .. } | Op::Flatten(_) | Op::Dropout { .. } | Op::GlobalMean) => {}
            _ => break,
        }
    }
    // Of ReLU, and taken for everything else.
    0.5
}

/// The mean of p(z)^2 over the normal distribution: of z^k it is 1 3 5 … (k - 1) for even k, else 0.
fn mean_square(coefficients: &[f64]) -> f64 {
    let moment = |k: usize| if k % 2 == 1 { 0.0 } else { (1..k).step_by(2).map(|odd| odd as f64).product() };
    let terms = coefficients.iter().enumerate();
    let sum: f64 = terms
        .flat_map(|(i, a)| coefficients.iter().enumerate().map(move |(j, b)| (i + j, a * b)))
        .map(|(power, product)| product * moment(power))
        .sum();
    sum.clamp(1e-3, 1e6)
}

/// A number of the normal distribution, cut at 2 deviations.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    loop {
        let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
        let value = radius * (std::f64::consts::TAU * random.random::<f64>()).cos();
        if value.abs() <= 2.0 {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_squares_are_those_of_the_normal_distribution() {
        assert_eq!(mean_square(&[0.0, 1.0]), 1.0);
        assert_eq!(mean_square(&[0.0, 0.0, 1.0]), 3.0);
        assert_eq!(mean_square(&[0.0, 2.0, 1.0]), 7.0);
        assert_eq!(mean_square(&[1.0, 0.0, 1.0]), 6.0);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let p = |z: f64| 0.3 - 0.5 * z + 0.2 * z * z + 0.1 * z.powi(3);
        let exact = mean_square(&[0.3, -0.5, 0.2, 0.1]);
        // Without the cut at 2 deviations.
        let mut square = || {
            let (a, b): (f64, f64) = (random.random(), random.random());
            p((-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()).powi(2)
        };
        let found = (0..400_000).map(|_| square()).sum::<f64>() / 400_000.0;
        assert!((found / exact - 1.0).abs() < 0.02, "{found} for {exact}");
    }
}
