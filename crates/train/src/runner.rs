//! A model on the training library: its parameters as variables, its forward pass.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::error::TrainError;
use crate::model::{Activation, Array, Model, Node, Op, Order, Shape, Source};
use crate::ops::{Apply, BatchNorm, Conv, Curve, Pool, global_mean};

/// How much of the running statistics of a batch norm stays at each step.
const MOMENTUM: f32 = 0.9;

/// What happens while training only.
pub(crate) struct Training<'a> {
    /// Chooses what is dropped.
    pub random: &'a mut ChaCha8Rng,
    /// Inputs of polynomials beyond this are pulled back.
    pub bound: f32,
    /// How strongly.
    pub penalty: f32,
}

/// A model that can be run and trained.
pub(crate) struct Runner {
    model: Model,
    /// Trained parameters, by name.
    variables: BTreeMap<String, Var>,
    /// All others: running statistics, fixed scales, constants.
    constants: BTreeMap<String, Tensor>,
}

impl Runner {
    /// Checks that all parameters are there.
    pub fn new(model: &Model) -> Result<Self, TrainError> {
        let (mut variables, mut constants) = (BTreeMap::new(), BTreeMap::new());
        for (name, shape) in model.expected_parameters()? {
            let array = model.parameter(&name)?;
            if array.shape != shape || shape.iter().product::<usize>() != array.values.len() {
                let found = &array.shape;
                return Err(TrainError::Model(format!("parameter '{name}' has shape {found:?}, it must be {shape:?}")));
            }
            let tensor = Tensor::from_slice(&array.values, shape, &Device::Cpu)?;
            if is_trained(model, &name) {
                variables.insert(name, Var::from_tensor(&tensor)?);
            } else {
                constants.insert(name, tensor);
            }
        }
        let shapes = model.shapes()?;
        for (node, shape) in model.nodes.iter().zip(shapes) {
            if let Op::Activation(Activation::Polynomial(polynomial)) = &node.op {
                let rows = polynomial.coefficients().iter().map(|c| vec![*c as f32; shape.channels()]);
                let rows: Vec<Vec<f32>> = rows.collect();
                let rows = if rows.is_empty() { vec![vec![0.0; shape.channels()]] } else { rows };
                constants.insert(format!("{}.coefficients", node.name), Tensor::new(rows, &Device::Cpu)?);
            }
            if let Op::Conv { filters, bias: false, .. } = &node.op {
                constants.insert(
                    format!("{}.bias", node.name),
                    Tensor::from_vec(vec![0.0f32; *filters], *filters, &Device::Cpu)?,
                );
            }
        }
        Ok(Runner { model: model.clone(), variables, constants })
    }

    /// The trained parameters.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }

    /// The model with the parameters as they are now.
    pub fn model(&self) -> Result<Model, TrainError> {
        let mut model = self.model.clone();
        for (name, array) in &mut model.parameters {
            if let Some(tensor) = self.tensor(name) {
                array.values = tensor.flatten_all()?.to_vec1()?;
            }
        }
        Ok(model)
    }

    /// Takes all parameters from elsewhere; they must be of a model of the same shape.
    pub fn restore(&mut self, parameters: &BTreeMap<String, Array>) -> Result<(), TrainError> {
        for (name, array) in parameters {
            let tensor = Tensor::from_slice(&array.values, array.shape.clone(), &Device::Cpu)?;
            if let Some(variable) = self.variables.get(name) {
                variable.set(&tensor)?;
            } else if let Some(constant) = self.constants.get_mut(name) {
                *constant = tensor;
            }
        }
        Ok(())
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.variables.get(name).map(Var::as_tensor).or_else(|| self.constants.get(name))
    }

    /// Scores `[batch, outputs]` for inputs `[batch, height, width, channels]` or `[batch, values]`.
    pub fn forward(&mut self, input: &Tensor, training: Option<&mut Training<'_>>) -> Result<Tensor, TrainError> {
        self.run(input, training, |_, _| Ok(()))
    }

