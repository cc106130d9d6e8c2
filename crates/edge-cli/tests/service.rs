//! `subrosa-edge run` as a process, against a stub of the backend over TLS.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

#[path = "../../edge-service/tests/common/mod.rs"]
mod common;

use common::{Agent, Faults, Stub, TestOwner, npy, request, samples, wait_for};
use serde_json::{Value, json};
use std::path::PathBuf;
use subrosa_fhe::{Ciphertext, Kernel, wire};
use subrosa_owner::Reveal;
use subrosa_program::bundle::{BUNDLE_KIND, Bundle};
use subrosa_program::results::{ResultsManifest, ResultsWriter};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_subrosa-edge");

/// An owner, a stub of its backend, a deployed network.
struct Fleet {
    directory: TempDir,
    owner: TestOwner,
    stub: Stub,
    model: (String, u32),
}

impl Fleet {
    /// The first version is deployed.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let owner = TestOwner::new(&directory.path().join("home"));
        let stub = Stub::start(owner.signer());
        let bundle = directory.path().join("first.srb");
        let model = owner.bundle(&bundle);
        stub.deploy(1, &model.0, model.1, &bundle);
        Self { directory, owner, stub, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn agent(&self, more: &str) -> Agent {
        let agent = Agent::new(PROGRAM, &self.path("agent"), &self.stub, more);
        std::fs::create_dir_all(agent.path("in")).unwrap();
        agent
    }

    /// Labels of all results, sorted.
    fn labels(&self) -> Vec<String> {
        let world = self.stub.world();
        let mut labels: Vec<String> = world.results.values().map(|a| a.result.statement.label.clone()).collect();
        labels.sort();
        labels
    }

    /// What the owner decrypts of all results, by label: the scores.
    fn decrypted(&self) -> Vec<(String, Vec<f64>)> {
        let bundle = Bundle::open(&self.path("first.srb"), BUNDLE_KIND).unwrap();
        let parameters = bundle.parameters(Kernel::active().unwrap()).unwrap();
        let output = &bundle.program.output;
        let length = wire::ciphertext_len(&parameters, output.level, output.degree);
        let manifest = ResultsManifest {
            model: self.model.0.clone(),
            name: "tabular".into(),
            version: self.model.1,
            count: 0,
            ciphertexts: output.registers.len(),
        };
        let file = self.path("all.srr");
        let mut writer = ResultsWriter::create(&file, manifest).unwrap();
        let mut labels = Vec::new();
        for arrived in self.stub.world().results.values() {
            let payload = arrived.result.payload.chunks(length);
            let ciphertexts: Vec<_> = payload.map(|c| Ciphertext::from_bytes(&parameters, c).unwrap()).collect();
            writer.push(&parameters, &ciphertexts).unwrap();
            labels.push(arrived.result.statement.label.clone());
        }
        writer.finish().unwrap();
        let decrypted = self.owner.owner.decrypt(&file, Reveal::Scores, self.owner.vault()).unwrap();
        let scores = decrypted.predictions.into_iter().map(|p| p.scores.unwrap());
        labels.into_iter().zip(scores).collect()
    }

    /// Every result came in with a sequence number of its own.
    fn assert_no_conflicts(&self) {
        let world = self.stub.world();
        assert_eq!(world.conflicts, 0);
        let sequences: std::collections::HashSet<_> =
            world.results.values().map(|a| (a.result.statement.device.clone(), a.result.statement.sequence)).collect();
        assert_eq!(sequences.len(), world.results.len());
    }
}

const DIRECTORY: &str = "[[source.directory]]\npath = \"in\"\nscan_seconds = 0.1\nsettle_seconds = 0.05\n";

fn fill(agent: &Agent, name: &str, rows: &[Vec<f32>]) {
    npy(&agent.path("in").join(name), rows);
}

#[test]
fn files_of_a_watched_directory_arrive_once_each() {
    let fleet = Fleet::new();
    let mut agent = fleet.agent(DIRECTORY);
    let rows = samples(40);
    fill(&agent, "many.npy", &rows[..37]);
    for (i, row) in rows[37..].iter().enumerate() {
        fill(&agent, &format!("one-{i}.npy"), std::slice::from_ref(row));
    }
    std::fs::write(agent.path("in/bad.npy"), b"no array").unwrap();
    agent.start();
    wait_for("40 results", || fleet.stub.stored() == 40);
    assert_eq!(agent.terminate(), 0);
    agent.start();
    fill(&agent, "new.npy", &rows[..1]);
    wait_for("the new one", || fleet.stub.stored() == 41);
    assert_eq!(agent.terminate(), 0);
    let labels = fleet.labels();
    assert!(labels.contains(&"new.npy".to_owned()) && labels.contains(&"many.npy #36".to_owned()), "{labels:?}");
    assert!(fleet.stub.world().results.values().all(|a| a.times == 1));
    assert_eq!(agent.log().matches("bad.npy: refused").count(), 1, "{}", agent.log());
    // What arrived is what the network says.
    let expected = subrosa_input::read(&common::fixture("torch-tabular.output.npy"), None).unwrap();
    let subrosa_input::Samples::Raw { shape, data } = expected.samples else { panic!("not raw") };
    let expected: Vec<&[f32]> = data.chunks(shape[0]).collect();
    for (label, scores) in fleet.decrypted() {
        let index: usize = match label.split_once(" #") {
            Some((_, index)) => index.parse().unwrap(),
            None if label == "new.npy" => 0,
            None => 37 + label[4..5].parse::<usize>().unwrap(),
        };
        for (got, want) in scores.iter().zip(expected[index % expected.len()]) {
            assert!(
                (got - f64::from(*want)).abs() < 1e-2,
                "{label}: {scores:?} {:?}",
                expected[index % expected.len()]
            );
        }
    }
}

#[test]
fn files_are_moved_or_deleted_when_all_their_samples_are_queued() {
    let fleet = Fleet::new();
    let more = "[[source.directory]]\npath = \"in\"\nscan_seconds = 0.1\nsettle_seconds = 0.05\nafter = \"move\"\n\
                move_to = \"done\"\n[[source.directory]]\npath = \"once\"\nscan_seconds = 0.1\nsettle_seconds = 0.05\n\
                after = \"delete\"\n";
    let mut agent = fleet.agent(more);
    std::fs::create_dir_all(agent.path("once")).unwrap();
    fill(&agent, "a.npy", &samples(3));
    npy(&agent.path("once/b.npy"), &samples(2));
    std::fs::write(agent.path("once/c.npy"), b"no array").unwrap();
    agent.start();
    wait_for("both files to be gone", || !agent.path("in/a.npy").exists() && !agent.path("once/b.npy").exists());
    assert!(agent.path("done/a.npy").exists() && agent.path("once/c.npy").exists());
    wait_for("5 results", || fleet.stub.stored() == 5);
    assert_eq!(agent.terminate(), 0);
}

#[test]
fn killed_and_started_again_and_again_it_loses_nothing_and_doubles_nothing() {
    const SAMPLES: usize = 300;
    let mut fleet = Fleet::new();
    let mut agent = fleet.agent(DIRECTORY);
    let rows = samples(SAMPLES);
    for (i, part) in rows.chunks(50).enumerate() {
        fill(&agent, &format!("{i}.npy"), part);
    }
    for round in 1..=5 {
        agent.start();
        let before = fleet.stub.stored();
        wait_for("some results", || fleet.stub.stored() >= (before + 20).min(SAMPLES));
        if round == 2 {
            // The receipts of what was stored never come back.
            fleet.stub.world().faults = Faults { lost_receipts: 3, ..Faults::default() };
        }
        agent.kill();
        if round % 2 == 0 {
            fleet.stub.stop();
            agent.start();
            std::thread::sleep(std::time::Duration::from_millis(200));
            fleet.stub.restart();
            std::thread::sleep(std::time::Duration::from_millis(200));
            agent.kill();
        }
    }
    let runs = |agent: &Agent| agent.log().matches("the agent runs").count();
    let before = runs(&agent);
    agent.start();
    // Everything may be stored already: an agent that has not begun to listen to signals is ended by them.
    wait_for("the agent to run", || runs(&agent) > before);
    wait_for("all results", || fleet.stub.stored() == SAMPLES);
    wait_for("the queue to be empty", || fleet.stub.status().is_some_and(|s| s.queued == 0));
    assert_eq!(agent.terminate(), 0);
    let labels: std::collections::BTreeSet<_> = fleet.labels().into_iter().collect();
    assert_eq!((fleet.stub.stored(), labels.len()), (SAMPLES, SAMPLES));
    fleet.assert_no_conflicts();
}

#[test]
fn results_wait_on_disk_while_the_backend_is_away() {
    let mut fleet = Fleet::new();
    let mut agent = fleet.agent(DIRECTORY);
    fill(&agent, "first.npy", &samples(1));
    agent.start();
    wait_for("the first result", || fleet.stub.stored() == 1);
    fleet.stub.stop();
    fill(&agent, "many.npy", &samples(80));
    wait_for("many to be queued", || agent.path("state/queue.db-wal").metadata().is_ok_and(|m| m.len() > 1_000_000));
    assert_eq!(agent.terminate(), 0);
    let report = std::fs::read_to_string(agent.path("out")).unwrap();
    assert!(report.contains("waiting on disk"), "{report}");
    // It starts without its backend, evaluates, and delivers when that is back.
    agent.start();
    wait_for("the network to be loaded", || agent.log().matches("the agent runs").count() == 2);
    fleet.stub.restart();
    wait_for("all results", || fleet.stub.stored() == 81);
    assert_eq!(agent.terminate(), 0);
    fleet.assert_no_conflicts();
}

#[test]
fn a_full_queue_blocks_or_sheds_by_policy() {
    for (policy, shed) in [("block", 0), ("shed-oldest", 35), ("shed-newest", 35)] {
        let mut fleet = Fleet::new();
        let mut agent = fleet.agent(&format!(
            "[queue]\npolicy = \"{policy}\"\nmax_results = 5\n[metrics]\nlisten = \"127.0.0.1:0\"\n{DIRECTORY}"
        ));
        fill(&agent, "first.npy", &samples(1));
        agent.start();
        wait_for("the first result", || fleet.stub.stored() == 1);
        fleet.stub.stop();
        fill(&agent, "many.npy", &samples(40));
        let metrics = agent.address("metrics.listen");
        let metric = |name: &str| -> u64 {
            let (_, text) = request(&metrics, "GET", "/metrics", &[], b"");
            let line = text.lines().find_map(|l| l.strip_prefix(&format!("subrosa_edge_{name} ")).map(str::to_owned));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
        };
        if policy == "block" {
            wait_for("the queue to be full", || metric("blocked") == 1 && metric("queued_results") == 5);
        } else {
            let what = policy.strip_prefix("shed-").unwrap();
            let count = format!("shed_total{{what=\"{what}\"}}");
            wait_for("samples to be shed", || metric(&count) == shed && metric("queued_results") == 5);
        }
        assert_eq!(metric(&format!("queue_policy{{policy=\"{policy}\"}}")), 1);
        let (status, text) = request(&metrics, "GET", "/status", &[], b"");
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, told["shed"].as_u64()), (200, Some(shed)), "{text}");
        assert!(told["error"].as_str().unwrap().contains("delivery: the backend does not answer"), "{text}");
        fleet.stub.restart();
        wait_for("what was kept", || fleet.stub.stored() == 41 - shed as usize);
        wait_for("the report", || fleet.stub.status().is_some_and(|s| s.queued == 0 && s.shed == shed));
        let labels = fleet.labels();
        assert_eq!(labels.contains(&"many.npy #39".to_owned()), policy != "shed-newest", "{labels:?}");
        assert_eq!(labels.contains(&"many.npy #0".to_owned()), policy != "shed-oldest", "{labels:?}");
        assert_eq!(agent.terminate(), 0);
        fleet.assert_no_conflicts();
    }
}

