//! Elementwise operators, which act on the curves.

use std::sync::Arc;

use super::form::{Curve, Value};
use super::moves::broadcast;
use super::places::picked;
use super::trace::{At, Tracer};
use crate::activation::ActivationKind;
use crate::error::NetworkError;
use crate::fit::ScalarFunction;
use crate::graph::{Constant, Node};
use crate::polynomial::MAX_DEGREE;
use crate::region::{Expression, spread};

/// Highest exponent of a Pow.
const MAX_POWER: f64 = 4.0;

impl<'g> Tracer<'g> {
    /// Add, Sub, Mul and Div of two tensors, of which one may be a constant.
    pub(crate) fn binary(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let (first, second) = (at.node.input(0), at.node.input(1));
        let op = at.node.op.as_str();
        match (self.is_traced(first), self.is_traced(second)) {
            (true, true) if matches!(op, "Add" | "Sub") => {
                self.add(at, &[(first, 1.0), (second, if op == "Sub" { -1.0 } else { 1.0 })])
            }
            (true, true) if op == "Mul" => self.multiply(at, first, second),
            (_, true) if op == "Div" => Err(at.refuse(
                "divides by values that depend on the input",
                "scale by constants instead, such as a batch norm, and train again",
            )),
            (true, _) => {
                let constant = self.constant(at, 1)?;
                self.with_constant(at, first, constant, false)
            }
            (false, _) => {
                let constant = self.constant(at, 0)?;
                self.with_constant(at, second, constant, true)
            }
        }
    }

    /// `tensor op constant`, or the other way round if `swapped`.
    fn with_constant(
        &mut self,
        at: At<'g>,
        tensor: &str,
        constant: &Constant,
        swapped: bool,
    ) -> Result<(), NetworkError> {
        let shape = self.graph.shape(at.node.output()).to_vec();
        let value = self.broadcast_to(at, tensor, &shape)?;
        let values = spread(constant, &shape).ok_or_else(|| at.batch())?;
        let (a, b) = match at.node.op.as_str() {
            "Add" => (vec![1.0], values),
            "Sub" if swapped => (vec![-1.0], values),
            "Sub" => (vec![1.0], values.iter().map(|v| -v).collect()),
            "Mul" => (values, vec![0.0]),
            _ if values.contains(&0.0) => {
                return Err(at.refuse("divides by zero", "check the network's constants and export it again"));
            }
            _ => (values.iter().map(|v| 1.0 / v).collect(), vec![0.0]),
        };
        self.affine(at, tensor, value, a, b);
        Ok(())
    }

    /// Sets the node's result to `a value + b`, one number for all values or one for each.
    fn affine(&mut self, at: At<'g>, tensor: &str, value: Value, a: Vec<f64>, b: Vec<f64>) {
        let sole = value.sole && self.graph.single_use(tensor).is_some();
        let step = Expression::constant(a);
        let shift = Expression::constant(b);
        let uneven = !step.is_uniform() || !shift.is_uniform();
        // What differs from value to value goes into matrices, where nothing else needs the form as it is.
        let value = match value.curve.as_affine() {
            None if uneven && sole || value.polynomial().is_none() => self.layer(value),
            _ => value,
        };
        let Some(curve) = value.polynomial().and_then(|e| e.multiply(&step)).map(|e| e.add(&shift, 1.0)) else {
            return;
        };
        let mut result = Value { curve: Arc::new(Curve::Polynomial(curve)), sole, ..value };
        if uneven && sole && result.curve.as_affine().is_some() {
            result = self.flat(result);
        }
        self.set(at.node.output(), result);
    }

    /// A tensor's value in the shape of a result, its values repeated along axes of size 1.
    fn broadcast_to(&mut self, at: At<'g>, tensor: &str, shape: &[usize]) -> Result<Value, NetworkError> {
        let own = self.graph.shape(tensor).to_vec();
        if own.len() != shape.len() || shape.first() != Some(&1) {
            return Err(at.batch());
        }
        if own == shape {
            return self.value(at, tensor);
        }
        let rows = broadcast(&own, shape).ok_or_else(|| at.batch())?;
        let value = self.linear(at, tensor)?;
        let places = picked(&value.places, &own, shape, &rows);
        self.gathered(at, &value, &rows, 0.0, places)
    }

