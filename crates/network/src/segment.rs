//! FC layers in the graph, and what lies between one and the next.

use crate::activation::ActivationKind;
use crate::graph::Graph;
use crate::layers::{layer_name, unique_name};
use crate::polynomial::Polynomial;
use crate::region::{Expression, zip};

/// A fully connected layer: Gemm, or MatMul with the Add of its bias.
#[derive(Debug, Clone)]
pub(crate) struct Fc {
    /// Its layer's name, unique among FC layers.
    pub name: String,
    /// The node that multiplies.
    pub node: usize,
    /// The Add of the bias, if it is a node of its own.
    pub bias_node: Option<usize>,
    /// The tensor it reads.
    pub input: String,
    /// The tensor it writes, bias included.
    pub output: String,
    pub rows: usize,
    pub cols: usize,
    weights: String,
    /// Weights are stored rows x cols (Gemm's transB) rather than cols x rows.
    by_rows: bool,
    alpha: f64,
    bias: Option<String>,
    beta: f64,
}

impl Fc {
    /// Recognises an FC layer by its multiplying node; it takes one row of values a sample.
    pub fn at(graph: &Graph, index: usize) -> Option<Fc> {
        let node = graph.node(index)?;
        let weights = graph.constant(node.input(1))?;
        let &[one, two] = weights.shape.as_slice() else {
            return None;
        };
        let by_rows = match node.op.as_str() {
            "MatMul" => false,
            "Gemm" if node.int("transA", 0) == 0 => node.int("transB", 0) != 0,
            _ => return None,
        };
        let (rows, cols) = if by_rows { (one, two) } else { (two, one) };
        if rows == 0 || graph.shape(node.input(0)) != [1, cols] {
            return None;
        }
        let gemm = node.op == "Gemm";
        let factor = |name: &str| if gemm { f64::from(node.float(name, 1.0)) } else { 1.0 };
        let mut fc = Fc {
            name: layer_name(graph, index),
            node: index,
            bias_node: None,
            input: node.input(0).to_owned(),
            output: node.output().to_owned(),
            rows,
            cols,
            weights: node.input(1).to_owned(),
            by_rows,
            alpha: factor("alpha"),
            bias: (gemm && !node.input(2).is_empty()).then(|| node.input(2).to_owned()),
            beta: factor("beta"),
        };
        if let Some(bias) = &fc.bias {
            let length = graph.constant(bias)?.values.len();
            if length != rows && length != 1 {
                return None;
            }
        } else if let Some(add) = graph.single_use(node.output())
            && let Some(user) = graph.node(add)
            && user.op == "Add"
            && let Some(bias) = user.inputs.iter().find(|name| {
                graph.constant(name).is_some_and(|c| c.values.len() == rows && c.shape.last() == Some(&rows))
            })
            && graph.shape(user.output()) == [1, rows]
        {
            fc.bias = Some(bias.clone());
            fc.bias_node = Some(add);
            fc.output = user.output().to_owned();
        }
        Some(fc)
    }

    /// All FC layers of a graph, in topological order.
    pub fn all(graph: &Graph) -> Vec<Fc> {
        let mut layers: Vec<Fc> = Vec::new();
        for mut fc in (0..graph.nodes.len()).filter_map(|index| Fc::at(graph, index)) {
            fc.name = unique_name(fc.name, |name| layers.iter().any(|other| other.name == name));
            layers.push(fc);
        }
        layers
    }

    /// Weights, row-major rows x cols.
    pub fn weights(&self, graph: &Graph) -> Vec<f64> {
        let stored = graph.constant(&self.weights).map_or(&[][..], |c| c.values.as_slice());
        let value = |&w: &f32| self.alpha * f64::from(w);
        if self.by_rows {
            return stored.iter().map(value).collect();
        }
        (0..self.rows).flat_map(|row| stored.iter().skip(row).step_by(self.rows).map(value)).collect()
    }

