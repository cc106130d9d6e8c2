//! The backend as a process, or as two that share a PostgreSQL and a store, and its owner.

#[path = "../../../server/tests/common/cluster.rs"]
mod cluster;
#[path = "shared.rs"]
mod shared;

use self::shared::Shared;
use super::common::{wait_at_most, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use subrosa_input::Dataset;
use subrosa_owner::{Owner, ProtectRequest, Reveal, Silent};
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};

pub const PASSPHRASE: &str = "correct horse battery staple";
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Where the programs are; nothing if they cannot be had.
pub static PROGRAMS: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    if let Some(place) = std::env::var_os("SUBROSA_PROGRAMS") {
        return Some(place.into());
    }
    // target/PROFILE/deps/THIS
    let this = std::env::current_exe().unwrap();
    let place = this.parent().unwrap().parent().unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(ROOT).args(["build", "-p", "subrosa", "-p", "subrosa-edge", "-p", "subrosa-server"]);
    if place.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.status().is_ok_and(|status| status.success());
    if !built {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the programs cannot be built");
    }
    built.then_some(place)
});

/// The first digits of the sample data.
pub fn digits(count: usize) -> Dataset {
    subrosa_input::read(&format!("{ROOT}/data/mnist-test-1000-images-idx3-ubyte.gz"), Some(count)).unwrap()
}

/// A home, and the process that serves it.
struct Serving {
    home: PathBuf,
    log: PathBuf,
    address: String,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Serving {
    fn new(home: PathBuf, flags: Vec<String>) -> Self {
        Self { log: home.with_extension("log"), home, address: "127.0.0.1:0".into(), flags, child: None }
    }

    /// Serves (again) on the same address; gives what it says when it is ready.
    fn start(&mut self) -> Value {
        let program = PROGRAMS.as_ref().unwrap().join("subrosa-serve");
        let log = fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(program);
        command.arg("--json").arg("--home").arg(&self.home).arg("--listen").arg(&self.address).args(&self.flags);
        command.env("SUBROSA_PASSPHRASE", PASSPHRASE).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}{}", self.log()));
        self.address = ready["address"].as_str().unwrap().to_owned();
        ready
    }

    /// SIGKILL.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Where a backend keeps what it knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SQLite and files in the home of one process.
    Embedded,
    /// A PostgreSQL and a store that two processes share, behind one address.
    #[allow(dead_code)] // not of every test
    Shared,
}

/// A backend that serves the protected digits.
pub struct Backend {
    pub place: PathBuf,
    /// Classes of the images, as the same network answers on this machine without any service.
    pub expected: Vec<u64>,
    pub owner_file: String,
    pub url: String,
    pub certificate: String,
    token: String,
    client: reqwest::blocking::Client,
    /// The next one to be killed is the first.
    processes: Vec<Serving>,
    /// Dropped after the processes.
    _shared: Option<Shared>,
}

impl Backend {
    /// Protects the digits' last layer and starts to serve; what the network answers to the images locally is found out before.
    pub fn start(place: &Path, images: &Dataset) -> Self {
        Self::of(Kind::Embedded, place, images).unwrap()
    }

    /// The same of some kind; nothing where the test is skipped for want of PostgreSQL.
    pub fn of(kind: Kind, place: &Path, images: &Dataset) -> Option<Self> {
        let shared = match kind {
            Kind::Embedded => None,
            Kind::Shared => Some(Shared::start(place)?),
        };
        let home = place.join("home");
        let owner = Owner::open(&home).unwrap();
        let passphrase = Passphrase::new(PASSPHRASE.to_owned()).unwrap();
        let vault = Vault::create_or_open_for_tests(&home, &passphrase).unwrap();
        let identity = OwnerIdentity::load_or_create(&vault).unwrap();
        let onnx = fs::read(format!("{ROOT}/models/mnist-cnn.onnx")).unwrap();
        let samples = digits(64);
        let request = ProtectRequest {
            scope: "last".parse().unwrap(),
            encrypted_input: false,
            preprocess: Some("scale=1/255".parse().unwrap()),
            calibrate: Some(&samples),
            ..ProtectRequest::new(&onnx, "digits")
        };
        let model = owner.protect(&request, &vault, &Silent).unwrap().id;
        let bundle = place.join("digits.srb");
        owner.deploy(&model, &bundle, &identity).unwrap();
        let expected = locally(&owner, &vault, &bundle, images);

        let mut first = Serving::new(home, shared.as_ref().map(Shared::flags).unwrap_or_default());
        let ready = first.start();
        let file = ready["certificate"].as_str().unwrap();
        let certificate = fs::read_to_string(file).unwrap();
        let token = fs::read_to_string(ready["owner_token_file"].as_str().unwrap()).unwrap().trim().to_owned();
        let mut backend = Self {
            place: place.into(),
            expected,
            owner_file: identity.signer().to_file_text(""),
            url: ready["url"].as_str().unwrap().to_owned(),
            client: client(&certificate),
            certificate,
            token,
            processes: vec![first],
            _shared: None,
        };
        if let Some(shared) = shared {
            // The home of the second one is empty: its vault comes from the store.
            let mut flags = shared.flags();
            flags.extend(["--tls-cert".into(), file.into()]);
            flags.extend(["--tls-key".into(), Path::new(file).with_file_name("key.pem").to_str().unwrap().into()]);
            let mut second = Serving::new(place.join("second"), flags);
            second.start();
            backend.processes.push(second);
            backend.processes.iter().for_each(|p| shared.balancer.add(p.address.parse().unwrap()));
            backend.url = format!("https://{}", shared.balancer.address);
            backend._shared = Some(shared);
            // What the home's own registry knows counts for nothing here.
            backend.protect(onnx, &samples);
        }
        backend.post("/deployments", json!({"group": "line", "model": "digits"}));
        Some(backend)
    }

