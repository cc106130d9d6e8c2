//! `decrypt`: the Decryption Agent, for the owner's own eyes.

use crate::arguments::{DecryptFlags, HomeFlags};
use crate::failure::{failure, io};
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::Path;
use subrosa_owner::release::{Audience, DecryptRequest};
use subrosa_owner::{Decrypted, Prediction, Reveal};
use subrosa_program::container::{Access, AtomicFile};
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct DecryptReport {
    #[serde(flatten)]
    decrypted: Decrypted,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
}

pub(crate) fn decrypt(terminal: &mut Terminal, home: &HomeFlags, wanted: &DecryptFlags) -> Result<(), Failure> {
    let owner = home.owner()?;
    let audience = if wanted.outside { Audience::Outside } else { Audience::Owner };
    let policy = owner.release_policy(wanted.reveal, audience).map_err(failure)?;
    let request = DecryptRequest { results: &wanted.results, policy, devices: &wanted.devices, again: wanted.again };
    let decrypted = owner.decrypt_results(&request, &home.vault()?).map_err(failure)?;
    if wanted.reveal == Reveal::Scores && !wanted.outside {
        terminal.warn("all outputs are revealed: they are for the owner's own eyes, since they help to copy the network and say something about its key");
    }
    if let Some(first) = decrypted.refused.first() {
        let (refused, count) = (decrypted.refused.len(), decrypted.count);
        let (index, reason) = (first.index, &first.reason);
        terminal.warn(format!("{refused} of {count} results are refused; the first, number {index}: {reason}"));
    }
    decrypted.alarms.iter().for_each(|alarm| terminal.warn(alarm));
    let report = DecryptReport { decrypted, out: wanted.out.as_ref().map(|path| path.display().to_string()) };
    if let Some(path) = &wanted.out {
        write(path, &report.decrypted).map_err(io("write", path))?;
    }
    terminal.report(&report)
}

/// Writes predictions to a file that only the owner can read, whole or not at all.
fn write(path: &Path, decrypted: &Decrypted) -> std::io::Result<()> {
    let mut file = AtomicFile::begin(path, Access::Private)?;
    serde_json::to_writer(&mut file, decrypted)?;
    file.write_all(b"\n")?;
    file.replace()
}

impl fmt::Display for DecryptReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.decrypted;
        match &self.out {
            Some(out) => writeln!(f, "{} predictions in {out}", d.predictions.len())?,
            None => d.predictions.iter().try_for_each(|p| prediction(f, p))?,
        }
        let limit = d.limit_today.map_or_else(|| "any number".to_owned(), |limit| limit.to_string());
        writeln!(
            f,
            "{} results of {}@{}, {} refused, {} revealed, {:.1} bits of budget left, {}; {} of {limit} examined today",
            d.count,
            d.name,
            d.version,
            d.refused.len(),
            d.reveal,
            d.remaining_budget_bits,
            text::seconds(d.seconds),
            d.examined_today,
        )
    }
}

/// One prediction in a line.
fn prediction(f: &mut fmt::Formatter<'_>, p: &Prediction) -> fmt::Result {
    write!(f, "{:6}  {}", p.index, p.label)?;
    if let Some(name) = &p.name {
        write!(f, "  {name}")?;
    }
    match (&p.scores, &p.top) {
        (Some(scores), _) => scores.iter().try_for_each(|s| write!(f, "  {s:.6}"))?,
        (None, Some(top)) => top.iter().try_for_each(|(label, share)| write!(f, "  {label}:{share:.4}"))?,
        (None, None) => {}
    }
    if let Some(origin) = &p.origin {
        let (sample, device) = (origin.sample.escape_debug(), origin.device.escape_debug());
        write!(f, "  ({sample}, {} of {device})", origin.sequence)?;
    }
    writeln!(f)
}
