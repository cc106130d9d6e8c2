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
/// The peer's figure that our layer is held against, in milliseconds.
const LAYER: &str = "layer_512_10_encrypted_weights_plain_input";

/// The peer's own report, and the same layer by both.
#[derive(Serialize)]
pub(super) struct Comparison {
    peer: Value,
    layer: &'static str,
    our_seconds: f64,
    peer_seconds: f64,
    /// The peer's time over ours.
    ratio: f64,
}

/// Runs `models/peer_tenseal.py` beside our time for its layer (encoding of the input included, as in the peer's).
pub(super) fn tenseal(our_seconds: f64) -> Result<Comparison, Failure> {
    let python = std::env::var_os(VARIABLE).unwrap_or_else(|| OsString::from("python3"));
    let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
    let script = directory.path().join("peer_tenseal.py");
    std::fs::write(&script, SCRIPT).map_err(io("write", &script))?;
    let output = Command::new(&python).arg(&script).output();
    let output = output.map_err(io("start", Path::new(&python)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let cure = format!("{VARIABLE} names a Python that has tenseal");
    let peer: Value = serde_json::from_str(text.trim()).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default().to_owned();
        Failure::usage(format!("the peer's script printed no JSON ({last}): {cure}"))
    })?;
    if let Some(error) = peer.get("error").and_then(Value::as_str) {
        return Err(Failure::usage(format!("the peer cannot be timed: {error}; {cure}")));
    }
    let milliseconds = peer.get("median_ms").and_then(|m| m.get(LAYER)).and_then(Value::as_f64);
    let milliseconds = milliseconds.ok_or_else(|| Failure::failed(format!("the peer's report has no {LAYER}")))?;
    let peer_seconds = milliseconds / 1e3;
    Ok(Comparison { peer, layer: LAYER, our_seconds, peer_seconds, ratio: peer_seconds / our_seconds })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.peer.get("version").and_then(Value::as_str).unwrap_or("of unknown version");
        writeln!(f, "peer: TenSEAL {version}, one layer 512-10, encrypted weights, plain input, one thread")?;
        let (ours, theirs) = (text::seconds(self.our_seconds), text::seconds(self.peer_seconds));
        writeln!(f, "  TenSEAL {theirs}, Subrosa {ours} (prepare and infer): {:.1} times", self.ratio)?;
        let all = self.peer.get("median_ms").and_then(Value::as_object).into_iter().flatten();
        all.filter_map(|(name, ms)| ms.as_f64().map(|ms| (name, ms)))
            .try_for_each(|(name, ms)| writeln!(f, "  TenSEAL {name}: {}", text::seconds(ms / 1e3)))
    }
}
