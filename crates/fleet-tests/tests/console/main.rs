//! The console in a headless Chromium: signed in, a network uploaded and protected with its progress seen, results arriving by themselves, by keyboard
//! and at a phone's width, without an error in the browser's log.
//!
//! Screenshots go to `target/tmp/console/`; those in `docs/images/` are from there.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

#[path = "../fleet/backend.rs"]
#[allow(dead_code)] // the part for its own tests
mod backend;
mod browser;
#[path = "../../../edge-service/tests/common/mod.rs"]
mod common;

use backend::{Backend, PROGRAMS, ROOT, digits};
use browser::{Browser, Driver};
use common::Agent;
use fantoccini::key::Key;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use subrosa_input::{Dataset, Samples};

/// Images of one file.
const PART: usize = 25;
/// Says whether the page is kept up to date.
const LIVE: &str = "return document.getElementById('live-status').textContent === 'Live.'";

fn agent(backend: &Backend, name: &str) -> Agent {
    let program = PROGRAMS.as_ref().unwrap().join("subrosa-edge");
    let known = common::Backend {
        url: &backend.url,
        certificate: &backend.certificate,
        owner: &backend.owner_file,
        token: &backend.enrolment(),
    };
    let source = "[[source.directory]]\npath = \"in\"\nscan_seconds = 0.1\nsettle_seconds = 0.05\n";
    let mut agent = Agent::of(program.to_str().unwrap(), &backend.place.join(name), &known, source);
    std::fs::create_dir_all(agent.path("in")).unwrap();
    agent.start();
    agent
}

/// Puts these images into the watched directory, in one file.
fn put(agent: &Agent, name: &str, images: &Dataset, which: &[usize]) {
    let Samples::Pixels { height, width, channels, data } = &images.samples else { panic!("no images") };
    let size = height * width * channels;
    let picked = which.iter().flat_map(|&i| data[i * size..(i + 1) * size].to_vec()).collect();
    let samples = Samples::Pixels { height: *height, width: *width, channels: *channels, data: picked };
    let part = Dataset { count: which.len(), samples, labels: None, names: None };
    let place = agent.path("in");
    std::fs::write(place.join("file.part"), part.to_npy().unwrap()).unwrap();
    std::fs::rename(place.join("file.part"), place.join(name)).unwrap();
}

#[test]
#[ignore = "long: run with --ignored"]
fn the_console_works_in_a_browser_by_keyboard_and_on_a_phone() {
    if PROGRAMS.is_none() {
        return;
    }
    let Some(driver) = Driver::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let images = digits(400);
    let backend = Backend::start(directory.path(), &images);
    let gate = agent(&backend, "gate-camera");
    runtime.block_on(walk(&backend, &driver, &gate, &images));
}

async fn walk(backend: &Backend, driver: &Driver, gate: &Agent, images: &Dataset) {
    let browser = Browser::open(driver, &backend.url).await;
    signing_in(&browser, backend).await;
    protecting(&browser).await;
    results_come_by_themselves(&browser, gate, images).await;

    // A camera that was moved and sees nothing but ones.
    let ones: Vec<usize> = (0..400).filter(|&i| backend.expected[i] == 1).take(40).collect();
    let wall = agent(backend, "wall-camera");
    put(&wall, "ones.npy", images, &ones);
    browser.go("/console/alarms").await;
    browser.wait_for("an alarm", "return document.querySelectorAll('#alarms tbody tr').length > 0").await;
    browser.wait_for("its figures", "return document.querySelectorAll('#labels svg').length >= 2").await;
    browser.screenshot("alarms").await;
    browser.go("/console/devices").await;
    browser
        .wait_for("two devices", "return document.querySelectorAll('#devices tbody tr[data-row]').length === 2")
        .await;
    // By the time of the next status.
    browser.wait_for("what they run", "return document.querySelectorAll('#devices a').length >= 2").await;
    browser.screenshot("devices").await;
    rolling_out(&browser).await;
    making_a_token(&browser).await;
    browser.go("/console/audit/verify").await;
    assert!(browser.text("main").await.contains("intact"));
    browser.screenshot("audit").await;
    browser.go("/console/models").await;
    browser.screenshot("models").await;

    browser.dark(true).await;
    let model = browser.link("digits@2").await;
    browser.go(&model).await;
    browser.screenshot("model").await;
    browser.dark(false).await;
    on_a_phone(&browser, &model).await;
    signing_out(&browser).await;
    let log = browser.log().await;
    assert!(log.is_empty(), "the browser complains: {log:#?}");
    browser.close().await;
}

