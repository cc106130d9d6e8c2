//! What runs where: the newest deployment of each target, rolling out, rolling back.

use std::collections::{BTreeSet, HashMap};

use axum::response::Redirect;
use maud::{Markup, html};
use subrosa_registry::fleet::{DeploymentRow, Target};

use super::{Names, amount, asked_with, choice, head, token, words};
use crate::api::deployments::{known_target, roll_back_now, roll_out_now};
use crate::console::Shown;
use crate::console::session::{Asked, SignedIn};
use crate::console::text::moment;
use crate::error::{Answer, ApiError};
use crate::state::App;

const PLACE: &str = "/console/devices";

/// A target as the value of a field.
fn value(target: &Target) -> String {
    match target {
        Target::Group(name) => format!("group:{name}"),
        Target::Device(id) => format!("device:{id}"),
    }
}

/// The target that a field names.
fn target(app: &App, fields: &HashMap<String, String>) -> Answer<Target> {
    let (group, device) = match fields.get("target").and_then(|value| value.split_once(':')) {
        Some(("group", name)) => (Some(name.to_owned()), None),
        Some(("device", id)) => (None, Some(id.to_owned())),
        _ => return Err(ApiError::bad("target: choose a group or a device")),
    };
    known_target(app, group, device)
}

/// What each target would run again: the last network before that is another one and not retired.
fn before(app: &App) -> Answer<HashMap<String, String>> {
    let records = app.registry().list()?;
    let retired: BTreeSet<String> =
        records.iter().filter(|r| r.retired_unix.is_some()).map(|r| r.id.to_string()).collect();
    let (mut current, mut before) = (HashMap::new(), HashMap::new());
    for row in app.fleet.deployments(true)? {
        let newest = current.entry(value(&row.target)).or_insert_with(|| row.model.clone());
        if let Some(model) = row.model.filter(|model| newest.as_ref() != Some(model) && !retired.contains(model)) {
            before.entry(value(&row.target)).or_insert(model);
        }
    }
    Ok(before)
}

fn named(names: &Names, target: &Target) -> Markup {
    html! {
        @match target {
            Target::Group(group) => span { "group " (group) },
            Target::Device(id) => span { "device " (names.device(id)) },
        }
    }
}

/// The button that goes back.
fn back(session: &SignedIn, names: &Names, row: &DeploymentRow, to: &str) -> Markup {
    let to = names.model_name(to);
    let question = format!("It runs {to} again, as before.");
    let about = match &row.target {
        Target::Group(group) => format!("group {group}"),
        Target::Device(id) => format!("device {}", names.device_name(id)),
    };
    asked_with(
        session,
        &format!("{PLACE}/rollback"),
        &[("target", &value(&row.target))],
        "Roll back",
        &about,
        &question,
    )
}

/// What runs where.
pub(super) fn table(app: &App, session: &SignedIn) -> Answer<Markup> {
    let names = Names::of(app)?;
    let (rows, before) = (app.fleet.deployments(false)?, before(app)?);
    Ok(html! {
        @if rows.is_empty() { p.soft { "Nothing is deployed yet." } } @else {
            table {
                (head(&[words("Target"), words("Runs"), words("Last change"), amount("Generation"), words("When (UTC)"), words("Actions")]))
                tbody {
                    @for row in &rows {
                        tr data-row=(row.generation) {
                            td data-label="Target" { (named(&names, &row.target)) }
                            td data-label="Runs" { @match &row.model { Some(id) => (names.model(id)), None => span.soft { "nothing" } } }
                            td data-label="Last change" { (row.action) }
                            td.number data-label="Generation" { (row.generation) }
                            td data-label="When" { (moment(row.created)) }
                            td data-label="Actions" {
                                @if let Some(to) = before.get(&value(&row.target)) { div { (back(session, &names, row, to)) } }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// Groups that are known: of devices, of tokens, of deployments.
pub(super) fn groups(app: &App) -> Answer<BTreeSet<String>> {
    let mut groups: BTreeSet<String> = app.fleet.devices()?.into_iter().map(|device| device.group).collect();
    groups.extend(app.fleet.enrolment_tokens()?.into_iter().map(|token| token.group));
    let targets = app.fleet.deployments(false)?.into_iter().map(|row| row.target);
    groups.extend(targets.filter_map(|target| if let Target::Group(group) = target { Some(group) } else { None }));
    Ok(groups)
}

/// The form that rolls out.
pub(super) fn form(app: &App, session: &SignedIn) -> Answer<Markup> {
    let mut targets: Vec<(String, String)> = groups(app)?
        .into_iter()
        .map(|group| (value(&Target::Group(group.clone())), format!("group {group}")))
        .collect();
    for device in app.fleet.devices()?.into_iter().filter(|device| device.revoked.is_none()) {
        targets.push((value(&Target::Device(device.id)), format!("device {} ({})", device.name, device.group)));
    }
    let records = app.registry().list()?;
    let served = records.iter().rev().filter(|record| record.retired_unix.is_none());
    let mut models: Vec<(String, String)> =
        served.map(|record| (record.id.to_string(), record.versioned_name())).collect();
    models.push((String::new(), "nothing".to_owned()));
    if targets.is_empty() || models.len() == 1 {
        return Ok(
            html! { p.soft { "To roll out takes a protected network and a group: that of a device or of a token for one." } },
        );
    }
    Ok(html! {
        form method="post" action={ (PLACE) "/rollout" } {
            (token(session))
            div.fields {
                (choice("target", "Where", "A device's own deployment goes before its group's.", &targets))
                (choice("model", "Network", "With 'nothing' a group stops, and a device follows its group again.", &models))
            }
            p { button type="submit" { "Roll out" } }
        }
    })
}

pub(in crate::console) async fn roll_out(Asked { app, fields, .. }: Asked) -> Shown<Redirect> {
    let model = fields.get("model").cloned().ok_or_else(|| ApiError::bad("model: choose a network, or nothing"))?;
    let target = app.blocking(move |app| target(app, &fields)).await?;
    roll_out_now(&app, target, Some(model).filter(|model| !model.is_empty())).await?;
    Ok(Redirect::to(PLACE))
}

pub(in crate::console) async fn roll_back(Asked { app, fields, .. }: Asked) -> Shown<Redirect> {
    app.blocking(move |app| roll_back_now(app, &target(app, &fields)?)).await?;
    Ok(Redirect::to(PLACE))
}
