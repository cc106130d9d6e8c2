//! Protected networks and their parameters.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::Redirect;
use maud::{Markup, html};
use serde_json::Value;
use subrosa_registry::Record;
use subrosa_registry::fleet::{DeploymentRow, Target};
use subrosa_terminal::text::{bytes, percent, seconds};

use super::{amount, asked, head, heading, page, words};
use crate::api::models::retire_now;
use crate::console::chart::{Bar, columns};
use crate::console::session::{Asked, SignedIn};
use crate::console::text::{moment, whole};
use crate::console::{Console, Shown};

const PLACE: &str = "/console/models";

/// A number of a network's report.
fn number(record: &Record, pointer: &str) -> Option<f64> {
    record.report.pointer(pointer).and_then(Value::as_f64)
}

fn size(record: &Record, pointer: &str) -> u64 {
    record.report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn bits(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.1} bits"))
}

fn scheme(record: &Record) -> String {
    record.scheme.to_uppercase()
}

/// Budget and size of versions.
fn charts(records: &[&Record]) -> Markup {
    let newest: Vec<&&Record> = records.iter().rev().take(8).rev().collect();
    let bars = |parts: &dyn Fn(&Record) -> Vec<f64>, text: &dyn Fn(&Record) -> String| -> Vec<Bar> {
        let bar = |r: &&&Record| Bar { name: format!("v{}", r.version), parts: parts(r), text: text(r) };
        newest.iter().map(bar).collect()
    };
    let budget = |r: &Record| number(r, "/forecast/remaining_budget_bits").unwrap_or(0.0);
    let budgets = bars(&|r| vec![budget(r).max(0.0)], &|r| format!("{:.1}", budget(r)));
    let parts = |r: &Record| [size(r, "/model_bytes"), size(r, "/key_bytes")];
    let sizes = bars(&|r| parts(r).iter().map(|&b| b as f64).collect(), &|r| bytes(parts(r).iter().sum()));
    html! {
        div.charts {
            figure {
                figcaption { "Noise budget left, bits" }
                (columns("Noise budget left, in bits, by version", &budgets))
            }
            figure {
                figcaption { "Size" span.key {} "weights" span.key.second {} "keys" }
                (columns("Size of weights and keys by version", &sizes))
            }
        }
    }
}

/// Where a network runs.
fn places(record: &Record, deployments: &[DeploymentRow]) -> Vec<String> {
    let id = record.id.to_string();
    let here = deployments.iter().filter(|row| row.model.as_deref() == Some(&id));
    here.map(|row| match &row.target {
        Target::Group(group) => format!("group {group}"),
        Target::Device(device) => format!("device {}", device.get(..8).unwrap_or(device)),
    })
    .collect()
}

fn state(record: &Record, deployments: &[DeploymentRow]) -> Markup {
    let places = places(record, deployments);
    html! {
        @if record.retired_unix.is_some() {
            span.tag { "retired" }
        } @else if places.is_empty() {
            span.tag { "not deployed" }
        } @else {
            @for place in places { span.tag.good { (place) } " " }
        }
    }
}

fn rows(records: &[&Record], deployments: &[DeploymentRow]) -> Markup {
    html! {
        table {
            (head(&[words("Version"), words("Scheme"), words("Ring"), words("Security"), words("Encrypted"), amount("Budget left"), amount("Weights, keys"), words("Runs at")]))
            tbody {
                @for record in records.iter().rev() {
                    tr {
                        td data-label="Version" { a href={ (PLACE) "/" (record.id) } { (record.versioned_name()) } }
                        td data-label="Scheme" { (scheme(record)) }
                        td data-label="Ring" { "2" sup { (record.log_n) } }
                        td data-label="Security" { (record.security_bits) " bits" }
                        td data-label="Encrypted" { (record.scope) ", " (record.input) " input" }
                        td.number data-label="Budget left" { (bits(number(record, "/forecast/remaining_budget_bits"))) }
                        td.number data-label="Weights, keys" {
                            (bytes(size(record, "/model_bytes"))) ", " (bytes(size(record, "/key_bytes")))
                        }
                        td data-label="Runs at" { div { (state(record, deployments)) } }
                    }
                }
            }
        }
    }
}

pub(in crate::console) async fn list(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
) -> Shown<Markup> {
    let shown = console.app.blocking(move |app| {
        let records = app.registry().list()?;
        let deployments = app.fleet.deployments(false)?;
        let mut names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
        names.dedup();
        let body = html! {
            (heading("Models", "Every protected network with the parameters that the planner chose for it, and what is left of its noise budget."))
            @if names.is_empty() {
                div.card { p { "Nothing is protected yet. " a href="/console/protect" { "Protect a network" } "." } }
            }
            @for name in names {
                @let versions: Vec<&Record> = records.iter().filter(|record| record.name == name).collect();
                section.card aria-label=(name) {
                    div.title {
                        h2 { (name) }
                        span.soft { (versions.len()) (if versions.len() == 1 { " version" } else { " versions" }) }
                    }
                    (charts(&versions))
                    (rows(&versions, &deployments))
                }
            }
        };
        page(app, &session, "Models", PLACE, None, &body)
    });
    Ok(shown.await?)
}