    /// The sum of tensors times signs.
    fn add(&mut self, at: At<'g>, parts: &[(&str, f64)]) -> Result<(), NetworkError> {
        let shape = self.graph.shape(at.node.output()).to_vec();
        let mut total: Option<Value> = None;
        for &(tensor, sign) in parts {
            let mut value = self.broadcast_to(at, tensor, &shape)?;
            value.sole &= self.graph.single_use(tensor).is_some();
            total = Some(match total {
                None => self.signed(value, sign),
                Some(sum) => self.sum_of(at, sum, value, sign),
            });
        }
        if let Some(total) = total {
            self.set(at.node.output(), total);
        }
        Ok(())
    }

    fn signed(&mut self, value: Value, sign: f64) -> Value {
        if sign == 1.0 {
            return value;
        }
        let value = if value.polynomial().is_none() { self.layer(value) } else { value };
        let negative = value.polynomial().and_then(|e| e.multiply(&Expression::constant(vec![sign])));
        match negative {
            Some(negative) => Value { curve: Arc::new(Curve::Polynomial(negative)), ..value },
            None => value,
        }
    }

    fn sum_of(&mut self, at: At<'g>, one: Value, two: Value, sign: f64) -> Value {
        if let (Some(a), Some(b)) = (one.polynomial(), two.polynomial())
            && one.shares_form(&two)
        {
            let curve = Arc::new(Curve::Polynomial(a.add(b, sign)));
            return Value { curve, sole: one.sole && two.sole, ..one };
        }
        let one = self.flat(one);
        let two = self.signed(two, sign);
        let two = self.flat(two);
        let form = one.form.plus(&two.form);
        // The sum is named after the later of the layers in it.
        let origin = one.origin.max(two.origin).or(Some(at.index));
        Value { places: one.places.clone(), origin, ..Value::linear(form, Vec::new(), None) }
    }

    /// Sum and Mean of any number of tensors.
    pub(crate) fn sum(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let shape = self.graph.shape(at.node.output()).to_vec();
        let traced = at.node.inputs.iter().map(String::as_str).filter(|name| self.is_traced(name));
        let parts: Vec<(&str, f64)> = traced.map(|name| (name, 1.0)).collect();
        let fixed: Vec<usize> =
            (0..at.node.inputs.len()).filter(|&input| !self.is_traced(at.node.input(input))).collect();
        self.add(at, &parts)?;
        let mut shift = vec![0.0];
        for input in fixed {
            let values = spread(self.constant(at, input)?, &shape).ok_or_else(|| at.batch())?;
            shift = crate::region::zip(&shift, &values, |a, b| a + b);
        }
        let factor = if at.node.op == "Mean" { 1.0 / at.node.inputs.len().max(1) as f64 } else { 1.0 };
        if factor != 1.0 || shift != [0.0] {
            let value = self.value(at, at.node.output())?;
            let shift = shift.iter().map(|v| v * factor).collect();
            let sole = value.sole;
            self.affine(at, at.node.output(), Value { sole, ..value }, vec![factor], shift);
        }
        Ok(())
    }

    fn multiply(&mut self, at: At<'g>, first: &str, second: &str) -> Result<(), NetworkError> {
        let shape = self.graph.shape(at.node.output()).to_vec();
        let mut values = Vec::with_capacity(2);
        for tensor in [first, second] {
            let value = self.broadcast_to(at, tensor, &shape)?;
            let value = if value.polynomial().is_none() { self.layer(value) } else { value };
            values.push(Value { sole: value.sole && self.graph.single_use(tensor).is_some(), ..value });
        }
        let [one, two] = values.as_slice() else {
            return Ok(());
        };
        let (Some(a), Some(b), true) = (one.polynomial(), two.polynomial(), one.shares_form(two)) else {
            return Err(at.refuse(
                format!("multiplies '{first}' by '{second}', two different functions of the input"),
                "gates and attention are not possible; use a network whose activations are functions of each value \
                 alone, or protect from a later layer on",
            ));
        };
        let curve = a.multiply(b).ok_or_else(|| too_high(at))?;
        let result = Value { curve: Arc::new(Curve::Polynomial(curve)), sole: one.sole && two.sole, ..one.clone() };
        self.set(at.node.output(), result);
        Ok(())
    }