    /// The same; `look` sees every operator's operand before it is computed.
    pub fn run(
        &mut self,
        input: &Tensor,
        mut training: Option<&mut Training<'_>>,
        mut look: impl FnMut(&Node, &Tensor) -> Result<(), TrainError>,
    ) -> Result<Tensor, TrainError> {
        let nodes = self.model.nodes.clone();
        let last_use = last_uses(&nodes);
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(nodes.len());
        // Activations that were computed together with the norm before them.
        let mut fused: Vec<usize> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let operand = |at: usize| match node.inputs.get(at) {
                Some(Source::Input) => Ok(input.clone()),
                Some(Source::Node(index)) => values.get(*index).cloned().flatten().ok_or_else(|| lost(node)),
                None => Err(lost(node)),
            };
            let x = operand(0)?;
            look(node, &x)?;
            let result = match &node.op {
                Op::Add => (x + operand(1)?)?,
                // A norm computed it already.
                Op::Activation(_) if fused.contains(&index) => x,
                Op::BatchNorm { epsilon } if training.is_some() => {
                    let follower = only_reader(&nodes, index).filter(|(_, node)| matches!(node.op, Op::Activation(_)));
                    fused.extend(follower.map(|(at, _)| at));
                    self.normalise(node, *epsilon, follower.map(|(_, node)| node), &x, training.as_deref())?
                }
                op => self.apply(node, op, &x, training.as_deref_mut())?,
            };
            values.push(Some(result));
            // Values that nobody reads any more go; the gradients keep what they need themselves.
            for source in &node.inputs {
                if let Source::Node(read) = source
                    && last_use.get(*read) == Some(&index)
                    && let Some(value) = values.get_mut(*read)
                {
                    *value = None;
                }
            }
        }
        values.pop().flatten().ok_or_else(|| TrainError::Model("it has no layers".into()))
    }

    fn apply(
        &mut self,
        node: &Node,
        op: &Op,
        x: &Tensor,
        training: Option<&mut Training<'_>>,
    ) -> Result<Tensor, TrainError> {
        let learning = training.is_some();
        let parameter = |part: &str| {
            let name = format!("{}.{part}", node.name);
            let tensor = self.tensor(&name).ok_or_else(|| lost(node))?;
            Ok::<_, TrainError>(if learning { tensor.clone() } else { tensor.detach() })
        };
        Ok(match op {
            Op::Conv { window, .. } => {
                x.apply_op3(&parameter("weight")?, &parameter("bias")?, Conv { window: *window })?
            }
            Op::Dense { bias, .. } => {
                let product = x.matmul(&parameter("weight")?)?;
                if *bias { product.broadcast_add(&parameter("bias")?)? } else { product }
            }
            Op::BatchNorm { epsilon } => {
                let deviation = (parameter("variance")? + f64::from(*epsilon))?.sqrt()?;
                let factor = (parameter("scale")? / deviation)?;
                let shift = (parameter("bias")? - (parameter("mean")? * &factor)?)?;
                x.apply_op2(&Tensor::stack(&[shift, factor], 0)?, Apply(Curve::FREE))?
            }
            Op::Affine => {
                let coefficients = Tensor::stack(&[parameter("bias")?, parameter("scale")?], 0)?;
                x.apply_op2(&coefficients, Apply(Curve::FREE))?
            }
            Op::Activation(activation) => {
                let (curve, coefficients) = self.curve(node, activation, x, training.as_deref())?;
                x.apply_op2(&coefficients, Apply(curve))?
            }
            Op::Pool { pooling, window } => x.apply_op1(Pool { pooling: *pooling, window: *window })?,
            Op::GlobalMean => global_mean(x)?,
            Op::Flatten(Order::Chw) if x.rank() == 4 => x.permute((0, 3, 1, 2))?.contiguous()?.flatten_from(1)?,
            Op::Flatten(_) => x.flatten_from(1)?,
            Op::Dropout { rate } => match training {
                Some(training) if *rate > 0.0 => (x * dropout_mask(x, *rate, training.random)?)?,
                _ => x.clone(),
            },
            Op::Add => return Err(lost(node)),
        })
    }

    /// The curve of an activation, and its coefficients, `[powers, channels]`; a row of zeros for functions without.
    fn curve(
        &self,
        node: &Node,
        activation: &Activation,
        x: &Tensor,
        training: Option<&Training<'_>>,
    ) -> Result<(Curve, Tensor), TrainError> {
        if let Activation::Function(function) = activation {
            let channels = x.dims().last().copied().unwrap_or_default();
            return Ok((Curve::Function(*function), Tensor::zeros((1, channels), DType::F32, &Device::Cpu)?));
        }
        let coefficients = self.tensor(&format!("{}.coefficients", node.name)).ok_or_else(|| lost(node))?;
        Ok(match training {
            Some(training) => {
                let curve = Curve::Polynomial { bound: training.bound, penalty: training.penalty };
                (curve, coefficients.clone())
            }
            None => (Curve::FREE, coefficients.detach()),
        })
    }

    /// A batch norm with the batch's statistics, and the activation behind it if it is given.
    fn normalise(
        &mut self,
        node: &Node,
        epsilon: f32,
        activation: Option<&Node>,
        x: &Tensor,
        training: Option<&Training<'_>>,
    ) -> Result<Tensor, TrainError> {
        let row = |part: &str| {
            let tensor = self.tensor(&format!("{}.{part}", node.name)).ok_or_else(|| lost(node))?;
            Ok::<_, TrainError>(tensor.unsqueeze(0)?)
        };
        let mut rows = vec![row("scale")?, row("bias")?];
        let mut curve = Curve::Identity;
        if let Some(follower) = activation
            && let Op::Activation(activation) = &follower.op
        {
            let (found, coefficients) = self.curve(follower, activation, x, training)?;
            curve = found;
            rows.push(coefficients);
        }
        let norm = BatchNorm::new(epsilon, curve);
        let found = norm.found.clone();
        let result = x.apply_op2(&Tensor::cat(&rows, 0)?, norm)?;
        let found = found.lock().map(|found| found.clone()).unwrap_or_default();
        self.follow(node, "mean", found.mean)?;
        self.follow(node, "variance", found.variance)?;
        Ok(result)
    }

    /// Moves a running statistic towards what a batch showed.
    fn follow(&mut self, node: &Node, part: &str, found: Vec<f32>) -> Result<(), TrainError> {
        let running = self.constants.get_mut(&format!("{}.{part}", node.name)).ok_or_else(|| lost(node))?;
        let mut values: Vec<f32> = running.to_vec1()?;
        for (value, found) in values.iter_mut().zip(found) {
            *value = MOMENTUM * *value + (1.0 - MOMENTUM) * found;
        }
        let length = values.len();
        *running = Tensor::from_vec(values, length, &Device::Cpu)?;
        Ok(())
    }
}

