//! Elementwise arithmetic, collected as a polynomial until an operator needs its values.

use subrosa_network::{Constant, Expression, MAX_DEGREE, Node as OnnxNode, Polynomial};

use super::value::Value;
use super::{Importer, refuse};
use crate::error::TrainError;
use crate::model::{Activation, Array, Op, Source};

/// An operand: a polynomial of an operator's result, or of nothing if it is constant.
#[derive(Debug, Clone)]
struct Term {
    base: Option<Source>,
    expression: Expression,
}

impl Importer<'_> {
    /// A node of elementwise arithmetic.
    pub(super) fn arithmetic(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let places = 0..node.inputs.len();
        let like = places
            .clone()
            .find_map(|place| self.values.get(node.input(place)).cloned())
            .ok_or_else(|| refuse(node, "reads no value of the network"))?;
        let terms = places.map(|place| self.term(node, place, &like)).collect::<Result<Vec<Term>, _>>()?;
        let result = match (node.op.as_str(), terms.as_slice()) {
            ("Add" | "Sum", [first, others @ ..]) => {
                let mut sum = first.clone();
                for other in others {
                    sum = self.sum(index, node, &sum, other, 1.0, &like)?;
                }
                sum
            }
            ("Sub", [a, b]) => self.sum(index, node, a, b, -1.0, &like)?,
            ("Neg", [a]) => product(node, a, &Term::constant(vec![-1.0]))?,
            ("Mul", [a, b]) => product(node, a, b)?,
            ("Div", [a, Term { base: None, expression: divisor }]) => {
                let divisor = divisor.coefficient(0);
                if divisor.contains(&0.0) {
                    return Err(refuse(node, "divides by 0; export the network again"));
                }
                product(node, a, &Term::constant(divisor.iter().map(|value| 1.0 / value).collect()))?
            }
            ("Pow", [a, Term { base: None, expression: exponent }]) => power(node, a, exponent)?,
            _ => return Err(refuse(node, "computes with two values of the network in a way that cannot be trained")),
        };
        let base = result.base.ok_or_else(|| refuse(node, "has a result that depends on constants only"))?;
        Ok(Value { base, expression: result.expression, ..like })
    }

    /// The operand at `place`; all of a node's lie as `like`.
    fn term(&self, node: &OnnxNode, place: usize, like: &Value) -> Result<Term, TrainError> {
        let dims = self.graph.shape(node.output());
        let name = node.input(place);
        if let Some(value) = self.values.get(name) {
            if value.axes != like.axes || value.shape != like.shape || self.graph.shape(name) != dims {
                return Err(refuse(
                    node,
                    format!(
                        "combines values of shapes {:?} and {:?}; only values of one shape can be combined",
                        self.graph.shape(node.input(0)),
                        self.graph.shape(node.input(1))
                    ),
                ));
            }
            return Ok(Term { base: Some(value.base), expression: value.expression.clone() });
        }
        let constant =
            self.graph.constant(name).ok_or_else(|| refuse(node, format!("reads '{name}', which is unknown")))?;
        // Only the sizes of the network's values count: a constant must not make them more.
        let values = by_channel(constant, dims, like.channel_axis()).filter(|_| dims.len() == like.axes.len());
        let values = values.ok_or_else(|| {
            refuse(
                node,
                format!(
                    "has a constant of shape {:?} that differs within a channel; use one number for each channel",
                    constant.shape
                ),
            )
        })?;
        Ok(Term { base: None, expression: Expression::constant(values) })
    }

    /// `a + sign b`: an operator if both are results of the network, of different operators.
    fn sum(
        &mut self,
        index: usize,
        node: &OnnxNode,
        a: &Term,
        b: &Term,
        sign: f64,
        like: &Value,
    ) -> Result<Term, TrainError> {
        let (Some(first), Some(second)) = (a.base, b.base) else {
            return Ok(Term { base: a.base.or(b.base), expression: a.expression.add(&b.expression, sign) });
        };
        if first == second {
            return Ok(Term { base: a.base, expression: a.expression.add(&b.expression, sign) });
        }
        let zero = Expression::constant(vec![0.0]);
        let b = zero.add(&b.expression, sign);
        let first = Value { base: first, expression: a.expression.clone(), ..like.clone() };
        let second = Value { base: second, expression: b, ..like.clone() };
        let inputs = vec![self.settle(index, node, &first)?.base, self.settle(index, node, &second)?.base];
        let sum = self.push(index, node, Op::Add, inputs, like.axes.clone())?;
        Ok(Term { base: Some(sum.base), expression: sum.expression })
    }

    /// Makes a value an operator's result, named after the layer of node `index`.
    pub(super) fn settle(&mut self, index: usize, node: &OnnxNode, value: &Value) -> Result<Value, TrainError> {
        let expression = &value.expression;
        let channels = value.shape.channels();
        let rows: Vec<Vec<f32>> =
            (0..=expression.degree()).map(|power| spread(expression.coefficient(power), channels)).collect();
        if rows.iter().flatten().any(|value| !value.is_finite()) {
            return Err(refuse(node, "ends arithmetic whose numbers overflow; check the network's weights"));
        }
        let is = |row: &[f32], number: f32| row.iter().all(|&value| value == number);
        let (op, parameters): (Op, Vec<(&str, Array)>) = match rows.as_slice() {
            [_] | [] => return Err(refuse(node, "has a result that is the same for all inputs")),
            [bias, scale] if is(bias, 0.0) && is(scale, 1.0) => {
                return Ok(Value { expression: Expression::x(), ..value.clone() });
            }
            [bias, scale] => {
                let array = |row: &[f32]| Array { shape: vec![channels], values: row.to_vec() };
                (Op::Affine, vec![("scale", array(scale)), ("bias", array(bias))])
            }
            _ if expression.is_uniform() => {
                let coefficients = (0..=expression.degree()).filter_map(|k| expression.coefficient(k).first().copied());
                (Op::Activation(Activation::Polynomial(Polynomial::new(coefficients.collect()))), vec![])
            }
            [constant, ..] => {
                let learned = Activation::Learned { degree: expression.degree(), constant: !is(constant, 0.0) };
                let coefficients = Array { shape: vec![rows.len(), channels], values: rows.concat() };
                (Op::Activation(learned), vec![("coefficients", coefficients)])
            }
        };
        let name = self.layer_name(index);
        for (part, array) in parameters {
            self.model.parameters.insert(format!("{name}.{part}"), array);
        }
        self.push(index, node, op, vec![value.base], value.axes.clone())
    }
}

