//! The program: what the edge executes, step by step, on ciphertexts in numbered registers.
//!
//! The owner's planner writes it, the edge runs it without understanding the network. It says which parameters and keys
//! are needed, how the input is laid out, and where in the results the outputs are found.

use crate::integers::Integers;
use crate::layout::{CoefficientDot, CoefficientRows, Diagonals, Tiles};
use serde::{Deserialize, Serialize};
use subrosa_fhe::{Galois, KeyId, KeyShape, ParameterSpec};

/// A register number: registers hold ciphertexts.
pub type Register = usize;

/// A complete blind evaluation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Ring, primes and level of security.
    pub parameters: ParameterSpec,
    /// Every evaluation key the steps use.
    pub keys: Vec<KeyRequirement>,
    /// How features become plaintexts or ciphertexts.
    pub input: InputSpec,
    /// Groups of encrypted constants (weights, biases), in the order of the bundle's weight section.
    pub constants: Vec<ConstantGroup>,
    /// The steps, executed in order.
    pub steps: Vec<Step>,
    /// Where the outputs are.
    pub output: OutputSpec,
    /// What integers are worth and may be; only in BGV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integers: Option<Integers>,
}

/// One evaluation key: what it switches from, at which level and with which decomposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRequirement {
    /// The source secret.
    pub id: KeyId,
    /// Level, special primes and digits.
    pub shape: KeyShape,
}

/// How the features are laid out and what range of them the plan was made for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InputSpec {
    /// Number of features.
    pub features: usize,
    /// Whether the edge encrypts the features (into registers `0..`) or uses them as plaintexts.
    pub encrypted: bool,
    /// Level (ciphertext primes) of the input.
    pub level: usize,
    /// Scale of the input.
    pub scale: f64,
    /// Where the features lie.
    pub layout: InputLayout,
    /// Offset and factor of each feature, where they differ so much that the plan is for `(feature - offset) * factor`; else none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub normalise: Vec<(f64, f64)>,
    /// Largest absolute feature the plan covers, normalised.
    pub max_abs: f64,
    /// Largest Euclidean norm of the feature vector the plan covers, normalised.
    pub max_norm: f64,
}

impl InputSpec {
    /// Features as they are encoded.
    pub fn normalised(&self, features: impl Iterator<Item = f64>) -> Vec<f64> {
        if self.normalise.is_empty() {
            return features.collect();
        }
        features.zip(&self.normalise).map(|(x, (offset, factor))| (x - offset) * factor).collect()
    }
}

/// The layout of the first layer, which decides how the input is packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputLayout {
    /// In the slots, one vector for each tile.
    Diagonals(Diagonals),
    /// In the coefficients, one polynomial for each chunk.
    CoefficientDot(CoefficientDot),
    /// In the slots, as the tiles say.
    Tiles(Tiles),
}

impl InputLayout {
    /// Number of input polynomials.
    pub fn polynomials(&self) -> usize {
        match self {
            Self::Diagonals(d) => d.tiles.len(),
            Self::CoefficientDot(d) => d.chunks(),
            Self::Tiles(d) => d.tiles.len(),
        }
    }
}

/// Constants of one kind: `count` ciphertexts, or plaintexts, at one level and scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConstantGroup {
    /// What they are, for people ("dense weights").
    pub name: String,
    /// Number of ciphertexts.
    pub count: usize,
    /// Their level.
    pub level: usize,
    /// Their scale.
    pub scale: f64,
    /// Whether they are plaintexts: of a network whose input alone is encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
}

