//! NDJSON on standard input: a sample a line, either an array or `{"id": "...", "data": [...]}`.

use super::Intake;
use crate::config::Stdin;
use crate::metrics::Part;
use crate::sample::{About, Fate};
use futures_util::stream::{FuturesOrdered, StreamExt};
use std::io::Write as _;
use std::sync::Arc;
use subrosa_input::Dataset;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

/// Bytes of one line at most.
const MAX_LINE: u64 = 64 << 20;
/// Lines in work at a time.
const LINES: usize = 64;

/// Standard input.
pub(crate) struct StdinSource {
    intake: Intake,
    settings: Stdin,
    source: Arc<str>,
}

/// A sample as brokers and pipes carry it in JSON.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Line {
    Named { id: String, data: serde_json::Value },
    Bare(serde_json::Value),
}

/// A sample in JSON: its id, if it has one, and its values.
pub(super) fn parse(line: &[u8]) -> Result<(Option<String>, Dataset), String> {
    let line = serde_json::from_slice(line).map_err(|e| format!("it is no JSON: {e}"))?;
    let (id, data) = match line {
        Line::Named { id, data } => (Some(id), data),
        Line::Bare(data) => (None, data),
    };
    let data = subrosa_input::read_bytes("sample.ndjson", data.to_string().as_bytes(), Some(1));
    Ok((id, data.map_err(|e| e.to_string())?))
}

impl StdinSource {
    pub fn new(intake: Intake, settings: Stdin) -> Self {
        Self { intake, settings, source: "stdin".into() }
    }

    /// Reads to the end of input, or until the agent ends. Whether the agent is to end with the input.
    pub async fn run(self) -> bool {
        let mut reader = BufReader::new(tokio::io::stdin());
        let (mut number, mut line) = (0u64, Vec::new());
        let mut work = FuturesOrdered::new();
        loop {
            // A line that was read in part before something else happened is read on.
            let mut bounded = (&mut reader).take(MAX_LINE);
            let read = tokio::select! {
                () = self.intake.stop.cancelled() => return false,
                Some((number, fate)) = work.next(), if !work.is_empty() => {
                    if self.acknowledge(number, fate).is_none() { return false }
                    continue;
                }
                read = bounded.read_until(b'\n', &mut line), if work.len() < LINES => read,
            };
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.intake.metrics.trouble_of(
                        Part::Source,
                        "stdin",
                        format!("standard input cannot be read: {error}"),
                    );
                    break;
                }
            }
            number += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                line.clear();
                continue;
            }
            let label = format!("line {number}");
            let (line, intake, source) = (std::mem::take(&mut line), self.intake.clone(), Arc::clone(&self.source));
            work.push_back(async move {
                let fate = match parse(&line) {
                    Ok((id, data)) => {
                        let position = match &id {
                            Some(id) => format!("id {id}"),
                            None => format!("run {} line {number}", intake.store.run),
                        };
                        let about = About::new(&source, &position, id.as_deref().unwrap_or(&label));
                        intake.submit(about, data).await
                    }
                    Err(why) => {
                        intake.metrics.rejected.add(1);
                        tracing::warn!("standard input, {label}: {why}");
                        Some(Fate::Rejected(why))
                    }
                };
                (number, fate)
            });
        }
        while let Some((number, fate)) = work.next().await {
            if self.acknowledge(number, fate).is_none() {
                return false;
            }
        }
        tracing::info!("standard input has ended after {number} lines");
        self.settings.exit_at_end
    }

    /// A line on standard output for a line that is durable, if wanted.
    fn acknowledge(&self, line: u64, fate: Option<Fate>) -> Option<()> {
        let fate = fate?;
        if self.settings.acknowledge {
            let answer = match fate {
                Fate::Queued(result) => serde_json::json!({"line": line, "status": "queued", "result": result}),
                Fate::Repeated(result) => serde_json::json!({"line": line, "status": "repeated", "result": result}),
                Fate::Published => serde_json::json!({"line": line, "status": "published"}),
                Fate::Rejected(reason) => serde_json::json!({"line": line, "status": "rejected", "reason": reason}),
                Fate::Shed | Fate::Dropped => serde_json::json!({"line": line, "status": "shed"}),
            };
            // Who closed standard output does not want it.
            let _ = writeln!(std::io::stdout(), "{answer}");
        }
        Some(())
    }
}
