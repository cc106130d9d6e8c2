//! The watch over labels: alarms, and how devices were answered today.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Redirect;
use maud::{Markup, html};
use subrosa_owner::release::LabelCounts;
use subrosa_registry::fleet::AlarmRow;
use subrosa_registry::time::now;

use super::{Names, action, head, heading, live_status, page, region, words};
use crate::console::chart::shares;
use crate::console::live::Regions;
use crate::console::session::{Asked, SignedIn};
use crate::console::text::{moment, whole};
use crate::console::{Console, Problem, Shown};
use crate::error::{Answer, ApiError};
use crate::state::App;
use crate::workers::watch::DAY;

const PLACE: &str = "/console/alarms";

fn alarm(session: &SignedIn, names: &Names, alarm: &AlarmRow) -> Markup {
    html! {
        tr data-row=(alarm.id) {
            td data-label="Raised" { (moment(alarm.raised)) }
            td data-label="Device" { (names.device(&alarm.device)) }
            td data-label="Model" { (names.model(&alarm.model)) }
            td data-label="Against" { (alarm.reference) }
            td data-label="What" { (alarm.text) }
            td data-label="State" {
                div {
                    @match alarm.acknowledged {
                        Some(_) => span.tag { "looked into" },
                        None => {
                            span.tag.bad { "open" } " "
                            (action(session, &format!("{PLACE}/{}/acknowledge", alarm.id), "Looked into", "this alarm", false))
                        }
                    }
                }
            }
        }
    }
}

fn list(app: &App, session: &SignedIn) -> Answer<Markup> {
    let names = Names::of(app)?;
    let alarms = app.fleet.alarms(100)?;
    Ok(html! {
        @if alarms.is_empty() { p.soft { "None was ever raised." } } @else {
            table {
                (head(&[words("Raised (UTC)"), words("Device"), words("Model"), words("Against"), words("What stands out"), words("State")]))
                tbody { @for row in &alarms { (alarm(session, &names, row)) } }
            }
        }
    })
}

/// How devices were answered today, beside calibration.
fn today(app: &App) -> Answer<Markup> {
    let names = Names::of(app)?;
    let day = now() / DAY;
    let mut models = Vec::new();
    for model in app.fleet.labelled_models(day)? {
        let agent = app.agent(&model)?;
        models.push((app.fleet.label_counts(&model, day)?, agent, model));
    }
    Ok(html! {
        @if models.is_empty() { p.soft { "Nothing was released today." } }
        @for (devices, agent, model) in &models {
            h3 { (names.model(model)) }
            div.charts {
                @for (device, counted) in devices {
                    @let own = LabelCounts::from(counted);
                    figure {
                        figcaption { (names.device(device)) ": " (whole(own.results())) " results, " (whole(own.near)) " near a second class" }
                        (shares("Shares of the classes, beside those of calibration", &own.labels,
                            agent.reference().map(|reference| reference.labels.as_slice())))
                    }
                }
            }
        }
        p.hint { span.key {} "the device" span.key.second {} "calibration" }
    })
}

pub(in crate::console) fn regions(app: &App, session: &SignedIn) -> Answer<Regions> {
    Ok(vec![("alarms", list(app, session)?), ("labels", today(app)?)])
}

pub(in crate::console) async fn show(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
) -> Shown<Markup> {
    let shown = console.app.blocking(move |app| {
        let body = html! {
            (heading("Alarms", "Devices whose labels of a day do not look like those of calibration, or of the rest of the fleet. It may be a search for weights, or a camera that was moved: an alarm asks you, it refuses nothing."))
            section.card aria-label="Alarms" { (live_status()) (region("alarms", &list(app, &session)?)) }
            section.card aria-labelledby="labels-title" {
                h2 id="labels-title" { "Classes today" }
                (region("labels", &today(app)?))
            }
        };
        page(app, &session, "Alarms", PLACE, Some("alarms"), &body)
    });
    Ok(shown.await?)
}

pub(in crate::console) async fn acknowledge(Asked { app, id, .. }: Asked) -> Shown<Redirect> {
    let known =
        app.blocking(move |app| Ok(app.fleet.acknowledge(&id)? || app.fleet.alarms(1000)?.iter().any(|a| a.id == id)));
    if known.await? {
        Ok(Redirect::to(PLACE))
    } else {
        Err(Problem(ApiError::missing("there is no alarm with this id")))
    }
}
