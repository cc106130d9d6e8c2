//! What can be wrong with an input file, where, and its cure.

/// Why an input cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The operating system cannot open or read it.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file as a whole is not usable.
    #[error("{path}: {what}; {cure}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: String,
        /// What to do.
        cure: String,
    },
    /// One record (sample, row, line or image, counted from 1) is not usable.
    #[error("{path}, record {record}: {what}; {cure}")]
    Record {
        /// The file.
        path: String,
        /// The record, counted from 1.
        record: usize,
        /// What is wrong with it.
        what: String,
        /// What to do.
        cure: String,
    },
    /// The samples do not fit the network.
    #[error("the input does not fit the network: {0}")]
    Mismatch(String),
    /// The text of a preprocessing is wrong.
    #[error(
        "bad preprocessing '{text}': {what}; write for example 'scale=1/255 mean=0.5 std=0.5 layout=nchw resize=28x28'"
    )]
    Preprocess {
        /// The text or the part of it that is wrong.
        text: String,
        /// What is wrong with it.
        what: String,
    },
}

impl InputError {
    pub(crate) fn io(path: &str, source: std::io::Error) -> Self {
        InputError::Io { path: path.into(), source }
    }

    pub(crate) fn file(path: &str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        InputError::File { path: path.into(), what: what.into(), cure: cure.into() }
    }

    /// `index` counts from 0.
    pub(crate) fn record(path: &str, index: usize, what: impl Into<String>, cure: impl Into<String>) -> Self {
        InputError::Record { path: path.into(), record: index + 1, what: what.into(), cure: cure.into() }
    }
}
