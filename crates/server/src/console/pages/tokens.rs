//! Tokens with which devices enrol: made and shown once, withdrawn.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::Redirect;
use maud::{Markup, html};
use subrosa_registry::time::now;

use super::{asked, choice, deployments::groups, head, heading, page, token, words};
use crate::api::tokens::make_now;
use crate::console::session::{Asked, SignedIn, encrypted};
use crate::console::text::moment;
use crate::console::{Console, Problem, Shown};
use crate::error::{Answer, ApiError};
use crate::state::App;

const PLACE: &str = "/console/devices";
/// For how long tokens may hold, in seconds.
const LIVES: [(&str, &str); 4] =
    [("86400", "a day"), ("3600", "an hour"), ("604800", "a week"), ("2592000", "30 days")];

/// Tokens that wait to be used.
pub(super) fn table(app: &App, session: &SignedIn) -> Answer<Markup> {
    let tokens = app.fleet.enrolment_tokens()?;
    let open: Vec<_> = tokens.into_iter().filter(|token| token.used.is_none() && token.expires > now()).collect();
    Ok(html! {
        @if open.is_empty() { p.soft { "No token waits to be used." } } @else {
            table {
                (head(&[words("For a device of group"), words("Made (UTC)"), words("Expires (UTC)"), words("Actions")]))
                tbody {
                    @for token in &open {
                        tr data-row=(token.id) {
                            td data-label="Group" { (token.group) }
                            td data-label="Made" { (moment(token.created)) }
                            td data-label="Expires" { (moment(token.expires)) }
                            td data-label="Actions" {
                                div {
                                    (asked(session, &format!("{PLACE}/tokens/{}/withdraw", token.id), "Withdraw", &format!("the token for {}", token.group),
                                        "No device can enrol with it any more."))
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// The form that makes a token.
pub(super) fn form(app: &App, session: &SignedIn) -> Answer<Markup> {
    let groups = groups(app)?;
    let lives = LIVES.map(|(seconds, text)| (seconds.to_owned(), text.to_owned()));
    Ok(html! {
        form method="post" action={ (PLACE) "/tokens" } {
            (token(session))
            div.fields {
                div {
                    label for="group" { "Group" }
                    input id="group" name="group" required maxlength="64" pattern="[A-Za-z0-9._\\-]+" list="groups" autocomplete="off"
                        spellcheck="false" aria-describedby="group-hint";
                    datalist id="groups" { @for group in &groups { option value=(group) {} } }
                    p.hint id="group-hint" { "Letters, digits, '.', '_', '-'. What is rolled out to a group runs on its devices." }
                }
                (choice("seconds", "Holds for", "One device can enrol with it, within this time.", &lives))
            }
            p { button type="submit" { "Make a token" } }
        }
    })
}

/// A new token on the only page that ever shows it.
pub(in crate::console) async fn make(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    Asked { app, session, fields, .. }: Asked,
) -> Shown<Markup> {
    let group = fields.get("group").map(|group| group.trim().to_owned()).unwrap_or_default();
    let seconds = fields.get("seconds").and_then(|seconds| seconds.parse().ok());
    let seconds = seconds.ok_or_else(|| ApiError::bad("seconds: choose for how long it holds"))?;
    // As this browser reaches it; the check of the form's origin has compared it.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let url = format!("{}://{host}", if encrypted(&console, &headers) { "https" } else { "http" });
    let shown = app.blocking(move |app| {
        let made = make_now(app, &group, seconds)?;
        let body = html! {
            (heading("A token for one device", "It is shown this once: only its digest is kept. Whoever has it can enrol one device."))
            section.card aria-label="The token" {
                p { label for="made" { "Token for group " (group) } }
                p { input.mono id="made" readonly value=(made.token) autocomplete="off" spellcheck="false" autofocus; }
                p.hint { "It holds until " (moment(made.expires)) " (UTC), or until a device has enrolled with it." }
            }
            section.card aria-labelledby="use-title" {
                h2 id="use-title" { "On the device" }
                p { "In the directory of its configuration, " code { "edge.toml" } ":" }
                pre.mono id="command" { "(umask 077; printf '%s\\n' " (made.token) " > token)\nsubrosa-edge run edge.toml" }
                p { "where the configuration says" }
                pre.mono { "[backend]\nurl = \"" (url) "\"\nca = \"backend.pem\"        # the certificate of this backend\ntrust = \"owner.pub\"       # from 'subrosa identity'\ntoken_file = \"token\"" }
            }
            p { a.button.quiet href=(PLACE) { "All devices" } }
        };
        page(app, &session, "A token for one device", PLACE, None, &body)
    });
    Ok(shown.await?)
}

pub(in crate::console) async fn withdraw(Asked { app, id, .. }: Asked) -> Shown<Redirect> {
    if app.blocking(move |app| Ok(app.fleet.remove_enrolment_token(&id)?)).await? {
        Ok(Redirect::to(PLACE))
    } else {
        Err(Problem(ApiError::missing("there is no unused token with this id: perhaps a device has enrolled with it")))
    }
}
