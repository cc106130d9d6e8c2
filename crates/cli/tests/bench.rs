//! `subrosa bench` on small settings: what its reports hold, and what it refuses. Times are looked at by nobody here.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::Owner;
use serde_json::Value;
use snapbox::data::Inline;
use snapbox::{Assert, str};
use std::fs;

/// What every row of every bench has.
const ROW: [&str; 7] = ["what", "setting", "security_bits", "threads", "kernel", "runs", "median_seconds"];
/// What every report says of where and when.
const CONDITIONS: [&str; 5] = ["machine", "kernel", "threads", "date", "calibration"];

fn has_keys(report: &Value, keys: &[&str]) {
    for key in keys {
        assert!(report.get(key).is_some_and(|v| !v.is_null()), "no '{key}' in {report}");
    }
}

/// The rows of a report, after a look at what all of them have in common.
fn rows(report: &Value) -> &Vec<Value> {
    has_keys(report, &CONDITIONS);
    assert!(report["calibration"]["ns_per_butterfly"].as_f64().unwrap() > 0.0);
    let rows = report["rows"].as_array().unwrap();
    rows.iter().for_each(|row| has_keys(row, &ROW));
    rows
}

fn find<'a>(rows: &'a [Value], what: &str) -> &'a Value {
    rows.iter().find(|r| r["what"] == what).unwrap_or_else(|| panic!("no '{what}'"))
}

/// The command ends with exit code 2 and this text.
fn refused(owner: &Owner, arguments: &[&str], expected: Inline) {
    let output = owner.run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let stderr = stderr.replace(owner.shown("").trim_end_matches('/'), "[DIR]");
    Assert::new().action_env("SNAPSHOTS").eq(stderr, expected);
}

/// A program in the peer's place that prints this.
#[cfg(unix)]
fn impostor(owner: &Owner, says: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = owner.path("python");
    fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{says}\nEND\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    common::text(&path)
}

#[test]
fn primitives_report_every_operation_with_its_parameters() {
    let report = Owner::new().json(&["bench", "primitives", "--log-n", "13", "--runs", "1"]);
    let rows = rows(&report);
    for what in [
        "forward NTT",
        "inverse NTT",
        "encode",
        "encrypt (public key)",
        "ct·pt",
        "ct·ct",
        "relinearise",
        "rescale",
        "ct·ct + relinearise + rescale",
        "rotate",
        "hoisted rotate, each of 16",
    ] {
        let row = find(rows, what);
        let parameters = ["log_n", "limbs", "specials", "digit", "log_q", "log_qp", "ciphertext_bytes", "key_bytes"];
        has_keys(row, &parameters);
        assert!(row["ntt_multiples"].as_f64().unwrap() > 0.0);
        assert!(row["log_qp"].as_f64().unwrap() <= 214.0, "the 128-bit bound at 2^13");
    }
    has_keys(find(rows, "forward NTT"), &["ns_per_butterfly"]);
    assert!(find(rows, "rotate")["max_abs_error"].as_f64().unwrap() > 0.0);
}

