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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::AuditLog;
    use subrosa_registry::fleet::{Arrival, Usage};

    /// What earlier versions wrote.
    fn log(events: &[Value]) -> (Vec<AuditEntry>, String) {
        let mut entries: Vec<AuditEntry> = Vec::new();
        for (i, event) in events.iter().enumerate() {
            let entry = AuditEntry::next(entries.last(), 86_400_000 * 20_000 + i as u64, event.clone());
            entries.push(entry);
        }
        let text = entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect();
        (entries, text)
    }

    #[test]
    fn an_earlier_log_counts_on_and_is_taken_over_once() {
        let home = tempfile::tempdir().unwrap();
        let signed = |kind: &str, sequence: u64, digest: &str| {
            json!({ "event": kind, "model": "m", "version": 1, "device": "gate", "sequence": sequence, "result": format!("r{sequence}"),
                    "digest": digest })
        };
        let with = |mut event: Value, key: &str, value: Value| {
            event[key] = value;
            event
        };
        let events = [
            json!({ "event": "decrypt", "model": "m", "version": 1, "examined": 3, "labels": [1, 2], "refused": [[2, "slots"]] }),
            with(signed("refusal", 1, "a"), "code", "form".into()),
            json!({ "event": "device let in", "device": "gate" }),
            with(with(signed("release", 2, "b"), "label", 7.into()), "near", true.into()),
            with(signed("refusal", 3, "c"), "code", "slots".into()),
            with(signed("refusal", 4, "d"), "code", "budget".into()),
        ];
        let (entries, text) = log(&events);
        let path = home.path().join(FILE);
        // A line that a crash cut short never counted.
        std::fs::write(&path, format!("{text}{{\"sequence\":7,")).unwrap();
        let owner = Owner::open(home.path()).unwrap();
        let fleet = owner.fleet().unwrap();
        assert!(!path.exists() && home.path().join(DONE).exists());
        let asked = |sequence: u64, digest: &str| ("x".to_owned(), "gate".to_owned(), sequence, digest.to_owned());
        let known = fleet.known(&[asked(1, "a"), asked(2, "x"), asked(3, "c"), asked(4, "d")]).unwrap();
        assert_eq!(known, [Some(Arrival::Again), Some(Arrival::Replay), Some(Arrival::Again), None]);
        assert_eq!(fleet.model_examined("m", 20_000).unwrap(), 6);
        let one = Examined {
            time: 86_400_000 * 20_000,
            model: "m".into(),
            result: Some(NewResult {
                id: "r9".into(),
                device: "gate".into(),
                sequence: 9,
                ..history(&entries)[3].result.clone().unwrap()
            }),
            decision: Decision::Later,
        };
        let permit = |_: &str, usage: &Usage| {
            let expected =
                Usage { device_today: 3, device_total: 3, model_today: 6, model_total: 6, device_violations: 1 };
            assert_eq!(*usage, expected);
            Err((String::new(), String::new()))
        };
        fleet.settle(&[one], false, &permit, &|_| Vec::new()).unwrap();
        assert_eq!(fleet.label_counts("m", 20_000).unwrap()["gate"].near, 1);
        // Every entry of it is in the chain, its hash too if somebody noted it.
        let log = AuditLog::of(&owner).unwrap();
        assert_eq!(log.verify().unwrap().count, 6);
        assert!(log.holds(&hex::encode(entries[2].hash)).unwrap() && !log.holds(&"0".repeat(64)).unwrap());
        // Put back, it counts no second time.
        std::fs::write(&path, text).unwrap();
        owner.fleet().unwrap();
        assert_eq!((log.verify().unwrap().count, fleet.model_examined("m", 20_000).unwrap()), (6, 6));
    }

    #[test]
    fn an_earlier_log_that_was_changed_is_not_taken_over() {
        let home = tempfile::tempdir().unwrap();
        let (_, text) =
            log(&[json!({ "event": "decrypt", "examined": 1 }), json!({ "event": "decrypt", "examined": 2 })]);
        let owner = Owner::open(home.path()).unwrap();
        for broken in [text.replace("\"examined\":2", "\"examined\":0"), "what\n".to_owned()] {
            std::fs::write(home.path().join(FILE), &broken).unwrap();
            let error = owner.fleet().err().unwrap().to_string();
            assert!(error.contains("audit log was changed at entry"), "{error}");
            assert_eq!(std::fs::read_to_string(home.path().join(FILE)).unwrap(), broken);
        }
    }
}
