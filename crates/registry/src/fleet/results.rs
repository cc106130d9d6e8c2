//! Encrypted results: stored once, claimed by decrypt workers, decided once.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{Event, Fleet};
use crate::sql::{Row, SqlError, Transaction, Value};
use crate::time::now;
use crate::values;

/// A result that passed the checks of its arrival.
#[derive(Debug, Clone)]
pub struct NewResult {
    /// Its id, unique: network, origin and sample.
    pub id: String,
    /// The network.
    pub model: String,
    /// Its version.
    pub version: u32,
    /// The device that evaluated and signed.
    pub device: String,
    /// Its number among the results of this device.
    pub sequence: u64,
    /// The device that acquired the sample.
    pub origin: String,
    /// The sample.
    pub sample: String,
    /// What the source calls the sample.
    pub label: String,
    /// When it was acquired, milliseconds since 1970 by the device's clock.
    pub taken: i64,
    /// SHA-256 of the signed record in hex.
    pub digest: String,
    /// Where the record lies: the object in the store, its first byte in it, its length. Nothing: it is not kept.
    pub place: Option<(String, u64, u64)>,
}

/// What became of a result that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Stored.
    Stored,
    /// This very record was stored before.
    Again,
    /// The inference was stored before, from another record.
    Duplicate,
    /// The sequence number was used before for another result.
    Replay,
}

/// A result that this worker is to decide.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Its id.
    pub id: String,
    /// The network.
    pub model: String,
    /// The device that signed it.
    pub device: String,
    /// The object in the store, nothing if it is gone.
    pub object: Option<String>,
    /// First byte of the record in it.
    pub start: u64,
    /// Length of the record.
    pub length: u64,
    /// Its SHA-256 in hex.
    pub digest: String,
    /// How often it was claimed, this time included.
    pub attempts: u32,
}

/// What was examined before, without the result in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Results of the device today (UTC).
    pub device_today: u64,
    /// Results of the device ever.
    pub device_total: u64,
    /// Results of all devices for the network today (UTC).
    pub model_today: u64,
    /// Results of all devices for the network ever.
    pub model_total: u64,
    /// Results of the device that no honest one sends, since the owner last let it in.
    pub device_violations: u64,
}

/// Says whether a network's result may be examined after what was examined before; else a code and a reason.
pub type Permit<'a> = dyn Fn(&str, &Usage) -> Result<(), (String, String)> + Sync + 'a;

/// What a worker decided about a result.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It may be revealed: the top class, and what the policy reveals as a JSON object.
    Release {
        /// The top class.
        class: u64,
        /// What is revealed.
        prediction: Json,
        /// Whether a second class was near.
        near: bool,
    },
    /// It is refused for good.
    Refuse {
        /// The reason as a word (`signature`, `slots`, ...).
        code: String,
        /// The reason for people.
        reason: String,
        /// Whether no honest device sends such a result.
        violation: bool,
    },
    /// It could not be decided now; the lease runs out and it is claimed again.
    Later,
}

/// A result as it is queried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultRow {
    /// Its id.
    pub id: String,
    /// The network.
    pub model: String,
    /// Its version.
    pub version: u32,
    /// The device that evaluated.
    pub device: String,
    /// The device that acquired the sample.
    pub origin: String,
    /// Its number among the results of this device.
    pub sequence: u64,
    /// The sample.
    pub sample: String,
    /// What the source calls the sample.
    pub label: String,
    /// When it was acquired by the device's clock, milliseconds since 1970.
    pub taken: i64,
    /// When it arrived.
    pub received: i64,
    /// `stored`, `released` or `refused`.
    pub state: String,
    /// Why it was refused, as a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The top class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<i64>,
    /// What was revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Json>,
    /// When it was released or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<i64>,
}

/// Which results are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this network.
    pub model: Option<String>,
    /// Signed by this device.
    pub device: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// Received at this time or later, milliseconds since 1970.
    pub since: Option<i64>,
    /// Received before this time.
    pub until: Option<i64>,
    /// Behind this one in the order of arrival: time of arrival and id.
    pub after: Option<(i64, String)>,
    /// Newest first instead of oldest first.
    pub newest_first: bool,
}

