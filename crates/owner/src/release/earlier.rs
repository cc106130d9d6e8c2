//! The audit log that earlier versions of `subrosa decrypt` kept in a file of the home: what it says of used numbers, budgets and labels is
//! taken over into the registry, once, with every entry.

use super::{AuditEntry, ChainError, verify_chain};
use crate::Owner;
use crate::error::OwnerError;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use subrosa_registry::fleet::{Decision, Event, Examined, Fleet, NewResult};

/// Its file in the home.
const FILE: &str = "audit.log";
/// What it is called when it was taken over.
const DONE: &str = "audit.log.taken-over";

pub(super) fn take_over(owner: &Owner, fleet: &Fleet) -> Result<(), OwnerError> {
    let path = owner.home().join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(OwnerError::io("open", &path, e)),
    };
    // An earlier version may be writing to it.
    file.lock().map_err(|e| OwnerError::io("lock", &path, e))?;
    let entries = read(&file, &path)?;
    let changed = |source| OwnerError::Audit { place: path.display().to_string(), source };
    let head = verify_chain(entries.iter().cloned()).map_err(changed)?;
    let name = format!("{FILE} {}", hex::encode(head.hash));
    let events: Vec<Event> = entries.iter().map(|entry| Event::new("taken over", json!({ "entry": entry }))).collect();
    fleet.take_over(&name, &history(&entries), &events).map_err(|e| owner.database_failed(e))?;
    match std::fs::rename(&path, path.with_file_name(DONE)) {
        // Another process did.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        renamed => renamed.map_err(|e| OwnerError::io("rename", &path, e)),
    }
}

/// The whole lines: a last one without its end was never acknowledged.
fn read(mut file: &File, path: &Path) -> Result<Vec<AuditEntry>, OwnerError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| OwnerError::io("read", path, e))?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
    let lines = bytes.get(..whole).unwrap_or_default().split_inclusive(|&b| b == b'\n');
    let parsed = lines.enumerate().map(|(i, line)| {
        serde_json::from_slice(line).map_err(|_| OwnerError::Audit {
            place: path.display().to_string(),
            source: ChainError { sequence: i as u64 + 1, reason: "it is no entry" },
        })
    });
    parsed.collect()
}

/// The results that were examined.
fn history(entries: &[AuditEntry]) -> Vec<Examined> {
    let mut all = Vec::new();
    // Backwards: what a device did before it was let in again no longer counts as a violation.
    let mut forgiven = BTreeSet::new();
    for entry in entries.iter().rev() {
        let text = |key: &str| entry.event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| entry.event.get(key).and_then(Value::as_u64);
        let (model, device, code) = (text("model"), text("device"), text("code"));
        let time = i64::try_from(entry.time).unwrap_or(i64::MAX);
        let refuse = |violation| Decision::Refuse { code: code.clone(), reason: text("reason"), violation };
        match text("event").as_str() {
            "device let in" => {
                forgiven.insert(device);
            }
            "decrypt" => {
                let one = Examined { time, model, result: None, decision: refuse(false) };
                all.extend(std::iter::repeat_n(one, number("examined").unwrap_or(0) as usize));
            }
            kind @ ("release" | "refusal") => {
                // Refused before anything was decrypted.
                if matches!(code.as_str(), "unknown" | "signature" | "replay" | "budget" | "suspended" | "revoked") {
                    continue;
                }
                let decision = match number("label") {
                    Some(class) if kind == "release" => Decision::Release {
                        class,
                        prediction: json!({ "label": class }),
                        near: entry.event.get("near").and_then(Value::as_bool).unwrap_or(false),
                    },
                    _ => refuse(matches!(code.as_str(), "form" | "slots" | "integers") && !forgiven.contains(&device)),
                };
                let result = NewResult {
                    id: text("result"),
                    model: model.clone(),
                    version: number("version").and_then(|v| v.try_into().ok()).unwrap_or(0),
                    origin: device.clone(),
                    device,
                    sequence: number("sequence").unwrap_or(0),
                    sample: String::new(),
                    label: String::new(),
                    taken: time,
                    digest: text("digest"),
                    place: None,
                };
                all.push(Examined { time, model, result: Some(result), decision });
            }
            _ => {}
        }
    }
    all.reverse();
    all
}
