//! Whatever is handed to the edge's command line, it ends with exit code 2 and at most two lines, and writes no results.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use snapbox::data::Inline;
use snapbox::{Assert, str};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use subrosa_owner::{Owner, ProtectRequest, Silent};
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fixtures");
const FEATURES: usize = 30;

/// One owner's bundle and public key, another owner's public key, samples.
struct Files {
    directory: TempDir,
    fingerprints: [String; 2],
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let passphrase = Passphrase::new("correct horse".to_owned()).unwrap();
    let fingerprints = ["owner", "stranger"].map(|who| {
        let home = place.join(who);
        let owner = Owner::open(&home).unwrap();
        let vault = Vault::create_or_open_for_tests(&home, &passphrase).unwrap();
        let identity = OwnerIdentity::load_or_create(&vault).unwrap();
        let fingerprint = identity.signer().fingerprint();
        fs::write(place.join(format!("{who}.pub")), identity.signer().to_file_text("")).unwrap();
        if who == "owner" {
            let onnx = fs::read(format!("{FIXTURES}/torch-tabular.onnx")).unwrap();
            let data = subrosa_input::read(&format!("{FIXTURES}/torch-tabular.input.npy"), None).unwrap();
            let request = ProtectRequest { calibrate: Some(&data), ..ProtectRequest::new(&onnx, "tabular") };
            let report = owner.protect(&request, &vault, &Silent).unwrap();
            owner.deploy(&report.id, &place.join("good.srb"), &identity).unwrap();
        }
        fingerprint
    });
    fs::write(place.join("empty"), b"").unwrap();
    fs::create_dir(place.join("directory")).unwrap();
    fs::copy(format!("{FIXTURES}/torch-tabular.input.npy"), place.join("good.npy")).unwrap();
    npy(&place.join("short.npy"), &[2, FEATURES - 1], |_| 0.5);
    npy(&place.join("nan.npy"), &[2, FEATURES], |i| if i == FEATURES + 3 { f32::NAN } else { 0.5 });
    npy(&place.join("infinite.npy"), &[1, FEATURES], |i| if i == 7 { f32::INFINITY } else { 0.5 });
    npy(&place.join("far.npy"), &[2, FEATURES], |i| if i == FEATURES { 1e6 } else { 0.5 });
    Files { directory, fingerprints }
});

fn npy(path: &Path, shape: &[usize; 2], value: impl Fn(usize) -> f32) {
    let [rows, columns] = shape;
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend((0..rows * columns).flat_map(|i| value(i).to_le_bytes()));
    fs::write(path, file).unwrap();
}

fn file(name: &str) -> PathBuf {
    FILES.directory.path().join(name)
}

/// Exit code, standard output and standard error, in the directory of the files.
fn edge(arguments: &[&str]) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_subrosa-edge"));
    let output = program.current_dir(FILES.directory.path()).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// The command ends with exit code 2 and this text, with and without `--json`, and leaves no results.
fn refused(arguments: &[&str], expected: Inline) {
    let results = file("results.srr");
    let with_json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    for arguments in [arguments, &with_json] {
        let (code, stdout, stderr) = edge(arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!((1..=2).contains(&stderr.lines().count()), "{arguments:?}: {stderr}");
        assert!(!results.exists(), "{arguments:?}");
        let [owner, stranger] = &FILES.fingerprints;
        let stderr = stderr.replace(owner, "[OWNER]").replace(stranger, "[STRANGER]");
        Assert::new().action_env("SNAPSHOTS").eq(stderr, expected.clone());
    }
}

fn infer<'a>(bundle: &'a str, input: &'a str) -> [&'a str; 6] {
    ["infer", bundle, "--input", input, "--out", "results.srr"]
}