    pub(crate) fn negate(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let tensor = at.node.input(0);
        let value = self.value(at, tensor)?;
        self.affine(at, tensor, value, vec![-1.0], vec![0.0]);
        Ok(())
    }

    /// Pow by 1, 2, 3 or 4.
    pub(crate) fn power(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let tensor = at.node.input(0);
        let remedy = "use an exponent of 1, 2, 3 or 4";
        if !self.is_traced(tensor) || self.is_traced(at.node.input(1)) {
            return Err(at.refuse("has an exponent that depends on the input", remedy));
        }
        let constant = self.constant(at, 1)?;
        let exponent = constant.values.first().copied().unwrap_or(0.0);
        if constant.values.iter().any(|&v| v != exponent) {
            return Err(at.refuse("has exponents that differ from value to value", remedy));
        }
        let exponent = f64::from(exponent);
        if exponent.fract() != 0.0 || !(1.0..=MAX_POWER).contains(&exponent) {
            return Err(at.refuse(format!("raises to the power of {exponent}"), remedy));
        }
        let shape = self.graph.shape(at.node.output()).to_vec();
        let value = self.broadcast_to(at, tensor, &shape)?;
        let value = if value.polynomial().is_none() { self.layer(value) } else { value };
        let Some(base) = value.polynomial().cloned() else {
            return Ok(());
        };
        let power = (1..exponent as usize).try_fold(base.clone(), |power, _| power.multiply(&base));
        let curve = Arc::new(Curve::Polynomial(power.ok_or_else(|| too_high(at))?));
        let sole = value.sole && self.graph.single_use(tensor).is_some();
        self.set(at.node.output(), Value { curve, sole, ..value });
        Ok(())
    }

    pub(crate) fn batch_norm(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        for input in 1..5 {
            self.constant(at, input)?;
        }
        let (a, b) = self.graph.batch_norm_step(at.node).ok_or_else(|| {
            at.refuse(
                "is in training mode or has a variance that is not positive",
                "export the network for inference, after training",
            )
        })?;
        let tensor = at.node.input(0);
        let value = self.value(at, tensor)?;
        self.affine(at, tensor, value, a, b);
        Ok(())
    }

    /// Activations that are one node; other operators are refused here.
    pub(crate) fn function(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let node = at.node;
        let tensor = node.input(0);
        let Some(mut kind) = ActivationKind::of_op(&node.op) else {
            return self.maximum(at);
        };
        if node.inputs.iter().skip(1).any(|name| self.is_traced(name)) {
            return Err(at.refuse("has parameters that depend on the input", "use constant parameters"));
        }
        let mut parameters = Vec::new();
        for input in 1..node.inputs.len() {
            parameters.push(self.optional(at, input)?.and_then(|c| c.values.first().copied()));
        }
        if kind == ActivationKind::Clip {
            let bound = |index: usize, name: &str, default: f32| {
                parameters.get(index).copied().flatten().unwrap_or_else(|| node.float(name, default))
            };
            kind = match (bound(0, "min", f32::MIN), bound(1, "max", f32::MAX)) {
                (0.0, 6.0) => ActivationKind::Relu6,
                (0.0, f32::MAX) => ActivationKind::Relu,
                _ => kind,
            };
        }
        // A kind stands for the function with ONNX's default parameters; others have no function to fit.
        let default = |name: &str, value: f32| node.float(name, value) == value;
        let usual = match kind {
            ActivationKind::LeakyRelu => default("alpha", 0.01),
            ActivationKind::Elu | ActivationKind::Celu | ActivationKind::ThresholdedRelu => default("alpha", 1.0),
            ActivationKind::HardSigmoid => default("alpha", 0.2) && default("beta", 0.5),
            ActivationKind::Selu => default("alpha", 1.673_263_2) && default("gamma", 1.050_701),
            _ => true,
        };
        let scalar = scalar_function(kind, node);
        if !usual && self.substitutions.get(kind).is_none() {
            kind = ActivationKind::Other;
        }
        self.apply_function(at, tensor, (kind, scalar), node.output())
    }

