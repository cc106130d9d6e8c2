//! How a serve process is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use subrosa_owner::release::ReleasePolicy;

/// Bounds on what clients may ask of a process.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// For the TLS handshake, for each request's head, and between two requests of a connection.
    pub head_timeout: Duration,
    /// Longest time without a byte of a body, and for a body that comes slower than 16 kB a second.
    pub body_timeout: Duration,
    /// Largest body of a request without a token: enrolments, logins of the console.
    pub open_bytes: u64,
    /// Largest JSON body.
    pub json_bytes: u64,
    /// Largest batch of results.
    pub batch_bytes: u64,
    /// Largest upload.
    pub upload_bytes: u64,
    /// Bodies that are held in memory, together.
    pub bodies_in_memory: u64,
    /// Results that may wait to be decrypted before devices are told to wait.
    pub waiting_results: u64,
    /// Entries of the audit log about refusals that one device may cause in a minute.
    pub refusals_per_minute: u32,
    /// Wrong tokens at the console's login from one address in a minute; then it is told to wait.
    pub logins_per_minute: u32,
    /// A session of the console that is not used for so long ends.
    pub session_idle: Duration,
    /// It ends after so long in any case.
    pub session_life: Duration,
    /// Pages of the console that are kept up to date at once.
    pub live_pages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            head_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            open_bytes: 8 << 10,
            json_bytes: 1 << 20,
            batch_bytes: 64 << 20,
            upload_bytes: 2 << 30,
            bodies_in_memory: 256 << 20,
            waiting_results: 1_000_000,
            refusals_per_minute: 60,
            logins_per_minute: 10,
            session_idle: Duration::from_secs(3600),
            session_life: Duration::from_secs(12 * 3600),
            live_pages: 32,
        }
    }
}

/// Whose certificate is shown.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TLS with this certificate chain and key, PEM files.
    Tls {
        /// The certificates, the server's first.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// TLS with a certificate of its own, made at the first start for these names and addresses besides `localhost`.
    SelfSigned {
        /// Names and addresses that edges use.
        names: Vec<String>,
    },
    /// No TLS; only on loopback addresses.
    Plain,
}

/// How a serve process is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The owner's home.
    pub home: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `postgres://...`; else the home's SQLite file.
    pub database: Option<String>,
    /// `s3://BUCKET/PREFIX`, `file:///DIRECTORY`; else `HOME/store`.
    pub store: Option<String>,
    /// TLS or not.
    pub transport: Transport,
    /// What is released of results.
    pub policy: ReleasePolicy,
    /// Bounds on clients.
    pub limits: Limits,
    /// Threads that decrypt; 0 leaves it to other processes.
    pub decrypt_workers: usize,
    /// Whether this process takes jobs.
    pub jobs: bool,
    /// How long the ciphertexts of decided results are kept.
    pub keep_results: Duration,
    /// Metrics without a token; only on loopback addresses.
    pub open_metrics: bool,
}

impl Config {
    /// The usual settings for a home.
    pub fn new(home: PathBuf, listen: SocketAddr) -> Self {
        Self {
            home,
            listen,
            database: None,
            store: None,
            transport: Transport::SelfSigned { names: Vec::new() },
            policy: ReleasePolicy::default(),
            limits: Limits::default(),
            decrypt_workers: 1,
            jobs: true,
            keep_results: Duration::from_secs(7 * 86_400),
            open_metrics: false,
        }
    }
}
