//! The configuration file, `config.toml`: docs/edge.md explains every key. What is parsed here is complete and sound.

use crate::error::ServiceError;
use serde::Deserialize;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use subrosa_program::container::Signer;
use zeroize::Zeroizing;

mod text;

/// Seconds in the file, with fractions.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(pub Duration);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if (0.001..=86_400.0).contains(&seconds) {
            Ok(Self(Duration::from_secs_f64(seconds)))
        } else {
            Err(format!("{seconds} is not between 0.001 and 86400 seconds"))
        }
    }
}

const fn seconds(seconds: u64) -> Seconds {
    Seconds(Duration::from_secs(seconds))
}

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The device's name, for people.
    pub name: String,
    /// Directory of key, access token, bundles and queue.
    pub state: PathBuf,
    /// Threads of the evaluation; all cores if not given.
    pub threads: Option<NonZeroUsize>,
    /// Where the bundle comes from and the results go.
    pub backend: Backend,
    /// Limits of the queue of results.
    #[serde(default)]
    pub queue: Queue,
    /// Endpoint of metrics and status; none if not given.
    pub metrics: Option<Metrics>,
    /// Where samples come from.
    #[serde(default)]
    pub source: Sources,
    /// Connection to NATS.
    pub nats: Option<Nats>,
    /// Samples are published for workers instead of evaluated here.
    pub acquirer: Option<Acquirer>,
    /// Samples of the group's acquirers are evaluated here.
    pub worker: Option<Worker>,
}

/// Where the bundle comes from and the results go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Its address, `https://HOST:PORT`.
    pub url: String,
    /// PEM file of its certificate, or of the authority that signed it.
    pub ca: Option<PathBuf>,
    /// The owner's public signing key.
    pub trust: PathBuf,
    /// File with the one-time token of the enrolment.
    pub token_file: Option<PathBuf>,
    /// Environment variable with the one-time token of the enrolment.
    pub token_env: Option<String>,
    /// Time between two questions for the deployment.
    #[serde(default = "Backend::poll")]
    pub poll_seconds: Seconds,
    /// Time between two status reports.
    #[serde(default = "Backend::poll")]
    pub status_seconds: Seconds,
    /// Longest wait between two attempts while the backend is away.
    #[serde(default = "Backend::retry")]
    pub retry_max_seconds: Seconds,
    /// Longest wait for an answer; a bundle's download may take longer as long as bytes arrive.
    #[serde(default = "Backend::poll")]
    pub timeout_seconds: Seconds,
}

impl Backend {
    const fn poll() -> Seconds {
        seconds(30)
    }
    const fn retry() -> Seconds {
        seconds(60)
    }
}

/// What happens to samples while the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Sources wait.
    #[default]
    Block,
    /// The oldest results give way.
    ShedOldest,
    /// New samples are given up.
    ShedNewest,
}

impl Policy {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::ShedOldest => "shed-oldest",
            Self::ShedNewest => "shed-newest",
        }
    }
}

/// Limits of the queue of results.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// What happens to samples while it is full.
    pub policy: Policy,
    /// Results it holds at most.
    pub max_results: u64,
    /// Bytes of results it holds at most.
    pub max_bytes: u64,
    /// Results of one delivery at most.
    pub batch: usize,
    /// Bytes of one delivery at most (one result may be larger).
    pub batch_bytes: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { policy: Policy::Block, max_results: 10_000, max_bytes: 1 << 30, batch: 64, batch_bytes: 4 << 20 }
    }
}

/// Endpoint of metrics and status.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// A loopback address.
    pub listen: SocketAddr,
}

/// Where samples come from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sources {
    /// Watched directories.
    pub directory: Vec<Directory>,
    /// HTTP on loopback.
    pub http: Option<Http>,
    /// NDJSON on standard input.
    pub stdin: Option<Stdin>,
    /// Frames at a rate.
    pub camera: Vec<Camera>,
    /// NATS subjects.
    pub nats: Vec<NatsSource>,
    /// MQTT topics.
    pub mqtt: Vec<Mqtt>,
}

/// What becomes of a file whose samples are all in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// It stays.
    #[default]
    Keep,
    /// It goes to `move_to`.
    Move,
    /// It is deleted.
    Delete,
}

/// A watched directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// The directory.
    pub path: PathBuf,
    /// The source's name; the directory's path as written if not given.
    pub name: Option<String>,
    /// Time between two looks.
    #[serde(default = "Directory::scan")]
    pub scan_seconds: Seconds,
    /// A file is read when it has not changed for so long.
    #[serde(default = "Directory::scan")]
    pub settle_seconds: Seconds,
    /// What becomes of a file afterwards.
    #[serde(default)]
    pub after: After,
    /// Where to, with `after = "move"`.
    pub move_to: Option<PathBuf>,
    /// Larger files are refused, since a file is read as a whole.
    #[serde(default = "Directory::max_file_bytes")]
    pub max_file_bytes: u64,
}

