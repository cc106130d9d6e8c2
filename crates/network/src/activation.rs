//! Activations by kind, and what the owner puts in the place of those encryption cannot evaluate.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fit::{Fit, FitChoice, FitError, ScalarFunction};
use crate::polynomial::{ParsePolynomialError, Polynomial};

macro_rules! kinds {
    ($($kind:ident $name:literal $text:literal),* $(,)?) => {
        /// An activation that is no polynomial, by the operator that computes it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum ActivationKind {
            $(#[doc = $text] $kind),*
        }

        impl ActivationKind {
            const ALL: &'static [(ActivationKind, &'static str)] = &[$((ActivationKind::$kind, $name)),*];
        }
    };
}

kinds! {
    Relu "relu" "max(x, 0).",
    Relu6 "relu6" "min(max(x, 0), 6).",
    LeakyRelu "leakyrelu" "x or a small multiple of x, by its sign.",
    Prelu "prelu" "LeakyRelu with learned slopes.",
    ThresholdedRelu "thresholdedrelu" "x above a threshold, else 0.",
    Elu "elu" "x or a (e^x - 1), by its sign.",
    Selu "selu" "Scaled Elu.",
    Celu "celu" "Continuously differentiable Elu.",
    Softplus "softplus" "ln(1 + e^x).",
    Softsign "softsign" "x / (1 + |x|).",
    Sigmoid "sigmoid" "1 / (1 + e^-x).",
    HardSigmoid "hardsigmoid" "Sigmoid by straight pieces.",
    Tanh "tanh" "The hyperbolic tangent.",
    Gelu "gelu" "x times the normal distribution function of x.",
    Swish "swish" "x times its Sigmoid; also SiLU.",
    HardSwish "hardswish" "x times its HardSigmoid.",
    Mish "mish" "x tanh(Softplus(x)).",
    Clip "clip" "x held between two bounds.",
    Abs "abs" "|x|.",
    Exp "exp" "e^x.",
    Max "max" "The largest value of each window, as in MaxPool.",
    Other "other" "Any other function of each value alone.",
}

impl ActivationKind {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = ActivationKind> {
        Self::ALL.iter().map(|(kind, _)| *kind)
    }

    /// Its value at `x`, with the parameters that ONNX takes when a network names none; `None` for kinds whose weights
    /// or bounds each network brings itself, and for [`Other`](Self::Other).
    pub fn eval(&self, x: f64) -> Option<f64> {
        ScalarFunction::try_from(*self).ok().map(|function| function.eval(x))
    }

    /// The kind of a single ONNX operator of one operand, `None` if it is no activation.
    pub(crate) fn of_op(op: &str) -> Option<Self> {
        Some(match op {
            "Relu" => Self::Relu,
            "LeakyRelu" => Self::LeakyRelu,
            "PRelu" => Self::Prelu,
            "ThresholdedRelu" => Self::ThresholdedRelu,
            "Elu" => Self::Elu,
            "Selu" => Self::Selu,
            "Celu" => Self::Celu,
            "Softplus" => Self::Softplus,
            "Softsign" => Self::Softsign,
            "Sigmoid" => Self::Sigmoid,
            "HardSigmoid" => Self::HardSigmoid,
            "Tanh" => Self::Tanh,
            "Gelu" | "FastGelu" | "QuickGelu" => Self::Gelu,
            "Swish" => Self::Swish,
            "HardSwish" => Self::HardSwish,
            "Mish" => Self::Mish,
            "Clip" => Self::Clip,
            "Abs" => Self::Abs,
            "Exp" => Self::Exp,
            "Erf" | "Log" | "Sqrt" | "Reciprocal" | "Sin" | "Cos" | "Atan" | "Sign" | "Floor" | "Ceil" | "Round" => {
                Self::Other
            }
            _ => return None,
        })
    }

    /// The kind of an activation written out as several operators.
    pub(crate) fn of_ops(ops: &[&str]) -> Self {
        let has = |op: &str| ops.contains(&op);
        if has("Erf") {
            Self::Gelu
        } else if has("Tanh") && has("Softplus") {
            Self::Mish
        } else if has("Tanh") && has("Mul") {
            Self::Gelu
        } else if has("Sigmoid") && has("Mul") {
            Self::Swish
        } else if has("HardSigmoid") && has("Mul") || has("Clip") && has("Mul") {
            Self::HardSwish
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for ActivationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find_map(|(kind, name)| (kind == self).then_some(*name));
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for ActivationKind {
    type Err = ParseSubstitutionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted: String = text.trim().to_ascii_lowercase().replace(['_', '-'], "").replace("silu", "swish");
        Self::ALL
            .iter()
            .find_map(|(kind, name)| (*name == wanted).then_some(*kind))
            .ok_or_else(|| ParseSubstitutionsError::UnknownActivation(text.to_owned()))
    }
}

/// What follows a protected dense layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing.
    Identity,
    /// A polynomial of degree 2 or more on each value.
    Polynomial(Polynomial),
}

impl Activation {
    /// The activation at `x`.
    pub fn eval(&self, x: f64) -> f64 {
        match self {
            Activation::Identity => x,
            Activation::Polynomial(polynomial) => polynomial.eval(x),
        }
    }

