//! An edge that does what it likes: it has a bundle and computes with everything in it.

use std::collections::BTreeMap;
use std::path::Path;
use subrosa_fhe::{Ciphertext, Complex64, Encoder, EvaluationKeys, Evaluator, Galois, Kernel, Parameters};
use subrosa_program::bundle::{BUNDLE_KIND, Bundle};
use subrosa_program::layout::{CoefficientRows, Diagonals};
use subrosa_program::{InputLayout, Program, Step};

pub struct Attacker {
    bundle: Bundle,
    pub parameters: Parameters,
    keys: EvaluationKeys,
    pub evaluator: Evaluator,
    pub encoder: Encoder,
}

impl Attacker {
    pub fn new(bundle: &Path) -> Self {
        let bundle = Bundle::open(bundle, BUNDLE_KIND).unwrap();
        let parameters = bundle.parameters(Kernel::active().unwrap()).unwrap();
        let keys = bundle.keys(&parameters).unwrap();
        let (evaluator, encoder) = (Evaluator::new(&parameters), Encoder::new(&parameters));
        Self { bundle, parameters, keys, evaluator, encoder }
    }

    pub fn program(&self) -> &Program {
        &self.bundle.program
    }

    /// An encrypted weight or bias.
    pub fn constant(&self, group: usize, index: usize) -> Ciphertext {
        let packed = self.bundle.constants(&self.parameters).unwrap();
        let constant = self.bundle.constant(&self.parameters, group, packed[group][index]).unwrap();
        constant.expand(&self.parameters).unwrap()
    }

    /// Any ciphertext brought to the level, degree and scale that results have.
    pub fn as_result(&self, mut c: Ciphertext) -> Ciphertext {
        let output = &self.program().output;
        c = self.evaluator.to_level(&c, output.level).unwrap();
        let zero = |c: &Ciphertext| subrosa_fhe::RnsPoly::zero(c.components[0].n(), c.components[0].limbs());
        while c.degree() < output.degree {
            c.components.push(zero(&c));
        }
        // The scale is what the message is said to be multiplied by: saying otherwise multiplies the message.
        c.scale = output.scale;
        c
    }

    /// (0, c) for the constant c: its "message" is c times the secret key.
    pub fn key(&self, c: i64, level: usize) -> Ciphertext {
        let ring = self.parameters.ring_of(level).unwrap();
        let mut coefficients = vec![0; self.parameters.n()];
        coefficients[0] = c;
        let mut poly = ring.from_signed(&coefficients, ring.limbs());
        ring.forward(&mut poly);
        let zero = subrosa_fhe::RnsPoly::zero(self.parameters.n(), ring.limbs());
        Ciphertext { components: vec![zero, poly], scale: 1.0, level }
    }

    /// Where the first layer's weights stand, and how the last layer is laid out with its groups of weights and biases.
    pub fn layers(&self) -> (&Diagonals, &CoefficientRows, usize, usize) {
        let InputLayout::Diagonals(first) = &self.program().input.layout else { panic!("no diagonals") };
        let mut last = None;
        for step in &self.program().steps {
            if let Step::CoefficientRows { layout, weights, .. } = step {
                last = Some((layout, *weights));
            }
        }
        let (rows, weights) = last.unwrap();
        (first, rows, weights, weights + 1)
    }

    /// Level and scale of the vector that the last layer multiplies.
    pub fn vector(&self) -> (usize, f64) {
        let (_, _, weights, biases) = self.layers();
        let groups = &self.program().constants;
        (groups[weights].level, groups[biases].scale / groups[weights].scale)
    }

    /// Sums over the column groups, as the first layer does: what stands in a slot then stands in all of its row.
    pub fn fold(&self, mut c: Ciphertext) -> Ciphertext {
        for step in &self.program().steps {
            if let Step::Fold { stages, .. } = step {
                for stage in stages {
                    c = self.evaluator.fold(&c, stage, &self.keys).unwrap();
                }
            }
        }
        c
    }

    /// The encrypted weight in slot `slot` of the first layer's first ciphertext (real part: the first of two), times `factor`, moved into
    /// its row of the vector that the last layer multiplies; plus plain values, one for each row.
    pub fn weight_in_place(&self, slot: usize, factor: f64, plain: &[f64]) -> Ciphertext {
        let ((first, ..), (level, scale)) = (self.layers(), self.vector());
        let mut c = self.constant(0, 0);
        let divided: f64 = (level + 1..=c.level()).map(|l| self.parameters.rescale_factor(l).unwrap()).product();
        let repeat = first.row_period * first.span;
        let mask: Vec<Complex64> = (0..self.parameters.slots())
            .map(|s| Complex64::new(if s % repeat == slot % repeat { factor } else { 0.0 }, 0.0))
            .collect();
        let mask = self.encoder.encode(&mask, scale * divided / c.scale, c.level()).unwrap();
        c = self.evaluator.mul_plain(&c, &mask).unwrap();
        while c.level() > level {
            c = self.evaluator.rescale(&c).unwrap();
        }
        c = self.fold(c);
        c.scale = scale;
        self.plus(c, plain)
    }

    /// The plain vector as if it were a ciphertext.
    pub fn plain_in_place(&self, plain: &[f64]) -> Ciphertext {
        let (level, scale) = self.vector();
        let mut zero = self.key(0, level);
        zero.scale = scale;
        self.plus(zero, plain)
    }

    fn plus(&self, mut c: Ciphertext, plain: &[f64]) -> Ciphertext {
        let (first, ..) = self.layers();
        let plain = self.encoder.encode_real(&first.replicate(plain), c.scale, c.level()).unwrap();
        self.evaluator.add_plain_assign(&mut c, &plain).unwrap();
        c
    }

    /// The honest end of the program on a vector of the attacker's choice.
    pub fn finish(&self, vector: &Ciphertext) -> Vec<Ciphertext> {
        let mut registers: BTreeMap<usize, Ciphertext> = BTreeMap::new();
        let mut behind = false;
        for step in &self.program().steps {
            match step {
                Step::CoefficientRows { layout, weights, dst, .. } => {
                    behind = true;
                    for o in 0..layout.outputs() {
                        let weights = self.constant(*weights, o);
                        registers.insert(dst + o, self.evaluator.mul(&weights, vector).unwrap());
                    }
                }
                Step::AddConstant { reg, group, index } if behind => {
                    let constant = self.constant(*group, *index);
                    self.evaluator.add_assign(registers.get_mut(reg).unwrap(), &constant).unwrap();
                }
                Step::Relinearize { reg, rescale } if behind => {
                    let out = self.evaluator.relinearize(&registers[reg], &self.keys, *rescale).unwrap();
                    registers.insert(*reg, out);
                }
                Step::Rescale { reg } if behind => {
                    let out = self.evaluator.rescale(&registers[reg]).unwrap();
                    registers.insert(*reg, out);
                }
                _ => assert!(!behind, "{step:?}"),
            }
        }
        self.program().output.registers.iter().map(|r| registers[r].clone()).collect()
    }

    /// Conjugation, for tests that the attacker has keys at all.
    pub fn has_keys(&self) -> bool {
        self.program().keys.iter().any(|k| k.id.galois != Galois::IDENTITY)
    }
}