    /// One bias a row.
    pub fn bias(&self, graph: &Graph) -> Vec<f64> {
        let stored = self.bias.as_ref().and_then(|name| graph.constant(name));
        match stored.map(|c| c.values.as_slice()) {
            None => vec![0.0; self.rows],
            Some([one]) => vec![self.beta * f64::from(*one); self.rows],
            Some(values) => values.iter().map(|&b| self.beta * f64::from(b)).collect(),
        }
    }
}

/// `a x + b`, with `a` and `b` one number for all units or one for each.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Affine {
    pub a: Vec<f64>,
    pub b: Vec<f64>,
}

impl Affine {
    pub fn identity() -> Self {
        Affine { a: vec![1.0], b: vec![0.0] }
    }

    /// Applies `next` after this one.
    pub fn then(&self, next: &Affine) -> Affine {
        Affine {
            a: zip(&self.a, &next.a, |a, n| a * n),
            b: zip(&zip(&self.b, &next.a, |b, n| b * n), &next.b, |b, n| b + n),
        }
    }

    pub fn of(expression: &Expression) -> Affine {
        Affine { a: expression.coefficient(1).to_vec(), b: expression.coefficient(0).to_vec() }
    }
}

/// The activation in a segment, before any substitution.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    None,
    Polynomial(Polynomial),
    Function(ActivationKind),
}

/// Where a segment leads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    /// To the FC layer with this index in [`Fc::all`].
    Fc(usize),
    /// To the network's output.
    End,
}

/// What lies between a tensor and the next FC layer or the output:
/// `after(activation(before(x)))`.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub before: Affine,
    pub activation: Step,
    pub after: Affine,
    pub next: Next,
    /// All nodes passed.
    pub nodes: Vec<usize>,
    /// The final Softmax or LogSoftmax that is left out.
    pub dropped: Option<usize>,
}

/// Why a tensor does not lead to the next FC layer.
#[derive(Debug, Clone)]
pub(crate) struct Obstacle(pub String);

impl Segment {
    /// Follows the graph from `start` up to the next of `layers` or the output.
    pub fn follow(graph: &Graph, layers: &[Fc], start: &str) -> Result<Segment, Obstacle> {
        let mut walk = Walk {
            graph,
            at: start.to_owned(),
            segment: Segment {
                before: Affine::identity(),
                activation: Step::None,
                after: Affine::identity(),
                next: Next::End,
                nodes: Vec::new(),
                dropped: None,
            },
        };
        loop {
            if walk.uneven_affine() || walk.polynomial()? {
                continue;
            }
            if walk.at == graph.output {
                return match graph.uses(&walk.at) {
                    [] => Ok(walk.segment),
                    _ => Err(Obstacle(format!("'{}' is an output and used inside too", walk.at))),
                };
            }
            let Some(user) = graph.single_use(&walk.at) else {
                if walk.written_out_function()? {
                    continue;
                }
                return Err(walk.several_readers());
            };
            if let Some(index) = layers.iter().position(|fc| fc.node == user) {
                walk.segment.next = Next::Fc(index);
                return Ok(walk.segment);
            }
            if walk.function(user)? || walk.final_softmax(user) {
                continue;
            }
            return Err(walk.unknown(user));
        }
    }
}

struct Walk<'a> {
    graph: &'a Graph,
    at: String,
    segment: Segment,
}

