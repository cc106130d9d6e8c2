//! The program as a user calls it: what it writes, what it refuses, what a kill leaves.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_subrosa-train"))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The repository's digits, laid out as MNIST is; the same for training and test, which is all that is needed here.
fn digits() -> TempDir {
    let folder = TempDir::new().unwrap();
    for part in ["train", "t10k"] {
        for what in ["images-idx3", "labels-idx1"] {
            let from = repository().join(format!("data/mnist-test-1000-{what}-ubyte.gz"));
            fs::copy(from, folder.path().join(format!("{part}-{what}-ubyte.gz"))).unwrap();
        }
    }
    folder
}

/// Trains on digits with these options; the network goes to `out`.
fn train(data: &Path, out: &Path, options: &[&str]) -> Command {
    let mut command = program();
    command.args(["--threads", "2", "--dataset", "mnist", "--data"]).arg(data).arg("--out").arg(out).args(options);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
}

const SMALL: [&str; 8] = ["--arch", "lenet", "--activation", "quadratic", "--augment", "none", "--seed", "7"];

#[test]
fn a_training_writes_the_network_its_log_and_its_report() {
    let (data, folder) = (digits(), TempDir::new().unwrap());
    let out = folder.path().join("digits.onnx");
    let output = train(data.path(), &out, &SMALL)
        .args(["--epochs", "3", "--json", "--write-test"])
        .arg(folder.path().join("test"))
        .output()
        .unwrap();
    succeeded(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["epochs"], 3);
    assert!(report["accuracy_test"].as_f64().unwrap() > 0.8, "{report}");
    assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["samples_per_second"].as_f64().unwrap() > 0.0);
    // The weights of LeNet and its classes: 6 x 25 + 16 x 150 + 400 x 120 + 120 x 84 + 84 x 10 + 10, norms, quadratics, input scale.
    let weights = 150 + 2400 + 48_000 + 10_080 + 850;
    assert_eq!(report["parameters"], weights + (6 + 16 + 120 + 84) * (4 + 3) + 2);
    let onnx = fs::read(&out).unwrap();
    assert_eq!(report["out_bytes"], onnx.len());
    let network = subrosa_network::Network::from_onnx(&onnx).unwrap();
    assert_eq!((network.input_shape(), network.outputs()), (&[1, 28, 28][..], 10));
    let log = fs::read_to_string(folder.path().join("digits.log.csv")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
    assert!(log.starts_with("epoch,seconds,learning_rate,loss,accuracy_train,accuracy_validation,accuracy_test\n1,"));
    let page = fs::read_to_string(folder.path().join("digits.report.md")).unwrap();
    for part in ["lenet", "learned polynomial of degree 2", "What the polynomials' operands range over", "validation"] {
        assert!(page.contains(part), "{page}");
    }
    assert!(!folder.path().join("digits.checkpoint").exists());
    assert_eq!(subrosa_input::read(folder.path().join("test/test.npy").to_str().unwrap(), None).unwrap().count, 1000);
    assert!(text(&output.stderr).contains("epoch 3/3: loss"), "{}", text(&output.stderr));
}

