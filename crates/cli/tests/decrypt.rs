//! The release policy on the command line: signed results, replays, budgets, the audit log, scores for others.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Owner, borrowed, fixture, protect_tabular};
use serde_json::Value;
use std::fs;
use subrosa_fleet::{DeviceKey, SampleId, decode_batch, encode_batch};

/// An owner with a network, and an edge with a device key that has signed 20 results of it.
struct World {
    owner: Owner,
    device: String,
}

impl World {
    fn new(protect: &[&str]) -> Self {
        let owner = Owner::new();
        let arguments = protect_tabular("tabular", "plain");
        owner.json(&[&borrowed(&arguments)[..], protect].concat());
        owner.json(&["deploy", "tabular", "--out", "net.srb"]);
        let mut world = Self { owner, device: String::new() };
        world.device = format!("gate-1={}", world.infer("signed.srb"));
        world
    }

    /// Signs 20 results; the device's key.
    fn infer(&self, out: &str) -> String {
        let (bundle, input) = (self.owner.shown("net.srb"), fixture("torch-tabular.input.npy"));
        let (out, key) = (self.owner.shown(out), self.owner.shown("device.key"));
        let signing = ["--device-key", &key, "--device", "gate-1"];
        let report = self.owner.edge(&[&["infer", &bundle, "--input", &input, "--out", &out][..], &signing].concat());
        report["device_key"].as_str().unwrap().to_owned()
    }

    fn decrypt(&self, arguments: &[&str]) -> Value {
        self.owner.json(&[&["decrypt", "--device", &self.device], arguments].concat())
    }

    /// The text of a refusal.
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.owner.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        stderr
    }

    /// The last entries of the audit log.
    fn audit(&self, last: usize) -> Vec<Value> {
        let shown = self.owner.json(&["audit", "--last", &last.to_string()]);
        shown["entries"].as_array().unwrap().iter().map(|e| e["event"].clone()).collect()
    }

    /// Changes the file of signed results, each with its number, and writes it as `out`.
    fn change(&self, out: &str, change: impl Fn(&mut Vec<subrosa_fleet::SignedResult>)) {
        let mut batch = decode_batch(&fs::read(self.owner.path("signed.srb")).unwrap(), 100).unwrap();
        change(&mut batch);
        fs::write(self.owner.path(out), encode_batch(&batch)).unwrap();
    }
}

#[test]
fn signed_results_are_decrypted_once_and_every_decision_is_in_the_log() {
    let w = World::new(&[]);
    let first = w.decrypt(&["signed.srb"]);
    let predictions = first["predictions"].as_array().unwrap();
    assert_eq!((predictions.len(), first["count"].as_u64()), (20, Some(20)));
    assert_eq!(predictions[3]["device"], "gate-1");
    assert_eq!(predictions[3]["sample"], "torch-tabular.input.npy 3");
    // A replay: nothing is decrypted, and it is told.
    let text = w.refused(&["decrypt", "--device", &w.device, "signed.srb"], 2);
    assert!(text.contains("none of its 20 results is revealed") && text.contains("replay"), "{text}");
    assert!(w.audit(20).iter().all(|e| e["event"] == "result refused" && e["code"] == "replay"));
    // The owner may repeat itself, but nobody repeats a result within a file.
    w.change("twice.srb", |batch| batch.extend(batch.clone()));
    let again = w.decrypt(&["twice.srb", "--again"]);
    assert_eq!(again["predictions"].as_array().unwrap().len(), 20);
    assert_eq!(again["refused"].as_array().unwrap().len(), 20);
    // A number that is used again for something else.
    let key = DeviceKey::load_or_create(&w.owner.path("device.key")).unwrap();
    w.change("reused.srb", |batch| {
        let mut statement = batch[0].statement.clone();
        statement.label = "another sample".into();
        batch[0] = subrosa_fleet::SignedResult::sign(&key, statement, batch[1].payload.clone()).unwrap();
        batch.truncate(1);
    });
    let text = w.refused(&["decrypt", "--device", &w.device, "reused.srb", "--again"], 2);
    assert!(text.contains("used its number"), "{text}");
    // Nobody who is not named, nobody else's key.
    assert!(w.refused(&["decrypt", "signed.srb"], 2).contains("'gate-1' is not enrolled"));
    let stranger = format!("gate-1={}", hex::encode(DeviceKey::generate().unwrap().public().public_key));
    let text = w.refused(&["decrypt", "--device", &stranger, "signed.srb", "--again"], 2);
    assert!(text.contains("signature is not that of device 'gate-1'"), "{text}");
    // Bytes at the end, and a changed ciphertext, spoil the file before any key is touched.
    let mut bytes = fs::read(w.owner.path("signed.srb")).unwrap();
    bytes.push(0);
    fs::write(w.owner.path("long.srb"), &bytes).unwrap();
    w.refused(&["decrypt", "--device", &w.device, "long.srb"], 2);
    bytes.pop();
    let near_the_end = bytes.len() - 100;
    bytes[near_the_end] ^= 1;
    fs::write(w.owner.path("flipped.srb"), &bytes).unwrap();
    assert!(
        w.refused(&["decrypt", "--device", &w.device, "flipped.srb"], 2).contains("not the ones its device signed")
    );

    let head = w.owner.json(&["audit", "verify"]);
    assert_eq!(head["count"], 20 + 20 + 40 + 1 + 20 + 20);
    let noted = head["hash"].as_str().unwrap();
    w.owner.json(&["audit", "verify", "--noted", noted]);
    // Whoever edits the log, or cuts it, is found out; nothing is decrypted then.
    let database = w.owner.database();
    let entry = "SELECT event FROM audit WHERE sequence = 21";
    let before: String = database.query_row(entry, [], |row| row.get(0)).unwrap();
    database.execute("UPDATE audit SET event = replace(event, 'refused', 'released') WHERE sequence = 21", []).unwrap();
    assert!(w.refused(&["audit", "verify"], 1).contains("changed at entry 21"));
    w.infer("new.srb");
    assert!(w.refused(&["decrypt", "--device", &w.device, "new.srb"], 1).contains("changed at entry 21"));
    database.execute("UPDATE audit SET event = ?1 WHERE sequence = 21", [before]).unwrap();
    assert_eq!(w.decrypt(&["new.srb"])["predictions"].as_array().unwrap().len(), 20);
    database.execute("DELETE FROM audit WHERE sequence > 50", []).unwrap();
    assert!(w.refused(&["audit", "verify"], 1).contains("the last entries are missing"));
    database.execute("UPDATE counters SET value = 50 WHERE name = 'audit'", []).unwrap();
    w.owner.json(&["audit", "verify"]);
    assert!(w.refused(&["audit", "verify", "--noted", noted], 1).contains("is not in its audit log"));
}

