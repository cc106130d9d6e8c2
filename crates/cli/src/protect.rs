//! `protect`: the Protection Agent on the command line.

use crate::arguments::{HomeFlags, HowFlags, InputMode, ProtectFlags};
use crate::failure::{failure, io};
use crate::plan::PlanReport;
use crate::samples::{self, OnBars};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use subrosa_fhe::{Kernel, Scheme};
use subrosa_input::Dataset;
use subrosa_network::Substitutions;
use subrosa_owner::release::ReleaseAgent;
use subrosa_owner::{Calibration, Owner, OwnerError, ProtectReport, ProtectRequest, cost_model};
use subrosa_plan::CostModel;
use subrosa_terminal::{Failure, Terminal, text};

/// What `protect` prints.
#[derive(Serialize)]
struct Protected {
    #[serde(flatten)]
    report: ProtectReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanReport>,
    /// What its owner should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

pub(crate) fn protect(terminal: &mut Terminal, home: &HomeFlags, wanted: &ProtectFlags) -> Result<(), Failure> {
    if wanted.scheme == Scheme::Ckks && wanted.fixed_point.is_some() {
        return Err(Failure::usage("--fixed-point is for exact integers: give --scheme bgv with it"));
    }
    subrosa_registry::validate_name(&wanted.name).map_err(failure)?;
    let files = Files::read(&wanted.model, &wanted.how, home)?;
    let classes = wanted.classes.as_deref().map(class_names).transpose()?;
    let fixed_point = wanted.fixed_point.clone();
    let scheme = wanted.scheme;
    let request = ProtectRequest { classes, scheme, fixed_point, ..files.request(&wanted.name, &wanted.how) };
    let blamed = |error| files.blamed(error);
    let plan = |owner: &Owner| {
        let prepared = owner.prepare(&request).map_err(blamed)?.with_flooding(wanted.how.flooding);
        owner.plan_prepared(&request, prepared).map_err(blamed)
    };
    if wanted.dry_run {
        let (_directory, owner) = nowhere()?;
        let planned = plan(&owner)?;
        let calibration = planned.prepared().calibration();
        warn_of_ranges(terminal, calibration);
        warn_of_replaced(terminal, calibration, &texts(calibration));
        return terminal.report(&PlanReport::new(&planned, request.prefer)?);
    }
    let owner = home.owner_or_new()?;
    let (vault, _) = home.vault_or_new()?;
    let planned = plan(&owner)?;
    let plan = wanted.explain.then(|| PlanReport::new(&planned, request.prefer)).transpose()?;
    if let Some(plan) = &plan {
        terminal.text(plan)?;
    }
    // Before anything is encrypted: it takes long, and these may be reasons not to.
    warn_of_replaced(terminal, planned.prepared().calibration(), &planned.prepared().replaced());
    let report = owner.protect_planned(&request, planned, &vault, &OnBars(terminal.bars()));
    let report = report.map_err(blamed)?;
    warn_of_ranges(terminal, &report.calibration);
    let agent = ReleaseAgent::load(&owner, &report.id, &vault).map_err(failure)?;
    let warnings: Vec<String> = agent.warning().into_iter().collect();
    warnings.iter().for_each(|warning| terminal.warn(warning));
    terminal.report(&Protected { report, plan, warnings })
}

/// What a network is protected with, read from files.
pub(crate) struct Files<'a> {
    model: &'a Path,
    calibrate: Option<&'a str>,
    onnx: Vec<u8>,
    data: Option<Dataset>,
    costs: CostModel,
}

impl<'a> Files<'a> {
    pub fn read(model: &'a Path, how: &'a HowFlags, home: &HomeFlags) -> Result<Self, Failure> {
        let onnx = std::fs::read(model).map_err(io("read", model))?;
        let calibrate = how.calibrate.as_deref();
        let data = calibrate.map(|path| samples::read(path, how.labels.as_deref(), None)).transpose()?;
        let kernel = Kernel::active().map_err(|e| failure(OwnerError::Engine(e.into())))?;
        // Here, since a dry run has a home of its own.
        let costs = cost_model(&home.directory()?, kernel);
        Ok(Self { model, calibrate, onnx, data, costs })
    }

    pub fn data(&self) -> Option<&Dataset> {
        self.data.as_ref()
    }