#[cfg(unix)]
#[test]
fn the_peers_figures_stand_beside_ours_with_their_ratio() {
    let owner = Owner::new();
    let medians = r#"{"encode": 2000, "encrypt_public_key": 2000, "ct_ct_relin_rescale": 2000, "rotate": 2000}"#;
    let bfv = medians.replace("_rescale", "");
    let degree =
        format!(r#"{{"coeff_modulus_bits": [60, 40, 60], "median_ms": {medians}, "bfv": {{"median_ms": {bfv}}}}}"#);
    let python = impostor(&owner, &format!(r#"{{"version": "0", "degrees": {{"16384": {degree}}}}}"#));
    let arguments = ["bench", "primitives", "--log-n", "14", "--runs", "1", "--peer", "tenseal", "--json"];
    let output = owner.command(&arguments).env("SUBROSA_PEER_PYTHON", &python).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let compared = report["peer"]["rows"].as_array().unwrap();
    let schemes: Vec<_> = compared.iter().map(|row| (row["scheme"].as_str(), row["peer_scheme"].as_str())).collect();
    assert_eq!(schemes, [[(Some("ckks"), Some("ckks")); 4], [(Some("bgv"), Some("bfv")); 4]].concat());
    for row in compared {
        let same = |r: &&Value| r["what"] == row["what"] && r["scheme"] == row["scheme"];
        let ours = rows(&report).iter().find(same).unwrap();
        assert_eq!((&row["ours_seconds"], &row["theirs_log_q"]), (&ours["median_seconds"], &100.into()));
        let ratio = 2.0 / ours["median_seconds"].as_f64().unwrap();
        assert!((row["ratio"].as_f64().unwrap() / ratio - 1.0).abs() < 1e-9);
    }

    let silent = impostor(&owner, r#"{"version": "0", "degrees": {}}"#);
    let output = owner.command(&arguments).env("SUBROSA_PEER_PYTHON", silent).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("error: the peer's report lacks its encode"), "{stderr}");
}

#[test]
fn a_classifier_is_reported_from_protection_to_decryption() {
    let report = Owner::new().json(&["bench", "classifier", "--shape", "64-10", "--runs", "1"]);
    let rows = rows(&report);
    for what in ["plan", "protect", "load", "prepare", "infer", "decrypt"] {
        has_keys(find(rows, what), &["log_n", "model_bytes", "key_bytes", "bundle_bytes", "max_abs_error"]);
    }
}

#[test]
fn whole_networks_are_reported_step_by_step_beside_what_was_predicted() {
    let owner = Owner::new();
    let report = owner.json(&["bench", "cnn", "--network", "ai4i", "--input", "plain,encrypted", "--runs", "2"]);
    let all = rows(&report);
    let steps: Vec<&str> = all.iter().map(|r| r["what"].as_str().unwrap()).collect();
    assert_eq!(steps, ["protect", "load", "prepare", "infer", "decrypt"].repeat(2));
    for row in all {
        has_keys(
            row,
            &["network", "input", "log_n", "weights", "model_bytes", "bundle_bytes", "predicted_memory_bytes"],
        );
        assert_eq!((&row["agreement"], &row["weights"]), (&1.0.into(), &850.into()));
        assert!(row["max_abs_error"].as_f64() < row["forecast_max_abs_error"].as_f64());
        if cfg!(target_os = "linux") {
            has_keys(row, &["peak_rss_bytes"]);
        }
    }
    has_keys(find(all, "infer"), &["predicted_seconds"]);
    assert_eq!(find(all, "infer")["runs"], 2);

    let plain = owner.json(&["bench", "cnn", "--network", "ai4i", "--weights", "plain", "--runs", "1"]);
    assert_eq!(find(rows(&plain), "infer")["setting"], "ai4i-mlp, encrypted input, plain weights");
    refused(
        &owner,
        &["bench", "cnn", "--network", "ai4i", "--weights", "plain", "--input", "plain"],
        str![[r#"
error: plain weights with plain input protect nothing: encrypt one of them

"#]],
    );

    // A network of one's own, on samples of one's own and on random ones.
    let (model, data) = (common::fixture("torch-mlp-tanh.onnx"), common::fixture("torch-mlp-tanh.input.npy"));
    let own = ["bench", "cnn", "--model", &model, "--input", "plain", "--runs", "1"];
    let fitted = owner.json(&[&own[..], &["--samples", &data, "--activation", "tanh=chebyshev:3"]].concat());
    assert_eq!(find(rows(&fitted), "infer")["network"], "torch-mlp-tanh");
    refused(
        &owner,
        &own,
        str![[r#"
error: [..] the tanh after layer '0' is no polynomial and cannot be evaluated on encrypted values: [..]

"#]],
    );
}

#[test]
fn the_papers_experiment_puts_every_step_beside_the_papers_figures() {
    let owner = Owner::new();
    let arguments = ["bench", "paper", "--network", "cifar", "--setting", "last", "--security", "192", "--runs", "1"];
    let report = owner.json(&[&arguments[..], &["--svg", "chart.svg"]].concat());
    let rows = rows(&report);
    let plain = find(rows, "plain");
    assert_eq!(plain["paper"]["seconds"], 0.0891);
    assert!(plain["model_bytes"].as_u64().unwrap() > 4_000_000, "the whole network");
    for (what, tables) in [("protect", [2, 2]), ("infer", [3, 4]), ("decrypt", [5, 5])] {
        let rows: Vec<&Value> = rows.iter().filter(|r| r["what"] == what).collect();
        assert_eq!(rows.iter().map(|r| r["paper"]["table"].as_u64().unwrap()).collect::<Vec<_>>(), tables);
        for row in rows {
            has_keys(row, &["mean_seconds", "model_bytes", "bundle_bytes", "expansion", "remaining_budget_bits"]);
            let ours = row["mean_seconds"].as_f64().unwrap();
            let ratio = row["paper"]["seconds"].as_f64().unwrap() / ours;
            assert!((row["ratio"]["seconds"].as_f64().unwrap() / ratio - 1.0).abs() < 1e-9);
            if cfg!(target_os = "linux") {
                // Each step has its own process, so none can have the memory of all.
                has_keys(row, &["peak_rss_bytes"]);
                has_keys(&row["ratio"], &["memory"]);
            }
        }
    }
    let chart = fs::read_to_string(owner.path("chart.svg")).unwrap();
    assert!(chart.starts_with("<svg") && chart.contains("last layer, 192 bits") && chart.ends_with("</svg>\n"));
}

#[test]
fn reports_are_archived_under_new_names_and_inside_of_a_source_tree_only() {
    let owner = Owner::new();
    let arguments = ["bench", "classifier", "--shape", "8-2", "--runs", "1", "--archive"];
    refused(
        &owner,
        &arguments,
        str![[r#"
error: --archive keeps results in benches/results of Subrosa's source tree, and [DIR] is not inside of one: change there

"#]],
    );
    fs::create_dir_all(owner.path("benches/results")).unwrap();
    fs::write(owner.path("Cargo.toml"), "").unwrap();
    let reports = [owner.json(&arguments), owner.json(&arguments)];
    let mut names: Vec<String> = fs::read_dir(owner.path("benches/results"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|n| n.contains("-classifier-") && n.ends_with(".json")), "{names:?}");
    for name in names {
        let kept: Value = serde_json::from_slice(&fs::read(owner.path("benches/results").join(name)).unwrap()).unwrap();
        has_keys(&kept, &CONDITIONS);
        assert!(reports.iter().any(|report| report["rows"] == kept["rows"]));
    }
}

#[test]
fn wishes_that_cannot_be_measured_are_refused() {
    let owner = Owner::new();
    refused(
        &owner,
        &["bench", "primitives", "--log-n", "12"],
        str![[r#"
error: invalid value '12' for '--log-n <LOG_N>': write one of 13 to 16, a list as in 14,15 or a range as in 13..16
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "primitives", "--log-n", "15..14"],
        str![[r#"
error: invalid value '15..14' for '--log-n <LOG_N>': write one of 13 to 16, a list as in 14,15 or a range as in 13..16
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "primitives", "--runs", "0"],
        str![[r#"
error: invalid value '0' for '--runs <N>': 0 is not in 1..=65535
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "primitives", "--log-n", "13", "--peer", "tenseal"],
        str![[r#"
error: the peer is timed at 2^14 and 2^15: give --log-n 14, 15 or both, or leave --peer out

"#]],
    );
    refused(
        &owner,
        &["bench", "primitives", "--peer", "seal"],
        str![[r#"
error: invalid value 'seal' for '--peer <PEER>' [possible values: tenseal]
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "paper", "--security", "128,129"],
        str![[r#"
error: invalid value '129' for '--security <SECURITY>': choose 128, 192 or 256
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "paper", "--network", "imagenet"],
        str![[r#"
error: invalid value 'imagenet' for '--network <NETWORK>' [possible values: cifar, mnist, all]
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "paper", "--setting", "first"],
        str![[r#"
error: invalid value 'first' for '--setting <SETTING>' [possible values: square, none, none-folded, last]
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "paper", "--network", "mnist", "--svg", "chart.svg"],
        str![[r#"
error: --svg draws the CIFAR-10 network, which the paper's figures are of: give --network cifar or all

"#]],
    );
    refused(
        &owner,
        &["bench", "paper", "--svg", "nowhere/chart.svg"],
        str![[r#"
error: there is no directory nowhere for the chart: make it first

"#]],
    );
    refused(
        &owner,
        &["bench", "cnn", "--network", "resnet"],
        str![[r#"
error: invalid value 'resnet' for '--network <NETWORK>' [possible values: cifar, mnist, cryptonets, ai4i]
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "cnn", "--model", "missing.onnx"],
        str![[r#"
error: cannot read missing.onnx: No such file or directory (os error 2)

"#]],
    );
    refused(
        &owner,
        &["bench", "cnn", "--samples", "x.npy"],
        str![[r#"
error: the following required arguments were not provided: --model <FILE>
For more information, try '--help'.

"#]],
    );
    refused(
        &owner,
        &["bench", "everything"],
        str![[r#"
error: unrecognized subcommand 'everything'
For more information, try '--help'.

"#]],
    );
}