impl Walk<'_> {
    fn affine(&mut self, step: &Affine) {
        let side = match self.segment.activation {
            Step::None => &mut self.segment.before,
            _ => &mut self.segment.after,
        };
        *side = side.then(step);
    }

    /// Takes up a run of affine nodes up to the last one that differs from unit to unit (batch
    /// norm, biases), which must go into the weights and not into the activation.
    fn uneven_affine(&mut self) -> bool {
        let (mut at, mut total) = (self.at.clone(), Affine::identity());
        let mut passed = Vec::new();
        let mut taken = None;
        while let Some(user) = self.graph.single_use(&at)
            && let Some(node) = self.graph.node(user)
            && let Some(step) = self.graph.affine_step(node, &at)
        {
            total = total.then(&Affine::of(&step));
            passed.push(user);
            at = node.output().to_owned();
            if !step.is_uniform() {
                taken = Some((at.clone(), total.clone(), passed.len()));
            }
        }
        let Some((at, total, count)) = taken else {
            return false;
        };
        self.affine(&total);
        self.segment.nodes.extend(passed.iter().take(count));
        self.at = at;
        true
    }

    /// Takes up the polynomial region from here, if there is one.
    fn polynomial(&mut self) -> Result<bool, Obstacle> {
        let Some(region) = self.graph.polynomial_region(&self.at) else {
            return Ok(self.affine_node());
        };
        let Some(expression) = region.expression.filter(|_| !region.nodes.is_empty()) else {
            return Ok(false);
        };
        if expression.degree() <= 1 {
            self.affine(&Affine::of(&expression));
        } else {
            let (shift, polynomial, after) = split_uneven(&expression).ok_or_else(|| {
                Obstacle(format!(
                    "the polynomial that ends in '{}' has coefficients that differ from unit to unit; \
                     use one polynomial for the whole layer",
                    region.exit
                ))
            })?;
            self.activation(Step::Polynomial(polynomial))?;
            self.segment.before = self.segment.before.then(&Affine { a: vec![1.0], b: shift });
            self.segment.after = after;
        }
        self.segment.nodes.extend(&region.nodes);
        self.at = region.exit;
        Ok(true)
    }

    /// Takes up one affine node, where what follows it branches.
    fn affine_node(&mut self) -> bool {
        let Some(user) = self.graph.single_use(&self.at) else {
            return false;
        };
        let Some(node) = self.graph.node(user) else {
            return false;
        };
        let Some(step) = self.graph.affine_step(node, &self.at) else {
            return false;
        };
        self.affine(&Affine::of(&step));
        self.segment.nodes.push(user);
        self.at = node.output().to_owned();
        true
    }

    fn activation(&mut self, step: Step) -> Result<(), Obstacle> {
        if self.segment.activation != Step::None {
            return Err(Obstacle(format!(
                "a second activation follows the first one at '{}' with no FC layer between",
                self.at
            )));
        }
        self.segment.activation = step;
        Ok(())
    }

    /// An activation that is one node.
    fn function(&mut self, user: usize) -> Result<bool, Obstacle> {
        let Some(node) = self.graph.node(user) else {
            return Ok(false);
        };
        let Some(mut kind) = ActivationKind::of_op(&node.op).filter(|_| node.input(0) == self.at) else {
            return Ok(false);
        };
        let bound = |index: usize| {
            let constant = self.graph.constant(node.input(index))?;
            constant.values.first().copied()
        };
        if kind == ActivationKind::Clip {
            kind = match (bound(1), bound(2)) {
                (Some(0.0), Some(6.0)) => ActivationKind::Relu6,
                (Some(0.0), None) => ActivationKind::Relu,
                _ => kind,
            };
        }
        self.activation(Step::Function(kind))?;
        self.segment.nodes.push(user);
        self.at = node.output().to_owned();
        Ok(true)
    }

    /// An activation that is written out as several nodes.
    fn written_out_function(&mut self) -> Result<bool, Obstacle> {
        let Some((region, kind)) = self.graph.function_region(&self.at) else {
            return Ok(false);
        };
        self.activation(Step::Function(kind))?;
        self.segment.nodes.extend(&region.nodes);
        self.at = region.exit;
        Ok(true)
    }

    /// Softmax before the output keeps the order of the scores and is left to the owner.
    fn final_softmax(&mut self, user: usize) -> bool {
        let Some(node) = self.graph.node(user) else {
            return false;
        };
        let over_units = matches!(node.int("axis", -1), -1 | 1);
        let [1, _] = self.graph.shape(&self.at) else {
            return false;
        };
        let softmax = matches!(node.op.as_str(), "Softmax" | "LogSoftmax") && over_units;
        let mut end = node.output();
        while end != self.graph.output {
            let passed = self.graph.single_use(end).and_then(|i| self.graph.node(i));
            match passed {
                Some(next) if softmax && self.graph.keeps_order(next) => end = next.output(),
                _ => return false,
            }
        }
        if !softmax || !self.graph.uses(end).is_empty() {
            return false;
        }
        self.segment.dropped = Some(user);
        self.at = self.graph.output.clone();
        true
    }

    fn several_readers(&self) -> Obstacle {
        let readers: Vec<String> = self
            .graph
            .uses(&self.at)
            .iter()
            .filter_map(|&index| self.graph.node(index))
            .map(|node| format!("'{}' ({})", node.name, node.op))
            .collect();
        match readers.as_slice() {
            [] => Obstacle(format!("nothing reads '{}'", self.at)),
            [one] => Obstacle(format!("its values are read by {one} and are an output too")),
            several => Obstacle(format!("its values are read in several places: {}", several.join(", "))),
        }
    }

    fn unknown(&self, user: usize) -> Obstacle {
        let (name, op) = self.graph.node(user).map_or(("", ""), |node| (node.name.as_str(), node.op.as_str()));
        Obstacle(format!("it is followed by node '{name}' ({op}), which cannot be protected"))
    }
}

