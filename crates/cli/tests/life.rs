//! The whole life of a network through both command lines.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Owner, borrowed, fixture, protect_tabular};
use serde_json::Value;
use subrosa_input::Samples;

fn has_keys(report: &Value, keys: &[&str]) {
    for key in keys {
        assert!(report.get(key).is_some_and(|v| !v.is_null()), "no '{key}' in {report}");
    }
}

/// The class that the fixture's own framework gives each sample.
fn expected_labels() -> Vec<u64> {
    let outputs = subrosa_input::read(&fixture("torch-tabular.output.npy"), None).unwrap();
    let Samples::Raw { data, .. } = outputs.samples else { panic!("outputs are floats") };
    data.chunks(2).map(|o| u64::from(o[1] > o[0])).collect()
}

fn whole_life(input: &str) {
    let owner = Owner::new();
    let samples = fixture("torch-tabular.input.npy");
    let labels = fixture("torch-tabular.labels.npy");

    let protected = owner.json(&borrowed(&protect_tabular("tabular", input)));
    has_keys(
        &protected,
        &[
            "id",
            "name",
            "version",
            "scheme",
            "security_bits",
            "log_n",
            "log_qp",
            "levels",
            "moduli_bits",
            "scope",
            "input",
            "weights",
            "ciphertexts",
            "model_bytes",
            "key_bytes",
            "plan_seconds",
            "keygen_seconds",
            "protect_seconds",
            "peak_rss_bytes",
        ],
    );
    has_keys(&protected["forecast"], &["max_abs_error", "remaining_budget_bits"]);
    assert_eq!((&protected["version"], &protected["input"]), (&1.into(), &input.into()));
    let id = protected["id"].as_str().unwrap();

    let listed = owner.json(&["models"]);
    assert_eq!(listed["models"][0]["id"], id);
    assert_eq!(owner.json(&["show", &id[..6]])["report"]["weights"], protected["weights"]);

    let deployed = owner.json(&["deploy", "tabular", "--out", "net.srb"]);
    has_keys(&deployed, &["bundle_bytes", "sha256", "seconds"]);
    assert_eq!(deployed["bundle_bytes"], std::fs::metadata(owner.path("net.srb")).unwrap().len());
    let identity = owner.json(&["identity", "--out", "owner.pub"]);
    assert_eq!(identity["fingerprint"], deployed["owner"]);

    let (bundle, results, trust) = (owner.shown("net.srb"), owner.shown("net.srr"), owner.shown("owner.pub"));
    let info = owner.edge(&["info", &bundle, "--trust", &trust]);
    assert_eq!((&info["id"], &info["trusted"], &info["input"]), (&id.into(), &true.into(), &input.into()));
    let inferred = owner.edge(&["infer", &bundle, "--trust", &trust, "--input", &samples, "--out", &results]);
    assert_eq!(inferred["count"], 20);
    assert_eq!(inferred["input_ciphertext_bytes"] == 0, input == "plain");

    let decrypted = owner.json(&["decrypt", "net.srr", "--reveal", "scores", "--out", "predictions.json"]);
    has_keys(&decrypted, &["id", "count", "predictions", "remaining_budget_bits", "seconds", "peak_rss_bytes"]);
    let found: Vec<u64> =
        decrypted["predictions"].as_array().unwrap().iter().map(|p| p["label"].as_u64().unwrap()).collect();
    assert_eq!(found, expected_labels());
    let written: Value = serde_json::from_slice(&std::fs::read(owner.path("predictions.json")).unwrap()).unwrap();
    assert_eq!(written["predictions"], decrypted["predictions"]);
    let plain = owner.json(&["decrypt", "net.srr"]);
    assert_eq!(plain["predictions"][3], serde_json::json!({"index": 3, "label": found[3]}));
    let top = owner.json(&["decrypt", "net.srr", "--reveal", "top:1"]);
    assert_eq!(top["predictions"][3]["top"][0][0], found[3]);
    assert!(top["predictions"][3].get("scores").is_none());

    let compared = owner.json(&["verify", "tabular", "--input", &samples, "--labels", &labels]);
    assert_eq!((compared["count"].as_u64(), compared["agreement"].as_f64()), (Some(20), Some(1.0)));
    has_keys(&compared, &["accuracy_original", "accuracy_approximated", "accuracy_encrypted", "mean_infer_seconds"]);
    let error = compared["max_abs_error"].as_f64().unwrap();
    let forecast = protected["forecast"]["max_abs_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < forecast, "{error} {forecast}");

    owner.json(&["remove", "tabular@1"]);
    assert_eq!(owner.json(&["models"])["models"], serde_json::json!([]));
    assert_eq!(owner.vault().list().unwrap(), ["signing"]);
}

#[test]
fn a_network_lives_through_both_programs_with_encrypted_input() {
    whole_life("encrypted");
}

#[test]
fn a_network_lives_through_both_programs_with_plain_input() {
    whole_life("plain");
}

#[test]
fn a_dry_run_explains_the_plan_and_stores_nothing() {
    let owner = Owner::new();
    let explain = [protect_tabular("tabular", "plain"), vec!["--explain".into(), "--dry-run".into()]].concat();
    let plan = owner.json(&borrowed(&explain));
    has_keys(&plan, &["log_n", "log_qp", "groups", "keys", "steps", "ranges", "forecast", "predicted", "alternatives"]);
    has_keys(
        &plan["steps"][0]["predicted"],
        &["level", "seconds", "ntts", "products", "key_products", "key_bytes", "weight_bytes"],
    );
    let taken = plan["alternatives"].as_array().unwrap().iter().filter(|a| a["verdict"] == "taken");
    assert!(taken.map(|a| &a["log_n"]).eq([&plan["log_n"]]), "{plan}");
    let text = String::from_utf8(owner.run(&borrowed(&explain)).stdout).unwrap();
    for part in ["evaluation keys", "diagonals-plain", "to infer on one thread", "considered", "taken", "slower"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(owner.json(&["models"])["models"], serde_json::json!([]));
    assert_eq!(owner.vault().list().unwrap(), Vec::<String>::new());
}

#[test]
fn a_measured_cost_model_in_the_home_is_what_a_plan_reckons_with() {
    let owner = Owner::new();
    let explain = [protect_tabular("tabular", "plain"), vec!["--explain".into(), "--dry-run".into()]].concat();
    let builtin = owner.json(&borrowed(&explain));
    let mut model = subrosa_plan::CostModel::builtin(subrosa_fhe::Kernel::active().unwrap());
    (model.machine, model.step) = ("abacus".into(), 1e9);
    std::fs::create_dir_all(owner.home()).unwrap();
    model.save(&owner.home().join(subrosa_owner::COST_MODEL_FILE)).unwrap();
    let measured = owner.json(&borrowed(&explain));
    assert_eq!(measured["predicted"]["machine"], "abacus");
    assert!(measured["forecast"]["infer_seconds"].as_f64() > builtin["forecast"]["infer_seconds"].as_f64());
    // One that cannot be read is as good as none.
    std::fs::write(owner.home().join(subrosa_owner::COST_MODEL_FILE), "{}").unwrap();
    assert_eq!(owner.json(&borrowed(&explain))["predicted"], builtin["predicted"]);
}

#[test]
fn keys_survive_a_lost_vault_and_a_new_passphrase() {
    let owner = Owner::new();
    owner.json(&borrowed(&protect_tabular("tabular", "plain")));
    let backed_up = owner.json(&["keys", "backup", "--out", "keys.backup"]);
    let names = owner.vault().list().unwrap();
    assert_eq!(backed_up["entries"], names.len());

    std::fs::write(owner.path("new"), "another one\n").unwrap();
    std::fs::write(owner.path("old"), common::PASSPHRASE).unwrap();
    owner.json(&["keys", "passphrase", "--new-passphrase-file", "new"]);
    assert_eq!(owner.run(&["identity"]).status.code(), Some(2));
    owner.json(&["identity", "--passphrase-file", "new"]);

    std::fs::remove_dir_all(owner.home().join("vault")).unwrap();
    let restore = ["keys", "restore", "keys.backup", "--passphrase-file", "new", "--backup-passphrase-file", "old"];
    assert_eq!(owner.json(&restore)["restored"], names.len());
    owner.json(&[
        "verify",
        "tabular",
        "--input",
        &fixture("torch-tabular.input.npy"),
        "--limit",
        "1",
        "--passphrase-file",
        "new",
    ]);
}

#[test]
fn closed_and_full_outputs_end_the_program_without_a_panic() {
    let owner = Owner::new();
    let model = fixture("torch-tabular.onnx");
    let mut child = owner
        .command(&["inspect", &model])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));

    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let output = owner.command(&["inspect", &model]).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: cannot write to standard output"), "{stderr}");
    }
}

#[test]
fn a_network_that_subrosa_trained_is_protected_in_every_layer() {
    let owner = Owner::new();
    let (model, data) = (fixture("../ai4i-mlp.onnx"), fixture("../ai4i-mlp.test.csv"));
    for input in ["plain", "encrypted"] {
        let protected = owner.json(&[
            "protect",
            &model,
            "--name",
            "machines",
            "--scope",
            "all",
            "--input",
            input,
            "--calibrate",
            &data,
        ]);
        assert_eq!(protected["weights"], 32 * 8 + 16 * 32 + 2 * 16 + 32 + 16 + 2, "{protected}");
        let verified = owner.json(&["verify", "machines", "--input", &data]);
        assert_eq!(verified["count"], 200);
        assert!(verified["agreement"].as_f64().unwrap() >= 0.995, "{verified}");
        assert!(verified["agreement_original"].as_f64().unwrap() >= 0.995, "{verified}");
        assert!(verified["accuracy_encrypted"].as_f64().unwrap() >= 0.85, "{verified}");
    }
}