/// With the keyboard alone.
async fn signing_in(browser: &Browser, backend: &Backend) {
    browser.go("/console/results").await;
    assert_eq!(browser.place().await, "/console/login");
    browser.screenshot("login").await;
    let focus = "return document.activeElement.id === 'token'";
    browser.wait_for("the focus in the field", focus).await;
    browser.keys("wrong").await;
    browser.keys(&Key::Enter.to_string()).await;
    browser.wait_for("a refusal", "return document.getElementById('problem') !== null").await;
    browser.wait_for("the focus in the field", focus).await;
    // The browser logs the status of a refused login; that is no fault of the page.
    browser.log().await;
    browser.keys(backend.token()).await;
    browser.keys(&Key::Enter.to_string()).await;
    browser.wait_for("the models", "return location.pathname === '/console/models'").await;

    browser.keys(&Key::Tab.to_string()).await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, "Skip to the content");
    assert_eq!(browser.run("return document.activeElement.getBoundingClientRect().left >= 0").await, true);
    browser.keys(&Key::Enter.to_string()).await;
    assert_eq!(browser.run("return location.hash").await, "#content");
    browser.go("/console/models").await;
    let mut reached = Vec::new();
    for _ in 0..30 {
        browser.keys(&Key::Tab.to_string()).await;
        let script = "const e = document.activeElement; const s = getComputedStyle(e);
            return e === document.body ? null : [(e.textContent || e.name).trim(), s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2]";
        let focused = browser.run(script).await;
        let Some(what) = focused[0].as_str() else { break };
        assert_eq!(focused[1], true, "the focus on '{what}' cannot be seen");
        reached.push(what.to_owned());
    }
    for what in ["Models", "Protect", "Devices", "Results", "Alarms", "Audit log", "Sign out", "digits@1"] {
        assert!(reached.iter().any(|r| r == what), "'{what}' is not reached by Tab: {reached:?}");
    }
    // Every field has a name for those who do not see it.
    browser.go("/console/protect").await;
    let script = "return Array.from(document.querySelectorAll('input:not([type=hidden]), select'))
        .filter(e => e.labels.length === 0).map(e => e.name)";
    assert_eq!(browser.run(script).await, json!([]));
}

async fn protecting(browser: &Browser) {
    let observe = "window.seen = []; window.loaded = true;
        const look = () => { const row = document.querySelector('#jobs tr[data-state]'); if (row) window.seen.push(row.innerText); };
        new MutationObserver(look).observe(document.getElementById('jobs'), { childList: true, subtree: true });
        look()";
    browser.go("/console/protect").await;
    let network = Path::new(ROOT).join("models/mnist-cryptonets.onnx");
    browser.fill("#network", network.canonicalize().unwrap().to_str().unwrap()).await;
    browser.fill("#name", "cryptonets").await;
    browser.run("document.getElementById('scope').value = 'all'").await;
    browser.fill("#preprocess", "scale=1/255").await;
    let samples = Path::new(ROOT).join("data/mnist-test-1000-images-idx3-ubyte.gz");
    browser.fill("#calibrate", samples.canonicalize().unwrap().to_str().unwrap()).await;
    browser.keys_to("#name", &Key::Enter.to_string()).await;
    let job = "return document.querySelector('#jobs tr[data-state]:not([data-state=queued])') !== null";
    browser.wait_for("a job", job).await;
    browser.run(observe).await;
    // Better a picture with something to see, if it can be caught.
    let share = "const bar = document.querySelector('#jobs progress'); return bar === null ? null : bar.value";
    let mut most = -1.0;
    while let Some(share) = browser.run(share).await.as_f64() {
        if share > most {
            browser.screenshot("protect").await;
            most = share;
        }
    }
    browser.wait_for("its end", "return document.querySelector('#jobs tr[data-state=done]') !== null").await;
    assert_eq!(browser.run("return window.loaded").await, true, "the page was loaded again");
    let seen = browser.run("return window.seen").await;
    let seen: Vec<&str> = seen.as_array().unwrap().iter().filter_map(|text| text.as_str()).collect();
    assert!(seen.first().unwrap().contains("running") && seen.last().unwrap().contains("protected in"), "{seen:?}");
    assert!(browser.text("#jobs").await.contains("cryptonets@1"));

    // A second version of a network that is there.
    let network = Path::new(ROOT).join("models/mnist-cnn.onnx");
    browser.fill("#network", network.canonicalize().unwrap().to_str().unwrap()).await;
    browser.fill("#name", "digits").await;
    browser.fill("#preprocess", "scale=1/255").await;
    browser.keys_to("#name", &Key::Enter.to_string()).await;
    let done = "return document.querySelectorAll('#jobs tr[data-state=done]').length === 2";
    browser.wait_for("another network", done).await;
    assert!(browser.text("#jobs").await.contains("digits@2"));
}

