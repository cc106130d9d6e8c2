//! Results that are decided where they are read (`subrosa decrypt`), without waiting in the store: in the same ledger as those of the decrypt
//! workers, so that each is a replay for the other.

use super::results::{Permit, arrived, counted, revoked, store, write};
use super::{Arrival, Decision, Event, Fleet, NewResult};
use crate::sql::{SqlError, Transaction};
use crate::values;

/// A result that was examined.
#[derive(Debug, Clone)]
pub struct Examined {
    /// When, milliseconds since 1970.
    pub time: i64,
    /// The network.
    pub model: String,
    /// The result; nothing where nobody signed it, so that nothing tells it from others.
    pub result: Option<NewResult>,
    /// What is to become of it, as far as it alone says.
    pub decision: Decision,
}

/// What became of a result.
#[derive(Debug, Clone)]
pub enum Settled {
    /// It is counted and written down.
    Decided(Decision),
    /// It is refused before it was counted: by the budget, or since its device was revoked.
    Stopped(Decision),
    /// It was known before.
    Known(Arrival),
}

impl Fleet {
    /// Decides results in order, with usage and audit entries, all in one transaction: those that are known are not decided again, unless
    /// `again` says so of the same record; `permit` is told the usage before and may refuse. `tell` makes the audit entries. What is
    /// told must be shown to nobody before this returns.
    ///
    /// # Errors
    /// [`SqlError`]; then nothing of it was written.
    pub fn settle(
        &self,
        examined: &[Examined],
        again: bool,
        permit: &Permit<'_>,
        tell: &dyn Fn(&[Settled]) -> Vec<Event>,
    ) -> Result<Vec<Settled>, SqlError> {
        self.read(|t| {
            let settled = examined.iter().map(|one| settle(t, one, again, permit)).collect::<Result<Vec<_>, _>>()?;
            tell(&settled).iter().try_for_each(|event| self.audited(t, event))?;
            Ok(settled)
        })
    }

    /// Takes over the history of another ledger under a name, once; says whether it was now.
    ///
    /// # Errors
    /// [`SqlError`]; then nothing of it was written.
    pub fn take_over(&self, name: &str, examined: &[Examined], events: &[Event]) -> Result<bool, SqlError> {
        self.read(|t| {
            let sql = "INSERT INTO counters (name, value) VALUES ($1, 1) ON CONFLICT (name) DO NOTHING";
            if t.execute(sql, values![format!("taken over: {name}")])? == 0 {
                return Ok(false);
            }
            for one in examined {
                settle(t, one, true, &|_, _| Ok(()))?;
            }
            events.iter().try_for_each(|event| self.audited(t, event))?;
            Ok(true)
        })
    }
}

fn settle(t: &mut Transaction<'_>, one: &Examined, again: bool, permit: &Permit<'_>) -> Result<Settled, SqlError> {
    let Examined { time, model, result, decision } = one;
    let Some(new) = result else {
        return Ok(match counted(t, model, None, decision, *time, permit)? {
            Some(refused) => Settled::Stopped(refused),
            None => Settled::Decided(decision.clone()),
        });
    };
    let known = arrived(t, &new.id, &new.device, new.sequence, &new.digest)?;
    if let Some(arrival) = known.filter(|arrival| !again || *arrival != Arrival::Again) {
        return Ok(Settled::Known(arrival));
    }
    if super::devices::device(t, &new.device)?.is_some_and(|device| device.revoked.is_some()) {
        return Ok(Settled::Stopped(revoked()));
    }
    if let Some(refused) = counted(t, model, Some(&new.device), decision, *time, permit)? {
        return Ok(Settled::Stopped(refused));
    }
    let undecided = match known {
        None => store(t, new, *time)? == Arrival::Stored,
        // Perhaps it waits for a decrypt worker, which then finds it decided.
        Some(_) => {
            t.execute("UPDATE results SET lease = NULL WHERE id = $1 AND state = 'stored'", values![&new.id])? > 0
        }
    };
    if undecided {
        write(t, &new.id, 0, decision, *time)?;
    }
    Ok(Settled::Decided(decision.clone()))
}
