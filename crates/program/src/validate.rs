//! Checks of a program that came from a file, before anything is allocated or executed for it.

use crate::layout::{CoefficientDot, CoefficientRows, Diagonals, Tiles};
use crate::program::{InputLayout, Program, Register, Step};
use subrosa_fhe::Galois;

/// More registers than any plan needs; bounds the memory a program can ask for.
const MAX_REGISTERS: usize = 65_536;
/// More constants than any plan needs.
const MAX_CONSTANTS: usize = 1 << 24;

impl Program {
    /// Checks that every index, shape and number is possible. The error says what is wrong.
    pub fn validate(&self) -> Result<(), String> {
        let log_n = self.parameters.log_n;
        if !(3..=17).contains(&log_n) {
            return Err(format!("ring degree 2^{log_n} is not supported"));
        }
        let n = 1usize << log_n;
        let levels = self.parameters.level_count();
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let input = &self.input;
        if input.features == 0 || input.level == 0 || input.level > levels || !positive(input.scale) {
            return Err("the input's features, level or scale are impossible".into());
        }
        if !positive(input.max_abs) || !positive(input.max_norm) {
            return Err("the input's range is impossible".into());
        }
        let finite = |(offset, factor): &(f64, f64)| offset.is_finite() && positive(*factor);
        if !(input.normalise.is_empty() || input.normalise.len() == input.features)
            || !input.normalise.iter().all(finite)
        {
            return Err("the input's offsets and factors are impossible".into());
        }
        let columns = match &input.layout {
            InputLayout::Diagonals(d) => {
                diagonals(d, n)?;
                d.cols
            }
            InputLayout::CoefficientDot(d) => {
                dot(d, n)?;
                d.cols
            }
            InputLayout::Tiles(t) => {
                tiles(t, n, input.features)?;
                input.features
            }
        };
        if columns != input.features {
            return Err(format!("the layout is for {columns} features, the network has {}", input.features));
        }
        let groups = &self.constants;
        if groups.iter().any(|g| g.count > MAX_CONSTANTS || g.level == 0 || g.level > levels || !positive(g.scale)) {
            return Err("a group of constants has an impossible count, level or scale".into());
        }
        let plain = self.has_plain_weights();
        if plain && (!input.encrypted || groups.iter().any(|g| !g.plain)) {
            return Err("plain weights need an encrypted input, and no encrypted weights beside them".into());
        }
        let group = |index: usize, needed: usize| match groups.get(index) {
            Some(g) if g.count >= needed => Ok(()),
            Some(g) => Err(format!("a step needs {needed} constants of group {index}, which has {}", g.count)),
            None => Err(format!("a step names group {index} of {}", groups.len())),
        };
        for key in &self.keys {
            let fits =
                (1..=levels).contains(&key.shape.level) && key.shape.specials <= self.parameters.special_primes.len();
            if !fits || key.shape.digit == 0 {
                return Err("a key has an impossible level, number of special primes or digit".into());
            }
        }
        for step in &self.steps {
            match step {
                Step::DiagonalsPlain { .. } | Step::DiagonalsCipher { .. } | Step::CoefficientDot { .. } if plain => {
                    return Err(format!("a step '{}' needs encrypted weights", step.name()));
                }
                Step::DiagonalsPlain { weights, .. } => match &input.layout {
                    InputLayout::Diagonals(d) if !input.encrypted && d.giants == 1 => group(*weights, d.products())?,
                    _ => return Err("a plain product needs a plain input in diagonals without giant steps".into()),
                },
                Step::DiagonalsCipher { layout, inputs, weights, .. } => {
                    diagonals(layout, n)?;
                    if inputs.len() != layout.tiles.len() {
                        return Err("a product has not one input for each tile".into());
                    }
                    group(*weights, layout.products())?;
                }
                Step::CoefficientDot { weights, .. } => match &input.layout {
                    InputLayout::CoefficientDot(d) => group(*weights, d.outputs() * d.chunks())?,
                    InputLayout::Diagonals(_) | InputLayout::Tiles(_) => {
                        return Err("a coefficient product needs an input in coefficients".into());
                    }
                },
                Step::CoefficientRows { layout, weights, .. } => {
                    rows(layout, n)?;
                    group(*weights, layout.outputs())?;
                }
                Step::Linear { products, dst, .. } => {
                    for p in products {
                        let terms = p.terms();
                        if p.giants.is_empty()
                            || p.inputs.len() != dst.len()
                            || p.inputs.iter().any(|i| i.len() != terms)
                        {
                            return Err("a linear map has not one list of as many inputs for each result".into());
                        }
                        group(p.weights, p.giants.len().saturating_mul(terms))?;
                        p.giants.iter().try_for_each(|g| galois(*g, n))?;
                    }
                    if products.is_empty() || dst.is_empty() {
                        return Err("a linear map has no products or no results".into());
                    }
                }
                Step::LinearPlain { weights, inputs, dst } => {
                    let terms = inputs.first().map_or(0, Vec::len);
                    let known = |i: &usize| *i < input.layout.polynomials();
                    if input.encrypted
                        || !matches!(input.layout, InputLayout::Tiles(_))
                        || terms == 0
                        || inputs.len() != dst.len()
                        || !inputs.iter().all(|i| i.len() == terms && i.iter().all(known))
                    {
                        return Err("a plain product does not fit its input".into());
                    }
                    group(*weights, terms)?;
                }
                Step::Rotate { elements, .. } => {
                    if elements.is_empty() || elements.len() > n {
                        return Err("a step of rotations has none, or too many".into());
                    }
                    elements.iter().try_for_each(|g| galois(*g, n))?;
                }
                Step::AddConstant { group: g, index, .. } => group(*g, index.saturating_add(1))?,
                Step::MultiplyScalar { value, scale, .. } if !value.is_finite() || !positive(*scale) => {
                    return Err("a public factor or its scale is impossible".into());
                }
                Step::AddScalar { value, .. } if !value.is_finite() => {
                    return Err("a public constant is impossible".into());
                }
                _ => {}
            }
        }
        if self.registers() > MAX_REGISTERS
            || self.steps.iter().any(|s| s.sources().iter().any(|&r| r >= MAX_REGISTERS))
        {
            return Err(format!("it uses more than {MAX_REGISTERS} registers"));
        }
        let output = &self.output;
        let degree = (1..=4).contains(&output.degree);
        let numbers = [output.scale, output.factor, output.max_abs].into_iter().all(positive);
        if output.level == 0 || output.level > levels || !degree || !numbers {
            return Err("the output's level, degree, scale, factor or range are impossible".into());
        }
        let known = |&(r, c): &(usize, usize)| r < output.registers.len() && c < n;
        if output.positions.is_empty() || output.registers.is_empty() || !output.positions.iter().all(known) {
            return Err("an output lies outside the results".into());
        }
        self.validate_integers()
    }
}