/// Results in the order of arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The results.
    pub results: Vec<ResultRow>,
    /// [`Filter::after`] of the next page, if there may be one.
    pub next: Option<(i64, String)>,
}

const COLUMNS: &str = "id, model, version, device, origin, sequence, sample, label, taken, received, state, code, reason, class, prediction, decided";

fn read(row: &Row) -> Result<ResultRow, SqlError> {
    Ok(ResultRow {
        id: row.get(0)?,
        model: row.get(1)?,
        version: row.get(2)?,
        device: row.get(3)?,
        origin: row.get(4)?,
        sequence: row.get(5)?,
        sample: row.get(6)?,
        label: row.get(7)?,
        taken: row.get(8)?,
        received: row.get(9)?,
        state: row.get(10)?,
        code: row.get(11)?,
        reason: row.get(12)?,
        class: row.get(13)?,
        prediction: row.get(14)?,
        decided: row.get(15)?,
    })
}

impl Fleet {
    /// What would become of a result: nothing if it is new. So that duplicates need not be written to the store.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn known(&self, ids: &[(String, String, u64, String)]) -> Result<Vec<Option<Arrival>>, SqlError> {
        self.read(|t| {
            ids.iter().map(|(id, device, sequence, digest)| arrived(t, id, device, *sequence, digest)).collect()
        })
    }

    /// Stores results whose records lie in the store already; each once, by its id. Replays are audited.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn ingest(&self, results: &[NewResult]) -> Result<Vec<Arrival>, SqlError> {
        let received = now();
        self.read(|t| {
            let mut arrivals = Vec::with_capacity(results.len());
            let mut replays = Vec::new();
            for new in results {
                let arrival = store(t, new, received)?;
                if arrival == Arrival::Replay {
                    replays.push(new);
                }
                arrivals.push(arrival);
            }
            for new in replays {
                let event = json!({ "code": "replay", "device": new.device, "sequence": new.sequence, "result": new.id, "model": new.model });
                self.audited(t, &Event::new("result refused", event))?;
            }
            Ok(arrivals)
        })
    }

    /// Takes at most `limit` stored results that no other worker holds, for `lease` milliseconds.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn claim(&self, worker: &str, limit: u32, lease: i64) -> Result<Vec<Claimed>, SqlError> {
        let sql = format!(
            "UPDATE results SET lease = $1, lease_until = $2, attempts = attempts + 1
             WHERE state = 'stored' AND lease_until <= $3 AND id IN
                 (SELECT id FROM results WHERE state = 'stored' AND lease_until <= $3 ORDER BY lease_until, received LIMIT $4 {})
             RETURNING id, model, device, object, start, length, digest, attempts",
            self.database.skip_locked()
        );
        let time = now();
        self.read(|t| {
            let rows = t.query(&sql, values![worker, time + lease, time, limit])?;
            rows.iter()
                .map(|row| {
                    Ok(Claimed {
                        id: row.get(0)?,
                        model: row.get(1)?,
                        device: row.get(2)?,
                        object: row.get(3)?,
                        start: row.get(4)?,
                        length: row.get(5)?,
                        digest: row.get(6)?,
                        attempts: row.get(7)?,
                    })
                })
                .collect()
        })
    }

    /// Writes decisions about claimed results: prediction or refusal, usage and audit entries, all in one transaction. Each counts against the
    /// budget, a refusal too: `permit` is told the usage before and may refuse with a code and a reason, whatever the decision was. A device that was
    /// revoked meanwhile is refused. Results that another worker has taken over are left alone. Says for each what was written.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn decide(
        &self,
        worker: &str,
        decisions: &[(Claimed, Decision)],
        permit: &Permit<'_>,
    ) -> Result<Vec<Option<Decision>>, SqlError> {
        let time = now();
        // Rows of devices and networks are locked in one order, so that workers do not wait for each other in a circle.
        let mut order: Vec<usize> = (0..decisions.len()).collect();
        order.sort_by_key(|&i| decisions.get(i).map(|(c, _)| (c.model.clone(), c.device.clone(), c.id.clone())));
        self.read(|t| {
            let mut written: Vec<Option<Decision>> = vec![None; decisions.len()];
            let mut events = Vec::new();
            for &index in &order {
                let Some((claimed, decision)) = decisions.get(index) else { continue };
                let still_ours = t.execute(
                    "UPDATE results SET lease_until = $1 WHERE id = $2 AND state = 'stored' AND lease = $3",
                    values![time, &claimed.id, worker],
                )?;
                if still_ours == 0 {
                    continue;
                }
                let decision = checked(t, claimed, decision, time, permit)?;
                write(t, &claimed.id, claimed.attempts, &decision, time)?;
                events.extend(event(claimed, &decision));
                if let Some(place) = written.get_mut(index) {
                    *place = Some(decision);
                }
            }
            for event in &events {
                self.audited(t, event)?;
            }
            Ok(written)
        })
    }

    /// Gives up what workers whose names begin so had claimed, results and jobs: they are dead. Says how many results and jobs.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn give_up(&self, workers: &str) -> Result<(u64, u64), SqlError> {
        // Their names are hex digits and hyphens: nothing that LIKE would take for something else.
        let like = format!("{workers}%");
        self.read(|t| {
            let results = "UPDATE results SET lease = NULL, lease_until = 0 WHERE state = 'stored' AND lease LIKE $1";
            let jobs = "UPDATE jobs SET lease_until = 0 WHERE state = 'running' AND lease LIKE $1";
            Ok((t.execute(results, values![&like])?, t.execute(jobs, values![&like])?))
        })
    }

    /// Results in the order of arrival.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn results(&self, filter: &Filter, limit: u32) -> Result<Page, SqlError> {
        let mut conditions = vec!["1 = 1".to_owned()];
        let mut values: Vec<Value> = Vec::new();
        let mut add = |condition: &str, value: Value| {
            values.push(value);
            conditions.push(condition.replace('#', &format!("${}", values.len())));
        };
        let text = |x: &Option<String>| x.clone().map(Value::Text);
        for (condition, value) in [
            ("model = #", text(&filter.model)),
            ("device = #", text(&filter.device)),
            ("state = #", text(&filter.state)),
            ("received >= #", filter.since.map(Value::Integer)),
            ("received < #", filter.until.map(Value::Integer)),
        ] {
            if let Some(value) = value {
                add(condition, value);
            }
        }
        let (sign, order) = if filter.newest_first { ("<", "DESC") } else { (">", "ASC") };
        if let Some((received, id)) = &filter.after {
            values.extend([(*received).into(), id.into()]);
            let n = values.len();
            conditions.push(format!("received {sign}= ${} AND (received <> ${} OR id {sign} ${n})", n - 1, n - 1));
        }
        values.push(limit.into());
        let sql = format!(
            "SELECT {COLUMNS} FROM results WHERE {} ORDER BY received {order}, id {order} LIMIT ${}",
            conditions.join(" AND "),
            values.len()
        );
        let results: Vec<ResultRow> = self.read(|t| t.query(&sql, &values)?.iter().map(read).collect())?;
        let full = results.len() as u64 == u64::from(limit);
        let next = results.last().filter(|_| full).map(|last| (last.received, last.id.clone()));
        Ok(Page { results, next })
    }

    /// A result.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn result(&self, id: &str) -> Result<Option<ResultRow>, SqlError> {
        let sql = format!("SELECT {COLUMNS} FROM results WHERE id = $1");
        self.read(|t| t.row(&sql, values![id])?.as_ref().map(read).transpose())
    }

    /// Number of results in each state.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn result_counts(&self) -> Result<Vec<(String, u64)>, SqlError> {
        self.read(|t| {
            let rows = t.query("SELECT state, count(*) FROM results GROUP BY state ORDER BY state", &[])?;
            rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
        })
    }

    /// Results that each device sent since a time, milliseconds since 1970.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn received_since(&self, since: i64) -> Result<HashMap<String, u64>, SqlError> {
        let sql = "SELECT device, count(*) FROM results WHERE received >= $1 GROUP BY device";
        self.read(|t| pairs(&t.query(sql, values![since])?))
    }

    /// Results of each device that were examined: on a day since 1970, or ever.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn examined(&self, day: Option<i64>) -> Result<HashMap<String, u64>, SqlError> {
        self.used(if day.is_some() { "device" } else { "device-total" }, day.unwrap_or(0))
    }

    /// Results of a network that were examined on a day since 1970.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn model_examined(&self, model: &str, day: i64) -> Result<u64, SqlError> {
        Ok(self.used("model", day)?.get(model).copied().unwrap_or(0))
    }

    /// Results of each device that no honest one sends, since it was last let in.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn violations(&self) -> Result<HashMap<String, u64>, SqlError> {
        self.used("device-violations", 0)
    }

    fn used(&self, scope: &str, day: i64) -> Result<HashMap<String, u64>, SqlError> {
        let sql = "SELECT subject, released FROM usage WHERE scope = $1 AND day = $2 AND released > 0";
        self.read(|t| pairs(&t.query(sql, values![scope, day])?))
    }

    /// Counts a result that no honest device sends and that was not even stored, and tells the audit log.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn violated(&self, device: &str, event: Option<&Event>) -> Result<(), SqlError> {
        self.read(|t| {
            count(t, "device-violations", device, 0, 1)?;
            event.map_or(Ok(()), |event| self.audited(t, event))
        })
    }

    /// Forgets where the records of decided results lie that were received before a time, if no other in the same object waits; gives the objects,
    /// which nothing refers to any more.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn release_objects(&self, received_before: i64, limit: u32) -> Result<Vec<String>, SqlError> {
        self.read(|t| {
            let rows = t.query(
                "SELECT object FROM results WHERE object IS NOT NULL GROUP BY object
                 HAVING max(received) < $1 AND sum(CASE WHEN state = 'stored' THEN 1 ELSE 0 END) = 0 LIMIT $2",
                values![received_before, limit],
            )?;
            let objects: Vec<String> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
            for object in &objects {
                t.execute("UPDATE results SET object = NULL WHERE object = $1", values![object])?;
            }
            Ok(objects)
        })
    }
}

