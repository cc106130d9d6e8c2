//! Large files in a store that speaks S3's protocol, requests signed and signatures checked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/s3.rs"]
mod s3;

use std::time::{Duration, Instant};

use common::{PASSPHRASE, assert_all_released_once, digits, plain_labels};
use futures_util::StreamExt as _;
use process::{Process, refused};
use reqwest::StatusCode;
use s3::{BUCKET, KEY, S3, SECRET};
use serde_json::{Value, json};
use subrosa_fleet::encode_batch;
use subrosa_fleet::messages::Outcome;
use subrosa_server::Store;

/// Waits until no object begins like this.
async fn gone(s3: &S3, prefix: &str) {
    let start = Instant::now();
    while !s3.keys(prefix).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", s3.keys(prefix));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The bucket's files of a backend.
fn url() -> String {
    format!("s3://{BUCKET}/of/this/backend")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_a_store_does_is_done_by_s3() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let s3 = S3::start().await;
    let client = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(s3.endpoint())
        .with_allow_http(true)
        .with_bucket_name(BUCKET)
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET);
    let store = Store::of(std::sync::Arc::new(client.build().unwrap()));
    store.check().await.unwrap();
    store.answers().await.unwrap();

    store.put("results/1/a", "first").await.unwrap();
    assert!(!store.put_new("results/1/a", "second").await.unwrap(), "the key is taken");
    assert!(store.put_new("results/1/b", "second").await.unwrap());
    assert_eq!(store.get("results/1/a").await.unwrap(), "first");
    assert_eq!(store.get_range("results/1/b", 1..4).await.unwrap(), "eco");

    // Larger than one request carries.
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    let large: Vec<u8> = (0..25_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&from, &large).unwrap();
    store.put_file("bundles/large", &from).await.unwrap();
    assert!(store.fetch("bundles/large", &to).await.unwrap());
    assert!(std::fs::read(&to).unwrap() == large);
    let mut part = Vec::new();
    let mut pieces = store.stream("bundles/large", 9_999_999..20_000_001).await.unwrap();
    while let Some(piece) = pieces.next().await {
        part.extend_from_slice(&piece.unwrap());
    }
    assert!(part == large[9_999_999..20_000_001]);

    let mut names = store.list("results/").await.unwrap();
    names.sort();
    assert_eq!(names, ["1/a", "1/b"]);
    for key in ["results/1/a", "results/1/b", "results/1/never"] {
        store.remove(key).await.unwrap();
    }
    assert_eq!(store.list("results/").await.unwrap(), Vec::<String>::new());
    assert!(store.get("results/1/a").await.unwrap_err().is_missing());
    assert!(!store.fetch("results/1/a", &to).await.unwrap());
    assert_eq!(s3.keys("bundles"), ["bundles/large"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_is_protected_fetched_answered_and_retired_with_its_files_in_s3() {
    const SAMPLES: usize = 40;
    let mut s3 = S3::start().await;
    let home = tempfile::tempdir().unwrap();
    // Ciphertexts of decided results go at the next start.
    let variables = s3.variables(SECRET);
    let start = |keep: &str| {
        let flags = ["--store", &url(), "--keep-results", keep];
        Process::start_with(home.path(), &flags, &variables)
    };
    let mut process = start("7");
    assert_eq!(process.ready["store"], url());
    let token = process.token();
    let mut owner = process.http(&token);

    owner.protect("digits").await;
    // A job's uploads go when it has ended.
    gone(&s3, "of/this/backend/uploads/").await;
    let forgotten = owner.upload("more.npy", digits(1).to_npy().unwrap()).await;
    assert_eq!(s3.keys("of/this/backend/uploads/"), [format!("of/this/backend/uploads/{forgotten}")]);
    let removed = owner.ask(reqwest::Method::DELETE, &format!("/uploads/{forgotten}"), None).await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    assert_eq!(s3.keys("of/this/backend/uploads/"), Vec::<String>::new());

    let mut edge = owner.device("g", "camera").await;
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    // In two ranges, as after a break; the edge's hash of it is checked.
    let (deployment, processor) = edge.processor().await;
    assert_eq!(s3.keys("of/this/backend/bundles/"), [format!("of/this/backend/bundles/{}", deployment.sha256)]);
    let data = digits(SAMPLES);
    let results = edge.evaluate(&deployment, &processor, &data);
    let (first, second) = results.split_at(SAMPLES / 2);
    assert_eq!(edge.deliver(first).await, vec![Outcome::Stored; first.len()]);

    // Nothing is taken that cannot be kept; the edge tries again.
    s3.stop().await;
    let ready = owner.client.get(format!("{}/readyz", owner.url)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let refused = edge.send(encode_batch(second)).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    s3.go_on().await;
    assert_eq!(edge.deliver(second).await, vec![Outcome::Stored; second.len()]);
    let ready = owner.client.get(format!("{}/readyz", owner.url)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::OK);

    let decided = owner.decided(SAMPLES).await;
    assert_all_released_once(&decided, &plain_labels(&data));
    assert!(!s3.keys("of/this/backend/results/").is_empty());

    owner.post("/models/digits/retire", Value::Null).await;
    assert!(edge.deployment().await.is_none());
    assert_eq!(process.stop(), Some(0));
    process = start("0");
    owner = process.http(&token);
    gone(&s3, "of/this/backend/results/").await;
    assert_eq!(owner.get("/audit/verify").await["intact"], true);
    assert_eq!(process.stop(), Some(0));
    let log = std::fs::read_to_string(&process.log).unwrap();
    assert!(!log.contains(SECRET) && !log.contains(PASSPHRASE));
    assert_eq!(s3.keys("").iter().filter(|key| !key.starts_with("of/this/backend/")).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_named_at_the_start() {
    let mut s3 = S3::start().await;
    let home = tempfile::tempdir().unwrap();
    let right = s3.variables(SECRET);
    let mut unknown = right.clone();
    unknown.retain(|(name, _)| *name != "AWS_ACCESS_KEY_ID");
    unknown.push(("AWS_ACCESS_KEY_ID", "nobody".into()));
    let mut nonsense = right.clone();
    nonsense[0].1 = "nowhere at all".into();
    let mut in_the_clear = right.clone();
    in_the_clear.retain(|(name, _)| *name != "AWS_ALLOW_HTTP");
    let mut nobody = right.clone();
    nobody.retain(|(name, _)| !name.contains("_KEY"));
    // Where a machine's own role would be asked for.
    nobody.push(("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9".into()));
    for (store, variables, says) in [
        (url(), s3.variables("another-secret"), "access is denied: check AWS_ACCESS_KEY_ID"),
        (url(), unknown, "access is denied: check AWS_ACCESS_KEY_ID"),
        ("s3://no-such-bucket/x".into(), right.clone(), "there is no such bucket"),
        (url(), nobody, "there are no credentials"),
        (url(), nonsense, "AWS_ENDPOINT is no address"),
        (url(), in_the_clear, "AWS_ALLOW_HTTP"),
        ("s3://no bucket/x".into(), right.clone(), "names no store"),
    ] {
        let (code, text) = refused(home.path(), &["--listen", "127.0.0.1:0", "--store", &store], &variables);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(says) && text.contains(&store) && text.lines().count() <= 2, "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    // Not there at this moment: that may pass.
    s3.stop().await;
    let (code, text) = refused(home.path(), &["--listen", "127.0.0.1:0", "--store", &url()], &right);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the store of large files") && text.lines().count() <= 2, "{text}");
}
