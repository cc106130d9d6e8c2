//! The console: who gets in, what is refused, what is shown.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Backend, PASSPHRASE, client, digits, onnx, protect};
use futures_util::StreamExt;
use reqwest::multipart::{Form, Part};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};
use subrosa_fleet::SignedResult;
use subrosa_fleet::messages::{Outcome, Status};
use subrosa_server::Transport;

/// A browser, as far as the console can tell.
struct Browser {
    client: Client,
    url: String,
    cookie: Option<String>,
}

impl Browser {
    fn new(url: &str) -> Self {
        // Installs the provider of TLS.
        drop(client(None));
        let client = Client::builder().redirect(Policy::none()).timeout(Duration::from_secs(60)).build().unwrap();
        Self { client, url: url.to_owned(), cookie: None }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    /// A page's text.
    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.unwrap()
    }

    /// A form that is sent from a page of the console.
    fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        self.request(Method::POST, path).header("origin", &self.url).form(fields)
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.form(path, fields).send().await.unwrap()
    }

    /// Signs in; gives the header that set the cookie.
    async fn sign_in(&mut self, token: &str) -> String {
        let answer = self.post("/console/login", &[("token", token)]).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let set = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        self.cookie = Some(set.split(';').next().unwrap().to_owned());
        set
    }

    /// What forms of this session carry.
    async fn csrf(&self) -> String {
        let page = self.page("/console/models").await;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }
}

async fn plain() -> Backend {
    Backend::start_with(|config| config.transport = Transport::Plain).await
}

async fn signed_in(backend: &Backend) -> Browser {
    let mut browser = Browser::new(&backend.http.url);
    browser.sign_in(&backend.http.token).await;
    browser
}

/// A backend, a browser that is signed in, and what its forms carry.
async fn opened() -> (Backend, Browser, String) {
    let backend = plain().await;
    let browser = signed_in(&backend).await;
    let csrf = browser.csrf().await;
    (backend, browser, csrf)
}

/// The enrolment token that a page shows.
fn shown_token(page: &str) -> String {
    let (_, rest) = page.split_once("value=\"sre_").unwrap();
    format!("sre_{}", rest.split('"').next().unwrap())
}

