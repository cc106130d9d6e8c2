//! A backend and its edge agents as real processes over loopback TLS: 500 images, 500 results once each, labels as the same network answers locally;
//! whatever is killed meanwhile, on the embedded registry and on a PostgreSQL that two processes share.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod backend;
#[path = "../../../edge-service/tests/common/mod.rs"]
mod common;

use backend::{Backend, Kind, PASSPHRASE, PROGRAMS, digits};
use common::{Agent, Nats};
use subrosa_input::{Dataset, Samples};

const IMAGES: usize = 500;
/// Images of one file.
const PART: usize = 25;
const DIRECTORY: &str = "[[source.directory]]\npath = \"in\"\nscan_seconds = 0.1\nsettle_seconds = 0.05\n";

fn agent(backend: &Backend, name: &str, more: &str) -> Agent {
    let program = PROGRAMS.as_ref().unwrap().join("subrosa-edge");
    let known = common::Backend {
        url: &backend.url,
        certificate: &backend.certificate,
        owner: &backend.owner_file,
        token: &backend.enrolment(),
    };
    Agent::of(program.to_str().unwrap(), &backend.place.join(name), &known, more)
}

/// Puts images `from..to` into the watched directory, some in a file.
fn stream(agent: &Agent, images: &Dataset, from: usize, to: usize) {
    std::fs::create_dir_all(agent.path("in")).unwrap();
    let Samples::Pixels { height, width, channels, data } = &images.samples else { panic!("no images") };
    let size = height * width * channels;
    for start in (from..to).step_by(PART) {
        let samples = Samples::Pixels {
            height: *height,
            width: *width,
            channels: *channels,
            data: data[start * size..(start + PART) * size].to_vec(),
        };
        let part = Dataset { count: PART, samples, labels: None, names: None };
        let place = agent.path("in");
        std::fs::write(place.join("file.part"), part.to_npy().unwrap()).unwrap();
        std::fs::rename(place.join("file.part"), place.join(format!("{start}.npy"))).unwrap();
    }
}

/// All results are there once each, with the labels that the same network gives locally, and no secret stands in any log.
fn check(backend: &Backend, agents: &[&Agent]) {
    let decided = backend.decided(IMAGES);
    let mut expected: Vec<(String, u64)> = backend
        .expected
        .iter()
        .enumerate()
        .map(|(i, &class)| (format!("{}.npy #{}", i / PART * PART, i % PART), class))
        .collect();
    expected.sort();
    assert_eq!(decided.len(), IMAGES);
    assert_eq!(decided, expected);
    let chain = backend.get("/audit/verify").unwrap();
    assert_eq!(chain["intact"], true, "{chain}");
    let mut secrets = vec![PASSPHRASE.to_owned()];
    for agent in agents {
        secrets.push(std::fs::read_to_string(agent.path("token")).unwrap());
        let access: serde_json::Value =
            serde_json::from_slice(&std::fs::read(agent.path("state/access.json")).unwrap()).unwrap();
        secrets.push(access["access_token"].as_str().unwrap().to_owned());
    }
    for log in agents.iter().map(|a| a.log()).chain([backend.log()]) {
        assert!(secrets.iter().all(|secret| !log.contains(secret.trim())));
    }
}

/// A test with 500 images and a backend of some kind, where all it needs is there.
fn run(kind: Kind, test: impl FnOnce(Backend, &Dataset)) {
    if PROGRAMS.is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let images = digits(IMAGES);
    if let Some(backend) = Backend::of(kind, directory.path(), &images) {
        test(backend, &images);
    }
}

fn undisturbed(backend: Backend, images: &Dataset) {
    let mut agent = agent(&backend, "agent", DIRECTORY);
    stream(&agent, images, 0, IMAGES);
    agent.start();
    check(&backend, &[&agent]);
    assert_eq!(agent.terminate(), 0);
}

/// The backend is killed twice (of two processes, each once) and the edge once.
fn killed(mut backend: Backend, images: &Dataset) {
    let mut agent = agent(&backend, "agent", DIRECTORY);
    agent.start();
    stream(&agent, images, 0, 150);
    backend.wait_for(40);
    backend.kill();
    stream(&agent, images, 150, 250);
    backend.goes_on_to(200);
    backend.restart();
    backend.wait_for(160);
    agent.kill();
    stream(&agent, images, 250, 350);
    agent.start();
    backend.wait_for(270);
    backend.kill();
    stream(&agent, images, 350, IMAGES);
    backend.goes_on_to(400);
    backend.restart();
    check(&backend, &[&agent]);
    assert_eq!(agent.terminate(), 0);
}

