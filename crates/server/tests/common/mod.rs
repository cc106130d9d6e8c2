//! A home with protected digits, a server on it, and an edge made by hand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, dead_code, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, Response, StatusCode};
use serde_json::{Value, json};
use subrosa_edge_agent::{Options, Processor};
use subrosa_fleet::messages::{Deployment, Enrol, Enrolled, Outcome, Receipts};
use subrosa_fleet::{DeviceKey, SampleId, SignedResult, Statement, encode_batch};
use subrosa_input::Dataset;
use subrosa_network::Scope;
use subrosa_owner::{Owner, ProtectRequest, Silent};
use subrosa_registry::{Passphrase, Vault};
use subrosa_server::{Config, Server};

pub const PASSPHRASE: &str = "correct horse battery staple";

pub fn passphrase() -> Passphrase {
    Passphrase::new(PASSPHRASE.to_owned()).unwrap()
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn digits(count: usize) -> Dataset {
    let file = root().join("data/mnist-test-1000-images-idx3-ubyte.gz");
    subrosa_input::read(file.to_str().unwrap(), Some(count)).unwrap()
}

pub fn onnx() -> Vec<u8> {
    std::fs::read(root().join("models/mnist-cnn.onnx")).unwrap()
}

/// Protects the digits' last layer in a home; gives the network's id.
pub fn protect(home: &Path, name: &str) -> String {
    let owner = Owner::open(home).unwrap();
    let vault = Vault::create_or_open_for_tests(home, &passphrase()).unwrap();
    let (onnx, data) = (onnx(), digits(64));
    let request = ProtectRequest {
        scope: Scope::Last,
        encrypted_input: false,
        preprocess: Some("scale=1/255".parse().unwrap()),
        calibrate: Some(&data),
        security: subrosa_fhe::security::SecurityLevel::Bits128,
        ..ProtectRequest::new(&onnx, name)
    };
    owner.protect(&request, &vault, &Silent).unwrap().id
}

/// A server on a home of its own.
pub struct Backend {
    pub home: tempfile::TempDir,
    pub server: Option<Server>,
    pub http: Http,
}

impl Backend {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let home = tempfile::tempdir().unwrap();
        // Cheap scrypt.
        Vault::create_or_open_for_tests(home.path(), &passphrase()).unwrap();
        let mut config = config(home.path());
        change(&mut config);
        let (server, token) = start(config).await;
        let http = Http::new(&server, token.unwrap());
        Self { home, server: Some(server), http }
    }

    pub async fn stop(&mut self) {
        self.server.take().unwrap().stop().await;
    }
}

pub fn config(home: &Path) -> Config {
    Config::new(home.to_owned(), "127.0.0.1:0".parse().unwrap())
}

pub async fn start(config: Config) -> (Server, Option<String>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Server::start(config, passphrase()).await.unwrap();
    let token = server.first_token().await.unwrap();
    (server, token)
}

/// The owner's client.
#[derive(Clone)]
pub struct Http {
    pub client: Client,
    pub url: String,
    pub token: String,
}

/// A client that trusts this certificate and no other.
pub fn client(certificate: Option<&Path>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().timeout(Duration::from_secs(60));
    match certificate {
        None => builder.build().unwrap(),
        Some(file) => {
            let pem = Certificate::from_pem(&std::fs::read(file).unwrap()).unwrap();
            builder.tls_certs_only([pem]).build().unwrap()
        }
    }
}