fn location(answer: &Response) -> &str {
    answer.headers()["location"].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_a_session_that_signing_out_ends() {
    let mut backend = plain().await;
    let mut browser = Browser::new(&backend.http.url);
    for token in ["", "x", &format!("sro_{}", "0".repeat(64)), &backend.http.token.replace("sro_", "srd_")] {
        let answer = browser.post("/console/login", &[("token", token)]).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{token}");
        assert!(answer.headers().get("set-cookie").is_none());
    }
    let set = browser.sign_in(&backend.http.token).await;
    assert!(set.contains("; HttpOnly") && set.contains("; SameSite=Strict") && set.contains("; Path=/"), "{set}");
    assert!(!set.contains("Secure") && !set.contains(&backend.http.token), "{set}");

    let answer = browser.get("/console/models").await;
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!((header("x-frame-options"), header("cache-control")), ("DENY".into(), "no-store".into()));
    assert_eq!(answer.status(), StatusCode::OK);
    let first = browser.cookie.clone().unwrap();
    // Signed in again, the session before ends.
    browser.sign_in(&backend.http.token).await;
    assert_ne!(browser.cookie.as_deref(), Some(first.as_str()));
    let old = Browser { cookie: Some(first), ..Browser::new(&backend.http.url) };
    assert_eq!(location(&old.get("/console/models").await), "/console/login");

    let csrf = browser.csrf().await;
    let answer = browser.post("/console/logout", &[("csrf", &csrf)]).await;
    assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/console/login"));
    assert!(answer.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(location(&browser.get("/console/models").await), "/console/login");
    let log = backend.http.get("/audit?limit=1000").await.to_string();
    assert!(
        log.contains("console opened") && log.contains("console closed") && log.contains("console refused"),
        "{log}"
    );
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_the_cookie_is_secure_and_bound_to_this_host() {
    let mut backend = Backend::start().await;
    let certificate = std::fs::read(backend.server.as_ref().unwrap().certificate().unwrap()).unwrap();
    let certificate = reqwest::Certificate::from_pem(&certificate).unwrap();
    let trusting = Client::builder().redirect(Policy::none()).tls_certs_only([certificate]).build().unwrap();
    let mut browser = Browser { client: trusting, ..Browser::new(&backend.http.url) };
    let set = browser.sign_in(&backend.http.token).await;
    assert!(set.starts_with("__Host-subrosa=srs_") && set.ends_with("; Secure"), "{set}");
    assert_eq!(browser.get("/console/devices").await.status(), StatusCode::OK);
    // Under the name without TLS, which another service of this host could have set, it is not taken.
    browser.cookie = browser.cookie.map(|cookie| cookie.replace("__Host-", ""));
    assert_eq!(location(&browser.get("/console/devices").await), "/console/login");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_or_done_without_a_session() {
    let mut backend = plain().await;
    let device = backend.http.device("g", "camera").await.enrolled.device;
    let browser = Browser::new(&backend.http.url);
    let invented =
        Browser { cookie: Some(format!("subrosa=srs_{}", "0".repeat(64))), ..Browser::new(&backend.http.url) };
    for browser in [&browser, &invented] {
        for page in
            ["", "/models", "/models/x", "/protect", "/devices", "/results", "/alarms", "/audit", "/audit/verify"]
        {
            let answer = browser.get(&format!("/console{page}")).await;
            assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/console/login"), "{page}");
        }
        for page in ["protect", "devices", "results", "alarms", "x"] {
            let answer = browser.get(&format!("/console/events/{page}")).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{page}");
        }
        let revoke = format!("/console/devices/{device}/revoke");
        for path in [
            "/console/logout",
            "/console/models/x/retire",
            "/console/protect",
            "/console/devices/rollout",
            "/console/devices/rollback",
            "/console/devices/tokens",
            "/console/devices/tokens/x/withdraw",
            &revoke,
            "/console/alarms/x/acknowledge",
        ] {
            let answer = browser.post(path, &[("csrf", "x")]).await;
            assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/console/login"), "{path}");
        }
    }
    assert!(backend.http.get("/devices").await["devices"][0]["revoked"].is_null());
    for open in
        ["/console/login", "/console/assets/style.css", "/console/assets/console.js", "/console/assets/icon.svg"]
    {
        let answer = browser.get(open).await;
        assert_eq!(answer.status(), StatusCode::OK, "{open}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
    assert_eq!(location(&browser.get("/").await), "/console");
    // The cookie opens pages, not the interface for programs.
    let browser = signed_in(&backend).await;
    assert_eq!(browser.get("/api/v1/devices").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(browser.get("/metrics").await.status(), StatusCode::UNAUTHORIZED);
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_of_other_sites_and_other_sessions_are_refused() {
    let mut backend = plain().await;
    let device = backend.http.device("g", "camera").await.enrolled.device;
    let (browser, other) = (signed_in(&backend).await, signed_in(&backend).await);
    let (csrf, foreign) = (browser.csrf().await, other.csrf().await);
    assert_ne!(csrf, foreign);
    let path = format!("/console/devices/{device}/revoke");
    let raw = |csrf: &str| browser.request(Method::POST, &path).form(&[("csrf", csrf)]);
    let url = backend.http.url.as_str();
    for (what, request) in [
        ("no field", browser.form(&path, &[])),
        ("an empty field", browser.form(&path, &[("csrf", "")])),
        ("the field of another session", browser.form(&path, &[("csrf", &foreign)])),
        ("no origin", raw(&csrf)),
        ("a null origin", raw(&csrf).header("origin", "null")),
        ("another host", raw(&csrf).header("origin", "http://evil.example")),
        ("another port", raw(&csrf).header("origin", "http://127.0.0.1:1")),
        ("another scheme", raw(&csrf).header("origin", url.replace("http:", "https:"))),
        ("a longer host", raw(&csrf).header("origin", format!("{url}.evil.example"))),
        ("another site by the browser's word", raw(&csrf).header("origin", url).header("sec-fetch-site", "cross-site")),
        ("a neighbour by the browser's word", raw(&csrf).header("origin", url).header("sec-fetch-site", "same-site")),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{what}");
    }
    // Nor are devices let in, or given other networks.
    let target = ("target", "group:g");
    for (path, fields) in [
        ("rollout", &[target, ("model", "")][..]),
        ("rollback", &[target]),
        ("tokens", &[("group", "g"), ("seconds", "3600")]),
        ("tokens/x/withdraw", &[]),
    ] {
        let path = format!("/console/devices/{path}");
        let with = |csrf| [fields, &[("csrf", csrf)]].concat();
        for request in [
            browser.form(&path, fields),
            browser.form(&path, &with(foreign.as_str())),
            browser.request(Method::POST, &path).form(&with(csrf.as_str())),
            browser.request(Method::POST, &path).header("origin", "http://evil.example").form(&with(csrf.as_str())),
        ] {
            assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
        }
        assert_eq!(browser.get(&path).await.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(backend.http.get("/tokens").await["tokens"].as_array().unwrap().len(), 1, "that of the device");
    assert_eq!(backend.http.get("/deployments").await["deployments"], json!([]));
    // Nor does asking for the address do anything.
    assert_eq!(browser.get(&path).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    // A login is not begun from elsewhere either.
    let answer = browser.request(Method::POST, "/console/login").header("origin", "http://evil.example");
    let answer = answer.form(&[("token", &backend.http.token)]).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(backend.http.get("/devices").await["devices"][0]["revoked"].is_null());
    let answer = raw(&csrf).header("origin", url).header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/console/devices"));
    assert!(!backend.http.get("/devices").await["devices"][0]["revoked"].is_null());
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_by_time_by_disuse_and_with_their_token() {
    let mut backend = plain().await;
    let database = rusqlite::Connection::open(backend.home.path().join("registry.sqlite")).unwrap();
    database.busy_timeout(Duration::from_secs(30)).unwrap();
    for end in ["UPDATE sessions SET expires = 1", "UPDATE sessions SET seen = 1", "UPDATE owner_tokens SET hash = 'x'"]
    {
        let browser = signed_in(&backend).await;
        assert_eq!(browser.get("/console/results").await.status(), StatusCode::OK);
        // One that is kept up to date is told too.
        let events = browser.get("/console/events/results").await;
        database.execute(end, []).unwrap();
        let answer = browser.get("/console/results").await;
        assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/console/login"), "{end}");
        let text = tokio::time::timeout(Duration::from_secs(30), events.text()).await.unwrap().unwrap();
        assert!(text.contains("event: end"), "{end}: {text}");
    }
    // What the registry keeps opens nothing.
    let kept: String = database.query_row("SELECT hash FROM sessions LIMIT 1", [], |row| row.get(0)).unwrap();
    let thief = Browser { cookie: Some(format!("subrosa=srs_{kept}")), ..Browser::new(&backend.http.url) };
    assert_eq!(location(&thief.get("/console/results").await), "/console/login");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_wrong_tokens_are_not_even_looked_at() {
    let mut backend = Backend::start_with(|config| {
        config.transport = Transport::Plain;
        config.limits.logins_per_minute = 3;
    })
    .await;
    let mut browser = Browser::new(&backend.http.url);
    // Right ones do not count.
    for _ in 0..5 {
        browser.sign_in(&backend.http.token).await;
    }
    let wrong = format!("sro_{}", "1".repeat(64));
    let mut refused = None;
    // A minute may end in between.
    for _ in 0..8 {
        let answer = browser.post("/console/login", &[("token", &wrong)]).await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    assert_eq!(refused.unwrap().headers()["retry-after"], "60");
    let metrics = backend.http.client.get(format!("{}/metrics", backend.http.url)).bearer_auth(&backend.http.token);
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("subrosa_denied_total{outcome=\"console\"}"), "{metrics}");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_device_or_a_name_says_is_text() {
    const TRICK: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let mut backend = plain().await;
    protect(backend.home.path(), "digits");
    let owner = backend.http.clone();
    let mut edge = owner.device("g", "camera").await;
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = edge.processor().await;
    let payload = edge.evaluate(&deployment, &processor, &digits(1))[0].payload.clone();
    let mut statement = edge.statement(&deployment, 7, 77);
    statement.label = TRICK.into();
    let result = SignedResult::sign(&edge.key, statement, payload).unwrap();
    assert_eq!(edge.deliver(&[result]).await, [Outcome::Stored]);
    let status =
        Status { agent: TRICK.into(), model: Some(TRICK.into()), error: Some(TRICK.into()), ..Status::default() };
    edge.http.post("/device/status", json!(status)).await;
    owner.decided(1).await;
    // Names are checked when they are given: these get in behind the program's back.
    let database = rusqlite::Connection::open(backend.home.path().join("registry.sqlite")).unwrap();
    database.busy_timeout(Duration::from_secs(30)).unwrap();
    database.execute("UPDATE devices SET name = ?1, device_group = ?1", [TRICK]).unwrap();
    database.execute("UPDATE owner_tokens SET name = ?1", [TRICK]).unwrap();
    database.execute("PRAGMA foreign_keys = OFF", []).unwrap();
    database.execute("UPDATE models SET name = ?1, scope = ?1", [TRICK]).unwrap();
    database.execute("UPDATE deployments SET target = ?1", [TRICK]).unwrap();
    let alarm = "INSERT INTO label_alarms VALUES ('a', ?1, 1, ?1, 'fleet', ?1, 31.0, 1, NULL)";
    database.execute(alarm, [TRICK]).unwrap();
    let job = "INSERT INTO jobs VALUES ('j', 'protect', ?1, 'failed', 's', 0.0, NULL, ?2, 1, 1, 1, NULL, 0, 1)";
    database.execute(job, [json!({ "name": TRICK }).to_string().as_str(), TRICK]).unwrap();

    let browser = signed_in(&backend).await;
    let mut told = 0;
    let model = format!("/console/models/{}", deployment.model);
    for path in [
        "/console/models",
        &model,
        "/console/protect",
        "/console/devices",
        "/console/results",
        "/console/alarms",
        "/console/audit",
    ] {
        let page = browser.page(path).await;
        assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{path}: {page}");
        assert_eq!(page.matches("<script").count(), 1, "{path}");
        // Nothing of a style that the policy for content would refuse.
        assert!(!page.contains("style=") && !page.contains("onclick"), "{path}");
        told += page.matches("&lt;script&gt;alert(1)").count();
        for secret in [
            &backend.http.token,
            &edge.http.token,
            PASSPHRASE,
            browser.cookie.as_deref().unwrap().trim_start_matches("subrosa="),
        ] {
            assert!(!page.contains(secret), "{path}");
        }
    }
    assert!(told >= 12, "{told}");
    // The same of what is sent later.
    let mut events = browser.get("/console/events/results").await.bytes_stream();
    let first = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap().unwrap();
    let first = String::from_utf8_lossy(&first);
    assert!(first.contains("&lt;script&gt;alert(1)") && !first.contains("<script"), "{first}");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_is_uploaded_and_protected_and_results_come_by_themselves() {
    let (mut backend, browser, csrf) = opened().await;
    let send = |form: Form| {
        browser.request(Method::POST, "/console/protect").header("origin", &backend.http.url).multipart(form)
    };
    let network = || Part::bytes(onnx()).file_name("my digits.onnx");
    let options = |form: Form| {
        form.text("name", "digits").text("scope", "last").text("input", "plain").text("preprocess", "scale=1/255")
    };
    // The field must come before anything is stored.
    for form in [
        options(Form::new().part("network", network())).text("csrf", csrf.clone()),
        options(Form::new().text("csrf", "x")).part("network", network()),
        Form::new().text("name", "digits"),
    ] {
        assert_eq!(send(form).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    }
    for (form, says) in [
        (options(Form::new().text("csrf", csrf.clone())), "choose an ONNX file"),
        (options(Form::new().text("csrf", csrf.clone())).part("x", network()), "not asked for"),
        (options(Form::new().text("csrf", csrf.clone())).text("security", "1"), "choose an ONNX file"),
        (Form::new().text("csrf", csrf.clone()).text("name", "a b").part("network", network()), "a b"),
    ] {
        let answer = send(form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let page = answer.text().await.unwrap();
        assert!(page.contains(says) && page.contains("<!DOCTYPE html>"), "{page}");
    }
    let mut events = browser.get("/console/events/protect").await.bytes_stream();
    let form = options(Form::new().text("csrf", csrf.clone())).part("network", network());
    let form = form.part("calibrate", Part::bytes(Vec::new()).file_name(""));
    let answer = send(form).send().await.unwrap();
    assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/console/protect"));
    let mut seen = String::new();
    let start = Instant::now();
    while !seen.contains("protected in") {
        assert!(start.elapsed() < Duration::from_secs(120), "{seen}");
        let more = tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&more));
    }
    let page = browser.page("/console/models").await;
    assert!(page.contains("digits@1") && page.contains("<svg") && page.contains("CKKS"), "{page}");
    let page = browser.page("/console/models/digits").await;
    assert!(page.contains("2^") && page.contains("Noise budget left"), "{page}");

    let owner = backend.http.clone();
    let mut edge = owner.device("g", "camera").await;
    owner.post("/deployments", json!({ "group": "g", "model": "digits" })).await;
    let (deployment, processor) = edge.processor().await;
    let mut events = browser.get("/console/events/results").await.bytes_stream();
    let results = edge.evaluate(&deployment, &processor, &digits(3));
    edge.deliver(&results).await;
    owner.decided(3).await;
    let mut seen = String::new();
    while !(0..3).all(|i| seen.contains(&format!("digit {i}"))) || !seen.contains("Released</dt><dd>3") {
        let more = tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&more));
    }
    assert!(browser.page("/console/devices").await.contains(">here<"));
    assert!(browser.page("/console/audit").await.contains("result released"));
    assert!(browser.page("/console/audit/verify").await.contains("intact"));
    let answer = browser.post("/console/models/digits/retire", &[("csrf", &csrf)]).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert!(browser.page("/console/models").await.contains("retired"));
    assert!(owner.get("/models").await["models"][0]["retired_unix"].is_i64());
    let answer = browser.get("/console/models/nothing").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    // It ends in time although pages are kept up to date.
    let stopped = tokio::time::timeout(Duration::from_secs(15), backend.stop()).await;
    assert!(stopped.is_ok(), "streams hold the process up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_enrols_with_a_token_of_the_console_that_is_shown_once() {
    let (mut backend, browser, csrf) = opened().await;
    let make = |group: &'static str, seconds: &'static str| {
        browser.form("/console/devices/tokens", &[("csrf", &csrf), ("group", group), ("seconds", seconds)])
    };
    for (group, seconds) in
        [("", "3600"), ("a b", "3600"), ("<i>", "3600"), ("g", ""), ("g", "x"), ("g", "0"), ("g", "9999999")]
    {
        let answer = make(group, seconds).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{group} {seconds}");
    }
    assert_eq!(backend.http.get("/tokens").await["tokens"], json!([]));
    let answer = make("line-1", "3600").send().await.unwrap();
    assert_eq!((answer.status(), &answer.headers()["cache-control"]), (StatusCode::OK, &"no-store".parse().unwrap()));
    let page = answer.text().await.unwrap();
    let token = shown_token(&page);
    // The whole command, and where this backend is.
    assert!(
        page.contains(&format!("printf '%s\\n' {token} &gt; token")) && page.contains("subrosa-edge run edge.toml"),
        "{page}"
    );
    assert!(page.contains(&format!("url = &quot;{}&quot;", backend.http.url)), "{page}");
    // Nowhere else, and nothing it could be made from.
    let kept = subrosa_registry::fleet::digest(&token);
    for path in ["/console/devices", "/console/audit", "/console/events/devices"] {
        let mut stream = browser.get(path).await.bytes_stream();
        let mut text = String::new();
        while let Ok(Some(Ok(more))) = tokio::time::timeout(Duration::from_secs(2), stream.next()).await {
            text.push_str(&String::from_utf8_lossy(&more));
        }
        assert!(text.contains("line-1") && !text.contains(&token) && !text.contains(&kept), "{path}: {text}");
    }
    let key = subrosa_fleet::DeviceKey::generate().unwrap();
    assert_eq!(backend.http.enrol(&token, "camera", &key).await.status(), StatusCode::CREATED);
    let other = subrosa_fleet::DeviceKey::generate().unwrap();
    assert_eq!(backend.http.enrol(&token, "thief", &other).await.status(), StatusCode::FORBIDDEN);
    let devices = browser.page("/console/devices").await;
    assert!(devices.contains("camera") && devices.contains("No token waits to be used."), "{devices}");
    // Withdrawn, one lets nobody in; used, it cannot be withdrawn.
    let page = make("line-2", "86400").send().await.unwrap().text().await.unwrap();
    let token = shown_token(&page);
    let rows = backend.http.get("/tokens").await;
    for row in rows["tokens"].as_array().unwrap() {
        let path = format!("/console/devices/tokens/{}/withdraw", row["id"].as_str().unwrap());
        let expected = if row["used"].is_null() { StatusCode::SEE_OTHER } else { StatusCode::NOT_FOUND };
        assert_eq!(browser.post(&path, &[("csrf", &csrf)]).await.status(), expected);
    }
    assert_eq!(backend.http.enrol(&token, "late", &other).await.status(), StatusCode::FORBIDDEN);
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_rolled_out_and_back_by_the_console() {
    let (mut backend, browser, csrf) = opened().await;
    assert!(browser.page("/console/devices").await.contains("To roll out takes a protected network and a group"));
    let (one, two) = (protect(backend.home.path(), "digits"), protect(backend.home.path(), "digits"));
    let edge = backend.http.device("line-1", "camera").await;
    let device = format!("device:{}", edge.enrolled.device);
    let send = |path: &'static str, fields: &[(&str, &str)]| {
        browser.form(path, &[&[("csrf", csrf.as_str())], fields].concat()).send()
    };
    let (out, back) = ("/console/devices/rollout", "/console/devices/rollback");
    let page = browser.page("/console/devices").await;
    for choice in [
        ("group:line-1", "group line-1"),
        (&device, "device camera (line-1)"),
        (&one, "digits@1"),
        (&two, "digits@2"),
        ("", "nothing"),
    ] {
        assert!(page.contains(&format!("<option value=\"{}\">{}</option>", choice.0, choice.1)), "{choice:?}: {page}");
    }
    assert!(!page.contains("Roll back"), "{page}");
    for (fields, status) in [
        (&[("model", one.as_str())][..], StatusCode::BAD_REQUEST),
        (&[("target", "group:line-1")], StatusCode::BAD_REQUEST),
        (&[("target", "line-1"), ("model", &one)], StatusCode::BAD_REQUEST),
        (&[("target", "group:../x"), ("model", &one)], StatusCode::BAD_REQUEST),
        (&[("target", "device:0"), ("model", &one)], StatusCode::NOT_FOUND),
        (&[("target", "group:line-1"), ("model", "cats")], StatusCode::NOT_FOUND),
    ] {
        assert_eq!(send(out, fields).await.unwrap().status(), status, "{fields:?}");
    }
    assert_eq!(send(back, &[("target", "group:line-1")]).await.unwrap().status(), StatusCode::CONFLICT);
    let group = ("target", "group:line-1");
    let runs = || async { edge.deployment().await.map(|deployment| deployment.version) };
    for (path, fields, expected) in [
        (out, &[group, ("model", one.as_str())][..], Some(1)),
        (out, &[group, ("model", two.as_str())], Some(2)),
        (back, &[group], Some(1)),
        // A device's own goes before its group's, until it has none.
        (out, &[("target", &device), ("model", &two)], Some(2)),
        (out, &[("target", &device), ("model", "")], Some(1)),
        (out, &[group, ("model", "")], None),
        (back, &[group], Some(1)),
    ] {
        let answer = send(path, fields).await.unwrap();
        assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/console/devices"), "{fields:?}");
        assert_eq!(runs().await, expected, "{fields:?}");
    }
    let page = browser.page("/console/devices").await;
    assert!(page.contains("Roll back group line-1") && page.contains("It runs digits@2 again, as before."), "{page}");
    // Nobody goes back to what is retired, nor is it offered.
    assert_eq!(send("/console/models/digits@2/retire", &[]).await.unwrap().status(), StatusCode::SEE_OTHER);
    let page = browser.page("/console/devices").await;
    assert!(!page.contains("It runs digits@2 again") && !page.contains("digits@2</option>"), "{page}");
    assert_eq!(send(out, &[group, ("model", &two)]).await.unwrap().status(), StatusCode::CONFLICT);
    assert_eq!(runs().await, Some(1));
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_protects_a_network_whose_results_cannot_be_checked_is_told() {
    let (mut backend, browser, csrf) = opened().await;
    let onnx = std::fs::read(common::root().join("models/fixtures/wide/layer.onnx")).unwrap();
    let form = Form::new().text("csrf", csrf).text("name", "wide").text("scope", "all");
    let form = form.part("network", Part::bytes(onnx).file_name("wide.onnx"));
    let sent = browser.request(Method::POST, "/console/protect").header("origin", &backend.http.url).multipart(form);
    assert_eq!(sent.send().await.unwrap().status(), StatusCode::SEE_OTHER);
    let start = Instant::now();
    let job = loop {
        let job = backend.http.get("/jobs").await["jobs"][0].clone();
        assert!(job["state"] != "failed" && start.elapsed() < Duration::from_secs(120), "{job}");
        if job["state"] == "done" {
            break job;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let text = job["result"]["warnings"][0].as_str().unwrap();
    assert!(text.starts_with("any ciphertexts of the right form"), "{job}");
    for page in ["/console/protect", "/console/models/wide"] {
        assert!(browser.page(page).await.contains(text), "{page}");
    }
    protect(backend.home.path(), "digits");
    assert!(!browser.page("/console/models/digits").await.contains("any ciphertexts"));
    backend.stop().await;
}