#[test]
fn a_download_that_breaks_off_is_resumed() {
    let fleet = Fleet::new();
    let length = fleet.stub.world().deployment.as_ref().unwrap().bytes as usize;
    fleet.stub.world().faults = Faults { cut_bundle: Some((length / 3, 2)), ..Faults::default() };
    let mut agent = fleet.agent(DIRECTORY);
    fill(&agent, "a.npy", &samples(1));
    agent.start();
    wait_for("the result", || fleet.stub.stored() == 1);
    assert_eq!(agent.terminate(), 0);
    let ranges = fleet.stub.world().ranges.clone();
    let third = length / 3;
    assert_eq!(ranges, [None, Some(format!("bytes={third}-")), Some(format!("bytes={}-", 2 * third))]);
}

#[test]
fn an_update_is_swapped_in_and_a_roll_back_too_but_nothing_stale() {
    let fleet = Fleet::new();
    let mut agent = fleet.agent(DIRECTORY);
    fill(&agent, "a.npy", &samples(1));
    agent.start();
    wait_for("the first result", || fleet.stub.stored() == 1);
    let versions = |fleet: &Fleet| {
        let world = fleet.stub.world();
        let mut versions: Vec<_> =
            world.results.values().map(|a| (a.result.statement.label.clone(), a.result.statement.version)).collect();
        versions.sort();
        versions
    };
    let running = |generation| {
        wait_for("the status", || fleet.stub.status().is_some_and(|s| s.generation == Some(generation)));
    };
    let bundles = || std::fs::read_dir(agent.path("state/bundles")).unwrap().count();

    let second = fleet.path("second.srb");
    let model = fleet.owner.bundle(&second);
    fleet.stub.deploy(2, &model.0, model.1, &second);
    running(2);
    // The old bundle is kept until the new one has answered.
    assert_eq!(bundles(), 2);
    fill(&agent, "b.npy", &samples(1));
    wait_for("the second result", || fleet.stub.stored() == 2);
    wait_for("the old bundle to be gone", || bundles() == 1);

    // Stale: a lower generation.
    fleet.stub.deploy(1, &fleet.model.0, fleet.model.1, &fleet.path("first.srb"));
    wait_for("the stale one to be noticed", || agent.log().contains("older than one seen before is ignored"));
    fill(&agent, "c.npy", &samples(1));
    wait_for("the third result", || fleet.stub.stored() == 3);

    // Rolled back by the owner: the old version under a new generation.
    fleet.stub.deploy(3, &fleet.model.0, fleet.model.1, &fleet.path("first.srb"));
    running(3);
    fill(&agent, "d.npy", &samples(1));
    wait_for("the fourth result", || fleet.stub.stored() == 4);
    assert_eq!(versions(&fleet), [("a.npy".into(), 1), ("b.npy".into(), 2), ("c.npy".into(), 2), ("d.npy".into(), 1)]);
    assert_eq!(agent.terminate(), 0);
}