impl Http {
    pub fn new(server: &Server, token: String) -> Self {
        Self { client: client(server.certificate().map(PathBuf::as_path)), url: server.url(), token }
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.ask(reqwest::Method::GET, path, None).await;
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.ask(reqwest::Method::POST, path, Some(body)).await;
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        let text = answer.text().await.unwrap();
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    pub async fn ask(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Response {
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        // A connection that was kept may be closed by the server at this very moment: once more, on a new one.
        let again = request.try_clone().unwrap();
        match request.send().await {
            Err(error) if error.is_request() => again.send().await.unwrap(),
            answer => answer.unwrap(),
        }
    }

    /// Uploads a file; gives its id.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> String {
        let request = self.client.post(format!("{}/api/v1/uploads?name={name}", self.url)).bearer_auth(&self.token);
        let answer = request.body(bytes).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a job is done.
    pub async fn done(&self, job: &Value) -> Value {
        let start = Instant::now();
        loop {
            let job = self.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await;
            if job["state"] == "done" {
                return job;
            }
            assert!(job["state"] != "failed" && start.elapsed() < Duration::from_secs(120), "{job}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Uploads and protects the digits' last layer, calibrated as by [`protect`].
    pub async fn protect(&self, name: &str) {
        let network = self.upload("digits.onnx", onnx()).await;
        let calibrate = self.upload("digits.npy", digits(64).to_npy().unwrap()).await;
        let wanted = json!({
            "name": name, "network": network, "calibrate": calibrate,
            "scope": "last", "input": "plain", "preprocess": "scale=1/255",
        });
        let job = self.post("/models", wanted).await;
        self.done(&job).await;
    }

    pub async fn enrolment_token(&self, group: &str) -> String {
        let made = self.post("/tokens", json!({ "group": group })).await;
        made["token"].as_str().unwrap().to_owned()
    }

    /// A device of a group, enrolled.
    pub async fn device(&self, group: &str, name: &str) -> Edge {
        let key = DeviceKey::generate().unwrap();
        let token = self.enrolment_token(group).await;
        let answer = self.enrol(&token, name, &key).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        let enrolled: Enrolled = answer.json().await.unwrap();
        Edge {
            http: Self { token: enrolled.access_token.clone(), ..self.clone() },
            key: Arc::new(key),
            enrolled,
            next: 0,
        }
    }

    pub async fn enrol(&self, token: &str, name: &str, key: &DeviceKey) -> Response {
        let body = Enrol { token: token.into(), name: name.into(), public_key: hex::encode(key.public().public_key) };
        let url = format!("{}/api/v1/device/enrol", self.url);
        self.client.post(url).json(&body).send().await.unwrap()
    }

    /// Waits until nothing waits to be decided, then gives all results.
    pub async fn decided(&self, count: usize) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let page = self.get("/results?limit=1000").await;
            let results = page["results"].as_array().unwrap();
            if results.len() >= count && results.iter().all(|r| r["state"] != "stored") {
                return results.clone();
            }
            assert!(start.elapsed() < Duration::from_secs(60), "results stay undecided: {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// An edge machine.
pub struct Edge {
    pub http: Http,
    pub key: Arc<DeviceKey>,
    pub enrolled: Enrolled,
    next: u64,
}

impl Edge {
    pub async fn deployment(&self) -> Option<Deployment> {
        let answer = self.http.ask(reqwest::Method::GET, "/device/deployment", None).await;
        if answer.status() == StatusCode::NO_CONTENT { None } else { Some(answer.json().await.unwrap()) }
    }

    /// Fetches the deployed bundle in two ranges and loads it.
    pub async fn processor(&self) -> (Deployment, Processor) {
        let deployment = self.deployment().await.unwrap();
        let url = format!("{}/api/v1/device/bundles/{}", self.http.url, deployment.sha256);
        let part = |range: String| {
            let request = self.http.client.get(&url).bearer_auth(&self.http.token).header("range", range);
            async move {
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
                answer.bytes().await.unwrap().to_vec()
            }
        };
        let half = deployment.bytes / 2;
        let mut bytes = part(format!("bytes=0-{}", half - 1)).await;
        bytes.extend(part(format!("bytes={half}-")).await);
        assert_eq!(bytes.len() as u64, deployment.bytes);
        assert_eq!(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)), deployment.sha256);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        (deployment, Processor::load(file.path(), &Options::default()).unwrap())
    }

    /// Evaluates samples and signs the results.
    pub fn evaluate(&mut self, deployment: &Deployment, processor: &Processor, data: &Dataset) -> Vec<SignedResult> {
        let samples = processor.preprocess(data).unwrap();
        let features = processor.features(samples.count, &samples.data).unwrap();
        let results = features.chunks(processor.feature_count()).enumerate().map(|(i, sample)| {
            let ciphertexts = processor.infer(&processor.prepare(sample).unwrap()).unwrap();
            let parameters = processor.parameters();
            let payload = ciphertexts.iter().flat_map(|c| c.to_bytes(parameters).unwrap()).collect();
            (i, payload)
        });
        results.collect::<Vec<_>>().into_iter().map(|(i, payload)| self.sign(deployment, i, payload)).collect()
    }

    pub fn sign(&mut self, deployment: &Deployment, sample: usize, payload: Vec<u8>) -> SignedResult {
        self.next += 1;
        let statement = self.statement(deployment, sample, self.next);
        SignedResult::sign(&self.key, statement, payload).unwrap()
    }

    pub fn statement(&self, deployment: &Deployment, sample: usize, sequence: u64) -> Statement {
        Statement {
            model: deployment.model.clone(),
            version: deployment.version,
            device: self.enrolled.device.clone(),
            sequence,
            origin: self.enrolled.device.clone(),
            sample: SampleId::of("digits", &sample.to_string()),
            label: format!("digit {sample}"),
            taken_at: 1_700_000_000_000 + sample as u64,
            payload_sha256: String::new(),
        }
    }

    pub async fn deliver(&self, results: &[SignedResult]) -> Vec<Outcome> {
        let answer = self.send(encode_batch(results)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let receipts: Receipts = answer.json().await.unwrap();
        receipts.receipts.into_iter().map(|r| r.outcome).collect()
    }

    pub async fn send(&self, body: Vec<u8>) -> Response {
        let url = format!("{}/api/v1/device/results", self.http.url);
        self.http.client.post(url).bearer_auth(&self.http.token).body(body).send().await.unwrap()
    }
}

/// Classes that the plain network gives.
pub fn plain_labels(data: &Dataset) -> Vec<u64> {
    let network = subrosa_network::Network::from_onnx(&onnx()).unwrap();
    let preprocess: subrosa_input::Preprocess = "scale=1/255".parse().unwrap();
    let input = preprocess.apply(data, network.input_shape()).unwrap();
    let plain = subrosa_plain::PlainNetwork::load(&onnx(), 1).unwrap();
    let outputs = plain.run(data.count, &input).unwrap();
    let classes = outputs.len() / data.count;
    outputs
        .chunks(classes)
        .map(|scores| (0..classes).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap() as u64)
        .collect()
}

/// Each of so many digits was released once, with the expected class.
pub fn assert_all_released_once(decided: &[Value], expected: &[u64]) {
    assert_eq!(decided.len(), expected.len());
    let mut labels: Vec<(String, u64)> = decided
        .iter()
        .map(|r| (r["label"].as_str().unwrap().to_owned(), r["class"].as_u64().unwrap_or_else(|| panic!("{r}"))))
        .collect();
    labels.sort();
    let mut wanted: Vec<(String, u64)> =
        expected.iter().enumerate().map(|(i, class)| (format!("digit {i}"), *class)).collect();
    wanted.sort();
    assert_eq!(labels, wanted);
}
