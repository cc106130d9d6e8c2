//! Symbolic evaluation of elementwise arithmetic: which polynomial of one tensor another one is.

use std::collections::{HashMap, HashSet};

use crate::activation::ActivationKind;
use crate::graph::{Constant, Graph, Node};
use crate::polynomial::MAX_DEGREE;

/// A polynomial in the values of one tensor: entry `k` is the coefficient of `x^k`, as one
/// number for all units or one for each.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression(pub(crate) Vec<Vec<f64>>);

impl Expression {
    /// The tensor itself.
    pub fn x() -> Self {
        Expression(vec![vec![0.0], vec![1.0]])
    }

    /// One number for all units, or one for each.
    pub fn constant(values: Vec<f64>) -> Self {
        Expression(vec![values]).trimmed()
    }

    /// The highest power of x; 0 for constants.
    pub fn degree(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// The coefficient of `x^k`: one number for all units, or one for each.
    pub fn coefficient(&self, k: usize) -> &[f64] {
        self.0.get(k).map_or(&[0.0], Vec::as_slice)
    }

    /// Whether one polynomial holds for all units.
    pub fn is_uniform(&self) -> bool {
        self.0.iter().all(|c| c.len() == 1)
    }

    /// `self + sign other`.
    pub fn add(&self, other: &Self, sign: f64) -> Self {
        let terms = self.0.len().max(other.0.len());
        let sum = (0..terms).map(|k| zip(self.coefficient(k), other.coefficient(k), |a, b| a + sign * b));
        Expression(sum.collect()).trimmed()
    }

    /// `self other`, `None` beyond [`MAX_DEGREE`].
    pub fn multiply(&self, other: &Self) -> Option<Self> {
        if self.degree() + other.degree() > MAX_DEGREE {
            return None;
        }
        let mut product = vec![vec![0.0]; self.degree() + other.degree() + 1];
        for (i, a) in self.0.iter().enumerate() {
            for (j, b) in other.0.iter().enumerate() {
                let term = zip(a, b, |a, b| a * b);
                if let Some(sum) = product.get_mut(i + j) {
                    *sum = zip(sum, &term, |a, b| a + b);
                }
            }
        }
        Some(Expression(product).trimmed())
    }

    /// Drops zero terms at the top and writes coefficients that are equal for all units once.
    fn trimmed(mut self) -> Self {
        for c in &mut self.0 {
            if let [first, rest @ ..] = c.as_slice()
                && rest.iter().all(|value| value == first)
            {
                c.truncate(1);
            }
        }
        while self.0.len() > 1 && self.0.last().is_some_and(|c| c == &[0.0]) {
            self.0.pop();
        }
        self
    }
}

/// Combines coefficients, of which a single one counts for all units.
pub(crate) fn zip(a: &[f64], b: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    match (a, b) {
        ([a], b) => b.iter().map(|&b| combine(*a, b)).collect(),
        (a, [b]) => a.iter().map(|&a| combine(a, *b)).collect(),
        (a, b) => a.iter().zip(b).map(|(&a, &b)| combine(a, b)).collect(),
    }
}

/// The elementwise arithmetic that follows a tensor.
pub(crate) struct Region {
    /// The one tensor that leaves it.
    pub exit: String,
    /// The exit as a function of the tensor it started from; `None` if it is no polynomial.
    pub expression: Option<Expression>,
    /// Nodes in it, in topological order.
    pub nodes: Vec<usize>,
}

impl Graph {
    /// The largest polynomial region after `start`, or `None` if its values leave it in several
    /// places. The region may be empty, with `start` as its exit.
    pub(crate) fn polynomial_region(&self, start: &str) -> Option<Region> {
        let mut known: HashMap<&str, Expression> = HashMap::from([(start, Expression::x())]);
        let mut members = Vec::new();
        for index in self.after(start) {
            let Some(node) = self.node(index) else {
                continue;
            };
            if let Some(expression) = self.evaluate(node, &known) {
                known.insert(node.output(), expression);
                members.push(index);
            }
        }
        let inside: HashSet<usize> = members.iter().copied().collect();
        let mut exits = known.keys().copied().filter(|name| self.leaves(name, &inside));
        let exit = exits.next()?;
        if exits.next().is_some() {
            return None;
        }
        Some(Region { exit: exit.to_owned(), expression: known.get(exit).cloned(), nodes: members })
    }

