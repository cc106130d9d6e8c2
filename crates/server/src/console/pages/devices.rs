//! Devices: when they were last heard of, what they run, how much they send, what they are to run, and how they are enrolled.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Redirect;
use maud::{Markup, html};
use serde_json::Value;
use subrosa_registry::fleet::Device;
use subrosa_registry::time::now;
use subrosa_terminal::text::seconds;

use super::{Names, action, amount, asked, deployments, head, heading, live_status, page, region, tokens, words};
use crate::console::live::Regions;
use crate::console::session::{Asked, SignedIn};
use crate::console::text::{ago, whole};
use crate::console::{Console, Problem, Shown};
use crate::error::{Answer, ApiError};
use crate::state::App;
use crate::workers::watch::DAY;

const PLACE: &str = "/console/devices";
/// Throughput is that of so many milliseconds.
const WINDOW: i64 = 60_000;
/// Who was not heard of for so long is away.
const AWAY: i64 = 120_000;

/// How much a device sent.
struct Sent {
    last_minute: u64,
    today: u64,
    ever: u64,
    violations: u64,
}

fn state(app: &App, device: &Device, sent: &Sent) -> Markup {
    let suspended = app.policy.budget.violations_per_device.is_some_and(|limit| sent.violations >= limit);
    html! {
        @if device.revoked.is_some() { span.tag.bad { "revoked" } }
        @else if suspended { span.tag.bad { "suspended" } }
        @else if device.last_seen.is_none_or(|seen| seen < now() - AWAY) { span.tag.warn { "away" } }
        @else { span.tag.good { "here" } }
    }
}

fn row(app: &App, session: &SignedIn, names: &Names, device: &Device, sent: &Sent) -> Markup {
    let status = |key: &str| device.status.as_ref().and_then(|status| status.get(key)).filter(|v| !v.is_null());
    let count = |key: &str| status(key).and_then(Value::as_u64);
    let at = format!("{PLACE}/{}", device.id);
    html! {
        tr data-row=(device.id) {
            td data-label="Device" {
                div { strong { (device.name) } br; span.soft { (device.group) } }
            }
            td data-label="State" {
                div {
                    (state(app, device, sent))
                    @if sent.violations > 0 {
                        p.hint { (sent.violations) " results that no honest device sends" }
                    }
                }
            }
            td data-label="Last seen" {
                @match device.last_seen { Some(seen) => span title=(seen) { (ago(seen)) }, None => "never" }
            }
            td data-label="Runs" {
                div {
                    @match status("model").and_then(Value::as_str) { Some(model) => (names.model(model)), None => span.soft { "nothing" } }
                    @if let Some(time) = status("last_infer_seconds").and_then(Value::as_f64) {
                        br; span.soft { (seconds(time)) " an answer" }
                    }
                }
            }
            td.number data-label="Throughput" { (format!("{:.1}", sent.last_minute as f64 * 1000.0 / WINDOW as f64)) " / s" }
            td.number data-label="Today" { (whole(sent.today)) }
            td.number data-label="Ever" { (whole(sent.ever)) }
            td.number data-label="Waiting" {
                div {
                    (count("queued").map_or("-".to_owned(), whole))
                    @if let Some(shed @ 1..) = count("shed") { br; span.soft { (whole(shed)) " given up" } }
                    @if let Some(rejected @ 1..) = count("rejected") {
                        br; span.tag.warn title="They do not fit the network or cannot be read; the agent's log tells why." { (whole(rejected)) " rejected" }
                    }
                }
            }
            td data-label="Actions" {
                div {
                    @if device.revoked.is_none() {
                        @if sent.violations > 0 { (action(session, &format!("{at}/readmit"), "Let in again", &device.name, false)) }
                        (asked(session, &format!("{at}/revoke"), "Revoke", &device.name,
                            "It gets nothing more and nothing of it is decrypted any more. There is no way back."))
                    }
                }
            }
        }
        @if let Some(error) = status("error").and_then(Value::as_str) {
            tr { td colspan="9" { span.long { span.tag.warn { "it says" } " " (error) } } }
        }
    }
}

fn table(app: &App, session: &SignedIn) -> Answer<Markup> {
    let devices = app.fleet.devices()?;
    let names = Names::of(app)?;
    let minute = app.fleet.received_since(now() - WINDOW)?;
    let (today, ever) = (app.fleet.examined(Some(now() / DAY))?, app.fleet.examined(None)?);
    let violations = app.fleet.violations()?;
    Ok(html! {
        @if devices.is_empty() { p.soft { "None is enrolled yet." } } @else {
            table {
                (head(&[words("Device, group"), words("State"), words("Last seen"), words("Runs"), amount("Results"), amount("Today"), amount("Ever"), amount("Waiting there"), words("Actions")]))
                tbody {
                    @for device in &devices {
                        @let of = |all: &std::collections::HashMap<String, u64>| all.get(&device.id).copied().unwrap_or(0);
                        @let sent = Sent { last_minute: of(&minute), today: of(&today), ever: of(&ever), violations: of(&violations) };
                        (row(app, session, &names, device, &sent))
                    }
                }
            }
        }
    })
}

pub(in crate::console) fn regions(app: &App, session: &SignedIn) -> Answer<Regions> {
    Ok(vec![
        ("devices", table(app, session)?),
        ("deployments", deployments::table(app, session)?),
        ("tokens", tokens::table(app, session)?),
    ])
}

pub(in crate::console) async fn show(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
) -> Shown<Markup> {
    let shown = console.app.blocking(move |app| {
        let body = html! {
            (heading("Devices", "Machines that are enrolled. They run blind: what they answer is read here."))
            section.card aria-label="Devices" { (live_status()) (region("devices", &table(app, &session)?)) }
            section.card aria-labelledby="deployments-title" {
                h2 id="deployments-title" { "Deployments" }
                (region("deployments", &deployments::table(app, &session)?))
            }
            section.card aria-labelledby="rollout-title" {
                h2 id="rollout-title" { "Roll out" }
                (deployments::form(app, &session)?)
            }
            section.card aria-labelledby="enrol-title" {
                h2 id="enrol-title" { "Enrol a device" }
                (tokens::form(app, &session)?)
                h3 { "Tokens that wait to be used" }
                (region("tokens", &tokens::table(app, &session)?))
            }
        };
        page(app, &session, "Devices", PLACE, Some("devices"), &body)
    });
    Ok(shown.await?)
}

pub(in crate::console) async fn revoke(Asked { app, id, .. }: Asked) -> Shown<Redirect> {
    let known = app.blocking(move |app| Ok(app.fleet.revoke(&id)? || app.fleet.device(&id)?.is_some())).await?;
    if known { Ok(Redirect::to(PLACE)) } else { Err(unknown()) }
}

pub(in crate::console) async fn readmit(Asked { app, id, .. }: Asked) -> Shown<Redirect> {
    if app.blocking(move |app| Ok(app.fleet.readmit(&id)?)).await? { Ok(Redirect::to(PLACE)) } else { Err(unknown()) }
}

fn unknown() -> Problem {
    Problem(ApiError::missing("there is no device with this id"))
}
