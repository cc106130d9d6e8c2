//! What must be refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Backend, PASSPHRASE, digits, protect};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use subrosa_fleet::messages::Outcome;
use subrosa_fleet::{DeviceKey, SignedResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { .. })
}

/// Codes of the refusals in the audit log.
async fn codes(backend: &Backend) -> Vec<String> {
    let log = backend.http.get("/audit?limit=1000").await;
    let entries = log["entries"].as_array().unwrap();
    entries.iter().filter_map(|e| e["event"]["code"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_but_health_and_enrolment_answers_without_a_token() {
    let mut backend = Backend::start().await;
    let description = backend.http.get("/openapi.json").await;
    let mut asked = 0;
    let mut open = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            if operation["security"].as_array().is_none_or(Vec::is_empty) {
                open.push(format!("{method} {path}"));
                continue;
            }
            let url = format!("{}{}", backend.http.url, path.replace("{id}", "0").replace("{sha256}", "0"));
            let wrong = format!("sro_{}", "0".repeat(64));
            for token in [None, Some("x".to_owned()), Some(wrong), Some(format!("srd_{}", "0".repeat(64)))] {
                let mut request = backend.http.client.request(method.clone(), &url);
                if let Some(token) = &token {
                    request = request.bearer_auth(token);
                }
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path} with {token:?}");
                assert_eq!(answer.headers()["content-type"], "application/problem+json");
                asked += 1;
            }
        }
    }
    assert!(asked >= 80, "{asked}");
    assert_eq!(open, ["POST /api/v1/device/enrol"]);
    for path in ["/metrics", "/api/v1/openapi.json"] {
        let answer = backend.http.client.get(format!("{}{path}", backend.http.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        let answer = backend.http.client.get(format!("{}{path}", backend.http.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    // A device's token opens nothing of the owner's, and the owner's nothing of a device.
    let edge = backend.http.device("g", "d").await;
    let answer = edge.http.ask(Method::GET, "/devices", None).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let answer = backend.http.ask(Method::GET, "/device/deployment", None).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_enrols_one_device_and_a_revoked_device_gets_nothing() {
    let mut backend = Backend::start().await;
    protect(backend.home.path(), "digits");
    let owner = backend.http.clone();
    let token = owner.enrolment_token("g").await;
    let (first, second) = (DeviceKey::generate().unwrap(), DeviceKey::generate().unwrap());
    assert_eq!(owner.enrol(&token, "a", &first).await.status(), StatusCode::CREATED);
    assert_eq!(owner.enrol(&token, "b", &second).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(owner.enrol(&token, "a", &first).await.status(), StatusCode::FORBIDDEN);
    let invented = format!("sre_{}", "0".repeat(64));
    assert_eq!(owner.enrol(&invented, "b", &second).await.status(), StatusCode::FORBIDDEN);
    let other = owner.enrolment_token("g").await;
    assert_eq!(owner.enrol(&other, "b", &first).await.status(), StatusCode::CONFLICT);
    // A refusal of another kind does not use the token up.
    assert_eq!(owner.enrol(&other, "b", &second).await.status(), StatusCode::CREATED);
    assert_eq!(codes(&backend).await.iter().filter(|c| *c == "token").count(), 4);

    let mut edge = owner.device("g", "camera").await;
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = edge.processor().await;
    let results = edge.evaluate(&deployment, &processor, &digits(2));
    owner.post(&format!("/devices/{}/revoke", edge.enrolled.device), Value::Null).await;
    assert_eq!(edge.send(subrosa_fleet::encode_batch(&results)).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(edge.http.ask(Method::GET, "/device/deployment", None).await.status(), StatusCode::FORBIDDEN);
    assert!(codes(&backend).await.contains(&"revoked".to_owned()));
    assert!(owner.get("/results").await["results"].as_array().unwrap().is_empty());
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_foreign_signatures_other_models_and_forged_ciphertexts_are_refused_and_audited() {
    let mut backend = Backend::start().await;
    protect(backend.home.path(), "digits");
    let other = protect(backend.home.path(), "other");
    let owner = backend.http.clone();
    let mut edge = owner.device("g", "camera").await;
    let stranger = owner.device("elsewhere", "stranger").await;
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = edge.processor().await;
    let results = edge.evaluate(&deployment, &processor, &digits(3));
    let payload = results[0].payload.clone();
    assert_eq!(edge.deliver(&results[..2]).await, [Outcome::Stored, Outcome::Stored]);

    let with = |edge: &common::Edge, change: &dyn Fn(&mut subrosa_fleet::Statement)| {
        let mut statement = edge.statement(&deployment, 100, 100);
        change(&mut statement);
        SignedResult::sign(&edge.key, statement, payload.clone()).unwrap()
    };
    let replay = with(&edge, &|s| s.sequence = 1);
    let moved = with(&edge, &|s| s.model = other.clone());
    let version = with(&edge, &|s| s.version = 2);
    let origin = with(&edge, &|s| s.origin = stranger.enrolled.device.clone());
    let unsigned = with(&stranger, &|s| s.device = edge.enrolled.device.clone());
    for (what, result) in
        [("replay", replay), ("moved", moved), ("version", version), ("origin", origin), ("unsigned", unsigned)]
    {
        let outcomes = edge.deliver(&[result]).await;
        assert!(refused(&outcomes[0]), "{what}: {outcomes:?}");
    }
    // What only the secret key can tell is stored and refused later; what is too short is not even stored.
    let mut noise = payload.clone();
    let middle = noise.len() / 2;
    noise[middle] ^= 0x55;
    let short = payload[..payload.len() - 8].to_vec();
    let bad = [edge.sign(&deployment, 201, noise), edge.sign(&deployment, 202, short)];
    let outcomes = edge.deliver(&bad).await;
    assert!(outcomes[0] == Outcome::Stored && refused(&outcomes[1]), "{outcomes:?}");
    let decided = owner.decided(3).await;
    let refused: Vec<&Value> = decided.iter().filter(|r| r["state"] == "refused").collect();
    assert_eq!(refused.len(), 1, "{decided:?}");
    assert!(refused.iter().all(|r| r.get("prediction").is_none()));
    let codes = codes(&backend).await;
    for code in ["replay", "model", "unknown", "signature", "form"] {
        assert!(codes.iter().any(|c| c == code), "{code} is not in {codes:?}");
    }
    // Three violations, on arrival or when decrypted: the foreign signature, the noise, the short one. Nothing of the device is examined any more.
    edge.deliver(&results[2..]).await;
    let decided = owner.decided(4).await;
    let honest = decided.iter().find(|r| r["label"] == "digit 2").unwrap();
    assert_eq!(honest["code"], "suspended", "{honest}");
    owner.post(&format!("/devices/{}/readmit", edge.enrolled.device), Value::Null).await;
    let fourth = edge.sign(&deployment, 204, payload);
    edge.deliver(&[fourth]).await;
    let decided = owner.decided(5).await;
    assert_eq!(decided.iter().find(|r| r["label"] == "digit 204").unwrap()["state"], "released");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_results_that_are_refused_on_arrival_suspend_a_device_and_those_of_a_retired_network_do_not() {
    let mut backend = Backend::start().await;
    protect(backend.home.path(), "digits");
    let owner = backend.http.clone();
    let mut edges =
        [owner.device("g", "short").await, owner.device("g", "foreign").await, owner.device("g", "honest").await];
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = edges[0].processor().await;
    let payload = edges[0].evaluate(&deployment, &processor, &digits(1))[0].payload.clone();
    let stranger = DeviceKey::generate().unwrap();
    for i in 0..3 {
        let short = edges[0].sign(&deployment, i, payload[..100].to_vec());
        assert!(refused(&edges[0].deliver(&[short]).await[0]));
        let statement = edges[1].statement(&deployment, i, 50 + i as u64);
        let foreign = SignedResult::sign(&stranger, statement, payload.clone()).unwrap();
        assert!(refused(&edges[1].deliver(&[foreign]).await[0]));
    }
    for (i, edge) in edges.iter_mut().enumerate() {
        let good = edge.sign(&deployment, 10 + i, payload.clone());
        assert_eq!(edge.deliver(&[good]).await, [Outcome::Stored]);
    }
    let decided = owner.decided(3).await;
    let code = |label: &str| decided.iter().find(|r| r["label"] == label).unwrap()["code"].clone();
    assert_eq!(
        (code("digit 10"), code("digit 11"), code("digit 12")),
        ("suspended".into(), "suspended".into(), Value::Null)
    );

    // What waits in queues for a network that was retired is refused with a reason, and nobody's fault.
    owner.post("/models/digits/retire", Value::Null).await;
    assert!(edges[2].deployment().await.is_none());
    for i in 20..24 {
        let late = edges[2].sign(&deployment, i, payload.clone());
        let outcomes = edges[2].deliver(&[late]).await;
        assert!(matches!(&outcomes[0], Outcome::Refused { reason } if reason.contains("retired")), "{outcomes:?}");
    }
    protect(backend.home.path(), "digits");
    owner.post("/deployments", json!({ "group": "g", "model": "digits@2" })).await;
    let (deployment, processor) = edges[2].processor().await;
    let results = edges[2].evaluate(&deployment, &processor, &digits(1));
    assert_eq!(edges[2].deliver(&results).await, [Outcome::Stored]);
    let decided = owner.decided(4).await;
    assert_eq!(decided.iter().filter(|r| r["state"] == "released").count(), 2, "{decided:?}");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_bodies_and_tricks_in_names_are_refused() {
    let mut backend = Backend::start_with(|c| {
        c.limits.batch_bytes = 100_000;
        c.limits.upload_bytes = 100_000;
    })
    .await;
    let edge = backend.http.device("g", "camera").await;
    assert_eq!(edge.send(vec![0; 200_000]).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(edge.send(vec![0; 1000]).await.status(), StatusCode::BAD_REQUEST);
    let url = format!("{}/api/v1/uploads?name=a.onnx", backend.http.url);
    let upload = |body: Vec<u8>| backend.http.client.post(&url).bearer_auth(&backend.http.token).body(body).send();
    assert_eq!(upload(vec![0; 200_000]).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    // Without an announced length.
    let pieces = futures_util::stream::iter((0..200).map(|_| Ok::<_, std::io::Error>(vec![0_u8; 1000])));
    let body = reqwest::Body::wrap_stream(pieces);
    let request = backend.http.client.post(&url).bearer_auth(&backend.http.token).body(body);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);

    let tricks = ["'; DROP TABLE models; --", "../../etc/passwd", "a/b", "..%2f..%2f", "a\u{0}b", "$1", "", "a b"];
    for name in tricks {
        let answer = backend.http.ask(Method::POST, "/tokens", Some(json!({ "group": name }))).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{name:?}");
        let answer = backend.http.ask(Method::POST, "/models", Some(json!({ "name": name, "network": name }))).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{name:?}");
        let key = DeviceKey::generate().unwrap();
        let token = backend.http.enrolment_token("g").await;
        assert_eq!(backend.http.enrol(&token, name, &key).await.status(), StatusCode::BAD_REQUEST, "{name:?}");
    }
    for path in [
        "/results?model=%27%20OR%201=1",
        "/models/..%2F..%2Fregistry.sqlite",
        "/results/%27%20OR%201=1",
        "/devices/%27",
    ] {
        let answer = backend.http.ask(Method::GET, path, None).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let answer = edge.http.ask(Method::GET, "/device/bundles/..%2F..%2Fregistry.sqlite", None).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    backend.http.get("/models").await;
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_idle_clients_are_cut_off_and_do_not_stop_others() {
    let mut backend = Backend::start_with(|c| {
        c.transport = subrosa_server::Transport::Plain;
        c.limits.connections = 64;
        c.limits.head_timeout = Duration::from_secs(1);
        c.limits.body_timeout = Duration::from_secs(1);
    })
    .await;
    let address = backend.server.as_ref().unwrap().address();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
    // Its head never ends.
    let _ = slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await;
    let alive = backend.http.client.get(format!("{}/healthz", backend.http.url)).send();
    let answer = tokio::time::timeout(Duration::from_secs(30), alive).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // All were closed by the server in the end.
    for stream in &mut idle {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await.unwrap();
    }
    // A body that stops.
    let head = format!(
        "POST /api/v1/tokens HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n{{",
        backend.http.token
    );
    let mut stuck = tokio::net::TcpStream::connect(address).await.unwrap();
    stuck.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stuck.read_to_end(&mut answer)).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(!String::from_utf8_lossy(&answer).contains(PASSPHRASE));
    backend.stop().await;
}