    /// The smallest region after `start` that computes each value from one value alone in several
    /// operators, among them one that is no polynomial: GELU, Swish and the like written out.
    pub(crate) fn function_region(&self, start: &str) -> Option<(Region, ActivationKind)> {
        let mut known: HashSet<&str> = HashSet::from([start]);
        let mut inside = HashSet::new();
        let mut members = Vec::new();
        let mut function = false;
        for index in self.after(start) {
            let Some(node) = self.node(index) else {
                continue;
            };
            let named = ActivationKind::of_op(&node.op).is_some();
            let arithmetic =
                matches!(node.op.as_str(), "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Neg" | "Sum" | "Min" | "Max");
            let reads_known = node.inputs.iter().any(|name| known.contains(name.as_str()));
            let closed = node.inputs.iter().all(|name| {
                name.is_empty()
                    || known.contains(name.as_str())
                    || self.constant(name).is_some_and(|c| c.values.len() == 1)
            });
            if !reads_known || !closed || !(named || arithmetic || self.keeps_order(node)) {
                continue;
            }
            function |= named || matches!(node.op.as_str(), "Min" | "Max");
            known.insert(node.output());
            inside.insert(index);
            members.push(index);
            let mut exits = known.iter().filter(|name| self.leaves(name, &inside));
            if exits.next() == Some(&node.output()) && exits.next().is_none() {
                if !function {
                    return None;
                }
                let ops: Vec<&str> = members.iter().filter_map(|&i| self.node(i)).map(|n| n.op.as_str()).collect();
                let kind = ActivationKind::of_ops(&ops);
                let mut exit = node.output();
                if kind == ActivationKind::Gelu
                    && let Some((half, output)) = self.trailing_half(exit, &members)
                {
                    members.push(half);
                    exit = output;
                }
                let region = Region { exit: exit.to_owned(), expression: None, nodes: members };
                return Some((region, kind));
            }
        }
        None
    }

    /// GELU's factor 1/2 where it is multiplied in last, after the two branches have met.
    fn trailing_half(&self, exit: &str, members: &[usize]) -> Option<(usize, &str)> {
        let halves = |node: &Node| {
            let factor = if node.op == "Div" { 2.0 } else { 0.5 };
            matches!(node.op.as_str(), "Mul" | "Div")
                && node.inputs.iter().any(|name| self.constant(name).is_some_and(|c| c.values.as_slice() == [factor]))
        };
        if members.iter().filter_map(|&i| self.node(i)).any(halves) {
            return None;
        }
        let user = self.single_use(exit)?;
        let node = self.node(user).filter(|node| halves(node))?;
        Some((user, node.output()))
    }

    /// What a node computes from `tensor` alone: `x -> a x + b` with `a`, `b` for all units or each.
    pub(crate) fn affine_step(&self, node: &Node, tensor: &str) -> Option<Expression> {
        let known = HashMap::from([(tensor, Expression::x())]);
        self.evaluate(node, &known).filter(|e| e.degree() <= 1)
    }

    /// Whether a node only renames or reshapes its first input, keeping each sample's values and
    /// their order.
    pub fn keeps_order(&self, node: &Node) -> bool {
        let (from, to) = (self.shape(node.input(0)), self.shape(node.output()));
        if from.iter().product::<usize>() != to.iter().product::<usize>() {
            return false;
        }
        match node.op.as_str() {
            "Identity" | "Dropout" => true,
            // To float32 or double.
            "Cast" => matches!(node.int("to", 0), 1 | 11),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => to.first() == Some(&1) && from.first() == Some(&1),
            "Transpose" => {
                let moved = node.ints("perm").unwrap_or_default();
                let axes: Vec<i64> = moved
                    .iter()
                    .copied()
                    .filter(|&axis| {
                        usize::try_from(axis).ok().and_then(|axis| from.get(axis)).is_some_and(|&size| size != 1)
                    })
                    .collect();
                moved.len() == from.len() && moved.first() == Some(&0) && axes.is_sorted()
            }
            _ => false,
        }
    }

    /// Positions of the nodes that may depend on `tensor`.
    fn after(&self, tensor: &str) -> std::ops::Range<usize> {
        self.producer(tensor).map_or(0, |index| index + 1)..self.nodes.len()
    }

    fn leaves(&self, tensor: &str, inside: &HashSet<usize>) -> bool {
        tensor == self.output || self.uses(tensor).iter().any(|user| !inside.contains(user))
    }