#[test]
fn a_home_whose_results_are_in_a_shared_database_decrypts_nothing_by_itself() {
    let w = World::new(&[]);
    fs::write(w.owner.home().join("database"), "postgres://anna@example.org/subrosa\n").unwrap();
    let text = w.refused(&["decrypt", "--device", &w.device, "signed.srb"], 2);
    assert!(
        text.contains("postgres://anna@example.org/subrosa") && text.contains("subrosa serve --database"),
        "{text}"
    );
    w.refused(&["audit"], 2);
    // As it is where a server has only ever had copies there.
    let registry = w.owner.home().join("registry.sqlite");
    fs::rename(&registry, w.owner.path("registry.sqlite")).unwrap();
    let text = w.refused(&["decrypt", "--device", &w.device, "signed.srb"], 2);
    assert!(text.contains("subrosa serve --database"), "{text}");
    fs::rename(w.owner.path("registry.sqlite"), &registry).unwrap();
    fs::remove_file(w.owner.home().join("database")).unwrap();
    assert_eq!(w.decrypt(&["signed.srb"])["predictions"].as_array().unwrap().len(), 20);
}

#[test]
fn budgets_end_and_devices_that_send_what_no_honest_one_does_are_suspended() {
    let w = World::new(&[]);
    let policy = |text: &str| fs::write(w.owner.home().join("release.json"), text).unwrap();
    policy(r#"{"budget": {"per_device_total": 12}}"#);
    let some = w.decrypt(&["signed.srb"]);
    assert_eq!(some["predictions"].as_array().unwrap().len(), 12);
    let codes: Vec<&str> = some["refused"].as_array().unwrap().iter().map(|r| r["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["budget"; 8]);
    // What was not examined may come again when there is budget.
    policy("{}");
    assert_eq!(w.decrypt(&["signed.srb"])["predictions"].as_array().unwrap().len(), 8);
    // Files that nobody signed: per network.
    let bundle = w.owner.shown("net.srb");
    let input = fixture("torch-tabular.input.npy");
    w.owner.edge(&["infer", &bundle, "--input", &input, "--out", &w.owner.shown("plain.srr")]);
    let plain = w.owner.json(&["decrypt", "plain.srr"]);
    assert_eq!((plain["examined_today"].as_u64(), plain["limit_today"].as_u64()), (Some(40), Some(1_000_000)));
    policy(r#"{"budget": {"per_model_per_day": 45}}"#);
    assert_eq!(w.owner.json(&["decrypt", "plain.srr"])["predictions"].as_array().unwrap().len(), 5);
    assert!(w.refused(&["decrypt", "plain.srr"], 2).contains("the limit is 45"));
    policy(r#"{"budget": {"per_model_a_day": 45}}"#);
    assert!(w.refused(&["decrypt", "plain.srr"], 2).contains("release.json"));
    // Three results of no honest device, and the fourth is not looked at, honest as it may be.
    policy("{}");
    let key = DeviceKey::load_or_create(&w.owner.path("device.key")).unwrap();
    w.infer("fourth.srb");
    w.change("bad.srb", |batch| {
        let fourth = decode_batch(&fs::read(w.owner.path("fourth.srb")).unwrap(), 100).unwrap();
        batch.truncate(3);
        for (i, result) in batch.iter_mut().enumerate() {
            let mut statement = fourth[i].statement.clone();
            statement.sequence += 1000;
            statement.sample = SampleId::of("bad", &i.to_string());
            let mut payload = result.payload.clone();
            // A residue in the middle.
            let middle = payload.len() / 2;
            payload[middle] ^= 1;
            *result = subrosa_fleet::SignedResult::sign(&key, statement, payload).unwrap();
        }
        batch.push(fourth[0].clone());
    });
    let text = w.refused(&["decrypt", "--device", &w.device, "bad.srb"], 2);
    assert!(text.contains("none of its 4"), "{text}");
    let last = w.audit(4);
    let codes: Vec<&str> = last.iter().map(|e| e["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["slots", "slots", "slots", "suspended"]);
    assert!(w.refused(&["audit", "let-in", "gate-2"], 2).contains("'gate-2'"));
    w.owner.json(&["audit", "let-in", "gate-1"]);
    assert_eq!(w.decrypt(&["fourth.srb"])["predictions"].as_array().unwrap().len(), 20);
}

#[test]
fn protect_warns_where_results_cannot_be_told_from_any_ciphertexts() {
    let owner = Owner::new();
    let wide = fixture("wide/layer.onnx");
    let protect = |name: &str, more: &[&str]| {
        let output = owner.run(&[&["protect", &wide, "--name", name, "--scope", "all", "--json"], more].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        (serde_json::from_slice::<Value>(&output.stdout).unwrap(), stderr)
    };
    let (report, stderr) = protect("wide", &[]);
    let warnings = report["warnings"].as_array().unwrap();
    let text = warnings[0].as_str().unwrap();
    assert!(warnings.len() == 1 && text.starts_with("any ciphertexts of the right form pass for results"), "{report}");
    assert!(stderr.lines().any(|line| line == format!("warning: {text}")), "{stderr}");
    let (report, stderr) = protect("open", &["--weights", "plain"]);
    assert!(report.get("warnings").is_none() && !stderr.contains("any ciphertexts"), "{stderr}");
    let usual = owner.json(&borrowed(&protect_tabular("tabular", "plain")));
    assert!(usual.get("warnings").is_none(), "{usual}");
}

#[test]
fn scores_for_others_need_a_network_that_was_protected_for_it() {
    // One layer, so precise that noise for 2^-20 and a thousand results leaves four bits.
    let w = World::new(&["--scope", "last", "--flooding", "20:1000"]);
    let shown = w.owner.json(&["show", "tabular"]);
    let flooded = &shown["report"]["flooded"];
    let policy = |text: &str| fs::write(w.owner.home().join("release.json"), text).unwrap();
    let outside = ["decrypt", "--device", &w.device, "signed.srb", "--again", "--outside", "--reveal", "scores"];
    assert!(w.refused(&outside, 2).contains("only with noise"));
    policy(r#"{"flooding": {"bits": 20, "results": 1000}}"#);
    assert!(w.refused(&outside, 2).contains("per_model_total"));
    policy(r#"{"flooding": {"bits": 40, "results": 1000}, "budget": {"per_model_total": 1000}}"#);
    assert!(w.refused(&outside, 2).contains("cannot be flooded to 2^-40 for 1000 results"));
    policy(r#"{"flooding": {"bits": 20, "results": 1000}, "budget": {"per_model_total": 1000}}"#);
    let scores = |arguments: &[&str]| -> Vec<f64> {
        let report = w.decrypt(&[&["signed.srb", "--again", "--reveal", "scores"], arguments].concat());
        let of = |p: &Value| p["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect::<Vec<_>>();
        report["predictions"].as_array().unwrap().iter().flat_map(of).collect()
    };
    let (exact, noisy, again) = (scores(&[]), scores(&["--outside"]), scores(&["--outside"]));
    assert!(noisy != again && exact.len() == 40);
    let deviation = flooded["deviation"].as_f64().unwrap();
    let off: f64 = exact.iter().zip(&noisy).map(|(e, n)| (e - n).powi(2)).sum::<f64>() / 40.0;
    // Forty samples of a variance: a factor of two is five of their deviations.
    assert!((0.5..2.0).contains(&(off.sqrt() / deviation)), "{off} {deviation}");
    let bound = flooded["max_abs_error"].as_f64().unwrap();
    assert!(exact.iter().zip(&noisy).all(|(e, n)| (e - n).abs() <= bound));
    // Labels go out without noise, and a network that was not protected for scores never reveals any.
    w.decrypt(&["signed.srb", "--again", "--outside"]);
    let plain = World::new(&[]);
    fs::copy(w.owner.home().join("release.json"), plain.owner.home().join("release.json")).unwrap();
    let text =
        plain.refused(&["decrypt", "--device", &plain.device, "signed.srb", "--outside", "--reveal", "top:1"], 2);
    assert!(text.contains("cannot be flooded"), "{text}");
}
