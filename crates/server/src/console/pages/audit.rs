//! The audit log, newest first, and the check of its chain.

use std::sync::Arc;

use axum::extract::{Extension, Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use subrosa_owner::release::check_log;
use subrosa_registry::fleet::AuditRow;

use super::{amount, head, heading, hex_only, page, short, words};
use crate::console::session::SignedIn;
use crate::console::text::moment;
use crate::console::{Console, Shown};
use crate::error::Answer;
use crate::state::App;

const PLACE: &str = "/console/audit";
/// Entries of a page.
const ENTRIES: u64 = 50;

/// Which page is wanted.
#[derive(Deserialize)]
pub(in crate::console) struct Wanted {
    /// Entries before this one.
    before: Option<u64>,
}

/// What an entry says, name by name.
fn particulars(event: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let pairs = event.as_object().into_iter().flatten();
    pairs
        .filter(|(name, value)| *name != "event" && !value.is_null())
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

/// Whether it is an id or a public key, which few want to read to the end.
fn is_id(value: &str) -> bool {
    value.len() >= 32 && hex_only(value) == value
}

fn row(row: &AuditRow) -> Markup {
    let event: Value = serde_json::from_str(&row.event).unwrap_or_default();
    let kind = event.get("event").and_then(Value::as_str).unwrap_or("damaged");
    let tag = match kind {
        "alarm" => "bad",
        kind if kind.ends_with("refused") => "bad",
        "device revoked" | "model retired" => "warn",
        "result released" => "good",
        _ => "plain",
    };
    html! {
        tr {
            td.number data-label="Entry" { (row.sequence) }
            td data-label="Time" { (moment(row.time as i64)) }
            td data-label="Event" { span.tag.(tag) { (kind) } }
            td data-label="Particulars" {
                span.long {
                    @for (name, value) in particulars(&event) {
                        span.soft { (name) ": " }
                        @if is_id(&value) { (short(&value)) } @else { (value) }
                        " "
                    }
                }
            }
            td data-label="Hash" { span.mono title=(hex::encode(row.hash)) { (hex::encode(row.hash.get(..4).unwrap_or_default())) } }
        }
    }
}

fn entries(app: &App, before: Option<u64>, verdict: Option<&Markup>) -> Answer<Markup> {
    let newest = app.fleet.audit_head()?;
    let end = before.unwrap_or(u64::MAX).min(newest + 1);
    let start = end.saturating_sub(ENTRIES + 1);
    let mut rows = app.fleet.audit(start, ENTRIES as u32)?;
    rows.retain(|row| row.sequence < end);
    rows.reverse();
    Ok(html! {
        (heading("Audit log", "What was enrolled, deployed, released and refused. Each entry holds the hash of the one before: what is changed or removed shows."))
        @match verdict {
            Some(verdict) => (verdict),
            None => p { a.button.quiet href={ (PLACE) "/verify" } { "Check the whole chain" } }
        }
        section.card aria-label="Entries" {
            table {
                (head(&[amount("Entry"), words("Time (UTC)"), words("Event"), words("Particulars"), words("Hash")]))
                tbody { @for entry in &rows { (row(entry)) } }
            }
            div.pages {
                @if end <= newest {
                    a href={ (PLACE) "?before=" (end + ENTRIES) } { "Newer" }
                }
                @if start > 0 {
                    a href={ (PLACE) "?before=" (start + 1) } { "Older" }
                }
            }
        }
    })
}

pub(in crate::console) async fn show(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
    Query(wanted): Query<Wanted>,
) -> Shown<Markup> {
    let shown = console
        .app
        .blocking(move |app| page(app, &session, "Audit log", PLACE, None, &entries(app, wanted.before, None)?));
    Ok(shown.await?)
}

pub(in crate::console) async fn verify(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
) -> Shown<Markup> {
    let shown = console.app.blocking(move |app| {
        let verdict = match check_log(&app.fleet)? {
            Ok(head) => html! {
                div.card.notice role="status" {
                    p { span.tag.good { "intact" } " All " (head.count) " entries are as they were written. Note the last hash elsewhere:" }
                    p.mono { (hex::encode(head.hash)) }
                }
            },
            Err(broken) => html! {
                div.card.notice.bad role="alert" {
                    p { span.tag.bad { "broken" } " From entry " (broken.sequence) " on it is not what was written: " (broken.reason) "." }
                }
            },
        };
        page(app, &session, "Audit log", PLACE, None, &entries(app, None, Some(&verdict))?)
    });
    Ok(shown.await?)
}
