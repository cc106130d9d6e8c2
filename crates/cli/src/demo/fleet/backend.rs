//! The demo's processes, and its owner's requests to the backend.

use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use subrosa_terminal::Failure;

use crate::failure::io;

/// Longest wait for a process to end.
const GRACE: Duration = Duration::from_secs(15);

/// A process that does not outlive the demo.
pub(super) struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it says on standard error goes to `log`.
    pub fn start(mut command: Command, name: &'static str, log: &Path) -> Result<Self, Failure> {
        let file = File::create(log).map_err(io("create", log))?;
        let child = command.stdin(Stdio::null()).stderr(file).spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::usage(format!(
                "{name} is a program of its own, and it is neither beside subrosa nor in PATH\n\
                 build it: cargo build --release --workspace"
            )),
            _ => Failure::failed(format!("{name} cannot be started: {e}")),
        })?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    /// The same, and reads its first line of standard output, a JSON object.
    pub fn start_and_read(mut command: Command, name: &'static str, log: &Path) -> Result<(Self, Value), Failure> {
        command.stdout(Stdio::piped());
        let mut process = Self::start(command, name, log)?;
        let mut line = String::new();
        if let Some(out) = process.child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let ready = serde_json::from_str(&line).map_err(|_| process.failed("does not start"))?;
        Ok((process, ready))
    }

    /// Asks it to end, and waits until it has.
    pub fn end(mut self) -> Result<(), Failure> {
        self.ask();
        let start = Instant::now();
        while start.elapsed() < GRACE {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(_)) | Err(_) => return Err(self.failed("did not end well")),
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Err(self.failed("does not end"))
    }

    /// SIGTERM where there is such a thing.
    fn ask(&mut self) {
        #[cfg(unix)]
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Fails only where it has ended already.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        #[cfg(not(unix))]
        let _ = self.child.kill();
    }

    /// With the last thing it said.
    fn failed(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it said nothing");
        Failure::failed(format!("{} {what}: {last}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.ask();
            std::thread::sleep(Duration::from_millis(500));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The owner's side of the HTTP interface.
pub(super) struct Api {
    client: reqwest::blocking::Client,
    url: String,
    token: String,
    certificate: PathBuf,
}

/// A decrypted result.
#[derive(Deserialize)]
pub(super) struct Released {
    pub label: String,
    pub class: usize,
}

#[derive(Deserialize)]
struct Page {
    results: Vec<Value>,
    next: Option<String>,
}

impl Api {
    /// From what the backend said when it was ready.
    pub fn new(ready: &Value, home: &Path) -> Result<Self, Failure> {
        let said = |key: &str| {
            let value = ready[key].as_str();
            value.map(str::to_owned).ok_or_else(|| Failure::failed(format!("subrosa-serve did not say its {key}")))
        };
        let (certificate, file) = (PathBuf::from(said("certificate")?), home.join("owner.token"));
        let token = std::fs::read_to_string(&file).map_err(io("read", &file))?.trim().to_owned();
        let client = client(&certificate)?;
        Ok(Self { client, url: format!("https://{}", said("address")?), token, certificate })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.client.get(format!("{}/api/v1{path}", self.url)))
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(self.client.post(format!("{}/api/v1{path}", self.url)).json(body))
    }

    fn send(&self, request: reqwest::blocking::RequestBuilder) -> Result<Value, Failure> {
        let answer = request.bearer_auth(&self.token).send().and_then(|a| a.error_for_status()?.json());
        answer.map_err(|e| Failure::failed(format!("the backend refuses a request: {}", e.without_url())))
    }

    /// Results that were decrypted since the page `after`. A page is read again until all of it is decided.
    pub fn released(&self, after: &mut Option<String>) -> Result<Vec<Released>, Failure> {
        let mut out = Vec::new();
        loop {
            let from = after.as_ref().map(|after| format!("&after={after}")).unwrap_or_default();
            let page = self.get(&format!("/results?limit=100{from}"))?;
            let page: Page = serde_json::from_value(page).map_err(Failure::failed)?;
            let undecided = page.results.iter().position(|r| r["state"] == "stored").unwrap_or(page.results.len());
            for result in page.results.iter().take(undecided) {
                if result["state"] == "refused" {
                    let why = result["reason"].as_str().unwrap_or_default();
                    return Err(Failure::failed(format!("the release policy refused a result: {why}")));
                }
                let released = serde_json::from_value(result.clone()).map_err(Failure::failed)?;
                out.push(released);
                let mark = result["received"].as_i64().zip(result["id"].as_str());
                *after = mark.map(|(time, id)| format!("{time}-{id}"));
            }
            if undecided < page.results.len() || page.next.is_none() {
                return Ok(out);
            }
        }
    }
}

/// A client that trusts this certificate and no other.
fn client(certificate: &Path) -> Result<reqwest::blocking::Client, Failure> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let wrong = |e: &dyn std::fmt::Display| Failure::failed(format!("{}: {e}", certificate.display()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = reqwest::blocking::Client::builder().use_preconfigured_tls(config).no_proxy();
    builder.timeout(Duration::from_secs(30)).build().map_err(|e| wrong(&e))
}
