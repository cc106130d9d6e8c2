//! What a program of exact integers (BGV) has besides: fixed point, several plaintext moduli, and what results may be.

use crate::layout::Diagonals;
use crate::program::{ConstantGroup, OutputSpec, Program};
use serde::{Deserialize, Serialize};
use subrosa_fhe::{Complex64, Scheme};

/// Of a program whose parameters have a plaintext modulus. Features enter as round(x * input_unit); an output in the network's units is
/// the integer times `output_unit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integers {
    /// What features are multiplied by before they are rounded.
    pub input_unit: f64,
    /// What an integer output is worth.
    pub output_unit: f64,
    /// No honest output is larger in absolute value: proven from weights and the declared range of the features.
    pub output_bound: f64,
    /// The noise budget in bits that every honest result has at least, but with probability 2^-40.
    pub budget_bits: f64,
    /// Plaintext moduli beyond that of the program's parameters: the whole program is executed modulo each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
}

/// A further plaintext modulus, and the scales modulo it where the program has those modulo its first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// The plaintext modulus.
    pub modulus: u64,
    /// Scale of the input.
    pub input: f64,
    /// Scale of each group of constants.
    pub constants: Vec<f64>,
    /// Scale of the results.
    pub output: f64,
}

impl Program {
    /// BGV if the parameters have a plaintext modulus, else CKKS.
    pub fn scheme(&self) -> Scheme {
        if self.parameters.plaintext_modulus.is_some() { Scheme::Bgv } else { Scheme::Ckks }
    }

    /// The program modulo its first plaintext modulus, and modulo each further one; just itself in CKKS.
    pub fn channels(&self) -> Vec<Program> {
        let further = self.integers.iter().flat_map(|integers| &integers.channels);
        std::iter::once(self.clone()).chain(further.map(|channel| self.channel(channel))).collect()
    }

    /// Number of plaintext moduli; 1 in CKKS.
    pub fn channel_count(&self) -> usize {
        1 + self.integers.as_ref().map_or(0, |integers| integers.channels.len())
    }

    /// The groups of constants of all channels, one channel after the other: the order of the bundle's weight section.
    pub fn groups(&self) -> Vec<ConstantGroup> {
        self.channels().into_iter().flat_map(|channel| channel.constants).collect()
    }

    /// The output as it stands in a results file: with the registers of all channels, one channel after the other. Scales are those of
    /// each channel.
    pub fn results(&self) -> OutputSpec {
        let registers = self.output.registers.repeat(self.channel_count());
        OutputSpec { registers, ..self.output.clone() }
    }

    /// All plaintext moduli, the program's own first.
    pub fn plaintext_moduli(&self) -> Vec<u64> {
        let further = self.integers.iter().flat_map(|integers| &integers.channels).map(|channel| channel.modulus);
        self.parameters.plaintext_modulus.into_iter().chain(further).collect()
    }

    fn channel(&self, channel: &Channel) -> Program {
        let mut program = self.clone();
        program.parameters = program.parameters.with_plaintext_modulus(channel.modulus);
        program.input.scale = channel.input;
        program.output.scale = channel.output;
        for (group, &scale) in program.constants.iter_mut().zip(&channel.constants) {
            group.scale = scale;
        }
        if let Some(integers) = &mut program.integers {
            integers.channels.clear();
        }
        program
    }

    /// Checks what integers add; see [`Program::validate`].
    pub(crate) fn validate_integers(&self) -> Result<(), String> {
        let Some(integers) = &self.integers else {
            return match self.scheme() {
                Scheme::Ckks => Ok(()),
                Scheme::Bgv => Err("a program of integers does not say what they are worth".into()),
            };
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let numbers = [integers.input_unit, integers.output_unit, integers.output_bound, integers.budget_bits];
        if self.scheme() != Scheme::Bgv || !numbers.into_iter().all(positive) {
            return Err("a program's integers have impossible units, bounds or budgets, or no modulus".into());
        }
        let whole = |scale: f64| scale.fract() == 0.0 && scale >= 1.0;
        let fits = |c: &Channel| {
            let scales = || c.constants.iter().chain([&c.input, &c.output]);
            c.constants.len() == self.constants.len() && scales().all(|s| positive(*s) && whole(*s))
        };
        if integers.channels.len() >= MAX_CHANNELS || !integers.channels.iter().all(fits) {
            return Err("a plaintext modulus has not one scale for each group of constants".into());
        }
        let moduli = self.plaintext_moduli();
        let channels = subrosa_fhe::bgv::crt::Channels::new(&moduli).map_err(|e| e.to_string())?;
        if integers.output_bound >= channels.product() as f64 / 2.0 {
            return Err("its outputs do not fit its plaintext moduli".into());
        }
        Ok(())
    }
}

/// More plaintext moduli than any plan needs.
const MAX_CHANNELS: usize = 16;

/// How a complex number in a slot becomes two integers, one in each row of a plaintext modulo t.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packed {
    /// An input x_a + i x_b: as they are.
    Input,
    /// A weight (w_a - i w_b)/2: doubled, the second negated.
    Weight,
}

impl Diagonals {
    /// The N slots of two rows for N/2 slots of whole numbers: with complex packing two columns that share a slot stand in the two rows,
    /// and the conjugation, which swaps rows, sums them; without, both rows are the same.
    pub fn rows_of(&self, slots: &[Complex64], packed: Packed) -> Vec<i64> {
        let second = |z: &Complex64| match (self.complex, packed) {
            (false, _) => z.re,
            (true, Packed::Input) => z.im,
            (true, Packed::Weight) => -2.0 * z.im,
        };
        let first = if self.complex && packed == Packed::Weight { 2.0 } else { 1.0 };
        let first = slots.iter().map(|z| (first * z.re) as i64);
        first.chain(slots.iter().map(|z| second(z) as i64)).collect()
    }
}