impl Term {
    fn constant(values: Vec<f64>) -> Self {
        Term { base: None, expression: Expression::constant(values) }
    }
}

fn product(node: &OnnxNode, a: &Term, b: &Term) -> Result<Term, TrainError> {
    if a.base.is_some() && b.base.is_some() && a.base != b.base {
        return Err(refuse(
            node,
            "multiplies two values of the network (a gate, attention, or an activation such as Swish or GELU); train the \
             network with ReLU or a polynomial there",
        ));
    }
    let expression = a.expression.multiply(&b.expression).ok_or_else(|| {
        refuse(node, format!("makes a polynomial of a degree above {MAX_DEGREE}; put a layer between the polynomials"))
    })?;
    Ok(Term { base: a.base.or(b.base), expression })
}

fn power(node: &OnnxNode, a: &Term, exponent: &Expression) -> Result<Term, TrainError> {
    let whole = |exponent: f64| exponent.fract() == 0.0 && (1.0..=MAX_DEGREE as f64).contains(&exponent);
    match exponent.coefficient(0) {
        &[exponent] if whole(exponent) => {
            (1..exponent as usize).try_fold(a.clone(), |power, _| product(node, &power, a))
        }
        _ => Err(refuse(node, format!("has an exponent that is no whole number from 1 to {MAX_DEGREE}"))),
    }
}

/// A constant as one number for each channel of a tensor of sizes `dims`, or one for all; `None` if it differs within a
/// channel or makes the tensor larger.
pub(super) fn by_channel(constant: &Constant, dims: &[usize], channel_axis: Option<usize>) -> Option<Vec<f64>> {
    let missing = dims.len().checked_sub(constant.shape.len())?;
    for (axis, (&own, &size)) in constant.shape.iter().zip(dims.get(missing..)?).enumerate() {
        let along_channels = Some(axis + missing) == channel_axis;
        if own != 1 && !(along_channels && own == size) {
            return None;
        }
    }
    Some(constant.values.iter().map(|&value| f64::from(value)).collect())
}

/// One number for each channel.
fn spread(values: &[f64], channels: usize) -> Vec<f32> {
    match values {
        &[one] => vec![one as f32; channels],
        all => all.iter().map(|&value| value as f32).collect(),
    }
}
