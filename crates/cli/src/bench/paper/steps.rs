//! The steps of the experiment, each by the command that a user would give, in a process of its own: its memory is its alone.

use super::Experiment;
use crate::arguments::PaperSetting;
use crate::failure::{failure, io};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use subrosa_registry::{Passphrase, Vault};
use subrosa_terminal::Failure;

const PASSPHRASE: &str = "bench";
const NAME: &str = "net";

/// The directory of one network: its file, samples for its ranges, samples to classify.
pub(super) struct Place {
    pub directory: PathBuf,
    pub threads: usize,
}

/// The JSON reports of one run.
pub(super) struct Run {
    pub protected: Value,
    pub deployed: Value,
    pub inferred: Value,
    pub decrypted: Value,
}

impl Place {
    pub fn network(&self) -> PathBuf {
        self.directory.join("network.onnx")
    }

    pub fn calibration(&self) -> PathBuf {
        self.directory.join("calibration.npy")
    }

    pub fn samples(&self) -> PathBuf {
        self.directory.join("samples.npy")
    }

    /// Plain inference of the samples.
    pub fn plain(&self) -> Result<Value, Failure> {
        let (network, samples) = (text(&self.network()), text(&self.samples()));
        self.child(&["bench", "plain", &network, "--input", &samples])
    }

    /// From protection to decryption, in a home of its own.
    pub fn run(&self, experiment: &Experiment) -> Result<Run, Failure> {
        let home = tempfile::tempdir_in(&self.directory).map_err(io("create a directory in", &self.directory))?;
        let path = |name: &str| text(&home.path().join(name));
        let passphrase = Passphrase::new(PASSPHRASE.to_owned()).map_err(failure)?;
        // The paper had no passphrase: stretching one would be most of the memory of protection and decryption.
        Vault::create_or_open_for_tests(home.path(), &passphrase).map_err(failure)?;
        let place = text(home.path());
        let owner = |arguments: &[&str]| self.child(&[arguments, &["--home", &place]].concat());

        let (network, calibration, samples) = (text(&self.network()), text(&self.calibration()), text(&self.samples()));
        let security = experiment.security.bits().to_string();
        let input = if experiment.encrypted_input { "encrypted" } else { "plain" };
        let mut protect = vec!["protect", &network, "--name", NAME, "--calibrate", &calibration];
        protect.extend(["--security", &security, "--input", input]);
        protect.extend(flags(experiment.setting));
        let protected = owner(&protect)?;
        let (bundle, results, signer) = (path("net.srb"), path("net.srr"), path("owner.pub"));
        let deployed = owner(&["deploy", NAME, "--out", &bundle])?;
        owner(&["identity", "--out", &signer])?;
        let inferred = self
            .child(&["bench", "edge", "infer", &bundle, "--trust", &signer, "--input", &samples, "--out", &results])?;
        let decrypted = owner(&["decrypt", &results, "--reveal", "scores"])?;
        Ok(Run { protected, deployed, inferred, decrypted })
    }

    /// Runs this program with these arguments and gives its report.
    fn child(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let step = arguments.iter().take(3).copied().collect::<Vec<_>>().join(" ");
        let broken = |what: String| Failure::failed(format!("the step '{step}' {what}"));
        let program = std::env::current_exe().map_err(|e| broken(format!("cannot be started: {e}")))?;
        let threads = self.threads.to_string();
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
            return Err(broken(format!("ended with {}: {reason}", output.status)));
        }
        serde_json::from_slice(&output.stdout).map_err(|e| broken(format!("gave no report: {e}")))
    }
}

/// What `protect` has to be told for a setting. A last layer has no activation to replace.
fn flags(setting: PaperSetting) -> &'static [&'static str] {
    match setting {
        PaperSetting::Square => &["--scope", "classifier", "--activation", "relu=x2+2x"],
        PaperSetting::None => &["--scope", "classifier", "--activation", "relu=none", "--unfolded"],
        PaperSetting::NoneFolded => &["--scope", "classifier", "--activation", "relu=none"],
        PaperSetting::Last => &["--scope", "last"],
    }
}

/// Writes samples as a float32 `.npy` file.
pub(super) fn write_npy(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), Failure> {
    // The header is padded so that the data begin at a multiple of 64 bytes (NumPy Enhancement Proposal 1).
    const PREFIX: usize = 10;
    let count = values.len() / shape.iter().product::<usize>().max(1);
    let shape = shape.iter().map(|len| format!(", {len}")).collect::<String>();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}{shape}), }}");
    let padding = (PREFIX + header.len() + 1).next_multiple_of(64) - (PREFIX + header.len() + 1);
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).map_err(Failure::failed)?.to_le_bytes());
    file.extend(header.bytes());
    file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    File::create(path).and_then(|mut f| f.write_all(&file)).map_err(io("write", path))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