/// The primes of a network's modulus.
fn primes(record: &Record) -> Markup {
    let all = record.report.pointer("/moduli_bits").and_then(Value::as_array);
    let sizes: Vec<u64> = all.into_iter().flatten().filter_map(Value::as_u64).collect();
    let levels = size(record, "/levels") as usize;
    let bar = |(i, bits): (usize, &u64)| Bar {
        name: if i < levels { format!("q{i}") } else { format!("p{}", i - levels) },
        parts: if i < levels { vec![*bits as f64] } else { vec![0.0, *bits as f64] },
        text: bits.to_string(),
    };
    let bars: Vec<Bar> = sizes.iter().enumerate().map(bar).collect();
    html! {
        figure {
            figcaption { "Primes, bits" span.key {} "of ciphertexts" span.key.second {} "special, of keys" }
            (columns("Sizes of the primes in bits", &bars))
        }
    }
}

pub(in crate::console) async fn show(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
    Path(id): Path<String>,
) -> Shown<Markup> {
    let shown = console.app.blocking(move |app| {
        let record = app.registry().get(&id)?;
        let bundle = app.fleet.bundle(&record.id.to_string())?;
        let deployments = app.fleet.deployments(false)?;
        let name = record.versioned_name();
        let accuracy = record.report.pointer("/calibration/accuracy").and_then(Value::as_array);
        let accuracy: Vec<f64> = accuracy.into_iter().flatten().filter_map(Value::as_f64).collect();
        let mut facts: Vec<(&str, String)> = vec![
            ("Scheme", scheme(&record)),
            ("Ring degree", format!("2^{} = {}", record.log_n, whole(1 << record.log_n.min(62)))),
            ("Security", format!("{} bits, {} below the bound", record.security_bits, bits(number(&record, "/forecast/table_slack_bits")))),
            ("log2(QP)", bits(number(&record, "/log_qp"))),
            ("Encrypted", format!("{}, {} input", record.scope, record.input)),
            ("Noise budget left", bits(number(&record, "/forecast/remaining_budget_bits"))),
            ("Precision of outputs", bits(number(&record, "/forecast/precision_bits"))),
            ("Error on outputs", number(&record, "/forecast/max_abs_error").map_or("-".into(), |e| format!("at most {e:.1e}"))),
            ("Weights and biases", whole(size(&record, "/weights"))),
            ("Ciphertexts of weights", whole(size(&record, "/ciphertexts"))),
            ("Encrypted weights", bytes(size(&record, "/model_bytes"))),
            ("Public keys", bytes(size(&record, "/key_bytes"))),
            ("Time to protect", number(&record, "/protect_seconds").map_or("-".into(), seconds)),
            ("Calibration samples", whole(size(&record, "/calibration/samples"))),
        ];
        if let [original, approximated] = accuracy[..] {
            let text = format!("{} original, {} approximated", percent(original), percent(approximated));
            facts.push(("Accuracy on them", text));
        }
        if let Some(bundle) = &bundle {
            facts.push(("Bundle", bytes(bundle.bytes)));
        }
        let replaced = record.report.pointer("/replaced").and_then(Value::as_array).cloned().unwrap_or_default();
        // Without its key here nothing can be said.
        let warning = app.agent(&record.id.to_string()).ok().and_then(|agent| agent.warning());
        let body = html! {
            (heading(&name, "What was chosen, forecast and measured when it was protected."))
            section.card aria-label="Parameters" {
                div.title {
                    h2 { "Parameters" }
                    div { (state(&record, &deployments)) }
                }
                @if let Some(warning) = &warning { p.notice.bad role="note" id="warning" { (warning) } }
                div.charts { (primes(&record)) }
                dl {
                    @for (name, value) in &facts { div { dt { (name) } dd { (value) } } }
                    div { dt { "Protected" } dd { (moment(record.created_unix * 1000)) } }
                    @if let Some(retired) = record.retired_unix { div { dt { "Retired" } dd { (moment(retired * 1000)) } } }
                    div { dt { "Id" } dd.mono { (record.id) } }
                }
                @if !replaced.is_empty() {
                    p.hint { "Activations that were replaced: " }
                    ul { @for text in &replaced { li { (text.as_str().unwrap_or_default()) } } }
                }
            }
            @if record.retired_unix.is_none() {
                div.card {
                    (asked(&session, &format!("{PLACE}/{}/retire", record.id), "Retire", &name,
                        "It is no longer deployed, and results of it are no longer taken. Its files and its key stay. There is no way back."))
                }
            }
            p { a href=(PLACE) { "All models" } }
        };
        page(app, &session, &name, PLACE, None, &body)
    });
    Ok(shown.await?)
}

pub(in crate::console) async fn retire(Asked { app, id, .. }: Asked) -> Shown<Redirect> {
    let record = app.blocking(move |app| retire_now(app, &id)).await?;
    Ok(Redirect::to(&format!("{PLACE}/{}", record.id)))
}