    /// The degree: 1 for the identity.
    pub fn degree(&self) -> usize {
        match self {
            Activation::Identity => 1,
            Activation::Polynomial(polynomial) => polynomial.degree(),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activation::Identity => f.write_str("none"),
            Activation::Polynomial(polynomial) => polynomial.fmt(f),
        }
    }
}

/// What stands for an activation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Substitute {
    /// One polynomial wherever it occurs.
    Polynomial(Polynomial),
    /// A polynomial of its own for each layer, fitted to what the layer gives.
    Fitted(FitChoice),
}

/// What to use in the place of activations inside the protected part.
///
/// As text: `relu=x2+2x`, several separated by semicolons or spaces. The right side may be a [`Fit`], as in
/// `relu=chebyshev(relu,4,-4,4)`; without a function it is the left side that is fitted: `relu=chebyshev(4,-4,4)`.
/// A [`FitChoice`] as in `relu=chebyshev:7` or `relu=auto` makes a polynomial for each layer from calibration data.
/// `max=mean` puts mean pooling in the place of MaxPool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Substitutions(BTreeMap<ActivationKind, Substitute>);

impl Substitutions {
    /// No substitution.
    pub fn none() -> Self {
        Self::default()
    }

    /// Puts `polynomial` in the place of every activation of `kind`.
    pub fn insert(&mut self, kind: ActivationKind, polynomial: Polynomial) {
        self.0.insert(kind, Substitute::Polynomial(polynomial));
    }

    /// Fits every activation of `kind` by a polynomial for its layer.
    pub fn insert_choice(&mut self, kind: ActivationKind, choice: FitChoice) {
        self.0.insert(kind, Substitute::Fitted(choice));
    }

    /// Adds those of `others`, which count where both have one.
    pub fn extend(&mut self, others: &Substitutions) {
        self.0.extend(others.0.iter().map(|(kind, substitute)| (*kind, substitute.clone())));
    }

    /// The polynomial that stands for `kind` everywhere, if there is one.
    pub fn get(&self, kind: ActivationKind) -> Option<&Polynomial> {
        match self.0.get(&kind) {
            Some(Substitute::Polynomial(polynomial)) => Some(polynomial),
            _ => None,
        }
    }

    /// How `kind` is to be fitted, if it is.
    pub fn choice(&self, kind: ActivationKind) -> Option<&FitChoice> {
        match self.0.get(&kind) {
            Some(Substitute::Fitted(choice)) => Some(choice),
            _ => None,
        }
    }

    /// All substitutions, by kind.
    pub fn iter(&self) -> impl Iterator<Item = (ActivationKind, &Substitute)> {
        self.0.iter().map(|(kind, substitute)| (*kind, substitute))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Substitutions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, substitute)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            match substitute {
                _ if *kind == ActivationKind::Max => write!(f, "{separator}{kind}=mean")?,
                Substitute::Polynomial(polynomial) => write!(f, "{separator}{kind}={polynomial}")?,
                Substitute::Fitted(choice) => write!(f, "{separator}{kind}={choice}")?,
            }
        }
        Ok(())
    }
}

