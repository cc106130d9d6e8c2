//! What `bench cnn` prints: measured beside predicted.

use super::networks::SEED;
use super::{Answers, Setting};
use crate::arguments::InputMode;
use crate::bench::steps::{Run, number};
use crate::bench::{Conditions, ratio, runs};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use subrosa_terminal::{Failure, text};

#[derive(Serialize)]
pub(super) struct CnnReport {
    #[serde(flatten)]
    conditions: Conditions,
    seed: u64,
    rows: Vec<Row>,
}

/// The steps of a network in one setting.
pub(super) struct Network(Vec<Row>);

/// One step; sizes and errors are those of the setting.
#[derive(Serialize)]
struct Row {
    /// `protect`; `load`, `prepare` (encode or encrypt one sample) and `infer` (the blind evaluation of one sample) of the edge; `decrypt`
    /// (one answer).
    what: &'static str,
    setting: String,
    network: String,
    input: &'static str,
    /// Whether the weights are.
    weights_encrypted: bool,
    security_bits: u32,
    threads: usize,
    kernel: String,
    runs: usize,
    median_seconds: f64,
    /// What the plan predicts on one thread, with costs measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_seconds: Option<f64>,
    /// Largest resident memory of the process that did it.
    peak_rss_bytes: Option<u64>,
    /// What the bundle says that the edge needs for weights and keys.
    predicted_memory_bytes: u64,
    log_n: u64,
    log_qp: f64,
    /// Weights and biases, as numbers.
    weights: u64,
    model_bytes: u64,
    key_bytes: u64,
    bundle_bytes: u64,
    input_ciphertext_bytes: u64,
    result_bytes: u64,
    /// Largest difference of a decrypted output from the same network in f64.
    max_abs_error: f64,
    forecast_max_abs_error: f64,
    largest_output: f64,
    /// Share of samples whose decrypted top class is that of the same network in f64.
    agreement: f64,
}

impl CnnReport {
    pub fn new(conditions: Conditions, networks: Vec<Network>) -> Self {
        Self { conditions, seed: SEED, rows: networks.into_iter().flat_map(|n| n.0).collect() }
    }
}

impl Network {
    pub fn new(setting: &Setting, run: &Run, expected: &[Vec<f64>], conditions: &Conditions) -> Result<Self, Failure> {
        let Run { protected, deployed, asked, inferred, decrypted } = run;
        let Answers { max_abs_error, largest_output, agreement } = Answers::new(run, expected)?;
        let whole = |report: &Value, key: &str| number(report, key).map(|v| v as u64);
        let forecast = |key: &str| number(&protected["forecast"], key);
        let count = number(inferred, "count")? as usize;
        let row = |what, (report, runs, seconds): (&Value, usize, f64), predicted_seconds| -> Result<Row, Failure> {
            Ok(Row {
                what,
                setting: setting.name(),
                network: setting.subject.name.clone(),
                input: setting.input.name(),
                weights_encrypted: setting.weights != InputMode::Plain,
                security_bits: setting.security.bits(),
                threads: conditions.threads,
                kernel: conditions.kernel.clone(),
                runs,
                median_seconds: seconds,
                predicted_seconds,
                peak_rss_bytes: report.get("peak_rss_bytes").and_then(Value::as_u64),
                predicted_memory_bytes: whole(asked, "memory_bytes")?,
                log_n: whole(protected, "log_n")?,
                log_qp: number(protected, "log_qp")?,
                weights: whole(protected, "weights")?,
                model_bytes: whole(protected, "model_bytes")?,
                key_bytes: whole(protected, "key_bytes")?,
                bundle_bytes: whole(deployed, "bundle_bytes")?,
                input_ciphertext_bytes: whole(inferred, "input_ciphertext_bytes")?,
                result_bytes: whole(inferred, "result_bytes")?,
                max_abs_error,
                forecast_max_abs_error: forecast("max_abs_error")?,
                largest_output,
                agreement,
            })
        };
        let edge = |key: &str, runs| Ok::<_, Failure>((inferred, runs, number(inferred, key)?));
        let each = number(decrypted, "seconds")? / count.max(1) as f64;
        Ok(Self(vec![
            row("protect", (protected, 1, number(protected, "protect_seconds")?), None)?,
            row("load", edge("load_seconds", 1)?, None)?,
            row("prepare", edge("encrypt_seconds", count)?, Some(forecast("prepare_seconds")?))?,
            row("infer", edge("infer_seconds", count)?, Some(forecast("infer_seconds")?))?,
            // One results file, its time shared out.
            row("decrypt", (decrypted, 1, each), None)?,
        ]))
    }
}

impl fmt::Display for CnnReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.conditions)?;
        for rows in self.rows.chunk_by(|a, b| a.setting == b.setting && a.security_bits == b.security_bits) {
            let Some(first) = rows.first() else { continue };
            writeln!(
                f,
                "\n{}, {} bits of security, ring degree 2^{}, {} weights and biases",
                first.setting, first.security_bits, first.log_n, first.weights
            )?;
            let lines = rows.iter().map(|r| {
                let predicted = r.predicted_seconds.map_or_else(String::new, |p| {
                    format!("{} of the predicted {}", ratio(r.median_seconds / p), text::seconds(p))
                });
                let memory = r.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), text::bytes);
                let memory = format!("process's peak {memory}");
                [format!("  {}", r.what), text::seconds(r.median_seconds), runs(r.runs), memory, predicted]
            });
            f.write_str(&text::table(&lines.collect::<Vec<_>>()))?;
            writeln!(
                f,
                "  model {}, keys {}, bundle {}, encrypted input {}, result {}; weights and keys need {} in memory",
                text::bytes(first.model_bytes),
                text::bytes(first.key_bytes),
                text::bytes(first.bundle_bytes),
                text::bytes(first.input_ciphertext_bytes),
                text::bytes(first.result_bytes),
                text::bytes(first.predicted_memory_bytes)
            )?;
            writeln!(
                f,
                "  {} of answers as in plaintext; largest error {:.2e} on outputs up to {:.1}, forecast at most {:.2e}",
                text::percent(first.agreement),
                first.max_abs_error,
                first.largest_output,
                first.forecast_max_abs_error
            )?;
        }
        Ok(())
    }
}