impl Directory {
    const fn scan() -> Seconds {
        seconds(1)
    }
    const fn max_file_bytes() -> u64 {
        256 << 20
    }
}

/// HTTP on loopback.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// A loopback address.
    pub listen: SocketAddr,
    /// File with the bearer token that requests must carry.
    pub token_file: Option<PathBuf>,
    /// Environment variable with that token.
    pub token_env: Option<String>,
    /// Bytes of one request at most.
    #[serde(default = "Http::max_body_bytes")]
    pub max_body_bytes: usize,
    /// Longest wait of a request for its result to be queued.
    #[serde(default = "Http::wait")]
    pub wait_seconds: Seconds,
}

impl Http {
    const fn max_body_bytes() -> usize {
        16 << 20
    }
    const fn wait() -> Seconds {
        seconds(30)
    }
}

/// NDJSON on standard input.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stdin {
    /// The agent ends when standard input has ended and everything is delivered.
    pub exit_at_end: bool,
    /// A line of JSON on standard output for every line whose result is in the queue.
    pub acknowledge: bool,
}

/// Frames at a rate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Camera {
    /// The source's name.
    pub name: String,
    /// Directory of image files, taken in the order of their names.
    pub path: Option<PathBuf>,
    /// Address that answers with one frame.
    pub url: Option<String>,
    /// PEM file of its certificate or authority, if the address is https.
    pub ca: Option<PathBuf>,
    /// Frames a second.
    pub rate: f64,
    /// Begin again after the last file.
    #[serde(default)]
    pub repeat: bool,
}

/// A NATS subject.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSource {
    /// The subject; wildcards are allowed.
    pub subject: String,
    /// The JetStream stream that holds it; without one, messages that arrive while the agent is away are lost.
    pub stream: Option<String>,
    /// Name of the durable consumer; derived from the device's name if not given.
    pub consumer: Option<String>,
    /// A message that was not acknowledged for so long comes again.
    #[serde(default = "Worker::ack_wait")]
    pub ack_wait_seconds: Seconds,
}

/// An MQTT topic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// `mqtt://HOST:PORT` or `mqtts://HOST:PORT`.
    pub url: String,
    /// The topic filter.
    pub topic: String,
    /// Names the broker's session of this agent.
    pub client_id: String,
    /// PEM file of the broker's certificate or authority.
    pub ca: Option<PathBuf>,
    /// User name, if the broker wants one.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Permits `mqtt://` beyond loopback: samples then cross the network in plaintext.
    #[serde(default)]
    pub plaintext: bool,
    /// Bytes of one message at most.
    #[serde(default = "Mqtt::max_message_bytes")]
    pub max_message_bytes: usize,
}

impl Mqtt {
    const fn max_message_bytes() -> usize {
        16 << 20
    }
}

/// Connection to NATS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nats {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`; several with commas.
    pub url: String,
    /// PEM file of the server's certificate or authority.
    pub ca: Option<PathBuf>,
    /// File with an access token.
    pub token_file: Option<PathBuf>,
    /// Credentials file of NATS (`nsc`).
    pub credentials: Option<PathBuf>,
    /// Permits `nats://` beyond loopback: samples then cross the network in plaintext.
    #[serde(default)]
    pub plaintext: bool,
}

/// Samples are published for workers instead of evaluated here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acquirer {
    /// The JetStream work queue; made if it is not there.
    pub stream: String,
    /// Samples it holds at most, if it is made here.
    #[serde(default = "Acquirer::max_samples")]
    pub max_samples: i64,
    /// Time within which JetStream itself recognises a sample that was published twice, if it is made here.
    #[serde(default = "Acquirer::window")]
    pub duplicate_window_seconds: Seconds,
}

impl Acquirer {
    const fn max_samples() -> i64 {
        100_000
    }
    const fn window() -> Seconds {
        seconds(600)
    }
}

/// Samples of the group's acquirers are evaluated here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// The JetStream work queue.
    pub stream: String,
    /// A sample that a worker has not acknowledged for so long goes to another.
    #[serde(default = "Worker::ack_wait")]
    pub ack_wait_seconds: Seconds,
    /// Samples this worker holds at most: in evaluation or waiting for the backend's receipt.
    #[serde(default = "Worker::hold")]
    pub hold: NonZeroUsize,
}

impl Worker {
    const fn ack_wait() -> Seconds {
        seconds(30)
    }
    const fn hold() -> NonZeroUsize {
        const HOLD: NonZeroUsize = match NonZeroUsize::new(32) {
            Some(hold) => hold,
            None => NonZeroUsize::MIN,
        };
        HOLD
    }
}

