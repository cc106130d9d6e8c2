//! Results files: those of `subrosa-edge infer`, which nobody signed, and batches of signed results. What is released of them is in the
//! registry, counted and in its audit log, before anybody sees it.

use super::{Audience, AuditLog, Refusal, ReleaseAgent, ReleasePolicy, Released, look};
use crate::error::OwnerError;
use crate::{Decrypted, Origin, Owner, Prediction, Refused, Reveal};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;
use subrosa_fleet::{SignedResult, Statement, decode_batch, is_batch};
use subrosa_program::container::Signer;
use subrosa_program::results::Results;
use subrosa_registry::Vault;
use subrosa_registry::fleet::{Arrival, Decision, Event, Examined, Fleet, NewResult, Settled};
use subrosa_registry::sql::SqlError;
use subrosa_registry::time::now;

/// The home's release policy, JSON; where there is none the default is followed.
pub const POLICY_FILE: &str = "release.json";
/// Signed results of one file.
const MAX_RESULTS: usize = 1 << 20;
/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// How a results file is to be decrypted.
pub struct DecryptRequest<'a> {
    /// The file.
    pub results: &'a Path,
    /// What is revealed, to whom, how often.
    pub policy: ReleasePolicy,
    /// Enrolled devices and their keys; those of signed results.
    pub devices: &'a [(String, Signer)],
    /// Whether results that were decrypted before are decrypted again, instead of being refused as replays.
    pub again: bool,
}

/// What became of one result.
struct One {
    origin: Option<Origin>,
    outcome: Result<Released, Told>,
}

/// Code and text of a refusal.
struct Told {
    code: String,
    reason: String,
}