#[test]
fn foreign_and_tampered_bundles_are_refused_and_the_old_one_keeps_running() {
    let fleet = Fleet::new();
    let mut agent = fleet.agent(&format!("[metrics]\nlisten = \"127.0.0.1:0\"\n{DIRECTORY}"));
    fill(&agent, "a.npy", &samples(1));
    agent.start();
    wait_for("the first result", || fleet.stub.stored() == 1);
    let told = |what: &str| {
        wait_for(what, || fleet.stub.status().is_some_and(|s| s.error.is_some_and(|e| e.contains(what))));
    };

    let stranger = TestOwner::new(&fleet.path("stranger"));
    let foreign = fleet.path("foreign.srb");
    let model = stranger.bundle(&foreign);
    fleet.stub.deploy(2, &model.0, model.1, &foreign);
    told("not by the trusted owner");

    // The owner's bundle of another network than the deployment says.
    fleet.stub.deploy(3, &model.0, 7, &fleet.path("first.srb"));
    told("which is not what was deployed");

    // Tampered with at the backend: its digest is that of the deployment, its seal is broken.
    let second = fleet.path("second.srb");
    let model = fleet.owner.bundle(&second);
    let mut bytes = std::fs::read(&second).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let tampered = fleet.path("tampered.srb");
    std::fs::write(&tampered, bytes).unwrap();
    fleet.stub.deploy(4, &model.0, model.1, &tampered);
    told("the bundle of test@2 is refused: state/bundles");

    // Tampered with on its way: its digest is not that of the deployment.
    fleet.stub.world().faults.tamper = true;
    fleet.stub.deploy(5, &model.0, model.1, &second);
    told("its bytes are not those of the deployment");

    fill(&agent, "b.npy", &samples(1));
    wait_for("the second result", || fleet.stub.stored() == 2);
    assert!(fleet.stub.status().is_some_and(|s| s.version == Some(1)));
    let (_, metrics) = request(&agent.address("metrics.listen"), "GET", "/metrics", &[], b"");
    let refused = metrics.lines().find_map(|l| l.strip_prefix("subrosa_edge_bundles_refused_total "));
    assert!(refused.unwrap().parse::<u32>().unwrap() >= 4, "{metrics}");

    // Sound again on its way.
    fleet.stub.world().faults.tamper = false;
    wait_for("the update", || fleet.stub.status().is_some_and(|s| s.version == Some(2) && s.error.is_none()));
    assert_eq!(agent.terminate(), 0);
}

