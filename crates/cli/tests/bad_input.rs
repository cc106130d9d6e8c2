//! Whatever is handed to the owner's command line, it ends with exit code 2 and at most two lines, and nothing is lost.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Owner, borrowed, fixture, npy, protect_tabular};
use snapbox::data::Inline;
use snapbox::{Assert, str};
use std::fs;
use std::sync::LazyLock;

/// An owner with two networks and results of the first; a stranger with the same.
struct World {
    owner: Owner,
    stranger: Owner,
    id: String,
    strange_id: String,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let make = || {
        let owner = Owner::new();
        let id = owner.json(&borrowed(&protect_tabular("tabular", "plain")))["id"].as_str().unwrap().to_owned();
        owner.json(&["deploy", &id, "--out", "net.srb"]);
        let (bundle, results) = (owner.shown("net.srb"), owner.shown("net.srr"));
        owner.edge(&["infer", &bundle, "--input", &fixture("torch-tabular.input.npy"), "--out", &results]);
        (owner, id)
    };
    let ((owner, id), (stranger, strange_id)) = (make(), make());
    owner.json(&borrowed(&protect_tabular("other", "plain")));
    fs::copy(stranger.path("net.srr"), owner.path("strange.srr")).unwrap();
    fs::write(owner.path("empty"), b"").unwrap();
    fs::write(owner.path("noise"), [7u8; 5000]).unwrap();
    fs::create_dir(owner.path("directory")).unwrap();
    fs::write(owner.path("wrong"), "incorrect horse\n").unwrap();
    npy(&owner.path("short.npy"), [4, 29], |_| 0.5);
    npy(&owner.path("nan.npy"), [2, 30], |i| if i == 33 { f32::NAN } else { 0.5 });
    npy(&owner.path("infinite.npy"), [2, 30], |i| if i == 59 { f32::NEG_INFINITY } else { 0.5 });
    npy(&owner.path("zeros.npy"), [2, 30], |_| 0.0);
    fs::write(owner.path("labels.csv"), "label\n1\n0\n").unwrap();
    for name in ["torch-tabular", "torch-mlp-tanh"] {
        fs::copy(fixture(&format!("{name}.onnx")), owner.path(&format!("{name}.onnx"))).unwrap();
        fs::copy(fixture(&format!("{name}.input.npy")), owner.path(&format!("{name}.npy"))).unwrap();
    }
    World { owner, stranger, id, strange_id }
});

