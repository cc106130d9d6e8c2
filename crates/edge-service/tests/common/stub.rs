//! The backend's device interface with a memory for a database. Stopping it breaks all connections; its memory stays, as a database would.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use subrosa_fleet::messages::{Deployment, Enrol, Enrolled, MAX_BATCH, Outcome, Problem, Receipt, Receipts, Status};
use subrosa_fleet::{ResultId, SignedResult, decode_batch};
use subrosa_program::container::Signer;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What goes wrong on purpose.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A bundle's answer breaks off after so many bytes, so many times.
    pub cut_bundle: Option<(usize, usize)>,
    /// One byte of every bundle is wrong.
    pub tamper: bool,
    /// Results are stored but the answer is an error, so many times.
    pub lost_receipts: usize,
    /// Results whose label contains this are refused.
    pub refuse_label: Option<String>,
    /// Batches of more results are too large.
    pub largest_batch: Option<usize>,
}

/// A result that was stored.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub result: SignedResult,
    /// How often it came.
    pub times: usize,
}

#[derive(Default)]
pub struct World {
    pub used_tokens: HashSet<String>,
    /// Access token to device id and key.
    pub devices: HashMap<String, (String, Signer)>,
    pub owner: Option<Signer>,
    pub deployment: Option<Deployment>,
    pub bundles: HashMap<String, Vec<u8>>,
    /// Ranges that were asked for.
    pub ranges: Vec<Option<String>>,
    pub results: HashMap<ResultId, Arrived>,
    /// Sequence numbers by device.
    pub sequences: HashMap<(String, u64), ResultId>,
    pub conflicts: usize,
    pub batches: Vec<usize>,
    pub statuses: Vec<Status>,
    pub faults: Faults,
}

/// The stub.
pub struct Stub {
    world: Arc<Mutex<World>>,
    address: SocketAddr,
    tls: TlsAcceptor,
    certificate: String,
    runtime: Option<Runtime>,
}

impl Stub {
    pub fn start(owner: Signer) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let world = World { owner: Some(owner), ..World::default() };
        let mut stub = Self {
            world: Arc::new(Mutex::new(world)),
            address: "127.0.0.1:0".parse().unwrap(),
            tls: TlsAcceptor::from(Arc::new(config)),
            certificate: cert.pem(),
            runtime: None,
        };
        stub.restart();
        stub
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Breaks all connections; nobody listens any more.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Listens (again) on the same address.
    pub fn restart(&mut self) {
        self.stop();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = (0..50).find_map(|_| {
            let bound = runtime.block_on(TcpListener::bind(self.address));
            bound.map_err(|_| std::thread::sleep(std::time::Duration::from_millis(100))).ok()
        });
        let listener = listener.unwrap();
        self.address = listener.local_addr().unwrap();
        let router = axum::Router::new()
            .route("/api/v1/device/enrol", post(enrol))
            .route("/api/v1/device/deployment", get(deployment))
            .route("/api/v1/device/bundles/{sha256}", get(bundle))
            .route("/api/v1/device/results", post(results))
            .route("/api/v1/device/status", post(status))
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state(Arc::clone(&self.world));
        let listener = Tls { listener, tls: self.tls.clone() };
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
    }

    /// Deploys a bundle to all devices.
    pub fn deploy(&self, generation: u64, model: &str, version: u32, bundle: &Path) -> PathBuf {
        let bytes = std::fs::read(bundle).unwrap();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let mut world = self.world();
        world.deployment = Some(Deployment {
            generation,
            model: model.into(),
            name: "test".into(),
            version,
            sha256: sha256.clone(),
            bytes: bytes.len() as u64,
        });
        world.bundles.insert(sha256.clone(), bytes);
        PathBuf::from(format!("{sha256}.srb"))
    }

    /// Results stored so far.
    pub fn stored(&self) -> usize {
        self.world().results.len()
    }

    /// The last status report.
    pub fn status(&self) -> Option<Status> {
        self.world().statuses.last().cloned()
    }
}

struct Tls {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

type Shared = State<Arc<Mutex<World>>>;

fn problem(status: StatusCode, detail: &str) -> Response {
    let problem = Problem { title: "stub".into(), status: status.as_u16(), detail: detail.into() };
    (status, Json(problem)).into_response()
}

fn device(world: &World, headers: &HeaderMap) -> Option<(String, Signer)> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    world.devices.get(given).cloned()
}

