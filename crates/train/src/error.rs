//! What can go wrong while training.

/// An error of the Training Agent.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Data that cannot be read.
    #[error(transparent)]
    Input(#[from] subrosa_input::InputError),
    /// A data set that cannot be trained on; the text says what to do.
    #[error("{0}")]
    Data(String),
    /// An option that does not fit the network or the data.
    #[error("{0}")]
    Option(String),
    /// A network file that cannot be read or split.
    #[error(transparent)]
    Network(#[from] subrosa_network::NetworkError),
    /// A network that does not fit together.
    #[error("the network: {0}")]
    Model(String),
    /// A network that cannot be adapted; the text names the layer.
    #[error("{0}")]
    Import(String),
    /// A checkpoint that does not fit.
    #[error("checkpoint {path}: {what}")]
    Checkpoint {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A checkpoint that cannot be written.
    #[error(
        "checkpoint {path} cannot be written: {source}\nmake room and go on with --resume: the epoch before is kept"
    )]
    Unwritten {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be written or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Training that diverged.
    #[error(
        "training diverged in epoch {epoch}: the loss is not a number; use a lower --learning-rate, or batch norm before polynomials"
    )]
    Diverged {
        /// Counted from 1.
        epoch: usize,
    },
    /// The training library failed.
    #[error("training library: {0}")]
    Library(#[from] candle_core::Error),
}