/// One step. `weights` and `group` are indices into [`Program::constants`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum Step {
    /// `dst = sum_t W_t * rot(x, t)` with the plain input, by its diagonal layout (which has one giant step).
    DiagonalsPlain {
        /// Weights, in the order tile, baby.
        weights: usize,
        /// Result, degree 1.
        dst: Register,
    },
    /// Encrypted matrix times encrypted vector(s) by diagonals with baby and giant steps; result of degree 1.
    DiagonalsCipher {
        /// The layout; one register of `inputs` for each tile.
        layout: Diagonals,
        /// Input vectors.
        inputs: Vec<Register>,
        /// Weights, in the order giant, tile, baby.
        weights: usize,
        /// Whether the key switch of the giant steps also drops the highest prime.
        rescale: bool,
        /// Result.
        dst: Register,
    },
    /// A linear map by weights that stand where its inputs do: `dst[i] = sum over products, giant steps g of sigma_g(sum_t W[g, t] * X[i, t])`,
    /// switched back to degree 1 and, with `rescale`, divided by the highest prime in the same rounding. Several results share their
    /// weights.
    Linear {
        /// What is summed.
        products: Vec<Product>,
        /// Whether the key switch also drops the highest prime.
        rescale: bool,
        /// The results; as many as each product has lists of inputs.
        dst: Vec<Register>,
    },
    /// The same of the plain input, without giant steps and key switch: `dst[i] = sum_t W[t] * x[inputs[i][t]]`.
    LinearPlain {
        /// Weights, one a term.
        weights: usize,
        /// For each result, the input polynomials that its terms multiply.
        inputs: Vec<Vec<usize>>,
        /// The results.
        dst: Vec<Register>,
    },
    /// Several automorphisms of one ciphertext of degree 1, from one decomposition; element `i` goes to register `dst + i`.
    Rotate {
        /// Source.
        src: Register,
        /// The automorphisms.
        elements: Vec<Galois>,
        /// First result register.
        dst: Register,
    },
    /// The real and the imaginary part of every slot, doubled: `re = x + conj(x)`, `im = -i (x - conj(x))`.
    Parts {
        /// Source, degree 1.
        src: Register,
        /// Twice the real part.
        re: Register,
        /// Twice the imaginary part.
        im: Register,
    },
    /// `dst = re + i im`: two real vectors in one.
    Combine {
        /// What becomes the real part.
        re: Register,
        /// What becomes the imaginary part.
        im: Register,
        /// Result.
        dst: Register,
    },
    /// Inner products in the coefficients with the input polynomials; result `o` goes to register `dst + o`.
    /// Degree 1 with plain, 2 with encrypted input.
    CoefficientDot {
        /// Weights, in the order output, chunk.
        weights: usize,
        /// First result register.
        dst: Register,
    },
    /// Inner products in the coefficients with the periodic vector in `src`; result `o` goes to register `dst + o`, its degree is one
    /// more than that of `src` where the weights are encrypted.
    CoefficientRows {
        /// The layout.
        layout: CoefficientRows,
        /// The vector.
        src: Register,
        /// Weights, one a result.
        weights: usize,
        /// First result register.
        dst: Register,
    },
    /// Adds an encrypted constant.
    AddConstant {
        /// Register to add to.
        reg: Register,
        /// Group of the constant.
        group: usize,
        /// Its number in the group.
        index: usize,
    },
    /// Applies the stages of a fold, `v = v + sum_g sigma_g(v)` each.
    Fold {
        /// Register to fold.
        reg: Register,
        /// Automorphisms of each stage.
        stages: Vec<Vec<Galois>>,
    },
    /// `dst = a * b`, not relinearised.
    Multiply {
        /// First factor.
        a: Register,
        /// Second factor (may be the same register).
        b: Register,
        /// Result.
        dst: Register,
    },
    /// Back to degree 1, with or without dropping the highest prime in the same division.
    Relinearize {
        /// Register to relinearise.
        reg: Register,
        /// Whether to rescale too.
        rescale: bool,
    },
    /// Drops the highest prime, dividing by it.
    Rescale {
        /// Register to rescale.
        reg: Register,
    },
    /// `dst = value * src`, the constant encoded at `scale` (public: coefficients of an activation polynomial).
    MultiplyScalar {
        /// Source.
        src: Register,
        /// The factor.
        value: f64,
        /// Scale it is encoded at.
        scale: f64,
        /// Result.
        dst: Register,
    },
    /// Adds a public constant to every slot.
    AddScalar {
        /// Register to add to.
        reg: Register,
        /// The constant.
        value: f64,
    },
    /// `dst = dst + src`.
    Add {
        /// Register that is added to.
        dst: Register,
        /// Register that is added.
        src: Register,
    },
    /// `dst = src` with the highest primes dropped (no division) down to `level`.
    DropLevel {
        /// Source.
        src: Register,
        /// Level of the result.
        level: usize,
        /// Result.
        dst: Register,
    },
}

/// Weights times inputs before giant steps; see [`Step::Linear`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// Weights, in the order giant step, term.
    pub weights: usize,
    /// The automorphisms of the giant steps.
    pub giants: Vec<Galois>,
    /// For each result, the register of each term.
    pub inputs: Vec<Vec<Register>>,
}

impl Product {
    /// Terms of one sum.
    pub fn terms(&self) -> usize {
        self.inputs.first().map_or(0, Vec::len)
    }
}

/// Where the outputs of the network are found in the result ciphertexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Result ciphertexts, in this order in the results file.
    pub registers: Vec<Register>,
    /// For each output of the network: (index into `registers`, coefficient).
    pub positions: Vec<(usize, usize)>,
    /// An output is the decrypted coefficient (divided by the scale) times this; in BGV modulo the plaintext modulus.
    pub factor: f64,
    /// Level of the result ciphertexts.
    pub level: usize,
    /// Degree of the result ciphertexts.
    pub degree: usize,
    /// Scale of the result ciphertexts.
    pub scale: f64,
    /// Largest absolute output that the plan covers.
    pub max_abs: f64,
}

impl Step {
    /// Its name, as in the program's JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DiagonalsPlain { .. } => "diagonals-plain",
            Self::DiagonalsCipher { .. } => "diagonals-cipher",
            Self::Linear { .. } => "linear",
            Self::LinearPlain { .. } => "linear-plain",
            Self::Rotate { .. } => "rotate",
            Self::Parts { .. } => "parts",
            Self::Combine { .. } => "combine",
            Self::CoefficientDot { .. } => "coefficient-dot",
            Self::CoefficientRows { .. } => "coefficient-rows",
            Self::AddConstant { .. } => "add-constant",
            Self::Fold { .. } => "fold",
            Self::Multiply { .. } => "multiply",
            Self::Relinearize { .. } => "relinearize",
            Self::Rescale { .. } => "rescale",
            Self::MultiplyScalar { .. } => "multiply-scalar",
            Self::AddScalar { .. } => "add-scalar",
            Self::Add { .. } => "add",
            Self::DropLevel { .. } => "drop-level",
        }
    }
}

