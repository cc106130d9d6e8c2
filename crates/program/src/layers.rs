//! Which layer of the network each step belongs to, for people.

use crate::{InputLayout, Program, Register, Step};
use std::collections::BTreeMap;
use std::ops::Range;

/// A layer's steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSteps {
    /// Its name, from those of its constants.
    pub name: String,
    /// Positions of its steps in the program, ascending.
    pub steps: Vec<usize>,
}

impl Step {
    /// The first group of constants that it reads.
    pub fn constants(&self) -> Option<usize> {
        self.all_constants().first().copied()
    }

    /// The groups of constants that it reads.
    pub fn all_constants(&self) -> Vec<usize> {
        match self {
            Self::Linear { products, .. } => products.iter().map(|p| p.weights).collect(),
            Self::LinearPlain { weights, .. }
            | Self::DiagonalsPlain { weights, .. }
            | Self::DiagonalsCipher { weights, .. }
            | Self::CoefficientDot { weights, .. }
            | Self::CoefficientRows { weights, .. } => vec![*weights],
            Self::AddConstant { group, .. } => vec![*group],
            _ => Vec::new(),
        }
    }

    /// The registers that it writes.
    pub fn results(&self, input: &InputLayout) -> Vec<Register> {
        let several = |first: Register, count: usize| -> Range<Register> { first..first.saturating_add(count) };
        match self {
            Self::Linear { dst, .. } | Self::LinearPlain { dst, .. } => dst.clone(),
            Self::Rotate { elements, dst, .. } => several(*dst, elements.len()).collect(),
            Self::Parts { re, im, .. } => vec![*re, *im],
            Self::CoefficientDot { dst, .. } => match input {
                InputLayout::CoefficientDot(layout) => several(*dst, layout.outputs()).collect(),
                InputLayout::Diagonals(_) | InputLayout::Tiles(_) => vec![*dst],
            },
            Self::CoefficientRows { layout, dst, .. } => several(*dst, layout.outputs()).collect(),
            Self::DiagonalsPlain { dst, .. }
            | Self::DiagonalsCipher { dst, .. }
            | Self::Combine { dst, .. }
            | Self::Multiply { dst, .. }
            | Self::MultiplyScalar { dst, .. }
            | Self::Add { dst, .. }
            | Self::DropLevel { dst, .. } => vec![*dst],
            Self::AddConstant { reg, .. }
            | Self::Fold { reg, .. }
            | Self::Relinearize { reg, .. }
            | Self::Rescale { reg }
            | Self::AddScalar { reg, .. } => vec![*reg],
        }
    }
}

impl Program {
    /// The layers with their steps, in the order in which they begin. A step with constants belongs to the layer of these; rotations to the
    /// layer whose linear map reads them; everything else to the layer whose result it works on.
    pub fn layers(&self) -> Vec<LayerSteps> {
        let own = |step: &Step| step.constants().and_then(|group| self.constants.get(group)).map(|g| layer(&g.name));
        // From the end: the layer that reads each register next.
        let mut readers: BTreeMap<Register, &str> = BTreeMap::new();
        let mut next = vec![None; self.steps.len()];
        for (step, next) in self.steps.iter().zip(&mut next).rev() {
            let results = step.results(&self.input.layout);
            let reader = results.iter().find_map(|r| readers.get(r).copied());
            *next = reader;
            results.iter().for_each(|r| {
                readers.remove(r);
            });
            if let Some(name) = own(step).or(reader) {
                readers.extend(step.sources().into_iter().map(|r| (r, name)));
            }
        }
        let mut makers: BTreeMap<Register, &str> = BTreeMap::new();
        let mut layers: Vec<LayerSteps> = Vec::new();
        for (at, (step, next)) in self.steps.iter().zip(next).enumerate() {
            let maker = step.sources().iter().find_map(|r| makers.get(r).copied());
            let name = own(step).or(if matches!(step, Step::Rotate { .. }) { next.or(maker) } else { maker.or(next) });
            let name = name.unwrap_or("others");
            makers.extend(step.results(&self.input.layout).into_iter().map(|r| (r, name)));
            match layers.iter_mut().find(|l| l.name == name) {
                Some(known) => known.steps.push(at),
                None => layers.push(LayerSteps { name: name.to_owned(), steps: vec![at] }),
            }
        }
        layers
    }
}

/// `conv1` of `weights of 'conv1'`, `layer 2` of `biases of layer 2`.
fn layer(constants: &str) -> &str {
    constants.split_once(" of ").map_or("layer 1", |(_, name)| name.trim_matches('\''))
}
