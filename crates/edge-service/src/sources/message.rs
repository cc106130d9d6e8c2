//! Samples as messages of a broker: JSON as on standard input, or the bytes of a file.

use super::{Intake, stdin};
use crate::sample::Fate;
use std::sync::Arc;
use subrosa_fleet::SampleId;
use subrosa_input::Dataset;

/// Samples of one message at most.
const MAX_SAMPLES: usize = 256;

/// Hands in a message's samples and waits until what became of them is durable; `None` while the agent ends. A message that cannot be
/// read is counted and logged.
pub(super) async fn submit(
    intake: &Intake,
    source: &Arc<str>,
    position: &str,
    label: &str,
    payload: &[u8],
) -> Option<Vec<(SampleId, Fate)>> {
    match read(payload) {
        Ok((Some(id), data)) => intake.submit_all(source, &format!("id {id}"), &id, &data).await,
        Ok((None, data)) => intake.submit_all(source, position, label, &data).await,
        Err(why) => {
            tracing::warn!(source = &**source, label, "message refused: {why}");
            intake.metrics.rejected.add(1);
            Some(Vec::new())
        }
    }
}

fn read(payload: &[u8]) -> Result<(Option<String>, Dataset), String> {
    match payload.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[' | b'{') => stdin::parse(payload),
        _ => match subrosa_input::read_bytes("message", payload, Some(MAX_SAMPLES + 1)) {
            Ok(data) if data.count > MAX_SAMPLES => Err(format!("more than {MAX_SAMPLES} samples in one message")),
            Ok(data) => Ok((None, data)),
            Err(error) => Err(error.to_string()),
        },
    }
}