/// The command ends with exit code 2 and this text, with and without `--json`.
fn refused(arguments: &[&str], expected: Inline) {
    let world = &*WORLD;
    for json in [&[][..], &["--json"]] {
        let output = world.owner.run(&[arguments, json].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!((1..=2).contains(&stderr.lines().count()), "{arguments:?}: {stderr}");
        let directory = world.owner.shown("");
        let stderr = stderr.replace(&directory, "[DIR]/").replace(&world.id, "[ID]");
        let stderr = stderr.replace(&world.strange_id, "[STRANGE]");
        Assert::new().action_env("SNAPSHOTS").eq(stderr, expected.clone());
    }
}

/// Both networks are still there and the good results can be decrypted.
fn nothing_is_lost() {
    let listed = WORLD.owner.json(&["models"]);
    let names: Vec<&str> = listed["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["other", "tabular"]);
    assert_eq!(WORLD.owner.json(&["decrypt", "net.srr"])["count"], 20);
    assert_eq!(WORLD.stranger.json(&["decrypt", "net.srr"])["count"], 20);
}

#[test]
fn networks_that_cannot_be_protected_are_refused() {
    for model in ["missing.onnx", "empty", "directory", "noise"] {
        let output = WORLD.owner.run(&["inspect", model]);
        assert_eq!(output.status.code(), Some(2), "{model}");
    }
    refused(
        &["protect", "missing.onnx", "--name", "n"],
        str![[r#"
error: cannot read missing.onnx: No such file or directory (os error 2)

"#]],
    );
    refused(
        &["protect", "empty", "--name", "n"],
        str![[r#"
error: empty: not a usable ONNX file: it is empty

"#]],
    );
    refused(
        &["protect", "directory", "--name", "n"],
        str![[r#"
error: cannot read directory: Is a directory (os error 21)

"#]],
    );
    refused(
        &["protect", "noise", "--name", "n"],
        str![[r#"
error: noise: not a usable ONNX file: damaged or cut off near byte 0

"#]],
    );
    refused(
        &["protect", "torch-mlp-tanh.onnx", "--name", "n"],
        str![[r#"
error: torch-mlp-tanh.onnx: the tanh after layer '0' is no polynomial and cannot be evaluated on encrypted values: train the network with a polynomial in its place, give --activation tanh=poly:0,0.9,0,-0.1 (or another polynomial), or protect less with --scope last

"#]],
    );
    refused(
        &["protect", "torch-mlp-tanh.onnx", "--name", "n", "--activation", "tanh=poly:0,1"],
        str![[r#"
error: x instead of tanh behind layer '0' was not part of the training, and what it costs in accuracy is not known: give calibration data (--calibrate FILE) to measure it, or --force to accept it unseen

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx", "--name", "n", "--scope", "from:nowhere"],
        str![[r#"
error: torch-tabular.onnx: no layer is called 'nowhere'; the layers are: 0, 1, 2

"#]],
    );
    nothing_is_lost();
}

#[test]
fn wishes_that_cannot_be_granted_are_refused() {
    refused(
        &["protect", "torch-tabular.onnx", "--name", "n", "--memory-limit", "plenty"],
        str![[r#"
error: invalid value 'plenty' for '--memory-limit <BYTES>': write a number of bytes, as in 64MB or 2GB
For more information, try '--help'.

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx", "--name", "n", "--memory-limit", "2kB"],
        str![[r#"
error: the keys and weights of this network take at least [..] bytes of the edge's memory, --memory-limit permits 2000: permit as much, protect fewer layers (--scope last) or lower the security

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx", "--name", "a/b"],
        str![[r#"
error: 'a/b' cannot be a model's name: use 1 to 64 letters, digits, '.', '_' and '-'

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx", "--name", "n", "--fixed-point", "input=16,weights=64/64"],
        str![[r#"
error: --fixed-point is for exact integers: give --scheme bgv with it

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx", "--name", "n", "--security", "100"],
        str![[r#"
error: invalid value '100' for '--security <SECURITY>': choose 128, 192 or 256
For more information, try '--help'.

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx", "--name", "n", "--activation", "relu"],
        str![[r#"
error: invalid value 'relu' for '--activation <ACTIVATION=POLYNOMIAL>': 'relu' is not a substitution: write ACTIVATION=POLYNOMIAL, for example relu=x2+2x
For more information, try '--help'.

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx", "--name", "n", "--preprocess", "scale=x"],
        str![[r#"
error: invalid value 'scale=x' for '--preprocess <PREPROCESS>': bad preprocessing 'scale=x': the scale must be a number or a fraction, not 0; write for example 'scale=1/255 mean=0.5 std=0.5 layout=nchw resize=28x28'
For more information, try '--help'.

"#]],
    );
    refused(
        &["protect", "torch-tabular.onnx"],
        str![[r#"
error: the following required arguments were not provided: --name <NAME>
For more information, try '--help'.

"#]],
    );
    refused(
        &["frobnicate"],
        str![[r#"
error: unrecognized subcommand 'frobnicate'
For more information, try '--help'.

"#]],
    );
    refused(
        &["demo", "--model", "imagenet"],
        str![[r#"
error: invalid value 'imagenet' for '--model <MODEL>' [possible values: mnist, cifar10]
For more information, try '--help'.

"#]],
    );
    refused(
        &["decrypt", "net.srr", "--reveal", "top:0"],
        str![[r#"
error: invalid value 'top:0' for '--reveal <REVEAL>': 'top:0' is not a way to reveal: use label, top:K (K at least 1) or scores
For more information, try '--help'.

"#]],
    );
    refused(
        &["bench", "classifier", "--shape", "5"],
        str![[r#"
error: invalid value '5' for '--shape <SHAPE>': write 2 to 9 sizes of 1 to 65536, as in 2304-512-10
For more information, try '--help'.

"#]],
    );
    nothing_is_lost();
}

#[test]
fn calibration_data_that_does_not_fit_is_refused() {
    let protect = ["protect", "torch-tabular.onnx", "--name", "n", "--calibrate"];
    let with = |data: &[&'static str]| [&protect[..], data].concat();
    refused(
        &with(&["short.npy"]),
        str![[r#"
error: short.npy: the input does not fit the network: it holds samples of shape [29], the network takes [30]; reshape or transpose the array to [samples, 30]

"#]],
    );
    refused(
        &with(&["nan.npy"]),
        str![[r#"
error: nan.npy, record 2: value 4 is NaN; replace it by a finite float32 number or leave the record out

"#]],
    );
    refused(
        &with(&["infinite.npy"]),
        str![[r#"
error: infinite.npy, record 2: value 30 is -inf; replace it by a finite float32 number or leave the record out

"#]],
    );
    refused(
        &with(&["zeros.npy"]),
        str![[r#"
error: every feature is zero on the calibration data: give data the network answers to (--calibrate FILE)

"#]],
    );
    refused(
        &with(&["empty"]),
        str![[r#"
error: empty: it is empty; give a file with at least one sample

"#]],
    );
    refused(
        &with(&["directory"]),
        str![[r#"
error: directory: the directory holds no .png, .jpg or .jpeg file; give a directory of images, or a file of another format

"#]],
    );
    refused(
        &with(&["torch-tabular.npy", "--labels", "labels.csv"]),
        str![[r#"
error: labels.csv holds 2 labels, torch-tabular.npy holds 20 samples: give the labels of these samples, in their order

"#]],
    );
    nothing_is_lost();
}

#[test]
fn samples_that_do_not_fit_are_refused_by_verify() {
    let with = |data: &[&'static str]| [&["verify", "tabular", "--input"], data].concat();
    refused(
        &with(&["short.npy"]),
        str![[r#"
error: short.npy: the input does not fit the network: it holds samples of shape [29], the network takes [30]; reshape or transpose the array to [samples, 30]

"#]],
    );
    refused(
        &with(&["nan.npy"]),
        str![[r#"
error: nan.npy, record 2: value 4 is NaN; replace it by a finite float32 number or leave the record out

"#]],
    );
    refused(
        &with(&["infinite.npy"]),
        str![[r#"
error: infinite.npy, record 2: value 30 is -inf; replace it by a finite float32 number or leave the record out

"#]],
    );
    refused(
        &with(&["missing.npy"]),
        str![[r#"
error: cannot read missing.npy: No such file or directory (os error 2)

"#]],
    );
    nothing_is_lost();
}

#[test]
fn results_that_are_not_ours_or_not_whole_are_refused() {
    refused(
        &["decrypt", "missing.srr"],
        str![[r#"
error: missing.srr: cannot open the file: No such file or directory (os error 2)

"#]],
    );
    refused(
        &["decrypt", "empty"],
        str![[r#"
error: empty is empty: whatever wrote or copied it did not finish; fetch the file again

"#]],
    );
    refused(
        &["decrypt", "directory"],
        str![[r#"
error: directory is not a regular file: give the path of a Subrosa file

"#]],
    );
    refused(
        &["decrypt", "noise"],
        str![[r#"
error: noise is not a Subrosa file: it does not begin with the format's mark

"#]],
    );
    refused(
        &["decrypt", "net.srb"],
        str![[r#"
error: net.srb is a Subrosa file of kind 'SRBUNDLE', but one of kind 'SRRESULT' is needed here

"#]],
    );
    refused(
        &["decrypt", "strange.srr"],
        str![[r#"
error: strange.srr: these results are of the network 'tabular' (id [STRANGE]), which is not in this registry: decrypt them where it was protected, or restore its key and registry

"#]],
    );
    refused(
        &["decrypt", "net.srr", "--out", "directory"],
        str![[r#"
error: cannot write directory: something that is not a regular file stands there

"#]],
    );
    let results = fs::read(WORLD.owner.path("net.srr")).unwrap();
    for at in [10, 64, results.len() / 2, results.len() - 5] {
        let mut damaged = results.clone();
        damaged[at] ^= 4;
        fs::write(WORLD.owner.path("damaged.srr"), damaged).unwrap();
        let output = WORLD.owner.run(&["decrypt", "damaged.srr"]);
        assert_eq!(output.status.code(), Some(2), "bit flipped at {at}");
        fs::write(WORLD.owner.path("damaged.srr"), &results[..at]).unwrap();
        let output = WORLD.owner.run(&["decrypt", "damaged.srr"]);
        assert_eq!(output.status.code(), Some(2), "cut at {at}");
    }
    nothing_is_lost();
}

#[test]
fn results_relabelled_as_another_networks_are_refused() {
    // What an edge machine could do: an honest container around the ciphertexts of one network that names another.
    use subrosa_program::results::{Results, ResultsManifest, ResultsWriter};
    let owner = &WORLD.owner;
    let other = owner.json(&["show", "other"])["id"].as_str().unwrap().to_owned();
    owner.json(&["deploy", &WORLD.id, "--out", "own.srb"]);
    let bundle = subrosa_program::bundle::Bundle::open(&owner.path("own.srb"), *b"SRBUNDLE").unwrap();
    let parameters = bundle.parameters(subrosa_fhe::Kernel::Portable).unwrap();
    let opened = Results::open(&owner.path("net.srr")).unwrap();
    let output = &bundle.program.output;
    let inferences = opened.inferences(&parameters, output).unwrap();
    let manifest = ResultsManifest { model: other.clone(), ..opened.manifest.clone() };
    let mut writer = ResultsWriter::create(&owner.path("relabelled.srr"), manifest).unwrap();
    for packed in inferences {
        let inference = subrosa_program::results::read_inference(&parameters, output, packed).unwrap();
        writer.push(&parameters, &inference).unwrap();
    }
    writer.finish().unwrap();
    // They decrypt to noise under the other key.
    let output = owner.run(&["decrypt", "relabelled.srr"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("none of its 20 results is revealed"), "{stderr}");
    assert!(output.stdout.is_empty());
    nothing_is_lost();
}

#[test]
fn ids_that_nobody_has_are_refused() {
    refused(
        &["show", "nobody"],
        str![[r#"
error: the registry has no model 'nobody': 'subrosa models' lists what there is

"#]],
    );
    refused(
        &["deploy", "tabulra", "--out", "x.srb"],
        str![[r#"
error: the registry has no model 'tabulra': did you mean tabular?

"#]],
    );
    refused(
        &["remove", "ffff"],
        str![[r#"
error: the registry has no model 'ffff': 'subrosa models' lists what there is

"#]],
    );
    refused(
        &["verify", "tabular@7", "--input", "torch-tabular.npy"],
        str![[r#"
error: the registry has no model 'tabular@7': did you mean tabular@1?

"#]],
    );
    refused(
        &["deploy", "tabular", "--out", "directory"],
        str![[r#"
error: directory: cannot create the file: something that is not a regular file stands there

"#]],
    );
    nothing_is_lost();
}

#[test]
fn wrong_and_missing_passphrases_are_refused() {
    refused(
        &["decrypt", "net.srr", "--passphrase-file", "wrong"],
        str![[r#"
error: [DIR]/home/vault/identity.age: wrong passphrase: try again, or restore the keys from a backup whose passphrase you know (nobody can recover a lost one)

"#]],
    );
    refused(
        &["decrypt", "net.srr", "--passphrase-file", "empty"],
        str![[r#"
error: empty: the passphrase is empty: choose one that is hard to guess

"#]],
    );
    refused(
        &["decrypt", "net.srr", "--passphrase-file", "missing"],
        str![[r#"
error: missing: cannot read the passphrase: No such file or directory (os error 2)

"#]],
    );
    refused(
        &["decrypt", "net.srr", "--passphrase-file", "noise"],
        str![[r#"
error: noise: it is too long: give the right file

"#]],
    );
    refused(
        &["keys", "restore", "noise"],
        str![[r#"
error: noise is not a complete Subrosa key backup (Header is invalid): use another copy of it

"#]],
    );
    refused(
        &["keys", "restore", "missing"],
        str![[r#"
error: cannot read missing: No such file or directory (os error 2)

"#]],
    );
    refused(
        &["decrypt", "net.srr", "--home", "nowhere"],
        str![[r#"
error: there is no home directory nowhere: 'subrosa protect' makes one, --home or SUBROSA_HOME names another

"#]],
    );
    let mut unasked = WORLD.owner.command(&["identity"]);
    let output = unasked.env_remove("SUBROSA_PASSPHRASE").stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("--passphrase-file FILE or set SUBROSA_PASSPHRASE"), "{stderr}");
    nothing_is_lost();
}
