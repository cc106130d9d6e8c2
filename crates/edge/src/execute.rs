//! Executing a program, step by step.

use crate::error::EdgeError;
use crate::processor::{Constants, Input, Processor, Registers};
use std::borrow::Cow;
use subrosa_fhe::{Ciphertext, Galois, Plaintext};
use subrosa_program::layout::Diagonals;
use subrosa_program::{InputLayout, Product, Register, Step};

/// The registers of one evaluation.
struct Machine<'a> {
    processor: &'a Processor,
    /// Those of the input are borrowed.
    registers: Vec<Option<Cow<'a, Ciphertext>>>,
}

/// Runs the program on one prepared input; returns the result ciphertexts. `after` is told the number of each step when it is done, and
/// can look at the registers.
pub(crate) fn execute(
    processor: &Processor,
    input: &Input,
    mut after: impl FnMut(usize, &Registers<'_>),
) -> Result<Vec<Ciphertext>, EdgeError> {
    let program = processor.program();
    let mut machine = Machine { processor, registers: Vec::new() };
    machine.registers.resize_with(program.registers(), || None);
    if let Input::Encrypted(ciphertexts) = input {
        for (register, c) in machine.registers.iter_mut().zip(ciphertexts) {
            *register = Some(Cow::Borrowed(c));
        }
    }
    let mut done = 0;
    for i in 0..program.steps.len() {
        if i >= done {
            done = i + machine.steps(i, input)?;
        }
        after(i, &|register| machine.get(register).ok().cloned());
        processor.dead_after(i).iter().for_each(|&r| {
            if let Some(place) = machine.registers.get_mut(r) {
                *place = None;
            }
        });
    }
    program.output.registers.iter().map(|&r| machine.take(r)).collect()
}

impl Machine<'_> {
    fn get(&self, register: usize) -> Result<&Ciphertext, EdgeError> {
        let empty = || EdgeError::Program(format!("register {register} is read before it is written"));
        self.registers.get(register).and_then(Option::as_deref).ok_or_else(empty)
    }

    fn take(&mut self, register: usize) -> Result<Ciphertext, EdgeError> {
        let empty = || EdgeError::Program(format!("register {register} is read before it is written"));
        self.registers.get_mut(register).and_then(Option::take).map(Cow::into_owned).ok_or_else(empty)
    }

    fn set(&mut self, register: usize, value: Ciphertext) -> Result<(), EdgeError> {
        let place = self.registers.get_mut(register);
        *place.ok_or_else(|| EdgeError::Program(format!("there is no register {register}")))? = Some(Cow::Owned(value));
        Ok(())
    }

    fn ciphertexts(&self, group: usize) -> Result<&[Ciphertext], EdgeError> {
        match self.processor.constants(group) {
            Some(Constants::Ciphertexts(c)) => Ok(c),
            _ => Err(EdgeError::Program(format!("group {group} is used in two ways"))),
        }
    }

    /// Does step `at`, and those behind it that need no pass of their own; returns how many.
    fn steps(&mut self, at: usize, input: &Input) -> Result<usize, EdgeError> {
        let program = self.processor.program();
        match (program.steps.get(at), program.biases_behind(at)) {
            (Some(Step::CoefficientDot { weights, dst }), Some(biases)) => {
                self.dots(*weights, *dst, &biases, input)?;
                Ok(1 + biases.len())
            }
            (Some(step), _) => self.step(step, input).map(|()| 1),
            (None, _) => Ok(0),
        }
    }

    /// The inner products of a layer in the coefficients, each with a bias, if there are any.
    fn dots(
        &mut self,
        weights: usize,
        first: Register,
        biases: &[(usize, usize)],
        input: &Input,
    ) -> Result<(), EdgeError> {
        let InputLayout::CoefficientDot(layout) = &self.processor.program().input.layout else {
            return Err(EdgeError::Program("a coefficient product without its input".into()));
        };
        let evaluator = self.processor.evaluator();
        let chunks = layout.chunks();
        for o in 0..layout.outputs() {
            let missing = || EdgeError::Program("a bias is missing".into());
            let bias = match biases.get(o) {
                Some(&(group, index)) => Some(self.ciphertexts(group)?.get(index).ok_or_else(missing)?),
                None => None,
            };
            let weights = self.ciphertexts(weights)?.iter().skip(o * chunks).take(chunks);
            let out = match input {
                Input::Plain(p) => evaluator.dot_plain_onto(bias, &weights.zip(p).collect::<Vec<_>>())?,
                Input::Encrypted(c) => evaluator.dot_onto(bias, &weights.zip(c).collect::<Vec<_>>())?,
                Input::Channels(_) => return Err(EdgeError::Program("an input of several channels".into())),
            };
            self.set(first + o, out)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, input: &Input) -> Result<(), EdgeError> {
        let evaluator = self.processor.evaluator();
        let keys = self.processor.keys();
        match step {
            Step::DiagonalsPlain { weights, dst } => {
                let (Some(Constants::Matrix(matrix)), InputLayout::Diagonals(layout), Input::Plain(tiles)) =
                    (self.processor.constants(*weights), &self.processor.program().input.layout, input)
                else {
                    return Err(EdgeError::Program("a plain product without its plain input".into()));
                };
                let out = matrix.times_plain(layout, tiles)?;
                self.set(*dst, out)
            }
            Step::DiagonalsCipher { layout, inputs, weights, rescale, dst } => {
                let out = self.diagonals(layout, inputs, *weights, *rescale)?;
                self.set(*dst, out)
            }
            Step::Linear { products, rescale, dst } => {
                let results = self.linear(products, dst.len(), *rescale)?;
                dst.iter().zip(results).try_for_each(|(&dst, out)| self.set(dst, out))
            }
            Step::LinearPlain { weights, inputs, dst } => {
                let (Some(Constants::Matrix(matrix)), Input::Plain(tiles)) =
                    (self.processor.constants(*weights), input)
                else {
                    return Err(EdgeError::Program("a plain product without its plain input".into()));
                };
                for (terms, &dst) in inputs.iter().zip(dst) {
                    let tile =
                        |&t: &usize| tiles.get(t).ok_or_else(|| EdgeError::Program("an input is missing".into()));
                    let out = matrix.sum_plain(&terms.iter().map(tile).collect::<Result<Vec<_>, _>>()?)?;
                    self.set(dst, out)?;
                }
                Ok(())
            }
            Step::Rotate { src, elements, dst } => {
                let rotated = evaluator.rotate_hoisted(self.get(*src)?, elements, keys)?;
                rotated.into_iter().enumerate().try_for_each(|(i, out)| self.set(dst + i, out))
            }
            Step::Parts { src, re, im } => {
                let x = self.get(*src)?;
                let conjugate = evaluator.rotate(x, Galois { rotation: 0, conjugate: true }, keys)?;
                let (mut sum, mut difference) = (x.clone(), x.clone());
                evaluator.add_assign(&mut sum, &conjugate)?;
                evaluator.sub_assign(&mut difference, &conjugate)?;
                // X^(N/2) is i in every slot, X^(3N/2) its inverse.
                evaluator.mul_monomial_assign(&mut difference, 3 * evaluator.parameters().n() / 2)?;
                self.set(*re, sum)?;
                self.set(*im, difference)
            }
            Step::Combine { re, im, dst } => {
                let mut out = self.get(*im)?.clone();
                evaluator.mul_monomial_assign(&mut out, evaluator.parameters().n() / 2)?;
                evaluator.add_assign(&mut out, self.get(*re)?)?;
                self.set(*dst, out)
            }
            Step::CoefficientDot { weights, dst } => self.dots(*weights, *dst, &[], input),
            Step::CoefficientRows { layout, src, weights, dst } => {
                for o in 0..layout.outputs() {
                    let missing = || EdgeError::Program("a weight is missing".into());
                    let x = self.get(*src)?;
                    let out = match self.processor.constants(*weights) {
                        Some(Constants::Plaintexts(p)) => evaluator.mul_plain(x, p.get(o).ok_or_else(missing)?)?,
                        _ => evaluator.mul(x, self.ciphertexts(*weights)?.get(o).ok_or_else(missing)?)?,
                    };
                    self.set(dst + o, out)?;
                }
                Ok(())
            }
            Step::AddConstant { reg, group, index } => {
                let mut value = self.take(*reg)?;
                let missing = || EdgeError::Program("a constant is missing".into());
                match self.processor.constants(*group) {
                    Some(Constants::Plaintexts(p)) => {
                        evaluator.add_plain_assign(&mut value, p.get(*index).ok_or_else(missing)?)?;
                    }
                    _ => {
                        evaluator.add_assign(&mut value, self.ciphertexts(*group)?.get(*index).ok_or_else(missing)?)?
                    }
                }
                self.set(*reg, value)
            }
            Step::Fold { reg, stages } => {
                let mut value = self.take(*reg)?;
                for stage in stages {
                    value = evaluator.fold(&value, stage, keys)?;
                }
                self.set(*reg, value)
            }
            Step::Multiply { a, b, dst } => {
                let out = if a == b {
                    evaluator.square(self.get(*a)?)?
                } else {
                    evaluator.mul(self.get(*a)?, self.get(*b)?)?
                };
                self.set(*dst, out)
            }
            Step::Relinearize { reg, rescale } => {
                let out = evaluator.relinearize(self.get(*reg)?, keys, *rescale)?;
                self.set(*reg, out)
            }
            Step::Rescale { reg } => {
                let out = evaluator.rescale(self.get(*reg)?)?;
                self.set(*reg, out)
            }
            Step::MultiplyScalar { src, value, scale, dst } => {
                let value = self.constant(*value, *scale, self.get(*src)?.level())?;
                let out = evaluator.mul_plain(self.get(*src)?, &value)?;
                self.set(*dst, out)
            }
            Step::AddScalar { reg, value } => {
                let mut out = self.take(*reg)?;
                let value = self.constant(*value, out.scale, out.level())?;
                evaluator.add_plain_assign(&mut out, &value)?;
                self.set(*reg, out)
            }
            Step::Add { dst, src } => {
                let mut out = self.take(*dst)?;
                evaluator.add_assign(&mut out, self.get(*src)?)?;
                self.set(*dst, out)
            }
            Step::DropLevel { src, level, dst } => {
                let out = evaluator.drop_level(self.get(*src)?, *level)?;
                self.set(*dst, out)
            }
        }
    }

    fn constant(&self, value: f64, scale: f64, level: usize) -> Result<Plaintext, EdgeError> {
        Ok(self.processor.encoder().encode_constant(value, scale, level)?)
    }

    /// Baby steps by hoisted rotations of the inputs, giant steps by one sum of rotated partial products.
    fn diagonals(
        &self,
        layout: &Diagonals,
        inputs: &[usize],
        weights: usize,
        rescale: bool,
    ) -> Result<Ciphertext, EdgeError> {
        let (evaluator, keys) = (self.processor.evaluator(), self.processor.keys());
        let mut rotated = Vec::new();
        for (tile, &register) in layout.tiles.iter().zip(inputs) {
            let babies: Vec<Galois> = (0..tile.babies).map(|b| Galois::rotation(b as u32)).collect();
            rotated.extend(evaluator.rotate_hoisted(self.get(register)?, &babies, keys)?);
        }
        let Some(Constants::Matrix(matrix)) = self.processor.constants(weights) else {
            return Err(EdgeError::Program(format!("group {weights} is used in two ways")));
        };
        matrix.times_ciphertexts(&rotated.iter().collect::<Vec<_>>(), |parts| {
            let giants = (0..layout.giants).map(|g| layout.giant(g));
            Ok(evaluator.giant_sum(&giants.zip(parts).collect::<Vec<_>>(), keys, rescale)?)
        })
    }

    /// A linear map: for each result the sums before equal giant steps are added, then all is switched at once.
    fn linear(&self, products: &[Product], results: usize, rescale: bool) -> Result<Vec<Ciphertext>, EdgeError> {
        let evaluator = self.processor.evaluator();
        let mut terms: Vec<Vec<(Galois, Ciphertext)>> = vec![Vec::new(); results];
        for product in products {
            let Some(Constants::Matrix(matrix)) = self.processor.constants(product.weights) else {
                return Err(EdgeError::Program(format!("group {} is used in two ways", product.weights)));
            };
            let list = |registers: &Vec<usize>| registers.iter().map(|&r| self.get(r)).collect::<Result<Vec<_>, _>>();
            let lists = product.inputs.iter().map(list).collect::<Result<Vec<_>, _>>()?;
            let mut parts = matrix.times_lists(&lists)?.into_iter();
            for terms in &mut terms {
                for (galois, part) in product.giants.iter().zip(parts.by_ref()) {
                    match terms.iter_mut().find(|(g, _)| g == galois) {
                        Some((_, sum)) => evaluator.add_assign(sum, &part)?,
                        None => terms.push((*galois, part)),
                    }
                }
            }
        }
        let switched = |terms: &Vec<(Galois, Ciphertext)>| {
            let terms: Vec<(Galois, &Ciphertext)> = terms.iter().map(|(g, c)| (*g, c)).collect();
            Ok(evaluator.giant_sum(&terms, self.processor.keys(), rescale)?)
        };
        terms.iter().map(switched).collect()
    }
}
