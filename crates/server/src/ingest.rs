//! Results on their arrival: what is checked before one is stored, and how it is stored once.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subrosa_fleet::messages::{MAX_BATCH, Outcome, Receipt};
use subrosa_fleet::{ResultId, SignedResult, Statement, decode_batch};
use subrosa_owner::release::{Refusal, stored_row};
use subrosa_program::container::Signer;
use subrosa_registry::fleet::{Arrival, Device, Event, NewResult};

use crate::body::Held;
use crate::error::{Answer, ApiError};
use crate::metrics::Metrics;
use crate::state::App;

/// A result that passed, as it goes into the store.
struct Passed {
    index: usize,
    row: NewResult,
    record: Vec<u8>,
}

/// What is known after the checks.
struct Checked {
    ids: Vec<ResultId>,
    outcomes: Vec<Option<Outcome>>,
    passed: Vec<Passed>,
}

/// Stores what is new of a batch and says for each result what became of it, in order.
pub(crate) async fn batch(app: &Arc<App>, device: Device, held: Held) -> Answer<Vec<Receipt>> {
    let Checked { ids, mut outcomes, mut passed } = app.blocking(move |app| check(app, &device, &held.bytes)).await?;
    if !passed.is_empty() {
        // First the ciphertexts, then the rows that say where they lie: a crash in between leaves an object that nobody needs.
        let object = object_key()?;
        let mut bytes = Vec::with_capacity(passed.iter().map(|p| p.record.len()).sum());
        for p in &mut passed {
            p.row.place = Some((object.clone(), bytes.len() as u64, p.record.len() as u64));
            bytes.append(&mut p.record);
        }
        app.metrics.result_bytes.inc_by(bytes.len() as u64);
        app.store.put(&object, bytes).await?;
        let stored = app
            .blocking(move |app| {
                let rows: Vec<NewResult> = passed.iter().map(|p| p.row.clone()).collect();
                let arrivals = app.fleet.ingest(&rows)?;
                Ok(passed.iter().map(|p| p.index).zip(arrivals).collect::<Vec<_>>())
            })
            .await?;
        for (index, arrival) in stored {
            if let Some(outcome) = outcomes.get_mut(index) {
                *outcome = Some(told(arrival));
            }
        }
        app.arrived.notify_waiters();
    }
    let receipts = ids.into_iter().zip(outcomes).map(|(result, outcome)| {
        let outcome = outcome.unwrap_or(Outcome::Duplicate);
        let label = match &outcome {
            Outcome::Stored => "stored",
            Outcome::Duplicate => "duplicate",
            Outcome::Refused { .. } => "refused",
        };
        Metrics::count(&app.metrics.results, label);
        Receipt { result, outcome }
    });
    Ok(receipts.collect())
}

fn told(arrival: Arrival) -> Outcome {
    match arrival {
        Arrival::Stored => Outcome::Stored,
        Arrival::Again | Arrival::Duplicate => Outcome::Duplicate,
        Arrival::Replay => Outcome::Refused { reason: "this sequence number was used before".into() },
    }
}

/// `results/DAY/ID`.
fn object_key() -> Answer<String> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(ApiError::inside)?;
    Ok(format!("results/{}/{}", subrosa_registry::time::now() / 86_400_000, hex::encode(id)))
}

/// Everything that can be said without the secret key.
fn check(app: &App, device: &Device, bytes: &[u8]) -> Answer<Checked> {
    let waiting = app.fleet.result_counts()?.into_iter().find(|(state, _)| state == "stored").map_or(0, |(_, n)| n);
    if waiting > app.limits.waiting_results {
        return Err(ApiError::later(format!("{waiting} results wait to be decrypted")));
    }
    let results = decode_batch(bytes, MAX_BATCH).map_err(|e| ApiError::bad(e.to_string()))?;
    let signer = Signer { public_key: device.key()? };
    let mut rules = Rules { app, device, signer, models: HashMap::new(), origins: HashMap::new() };
    let mut outcomes = Vec::with_capacity(results.len());
    let mut passed = Vec::new();
    let ids = results.iter().map(|r| r.statement.result_id()).collect();
    for (index, result) in results.into_iter().enumerate() {
        if let Err(refusal) = rules.check(&result)? {
            rules.note(&result.statement, &refusal)?;
            outcomes.push(Some(Outcome::Refused { reason: refusal.for_device().to_owned() }));
            continue;
        }
        let record = result.encode();
        let row = stored_row(&result.statement, hex::encode(Sha256::digest(&record)));
        passed.push(Passed { index, row, record });
        outcomes.push(None);
    }
    // Redeliveries need not be written to the store again.
    let asked: Vec<_> =
        passed.iter().map(|p| (p.row.id.clone(), p.row.device.clone(), p.row.sequence, p.row.digest.clone())).collect();
    let known = app.fleet.known(&asked)?;
    let mut replays = Vec::new();
    passed = passed
        .into_iter()
        .zip(known)
        .filter_map(|(p, known)| match known {
            None => Some(p),
            Some(arrival) => {
                if arrival == Arrival::Replay {
                    replays.push(p.row);
                }
                if let Some(outcome) = outcomes.get_mut(p.index) {
                    *outcome = Some(told(arrival));
                }
                None
            }
        })
        .collect();
    for row in replays {
        rules.note_refusal("replay", &row.id, &row.model, row.sequence, false)?;
    }
    Ok(Checked { ids, outcomes, passed })
}