async fn results_come_by_themselves(browser: &Browser, gate: &Agent, images: &Dataset) {
    browser.go("/console/results").await;
    browser.run("window.loaded = true").await;
    browser.wait_for("the stream", LIVE).await;
    let rows = "return document.querySelectorAll('#results tbody tr').length";
    assert_eq!(browser.run(rows).await, 0);
    for part in 0..6 {
        let which: Vec<usize> = (part * PART..(part + 1) * PART).collect();
        put(gate, &format!("{part}.npy"), images, &which);
    }
    browser.wait_for("results", "return document.querySelectorAll('#results .class').length === 50").await;
    browser
        .wait_for("all of them", "return document.getElementById('counts').textContent.includes('Released150')")
        .await;
    assert_eq!(browser.run("return window.loaded").await, true, "the page was loaded again");
    browser.screenshot("results").await;
    // Paused, it stays as it is.
    browser.click("#live-pause").await;
    let first = "return document.querySelector('#results tbody tr').dataset.row";
    let before = browser.run(first).await;
    put(gate, "more.npy", images, &(150..175).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(browser.run(first).await, before);
    browser.click("#live-pause").await;
    browser
        .wait_for("what came meanwhile", "return document.getElementById('counts').textContent.includes('Released175')")
        .await;
}

/// With the keyboard, and seen without loading the page again.
async fn rolling_out(browser: &Browser) {
    let runs = |what: &str| format!("return document.querySelector('#deployments tbody').innerText.includes('{what}')");
    browser.go("/console/devices").await;
    assert_eq!(browser.run(&runs("digits@2")).await, false);
    browser.keys_to("#model", "digits@2").await;
    browser.keys_to("form[action$=rollout] button", &Key::Enter.to_string()).await;
    browser.wait_for("the second version", &runs("digits@2")).await;
    browser.run("document.getElementById('deployments-title').scrollIntoView()").await;
    browser.screenshot("rollout").await;
    browser.keys_to("#deployments summary", &Key::Enter.to_string()).await;
    browser.keys_to("#deployments details[open] button", &Key::Enter.to_string()).await;
    browser.wait_for("the first version again", &runs("roll back")).await;
    assert_eq!(browser.run(&runs("digits@1")).await, true);
}

/// Makes a token for a device of a group; gives it.
async fn token(browser: &Browser, group: &str) -> String {
    browser.go("/console/devices").await;
    browser.keys_to("#group", &format!("{group}{}", Key::Enter)).await;
    browser.wait_for("the token", "return document.getElementById('made') !== null").await;
    let made = browser.run("return document.getElementById('made').value").await;
    let made = made.as_str().unwrap();
    assert!(made.starts_with("sre_") && browser.text("#command").await.contains(made));
    made.to_owned()
}

async fn making_a_token(browser: &Browser) {
    let made = token(browser, "line-2").await;
    assert_eq!(browser.run("return document.activeElement.id").await, "made");
    browser.screenshot("token").await;
    browser.go("/console/devices").await;
    assert!(browser.text("#tokens").await.contains("line-2"));
    assert_eq!(browser.run("return document.documentElement.outerHTML.includes('sre_')").await, false, "{made}");
    browser.keys_to("#tokens tr[data-row] summary", &Key::Enter.to_string()).await;
    browser.keys_to("#tokens details[open] button", &Key::Enter.to_string()).await;
    let gone = "return !document.getElementById('tokens').innerText.includes('line-2')";
    browser.wait_for("its end", gone).await;
}

/// What is wider than the screen.
const WIDE: &str = "const wide = Array.from(document.querySelectorAll('main *, header *'))
        .filter(e => !e.closest('thead, .skip') && e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.tagName + ' ' + e.textContent.slice(0, 40));
    return [document.documentElement.scrollWidth <= innerWidth, innerWidth, wide]";

async fn on_a_phone(browser: &Browser, model: &str) {
    browser.width(390, 844, true).await;
    for place in ["models", "protect", "devices", "results", "alarms", "audit", "audit/verify"]
        .map(|page| format!("/console/{page}"))
        .iter()
        .map(String::as_str)
        .chain([model])
    {
        browser.go(place).await;
        assert_eq!(browser.run(WIDE).await, json!([true, 390, []]), "{place} is wider than a phone");
        if place == "/console/results" {
            browser.screenshot("phone").await;
        }
    }
    token(browser, "line-3").await;
    assert_eq!(browser.run(WIDE).await, json!([true, 390, []]), "a token is wider than a phone");
    browser.width(1280, 900, false).await;
}

async fn signing_out(browser: &Browser) {
    browser.go("/console/results").await;
    // Else the page may ask for its stream when it is signed out already, and the browser logs the refusal.
    browser.wait_for("the stream", LIVE).await;
    browser.keys_to("header button", &Key::Enter.to_string()).await;
    browser.wait_for("the login", "return location.pathname === '/console/login'").await;
    browser.go("/console/audit").await;
    assert_eq!(browser.place().await, "/console/login");
}