impl Config {
    /// Reads a file; paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ServiceError::Config`] that names the file and the key.
    pub fn read(path: &Path) -> Result<Self, ServiceError> {
        let wrong = |what: String| ServiceError::Config { file: path.display().to_string(), what };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let mut config = text::parse(&text).map_err(wrong)?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// Makes all paths relative to `base`.
    fn resolve(&mut self, base: &Path) {
        let sources = &mut self.source;
        for directory in &mut sources.directory {
            directory.name.get_or_insert_with(|| directory.path.display().to_string());
        }
        let mut paths: Vec<&mut PathBuf> = vec![&mut self.state, &mut self.backend.trust];
        paths.extend(&mut self.backend.ca);
        paths.extend(&mut self.backend.token_file);
        for directory in &mut sources.directory {
            paths.push(&mut directory.path);
            paths.extend(&mut directory.move_to);
        }
        paths.extend(sources.http.iter_mut().filter_map(|h| h.token_file.as_mut()));
        for camera in &mut sources.camera {
            paths.extend(&mut camera.path);
            paths.extend(&mut camera.ca);
        }
        for mqtt in &mut sources.mqtt {
            paths.extend(&mut mqtt.ca);
            paths.extend(&mut mqtt.password_file);
        }
        if let Some(nats) = &mut self.nats {
            paths.extend(&mut nats.ca);
            paths.extend(&mut nats.token_file);
            paths.extend(&mut nats.credentials);
        }
        for path in paths {
            *path = base.join(&*path);
        }
    }

    /// What the types do not say.
    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(plain) {
            return Err("name: give the device a name of 1 to 64 letters, digits, '.', '_' and '-'".into());
        }
        check_url(&self.backend.url).map_err(|e| format!("backend.url: {e}"))?;
        if self.backend.token_file.is_some() && self.backend.token_env.is_some() {
            return Err("backend.token_file and backend.token_env: give one of them".into());
        }
        let queue = &self.queue;
        if queue.max_results == 0 || queue.max_bytes == 0 || queue.batch_bytes == 0 {
            return Err("queue: max_results, max_bytes and batch_bytes must be at least 1".into());
        }
        if !(1..=subrosa_fleet::messages::MAX_BATCH).contains(&queue.batch) {
            return Err(format!("queue.batch: give 1 to {}", subrosa_fleet::messages::MAX_BATCH));
        }
        if let Some(metrics) = &self.metrics {
            loopback("metrics.listen", metrics.listen)?;
        }
        self.check_sources()?;
        if self.acquirer.is_some() && self.worker.is_some() {
            return Err("acquirer and worker: an agent is one of them".into());
        }
        for (key, stream) in [
            ("acquirer", self.acquirer.as_ref().map(|a| &a.stream)),
            ("worker", self.worker.as_ref().map(|w| &w.stream)),
        ] {
            let Some(stream) = stream else { continue };
            token(stream).map_err(|e| format!("{key}.stream: {e}"))?;
            if self.nats.is_none() {
                return Err(format!("{key}: it needs the table [nats] with the server's url"));
            }
        }
        if self.worker.is_some() && self.queue.policy != Policy::Block {
            return Err("queue.policy: a worker's backlog waits in JetStream, so it must be \"block\"".into());
        }
        Ok(())
    }