impl Program {
    /// For each step that sums over several keys in one switch, the ids of such keys in the order in which they are read; there may be
    /// ids among them that need no key.
    pub fn key_sums(&self) -> Vec<Vec<KeyId>> {
        let powers = |g: Galois| [1, 2].map(|power| KeyId::new(g, power));
        let mut sums = Vec::new();
        for step in &self.steps {
            match step {
                Step::DiagonalsCipher { layout, .. } => {
                    sums.push((0..layout.giants).map(|g| layout.giant(g)).flat_map(powers).collect());
                }
                Step::Linear { products, .. } => {
                    sums.push(products.iter().flat_map(|product| &product.giants).copied().flat_map(powers).collect());
                }
                Step::Fold { stages, .. } => {
                    sums.extend(stages.iter().map(|stage| stage.iter().map(|&g| KeyId::new(g, 1)).collect()));
                }
                _ => {}
            }
        }
        sums
    }

    /// The encrypted constants (group, index) that the steps right behind step `at`, a [`Step::CoefficientDot`], add to its results, one
    /// to each in order: sums that start with them need no passes of their own. `None` if that is not what those steps do, and for
    /// exact integers, where a product is not finished as it is summed.
    pub fn biases_behind(&self, at: usize) -> Option<Vec<(usize, usize)>> {
        let (Some(Step::CoefficientDot { dst, .. }), InputLayout::CoefficientDot(layout), None) =
            (self.steps.get(at), &self.input.layout, &self.integers)
        else {
            return None;
        };
        let is_encrypted = |group: usize| self.constants.get(group).is_some_and(|g| !g.plain);
        let results = *dst..dst.saturating_add(layout.outputs());
        let mut behind = self.steps.iter().skip(at + 1);
        let bias = |result| match behind.next() {
            Some(Step::AddConstant { reg, group, index }) if *reg == result && is_encrypted(*group) => {
                Some((*group, *index))
            }
            _ => None,
        };
        results.map(bias).collect()
    }

    /// Registers that the steps use.
    pub fn registers(&self) -> usize {
        let input = if self.input.encrypted { self.input.layout.polynomials() } else { 0 };
        let outputs = |first: usize, count: usize| first.saturating_add(count);
        self.steps
            .iter()
            .map(|s| match s {
                Step::DiagonalsPlain { dst, .. } | Step::DiagonalsCipher { dst, .. } => dst.saturating_add(1),
                Step::CoefficientDot { dst, .. } => match &self.input.layout {
                    InputLayout::CoefficientDot(l) => outputs(*dst, l.outputs()),
                    InputLayout::Diagonals(_) | InputLayout::Tiles(_) => dst.saturating_add(1),
                },
                Step::Linear { dst, .. } | Step::LinearPlain { dst, .. } => {
                    dst.iter().max().map_or(0, |r| r.saturating_add(1))
                }
                Step::Rotate { elements, dst, .. } => outputs(*dst, elements.len()),
                Step::Parts { re, im, .. } => re.max(im).saturating_add(1),
                Step::CoefficientRows { layout, dst, .. } => outputs(*dst, layout.outputs()),
                Step::Multiply { dst, .. } | Step::MultiplyScalar { dst, .. } => dst.saturating_add(1),
                Step::Combine { dst, .. } | Step::Add { dst, .. } | Step::DropLevel { dst, .. } => {
                    dst.saturating_add(1)
                }
                Step::AddConstant { reg, .. }
                | Step::Fold { reg, .. }
                | Step::Relinearize { reg, .. }
                | Step::Rescale { reg }
                | Step::AddScalar { reg, .. } => reg.saturating_add(1),
            })
            .max()
            .unwrap_or(0)
            .max(input)
    }

    /// Encrypted constants in all groups, of all channels.
    pub fn ciphertexts(&self) -> usize {
        self.channel_count() * self.constants.iter().filter(|g| !g.plain).map(|g| g.count).sum::<usize>()
    }

    /// Constants in all groups, encrypted or not.
    pub fn constant_count(&self) -> usize {
        self.channel_count() * self.constants.iter().map(|g| g.count).sum::<usize>()
    }

    /// Whether the weights are plaintexts.
    pub fn has_plain_weights(&self) -> bool {
        self.constants.iter().any(|g| g.plain)
    }

    /// log2 of the result modulus over the declared range of the outputs at their scale, less one bit for the sign: the
    /// paper's remaining budget. In BGV the noise budget that is forecast.
    pub fn remaining_budget_bits(&self) -> f64 {
        if let Some(integers) = &self.integers {
            return integers.budget_bits;
        }
        let modulus: f64 = self.parameters.level_primes(self.output.level).iter().map(|&q| (q as f64).log2()).sum();
        modulus - 1.0 - (self.output.max_abs / self.output.factor * self.output.scale).log2()
    }
}
