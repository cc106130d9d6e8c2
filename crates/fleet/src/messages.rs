//! Bodies of the interface between edge agents and the backend. All routes stand under `/api/v1`; errors are [`Problem`]s.
//!
//! | route | who | body | answer |
//! |---|---|---|---|
//! | `POST /device/enrol` | holder of a one-time token | [`Enrol`] | [`Enrolled`] |
//! | `GET /device/deployment` | device | | [`Deployment`], or 204: nothing to run |
//! | `GET /device/bundles/{sha256}` | device | `Range` is understood | the bundle's bytes |
//! | `POST /device/results` | device | a batch of signed results, `application/octet-stream` | [`Receipts`] |
//! | `POST /device/status` | device | [`Status`] | 204 |
//!
//! A device authenticates with `Authorization: Bearer TOKEN`, the access token it was given when it enrolled.

use crate::ResultId;
use serde::{Deserialize, Serialize};

/// Media type of a batch of signed results.
pub const RESULTS_TYPE: &str = "application/vnd.subrosa.results";

/// Most results in one batch.
pub const MAX_BATCH: usize = 256;

/// Asks to be taken into the fleet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// The one-time token the owner made.
    pub token: String,
    /// The device's name, for people.
    pub name: String,
    /// The device's public key, 64 hex digits.
    pub public_key: String,
}

/// A device is taken into the fleet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// The device's id.
    pub device: String,
    /// Devices of one group may evaluate each other's samples.
    pub group: String,
    /// Bearer token of the device's further requests.
    pub access_token: String,
    /// The owner's public signing key, 64 hex digits.
    pub owner_public_key: String,
}

/// What a device is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Counts up with every change of what this device is to run, also when it is rolled back.
    pub generation: u64,
    /// Id of the protected network.
    pub model: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// SHA-256 of the bundle in hex.
    pub sha256: String,
    /// Length of the bundle.
    pub bytes: u64,
}

/// What became of each result of a batch, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipts {
    /// One for each result.
    pub receipts: Vec<Receipt>,
}

/// What became of one result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The inference.
    pub result: ResultId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    /// Stored; it will be decrypted as the release policy permits.
    Stored,
    /// This inference was stored before.
    Duplicate,
    /// Refused for good: sending it again is of no use.
    Refused {
        /// Why, as far as a device is told.
        reason: String,
    },
}

/// How a device fares, sent now and then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub agent: String,
    /// Model that runs, if any.
    pub model: Option<String>,
    /// Its version.
    pub version: Option<u32>,
    /// Generation of the deployment that runs.
    pub generation: Option<u64>,
    /// Samples evaluated since the agent started.
    pub evaluated: u64,
    /// Results that wait to be delivered.
    pub queued: u64,
    /// Samples given up by policy since the agent started.
    pub shed: u64,
    /// Samples that do not fit the network or cannot be read, since the agent started. The reasons, which may tell of the data, stay in
    /// the agent's log.
    #[serde(default)]
    pub rejected: u64,
    /// Seconds of the last blind evaluation.
    pub last_infer_seconds: Option<f64>,
    /// The last thing that went wrong, for people.
    pub error: Option<String>,
}

/// An error as the backend answers it (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Short and constant for a kind of problem.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, where, what to do.
    pub detail: String,
}
