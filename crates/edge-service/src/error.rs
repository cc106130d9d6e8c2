//! What keeps the agent from running. What goes wrong while it runs is logged, counted and reported instead.

use std::path::PathBuf;
use subrosa_fleet::DeviceKeyError;
use subrosa_program::container::SignerError;

/// Why the agent does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The configuration file.
    #[error("{file}: {what}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong: line, key, cure.
        what: String,
    },
    /// A secret that the configuration points to.
    #[error("{key}: {what}")]
    Secret {
        /// The key in the configuration.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// The file of the trusted owner.
    #[error("backend.trust: {0}")]
    Trust(#[from] SignerError),
    /// A certificate file.
    #[error("{key}: {file} {what}")]
    Certificate {
        /// The key in the configuration.
        key: &'static str,
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The device's key.
    #[error(transparent)]
    DeviceKey(#[from] DeviceKeyError),
    /// The state directory.
    #[error("{}: {source}", path.display())]
    State {
        /// Directory or file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The state directory is another process's.
    #[error("{}: another agent runs on this state directory: stop it, or give this one a directory of its own", .0.display())]
    Locked(PathBuf),
    /// The queue's database.
    #[error("{}: {what}", path.display())]
    Queue {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The state is damaged, or belongs to something else.
    #[error("{}: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the cure.
        what: String,
    },
    /// No token, and not enrolled.
    #[error(
        "this device is not enrolled yet: give the one-time token of the backend with backend.token_file or backend.token_env"
    )]
    NoToken,
    /// The backend does not take the device.
    #[error("the backend refuses to enrol this device: {0}")]
    Enrolment(String),
    /// The backend is of another owner.
    #[error(
        "the backend belongs to owner {found}, but {trusted} is trusted (backend.trust): check both; bundles of another owner are never run"
    )]
    ForeignBackend {
        /// Fingerprint of the backend's owner.
        found: String,
        /// Fingerprint of the trusted one.
        trusted: String,
    },
    /// An endpoint's address.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// The key in the configuration.
        key: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system refuses what the agent needs.
    #[error("{0}")]
    System(String),
}

impl ServiceError {
    /// Whether other input or another configuration cures it (exit code 2).
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Config { .. }
            | Self::Secret { .. }
            | Self::Trust(_)
            | Self::Certificate { .. }
            | Self::DeviceKey(DeviceKeyError::Damaged { .. })
            | Self::Foreign { .. }
            | Self::NoToken
            | Self::Enrolment(_)
            | Self::ForeignBackend { .. } => true,
            Self::DeviceKey(_)
            | Self::State { .. }
            | Self::Locked(_)
            | Self::Queue { .. }
            | Self::Listen { .. }
            | Self::System(_) => false,
        }
    }
}
