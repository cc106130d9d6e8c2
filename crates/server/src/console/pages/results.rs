//! Decrypted results as they arrive.

use std::sync::Arc;

use axum::extract::{Extension, State};
use maud::{Markup, html};
use serde_json::Value;
use subrosa_registry::fleet::{Filter, ResultRow};

use super::{Names, head, heading, live_status, page, region, short, words};
use crate::console::live::Regions;
use crate::console::session::SignedIn;
use crate::console::text::{moment, whole};
use crate::console::{Console, Shown};
use crate::error::Answer;
use crate::state::App;

const PLACE: &str = "/console/results";
/// Results on the page.
const NEWEST: u32 = 50;

fn row(names: &Names, result: &ResultRow) -> Markup {
    let top = result.prediction.as_ref().and_then(|p| p.get("top")).and_then(Value::as_array);
    html! {
        // A row that is decided is another one: it is shown as new.
        tr data-row={ (result.id) "-" (result.state) } {
            td data-label="Answer" {
                @match (result.state.as_str(), result.class) {
                    ("released", Some(class)) => div {
                        (names.class(&result.model, class))
                        @if let Some(top) = top {
                            br; span.soft { @for pair in top.iter().take(5) {
                                @if let (Some(class), Some(p)) = (pair.get(0).and_then(Value::as_u64), pair.get(1).and_then(Value::as_f64)) {
                                    (class) ": " (format!("{:.1} %", 100.0 * p)) " "
                                }
                            } }
                        }
                    },
                    ("refused", _) => span.tag.bad { "refused: " (result.code.as_deref().unwrap_or_default()) },
                    _ => span.tag.warn { "waits" },
                }
            }
            td data-label="Sample" { span.long { (result.label) } }
            td data-label="Model" { (names.model(&result.model)) }
            td data-label="Device" { (names.device(&result.device)) }
            td data-label="Received" { (moment(result.received)) }
            td data-label="Id" { (short(&result.id)) }
        }
    }
}

fn table(app: &App) -> Answer<Markup> {
    let names = Names::of(app)?;
    let page = app.fleet.results(&Filter { newest_first: true, ..Filter::default() }, NEWEST)?;
    Ok(html! {
        @if page.results.is_empty() { p.soft { "None has arrived yet." } } @else {
            table {
                (head(&[words("Answer"), words("Sample"), words("Model"), words("Device"), words("Received (UTC)"), words("Id")]))
                tbody { @for result in &page.results { (row(&names, result)) } }
            }
        }
    })
}

fn counts(app: &App) -> Answer<Markup> {
    let counts = app.fleet.result_counts()?;
    let of = |state: &str| counts.iter().find(|(s, _)| s == state).map_or(0, |(_, count)| *count);
    Ok(html! {
        dl {
            div { dt { "Released" } dd { (whole(of("released"))) } }
            div { dt { "Refused" } dd { (whole(of("refused"))) } }
            div { dt { "Waiting to be decrypted" } dd { (whole(of("stored"))) } }
        }
    })
}

pub(in crate::console) fn regions(app: &App, _: &SignedIn) -> Answer<Regions> {
    Ok(vec![("results", table(app)?), ("counts", counts(app)?)])
}

pub(in crate::console) async fn show(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
) -> Shown<Markup> {
    let shown = console.app.blocking(move |app| {
        let body = html! {
            (heading("Results", "The newest answers, decrypted here and revealed as far as the release policy permits."))
            section.card aria-label="How many" { (region("counts", &counts(app)?)) }
            section.card aria-label="Newest results" { (live_status()) (region("results", &table(app)?)) }
        };
        page(app, &session, "Results", PLACE, Some("results"), &body)
    });
    Ok(shown.await?)
}