#[test]
fn a_killed_run_loses_at_most_one_epoch_and_ends_the_same() {
    let (data, folder) = (digits(), TempDir::new().unwrap());
    let options = [&SMALL[..], &["--epochs", "6"]].concat();
    let whole = folder.path().join("whole.onnx");
    succeeded(&train(data.path(), &whole, &options).output().unwrap());

    let out = folder.path().join("killed.onnx");
    let mut child = train(data.path(), &out, &options).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("epoch 1/6"));
    assert!(lines.next().unwrap().unwrap().starts_with("epoch 2/6"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.exists());

    let refused = train(data.path(), &out, &options).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("go on with --resume"), "{}", text(&refused.stderr));
    let resumed = train(data.path(), &out, &options).args(["--resume", "--json"]).output().unwrap();
    succeeded(&resumed);
    let report: Value = serde_json::from_slice(&resumed.stdout).unwrap();
    assert!(report["resumed_epochs"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(report["epochs"], 6);
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap(), "the networks differ");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_the_run_with_what_to_do() {
    let (data, folder) = (digits(), TempDir::new().unwrap());
    let out = folder.path().join("digits.onnx");
    std::os::unix::fs::symlink("/dev/full", folder.path().join("digits.checkpoint.part")).unwrap();
    let output = train(data.path(), &out, &SMALL).args(["--epochs", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("digits.checkpoint cannot be written: No space left on device") && said.contains("make room"),
        "{said}"
    );
}

#[test]
fn a_foreign_network_is_adapted() {
    let (data, folder) = (digits(), TempDir::new().unwrap());
    let out = folder.path().join("adapted.onnx");
    let output = program()
        .args(["--dataset", "mnist", "--data"])
        .arg(data.path())
        .arg("--from")
        .arg(repository().join("models/fixtures/keras-small-cnn.onnx"))
        .args(["--epochs", "3", "--batch", "32", "--json", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    succeeded(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let adapted = &report["adapted"];
    let number = |key: &str| adapted[key].as_f64().unwrap();
    assert!(number("agreement_after") > 0.97 && number("agreement_before") > 0.5, "{adapted}");
    assert!((report["accuracy_test"].as_f64().unwrap() - number("accuracy_original")).abs() < 0.02, "{report}");
    // The input stays as it was: height, width, channels.
    let network = subrosa_network::Network::from_onnx(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(network.input_shape(), [28, 28, 1]);
}

#[test]
fn a_foreign_network_that_takes_digits_flat_is_adapted() {
    let (data, folder) = (digits(), TempDir::new().unwrap());
    let output = program()
        .args(["--dataset", "mnist", "--data"])
        .arg(data.path())
        .arg("--from")
        .arg(repository().join("models/fixtures/torch-mlp-noact.onnx"))
        .args(["--epochs", "0", "--json", "--out"])
        .arg(folder.path().join("flat.onnx"))
        .output()
        .unwrap();
    succeeded(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["adapted"]["agreement_after"], 1.0, "{report}");
    assert!(report["accuracy_test"].as_f64().unwrap() > 0.9, "{report}");
}

#[test]
fn without_labels_the_original_is_the_teacher_and_its_pixels_are_declared() {
    let (data, folder) = (digits(), TempDir::new().unwrap());
    let out = folder.path().join("adapted.onnx");
    let adapt = |dataset: &str, data: &Path, preprocess: &str| {
        let mut command = program();
        command.args(["--dataset", dataset, "--data"]).arg(data).arg("--from");
        command.arg(repository().join("models/fixtures/torch-small-cnn.onnx"));
        command.args([
            "--preprocess",
            preprocess,
            "--epochs",
            "4",
            "--batch",
            "16",
            "--labels-share",
            "0",
            "--json",
            "--out",
        ]);
        let output = command.arg(&out).output().unwrap();
        succeeded(&output);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let images = data.path().join("train-images-idx3-ubyte.gz");
    let report = adapt("unlabelled", &images, "scale=1/255");
    assert_eq!(report["adapted"]["accuracy_original"], 1.0);
    assert!(report["accuracy_test"].as_f64().unwrap() > 0.95, "{report}");
    // The wrong declaration shows: the original does worse.
    let right = adapt("mnist", data.path(), "scale=1/255");
    let wrong = adapt("mnist", data.path(), "scale=1/255 mean=0.5 std=0.2");
    let original = |report: &Value| report["adapted"]["accuracy_original"].as_f64().unwrap();
    assert!(original(&right) > 0.98 && original(&wrong) < original(&right), "{right} {wrong}");
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let (data, folder) = (digits(), TempDir::new().unwrap());
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let out = folder.path().join("x.onnx");
    let out = out.to_str().unwrap();
    let digits = data.path().to_str().unwrap();
    let cut = TempDir::new().unwrap();
    for entry in fs::read_dir(digits).unwrap() {
        let entry = entry.unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        let keep =
            if entry.file_name().to_string_lossy().starts_with("train-images") { bytes.len() / 2 } else { bytes.len() };
        fs::write(cut.path().join(entry.file_name()), &bytes[..keep]).unwrap();
    }
    let word = file("word.csv", b"a,b,label\n1,2,0\n1,two,1\n");
    let single = file("single.csv", b"a,label\n1,0\n2,0\n3,0\n4,0\n5,0\n6,0\n");
    let not_onnx = file("not.onnx", b"this is no network");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let mnist = ["--dataset", "mnist", "--data", digits, "--out", out];
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (
            vec!["--dataset", "mnist", "--data", cut.path().to_str().unwrap(), "--arch", "mlp", "--out", out],
            "train-images",
        ),
        (vec!["--dataset", "mnist", "--data", empty, "--arch", "mlp", "--out", out], "train-images-idx3-ubyte"),
        (vec!["--dataset", "images", "--data", empty, "--arch", "mlp", "--out", out], "one folder"),
        (vec!["--dataset", "csv", "--data", &word, "--arch", "mlp", "--out", out], "'two' in column 'b'"),
        (vec!["--dataset", "csv", "--data", &single, "--arch", "mlp", "--out", out], "class"),
        (vec!["--dataset", "mnist", "--data", "/nowhere", "--arch", "mlp", "--out", out], "/nowhere"),
        (vec!["--dataset", "imagenet", "--data", digits, "--arch", "mlp", "--out", out], "use one of mnist"),
        ([&mnist[..], &["--arch", "vgg"]].concat(), "is not an architecture"),
        ([&mnist[..], &["--arch", "mlp", "--activation", "rellu"]].concat(), "is not an activation"),
        ([&mnist[..], &["--arch", "mlp", "--activation", "chebyshev(relu,3,4,-4)"]].concat(), "chebyshev"),
        ([&mnist[..], &["--arch", "mlp", "--learning-rate=-1"]].concat(), "must be above 0"),
        ([&mnist[..], &["--arch", "mlp", "--learning-rate", "nan"]].concat(), "must be above 0"),
        ([&mnist[..], &["--arch", "mlp", "--validation", "1.5"]].concat(), "is no share"),
        ([&mnist[..], &["--arch", "mlp", "--target", "y"]].concat(), "--target"),
        ([&mnist[..], &["--from", &not_onnx]].concat(), "ONNX"),
        ([&mnist[..], &["--from", "/nowhere.onnx"]].concat(), "/nowhere.onnx"),
        ([&mnist[..], &["--arch", "mlp", "--from", &not_onnx]].concat(), "cannot be used with"),
        ([&mnist[..], &["--arch", "mlp", "--preprocess", "scale=1"]].concat(), "--from"),
        (vec!["--dataset", "unlabelled", "--data", digits, "--arch", "mlp", "--out", out], "are for --from"),
        (mnist.to_vec(), "--arch"),
        (vec!["--dataset", "mnist", "--data", digits, "--arch", "mlp", "--out", "/nowhere/x.onnx"], "make it first"),
        (vec!["--dataset", "mnist", "--data", digits, "--arch", "mlp", "--out", empty], "it is a folder"),
        (vec!["figures", "--logs", "/nowhere"], "folder of the trainings' logs"),
    ];
    for (arguments, part) in cases {
        let output = program().args(&arguments).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.lines().count() <= 2, "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
        assert!(!Path::new(out).exists());
    }
}

#[test]
fn figures_are_drawn_from_logs_and_a_bench_runs() {
    let folder = TempDir::new().unwrap();
    let header = "epoch,seconds,learning_rate,loss,accuracy_train,accuracy_validation,accuracy_test\n";
    for (name, last) in
        [("mnist-relu-1", 0.99), ("mnist-relu-2", 0.98), ("mnist-last-none-1", 0.97), ("mnist-relu-x", 0.1)]
    {
        let rows = format!("{header}1,1.0,0.001,0.5,0.8,0.9,0.9\n2,1.0,0.001,0.4,0.9,0.95,{last}\n");
        fs::write(folder.path().join(format!("{name}.log.csv")), rows).unwrap();
    }
    let out = folder.path().join("figures");
    let output = program().arg("figures").arg("--logs").arg(folder.path()).arg("--out").arg(&out).output().unwrap();
    succeeded(&output);
    assert!(text(&output.stderr).contains("no logs of cifar10"));
    for name in ["figure11.svg", "figure11.png", "figure11.csv", "figure13.svg", "figure13-errors.png"] {
        assert!(fs::metadata(out.join(name)).unwrap().len() > 100, "{name}");
    }
    let csv = fs::read_to_string(out.join("figure11.csv")).unwrap();
    assert!(csv.contains("ReLU,2,0.985,0.98,0.99,2"), "{csv}");

    let output = program().args(["bench", "--samples", "64", "--json"]).output().unwrap();
    succeeded(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rows"].as_array().unwrap().len(), 2);
    assert!(report["rows"][0]["samples_per_second"].as_f64().unwrap() > 0.0);
}