impl Step {
    /// Registers that are written.
    pub fn targets(&self, input: &InputLayout) -> Vec<Register> {
        let from = |first: &Register, count: usize| (*first..first.saturating_add(count)).collect();
        match self {
            Self::Linear { dst, .. } | Self::LinearPlain { dst, .. } => dst.clone(),
            Self::Rotate { elements, dst, .. } => from(dst, elements.len()),
            Self::Parts { re, im, .. } => vec![*re, *im],
            Self::CoefficientDot { dst, .. } => match input {
                InputLayout::CoefficientDot(layout) => from(dst, layout.outputs()),
                InputLayout::Diagonals(_) | InputLayout::Tiles(_) => vec![*dst],
            },
            Self::CoefficientRows { layout, dst, .. } => from(dst, layout.outputs()),
            Self::DiagonalsPlain { dst, .. }
            | Self::DiagonalsCipher { dst, .. }
            | Self::Multiply { dst, .. }
            | Self::MultiplyScalar { dst, .. }
            | Self::Combine { dst, .. }
            | Self::Add { dst, .. }
            | Self::DropLevel { dst, .. } => vec![*dst],
            Self::AddConstant { reg, .. }
            | Self::Fold { reg, .. }
            | Self::Relinearize { reg, .. }
            | Self::Rescale { reg }
            | Self::AddScalar { reg, .. } => vec![*reg],
        }
    }

