//! The watch over labels: a search for a weight by labels alone is noticed, honest answers are not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use cluster::Cluster;
use common::{Backend, Edge, Http, digits, plain_labels};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use subrosa_edge_agent::Processor;
use subrosa_fleet::messages::{Deployment, Outcome};

/// The class that the owner decrypted: the attacker is told it.
async fn label(owner: &Http, sample: usize) -> u64 {
    let start = Instant::now();
    loop {
        let page = owner.get("/results?limit=1000&order=newest").await;
        let wanted = format!("digit {sample}");
        let result = page["results"].as_array().unwrap().iter().find(|r| r["label"] == wanted.as_str());
        if let Some(class) = result.and_then(|r| r["class"].as_u64()) {
            return class;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{page}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One query: features between those of two samples.
async fn query(
    owner: &Http,
    edge: &mut Edge,
    deployment: &Deployment,
    processor: &Processor,
    number: usize,
    features: &[f32],
) -> u64 {
    let ciphertexts = processor.infer(&processor.prepare(features).unwrap()).unwrap();
    let parameters = processor.parameters();
    let payload = ciphertexts.iter().flat_map(|c| c.to_bytes(parameters).unwrap()).collect();
    let signed = edge.sign(deployment, number, payload);
    assert_eq!(edge.deliver(&[signed]).await, [Outcome::Stored]);
    label(owner, number).await
}

async fn alarms(owner: &Http) -> Vec<Value> {
    owner.get("/alarms").await["alarms"].as_array().unwrap().clone()
}

async fn metric(owner: &Http) -> String {
    let answer = owner.client.get(format!("{}/metrics", owner.url)).bearer_auth(&owner.token).send().await.unwrap();
    let text = answer.text().await.unwrap();
    text.lines().find(|line| line.starts_with("subrosa_label_alarms ")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_on_the_border_of_two_classes_raises_an_alarm_and_honest_devices_raise_none() {
    search(Backend::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_postgresql() {
    let Some(cluster) = Cluster::start() else { return };
    let store = tempfile::tempdir().unwrap();
    let shared = |config: &mut subrosa_server::Config| {
        config.database = Some(cluster.url());
        config.store = Some(store.path().to_str().unwrap().to_owned());
    };
    search(Backend::start_with(shared).await).await;
}

async fn search(mut backend: Backend) {
    let owner = backend.http.clone();
    owner.protect("digits").await;
    let (mut honest, mut attacker) = (owner.device("g", "honest").await, owner.device("g", "searching").await);
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = honest.processor().await;
    let data = digits(120);
    for batch in honest.evaluate(&deployment, &processor, &data).chunks(40) {
        honest.deliver(batch).await;
    }
    owner.decided(120).await;
    // It was looked at since, or is within a second or two: then the attacker's alarm below would not be the first.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(alarms(&owner).await, Vec::<Value>::new(), "a false alarm");
    assert_eq!(metric(&owner).await, "subrosa_label_alarms 0");

    // Halves the way between two samples of different classes again and again, by the labels that it is told.
    let classes = plain_labels(&data);
    let other = (1..120).find(|&i| classes[i] != classes[0]).unwrap();
    let samples = processor.preprocess(&data).unwrap();
    let features = processor.features(samples.count, &samples.data).unwrap();
    let width = processor.feature_count();
    let of = |i: usize| &features[i * width..(i + 1) * width];
    let (mut low, mut high) = (0.0_f32, 1.0_f32);
    let mut queries = 0;
    while queries < 200 && alarms(&owner).await.is_empty() {
        let middle = f32::midpoint(low, high);
        let mixed: Vec<f32> = of(0).iter().zip(of(other)).map(|(a, b)| a + middle * (b - a)).collect();
        let class = query(&owner, &mut attacker, &deployment, &processor, 1000 + queries, &mixed).await;
        if class == classes[0] {
            low = middle;
        } else {
            high = middle;
        }
        // The border is found; now it would move weights, and search again near it.
        if high - low < 1e-3 {
            (low, high) = (low - 0.02, high + 0.02);
        }
        queries += 1;
    }
    println!("alarm after {queries} queries");
    let raised = alarms(&owner).await;
    assert!(!raised.is_empty() && queries >= 5, "{queries} queries: {raised:?}");
    assert!(raised.iter().all(|alarm| alarm["device"] == attacker.enrolled.device.as_str()), "{raised:?}");
    assert!(raised[0]["bits"].as_f64().unwrap() >= 30.0 && raised[0]["acknowledged"].is_null());
    // It is told and written down, and refuses nothing.
    assert_ne!(metric(&owner).await, "subrosa_label_alarms 0");
    let log = owner.get("/audit?limit=1000").await;
    let entry = log["entries"].as_array().unwrap().iter().find(|e| e["event"]["event"] == "alarm").unwrap();
    assert_eq!(entry["event"]["device"], attacker.enrolled.device.as_str());
    let decided = owner.decided(120 + queries).await;
    assert!(decided.iter().all(|r| r["state"] == "released"));
    for alarm in &raised {
        owner.post(&format!("/alarms/{}/acknowledge", alarm["id"].as_str().unwrap()), Value::Null).await;
    }
    let path = format!("/alarms/{}/acknowledge", raised[0]["id"].as_str().unwrap());
    let again = owner.ask(reqwest::Method::POST, &path, None).await;
    assert_eq!(again.status(), reqwest::StatusCode::NOT_FOUND);
    let open = alarms(&owner).await.iter().filter(|a| a["acknowledged"].is_null()).count();
    assert_eq!(metric(&owner).await, format!("subrosa_label_alarms {open}"));
    assert_eq!(owner.get("/audit/verify").await["intact"], true);
    backend.stop().await;
}