#[test]
fn http_takes_images_and_arrays_and_answers_with_the_result() {
    let mut fleet = Fleet::new();
    let mut agent = fleet.agent(
        "[queue]\nmax_results = 4\n[source.http]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"http-token\"\nwait_seconds = 2\n",
    );
    std::fs::write(agent.path("http-token"), "let-me-in\n").unwrap();
    agent.start();
    let address = agent.address("source.http.listen");
    let body = serde_json::to_vec_pretty(&samples(1)[0]).unwrap();
    let allowed = ("authorization", "Bearer let-me-in");
    let post = |headers: &[(&str, &str)], body: &[u8]| -> (u16, Value) {
        let (status, text) = request(&address, "POST", "/samples", headers, body);
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    };
    let as_json = ("content-type", "application/json");
    for headers in [vec![as_json], vec![as_json, ("authorization", "Bearer let-me-out")]] {
        assert_eq!(post(&headers, &body).0, 401);
    }
    let (status, answer) = post(&[allowed, as_json, ("idempotency-key", "one")], &body);
    assert_eq!((status, &answer["samples"][0]["status"]), (200, &json!("queued")), "{answer}");
    let result = answer["samples"][0]["result"].as_str().unwrap().to_owned();
    wait_for("the result", || fleet.stub.stored() == 1);
    assert!(fleet.stub.world().results.keys().any(|id| id.to_string() == result));
    let (status, again) = post(&[allowed, as_json, ("idempotency-key", "one")], &body);
    assert_eq!((status, again["samples"][0]["result"].as_str()), (200, Some(result.as_str())), "{again}");
    let file = agent.path("two.npy");
    npy(&file, &samples(2));
    let (status, two) = post(&[allowed], &std::fs::read(&file).unwrap());
    assert_eq!((status, two["samples"].as_array().map(Vec::len)), (200, Some(2)), "{two}");
    for bad in [&b"[1, 2]"[..], b"{}", b"[\"a\"]", b"", b"]"] {
        let (status, answer) = post(&[allowed, as_json], bad);
        assert_eq!(status, 422, "{answer}");
    }
    wait_for("three results", || fleet.stub.stored() == 3);
    // While the backend is away the queue fills; then the endpoint says so and takes nothing.
    fleet.stub.stop();
    let statuses: Vec<u16> = (0..8).map(|_| post(&[allowed, as_json], &body).0).collect();
    let taken = statuses.iter().filter(|s| **s == 200).count();
    assert!(statuses.ends_with(&[503, 503]) && (1..=4).contains(&taken), "{statuses:?}");
    fleet.stub.restart();
    wait_for("what was taken", || fleet.stub.stored() == 3 + taken);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(fleet.stub.stored(), 3 + taken);
    assert_eq!(agent.terminate(), 0);
}