fn pairs(rows: &[Row]) -> Result<HashMap<String, u64>, SqlError> {
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// What is known of a result: nothing if it is new.
pub(super) fn arrived(
    t: &mut Transaction<'_>,
    id: &str,
    device: &str,
    sequence: u64,
    digest: &str,
) -> Result<Option<Arrival>, SqlError> {
    let same_sequence =
        t.row("SELECT digest FROM results WHERE device = $1 AND sequence = $2", values![device, sequence as i64])?;
    if let Some(row) = same_sequence {
        let same = row.get::<String>(0)? == digest;
        return Ok(Some(if same { Arrival::Again } else { Arrival::Replay }));
    }
    // Evaluated again, by this device or another: with encrypted input the ciphertexts differ each time.
    let same_id: i64 = t.one("SELECT count(*) FROM results WHERE id = $1", values![id])?;
    Ok((same_id > 0).then_some(Arrival::Duplicate))
}

pub(super) fn store(t: &mut Transaction<'_>, new: &NewResult, received: i64) -> Result<Arrival, SqlError> {
    let (object, start, length) = new.place.as_ref().map_or((None, 0, 0), |(o, s, l)| (Some(o), *s, *l));
    let added = t.execute(
        "INSERT INTO results (id, model, version, device, sequence, origin, sample, label, taken, received, digest, object, start, length, state, lease_until, attempts)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'stored', 0, 0) ON CONFLICT DO NOTHING",
        values![
            &new.id,
            &new.model,
            new.version,
            &new.device,
            new.sequence as i64,
            &new.origin,
            &new.sample,
            &new.label,
            new.taken,
            received,
            &new.digest,
            object,
            start as i64,
            length as i64
        ],
    )?;
    if added > 0 {
        return Ok(Arrival::Stored);
    }
    // The rows are read behind the insertion, so that it does not matter who was first.
    Ok(arrived(t, &new.id, &new.device, new.sequence, &new.digest)?.unwrap_or(Arrival::Duplicate))
}

/// The decision about a result that was claimed, after budget and revocation, counted.
fn checked(
    t: &mut Transaction<'_>,
    claimed: &Claimed,
    decision: &Decision,
    time: i64,
    permit: &Permit<'_>,
) -> Result<Decision, SqlError> {
    if let Decision::Later = decision {
        return Ok(Decision::Later);
    }
    if super::devices::device(t, &claimed.device)?.is_none_or(|device| device.revoked.is_some()) {
        return Ok(revoked());
    }
    let refused = counted(t, &claimed.model, Some(&claimed.device), decision, time, permit)?;
    Ok(refused.unwrap_or_else(|| decision.clone()))
}

/// A result of a device that was revoked.
pub(super) fn revoked() -> Decision {
    let reason = "its device was revoked before it was decrypted".to_owned();
    Decision::Refuse { code: "revoked".to_owned(), reason, violation: false }
}

/// Counts a result that was examined, of a network and of a device if one signed it; else the refusal where the budget does not permit it.
pub(super) fn counted(
    t: &mut Transaction<'_>,
    model: &str,
    device: Option<&str>,
    decision: &Decision,
    time: i64,
    permit: &Permit<'_>,
) -> Result<Option<Decision>, SqlError> {
    let day = time / 86_400_000;
    // Counting locks the rows until the transaction ends; it is taken back if the budget does not permit it.
    let all = |t: &mut Transaction<'_>, by: i64| -> Result<Usage, SqlError> {
        let mut usage = Usage {
            model_today: count(t, "model", model, day, by)?,
            model_total: count(t, "model-total", model, 0, by)?,
            ..Usage::default()
        };
        if let Some(device) = device {
            usage.device_today = count(t, "device", device, day, by)?;
            usage.device_total = count(t, "device-total", device, 0, by)?;
            usage.device_violations = count(t, "device-violations", device, 0, 0)?;
        }
        Ok(usage)
    };
    let with = all(t, 1)?;
    let before = Usage {
        device_today: with.device_today.saturating_sub(1),
        device_total: with.device_total.saturating_sub(1),
        model_today: with.model_today.saturating_sub(1),
        model_total: with.model_total.saturating_sub(1),
        ..with
    };
    if let Err((code, reason)) = permit(model, &before) {
        all(t, -1)?;
        return Ok(Some(Decision::Refuse { code, reason, violation: false }));
    }
    let Some(device) = device else { return Ok(None) };
    match decision {
        Decision::Refuse { violation: true, .. } => count(t, "device-violations", device, 0, 1).map(|_| ())?,
        Decision::Release { class, near, .. } => super::labels::count(t, model, day, device, *class, *near)?,
        Decision::Refuse { .. } | Decision::Later => {}
    }
    Ok(None)
}

