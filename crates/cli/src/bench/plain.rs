//! `bench plain`: the plaintext reference of `bench paper`, which runs it as a process of its own.

use crate::failure::{failure, io};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::time::Instant;
use subrosa_input::Samples;
use subrosa_plain::PlainNetwork;
use subrosa_terminal::machine::median;
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct PlainReport {
    count: usize,
    load_seconds: f64,
    /// One sample, the median.
    infer_seconds: f64,
    model_bytes: u64,
}

pub(super) fn plain(terminal: &mut Terminal, model: &Path, input: &str) -> Result<(), Failure> {
    let onnx = std::fs::read(model).map_err(io("read", model))?;
    let start = Instant::now();
    let network = PlainNetwork::load(&onnx, terminal.flags().threads()).map_err(failure)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let dataset = subrosa_input::read(input, None).map_err(failure)?;
    let Samples::Raw { data, .. } = &dataset.samples else {
        return Err(Failure::usage(format!("{input}: float32 arrays are needed here, not images")));
    };
    let mut times = Vec::with_capacity(dataset.count);
    for sample in data.chunks(data.len() / dataset.count.max(1)) {
        let start = Instant::now();
        network.run(1, sample).map_err(failure)?;
        times.push(start.elapsed().as_secs_f64());
    }
    let infer_seconds = median(&mut times);
    terminal.report(&PlainReport { count: dataset.count, load_seconds, infer_seconds, model_bytes: onnx.len() as u64 })
}

impl fmt::Display for PlainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, load_seconds, infer_seconds, model_bytes } = self;
        let (size, load, each) =
            (text::bytes(*model_bytes), text::seconds(*load_seconds), text::seconds(*infer_seconds));
        writeln!(f, "{count} samples in plaintext: {each} each (median), load {load}, model {size}")
    }
}
