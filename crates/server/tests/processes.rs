//! Real processes: killed and started again, twice at once, and what they say.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/s3.rs"]
mod s3;

use cluster::Cluster;
use common::{Edge, Http, PASSPHRASE, assert_all_released_once, digits, plain_labels, protect};
use process::{Process, refused};
use s3::S3;
use serde_json::json;
use subrosa_fleet::SignedResult;
use subrosa_fleet::messages::Outcome;
use subrosa_registry::Vault;

/// The same device at another address.
fn at(edge: &Edge, owner: &Http) -> Http {
    Http { token: edge.http.token.clone(), ..owner.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_nothing_is_lost_nothing_is_twice_and_nothing_secret_is_said() {
    const SAMPLES: usize = 60;
    let home = tempfile::tempdir().unwrap();
    let model = protect(home.path(), "digits");
    let mut process = Process::start(home.path(), &[]);
    let token = process.token();
    let mut owner = process.http(&token);
    let mut edge = owner.device("g", "camera").await;
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = edge.processor().await;
    let data = digits(SAMPLES);
    let results = edge.evaluate(&deployment, &processor, &data);
    for (round, batch) in results.chunks(SAMPLES / 3).enumerate() {
        assert_eq!(edge.deliver(batch).await, vec![Outcome::Stored; batch.len()]);
        // At once, in the middle of decrypting.
        process.kill();
        process = Process::start(home.path(), &[]);
        owner = process.http(&token);
        edge.http = at(&edge, &owner);
        // The answer may have been lost: everything is sent again.
        let sent: Vec<SignedResult> = results[..(round + 1) * SAMPLES / 3].to_vec();
        assert_eq!(edge.deliver(&sent).await, vec![Outcome::Duplicate; sent.len()]);
    }
    // What a killed process had claimed is taken over by the next one of the same home at once.
    let database = rusqlite::Connection::open(home.path().join("registry.sqlite")).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
    let decided = owner.decided(SAMPLES).await;
    assert_all_released_once(&decided, &plain_labels(&data));
    let chain = owner.get("/audit/verify").await;
    assert_eq!(chain["intact"], true, "{chain}");
    let metrics = owner.client.get(format!("{}/metrics", owner.url)).bearer_auth(&owner.token).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("subrosa_results{state=\"released\"} 60"), "{metrics}");
    assert_eq!(process.stop(), Some(0));

    // An entry that is changed is noticed.
    database
        .execute("UPDATE audit SET event = replace(event, 'released', 'forgotten') WHERE sequence = 9", [])
        .unwrap();
    let mut process = Process::start(home.path(), &[]);
    let owner = process.http(&token);
    let chain = owner.get("/audit/verify").await;
    assert_eq!((&chain["intact"], &chain["entry"]), (&false.into(), &9.into()), "{chain}");
    let everything = [
        std::fs::read_to_string(&process.log).unwrap(),
        metrics,
        owner.get("/audit?limit=1000").await.to_string(),
        owner.get("/devices").await.to_string(),
        owner.get("/tokens").await.to_string(),
        owner.get("/results?limit=1000").await.to_string(),
        owner.get(&format!("/models/{model}")).await.to_string(),
        process.ready.to_string(),
    ];
    assert_eq!(process.stop(), Some(0));
    assert!(everything[0].contains("\"message\":\"stopping\""), "{}", everything[0]);
    let vault = Vault::open(home.path(), &common::passphrase()).unwrap();
    let mut secrets = vec![PASSPHRASE.to_owned(), token, edge.http.token.clone()];
    for name in vault.list().unwrap() {
        let secret = vault.get(&name).unwrap();
        secrets.push(hex::encode(&secret[..secret.len().min(16)]));
        secrets.push(format!("{:?}", &secret[..8]).trim_matches(['[', ']']).to_owned());
    }
    for (i, said) in everything.iter().enumerate() {
        for secret in &secrets {
            assert!(!said.contains(secret.as_str()), "output {i} holds a secret");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_process_is_killed_is_done_by_the_next_one_and_only_once() {
    let home = tempfile::tempdir().unwrap();
    // Cheap scrypt.
    Vault::create_or_open_for_tests(home.path(), &common::passphrase()).unwrap();
    let mut process = Process::start(home.path(), &[]);
    let token = process.token();
    let owner = process.http(&token);
    // A whole network takes a while.
    let onnx = std::fs::read(common::root().join("models/mnist-cryptonets.onnx")).unwrap();
    let network = owner.upload("n.onnx", onnx).await;
    let wanted = json!({ "name": "whole", "network": network, "scope": "all", "input": "encrypted", "preprocess": "scale=1/255" });
    let job = owner.post("/models", wanted).await;
    let path = format!("/jobs/{}", job["id"].as_str().unwrap());
    let start = std::time::Instant::now();
    let wait = async |owner: &Http, there: &dyn Fn(&serde_json::Value) -> bool| loop {
        let job = owner.get(&path).await;
        if there(&job) {
            return job;
        }
        assert!(job["state"] != "failed" && start.elapsed().as_secs() < 240, "{job}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    wait(&owner, &|job| job["state"] == "running" && job["step"] != "queued").await;
    process.kill();
    let mut process = Process::start(home.path(), &[]);
    let owner = process.http(&token);
    let job = wait(&owner, &|job| job["state"] == "done").await;
    // Not after the dead process's claim ran out, but at once.
    assert_eq!(job["attempts"], 2, "{job}");
    let models = owner.get("/models").await;
    assert_eq!(models["models"].as_array().unwrap().len(), 1, "{models}");
    assert_eq!(models["models"][0]["version"], 1);
    assert_eq!(process.stop(), Some(0));
    let left = std::fs::read_dir(home.path().join("staging")).unwrap().count();
    assert_eq!(left, 0, "what the killed process left is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_one_postgresql_and_one_directory() {
    let Some(cluster) = Cluster::start() else { return };
    let store = tempfile::tempdir().unwrap();
    share(&cluster, store.path().to_str().unwrap(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_one_postgresql_and_one_bucket() {
    let Some(cluster) = Cluster::start() else { return };
    let s3 = S3::start().await;
    share(&cluster, &format!("s3://{}", s3::BUCKET), &s3.variables(s3::SECRET)).await;
    // Networks and keys too, as two machines have nothing else in common.
    for there in ["vault/identity.age", "models/", "bundles/", "results/"] {
        assert!(!s3.keys(there).is_empty(), "{there}: {:?}", s3.keys(""));
    }
}

async fn share(cluster: &Cluster, store: &str, variables: &[(&str, String)]) {
    const SAMPLES: usize = 80;
    let url = cluster.url();
    let shared = ["--database", &url, "--store", store];
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut first = Process::start_with(homes[0].path(), &shared, variables);
    let mut second = Process::start_with(homes[1].path(), &shared, variables);
    let token = first.token();
    assert!(second.ready["owner_token_file"].is_null(), "only one process makes the first token");
    let owners = [first.http(&token), second.http(&token)];

    // Uploaded to one, protected by either.
    let network = owners[0].upload("digits.onnx", common::onnx()).await;
    let inspected = owners[1].get(&format!("/uploads/{network}/network")).await;
    assert_eq!(inspected["outputs"], 10);
    let wanted =
        json!({ "name": "digits", "network": network, "scope": "last", "input": "plain", "preprocess": "scale=1/255" });
    let job = owners[1].post("/models", wanted).await;
    owners[0].done(&job).await;
    let mut edge = owners[0].device("g", "camera").await;
    owners[0].post("/deployments", json!({ "group": "g", "model": "digits@1" })).await;
    // The bundle may have been made by the other process.
    edge.http = at(&edge, &owners[1]);
    let (deployment, processor) = edge.processor().await;
    let data = digits(SAMPLES);
    let results = edge.evaluate(&deployment, &processor, &data);
    for (i, batch) in results.chunks(8).enumerate() {
        // Each batch to both at once, as an edge does whose answer was lost.
        let send = |owner: &Http| {
            let http = at(&edge, owner);
            let body = subrosa_fleet::encode_batch(batch);
            async move {
                let url = format!("{}/api/v1/device/results", http.url);
                let answer = http.client.post(url).bearer_auth(&http.token).body(body).send().await.unwrap();
                answer.json::<subrosa_fleet::messages::Receipts>().await.unwrap()
            }
        };
        let (a, b) = tokio::join!(send(&owners[0]), send(&owners[1]));
        let stored = [&a, &b].iter().flat_map(|r| &r.receipts).filter(|r| r.outcome == Outcome::Stored).count();
        let duplicates = [&a, &b].iter().flat_map(|r| &r.receipts).filter(|r| r.outcome == Outcome::Duplicate).count();
        assert_eq!((stored, duplicates), (batch.len(), batch.len()), "batch {i}: {a:?} {b:?}");
    }
    let decided = owners[1].decided(SAMPLES).await;
    assert_all_released_once(&decided, &plain_labels(&data));
    let chain = owners[0].get("/audit/verify").await;
    assert_eq!(chain["intact"], true, "{chain}");

    // Signed in at one, the console of the other is open too.
    let certificates = [&first, &second].map(|process| {
        let file = process.ready["certificate"].as_str().unwrap();
        reqwest::Certificate::from_pem(&std::fs::read(file).unwrap()).unwrap()
    });
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).tls_certs_only(certificates);
    let browser = browser.build().unwrap();
    let login = browser.post(format!("{}/console/login", owners[0].url)).header("origin", &owners[0].url);
    let login = login.form(&[("token", &token)]).send().await.unwrap();
    assert_eq!(login.status(), reqwest::StatusCode::SEE_OTHER);
    let cookie = login.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    for page in ["models", "protect", "devices", "results", "alarms", "audit", "audit/verify"] {
        let request = browser.get(format!("{}/console/{page}", owners[1].url)).header("cookie", &cookie);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), reqwest::StatusCode::OK, "{page}");
    }
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
    // By itself, a home that only has copies would count what it decrypts in a ledger that nobody else sees.
    for home in &homes {
        let alone = subrosa_owner::Owner::open(home.path()).and_then(|owner| owner.fleet().map(|_| ()));
        let error = alone.unwrap_err().to_string();
        assert!(error.contains("postgres") && error.contains("subrosa serve --database"), "{error}");
    }
}

#[test]
fn what_is_not_safe_or_not_right_is_refused_with_code_2() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, says) in [
        (&["--listen", "0.0.0.0:0", "--plain-http"][..], "for loopback addresses only"),
        (&["--listen", "0.0.0.0:0", "--open-metrics"], "for loopback addresses only"),
        (&["--database", "mysql://x:secret@y/z"], "begins with postgres://"),
        (&["--database", "postgres://x:secret@127.0.0.1:1/z"], "--store"),
        (&["--store", "gs://bucket"], "names no store"),
        (&["--store", "s3://key:secret@bucket"], "AWS_SECRET_ACCESS_KEY"),
        (&["--tls-cert", "x.pem"], "--tls-key"),
        (&["--policy", "/nowhere"], "/nowhere"),
        (&["--listen", "nowhere"], "--listen"),
    ] {
        let (code, text) = refused(home.path(), arguments, &[]);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
        assert!(!text.contains("secret@"), "{text}");
        assert!(text.lines().count() <= 2, "{text}");
    }
}