/// Adds to a counter and gives its new value; its row stays locked until the transaction ends.
pub(super) fn count(t: &mut Transaction<'_>, scope: &str, subject: &str, day: i64, by: i64) -> Result<u64, SqlError> {
    t.one(
        "INSERT INTO usage (scope, subject, day, released) VALUES ($1, $2, $3, $4)
         ON CONFLICT (scope, subject, day) DO UPDATE SET released = usage.released + $4 RETURNING released",
        values![scope, subject, day, by],
    )
}

/// Writes what was decided about a stored result that was claimed so often.
pub(super) fn write(
    t: &mut Transaction<'_>,
    id: &str,
    attempts: u32,
    decision: &Decision,
    time: i64,
) -> Result<(), SqlError> {
    match decision {
        Decision::Release { class, prediction, .. } => t.execute(
            "UPDATE results SET state = 'released', class = $1, prediction = $2, decided = $3, lease = NULL WHERE id = $4",
            values![*class as i64, prediction, time, id],
        )?,
        Decision::Refuse { code, reason, .. } => t.execute(
            "UPDATE results SET state = 'refused', code = $1, reason = $2, decided = $3, lease = NULL WHERE id = $4",
            values![code, reason, time, id],
        )?,
        // Tried again after a while, later with each attempt.
        Decision::Later => t.execute(
            "UPDATE results SET lease = NULL, lease_until = $1 WHERE id = $2",
            values![time + 1000 * (1 << attempts.min(8)), id],
        )?,
    };
    Ok(())
}

fn event(claimed: &Claimed, decision: &Decision) -> Option<Event> {
    let Claimed { id, model, device, .. } = claimed;
    match decision {
        Decision::Release { .. } => {
            Some(Event::new("result released", json!({ "result": id, "model": model, "device": device })))
        }
        Decision::Refuse { code, reason, .. } => {
            let event = json!({ "result": id, "model": model, "device": device, "code": code, "reason": reason });
            Some(Event::new("result refused", event))
        }
        Decision::Later => None,
    }
}