    /// Softmax as the network's last step keeps the order of the scores and is left to the owner.
    pub(crate) fn final_softmax(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let graph = self.graph;
        let tensor = at.node.input(0);
        let shape = graph.shape(tensor);
        let axis = at.node.int("axis", -1);
        let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).unwrap_or(0);
        let over_scores = axis > 0 && shape.iter().enumerate().all(|(at, &size)| size == 1 || at == axis);
        let mut end = at.node.output();
        let last = loop {
            if end == graph.output {
                break graph.uses(end).is_empty();
            }
            match graph.single_use(end).and_then(|index| graph.node(index)) {
                Some(next) if graph.keeps_order(next) => end = next.output(),
                _ => break false,
            }
        };
        if !over_scores || !last {
            return Err(at.refuse(
                "is not the network's last step on its scores",
                "encryption cannot divide; use another activation in its place, or protect from a later layer on",
            ));
        }
        self.pass(at)
    }

    /// Max with 0, a way to write ReLU. All other operators end here.
    fn maximum(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let node = at.node;
        let traced: Vec<&str> = node.inputs.iter().map(String::as_str).filter(|name| self.is_traced(name)).collect();
        let zero = |name: &&String| self.graph.constant(name).is_some_and(|c| c.values.iter().all(|&v| v == 0.0));
        if let ("Max", [tensor], 2) = (node.op.as_str(), traced.as_slice(), node.inputs.len())
            && node.inputs.iter().any(|name| zero(&name))
            && self.graph.shape(tensor) == self.graph.shape(node.output())
        {
            let relu = ScalarFunction::try_from(ActivationKind::Relu).ok();
            return self.apply_function(at, tensor, (ActivationKind::Relu, relu), node.output());
        }
        Err(at.refuse("is neither linear nor a function of each value alone", remedy(&node.op)))
    }
}

fn too_high(at: At<'_>) -> NetworkError {
    at.refuse(format!("gives a polynomial above degree {MAX_DEGREE}"), "use polynomials of lower degree")
}

/// What to do about an operator that is not known here.
fn remedy(op: &str) -> &'static str {
    match op {
        "Max" | "Min" | "ReduceMax" | "ReduceMin" => {
            "encryption cannot compare values; use means or sums in its place and train again"
        }
        "ArgMax" | "TopK" => {
            "export the network with the class scores as its output and choose the class after decryption"
        }
        "LayerNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "LRN"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "RMSNormalization" => {
            "it divides by a statistic of each sample; use batch norms, which have constants, and train again"
        }
        "LSTM" | "GRU" | "RNN" | "Attention" | "MultiHeadAttention" => {
            "it multiplies functions of the input with each other; use convolutions and FC layers, or protect the \
             layers behind it"
        }
        "ConvTranspose" | "Resize" | "Upsample" => {
            "use convolutions with a stride of 1 or pads instead, or protect from a later layer on"
        }
        "QLinearConv"
        | "QLinearMatMul"
        | "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear"
        | "ConvInteger"
        | "MatMulInteger" => "export the network in float32, before it is quantised",
        _ => "use operators of docs/operators.md in its place, or protect from a later layer on",
    }
}

/// The function that a node computes, with the parameters that it names.
fn scalar_function(kind: ActivationKind, node: &Node) -> Option<ScalarFunction> {
    // Numbers come from float32, so its shortest decimals are what was written.
    let named = |name: &str, default: f32| node.float(name, default).to_string().parse().ok();
    let parameter = match kind {
        ActivationKind::LeakyRelu => named("alpha", 0.01)?,
        ActivationKind::Elu | ActivationKind::Celu | ActivationKind::ThresholdedRelu => named("alpha", 1.0)?,
        ActivationKind::HardSigmoid if node.float("beta", 0.5) == 0.5 => named("alpha", 0.2)?,
        ActivationKind::HardSigmoid => return None,
        ActivationKind::Swish => named("alpha", 1.0)?,
        ActivationKind::Selu if node.float("alpha", 1.673_263_2) != 1.673_263_2 => return None,
        ActivationKind::Selu if node.float("gamma", 1.050_701) != 1.050_701 => return None,
        ActivationKind::Gelu if node.op == "QuickGelu" => {
            return ScalarFunction::new(ActivationKind::Swish, named("alpha", 1.702)).ok();
        }
        _ => return ScalarFunction::try_from(kind).ok(),
    };
    ScalarFunction::new(kind, Some(parameter)).ok()
}
