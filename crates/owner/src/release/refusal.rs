//! Why a result is not released.

use subrosa_registry::fleet::Decision;

/// Why a result is not released. The texts are for the owner; a device is told [`Refusal::for_device`] at most, since what is refused
/// and why says something about what was decrypted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Signed by nobody who is enrolled, or not by the one who is named.
    #[error(
        "the result's signature is not that of device '{device}': it comes from somebody else, or was changed on its way"
    )]
    Signature {
        /// The device that is named.
        device: String,
    },
    /// No such device.
    #[error("device '{device}' is not enrolled: enrol it, or ask who uses its name")]
    Unknown {
        /// The device that is named.
        device: String,
    },
    /// The device was revoked.
    #[error("device '{device}' was revoked: nothing of it is decrypted any more")]
    Revoked {
        /// The device.
        device: String,
    },
    /// A sequence number of this device that was used before.
    #[error("device '{device}' used its number {sequence} before: a replay, or two machines with one key")]
    Replay {
        /// The device.
        device: String,
        /// The number.
        sequence: u64,
    },
    /// An inference that was decided before, from another record.
    #[error(
        "device '{device}' sends under its number {sequence} an inference that was decided before: it evaluated the sample again, or a replay"
    )]
    Duplicate {
        /// The device.
        device: String,
        /// The number.
        sequence: u64,
    },
    /// Another network, or another version of it.
    #[error("the result is of network {stated}, not of {expected}")]
    Model {
        /// What the device states: id@version.
        stated: String,
        /// What is decrypted here.
        expected: String,
    },
    /// A network that was retired.
    #[error("the result is of network {stated}, which was retired: nothing of it is decrypted any more")]
    Retired {
        /// What the device states: id@version.
        stated: String,
    },
    /// Not what the network's program ends in.
    #[error("the result is not of the form this network ends in: {0}")]
    Form(String),
    /// Not what an evaluation of this network leaves in its ciphertexts.
    #[error(
        "the result is not what an evaluation of this network leaves: it is off by {deviation:.2e}, honest ones are by at most {permitted:.2e}"
    )]
    Slots {
        /// Root mean square of what no evaluation leaves, in units of the outputs.
        deviation: f64,
        /// The most that noise explains.
        permitted: f64,
    },
    /// An output outside its declared range.
    #[error(
        "an output lies outside the range of {max_abs:.4} that the network was protected for: the answer may be wrong"
    )]
    Range {
        /// Largest absolute output that is declared.
        max_abs: f64,
    },
    /// Exact integers with less noise budget than an honest evaluation leaves, or beyond what is proven of honest ones.
    #[error(transparent)]
    Integers(#[from] crate::exact::Dishonest),
    /// A limit is reached.
    #[error("{what}: the limit is {limit}; wait, or raise the budget if this is what you want")]
    Budget {
        /// What is used up.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Too many results that no honest device sends.
    #[error(
        "the device sent {refused} results that no honest device sends: find out why, then let it in again or revoke it"
    )]
    Suspended {
        /// How many.
        refused: u64,
    },
    /// The policy asks for what cannot be had.
    #[error("{0}")]
    Policy(String),
}

impl Refusal {
    /// As the registry keeps it.
    pub fn decision(&self) -> Decision {
        Decision::Refuse { code: self.code().to_owned(), reason: self.to_string(), violation: self.is_violation() }
    }

    /// Constant and machine-readable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Signature { .. } => "signature",
            Self::Unknown { .. } => "unknown",
            Self::Revoked { .. } => "revoked",
            Self::Replay { .. } => "replay",
            Self::Duplicate { .. } => "duplicate",
            Self::Model { .. } => "model",
            Self::Retired { .. } => "retired",
            Self::Form(_) => "form",
            Self::Slots { .. } => "slots",
            Self::Range { .. } => "range",
            Self::Integers(_) => "integers",
            Self::Budget { .. } => "budget",
            Self::Suspended { .. } => "suspended",
            Self::Policy(_) => "policy",
        }
    }

    /// Whether it is the device's own doing (nobody else can sign it), and no honest device's: such refusals count for
    /// [`super::Budget::violations_per_device`].
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Form(_) | Self::Slots { .. } | Self::Integers(_))
    }

    /// What a device may be told: nothing that was found out by decrypting.
    pub fn for_device(&self) -> &'static str {
        match self {
            Self::Slots { .. } | Self::Range { .. } | Self::Integers(_) | Self::Policy(_) => "stored",
            Self::Form(_) => "not of the form this network ends in",
            Self::Signature { .. } => "not signed by this device",
            Self::Unknown { .. } => "not enrolled",
            Self::Revoked { .. } | Self::Suspended { .. } => "this device is not served",
            Self::Replay { .. } => "this sequence number was used before",
            Self::Duplicate { .. } => "stored",
            Self::Model { .. } => "not of the network and version deployed to this device",
            Self::Retired { .. } => "of a network that was retired: nothing of it is taken any more",
            Self::Budget { .. } => "no more for now",
        }
    }
}
