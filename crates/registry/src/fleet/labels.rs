//! The watch over labels in the registry: how each device was answered on a day, and the alarms that were raised about it. What is an
//! alarm is the owner's affair.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::{Event, Fleet, random_id};
use crate::sql::{Row, SqlError, Transaction};
use crate::time::now;
use crate::values;

/// The class under which near answers are counted.
const NEAR: i64 = -1;

/// How a device was answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Released results of each class.
    pub classes: Vec<u64>,
    /// Those of all classes that were near another one.
    pub near: u64,
}

/// An alarm about the labels of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAlarm {
    /// The network.
    pub model: String,
    /// The day since 1970 whose labels are meant.
    pub day: i64,
    /// The device.
    pub device: String,
    /// What it was compared with: `calibration` or `fleet`.
    pub reference: &'static str,
    /// What stands out, for people.
    pub text: String,
    /// -log2 of the probability that chance does this.
    pub bits: f64,
}

/// An alarm that was raised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AlarmRow {
    /// Its id.
    pub id: String,
    /// The network.
    pub model: String,
    /// The day since 1970 whose labels are meant.
    pub day: i64,
    /// The device.
    pub device: String,
    /// What it was compared with: `calibration` or `fleet`.
    pub reference: String,
    /// What stands out, for people: as it was when it was looked at last.
    pub text: String,
    /// -log2 of the probability that chance does this.
    pub bits: f64,
    /// When it was raised, milliseconds since 1970.
    pub raised: i64,
    /// When somebody said that it was looked into.
    pub acknowledged: Option<i64>,
}

const COLUMNS: &str = "id, model, day, device, reference, text, bits, raised, acknowledged";

fn read(row: &Row) -> Result<AlarmRow, SqlError> {
    Ok(AlarmRow {
        id: row.get(0)?,
        model: row.get(1)?,
        day: row.get(2)?,
        device: row.get(3)?,
        reference: row.get(4)?,
        text: row.get(5)?,
        bits: row.get(6)?,
        raised: row.get(7)?,
        acknowledged: row.get(8)?,
    })
}

/// Counts a released result.
pub(super) fn count(
    t: &mut Transaction<'_>,
    model: &str,
    day: i64,
    device: &str,
    class: u64,
    near: bool,
) -> Result<(), SqlError> {
    for class in [Some(class as i64), near.then_some(NEAR)].into_iter().flatten() {
        t.execute(
            "INSERT INTO label_counts (model, day, device, class, count) VALUES ($1, $2, $3, $4, 1)
             ON CONFLICT (model, day, device, class) DO UPDATE SET count = label_counts.count + 1",
            values![model, day, device, class],
        )?;
    }
    Ok(())
}

impl Fleet {
    /// How the devices were answered that a network had on a day since 1970.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn label_counts(&self, model: &str, day: i64) -> Result<BTreeMap<String, Counted>, SqlError> {
        let sql = "SELECT device, class, count FROM label_counts WHERE model = $1 AND day = $2";
        let rows = self.read(|t| t.query(sql, values![model, day]))?;
        let mut all: BTreeMap<String, Counted> = BTreeMap::new();
        for row in &rows {
            let (device, class, count): (String, i64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let counted = all.entry(device).or_default();
            match usize::try_from(class) {
                Err(_) => counted.near = count,
                Ok(class) => {
                    let length = counted.classes.len().max(class + 1);
                    counted.classes.resize(length, 0);
                    counted.classes.iter_mut().skip(class).take(1).for_each(|c| *c = count);
                }
            }
        }
        Ok(all)
    }

    /// The networks whose results were answered on a day since 1970.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn labelled_models(&self, day: i64) -> Result<Vec<String>, SqlError> {
        let sql = "SELECT DISTINCT model FROM label_counts WHERE day = $1 ORDER BY model";
        self.read(|t| t.query(sql, values![day])?.iter().map(|row| row.get(0)).collect())
    }

    /// Forgets counts of days before this one.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn forget_labels_before(&self, day: i64) -> Result<u64, SqlError> {
        self.read(|t| t.execute("DELETE FROM label_counts WHERE day < $1", values![day]))
    }

    /// Raises an alarm, once for a network, device, day and reference: later ones only bring its text up to date. Says whether it is new; then it
    /// stands in the audit log.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn raise(&self, alarm: &NewAlarm) -> Result<bool, SqlError> {
        let id = random_id()?;
        self.read(|t| {
            let NewAlarm { model, day, device, reference, text, bits } = alarm;
            let added = t.execute(
                "INSERT INTO label_alarms (id, model, day, device, reference, text, bits, raised)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (model, day, device, reference) DO NOTHING",
                values![&id, model, *day, device, *reference, text, *bits, now()],
            )? > 0;
            if added {
                let event = json!({ "alarm": id, "model": model, "device": device, "against": reference, "text": text });
                self.audited(t, &Event::new("alarm", event))?;
            } else {
                t.execute(
                    "UPDATE label_alarms SET text = $1, bits = $2 WHERE model = $3 AND day = $4 AND device = $5 AND reference = $6",
                    values![text, *bits, model, *day, device, *reference],
                )?;
            }
            Ok(added)
        })
    }

    /// Notes that an alarm was looked into; says whether there was such an alarm that was not before.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn acknowledge(&self, id: &str) -> Result<bool, SqlError> {
        self.read(|t| {
            let sql = "UPDATE label_alarms SET acknowledged = $1 WHERE id = $2 AND acknowledged IS NULL";
            let done = t.execute(sql, values![now(), id])? > 0;
            if done {
                self.audited(t, &Event::new("alarm acknowledged", json!({ "alarm": id })))?;
            }
            Ok(done)
        })
    }

    /// Alarms, newest first.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn alarms(&self, limit: u32) -> Result<Vec<AlarmRow>, SqlError> {
        let sql = format!("SELECT {COLUMNS} FROM label_alarms ORDER BY raised DESC, id LIMIT $1");
        self.read(|t| t.query(&sql, values![limit])?.iter().map(read).collect())
    }

    /// Alarms that nobody has looked into yet.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn open_alarms(&self) -> Result<u64, SqlError> {
        self.read(|t| t.one("SELECT count(*) FROM label_alarms WHERE acknowledged IS NULL", &[]))
    }

    /// Devices about whose labels of a day an alarm was raised.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn alarmed(&self, model: &str, day: i64) -> Result<Vec<String>, SqlError> {
        let sql = "SELECT DISTINCT device FROM label_alarms WHERE model = $1 AND day = $2";
        self.read(|t| t.query(sql, values![model, day])?.iter().map(|row| row.get(0)).collect())
    }
}
