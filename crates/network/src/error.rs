//! What can be wrong with a network, and its cure.

use subrosa_plain::PlainError;

use crate::activation::ActivationKind;

/// Why a network cannot be imported or split.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The bytes are no sound ONNX file.
    #[error("not a usable ONNX file: {0}")]
    Malformed(String),
    /// A sound file of a kind not handled.
    #[error("the network cannot be imported: {0}")]
    Unsupported(String),
    /// The runtime refuses the network.
    #[error(transparent)]
    Plain(#[from] PlainError),
    /// The plain and the protected part share weights.
    #[error(
        "the weights '{0}' are used in the plain part too, so the edge would get them in the clear: \
         protect from an earlier layer on, or export the network with a copy of them for each use"
    )]
    TiedWeights(String),
    /// Nothing at the network's end can be protected.
    #[error("no protectable layer: {0}")]
    NoDenseEnd(String),
    /// A chain of `--scope all` of a network that does not consist of FC layers only; a circuit can hold it.
    #[error("{0} cannot stand in a chain of FC layers: take the network as a circuit, or use --scope classifier")]
    NotAllDense(String),
    /// `--scope from:NAME` with a name that no layer has.
    #[error("no layer is called '{name}'; the FC layers that can be protected are: {known}")]
    UnknownLayer {
        /// The name asked for.
        name: String,
        /// The names to choose from.
        known: String,
    },
    /// `--scope from:NAME` with a layer that is not in the chain of FC layers at the end.
    #[error("'{name}' cannot be the first protected layer: {why}; choose one of: {known}")]
    NotInChain {
        /// The name asked for.
        name: String,
        /// What stands against it.
        why: String,
        /// The names to choose from.
        known: String,
    },
    /// An activation that encryption cannot evaluate, and no substitution for it.
    #[error(
        "the {kind} after layer '{layer}' is no polynomial and cannot be evaluated on encrypted values: \
         train the network with a polynomial in its place, give --activation {kind}={} (or another polynomial), \
         or protect less with --scope last",
        example(*kind)
    )]
    NeedsSubstitution {
        /// The layer before the activation.
        layer: String,
        /// The activation.
        kind: ActivationKind,
    },
    /// As before, where the activation is the network's last step, on its outputs.
    #[error(
        "the {kind} on the network's outputs, after layer '{layer}', is no polynomial: \
         give --activation {kind}=none to leave it to the owner after decryption"
    )]
    FinalActivation {
        /// The last layer.
        layer: String,
        /// The activation.
        kind: ActivationKind,
    },
    /// Scales that differ from unit to unit after the last activation, which no layer can take up.
    #[error(
        "the polynomial after the last layer '{0}' differs from output to output; \
         use one polynomial for all of them, or none"
    )]
    UnevenOutput(String),
    /// A node that cannot be part of a circuit.
    #[error("node '{node}' ({op}) {why}, which cannot be protected: {remedy}")]
    Operator {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// What it does that stands against it.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A layer whose matrix would not fit in memory.
    #[error(
        "node '{node}' ({op}) is a linear map with {size} once it is written out, where at most {limit} can \
         be protected: protect less (--scope classifier, or from a later layer on), or use a network with smaller \
         pictures or fewer channels"
    )]
    TooLarge {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// How many entries its matrix has, or how many values come out.
        size: String,
        /// How many are allowed.
        limit: usize,
    },
    /// `--scope from:NAME` with a name that no node or layer has.
    #[error("no layer is called '{name}'; the layers are: {known}")]
    NoSuchLayer {
        /// The name asked for.
        name: String,
        /// The names to choose from.
        known: String,
    },
    /// A cut at which the protected part would need more than one tensor.
    #[error(
        "the network cannot be cut before '{name}': node '{reader}' also reads '{tensor}', which is computed before the cut; \
         choose a layer where no branch is open, one of: {known}"
    )]
    SeveralPaths {
        /// The layer to cut at.
        name: String,
        /// The node that reads past the cut.
        reader: String,
        /// What it reads.
        tensor: String,
        /// Layers at which the network can be cut.
        known: String,
    },
    /// Folding produced weights beyond what f64 holds.
    #[error("the weights of layer '{0}' overflow when the layers around it are folded in; check the network's weights")]
    Overflow(String),
}

/// A polynomial to try in the place of `kind`, as text.
fn example(kind: ActivationKind) -> &'static str {
    match kind {
        ActivationKind::Sigmoid | ActivationKind::HardSigmoid => "poly:0.5,0.22,0,-0.008",
        ActivationKind::Tanh | ActivationKind::Softsign => "poly:0,0.9,0,-0.1",
        _ => "x2+2x",
    }
}