#[test]
fn standard_input_is_acknowledged_line_by_line_and_can_end_the_agent() {
    let fleet = Fleet::new();
    let mut agent = fleet.agent("[source.stdin]\nexit_at_end = true\nacknowledge = true\n");
    agent.start();
    let row = serde_json::to_string(&samples(1)[0]).unwrap();
    let lines =
        format!("{row}\n{{\"id\": \"x\", \"data\": {row}}}\n\nnonsense\n{{\"id\": \"x\", \"data\": {row}}}\n[1]\n");
    agent.write(lines.as_bytes());
    agent.close_input();
    assert_eq!(agent.wait(), 0);
    let out = std::fs::read_to_string(agent.path("out")).unwrap();
    let answers: Vec<Value> = out.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let told: Vec<_> = answers.iter().map(|a| (a["line"].as_u64().unwrap(), a["status"].as_str().unwrap())).collect();
    assert_eq!(told.len(), 5, "{out}");
    assert_eq!([told[0], told[2], told[4]], [(1, "queued"), (4, "rejected"), (6, "rejected")]);
    // Of two lines with one id, one is evaluated.
    let mut twins = [told[1].1, told[3].1];
    twins.sort();
    assert_eq!(twins, ["queued", "repeated"]);
    assert_eq!(fleet.labels(), ["line 1", "x"]);
}

