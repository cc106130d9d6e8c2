//! PostgreSQL over TLS: the server's certificate and name are checked, and what is wrong is said.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "common/process.rs"]
mod process;

use std::io::{Read as _, Write as _};

use cluster::Cluster;
use process::{Process, refused};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// An authority.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    (certificate, Issuer::new(parameters, key))
}

/// Whether each connection of the backend is encrypted.
fn encrypted(cluster: &Cluster) -> Vec<bool> {
    let mut client = postgres::Client::connect(&cluster.url(), postgres::NoTls).unwrap();
    let asked =
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'subrosa-serve'";
    client.query(asked, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verified_connection_works_and_any_other_is_refused_with_the_reason() {
    let ((trusted, issuer), (foreign, _)) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let Some(cluster) = Cluster::start_tls(&server.pem(), &key.serialize_pem()) else { return };
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // Spaces travel as in any URL.
    let (trusted, foreign) = (file("the right.pem", &trusted), file("foreign.pem", &foreign));
    let rest = format!("sslrootcert={}", trusted.replace(' ', "%20"));
    let home = place.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let store = place.path().join("store");
    let with = |url: &str, variables: &[(&str, String)]| {
        Process::start_with(&home, &["--database", url, "--store", store.to_str().unwrap()], variables)
    };
    let mut process = with(&cluster.tls_url("localhost", &format!("sslmode=verify-full&{rest}")), &[]);
    let database = process.ready["database"].as_str().unwrap().to_owned();
    assert!(database.ends_with("/postgres") && !database.contains(Cluster::PASSWORD), "{database}");
    let token = process.token();
    let owner = process.http(&token);
    owner.post("/tokens", json!({ "group": "g" })).await;
    let ssl = tokio::task::block_in_place(|| encrypted(&cluster));
    assert!(!ssl.is_empty() && ssl.iter().all(|ssl| *ssl), "{ssl:?}");
    assert_eq!(process.stop(), Some(0));
    // The variable of PostgreSQL's own programs; another mode is no less strict.
    let variables = [("PGSSLROOTCERT", trusted.clone())];
    let mut process = with(&cluster.tls_url("localhost", "sslmode=require"), &variables);
    assert_eq!(process.http(&token).get("/tokens").await["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(process.stop(), Some(0));

    let plain = no_tls();
    let wrong_password = cluster.tls_url("localhost", &format!("sslmode=verify-full&{rest}"));
    for (url, says) in [
        (
            cluster.tls_url("localhost", &format!("sslmode=verify-full&sslrootcert={foreign}")),
            "not of an authority that is trusted",
        ),
        (cluster.tls_url("localhost", "sslmode=verify-full"), "not of an authority that is trusted"),
        (cluster.tls_url("localhost", "sslmode=require"), "not of an authority that is trusted"),
        (cluster.tls_url("127.0.0.1", &format!("sslmode=verify-full&{rest}")), "not valid for name"),
        (cluster.tls_url("localhost", "sslmode=disable"), "no encryption"),
        (wrong_password.replace(Cluster::PASSWORD, "guessed"), "password authentication failed"),
        (cluster.tls_url("localhost", "sslmode=verify-full&sslrootcert=/nowhere.pem"), "/nowhere.pem"),
        (cluster.tls_url("localhost", &format!("sslrootcert={}", file("empty.pem", ""))), "no certificate"),
        (cluster.tls_url("localhost", "sslmode=verify-ca"), "disable, prefer, require or verify-full"),
        (format!("postgres://subrosa@localhost:{plain}/postgres?sslmode=verify-full&{rest}"), "does not support TLS"),
    ] {
        let flags = ["--listen", "127.0.0.1:0", "--database", &url, "--store", store.to_str().unwrap()];
        let (code, text) = refused(&home, &flags, &[]);
        assert_eq!(code, Some(2), "{url}: {text}");
        assert!(text.contains(says) && text.lines().count() <= 2, "{url}: {text}");
        assert!(!text.contains(Cluster::PASSWORD) && !text.contains("guessed"), "{text}");
    }
}

/// The port of a server that declines TLS.
fn no_tls() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut asked = [0; 8];
            let _ = client.read_exact(&mut asked).and_then(|()| client.write_all(b"N"));
        }
    });
    port
}