impl Owner {
    /// The policy in the home, with what is revealed and to whom.
    ///
    /// # Errors
    /// A policy file that cannot be read.
    pub fn release_policy(&self, reveal: Reveal, audience: Audience) -> Result<ReleasePolicy, OwnerError> {
        let path = self.home.join(POLICY_FILE);
        let policy: ReleasePolicy = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                OwnerError::Usage(format!(
                    "{}: {e}: correct the policy, or remove it to follow the default",
                    path.display()
                ))
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => ReleasePolicy::default(),
            Err(e) => return Err(OwnerError::io("read", &path, e)),
        };
        Ok(ReleasePolicy { reveal, audience, ..policy })
    }

    /// Decrypts a results file that nobody signed, for the owner's own eyes; see [`decrypt_results`](Self::decrypt_results).
    ///
    /// # Errors
    /// Those of [`decrypt_results`](Self::decrypt_results).
    pub fn decrypt(&self, results: &Path, reveal: Reveal, vault: &Vault) -> Result<Decrypted, OwnerError> {
        let policy = self.release_policy(reveal, Audience::Owner)?;
        self.decrypt_results(&DecryptRequest { results, policy, devices: &[], again: true }, vault)
    }

    /// Decrypts a results file: every inference is examined, and revealed or refused. All of it is in the audit log first.
    ///
    /// # Errors
    /// A file that is damaged or of a network that is not here; a vault without the key; results that are not of the length of
    /// those of the network; none that may be revealed; an audit log that was changed or cannot be written.
    pub fn decrypt_results(&self, request: &DecryptRequest, vault: &Vault) -> Result<Decrypted, OwnerError> {
        let start = Instant::now();
        let fleet = self.fleet()?;
        let path = request.results;
        // What cannot be read is no batch, and said to be so below.
        let signed = if is_batch(path).unwrap_or(false) {
            let bytes = std::fs::read(path).map_err(|e| OwnerError::io("read", path, e))?;
            let batch = decode_batch(&bytes, MAX_RESULTS);
            Some(batch.map_err(|e| OwnerError::Usage(format!("{}: {e}", path.display())))?)
        } else {
            None
        };
        let opened = if signed.is_none() { Some(Results::open(path)?) } else { None };
        let (model, name) = match (&signed, &opened) {
            (Some(batch), _) => match batch.first() {
                Some(first) => (first.statement.model.clone(), "?".to_owned()),
                None => return Err(OwnerError::Usage(format!("{}: there are no results in it", path.display()))),
            },
            (None, Some(opened)) => (opened.manifest.model.clone(), opened.manifest.name.clone()),
            (None, None) => return Err(OwnerError::Usage(format!("{}: there are no results in it", path.display()))),
        };
        let record = self.registry.get(&model).ok().filter(|r| r.id.to_string() == model);
        let file = path.display().to_string();
        let record = record.ok_or(OwnerError::ForeignResults { file: file.clone(), name, id: model.clone() })?;
        let agent = ReleaseAgent::load(self, &model, vault)?;
        agent.check_policy(&request.policy).map_err(|e| OwnerError::Usage(e.to_string()))?;

        // Nothing is decrypted over a log that was changed.
        AuditLog::of(self)?.verify()?;
        let day = now() / DAY;
        let failed = |e| self.database_failed(e);
        let (examined, alarms) = match (&signed, &opened) {
            (Some(batch), _) => {
                let examined = examine_signed(&agent, batch, request, &fleet).map_err(failed)?;
                (examined, unusual(&fleet, &agent, day).map_err(failed)?)
            }
            (None, Some(opened)) => {
                let packed = opened.inferences(agent.parameters(), agent.output())?;
                (examine_unsigned(&agent, &packed, request, &fleet).map_err(failed)?, Vec::new())
            }
            (None, None) => (Vec::new(), Vec::new()),
        };

        let count = examined.len();
        let budgets = examined.iter().filter_map(|e| e.outcome.as_ref().ok()?.budget_bits);
        let measured = budgets.reduce(f64::min);
        let (mut predictions, mut refused): (Vec<Prediction>, Vec<Refused>) = (Vec::new(), Vec::new());
        for (index, One { origin, outcome }) in examined.into_iter().enumerate() {
            match outcome {
                Ok(released) => predictions.push(released.into_prediction(index, origin)),
                Err(Told { code, reason }) => refused.push(Refused { index, origin, code, reason }),
            }
        }
        if let (true, Some(first)) = (predictions.is_empty(), refused.first()) {
            return Err(OwnerError::NothingReleased { file, count, first: first.reason.clone() });
        }
        Ok(Decrypted {
            id: model.clone(),
            name: record.name,
            version: record.version,
            count,
            reveal: request.policy.reveal,
            predictions,
            refused,
            examined_today: fleet.model_examined(&model, day).map_err(failed)?,
            limit_today: request.policy.budget.per_model_per_day,
            alarms,
            remaining_budget_bits: measured.unwrap_or_else(|| agent.remaining_budget_bits()),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Examines what nobody signed: within the network's budget, one entry for the whole file.
fn examine_unsigned(
    agent: &ReleaseAgent,
    packed: &[&[u8]],
    request: &DecryptRequest,
    fleet: &Fleet,
) -> Result<Vec<One>, SqlError> {
    let (time, model) = (now(), agent.model().to_owned());
    let outcomes: Vec<Result<Released, Refusal>> =
        packed.iter().map(|payload| agent.examine_unsigned(payload, &request.policy)).collect();
    let examined: Vec<Examined> = outcomes
        .iter()
        .map(|outcome| Examined { time, model: model.clone(), result: None, decision: decision(outcome) })
        .collect();
    let mut digest = Sha256::new();
    packed.iter().for_each(|payload| digest.update(payload));
    let payloads = hex::encode(digest.finalize());
    let tell = |settled: &[Settled]| {
        let (mut labels, mut refused, mut examined) = (Vec::new(), Vec::new(), 0);
        for (index, one) in settled.iter().enumerate() {
            examined += u64::from(matches!(one, Settled::Decided(_)));
            match one {
                Settled::Decided(Decision::Release { class, .. }) => labels.push(*class),
                Settled::Decided(Decision::Refuse { code, .. }) | Settled::Stopped(Decision::Refuse { code, .. }) => {
                    refused.push(json!([index, code]));
                }
                Settled::Decided(Decision::Later) | Settled::Stopped(_) | Settled::Known(_) => {}
            }
        }
        let event = json!({
            "model": model, "version": agent.version(), "reveal": request.policy.reveal, "audience": request.policy.audience,
            "payloads": payloads, "examined": examined, "labels": labels, "refused": refused,
        });
        vec![Event::new("unsigned results decrypted", event)]
    };
    let settled = fleet.settle(&examined, false, &|_, usage| request.policy.budget.permit(usage), &tell)?;
    Ok(settled
        .into_iter()
        .zip(outcomes)
        .map(|(settled, outcome)| One { origin: None, outcome: told(settled, outcome, None) })
        .collect())
}

/// Examines signed results: each against its device's key, history and budget, one entry each.
fn examine_signed(
    agent: &ReleaseAgent,
    batch: &[SignedResult],
    request: &DecryptRequest,
    fleet: &Fleet,
) -> Result<Vec<One>, SqlError> {
    let time = now();
    let digests: Vec<String> = batch.iter().map(|result| hex::encode(Sha256::digest(result.encode()))).collect();
    let mut keys = Keys { fleet, named: request.devices, known: BTreeMap::new() };
    // A result twice in one file is a replay even where old ones are decrypted again.
    let mut here = BTreeSet::new();
    // Before anything is counted: nobody else can use up a device's budget, or its good name.
    let mut checked: Vec<Result<Signer, Refusal>> = Vec::with_capacity(batch.len());
    for result in batch {
        let s = &result.statement;
        checked.push(keys.of(&s.device)?.and_then(|key| {
            result.verify(&key).map_err(|_| Refusal::Signature { device: named(s) })?;
            if s.sequence > i64::MAX as u64 {
                return Err(Refusal::Form("its sequence number is beyond 2^63".into()));
            }
            if !here.insert((&s.device, s.sequence)) {
                return Err(Refusal::Replay { device: named(s), sequence: s.sequence });
            }
            Ok(key)
        }));
    }
    let row = |(result, digest): (&SignedResult, &String)| stored_row(&result.statement, digest.clone());
    let rows: Vec<NewResult> = batch.iter().zip(&digests).map(row).collect();
    let asked: Vec<_> =
        rows.iter().map(|row| (row.id.clone(), row.device.clone(), row.sequence, row.digest.clone())).collect();
    let known = fleet.known(&asked)?;
    let mut outcomes: Vec<Result<Released, Refusal>> = Vec::with_capacity(batch.len());
    let mut examined = Vec::with_capacity(batch.len());
    for (((result, row), key), known) in batch.iter().zip(rows).zip(checked).zip(known) {
        let outcome = key.and_then(|key| match known {
            Some(arrival) if !request.again || arrival != Arrival::Again => Err(seen(&result.statement, arrival)),
            _ => {
                let outcome = agent.examine(&key, result, &request.policy);
                let model = agent.model().to_owned();
                examined
                    .push((outcomes.len(), Examined { time, model, result: Some(row), decision: decision(&outcome) }));
                outcome
            }
        });
        outcomes.push(outcome);
    }
    let (places, examined): (Vec<usize>, Vec<Examined>) = examined.into_iter().unzip();
    // What is decided of each: `settled` has those that were examined.
    let decided = |settled: &[Settled]| {
        let mut all: Vec<Settled> = outcomes.iter().map(|outcome| Settled::Stopped(decision(outcome))).collect();
        for (&place, settled) in places.iter().zip(settled) {
            if let Some(one) = all.get_mut(place) {
                *one = settled.clone();
            }
        }
        all
    };
    let tell = |settled: &[Settled]| {
        let all = decided(settled);
        let entries = all.into_iter().zip(batch).zip(&digests).zip(&outcomes);
        entries.map(|(((one, result), digest), outcome)| event(one, result, digest, outcome, request)).collect()
    };
    let settled = fleet.settle(&examined, request.again, &|_, usage| request.policy.budget.permit(usage), &tell)?;
    let all = decided(&settled);
    let mut done = Vec::with_capacity(batch.len());
    for ((settled, outcome), result) in all.into_iter().zip(outcomes).zip(batch) {
        let s = &result.statement;
        let origin = Origin { device: s.device.clone(), sequence: s.sequence, sample: s.label.clone() };
        done.push(One { origin: Some(origin), outcome: told(settled, outcome, Some(s)) });
    }
    Ok(done)
}

/// The audit entry about a signed result.
fn event(
    settled: Settled,
    result: &SignedResult,
    digest: &str,
    outcome: &Result<Released, Refusal>,
    request: &DecryptRequest,
) -> Event {
    let s = &result.statement;
    let mut event = json!({
        "result": s.result_id().to_string(), "model": s.model, "version": s.version, "device": s.device, "sequence": s.sequence,
        "digest": digest, "reveal": request.policy.reveal, "audience": request.policy.audience,
    });
    match told(settled, outcome.clone(), Some(s)) {
        Ok(released) => {
            event["label"] = json!(released.label);
            Event::new("result released", event)
        }
        Err(Told { code, reason }) => {
            event["code"] = json!(code);
            event["reason"] = json!(reason);
            Event::new("result refused", event)
        }
    }
}

/// What is told of a result after it was settled.
fn told(settled: Settled, outcome: Result<Released, Refusal>, statement: Option<&Statement>) -> Result<Released, Told> {
    let refused = |refusal: &Refusal| Told { code: refusal.code().to_owned(), reason: refusal.to_string() };
    match (settled, statement) {
        (Settled::Decided(_), _) => outcome.map_err(|refusal| refused(&refusal)),
        (Settled::Known(arrival), Some(statement)) => Err(refused(&seen(statement, arrival))),
        (Settled::Stopped(Decision::Refuse { code, reason, .. }), _) => Err(Told { code, reason }),
        (Settled::Stopped(_) | Settled::Known(_), _) => {
            Err(refused(&Refusal::Policy("it could not be decided".to_owned())))
        }
    }
}

/// Its decision, of which the registry keeps the label alone: whoever may see more of it sees it now.
fn decision(outcome: &Result<Released, Refusal>) -> Decision {
    match outcome {
        Ok(released) => released.label_only().decision(),
        Err(refusal) => refusal.decision(),
    }
}

/// The refusal of what was known before.
fn seen(s: &Statement, arrival: Arrival) -> Refusal {
    let (device, sequence) = (named(s), s.sequence);
    if arrival == Arrival::Duplicate {
        Refusal::Duplicate { device, sequence }
    } else {
        Refusal::Replay { device, sequence }
    }
}

/// The device that is named: it may be anything until the signature is checked, and stands in texts.
fn named(s: &Statement) -> String {
    s.device.escape_debug().to_string()
}

/// A result as a row of the registry, its record not kept.
pub fn stored_row(statement: &Statement, digest: String) -> NewResult {
    NewResult {
        id: statement.result_id().to_string(),
        model: statement.model.clone(),
        version: statement.version,
        device: statement.device.clone(),
        sequence: statement.sequence,
        origin: statement.origin.clone(),
        sample: statement.sample.to_string(),
        label: statement.label.clone(),
        taken: i64::try_from(statement.taken_at).unwrap_or(i64::MAX),
        digest,
        place: None,
    }
}

/// Keys of devices: those that are enrolled, and those that were named for devices that are not.
struct Keys<'a> {
    fleet: &'a Fleet,
    named: &'a [(String, Signer)],
    known: BTreeMap<String, Result<Signer, Refusal>>,
}

impl Keys<'_> {
    fn of(&mut self, device: &str) -> Result<Result<Signer, Refusal>, SqlError> {
        if let Some(known) = self.known.get(device) {
            return Ok(known.clone());
        }
        let named = || device.escape_debug().to_string();
        let key = match self.fleet.device(device)? {
            Some(enrolled) if enrolled.revoked.is_some() => Err(Refusal::Revoked { device: named() }),
            Some(enrolled) => Ok(Signer { public_key: enrolled.key()? }),
            None => {
                let key = self.named.iter().find(|(id, _)| id == device).map(|(_, key)| *key);
                key.ok_or_else(|| Refusal::Unknown { device: named() })
            }
        };
        self.known.insert(device.to_owned(), key.clone());
        Ok(key)
    }
}

/// What devices' labels of a day look unusual in.
fn unusual(fleet: &Fleet, agent: &ReleaseAgent, day: i64) -> Result<Vec<String>, SqlError> {
    let mut texts = Vec::new();
    for device in fleet.label_counts(agent.model(), day)?.keys() {
        let raised = look(fleet, agent, day, device)?;
        texts.extend(raised.iter().map(|(alarm, _)| format!("device '{device}': {}", alarm.text)));
    }
    Ok(texts)
}
