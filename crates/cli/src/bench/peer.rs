//! `--peer tenseal`: another library on the same machine, in the same run.

use crate::failure::io;
use serde::Serialize;
use serde_json::Value;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::Command;
use subrosa_terminal::{Failure, text};

const SCRIPT: &str = include_str!("../../../../models/peer_tenseal.py");
const VARIABLE: &str = "SUBROSA_PEER_PYTHON";
/// Ring degrees that the script knows, as log2 N.
pub(super) const DEGREES: [u32; 2] = [14, 15];
/// That of its layer.
const LAYER_LOG_N: u32 = 14;
/// The peer's figure that our layer is held against, in milliseconds.
const LAYER: &str = "layer_512_10_encrypted_weights_plain_input";

/// The peer's own report, and the same layer by both: each with the parameters it would use, so not with equal ones.
#[derive(Serialize)]
pub(super) struct Comparison {
    peer: Value,
    layer: &'static str,
    ours: Layer,
    theirs: Layer,
    /// The peer's time over ours.
    ratio: f64,
}

/// The layer by one of the two.
#[derive(Serialize)]
pub(super) struct Layer {
    /// Encoding of the input and the blind evaluation.
    pub seconds: f64,
    pub ring_degree: u64,
    pub max_abs_error: f64,
    pub threads: u64,
}

/// Runs `models/peer_tenseal.py`, for primitives at these ring degrees (log2 N), and gives its report.
pub(super) fn report(log_ns: &[u32]) -> Result<Value, Failure> {
    let python = std::env::var_os(VARIABLE).unwrap_or_else(|| OsString::from("python3"));
    let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
    let script = directory.path().join("peer_tenseal.py");
    std::fs::write(&script, SCRIPT).map_err(io("write", &script))?;
    let output =
        Command::new(&python).arg(&script).arg("--log-n").args(log_ns.iter().map(ToString::to_string)).output();
    let output = output.map_err(io("start", Path::new(&python)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let cure = format!("{VARIABLE} names a Python that has tenseal");
    let peer: Value = serde_json::from_str(text.trim()).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("no message").to_owned();
        Failure::usage(format!("the peer's script ended with {} and no JSON ({last}): {cure}", output.status))
    })?;
    if let Some(error) = peer.get("error").and_then(Value::as_str) {
        return Err(Failure::usage(format!("the peer cannot be timed: {error}; {cure}")));
    }
    Ok(peer)
}

/// The peer's version, for people.
pub(super) fn version(peer: &Value) -> &str {
    peer.get("version").and_then(Value::as_str).unwrap_or("of unknown version")
}

/// Runs the peer and holds its layer against ours.
pub(super) fn layer(ours: Layer) -> Result<Comparison, Failure> {
    let peer = report(&[LAYER_LOG_N])?;
    let at = |group: &str, name: &str| peer.get(group).and_then(|g| g.get(name)).and_then(Value::as_f64);
    let whole = |name: &str| peer.get(name).and_then(Value::as_u64);
    let missing = || Failure::failed(format!("the peer's report lacks figures of its {LAYER}"));
    let theirs = Layer {
        seconds: at("median_ms", LAYER).ok_or_else(missing)? / 1e3,
        ring_degree: whole("poly_modulus_degree").ok_or_else(missing)?,
        max_abs_error: at("largest_error", "layer_512_10").ok_or_else(missing)?,
        threads: whole("threads").ok_or_else(missing)?,
    };
    let ratio = theirs.seconds / ours.seconds;
    Ok(Comparison { layer: LAYER, ours, theirs, ratio, peer })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "peer: TenSEAL {}, one layer 512-10, encrypted weights, plain input, encoding included",
            version(&self.peer)
        )?;
        for (name, layer) in [("TenSEAL", &self.theirs), ("Subrosa", &self.ours)] {
            let (time, degree) = (text::seconds(layer.seconds), layer.ring_degree);
            let error = layer.max_abs_error;
            writeln!(
                f,
                "  {name}: {time}, ring degree {degree}, largest error {error:.1e}, {} threads",
                layer.threads
            )?;
        }
        writeln!(
            f,
            "  ratio {:.1}; the parameters differ: the peer's script fixes its own, ours come from the planner",
            self.ratio
        )?;
        let all = self.peer.get("median_ms").and_then(Value::as_object).into_iter().flatten();
        all.filter_map(|(name, ms)| ms.as_f64().map(|ms| (name, ms)))
            .try_for_each(|(name, ms)| writeln!(f, "  TenSEAL {name}: {}", text::seconds(ms / 1e3)))
    }
}