/// Whether results of a network are taken from a device.
#[derive(Clone, Copy)]
enum Taken {
    /// With payloads of this length, where it is known.
    Yes(Option<usize>),
    /// They were.
    Retired,
    No,
}

/// What a device's results must be.
struct Rules<'a> {
    app: &'a App,
    device: &'a Device,
    signer: Signer,
    /// Networks that were looked up: whether results of this version are taken.
    models: HashMap<(String, u32), Taken>,
    /// Whether this device may evaluate what that one acquired.
    origins: HashMap<String, bool>,
}

impl Rules<'_> {
    fn check(&mut self, result: &SignedResult) -> Answer<Result<(), Refusal>> {
        let statement = &result.statement;
        let named = || statement.device.clone();
        if statement.device != self.device.id || result.verify(&self.signer).is_err() {
            return Ok(Err(Refusal::Signature { device: named() }));
        }
        if statement.sequence > i64::MAX as u64 {
            return Ok(Err(Refusal::Form("its sequence number is beyond 2^63".into())));
        }
        let stated = || format!("{}@{}", statement.model, statement.version);
        match self.takes(statement)? {
            Taken::Yes(None) => {}
            Taken::Yes(Some(length)) if length == result.payload.len() => {}
            Taken::Yes(Some(length)) => {
                let found = result.payload.len();
                return Ok(Err(Refusal::Form(format!("{found} bytes instead of {length}"))));
            }
            Taken::Retired => return Ok(Err(Refusal::Retired { stated: stated() })),
            Taken::No => {
                let expected = "what is deployed to this device".into();
                return Ok(Err(Refusal::Model { stated: stated(), expected }));
            }
        }
        if !self.may_stand_for(&statement.origin)? {
            return Ok(Err(Refusal::Unknown { device: statement.origin.clone() }));
        }
        Ok(Ok(()))
    }

    fn takes(&mut self, statement: &Statement) -> Answer<Taken> {
        let key = (statement.model.clone(), statement.version);
        if let Some(&known) = self.models.get(&key) {
            return Ok(known);
        }
        // By id only: a name would find the latest version.
        let records = self.app.registry().list()?;
        let record = records.iter().find(|r| r.id.to_string() == statement.model && r.version == statement.version);
        let taken = match record {
            Some(record) if self.app.fleet.was_deployed(self.device, &statement.model)? => match record.retired_unix {
                Some(_) => Taken::Retired,
                // Without the key here its length is checked where it is decrypted.
                None => Taken::Yes(self.app.agent(&statement.model).ok().map(|agent| agent.payload_len())),
            },
            _ => Taken::No,
        };
        self.models.insert(key, taken);
        Ok(taken)
    }

    fn may_stand_for(&mut self, origin: &str) -> Answer<bool> {
        if origin == self.device.id {
            return Ok(true);
        }
        if let Some(&known) = self.origins.get(origin) {
            return Ok(known);
        }
        let other = self.app.fleet.device(origin)?;
        let may = other.is_some_and(|other| other.group == self.device.group && other.revoked.is_none());
        self.origins.insert(origin.to_owned(), may);
        Ok(may)
    }

    fn note(&self, statement: &Statement, refusal: &Refusal) -> Answer<()> {
        // Who sent it is known by the token: nobody else can have a result refused that bears another signature.
        let violation = refusal.is_violation() || matches!(refusal, Refusal::Signature { .. });
        let id = statement.result_id().to_string();
        self.note_refusal(refusal.code(), &id, &statement.model, statement.sequence, violation)
    }

    fn note_refusal(&self, code: &str, result: &str, model: &str, sequence: u64, violation: bool) -> Answer<()> {
        Metrics::count(&self.app.metrics.decided, code);
        let event = self.app.may_note(&self.device.id).then(|| {
            let model: String = model.chars().take(64).collect();
            Event::new(
                "result refused",
                serde_json::json!({ "code": code, "device": self.device.id, "result": result, "model": model, "sequence": sequence }),
            )
        });
        match event {
            event if violation => self.app.fleet.violated(&self.device.id, event.as_ref())?,
            Some(event) => self.app.fleet.note(&event)?,
            None => {}
        }
        Ok(())
    }
}