/// Two workers of a JetStream queue, one of which is killed.
fn shared_out(backend: Backend, images: &Dataset) {
    let Some(nats) = Nats::start(&backend.place.join("nats")) else { return };
    let table = format!("[nats]\nurl = \"{}\"\n", nats.url());
    let mut acquirer = agent(&backend, "acquirer", &format!("{table}[acquirer]\nstream = \"digits\"\n{DIRECTORY}"));
    let worker = format!("{table}[worker]\nstream = \"digits\"\nack_wait_seconds = 2\nhold = 8\n");
    let mut workers = ["one", "two"].map(|name| agent(&backend, name, &worker));
    acquirer.start();
    workers.iter_mut().for_each(Agent::start);
    stream(&acquirer, images, 0, 250);
    backend.wait_for(60);
    workers[0].kill();
    stream(&acquirer, images, 250, IMAGES);
    check(&backend, &[&acquirer, &workers[1]]);
    // Two devices evaluated what one acquired.
    let results = backend.results();
    let all = |key: &str| results.iter().map(|r| r[key].as_str().unwrap()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((all("device").len(), all("origin").len()), (2, 1));
    assert_eq!((acquirer.terminate(), workers[1].terminate()), (0, 0));
}

#[test]
#[ignore = "long: run with --ignored"]
fn five_hundred_images_arrive_once_each_with_the_local_labels() {
    run(Kind::Embedded, undisturbed);
}

#[test]
#[ignore = "long: run with --ignored"]
fn the_same_with_the_backend_killed_twice_and_the_edge_once() {
    run(Kind::Embedded, killed);
}

#[test]
#[ignore = "long: run with --ignored"]
fn the_same_with_workers_of_a_jetstream_queue_one_of_them_killed() {
    run(Kind::Embedded, shared_out);
}

#[test]
#[ignore = "long: run with --ignored"]
fn two_processes_on_postgresql_take_five_hundred_images_once_each() {
    run(Kind::Shared, undisturbed);
}

#[test]
#[ignore = "long: run with --ignored"]
fn two_processes_on_postgresql_go_on_when_each_is_killed_and_the_edge_too() {
    run(Kind::Shared, killed);
}

#[test]
#[ignore = "long: run with --ignored"]
fn two_processes_on_postgresql_take_results_of_jetstream_workers_one_of_them_killed() {
    run(Kind::Shared, shared_out);
}

/// A camera's address: answers 503 at first, then alternates between two frames as PNG, forever.
async fn camera(images: Dataset) -> String {
    let Samples::Pixels { height, width, data, .. } = images.samples else { panic!("no images") };
    let frame = move |i: usize| {
        let size = height * width;
        let pixels = data[i * size..(i + 1) * size].to_vec();
        let image = image::GrayImage::from_raw(width as u32, height as u32, pixels).unwrap();
        let mut png = std::io::Cursor::new(Vec::new());
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        png.into_inner()
    };
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let answer = move || {
        let now = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let status = if now < 3 { http::StatusCode::SERVICE_UNAVAILABLE } else { http::StatusCode::OK };
        let body = (status, [("content-type", "image/png")], frame(now % 2));
        async move { body }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/frame.png", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/frame.png")
}

#[test]
#[ignore = "long: run with --ignored"]
fn frames_of_a_camera_at_an_address_are_answered() {
    if PROGRAMS.is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let images = digits(2);
    let backend = Backend::start(directory.path(), &images);
    let url = runtime.block_on(camera(digits(2)));
    let source = format!("[[source.camera]]\nname = \"gate\"\nurl = \"{url}\"\nrate = 5\n");
    let mut agent = agent(&backend, "agent", &source);
    agent.start();
    // That it cannot be had for a while is no reason to give up.
    backend.wait_for(10);
    assert_eq!(agent.terminate(), 0);
    let count = backend.results().len();
    let decided = backend.decided(count);
    assert!(decided.iter().all(|(label, class)| label.starts_with("gate at ") && backend.expected.contains(class)));
    let of = |class| decided.iter().filter(|(_, c)| *c == class).count();
    let (first, second) = (of(backend.expected[0]), of(backend.expected[1]));
    assert!(first > 0 && second > 0, "{first} and {second}");
}

#[test]
#[ignore = "long: run with --ignored"]
fn the_demo_of_a_fleet_tells_what_every_sample_was() {
    let Some(programs) = PROGRAMS.as_ref() else { return };
    const EACH: u64 = 30;
    let mut demo = std::process::Command::new(programs.join("subrosa"));
    let output = demo.args(["--json", "demo", "--fleet", "--images", &EACH.to_string()]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["results"], &report["duplicates"]), (&(2 * EACH).into(), &0.into()), "{report}");
    assert_eq!((&report["devices"], &report["audit_intact"]), (&2.into(), &true.into()), "{report}");
    for stream in report["streams"].as_array().unwrap() {
        assert_eq!((&stream["samples"], &stream["released"]), (&EACH.into(), &EACH.into()), "{report}");
        // A class may fall otherwise where two scores are as good as equal.
        assert!(stream["agreement"].as_f64().unwrap() >= 0.96, "{report}");
    }
}
