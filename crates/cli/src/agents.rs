//! `deploy`, `decrypt`, `verify`: the Deployment Agent, the Decryption Agent and their check against plaintext.

use crate::arguments::HomeFlags;
use crate::failure::{failure, io};
use crate::samples::{self, OnBars};
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::Path;
use subrosa_owner::{Comparison, Decrypted, Deployed, OwnerError, Prediction, Reveal, VerifyRequest};
use subrosa_program::container::{Access, AtomicFile};
use subrosa_registry::OwnerIdentity;
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct DeployReport {
    #[serde(flatten)]
    deployed: Deployed,
    out: String,
}

#[derive(Serialize)]
struct DecryptReport {
    #[serde(flatten)]
    decrypted: Decrypted,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct VerifyReport(Comparison);

pub(crate) fn deploy(terminal: &mut Terminal, home: &HomeFlags, id: &str, out: &Path) -> Result<(), Failure> {
    let owner = home.owner()?;
    owner.registry().get(id).map_err(failure)?;
    let identity = OwnerIdentity::load_or_create(&home.vault()?).map_err(failure)?;
    let deployed = owner.deploy(id, out, &identity).map_err(failure)?;
    terminal.report(&DeployReport { deployed, out: out.display().to_string() })
}

pub(crate) fn decrypt(
    terminal: &mut Terminal,
    home: &HomeFlags,
    results: &Path,
    reveal: Reveal,
    out: Option<&Path>,
) -> Result<(), Failure> {
    let owner = home.owner()?;
    let decrypted = owner.decrypt(results, reveal, &home.vault()?).map_err(failure)?;
    if reveal == Reveal::Scores {
        terminal.warn("all outputs are revealed: they are for the owner's own eyes, since they help to copy the network and say something about its key");
    }
    let doubtful = decrypted.predictions.iter().filter(|p| p.out_of_range).count();
    if doubtful > 0 {
        let count = decrypted.count;
        terminal.warn(format!(
            "{doubtful} of {count} answers lie outside the range the network was protected for and may be wrong"
        ));
    }
    let report = DecryptReport { decrypted, out: out.map(|path| path.display().to_string()) };
    if let Some(path) = out {
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

pub(crate) fn verify(
    terminal: &mut Terminal,
    home: &HomeFlags,
    id: &str,
    input: &str,
    labels: Option<&str>,
    limit: Option<usize>,
) -> Result<(), Failure> {
    let owner = home.owner()?;
    owner.registry().get(id).map_err(failure)?;
    let data = samples::read(input, labels, limit)?;
    let vault = home.vault()?;
    let identity = OwnerIdentity::load_or_create(&vault).map_err(failure)?;
    let request = VerifyRequest { id, data: &data, threads: terminal.flags().threads() };
    let compared = owner.verify(&request, &vault, &identity, &OnBars(terminal.bars()));
    // What does not fit is the file of samples.
    let compared = compared.map_err(|e| match e {
        e @ (OwnerError::Input(_) | OwnerError::Edge(_)) => failure(e).at(input),
        e => failure(e),
    })?;
    terminal.report(&VerifyReport(compared))
}

impl fmt::Display for DeployReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.deployed;
        f.write_str(&text::fields(&[
            ("network", format!("{}@{} ({})", d.name, d.version, d.id)),
            ("bundle", format!("{}, {}", self.out, text::bytes(d.bundle_bytes))),
            ("sha256", d.sha256.clone()),
            ("signed by", d.owner.clone()),
            ("time", text::seconds(d.seconds)),
        ]))
    }
}

impl fmt::Display for DecryptReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.decrypted;
        match &self.out {
            Some(out) => writeln!(f, "{} predictions in {out}", d.count)?,
            None => d.predictions.iter().try_for_each(|p| prediction(f, p))?,
        }
        writeln!(
            f,
            "{} results of {}@{}, {} revealed, {:.1} bits of budget left, {}",
            d.count,
            d.name,
            d.version,
            d.reveal,
            d.remaining_budget_bits,
            text::seconds(d.seconds)
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
    if p.out_of_range {
        write!(f, "  out of range")?;
    }
    writeln!(f)
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.0;
        let accuracy = |a: Option<f64>| a.map_or_else(|| "unknown without labels".to_owned(), text::percent);
        let error = format!("{:.2e} (forecast: at most {:.2e})", c.max_abs_error, c.forecast_max_abs_error);
        let evaluation =
            format!("{} median, {} mean", text::seconds(c.median_infer_seconds), text::seconds(c.mean_infer_seconds));
        f.write_str(&text::fields(&[
            ("samples", c.count.to_string()),
            ("accuracy, original", accuracy(c.accuracy_original)),
            ("accuracy, approximated", accuracy(c.accuracy_approximated)),
            ("accuracy, encrypted", accuracy(c.accuracy_encrypted)),
            ("encrypted agrees with approximated", text::percent(c.agreement)),
            ("encrypted agrees with original", text::percent(c.agreement_original)),
            ("largest error of an output", error),
            ("largest output", format!("{:.3}", c.largest_output)),
            ("plain part, each", text::seconds(c.plain_seconds)),
            ("encode or encrypt, each", text::seconds(c.median_prepare_seconds)),
            ("blind evaluation, each", evaluation),
            ("bundle", text::bytes(c.bundle_bytes)),
        ]))
    }
}