async fn enrol(State(world): Shared, Json(enrol): Json<Enrol>) -> Response {
    let mut world = world.lock().unwrap();
    if !enrol.token.starts_with("one-time") || !world.used_tokens.insert(enrol.token) {
        return problem(StatusCode::UNAUTHORIZED, "this token is unknown or was used");
    }
    let id = format!("device-{}", world.devices.len() + 1);
    let public_key = hex::decode(&enrol.public_key).unwrap().try_into().unwrap();
    let access_token = format!("access-{id}");
    world.devices.insert(access_token.clone(), (id.clone(), Signer { public_key }));
    let owner_public_key = hex::encode(world.owner.unwrap().public_key);
    Json(Enrolled { device: id, group: "test".into(), access_token, owner_public_key }).into_response()
}

async fn deployment(State(world): Shared, headers: HeaderMap) -> Response {
    let world = world.lock().unwrap();
    if device(&world, &headers).is_none() {
        return problem(StatusCode::UNAUTHORIZED, "no such device");
    }
    match &world.deployment {
        Some(deployment) => Json(deployment.clone()).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn bundle(State(world): Shared, UrlPath(sha256): UrlPath<String>, headers: HeaderMap) -> Response {
    let mut world = world.lock().unwrap();
    if device(&world, &headers).is_none() {
        return problem(StatusCode::UNAUTHORIZED, "no such device");
    }
    let Some(mut bytes) = world.bundles.get(&sha256).cloned() else {
        return problem(StatusCode::NOT_FOUND, "no such bundle");
    };
    if world.faults.tamper {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    let range = headers.get(header::RANGE).map(|v| v.to_str().unwrap().to_owned());
    world.ranges.push(range.clone());
    let from = range.map_or(0, |r| r.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
    let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let rest = bytes.split_off(from);
    if let Some((after, times)) = world.faults.cut_bundle {
        world.faults.cut_bundle = (times > 1).then(|| (after, times - 1));
        let part = Bytes::from(rest[..after.min(rest.len())].to_vec());
        let parts = [Ok(part), Err(std::io::Error::other("cut on purpose"))];
        return (status, Body::from_stream(futures_util::stream::iter(parts))).into_response();
    }
    (status, rest).into_response()
}

async fn results(State(world): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let mut world = world.lock().unwrap();
    let Some((id, key)) = device(&world, &headers) else {
        return problem(StatusCode::UNAUTHORIZED, "no such device");
    };
    let Ok(batch) = decode_batch(&body, MAX_BATCH) else {
        return problem(StatusCode::BAD_REQUEST, "no batch of results");
    };
    if world.faults.largest_batch.is_some_and(|most| batch.len() > most) {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "too large");
    }
    world.batches.push(batch.len());
    let receipts = batch
        .into_iter()
        .map(|result| Receipt { result: result.statement.result_id(), outcome: world.take(&id, &key, result) })
        .collect();
    if world.faults.lost_receipts > 0 {
        world.faults.lost_receipts -= 1;
        return problem(StatusCode::BAD_GATEWAY, "the receipts are lost on purpose");
    }
    Json(Receipts { receipts }).into_response()
}

impl World {
    fn take(&mut self, device: &str, key: &Signer, result: SignedResult) -> Outcome {
        let refused = |reason: &str| Outcome::Refused { reason: reason.into() };
        if result.statement.device != device || result.verify(key).is_err() {
            return refused("signature");
        }
        if self.faults.refuse_label.as_ref().is_some_and(|l| result.statement.label.contains(l)) {
            return refused("refused on purpose");
        }
        let (id, sequence) = (result.statement.result_id(), (device.to_owned(), result.statement.sequence));
        if *self.sequences.entry(sequence).or_insert(id) != id {
            self.conflicts += 1;
            return refused("a sequence number used twice");
        }
        if let Some(known) = self.results.get_mut(&id) {
            known.times += 1;
            return Outcome::Duplicate;
        }
        self.results.insert(id, Arrived { result, times: 1 });
        Outcome::Stored
    }
}

async fn status(State(world): Shared, headers: HeaderMap, Json(status): Json<Status>) -> Response {
    let mut world = world.lock().unwrap();
    if device(&world, &headers).is_none() {
        return problem(StatusCode::UNAUTHORIZED, "no such device");
    }
    world.statuses.push(status);
    StatusCode::NO_CONTENT.into_response()
}
