//! How many results a second the backend takes, how long an edge waits for its receipts, and how much memory that needs: alone, and with clients beside it
//! that send a byte a second, never finish a request, or do nothing at all. The figures are printed; what must hold on any machine is checked.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

#[path = "../fleet/backend.rs"]
#[allow(dead_code)] // the part for its own tests
mod backend;
#[path = "../../../edge-service/tests/common/mod.rs"]
mod common;

use backend::{Backend, PROGRAMS, client, digits, tls};
use common::wait_at_most;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subrosa_edge_agent::{Options, Processor};
use subrosa_fleet::messages::{Enrol, Enrolled, Outcome, Receipts};
use subrosa_fleet::{DeviceKey, SampleId, SignedResult, Statement, encode_batch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const DEVICES: usize = 4;
/// Connections that do nothing.
const IDLE: usize = 1000;
/// Most memory that the process may ever have had.
const MEMORY: u64 = 1 << 30;

/// An edge that makes nothing but load.
struct Device {
    key: DeviceKey,
    enrolled: Enrolled,
    next: u64,
}

/// What all devices evaluated: packed ciphertexts of honest results.
struct Evaluated {
    model: String,
    payloads: Vec<Vec<u8>>,
}

impl Evaluated {
    fn new(backend: &Backend) -> Self {
        let processor = Processor::load(&backend.place.join("digits.srb"), &Options::default()).unwrap();
        let samples = processor.preprocess(&digits(32)).unwrap();
        let features = processor.features(samples.count, &samples.data).unwrap();
        let payload = |sample: &[f32]| {
            let ciphertexts = processor.infer(&processor.prepare(sample).unwrap()).unwrap();
            ciphertexts.iter().flat_map(|c| c.to_bytes(processor.parameters()).unwrap()).collect()
        };
        let payloads = features.chunks(processor.feature_count()).map(payload).collect();
        let models = backend.get("/models").unwrap();
        Self { model: models["models"][0]["id"].as_str().unwrap().to_owned(), payloads }
    }
}

impl Device {
    fn enrol(backend: &Backend, name: &str) -> Self {
        let key = DeviceKey::generate().unwrap();
        let public_key = hex::encode(key.public().public_key);
        let body = Enrol { token: backend.enrolment(), name: name.to_owned(), public_key };
        let request = client(&backend.certificate).post(format!("{}/api/v1/device/enrol", backend.url)).json(&body);
        Self { key, enrolled: request.send().unwrap().json().unwrap(), next: 0 }
    }

    /// Signed batches.
    fn batches(&mut self, evaluated: &Evaluated, count: usize, size: usize) -> Vec<Vec<u8>> {
        let mut one = || {
            self.next += 1;
            let statement = Statement {
                model: evaluated.model.clone(),
                version: 1,
                device: self.enrolled.device.clone(),
                sequence: self.next,
                origin: self.enrolled.device.clone(),
                sample: SampleId::of("load", &self.next.to_string()),
                label: format!("sample {}", self.next),
                taken_at: 1_700_000_000_000,
                payload_sha256: String::new(),
            };
            let payload = evaluated.payloads[self.next as usize % evaluated.payloads.len()].clone();
            SignedResult::sign(&self.key, statement, payload).unwrap()
        };
        (0..count / size).map(|_| encode_batch(&(0..size).map(|_| one()).collect::<Vec<_>>())).collect()
    }
}

/// What was measured of one kind of load.
struct Measured {
    what: String,
    results: usize,
    seconds: f64,
    /// Seconds of each request, in order of size.
    latencies: Vec<f64>,
    decided_seconds: f64,
    memory: u64,
}

impl Measured {
    fn row(&self) -> String {
        let at = |share: f64| self.latencies[((self.latencies.len() - 1) as f64 * share).round() as usize] * 1e3;
        format!(
            "{:<44} {:>9.0} {:>9.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>9.0}",
            self.what,
            self.results as f64 / self.seconds,
            self.results as f64 / self.decided_seconds,
            at(0.5),
            at(0.95),
            at(0.99),
            at(1.0),
            self.memory as f64 / 1e6,
        )
    }
}

/// Largest memory that the backend ever had.
fn peak_memory(backend: &Backend) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", backend.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn metrics(backend: &Backend) -> String {
    let request = client(&backend.certificate).get(format!("{}/metrics", backend.url)).bearer_auth(backend.token());
    request.send().unwrap().error_for_status().unwrap().text().unwrap()
}

fn count(metrics: &str, series: &str) -> usize {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap()
}

