//! The steps of an experiment, each by the command that a user would give, in a process of its own: its memory is its alone.

use crate::failure::failure;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use subrosa_registry::{Passphrase, Vault};
use subrosa_terminal::Failure;

/// Of the vaults of all experiments.
pub(super) const PASSPHRASE: &str = "bench";
const NAME: &str = "net";

/// The JSON reports of one run.
pub(super) struct Run {
    pub protected: Value,
    pub deployed: Value,
    /// What the bundle asks of the edge.
    pub asked: Value,
    pub inferred: Value,
    pub decrypted: Value,
}

/// An owner's home and its files, and how many threads the steps have.
pub(super) struct Steps<'a> {
    pub home: &'a Path,
    pub threads: usize,
}

impl Steps<'_> {
    /// From protection to decryption of the samples in a file; `protect` are the network's file and what it is protected with.
    pub fn run(&self, protect: &[&str], samples: &Path) -> Result<Run, Failure> {
        let path = |name: &str| text(&self.home.join(name));
        let passphrase = Passphrase::new(PASSPHRASE.to_owned()).map_err(failure)?;
        // The paper had no passphrase: stretching one would be most of the memory of protection and decryption.
        Vault::create_or_open_for_tests(self.home, &passphrase).map_err(failure)?;
        let place = text(self.home);
        let owner = |arguments: &[&str]| child(&[arguments, &["--home", &place]].concat(), self.threads);
        let edge = |arguments: &[&str]| child(&[&["bench", "edge"], arguments].concat(), self.threads);

        let protected = owner(&[&["protect"], protect, &["--name", NAME]].concat())?;
        let (bundle, results, signer) = (path("net.srb"), path("net.srr"), path("owner.pub"));
        let deployed = owner(&["deploy", NAME, "--out", &bundle])?;
        owner(&["identity", "--out", &signer])?;
        let asked = edge(&["info", &bundle, "--trust", &signer])?;
        let inferred = edge(&["infer", &bundle, "--trust", &signer, "--input", &text(samples), "--out", &results])?;
        let decrypted = owner(&["decrypt", &results, "--reveal", "scores"])?;
        Ok(Run { protected, deployed, asked, inferred, decrypted })
    }
}

/// Runs this program with these arguments and gives its report.
pub(super) fn child(arguments: &[&str], threads: usize) -> Result<Value, Failure> {
    let step = arguments.iter().take(3).copied().collect::<Vec<_>>().join(" ");
    let broken = |what: String| Failure::failed(format!("the step '{step}' {what}"));
    let program = std::env::current_exe().map_err(|e| broken(format!("cannot be started: {e}")))?;
    let threads = threads.to_string();
    let output = Command::new(program)
        .args(arguments)
        .args(["--json", "--threads", &threads])
        .env("SUBROSA_PASSPHRASE", PASSPHRASE)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| broken(format!("cannot be started: {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.lines().find(|line| line.starts_with("error:")).unwrap_or("no message").to_owned();
        return Err(match output.status.code() {
            // What was asked for is refused, not broken.
            Some(2) => Failure::usage(reason.trim_start_matches("error: ")),
            _ => broken(format!("ended with {}: {reason}", output.status)),
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|e| broken(format!("gave no report: {e}")))
}

/// A number in a step's report.
pub(super) fn number(report: &Value, key: &str) -> Result<f64, Failure> {
    let found = report.get(key).and_then(Value::as_f64);
    found.ok_or_else(|| Failure::failed(format!("a step's report has no number '{key}'")))
}

/// A path as an argument.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