    fn evaluate(&self, node: &Node, known: &HashMap<&str, Expression>) -> Option<Expression> {
        let data = known.get(node.input(0));
        if let Some(expression) = data
            && self.keeps_order(node)
        {
            return Some(expression.clone());
        }
        let shape = self.shape(node.output());
        let operand = |index: usize| -> Option<Expression> {
            let name = node.inputs.get(index)?;
            match known.get(name.as_str()) {
                Some(expression) => (same_units(self.shape(name), shape)).then(|| expression.clone()),
                None => Some(Expression::constant(spread(self.constant(name)?, shape)?)),
            }
        };
        if !node.inputs.iter().any(|name| known.contains_key(name.as_str())) {
            return None;
        }
        match (node.op.as_str(), node.inputs.len()) {
            ("Add", 2) => Some(operand(0)?.add(&operand(1)?, 1.0)),
            ("Sub", 2) => Some(operand(0)?.add(&operand(1)?, -1.0)),
            ("Mul", 2) => operand(0)?.multiply(&operand(1)?),
            ("Div", 2) => {
                let divisor = operand(1)?;
                if divisor.degree() != 0 || divisor.coefficient(0).contains(&0.0) {
                    return None;
                }
                let inverse = divisor.coefficient(0).iter().map(|v| 1.0 / v).collect();
                operand(0)?.multiply(&Expression::constant(inverse))
            }
            ("Neg", 1) => operand(0)?.multiply(&Expression::constant(vec![-1.0])),
            ("Sum", 1..) => {
                (1..node.inputs.len()).try_fold(operand(0)?, |sum, index| Some(sum.add(&operand(index)?, 1.0)))
            }
            ("Pow", 2) => {
                let exponent = operand(1)?;
                let [exponent] = exponent.coefficient(0) else {
                    return None;
                };
                if known.contains_key(node.input(1))
                    || exponent.fract() != 0.0
                    || !(0.0..=MAX_DEGREE as f64).contains(exponent)
                {
                    return None;
                }
                let base = operand(0)?;
                (0..*exponent as usize).try_fold(Expression::constant(vec![1.0]), |power, _| power.multiply(&base))
            }
            ("BatchNormalization", 5) => self.batch_norm(node, data?),
            _ => None,
        }
    }

    fn batch_norm(&self, node: &Node, data: &Expression) -> Option<Expression> {
        let (a, b) = self.batch_norm_step(node)?;
        let scaled = data.multiply(&Expression::constant(a))?;
        Some(scaled.add(&Expression::constant(b), 1.0))
    }

    /// `a` and `b` of a batch norm, one each for every value: `scale (x - mean) / sqrt(variance + epsilon) + shift` by
    /// channel, the axis after the batch.
    pub(crate) fn batch_norm_step(&self, node: &Node) -> Option<(Vec<f64>, Vec<f64>)> {
        if node.int("training_mode", 0) != 0 {
            return None;
        }
        let shape = self.shape(node.output());
        let channels = *shape.get(1)?;
        let inner: usize = shape.get(2..)?.iter().product();
        let parameter = |index: usize| -> Option<&[f32]> {
            let constant = self.constant(node.input(index))?;
            (constant.values.len() == channels).then_some(constant.values.as_slice())
        };
        let (scale, shift, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let mut a = Vec::with_capacity(channels * inner);
        let mut b = Vec::with_capacity(channels * inner);
        for (((scale, shift), mean), variance) in scale.iter().zip(shift).zip(mean).zip(variance) {
            let factor = f64::from(*scale) / (f64::from(*variance) + epsilon).sqrt();
            if !factor.is_finite() {
                return None;
            }
            a.extend(std::iter::repeat_n(factor, inner));
            b.extend(std::iter::repeat_n(f64::from(*shift) - factor * f64::from(*mean), inner));
        }
        Some((a, b))
    }
}

/// Whether two shapes hold the same values in the same order but for axes of size 1.
fn same_units(a: &[usize], b: &[usize]) -> bool {
    let units = |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|&size| size != 1).collect() };
    units(a) == units(b)
}

/// A constant's value for each unit of `shape` by ONNX broadcasting, once if it is a scalar.
pub(crate) fn spread(constant: &Constant, shape: &[usize]) -> Option<Vec<f64>> {
    if let [value] = constant.values.as_slice() {
        return Some(vec![f64::from(*value)]);
    }
    let missing = shape.len().checked_sub(constant.shape.len())?;
    let mut values: Vec<f64> = Vec::new();
    let elements: usize = shape.iter().product();
    let sizes = shape.get(missing..)?;
    if sizes.iter().zip(&constant.shape).any(|(&size, &own)| own != 1 && own != size) {
        return None;
    }
    for flat in 0..elements {
        let (mut rest, mut stride, mut at) = (flat, 1, 0);
        for (&size, &own) in sizes.iter().zip(&constant.shape).rev() {
            if own != 1 {
                at += rest % size * stride;
            }
            stride *= own;
            rest /= size;
        }
        values.push(f64::from(*constant.values.get(at)?));
    }
    Some(values)
}