    fn check_sources(&self) -> Result<(), String> {
        let sources = &self.source;
        let count = sources.directory.len()
            + sources.camera.len()
            + sources.nats.len()
            + sources.mqtt.len()
            + usize::from(sources.http.is_some())
            + usize::from(sources.stdin.is_some())
            + usize::from(self.worker.is_some());
        if count == 0 {
            return Err(
                "source: there is none; add [[source.directory]], [source.http], [source.stdin], [[source.camera]], \
                 [[source.nats]], [[source.mqtt]] or [worker]"
                    .into(),
            );
        }
        let mut names = std::collections::BTreeSet::new();
        for directory in &sources.directory {
            if (directory.after == After::Move) != directory.move_to.is_some() {
                return Err("source.directory: after = \"move\" and move_to belong together".into());
            }
            if directory.move_to.as_ref().is_some_and(|to| *to == directory.path) {
                return Err("source.directory.move_to: it is the watched directory itself".into());
            }
            if !names.insert(directory.name.clone().unwrap_or_default()) {
                return Err("source.directory.name: two directories have the same name".into());
            }
        }
        if let Some(http) = &sources.http {
            loopback("source.http.listen", http.listen)?;
            if http.token_file.is_some() == http.token_env.is_some() {
                return Err(
                    "source.http: give token_file or token_env, the bearer token that requests must carry".into()
                );
            }
        }
        for camera in &sources.camera {
            if camera.path.is_some() == camera.url.is_some() {
                return Err(format!("source.camera '{}': give path or url", camera.name));
            }
            if !(0.001..=10_000.0).contains(&camera.rate) {
                return Err(format!(
                    "source.camera '{}': rate: {} is not between 0.001 and 10000 frames a second",
                    camera.name, camera.rate
                ));
            }
            if let Some(url) = &camera.url {
                reqwest::Url::parse(url).map_err(|e| format!("source.camera '{}': url: {e}", camera.name))?;
            }
            if !names.insert(format!("camera {}", camera.name)) {
                return Err(format!("source.camera.name: two cameras are named '{}'", camera.name));
            }
        }
        if !sources.nats.is_empty() && self.nats.is_none() {
            return Err("source.nats: it needs the table [nats] with the server's url".into());
        }
        for nats in self.nats.iter() {
            nats.check().map_err(|what| format!("nats.{what}"))?;
        }
        for mqtt in &sources.mqtt {
            let url = reqwest::Url::parse(&mqtt.url).map_err(|e| format!("source.mqtt.url: {e}"))?;
            if !["mqtt", "mqtts"].contains(&url.scheme()) || url.host_str().is_none() {
                return Err("source.mqtt.url: write mqtt://HOST:PORT or mqtts://HOST:PORT".into());
            }
            let local = url.host_str().is_some_and(is_loopback);
            if url.scheme() == "mqtt" && !local && !mqtt.plaintext {
                return Err(format!("source.mqtt.url: {PLAINTEXT}").replace("TLS", "mqtts"));
            }
            if url.scheme() == "mqtts" && mqtt.ca.is_none() {
                return Err("source.mqtt.ca: mqtts needs the broker's certificate or authority".into());
            }
            if mqtt.user.is_some() != mqtt.password_file.is_some() {
                return Err("source.mqtt: user and password_file belong together".into());
            }
        }
        Ok(())
    }

    /// The owner whose bundles are accepted.
    ///
    /// # Errors
    /// [`ServiceError::Trust`].
    pub fn owner(&self) -> Result<Signer, ServiceError> {
        Ok(Signer::read(&self.backend.trust)?)
    }
}

/// `https`, or `http` on loopback, and no path.
fn check_url(url: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(url).map_err(|e| format!("{e}; write https://HOST:PORT"))?;
    match url.scheme() {
        "https" => {}
        "http" if url.host_str().is_some_and(is_loopback) => {}
        "http" => return Err("http is only for loopback; write https://HOST:PORT".into()),
        other => return Err(format!("{other} is not understood; write https://HOST:PORT")),
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err("it must be https://HOST:PORT and nothing behind".into());
    }
    Ok(())
}

/// What is said of a broker beyond loopback without TLS.
const PLAINTEXT: &str = "samples would cross the network in plaintext: use TLS, or permit it with plaintext = true";

impl Nats {
    fn check(&self) -> Result<(), String> {
        for server in self.servers().map_err(|what| format!("url: {what}"))? {
            let encrypted = server.tls_required() || self.ca.is_some();
            if !encrypted && !is_loopback(server.host()) && !self.plaintext {
                return Err(format!("url: {PLAINTEXT}"));
            }
            if encrypted && self.ca.is_none() {
                return Err("ca: TLS needs the server's certificate or authority".into());
            }
        }
        Ok(())
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn loopback(key: &str, address: SocketAddr) -> Result<(), String> {
    if address.ip().is_loopback() {
        Ok(())
    } else {
        Err(format!("{key}: {address} is not a loopback address; write for example 127.0.0.1:{}", address.port()))
    }
}

/// One token of a NATS subject.
fn token(name: &str) -> Result<(), String> {
    let fine = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if fine { Ok(()) } else { Err(format!("'{name}' is not made of letters, digits, - and _")) }
}

/// A secret from a file or an environment variable, trimmed.
pub(crate) fn secret(
    key: &str,
    file: Option<&PathBuf>,
    variable: Option<&String>,
) -> Result<Option<Zeroizing<String>>, ServiceError> {
    let wrong = |what: String| ServiceError::Secret { key: key.to_owned(), what };
    let text = match (file, variable) {
        (Some(file), _) => Zeroizing::new(
            std::fs::read_to_string(file).map_err(|e| wrong(format!("{} cannot be read: {e}", file.display())))?,
        ),
        (None, Some(variable)) => Zeroizing::new(
            std::env::var(variable).map_err(|_| wrong(format!("the environment variable {variable} is not set")))?,
        ),
        (None, None) => return Ok(None),
    };
    let text = Zeroizing::new(text.trim().to_owned());
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("it is empty, or not one word of printable ASCII".into()));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests;
