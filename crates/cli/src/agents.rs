//! `deploy` and `verify`: the Deployment Agent, and the check of all agents against plaintext.

use crate::arguments::HomeFlags;
use crate::failure::failure;
use crate::samples::{self, OnBars};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use subrosa_owner::{Comparison, Deployed, OwnerError, VerifyRequest};
use subrosa_registry::OwnerIdentity;
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct DeployReport {
    #[serde(flatten)]
    deployed: Deployed,
    out: String,
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
