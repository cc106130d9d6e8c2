//! From the enrolment token to the label, over TLS, with an edge made by hand.

mod common;

use common::{Backend, digits, plain_labels};
use serde_json::json;
use subrosa_fleet::messages::Outcome;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digits_are_answered_once_each_as_the_plain_network_answers_them() {
    let mut backend = Backend::start().await;
    let model = common::protect(backend.home.path(), "digits");
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
