//! What the home's audit log says about devices and networks: used numbers, budgets, labels.

use super::{Alarm, AuditEntry, LabelCounts, Refusal, ReleaseAgent, Released, Usage};
use serde_json::Value;
use std::collections::BTreeMap;

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// The history of a home, from its audit log.
#[derive(Default)]
pub(super) struct Ledger {
    /// Digest of the record that used a number of a device.
    used: BTreeMap<(String, u64), String>,
    /// Results examined of each network.
    models: BTreeMap<String, OfModel>,
    devices: BTreeMap<String, OfDevice>,
}

#[derive(Default)]
struct OfModel {
    today: u64,
    total: u64,
}

#[derive(Default)]
struct OfDevice {
    today: u64,
    total: u64,
    violations: u64,
    /// Labels of today, of each network.
    labels: BTreeMap<String, LabelCounts>,
}

impl Ledger {
    /// Reads the entries; `now` says which day is today.
    pub fn of(entries: &[AuditEntry], now: u64) -> Self {
        let mut ledger = Self::default();
        for entry in entries {
            ledger.entry(entry, entry.time / DAY == now / DAY);
        }
        ledger
    }

    fn entry(&mut self, entry: &AuditEntry, today: bool) {
        let event = &entry.event;
        let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| event.get(key).and_then(Value::as_u64);
        let (model, device, code) = (text("model"), text("device"), text("code"));
        match text("event") {
            "decrypt" => self.of_model(model, number("examined").unwrap_or(0), today),
            kind @ ("release" | "refusal") => {
                // Refused before anything was decrypted.
                if matches!(code, "unknown" | "signature" | "replay" | "budget" | "suspended" | "revoked") {
                    return;
                }
                let sequence = number("sequence").unwrap_or(0);
                self.used.insert((device.into(), sequence), text("digest").into());
                let of_device = self.devices.entry(device.into()).or_default();
                of_device.total += 1;
                of_device.violations += u64::from(matches!(code, "form" | "slots"));
                if today {
                    of_device.today += 1;
                    if let ("release", Some(label)) = (kind, number("label")) {
                        let near = event.get("near").and_then(Value::as_bool).unwrap_or(false);
                        of_device.labels.entry(model.into()).or_default().count(label as usize, near);
                    }
                }
                self.of_model(model, 1, today);
            }
            "device let in" => self.devices.entry(device.into()).or_default().violations = 0,
            _ => {}
        }
    }

    /// The digest of the record that used this number, if one did.
    pub fn seen(&self, device: &str, sequence: u64) -> Option<&str> {
        self.used.get(&(device.to_owned(), sequence)).map(String::as_str)
    }

    /// What was examined of a network and, if there is one, a device.
    pub fn usage(&self, model: &str, device: Option<&str>) -> Usage {
        let of_device = device.and_then(|d| self.devices.get(d));
        Usage {
            device_today: of_device.map_or(0, |d| d.today),
            device_total: of_device.map_or(0, |d| d.total),
            model_today: self.model_today(model),
            model_total: self.models.get(model).map_or(0, |m| m.total),
            device_violations: of_device.map_or(0, |d| d.violations),
        }
    }

    /// Results of a network examined today.
    pub fn model_today(&self, model: &str) -> u64 {
        self.models.get(model).map_or(0, |m| m.today)
    }

    fn of_model(&mut self, model: &str, count: u64, today: bool) {
        let of_model = self.models.entry(model.into()).or_default();
        of_model.total += count;
        of_model.today += if today { count } else { 0 };
    }

    /// One more is examined.
    pub fn examined(&mut self, model: &str, device: Option<&str>) {
        self.of_model(model, 1, true);
        if let Some(device) = device {
            let of_device = self.devices.entry(device.into()).or_default();
            of_device.today += 1;
            of_device.total += 1;
        }
    }

    /// What became of it.
    pub fn decided(&mut self, model: &str, device: &str, outcome: &Result<Released, Refusal>) {
        match outcome {
            Ok(released) => {
                let of_device = self.devices.entry(device.into()).or_default();
                of_device.labels.entry(model.into()).or_default().add(released);
            }
            Err(refusal) if refusal.is_violation() => {
                self.devices.entry(device.into()).or_default().violations += 1;
            }
            Err(_) => {}
        }
    }

    /// Devices whose labels of today do not look like those of the network's calibration.
    pub fn alarms(&self, agent: &ReleaseAgent) -> Vec<(String, Alarm)> {
        let Some(reference) = agent.reference() else { return Vec::new() };
        let of_device =
            |(device, d): (&String, &OfDevice)| Some((device.clone(), d.labels.get(agent.model())?.alarm(reference)?));
        self.devices.iter().filter_map(of_device).collect()
    }
}