#[test]
fn a_full_queue_goes_on_when_what_is_in_work_turns_out_to_be_rejected() {
    let fleet = Fleet::new();
    // Every sample in work fills this queue, and none of these leaves a result.
    let mut agent = fleet.agent("[queue]\nmax_results = 1\n[source.stdin]\nexit_at_end = true\nacknowledge = true\n");
    agent.start();
    let [good, beyond] = [samples(1).remove(0), samples(1)[0].iter().map(|x| 1e6 + x).collect()];
    let line = |row: &Vec<f32>| serde_json::to_string(row).unwrap() + "\n";
    agent.write((line(&beyond).repeat(50) + &line(&good)).as_bytes());
    agent.close_input();
    assert_eq!(agent.wait(), 0);
    let out = std::fs::read_to_string(agent.path("out")).unwrap();
    assert_eq!((out.matches("\"rejected\"").count(), out.matches("\"queued\"").count()), (50, 1), "{out}");
}

#[test]
fn refused_results_leave_the_queue_with_their_reason_and_batches_shrink_until_they_fit() {
    let fleet = Fleet::new();
    let faults = Faults { refuse_label: Some("#3".into()), largest_batch: Some(4), ..Faults::default() };
    fleet.stub.world().faults = faults;
    let mut agent = fleet.agent(DIRECTORY);
    fill(&agent, "a.npy", &samples(20));
    agent.start();
    wait_for("19 results", || fleet.stub.stored() == 19);
    wait_for("the queue to be empty", || fleet.stub.status().is_some_and(|s| s.queued == 0 && s.evaluated == 20));
    assert_eq!(agent.terminate(), 0);
    let log = agent.log();
    assert_eq!(log.matches("the backend refuses a result for good: refused on purpose").count(), 1, "{log}");
    assert!(fleet.stub.world().batches.iter().all(|b| *b <= 4));
}