#[test]
fn a_good_bundle_gives_results_and_tells_whom_it_trusts() {
    let (code, stdout, stderr) =
        edge(&["infer", "good.srb", "--input", "good.npy", "--out", "good.srr", "--limit", "3", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["count"], 3);
    for key in ["load", "plain", "encrypt", "infer", "total"].map(|k| format!("{k}_seconds")) {
        assert!(report[&key].as_f64().unwrap() > 0.0 || key == "plain_seconds", "{key}: {report}");
    }
    for key in ["result_bytes", "input_ciphertext_bytes", "peak_rss_bytes"] {
        assert!(report[key].as_u64().unwrap() > 10_000, "{key}: {report}");
    }
    assert!(stderr.contains(&FILES.fingerprints[0]) && stderr.contains("not verified"), "{stderr}");

    let (code, stdout, stderr) = edge(&["info", "good.srb", "--trust", "owner.pub", "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    for (key, expected) in [
        ("name", "tabular".into()),
        ("scheme", "ckks".into()),
        ("security_bits", 128.into()),
        ("layers_plain", 0.into()),
        ("layers_encrypted", 2.into()),
        ("trusted", true.into()),
        ("input_shape", serde_json::json!([30])),
    ] {
        assert_eq!(report[key], expected, "{key}");
    }
    let (memory, bundle) = (report["memory_bytes"].as_u64().unwrap(), report["bundle_bytes"].as_u64().unwrap());
    assert!(memory > bundle && memory < 8 * bundle, "{report}");
}

#[test]
fn another_owners_bundle_is_refused() {
    refused(
        &["--trust", "stranger.pub", "info", "good.srb"],
        str![[r#"
error: good.srb: signed by [OWNER], not by the trusted owner [STRANGER]: get the bundle from its owner, or the owner's public key

"#]],
    );
    refused(
        &[&["--trust", "stranger.pub"], &infer("good.srb", "good.npy")[..]].concat(),
        str![[r#"
error: good.srb: signed by [OWNER], not by the trusted owner [STRANGER]: get the bundle from its owner, or the owner's public key

"#]],
    );
    refused(
        &["--trust", "good.npy", "info", "good.srb"],
        str![[r#"
error: good.npy: it has more than one key line: keep only the owner's whose files are to be trusted

"#]],
    );
}

#[test]
fn files_that_are_no_bundles_are_refused() {
    refused(
        &["info", "missing.srb"],
        str![[r#"
error: missing.srb: cannot open the file: No such file or directory (os error 2)

"#]],
    );
    refused(
        &["info", "empty"],
        str![[r#"
error: empty is empty: whatever wrote or copied it did not finish; fetch the file again

"#]],
    );
    refused(
        &["info", "directory"],
        str![[r#"
error: directory is not a regular file: give the path of a Subrosa file

"#]],
    );
    refused(
        &["info", "good.npy"],
        str![[r#"
error: good.npy is not a Subrosa file: it does not begin with the format's mark

"#]],
    );
    refused(
        &infer("good.npy", "good.npy"),
        str![[r#"
error: good.npy is not a Subrosa file: it does not begin with the format's mark

"#]],
    );
}

#[test]
fn samples_that_do_not_fit_are_refused_and_leave_no_results() {
    refused(
        &infer("good.srb", "missing.npy"),
        str![[r#"
error: cannot read missing.npy: No such file or directory (os error 2)

"#]],
    );
    refused(
        &infer("good.srb", "empty"),
        str![[r#"
error: empty: it is empty; give a file with at least one sample

"#]],
    );
    refused(
        &infer("good.srb", "short.npy"),
        str![[r#"
error: short.npy: the input does not fit the network: it holds samples of shape [29], the network takes [30]; reshape or transpose the array to [samples, 30]

"#]],
    );
    refused(
        &infer("good.srb", "nan.npy"),
        str![[r#"
error: nan.npy, record 2: value 4 is NaN; replace it by a finite float32 number or leave the record out

"#]],
    );
    refused(
        &infer("good.srb", "infinite.npy"),
        str![[r#"
error: infinite.npy, record 1: value 8 is inf; replace it by a finite float32 number or leave the record out

"#]],
    );
    refused(
        &infer("good.srb", "far.npy"),
        str![[r#"
error: far.npy, sample 1: the features of this sample leave the range this network was protected for (largest value 1000000.0000, at most [..]): is the input preprocessed as it was in training? Otherwise protect the network again with `--calibrate` on such data

"#]],
    );
    refused(
        &["infer", "good.srb", "--input", "good.npy", "--out", "directory"],
        str![[r#"
error: directory: cannot create the file: something that is not a regular file stands there

"#]],
    );
    refused(
        &["infer", "good.srb", "--input", "good.npy", "--out", "results.srr", "--limit", "0"],
        str![[r#"
error: good.npy: a limit of 0 samples leaves nothing to do; use --limit 1 or more

"#]],
    );
}

#[test]
fn wrong_usage_is_explained_in_two_lines() {
    refused(
        &["infer", "good.srb"],
        str![[r#"
error: the following required arguments were not provided: --input <FILE> --out <RESULTS>
For more information, try '--help'.

"#]],
    );
    refused(
        &["info", "good.srb", "--threads", "0"],
        str![[r#"
error: invalid value '0' for '--threads <N>': 0 is not in 1..=65535
For more information, try '--help'.

"#]],
    );
    refused(
        &["decrypt", "results.srr"],
        str![[r#"
error: unrecognized subcommand 'decrypt'
For more information, try '--help'.

"#]],
    );
}

#[test]
fn one_flipped_bit_anywhere_and_every_cut_is_noticed() {
    let bundle = fs::read(file("good.srb")).unwrap();
    let word = |at: usize| u64::from_le_bytes(bundle[at..at + 8].try_into().unwrap()) as usize;
    // The table of sections, as docs/format.md draws it.
    let (table, count) = (word(32), u32::from_le_bytes(bundle[40..44].try_into().unwrap()) as usize);
    let mut places = vec![("header".to_owned(), 12), ("table".to_owned(), table + 30)];
    let (seal, signature) = (table + 72 * count, table + 72 * count + 32 + 40);
    places.extend([("seal".to_owned(), seal), ("signature".to_owned(), signature), ("signer".to_owned(), seal + 40)]);
    for entry in (0..count).map(|i| table + 72 * i) {
        let name = String::from_utf8_lossy(&bundle[entry..entry + 24]).trim_end_matches('\0').to_owned();
        let (offset, length) = (word(entry + 24), word(entry + 32));
        for at in [offset, offset + length / 2, offset + length.saturating_sub(1)] {
            if length > 0 {
                places.push((name.clone(), at));
            }
        }
    }
    assert!(places.len() >= 5 + 3 * 5, "{places:?}");
    let check = |what: &str, bytes: &[u8]| {
        let name = format!("{}.srb", what.replace(' ', "-"));
        fs::write(file(&name), bytes).unwrap();
        let (code, stdout, stderr) = edge(&infer(&name, "good.npy"));
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{what}: {stderr}");
        assert!(stderr.starts_with("error: ") && !stderr.contains("internal"), "{what}: {stderr}");
        fs::remove_file(file(&name)).unwrap();
    };
    for (name, at) in places {
        let mut damaged = bundle.clone();
        damaged[at] ^= 1 << (at % 8);
        check(&format!("{name} {at}"), &damaged);
    }
    for length in [1, 40, 64, bundle.len() / 3, table + 5, bundle.len() - 1] {
        check(&format!("cut {length}"), &bundle[..length]);
    }
    check("longer", &[&bundle[..], b"x"].concat());
    assert!(!file("results.srr").exists());
}