/// Relative difference up to which ratios of coefficients count as equal.
const TOLERANCE: f64 = 1e-9;

/// Writes a polynomial `e` of degree 2 or more as `after(p(x + shift))` with one `p` for all units.
///
/// If all coefficients but the constant one have the same ratios, `p` is that polynomial with a
/// leading 1. Any quadratic works by completing the square.
fn split_uneven(e: &Expression) -> Option<(Vec<f64>, Polynomial, Affine)> {
    let top = e.degree();
    if e.is_uniform() {
        let coefficients = e.0.iter().filter_map(|c| c.first().copied()).collect();
        return Some((vec![0.0], Polynomial::new(coefficients), Affine::identity()));
    }
    let lead = e.coefficient(top);
    let ratios: Option<Vec<f64>> = (1..=top)
        .map(|k| {
            let mut ratio = None;
            let pairs = zip(e.coefficient(k), &vec![0.0; units(e)], |c, _| c).into_iter().zip(zip(
                lead,
                &vec![0.0; units(e)],
                |l, _| l,
            ));
            for (c, l) in pairs {
                if l == 0.0 {
                    if c != 0.0 {
                        return None;
                    }
                    continue;
                }
                let found = *ratio.get_or_insert(c / l);
                if (c / l - found).abs() > TOLERANCE * (1.0 + found.abs()) {
                    return None;
                }
            }
            Some(ratio.unwrap_or(0.0))
        })
        .collect();
    if let Some(ratios) = ratios {
        let polynomial = Polynomial::new(std::iter::once(0.0).chain(ratios).collect());
        let after = Affine { a: lead.to_vec(), b: e.coefficient(0).to_vec() };
        return Some((vec![0.0], polynomial, after));
    }
    if top != 2 || lead.contains(&0.0) {
        return None;
    }
    let shift = zip(e.coefficient(1), lead, |c1, c2| c1 / (2.0 * c2));
    let below = zip(&shift, lead, |h, c2| c2 * h * h);
    let after = Affine { a: lead.to_vec(), b: zip(e.coefficient(0), &below, |c0, below| c0 - below) };
    Some((shift, Polynomial::square(), after))
}

/// Units that the coefficients are written for; 1 if for all alike.
fn units(e: &Expression) -> usize {
    e.0.iter().map(Vec::len).max().unwrap_or(1)
}