    pub fn request<'b>(&'b self, name: &'b str, how: &HowFlags) -> ProtectRequest<'b> {
        let mut substitutions = Substitutions::none();
        how.activations.iter().for_each(|others| substitutions.extend(others));
        ProtectRequest {
            scope: how.scope.clone(),
            encrypted_input: how.input == InputMode::Encrypted,
            plain_weights: how.weights == InputMode::Plain,
            substitutions,
            preprocess: how.preprocess.clone(),
            calibrate: self.data.as_ref(),
            security: how.security,
            force: how.force,
            fold: !how.unfolded,
            memory_limit: how.memory_limit,
            prefer: how.prefer,
            costs: Some(&self.costs),
            ..ProtectRequest::new(&self.onnx, name)
        }
    }

    /// The failure with the name of the file that is to blame.
    pub fn blamed(&self, error: OwnerError) -> Failure {
        match (&error, self.calibrate) {
            (OwnerError::Network(_) | OwnerError::Plain(_), _) => failure(error).at(self.model.display()),
            (OwnerError::Input(_), Some(data)) => failure(error).at(data),
            _ => failure(error),
        }
    }
}

/// An owner with a home that is gone afterwards: planning stores nothing but needs one.
pub(crate) fn nowhere() -> Result<(tempfile::TempDir, Owner), Failure> {
    let directory = tempfile::tempdir().map_err(io("create a directory in", &std::env::temp_dir()))?;
    let owner = Owner::open(directory.path()).map_err(failure)?;
    Ok((directory, owner))
}

/// One name a line; empty lines at the end do not count.
fn class_names(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path).map_err(io("read", path))?;
    Ok(text.trim_end().lines().map(|line| line.trim().to_owned()).collect())
}

/// Activations that were fitted, for people.
pub(crate) fn texts(calibration: &Calibration) -> Vec<String> {
    calibration.fits.iter().map(ToString::to_string).collect()
}

/// What the owner should know about ranges.
fn warn_of_ranges(terminal: &Terminal, calibration: &Calibration) {
    if calibration.synthetic {
        terminal.warn(
            "the ranges of values come from synthetic inputs, with a wide margin: give real data with --calibrate FILE",
        );
    }
}

/// What the owner should know about replaced activations.
pub(crate) fn warn_of_replaced(terminal: &Terminal, calibration: &Calibration, replaced: &[String]) {
    if replaced.is_empty() {
        return;
    }
    let cost = match (calibration.agreement_original, calibration.accuracy) {
        (Some(agreement), accuracy) => {
            let accuracy = accuracy.map(|(original, now)| {
                format!(", accuracy {} instead of {}", text::percent(now), text::percent(original))
            });
            let accuracy = accuracy.unwrap_or_default();
            format!("{} of answers agree with the original{accuracy}", text::percent(agreement))
        }
        (None, _) => "what that costs is not known".into(),
    };
    for line in replaced {
        terminal.warn(line);
    }
    terminal.warn(cost);
}

/// What exact integers are made with, for people.
fn integers(report: &ProtectReport) -> String {
    let integers = report.settings.integers.as_ref();
    integers.map_or_else(String::new, |i| format!(", exact integers (bgv), fixed point {}", i.fixed_point))
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.report;
        let parameters = format!(
            "{} bits, ring degree 2^{}, log2(QP) {:.0}, primes of {:?} bits",
            r.security_bits, r.log_n, r.log_qp, r.moduli_bits
        );
        let weights = if r.weights_encrypted {
            format!("{} in {} ciphertexts, {}", r.weights, r.ciphertexts, text::bytes(r.model_bytes))
        } else {
            format!("{} not encrypted, {}", r.weights, text::bytes(r.model_bytes))
        };
        let keys = format!(
            "{} evaluation keys{}, {}",
            r.evaluation_keys,
            if r.input == "encrypted" { " and a public key" } else { "" },
            text::bytes(r.key_bytes)
        );
        let [all, plan, keygen] = [r.protect_seconds, r.plan_seconds, r.keygen_seconds].map(text::seconds);
        let times = format!("{all}, of it {plan} for planning and {keygen} for keys");
        f.write_str(&text::fields(&[
            ("network", format!("{}@{}", r.name, r.version)),
            ("id", r.id.clone()),
            ("protected", format!("scope {}, {} input{}", r.scope, r.input, integers(r))),
            ("best in", r.settings.prefer.to_string()),
            ("security", parameters),
            ("weights", weights),
            ("keys", keys),
            ("forecast", crate::plan::forecast(&r.forecast)),
            ("time", times),
        ]))
    }
}
