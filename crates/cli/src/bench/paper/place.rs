//! The directory of one of the paper's networks, and its experiments there.

use super::Experiment;
use crate::arguments::PaperSetting;
use crate::bench::steps::{Run, Steps, child, text};
use crate::failure::io;
use serde_json::Value;
use std::path::PathBuf;
use subrosa_terminal::Failure;

/// A network's file, samples for its ranges, samples to classify.
pub(super) struct Place {
    pub directory: PathBuf,
    pub threads: usize,
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
        child(&["bench", "plain", &network, "--input", &samples], self.threads)
    }

    /// From protection to decryption, in a home of its own.
    pub fn run(&self, experiment: &Experiment) -> Result<Run, Failure> {
        let home = tempfile::tempdir_in(&self.directory).map_err(io("create a directory in", &self.directory))?;
        let (network, calibration) = (text(&self.network()), text(&self.calibration()));
        let security = experiment.security.bits().to_string();
        let input = if experiment.encrypted_input { "encrypted" } else { "plain" };
        let mut protect = vec![network.as_str(), "--calibrate", &calibration];
        let scheme = experiment.scheme.to_string();
        protect.extend(["--security", &security, "--input", input, "--scheme", &scheme]);
        protect.extend(flags(experiment.setting));
        Steps { home: home.path(), threads: self.threads }.run(&protect, &self.samples())
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
