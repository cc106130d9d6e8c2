//! From the enrolment token to the label, over TLS, with an edge made by hand.

mod common;

use common::{Backend, Http, config, digits, plain_labels, protect, start};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use subrosa_fleet::messages::Outcome;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digits_are_answered_once_each_as_the_plain_network_answers_them() {
    let mut backend = Backend::start().await;
    let model = protect(backend.home.path(), "digits");
    let owner = backend.http.clone();
    let mut edge = owner.device("line-1", "camera-1").await;
    assert!(edge.deployment().await.is_none(), "nothing is deployed yet");
    owner.post("/deployments", json!({ "group": "line-1", "model": "digits" })).await;

    let (deployment, processor) = edge.processor().await;
    assert_eq!((deployment.model.as_str(), deployment.version), (model.as_str(), 1));
    let data = digits(12);
    let results = edge.evaluate(&deployment, &processor, &data);
    assert_eq!(edge.deliver(&results).await, vec![Outcome::Stored; 12]);
    assert_eq!(edge.deliver(&results).await, vec![Outcome::Duplicate; 12]);

    let decided = owner.decided(12).await;
    assert_eq!(decided.len(), 12);
    let mut labels: Vec<(String, u64)> = decided
        .iter()
        .map(|r| {
            assert_eq!(r["state"], "released", "{r}");
            (r["label"].as_str().unwrap().to_owned(), r["class"].as_u64().unwrap())
        })
        .collect();
    labels.sort();
    let mut expected: Vec<(String, u64)> =
        plain_labels(&data).into_iter().enumerate().map(|(i, class)| (format!("digit {i}"), class)).collect();
    expected.sort();
    assert_eq!(labels, expected);

    let chain = owner.get("/audit/verify").await;
    assert_eq!(chain["intact"], true, "{chain}");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_rolled_out_is_rolled_back_and_results_of_both_are_taken() {
    let mut backend = Backend::start().await;
    let first = protect(backend.home.path(), "digits");
    let second = protect(backend.home.path(), "digits");
    let owner = backend.http.clone();
    let mut edge = owner.device("line-1", "camera-1").await;
    let back = || owner.ask(Method::POST, "/deployments/rollback", Some(json!({ "group": "line-1" })));
    assert_eq!(back().await.status(), StatusCode::CONFLICT, "nothing ran before");
    owner.post("/deployments", json!({ "group": "line-1", "model": "digits@1" })).await;
    assert_eq!(back().await.status(), StatusCode::CONFLICT, "nothing else ran before");
    let (one, processor) = edge.processor().await;
    let old = edge.evaluate(&one, &processor, &digits(2));
    owner.post("/deployments", json!({ "group": "line-1", "model": "digits" })).await;
    let (two, processor) = edge.processor().await;
    assert_eq!((one.model.as_str(), two.model.as_str(), two.version), (first.as_str(), second.as_str(), 2));
    let new = edge.evaluate(&two, &processor, &digits(4));
    assert_eq!(edge.deliver(&old).await, [Outcome::Stored, Outcome::Stored], "those that waited in a queue");
    assert_eq!(edge.deliver(&new[..2]).await, [Outcome::Stored, Outcome::Stored]);

    let row: Value = back().await.json().await.unwrap();
    assert_eq!((&row["model"], &row["action"]), (&first.as_str().into(), &"roll back".into()));
    let now = edge.deployment().await.unwrap();
    assert_eq!((now.model.as_str(), now.version), (first.as_str(), 1));
    assert!(one.generation < two.generation && two.generation < now.generation);
    assert_eq!(edge.deliver(&new[2..]).await, [Outcome::Stored, Outcome::Stored]);
    // A network that was retired is not rolled back to.
    owner.post("/models/digits@2/retire", Value::Null).await;
    assert_eq!(back().await.status(), StatusCode::CONFLICT);
    let history = owner.get("/deployments?history=true").await;
    let actions: Vec<&str> =
        history["deployments"].as_array().unwrap().iter().map(|d| d["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["roll back", "roll out", "roll out"]);
    assert!(owner.decided(6).await.iter().all(|r| r["state"] == "released"));
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ciphertexts_go_when_their_time_is_over_and_labels_stay() {
    let mut backend = Backend::start().await;
    protect(backend.home.path(), "digits");
    let owner = backend.http.clone();
    let mut edge = owner.device("g", "camera").await;
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = edge.processor().await;
    let results = edge.evaluate(&deployment, &processor, &digits(4));
    for batch in results.chunks(2) {
        edge.deliver(batch).await;
    }
    let before = owner.decided(4).await;
    backend.stop().await;
    let objects = |home: &std::path::Path| {
        let days = std::fs::read_dir(home.join("store/results")).into_iter().flatten().flatten();
        days.filter_map(|day| std::fs::read_dir(day.path()).ok()).flatten().count()
    };
    assert_eq!(objects(backend.home.path()), 2);

    let (server, _) =
        start(subrosa_server::Config { keep_results: Duration::ZERO, ..config(backend.home.path()) }).await;
    let owner = Http::new(&server, owner.token.clone());
    let start = std::time::Instant::now();
    while objects(backend.home.path()) > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "they are still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(owner.decided(4).await, before);
    // Sent again it is still known.
    edge.http = Http { token: edge.http.token.clone(), ..owner.clone() };
    assert_eq!(edge.deliver(&results[..2]).await, [Outcome::Duplicate, Outcome::Duplicate]);
    assert_eq!(owner.get("/audit/verify").await["intact"], true);
    server.stop().await;
}