/// Whoever runs it wrongly is told in one or two lines what, where and what to do, with exit code 2.
fn refused(agent: &Agent, configuration: &str, expected: &str) {
    agent.configure(configuration);
    let output = agent.command().stdin(std::process::Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(output.status.code(), Some(2), "{configuration}: {stderr}");
    assert!(errors.len() == 1 && errors[0].contains(expected), "{configuration}\n--- {expected}\n--- {stderr}");
    assert!(stderr.lines().last().unwrap().len() < 400, "{stderr}");
}

#[test]
fn bad_configurations_end_with_exit_code_2_and_name_the_key() {
    let fleet = Fleet::new();
    let agent = fleet.agent(DIRECTORY);
    let good = std::fs::read_to_string(agent.path("edge.toml")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let source = |text: &str| good.replace(DIRECTORY, text);
    let url = format!("url = \"{}\"", fleet.stub.url());
    for (text, expected) in [
        ("nonsense".to_owned(), "edge.toml: line 1"),
        (with("name = ", "nam = "), "unknown field `nam`"),
        (with("threads = 2", "threads = \"two\""), "line 3, threads: invalid type: string \"two\""),
        (with("threads = 2", "threads = 0"), "threads: "),
        (with("poll_seconds = 0.2", "poll_seconds = -1"), "backend.poll_seconds: -1 is not between"),
        (with("poll_seconds", "pol_seconds"), "backend.pol_seconds: unknown field `pol_seconds`"),
        (with(&url, "url = \"http://example.org\""), "backend.url: http is only for loopback"),
        (with(&url, "url = \"example.org\""), "backend.url: "),
        (with(&url, &url.replace("\"\n", "/x\"\n").replace("127.0.0.1", "u@127.0.0.1")), "backend.url: "),
        (with("\"backend.pem\"", "\"edge.toml\""), "backend.ca: "),
        (with("\"backend.pem\"", "\"missing.pem\""), "missing.pem cannot be read"),
        (with("\"owner.pub\"", "\"backend.pem\""), "backend.trust: "),
        (with("\"token\"", "\"missing\""), "backend.token: "),
        (with("token_file = \"token\"", "token_env = \"SUBROSA_NO_SUCH\""), "SUBROSA_NO_SUCH is not set"),
        (with("token_file = \"token\"\n", ""), "not enrolled yet"),
        (with("name = \"agent\"", "name = \"\""), "name: "),
        (format!("{good}\n[queue]\npolicy = \"shed\"\n"), "queue.policy: unknown variant `shed`"),
        (format!("{good}\n[queue]\nmax_results = 0\n"), "queue: max_results"),
        (format!("{good}\n[queue]\nbatch = 1000\n"), "queue.batch: "),
        (
            format!("{good}\n[metrics]\nlisten = \"0.0.0.0:9000\"\n"),
            "metrics.listen: 0.0.0.0:9000 is not a loopback address",
        ),
        (source(""), "source: there is none"),
        (source("[[source.directory]]\npath = 7\n"), "source.directory[0].path: invalid type"),
        (source("[[source.directory]]\npath = \"in\"\nafter = \"move\"\n"), "source.directory: after"),
        (source("[source.http]\nlisten = \"127.0.0.1:0\"\n"), "source.http: give token_file or token_env"),
        (source("[source.http]\nlisten = \"10.0.0.1:80\"\ntoken_env = \"A\"\n"), "source.http.listen: "),
        (source("[[source.camera]]\nname = \"c\"\nrate = 1\n"), "give path or url"),
        (source("[[source.camera]]\nname = \"c\"\nurl = \"http://x/\"\nrate = 0\n"), "rate: 0 is not between"),
        (source("[[source.nats]]\nsubject = \"a\"\n"), "source.nats: it needs the table [nats]"),
        (source("[worker]\nstream = \"a\"\n"), "worker: it needs the table [nats]"),
        (source("[worker]\nstream = \"a.b\"\n[nats]\nurl = \"nats://127.0.0.1\"\n"), "worker.stream: 'a.b'"),
        (source("[worker]\nstream = \"a\"\n[nats]\nurl = \"nats://10.0.0.1\"\n"), "nats.url: samples would cross"),
        (
            source("[worker]\nstream = \"a\"\n[nats]\nurl = \"nats://127.0.0.1\"\n[queue]\npolicy = \"shed-oldest\"\n"),
            "queue.policy: a worker's backlog",
        ),
        (
            source("[[source.mqtt]]\nurl = \"mqtt://10.0.0.1\"\ntopic = \"a\"\nclient_id = \"b\"\n"),
            "source.mqtt.url: samples would cross",
        ),
    ] {
        refused(&agent, &text, expected);
    }
    // None of these used the token up.
    assert!(fleet.stub.world().used_tokens.is_empty());
    let output = agent.command().arg("--trust").arg(agent.path("owner.pub")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn tokens_work_once_and_only_at_the_owners_backend() {
    let fleet = Fleet::new();
    let mut agent = fleet.agent(DIRECTORY);
    agent.start();
    wait_for("the device", || fleet.stub.world().devices.len() == 1);
    assert_eq!(agent.terminate(), 0);
    use std::os::unix::fs::PermissionsExt;
    for file in ["state/access.json", "state/device.key"] {
        assert_eq!(std::fs::metadata(agent.path(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let text = std::fs::read_to_string(agent.path("edge.toml")).unwrap();
    refused(&agent, &text.replace("\"state\"", "\"other\""), "this token is unknown or was used");
    // Another owner than the trusted one.
    let stranger = TestOwner::new(&fleet.path("stranger"));
    std::fs::write(agent.path("stranger.pub"), stranger.signer().to_file_text("")).unwrap();
    refused(&agent, &text.replace("\"owner.pub\"", "\"stranger.pub\""), "the backend belongs to owner");
    // Two agents on one state directory.
    agent.configure(&text);
    agent.start();
    wait_for("the agent", || agent.log().matches("the agent runs").count() == 2);
    let output = agent.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another agent runs on this state directory"));
    assert_eq!(agent.terminate(), 0);
    // No token stands in the log.
    let log = agent.log();
    assert!(!log.contains("access-device") && !log.contains("one-time"), "{log}");
}

#[test]
fn frames_of_a_camera_arrive_at_their_rate_and_only_once() {
    let fleet = Fleet::new();
    // The tabular network takes no images: they are rejected one by one, at the camera's rate.
    let mut agent = fleet
        .agent("[[source.camera]]\nname = \"c\"\npath = \"frames\"\nrate = 20\n[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let frames = agent.path("frames");
    std::fs::create_dir_all(&frames).unwrap();
    for i in 0..10 {
        common::png(&frames.join(format!("{i}.png")), i);
    }
    let start = std::time::Instant::now();
    agent.start();
    let rejected = |agent: &Agent| -> u64 {
        let (_, text) = request(&agent.address("metrics.listen"), "GET", "/metrics", &[], b"");
        text.lines().find_map(|l| l.strip_prefix("subrosa_edge_rejected_total ")).unwrap().parse().unwrap()
    };
    wait_for("all frames", || rejected(&agent) == 10);
    wait_for("the owner to be told", || fleet.stub.status().is_some_and(|s| s.rejected == 10));
    assert!(start.elapsed().as_secs_f64() >= 9.0 / 20.0);
    assert_eq!(agent.terminate(), 0);
    std::fs::write(agent.path("log"), b"").unwrap();
    agent.start();
    wait_for("the end of the directory", || agent.log().contains("the last frame is handed in"));
    assert_eq!(rejected(&agent), 0);
    assert_eq!(agent.terminate(), 0);
}