    /// Registers that are read.
    pub fn sources(&self) -> Vec<Register> {
        match self {
            Self::DiagonalsPlain { .. } | Self::CoefficientDot { .. } | Self::LinearPlain { .. } => Vec::new(),
            Self::Linear { products, .. } => products.iter().flat_map(|p| &p.inputs).flatten().copied().collect(),
            Self::Rotate { src, .. } | Self::Parts { src, .. } => vec![*src],
            Self::DiagonalsCipher { inputs, .. } => inputs.clone(),
            Self::Multiply { a, b, .. } => vec![*a, *b],
            Self::Combine { re, im, .. } => vec![*re, *im],
            Self::CoefficientRows { src, .. } | Self::MultiplyScalar { src, .. } | Self::DropLevel { src, .. } => {
                vec![*src]
            }
            Self::Add { dst, src } => vec![*dst, *src],
            Self::AddConstant { reg, .. }
            | Self::Fold { reg, .. }
            | Self::Relinearize { reg, .. }
            | Self::Rescale { reg }
            | Self::AddScalar { reg, .. } => vec![*reg],
        }
    }
}

impl Step {
    /// Registers that are written, those of a [`Step::CoefficientDot`] from its first on without an end.
    pub fn writes(&self, register: Register) -> bool {
        match self {
            Self::DiagonalsPlain { dst, .. }
            | Self::DiagonalsCipher { dst, .. }
            | Self::Combine { dst, .. }
            | Self::Multiply { dst, .. }
            | Self::MultiplyScalar { dst, .. }
            | Self::Add { dst, .. }
            | Self::DropLevel { dst, .. } => *dst == register,
            Self::Linear { dst, .. } | Self::LinearPlain { dst, .. } => dst.contains(&register),
            Self::Rotate { elements, dst, .. } => (*dst..dst.saturating_add(elements.len())).contains(&register),
            Self::Parts { re, im, .. } => *re == register || *im == register,
            Self::CoefficientRows { layout, dst, .. } => {
                (*dst..dst.saturating_add(layout.outputs())).contains(&register)
            }
            Self::CoefficientDot { dst, .. } => *dst <= register,
            Self::AddConstant { reg, .. }
            | Self::Fold { reg, .. }
            | Self::Relinearize { reg, .. }
            | Self::Rescale { reg }
            | Self::AddScalar { reg, .. } => *reg == register,
        }
    }
}

fn diagonals(d: &Diagonals, n: usize) -> Result<(), String> {
    let power = |x: usize| x.is_power_of_two() && x <= n;
    let fits = d.slots * 2 == n
        && (1..=d.row_period).contains(&d.rows)
        && power(d.row_period)
        && power(d.span)
        && d.row_period.saturating_mul(d.span) <= d.slots
        && (1..=MAX_CONSTANTS).contains(&d.cols)
        && power(d.giants)
        && power(d.baby_stride)
        && d.giants.saturating_mul(d.baby_stride) <= d.slots
        && d.input_period.is_none_or(|p| power(p) && p <= d.slots && d.span == (p / d.row_period).max(1))
        && (1..=MAX_CONSTANTS).contains(&d.tiles.len())
        && d.tiles.iter().all(|t| power(t.babies) && t.babies <= d.slots && t.first_column <= MAX_CONSTANTS);
    if fits { Ok(()) } else { Err("a layout in the slots is impossible".into()) }
}

fn dot(d: &CoefficientDot, n: usize) -> Result<(), String> {
    let fits = d.n == n && (1..=MAX_CONSTANTS).contains(&d.cols) && (1..=MAX_CONSTANTS).contains(&d.rows);
    if fits { Ok(()) } else { Err("a layout in the coefficients is impossible".into()) }
}

fn rows(d: &CoefficientRows, n: usize) -> Result<(), String> {
    let fits = d.n == n
        && d.period.is_power_of_two()
        && d.period <= n / 2
        && (1..=d.period).contains(&d.cols)
        && (1..=MAX_CONSTANTS).contains(&d.rows);
    if fits { Ok(()) } else { Err("a layout of the last layer is impossible".into()) }
}

fn galois(g: Galois, n: usize) -> Result<(), String> {
    if (g.rotation as usize) < n / 2 { Ok(()) } else { Err(format!("a rotation by {} of {} slots", g.rotation, n / 2)) }
}

fn tiles(t: &Tiles, n: usize, features: usize) -> Result<(), String> {
    let period = t.period.is_power_of_two() && t.period <= n / 2;
    let fits = t.slots * 2 == n
        && period
        && (1..=MAX_REGISTERS).contains(&t.tiles.len())
        && t.tiles.iter().flatten().all(|run| run.fits(t.period, features));
    if fits { Ok(()) } else { Err("an input layout in tiles is impossible".into()) }
}
