//! The audit log's hash chain: pure, whoever keeps the rows.
//!
//! ```text
//! hash = SHA-256( "subrosa-audit-v1\0" || sequence u64 LE || time u64 LE || previous hash || event )
//! ```
//! The event is JSON without spaces, keys of objects in the order of their bytes. The first entry has sequence 1 and a previous hash of
//! zeros. Whoever changes, removes, adds or exchanges entries changes the hash of the last one: note that one elsewhere now and then.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

const DOMAIN: &[u8] = b"subrosa-audit-v1\0";

/// One event of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// 1 for the first, then one more each.
    pub sequence: u64,
    /// Milliseconds since 1970, never before the entry before.
    pub time: u64,
    /// What happened. Never holds a secret.
    pub event: Value,
    /// Hash of the entry before; zeros before the first.
    #[serde(with = "hex32")]
    pub previous: [u8; 32],
    /// Hash of this entry.
    #[serde(with = "hex32")]
    pub hash: [u8; 32],
}

/// The end of a chain that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Head {
    /// Entries.
    pub count: u64,
    /// Hash of the last one; zeros of none.
    #[serde(with = "hex32")]
    pub hash: [u8; 32],
}

/// Where a chain breaks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the audit log was changed at entry {sequence}: {reason}")]
pub struct ChainError {
    /// The entry's place, from 1.
    pub sequence: u64,
    /// What does not fit.
    pub reason: &'static str,
}

impl AuditEntry {
    /// The entry that follows `previous`. A clock that went back does not go back in the log.
    pub fn next(previous: Option<&Self>, time: u64, event: Value) -> Self {
        let (sequence, last, time) = match previous {
            Some(p) => (p.sequence + 1, p.hash, time.max(p.time)),
            None => (1, [0; 32], time),
        };
        let hash = hash(sequence, time, &last, &event);
        Self { sequence, time, event, previous: last, hash }
    }
}

/// Checks a whole chain from its first entry on.
///
/// # Errors
/// The first entry that does not follow from the one before.
pub fn verify_chain(entries: impl IntoIterator<Item = AuditEntry>) -> Result<Head, ChainError> {
    let mut head = Head::default();
    let mut time = 0;
    for entry in entries {
        let sequence = head.count + 1;
        let broken = |reason| Err(ChainError { sequence, reason });
        if entry.sequence != sequence {
            return broken("entries are missing, or stand in another order");
        }
        if entry.previous != head.hash {
            return broken("it does not follow from the entry before");
        }
        if entry.time < time {
            return broken("its time is before that of the entry before");
        }
        if entry.hash != hash(entry.sequence, entry.time, &entry.previous, &entry.event) {
            return broken("its content is not what was hashed");
        }
        time = entry.time;
        head = Head { count: sequence, hash: entry.hash };
    }
    Ok(head)
}

fn hash(sequence: u64, time: u64, previous: &[u8; 32], event: &Value) -> [u8; 32] {
    let mut text = String::new();
    canonical(event, &mut text);
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(sequence.to_le_bytes());
    hash.update(time.to_le_bytes());
    hash.update(previous);
    hash.update(text.as_bytes());
    hash.finalize().into()
}

/// JSON whose bytes depend on the value only, whatever order a map keeps.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(map.get(key).unwrap_or(&Value::Null), out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// 32 bytes as 64 lower-case hex digits.
mod hex32 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        let bytes = hex::decode(&text).ok().and_then(|b| b.try_into().ok());
        bytes.ok_or_else(|| D::Error::custom("not the 64 hex digits of a hash"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chain() -> Vec<AuditEntry> {
        let mut entries: Vec<AuditEntry> = Vec::new();
        for i in 0..5u64 {
            let event = json!({"what": "release", "label": i, "share": 0.1 * i as f64, "at": {"z": [1, 2], "a": null}});
            let next = AuditEntry::next(entries.last(), 1000 - i, event);
            entries.push(next);
        }
        entries
    }

    #[test]
    fn a_chain_survives_its_text_and_any_order_of_keys() {
        let entries = chain();
        let head = verify_chain(entries.clone()).unwrap();
        assert_eq!((head.count, head.hash), (5, entries[4].hash));
        assert!(entries.iter().all(|e| e.time == 1000), "a clock that goes back");
        let text: Vec<String> = entries.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
        let back = text.iter().map(|t| serde_json::from_str(t).unwrap());
        assert_eq!(verify_chain(back), Ok(head));
        let shuffled =
            serde_json::from_str(&text[0].replace(r#""label":0,"#, "").replace("{\"at\"", "{\"label\":0,\"at\""))
                .unwrap();
        assert_eq!(verify_chain([shuffled]).unwrap().count, 1);
    }

    #[test]
    fn every_change_to_an_entry_is_found_where_it_was_made() {
        let entries = chain();
        let head = verify_chain(entries.clone()).unwrap();
        let broken = |change: &dyn Fn(&mut Vec<AuditEntry>), at| {
            let mut changed = entries.clone();
            change(&mut changed);
            assert_eq!(verify_chain(changed).unwrap_err().sequence, at);
        };
        broken(&|e| e[2].event["label"] = json!(7), 3);
        broken(&|e| e[2].time += 1, 3);
        broken(&|e| e[2].sequence = 7, 3);
        broken(&|e| e[0].previous[0] ^= 1, 1);
        broken(&|e| drop(e.remove(1)), 2);
        broken(&|e| e.swap(1, 2), 2);
        broken(&|e| e.insert(3, AuditEntry::next(Some(&chain()[1]), 5, json!({}))), 4);
        // An entry made anew fits; the ones behind it do not.
        broken(&|e| e[1] = AuditEntry::next(Some(&chain()[0]), 1000, json!({"what": "nothing"})), 3);
        // A cut end is another head: that is what to note elsewhere.
        assert_ne!(verify_chain(entries[..4].to_vec()).unwrap(), head);
        assert_eq!(verify_chain([]).unwrap(), Head::default());
    }
}