/// A text that names no substitution.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParseSubstitutionsError {
    /// No equals sign.
    #[error("'{0}' is not a substitution: write ACTIVATION=POLYNOMIAL, for example relu=x2+2x")]
    NotAPair(String),
    /// The left side is unknown.
    #[error(
        "'{0}' is not an activation known here: use relu, relu6, leakyrelu, elu, selu, softplus, sigmoid, tanh, gelu, swish, …"
    )]
    UnknownActivation(String),
    /// Something else than the mean in the place of the largest value.
    #[error("'{0}' cannot stand for the largest of several values: write max=mean")]
    OnlyMean(String),
    /// The right side is no polynomial.
    #[error("{0}, or a fit like chebyshev(4,-4,4) or, from calibration data, chebyshev:7 or auto")]
    Polynomial(#[from] ParsePolynomialError),
    /// The right side is a fit that cannot be made.
    #[error(transparent)]
    Fit(#[from] FitError),
}

impl FromStr for Substitutions {
    type Err = ParseSubstitutionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut substitutions = Self::default();
        // Spaces within parentheses separate a fit's arguments.
        let mut inside = false;
        let separator = |c: char| {
            inside = (inside || c == '(') && c != ')';
            c == ';' || c.is_whitespace() && !inside
        };
        for part in text.split(separator).filter(|part| !part.is_empty()) {
            let (kind, right) =
                part.split_once('=').ok_or_else(|| ParseSubstitutionsError::NotAPair(part.to_owned()))?;
            let kind = kind.parse()?;
            if FitChoice::is_meant(right) && !right.contains('(') && kind != ActivationKind::Max {
                ScalarFunction::try_from(kind)?;
                substitutions.insert_choice(kind, right.parse()?);
                continue;
            }
            let polynomial = if kind == ActivationKind::Max {
                if right.trim() != "mean" {
                    return Err(ParseSubstitutionsError::OnlyMean(right.to_owned()));
                }
                Polynomial::identity()
            } else if right.contains('(') {
                Fit::parse_for(kind, right)?.polynomial()?
            } else {
                right.parse()?
            };
            substitutions.insert(kind, polynomial);
        }
        Ok(substitutions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions_read_and_print_back() {
        let text = "relu=x2+2x;tanh=poly:0,1,0,-0.3 SiLU=none";
        let substitutions: Substitutions = text.parse().unwrap();
        assert_eq!(substitutions.to_string(), "relu=x^2+2x;tanh=-0.3x^3+x;swish=x");
        assert_eq!(substitutions.to_string().parse::<Substitutions>().unwrap(), substitutions);
        assert_eq!(substitutions.get(ActivationKind::Relu).unwrap().to_string(), "x^2+2x");
        assert_eq!("max=mean".parse::<Substitutions>().unwrap().to_string(), "max=mean");
    }

    #[test]
    fn fits_stand_on_the_right_side() {
        let full: Substitutions = "relu=chebyshev(relu, 4, -4, 4);tanh=square".parse().unwrap();
        let short: Substitutions = "relu=chebyshev(4,-4,4) tanh=square".parse().unwrap();
        assert_eq!(full, short);
        assert_eq!(full.iter().count(), 2);
        assert_eq!(full.get(ActivationKind::Relu).unwrap().degree(), 4);
        assert_eq!(full.to_string().parse::<Substitutions>().unwrap(), full);
        let other: Substitutions = "gelu=chebyshev(relu,4,-4,4)".parse().unwrap();
        assert_eq!(other.get(ActivationKind::Gelu), full.get(ActivationKind::Relu));
    }

    #[test]
    fn choices_stand_on_the_right_side() {
        let mixed: Substitutions = "relu=auto;tanh=chebyshev:7@-3..3 sigmoid=integrated:5;gelu=x2".parse().unwrap();
        assert_eq!(mixed.to_string(), "relu=auto;sigmoid=integral:5;tanh=chebyshev:7@-3..3;gelu=x^2");
        assert_eq!(mixed.to_string().parse::<Substitutions>().unwrap(), mixed);
        assert_eq!(mixed.choice(ActivationKind::Relu), Some(&FitChoice::Auto));
        assert!(mixed.get(ActivationKind::Relu).is_none() && mixed.choice(ActivationKind::Gelu).is_none());
        assert!(mixed.get(ActivationKind::Gelu).is_some());
        let mut others: Substitutions = "relu=square".parse().unwrap();
        others.extend(&mixed);
        assert_eq!(others, mixed);
    }

    #[test]
    fn bad_substitutions_say_what_to_write() {
        for (text, part) in [
            ("relu", "write ACTIVATION=POLYNOMIAL"),
            ("rellu=square", "'rellu' is not an activation"),
            (
                "relu=cube",
                "or a sum like 0.5x^2+x-1, or a fit like chebyshev(4,-4,4) or, from calibration data, chebyshev:7",
            ),
            ("relu=chebyshev:x", "'chebyshev:x' is not a fit: write auto, METHOD:DEGREE or METHOD:DEGREE@LO..HI"),
            ("relu=chebyshev:7@-8", "write auto, METHOD:DEGREE or METHOD:DEGREE@LO..HI"),
            ("relu=chebyshev:99", "a fit cannot have degree 99: choose 1 to 32"),
            ("relu=chebyshev:7@8..-8", "no fit on [8, -8]: write the lower end first"),
            ("relu=remez:7", "'remez' is not a way to fit"),
            ("prelu=auto", "prelu is not one function"),
            ("relu=chebyshev(4,-4)", "write METHOD(FUNCTION,DEGREE,LO,HI)"),
            ("relu=remez(4,-4,4)", "'remez' is not a way to fit"),
            ("clip=chebyshev(4,-4,4)", "clip is not one function"),
            ("max=x2", "'x2' cannot stand for the largest of several values: write max=mean"),
        ] {
            let error = text.parse::<Substitutions>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