/// Whether a parameter is trained.
fn is_trained(model: &Model, name: &str) -> bool {
    let Some((node, part)) = name.rsplit_once('.') else {
        return false;
    };
    match model.nodes.iter().find(|other| other.name == node).map(|node| &node.op) {
        Some(Op::BatchNorm { .. }) => matches!(part, "scale" | "bias"),
        Some(Op::Affine) | None => false,
        Some(_) => true,
    }
}

/// The operator that reads this one's result, if there is just one.
fn only_reader(nodes: &[Node], index: usize) -> Option<(usize, &Node)> {
    let mut readers = nodes.iter().enumerate().filter(|(_, node)| node.inputs.contains(&Source::Node(index)));
    readers.next().filter(|_| readers.next().is_none())
}

/// For each operator the last one that reads it.
fn last_uses(nodes: &[Node]) -> Vec<usize> {
    let mut last = vec![usize::MAX; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for source in &node.inputs {
            if let Source::Node(read) = source
                && let Some(last) = last.get_mut(*read)
            {
                *last = index;
            }
        }
    }
    last
}

/// Zeros with probability `rate`, else `1 / (1 - rate)`.
fn dropout_mask(x: &Tensor, rate: f32, random: &mut ChaCha8Rng) -> Result<Tensor, TrainError> {
    let kept = 1.0 / (1.0 - rate);
    let limit = (f64::from(rate) * f64::from(u32::MAX)) as u32;
    let mask: Vec<f32> = (0..x.elem_count()).map(|_| if random.random::<u32>() < limit { 0.0 } else { kept }).collect();
    Ok(Tensor::from_vec(mask, x.shape(), &Device::Cpu)?)
}

fn lost(node: &Node) -> TrainError {
    TrainError::Model(format!("layer '{}' reads a value that is not there", node.name))
}

/// Samples as the runner takes them.
pub(crate) fn input_tensor(shape: Shape, values: Vec<f32>) -> Result<Tensor, TrainError> {
    let batch = values.len() / shape.elements().max(1);
    Ok(match shape {
        Shape::Image { height, width, channels } => {
            Tensor::from_vec(values, (batch, height, width, channels), &Device::Cpu)?
        }
        Shape::Flat(units) => Tensor::from_vec(values, (batch, units), &Device::Cpu)?,
    })
}