/// All devices at once, each with a connection of its own, one batch after the other.
fn load(
    backend: &Backend,
    devices: &mut [Device],
    evaluated: &Evaluated,
    what: &str,
    results: usize,
    size: usize,
) -> Measured {
    let before = count(&metrics(backend), "subrosa_results{state=\"released\"}");
    let share = results / devices.len();
    let work: Vec<_> =
        devices.iter_mut().map(|d| (d.enrolled.access_token.clone(), d.batches(evaluated, share, size))).collect();
    let start = Instant::now();
    let mut latencies: Vec<f64> = std::thread::scope(|scope| {
        let senders: Vec<_> = work
            .into_iter()
            .map(|(token, batches)| {
                scope.spawn(move || {
                    let client = client(&backend.certificate);
                    let url = format!("{}/api/v1/device/results", backend.url);
                    let send = |batch: Vec<u8>| {
                        let start = Instant::now();
                        let answer = client.post(&url).bearer_auth(&token).body(batch).send().unwrap();
                        assert!(answer.status().is_success(), "{}", answer.status());
                        let receipts: Receipts = answer.json().unwrap();
                        assert!(
                            receipts.receipts.len() == size
                                && receipts.receipts.iter().all(|r| r.outcome == Outcome::Stored)
                        );
                        start.elapsed().as_secs_f64()
                    };
                    batches.into_iter().map(send).collect::<Vec<_>>()
                })
            })
            .collect();
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let results = latencies.len() * size;
    wait_at_most(300, "all results decided", || {
        count(&metrics(backend), "subrosa_results{state=\"released\"}") == before + results
    });
    let decided_seconds = start.elapsed().as_secs_f64();
    Measured { what: what.to_owned(), results, seconds, latencies, decided_seconds, memory: peak_memory(backend) }
}

async fn connect(backend: &Backend) -> TlsStream<TcpStream> {
    let address = backend.url.strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(&backend.certificate)));
    connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap()
}

/// A request of a device whose body does not come: at a byte in each period, or not at all. Gives the answer.
async fn unfinished(mut stream: TlsStream<TcpStream>, token: String, period: Option<Duration>) -> String {
    let head = format!(
        "POST /api/v1/device/results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let dripping = async {
        while let Some(period) = period {
            if to.write_all(b"S").await.is_err() {
                break;
            }
            let _ = to.flush().await;
            tokio::time::sleep(period).await;
        }
        std::future::pending::<()>().await
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = dripping => {}
        // However it is cut off.
        _ = from.read_to_end(&mut answer) => {}
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
#[ignore = "long: run with --ignored"]
fn results_are_taken_at_a_rate_whatever_other_clients_do() {
    if PROGRAMS.is_none() {
        return;
    }
    // A thousand connections at both ends; what is not permitted is seen below.
    let _ = Command::new("prlimit").args(["--nofile=8192:", "--pid", &std::process::id().to_string()]).status();
    let directory = tempfile::tempdir().unwrap();
    let backend = Backend::start(directory.path(), &digits(4));
    let evaluated = Evaluated::new(&backend);
    let mut devices: Vec<Device> = (0..DEVICES).map(|i| Device::enrol(&backend, &format!("device-{i}"))).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();

    let mut rows = Vec::new();
    for (size, results) in [(1, 400), (16, 3200), (64, 6400)] {
        let what = format!("{DEVICES} devices, {size} results a batch");
        rows.push(load(&backend, &mut devices, &evaluated, &what, results, size));
    }
    let token = devices[0].enrolled.access_token.clone();
    let (idle, slow, stuck) = runtime.block_on(async {
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            idle.push(connect(&backend).await);
        }
        let slow = tokio::spawn(unfinished(connect(&backend).await, token.clone(), Some(Duration::from_secs(1))));
        let stuck = tokio::spawn(unfinished(connect(&backend).await, token, None));
        (idle, slow, stuck)
    });
    assert!(count(&metrics(&backend), "subrosa_connections") > IDLE / 2, "the idle connections were closed too early");
    let what = format!("the same with {IDLE} idle, a slow, a stuck client");
    rows.push(load(&backend, &mut devices, &evaluated, &what, 3200, 16));
    runtime.block_on(async {
        let limit = Duration::from_secs(180);
        for (what, request) in [("slow", slow), ("stuck", stuck)] {
            let answer =
                tokio::time::timeout(limit, request).await.unwrap_or_else(|_| panic!("{what}: not cut off")).unwrap();
            assert!(answer.starts_with("HTTP/1.1 408"), "{what}: {answer}");
        }
        for mut stream in idle {
            // Closed, in whatever way.
            let _ = tokio::time::timeout(limit, stream.read_to_end(&mut Vec::new())).await.unwrap();
        }
    });

    println!(
        "{} bytes a result; TLS over loopback, SQLite, one decrypt worker, {} cores\n{:<44} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9}",
        evaluated.payloads[0].len(),
        std::thread::available_parallelism().unwrap(),
        "",
        "stored/s",
        "decided/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "max ms",
        "peak MB"
    );
    rows.iter().for_each(|row| println!("{}", row.row()));
    let said = metrics(&backend);
    let all: usize = rows.iter().map(|row| row.results).sum();
    assert_eq!(count(&said, "subrosa_results{state=\"released\"}"), all);
    assert_eq!(
        count(&said, "subrosa_results{state=\"stored\"}") + count(&said, "subrosa_results{state=\"refused\"}"),
        0
    );
    assert!(
        !said.lines().any(|line| line.starts_with("subrosa_http_requests") && line.contains("status=\"5")),
        "{said}"
    );
    assert!(peak_memory(&backend) < MEMORY, "{} bytes of memory", peak_memory(&backend));
    assert_eq!(backend.get("/audit/verify").unwrap()["intact"], true);
}