    /// Uploads the digits' network and waits until its last layer is protected.
    fn protect(&self, onnx: Vec<u8>, samples: &Dataset) {
        let upload = |name: &str, bytes: Vec<u8>| {
            let url = format!("{}/api/v1/uploads?name={name}", self.url);
            let answer = self.client.post(url).bearer_auth(&self.token).body(bytes).send().unwrap();
            answer.error_for_status().unwrap().json::<Value>().unwrap()["id"].clone()
        };
        let (network, calibrate) = (upload("digits.onnx", onnx), upload("digits.npy", samples.to_npy().unwrap()));
        let wanted = json!({
            "name": "digits", "network": network, "calibrate": calibrate,
            "scope": "last", "input": "plain", "preprocess": "scale=1/255",
        });
        let job = self.post("/models", wanted);
        let path = format!("/jobs/{}", job["id"].as_str().unwrap());
        wait_at_most(120, "the protected network", || {
            let job = self.get(&path).unwrap();
            assert_ne!(job["state"], "failed", "{job}");
            job["state"] == "done"
        });
    }

    /// SIGKILL, of the process whose turn it is.
    pub fn kill(&mut self) {
        self.processes[0].kill();
    }

    /// Starts the killed process again, on the same address; the next one to be killed is another, if there is one.
    pub fn restart(&mut self) {
        self.kill();
        self.processes[0].start();
        self.processes.rotate_left(1);
    }

    /// While a process is killed: waits until there are so many results all the same, if there is another process to take them.
    #[allow(dead_code)] // not of every test
    pub fn goes_on_to(&self, count: usize) {
        if self.processes.len() > 1 {
            self.wait_for(count);
        }
    }

    /// The owner's token.
    #[allow(dead_code)] // not of every test
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Id of the process.
    #[allow(dead_code)] // not of every test
    pub fn process(&self) -> u32 {
        self.processes[0].child.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        self.processes.iter().map(Serving::log).collect()
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        let request = self.client.get(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        request.send().ok()?.error_for_status().ok()?.json().ok()
    }

    pub fn post(&self, path: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token).json(&body);
        let answer = request.send().unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().unwrap());
        answer.json().unwrap()
    }

    /// A one-time token for a device of the group that runs the digits.
    pub fn enrolment(&self) -> String {
        self.post("/tokens", json!({"group": "line"}))["token"].as_str().unwrap().to_owned()
    }

    /// All results, in whatever state.
    pub fn results(&self) -> Vec<Value> {
        let page = self.get("/results?limit=1000");
        page.and_then(|mut page| page["results"].as_array_mut().map(std::mem::take)).unwrap_or_default()
    }

    /// Waits for so many results.
    pub fn wait_for(&self, count: usize) {
        wait_for(&format!("{count} results"), || self.results().len() >= count);
    }

    /// Waits until so many results are decided: label of the sample and class.
    pub fn decided(&self, count: usize) -> Vec<(String, u64)> {
        let mut results = Vec::new();
        // What a killed process had begun to decrypt is another's only when its lease has run out.
        wait_at_most(200, &format!("{count} decided results"), || {
            results = self.results();
            results.len() >= count && results.iter().all(|r| r["state"] != "stored")
        });
        let read = |r: &Value| {
            assert_eq!(r["state"], "released", "{r}");
            (r["label"].as_str().unwrap().to_owned(), r["class"].as_u64().unwrap())
        };
        let mut out: Vec<_> = results.iter().map(read).collect();
        out.sort();
        out
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.processes.iter_mut().for_each(Serving::kill);
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<&str> = log.lines().rev().filter(|l| !l.contains("status=200")).take(40).collect();
            eprintln!("--- end of the backend's log, last line first\n{}", end.join("\n"));
        }
    }
}

/// TLS that trusts this certificate and no other.
pub fn tls(certificate: &str) -> rustls::ClientConfig {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A client that trusts this certificate and no other.
pub fn client(certificate: &str) -> reqwest::blocking::Client {
    let builder = reqwest::blocking::Client::builder().use_preconfigured_tls(tls(certificate));
    builder.timeout(Duration::from_secs(30)).no_proxy().build().unwrap()
}

/// Evaluated blind by `subrosa-edge infer`, decrypted by the owner.
fn locally(owner: &Owner, vault: &Vault, bundle: &Path, images: &Dataset) -> Vec<u64> {
    let (input, results) = (bundle.with_extension("npy"), bundle.with_extension("srr"));
    fs::write(&input, images.to_npy().unwrap()).unwrap();
    let mut edge = Command::new(PROGRAMS.as_ref().unwrap().join("subrosa-edge"));
    edge.arg("infer").arg(bundle).arg("--quiet").arg("--input").arg(&input).arg("--out").arg(&results);
    assert!(edge.status().unwrap().success());
    let decrypted = owner.decrypt(&results, Reveal::Label, vault).unwrap();
    decrypted.predictions.into_iter().map(|p| p.label as u64).collect()
}
