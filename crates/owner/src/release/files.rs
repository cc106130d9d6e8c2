//! Results files: those of `subrosa-edge infer`, which nobody signed, and batches of signed results. What is released of them is in the
//! home's audit log before anybody sees it.

use super::ledger::Ledger;
use super::{Audience, AuditLog, LockedLog, Refusal, ReleaseAgent, ReleasePolicy, Released, now};
use crate::error::OwnerError;
use crate::{Decrypted, Origin, Owner, Prediction, Refused, Reveal};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;
use subrosa_fleet::{SignedResult, decode_batch, is_batch};
use subrosa_program::container::Signer;
use subrosa_program::results::Results;
use subrosa_registry::Vault;

/// The home's release policy, JSON; where there is none the default is followed.
pub const POLICY_FILE: &str = "release.json";
/// Signed results of one file.
const MAX_RESULTS: usize = 1 << 20;

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

/// What is known of one examined result.
struct Examined {
    origin: Option<Origin>,
    outcome: Result<Released, Refusal>,
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

        let log = AuditLog::of(&self.home);
        let mut log = log.lock()?;
        let mut ledger = Ledger::of(log.entries(), now());
        let examined = match (&signed, &opened) {
            (Some(batch), _) => examine_signed(&agent, batch, request, &mut ledger, &mut log)?,
            (None, Some(opened)) => {
                let packed = opened.inferences(agent.parameters(), agent.output())?;
                examine_unsigned(&agent, &packed, request, &mut ledger, &mut log)?
            }
            (None, None) => Vec::new(),
        };
        let alarms = ledger.alarms(&agent);
        log.append(alarms.iter().map(
            |(device, alarm)| json!({ "event": "alarm", "model": model, "device": device, "text": alarm.to_string() }),
        ))?;

        let count = examined.len();
        let budgets = examined.iter().filter_map(|e| e.outcome.as_ref().ok()?.budget_bits);
        let measured = budgets.reduce(f64::min);
        let (mut predictions, mut refused): (Vec<Prediction>, Vec<Refused>) = (Vec::new(), Vec::new());
        for (index, Examined { origin, outcome }) in examined.into_iter().enumerate() {
            match outcome {
                Ok(released) => predictions.push(released.into_prediction(index, origin)),
                Err(refusal) => refused.push(Refused::new(index, origin, &refusal)),
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
            examined_today: ledger.model_today(&model),
            limit_today: request.policy.budget.per_model_per_day,
            alarms: alarms.iter().map(|(device, alarm)| format!("device '{device}': {alarm}")).collect(),
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
    ledger: &mut Ledger,
    log: &mut LockedLog,
) -> Result<Vec<Examined>, OwnerError> {
    let (mut labels, mut refusals, mut digest) = (Vec::new(), Vec::new(), Sha256::new());
    let mut examined = Vec::with_capacity(packed.len());
    for (index, payload) in packed.iter().enumerate() {
        digest.update(payload);
        let permitted = request.policy.budget.check(&ledger.usage(agent.model(), None));
        let outcome = permitted.and_then(|()| {
            ledger.examined(agent.model(), None);
            agent.examine_unsigned(payload, &request.policy)
        });
        match &outcome {
            Ok(released) => labels.push(released.label),
            Err(refusal) => refusals.push(json!([index, refusal.code()])),
        }
        examined.push(Examined { origin: None, outcome });
    }
    let event = json!({
        "event": "decrypt", "model": agent.model(), "version": agent.version(), "reveal": request.policy.reveal,
        "audience": request.policy.audience, "payloads": hex::encode(digest.finalize()),
        "examined": labels.len() + refusals.iter().filter(|r| r[1] != "budget").count(),
        "labels": labels, "refused": refusals,
    });
    log.append([event])?;
    Ok(examined)
}

/// Examines signed results: each against its device's key, history and budget, one entry each.
fn examine_signed(
    agent: &ReleaseAgent,
    batch: &[SignedResult],
    request: &DecryptRequest,
    ledger: &mut Ledger,
    log: &mut LockedLog,
) -> Result<Vec<Examined>, OwnerError> {
    let mut examined = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    // A result twice in one file is a replay even where old ones are decrypted again.
    let mut here = BTreeSet::new();
    for result in batch {
        let s = &result.statement;
        let digest = hex::encode(Sha256::digest(result.encode()));
        // It may be anything until the signature is checked, and stands in texts.
        let named = || s.device.escape_debug().to_string();
        let outcome = (|| {
            let device = request.devices.iter().find(|(id, _)| *id == s.device);
            let (_, key) = device.ok_or_else(|| Refusal::Unknown { device: named() })?;
            // Before anything is counted: nobody else can use up a device's budget, or its good name.
            result.verify(key).map_err(|_| Refusal::Signature { device: named() })?;
            let replay = || Refusal::Replay { device: named(), sequence: s.sequence };
            let seen = ledger.seen(&s.device, s.sequence);
            if !here.insert((s.device.clone(), s.sequence)) || seen.is_some_and(|old| !request.again || old != digest) {
                return Err(replay());
            }
            request.policy.budget.check(&ledger.usage(agent.model(), Some(&s.device)))?;
            ledger.examined(agent.model(), Some(&s.device));
            agent.examine(key, result, &request.policy)
        })();
        ledger.decided(agent.model(), &s.device, &outcome);
        let mut event = json!({
            "event": "release", "model": s.model, "version": s.version, "device": s.device, "sequence": s.sequence,
            "result": s.result_id().to_string(), "digest": digest, "reveal": request.policy.reveal, "audience": request.policy.audience,
        });
        match &outcome {
            Ok(released) => {
                event["label"] = json!(released.label);
                event["near"] = json!(released.near);
            }
            Err(refusal) => {
                event["event"] = json!("refusal");
                event["code"] = json!(refusal.code());
                event["reason"] = json!(refusal.to_string());
            }
        }
        events.push(event);
        let origin = Origin { device: s.device.clone(), sequence: s.sequence, sample: s.label.clone() };
        examined.push(Examined { origin: Some(origin), outcome });
    }
    log.append(events)?;
    Ok(examined)
}
