//! `deploy` and `verify`: the Deployment Agent, and the check of all agents against plaintext.

use crate::arguments::HomeFlags;
use crate::failure::failure;
use crate::samples::{self, OnBars};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use subrosa_owner::{Comparison, Deployed, OwnerError, TracedBudget, VerifyRequest};
use subrosa_registry::OwnerIdentity;
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct DeployReport {
    #[serde(flatten)]
    deployed: Deployed,
    out: String,
}

#[derive(Serialize)]
struct VerifyReport {
    #[serde(flatten)]
    compared: Comparison,
    /// The noise budget after every step of the first sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Vec<TracedBudget>>,
}

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
    (input, labels, limit): (&str, Option<&str>, Option<usize>),
    trace: bool,
) -> Result<(), Failure> {
    let owner = home.owner()?;
    owner.registry().get(id).map_err(failure)?;
    let data = samples::read(input, labels, limit)?;
    let vault = home.vault()?;
    let identity = OwnerIdentity::load_or_create(&vault).map_err(failure)?;
    let request = VerifyRequest { id, data: &data, threads: terminal.flags().threads() };
    // What does not fit is the file of samples.
    let blamed = |e| match e {
        e @ (OwnerError::Input(_) | OwnerError::Edge(_)) => failure(e).at(input),
        e => failure(e),
    };
    // First, since it is quick and may be refused.
    let trace = trace.then(|| owner.trace_budget(&request, &vault, &identity)).transpose().map_err(blamed)?;
    let compared = owner.verify(&request, &vault, &identity, &OnBars(terminal.bars())).map_err(blamed)?;
    terminal.report(&VerifyReport { compared, trace })
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

/// The noise budget step by step, for people.
fn budgets(trace: &[TracedBudget]) -> Vec<Vec<String>> {
    let titles = ["step", "register", "level", "budget, bits", "forecast: at least"];
    let line = |t: &TracedBudget| {
        let forecast = t.forecast_bits.map_or_else(String::new, |bits| format!("{bits:.1}"));
        vec![t.step.clone(), t.register.to_string(), t.level.to_string(), format!("{:.1}", t.budget_bits), forecast]
    };
    std::iter::once(titles.map(str::to_owned).to_vec()).chain(trace.iter().map(line)).collect()
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.compared;
        let accuracy = |a: Option<f64>| a.map_or_else(|| "unknown without labels".to_owned(), text::percent);
        let error = format!("{:.2e} (forecast: at most {:.2e})", c.max_abs_error, c.forecast_max_abs_error);
        let evaluation =
            format!("{} median, {} mean", text::seconds(c.median_infer_seconds), text::seconds(c.mean_infer_seconds));
        if let Some(trace) = &self.trace {
            f.write_str(&text::table(&budgets(trace)))?;
            writeln!(f)?;
        }
        let exact = match (c.integer_differences, c.noise_budget_bits) {
            (Some(differences), Some(budget)) => {
                format!("{differences} outputs differ from the integer network, {budget:.1} bits of noise budget left")
            }
            _ => "no: approximate numbers (ckks)".into(),
        };
        f.write_str(&text::fields(&[
            ("samples", c.count.to_string()),
            ("exact", exact),
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
