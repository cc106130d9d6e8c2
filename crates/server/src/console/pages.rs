//! The pages.

pub(super) mod alarms;
pub(super) mod audit;
pub(super) mod deployments;
pub(super) mod devices;
pub(super) mod models;
pub(super) mod protect;
pub(super) mod results;
pub(super) mod tokens;

use std::collections::HashMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::session::{FIELD, SignedIn};
use crate::error::Answer;
use crate::state::App;

/// Names and places of the pages.
const PAGES: [(&str, &str); 6] = [
    ("Models", "/console/models"),
    ("Protect", "/console/protect"),
    ("Devices", "/console/devices"),
    ("Results", "/console/results"),
    ("Alarms", "/console/alarms"),
    ("Audit log", "/console/audit"),
];

fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " - Subrosa" }
                link rel="icon" href="/console/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/console/assets/style.css";
                script src="/console/assets/console.js" defer {}
            }
            body { (body) }
        }
    }
}

/// A column of a table: its name, and whether it holds numbers.
struct Column(&'static str, bool);

fn words(name: &'static str) -> Column {
    Column(name, false)
}

fn amount(name: &'static str) -> Column {
    Column(name, true)
}

/// A table's head.
fn head(columns: &[Column]) -> Markup {
    html! {
        thead {
            tr { @for Column(name, number) in columns { th.number[*number] scope="col" { (name) } } }
        }
    }
}

/// A page without a session.
pub(super) fn bare(title: &str, body: &Markup) -> Markup {
    document(title, &html! { main id="content" { (body) } })
}

/// A page with its menu. `live` names the stream that keeps it up to date.
fn page(app: &App, session: &SignedIn, title: &str, place: &str, live: Option<&str>, body: &Markup) -> Answer<Markup> {
    let alarms = app.fleet.open_alarms()?;
    let body = html! {
        a.skip href="#content" { "Skip to the content" }
        header {
            div {
                a.brand href="/console" {
                    img src="/console/assets/icon.svg" alt="" width="22" height="22";
                    "Subrosa"
                }
                nav aria-label="Pages" {
                    ul {
                        @for (name, to) in PAGES {
                            li {
                                a href=(to) aria-current=[(to == place).then_some("page")] {
                                    (name)
                                    @if name == "Alarms" && alarms > 0 {
                                        span.count { (alarms) span.skip { " open" } }
                                    }
                                }
                            }
                        }
                    }
                }
                form method="post" action="/console/logout" {
                    (token(session))
                    span { (session.name) }
                    button.quiet.small type="submit" { "Sign out" }
                }
            }
        }
        main id="content" tabindex="-1" data-live=[live] { (body) }
    };
    Ok(document(title, &body))
}

/// Title and introduction of a page.
fn heading(title: &str, lead: &str) -> Markup {
    html! {
        h1 { (title) }
        p.lead { (lead) }
    }
}

/// The field that shows that a form is one of this session.
fn token(session: &SignedIn) -> Markup {
    html! { input type="hidden" name=(FIELD) value=(session.csrf); }
}

/// A button that does something, as a form of its own.
fn action(session: &SignedIn, to: &str, name: &str, about: &str, danger: bool) -> Markup {
    action_with(session, to, &[], name, about, danger)
}

/// The same with these fields.
fn action_with(session: &SignedIn, to: &str, fields: &[(&str, &str)], name: &str, about: &str, danger: bool) -> Markup {
    html! {
        form method="post" action=(to) {
            (token(session))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button.small.(if danger { "danger" } else { "quiet" }) type="submit" aria-label={ (name) " " (about) } { (name) }
        }
    }
}

/// The same behind a question.
fn asked(session: &SignedIn, to: &str, name: &str, about: &str, question: &str) -> Markup {
    asked_with(session, to, &[], name, about, question)
}

fn asked_with(
    session: &SignedIn,
    to: &str,
    fields: &[(&str, &str)],
    name: &str,
    about: &str,
    question: &str,
) -> Markup {
    html! {
        details {
            summary aria-label={ (name) " " (about) } { (name) }
            p.hint { (question) }
            (action_with(session, to, fields, &format!("{name} now"), about, true))
        }
    }
}

/// A field of a form that offers a choice: pairs of value and text.
fn choice<T: AsRef<str>>(name: &str, label: &str, hint: &str, options: &[(T, T)]) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            select id=(name) name=(name) aria-describedby={ (name) "-hint" } {
                @for (value, text) in options { option value=(value.as_ref()) { (text.as_ref()) } }
            }
            p.hint id={ (name) "-hint" } { (hint) }
        }
    }
}

/// What says whether the page is live, and stops it.
fn live_status() -> Markup {
    html! {
        div.live {
            span id="live-status" role="status" { "Shown as it was when the page was loaded." }
            button.quiet.small id="live-pause" type="button" hidden aria-pressed="false" { "Pause" }
        }
    }
}

fn region(id: &str, content: &Markup) -> Markup {
    html! { div id=(id) { (content) } }
}

/// The beginning of an id, all of it as title.
fn short(id: &str) -> Markup {
    let end = id.char_indices().nth(8).map_or(id.len(), |(at, _)| at);
    html! { span.mono title=(id) { (id.get(..end).unwrap_or(id)) } }
}

/// Names of things by their ids.
struct Names {
    models: HashMap<String, String>,
    devices: HashMap<String, String>,
    classes: HashMap<String, Vec<String>>,
}

impl Names {
    fn of(app: &App) -> Answer<Self> {
        let records = app.registry().list()?;
        let classes = records.iter().filter_map(|record| {
            let names = record.report.pointer("/settings/classes")?.as_array()?;
            let names = names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
            Some((record.id.to_string(), names))
        });
        let classes = classes.collect();
        let models = records.iter().map(|record| (record.id.to_string(), record.versioned_name())).collect();
        let devices = app.fleet.devices()?.into_iter().map(|device| (device.id, device.name)).collect();
        Ok(Self { models, devices, classes })
    }

    fn model_name<'a>(&'a self, id: &'a str) -> &'a str {
        self.models.get(id).map_or(id, String::as_str)
    }

    fn device_name<'a>(&'a self, id: &'a str) -> &'a str {
        self.devices.get(id).map_or(id, String::as_str)
    }

    fn model(&self, id: &str) -> Markup {
        self.models.get(id).map_or_else(
            || short(id),
            |name| html! { a href={ "/console/models/" (PreEscaped(hex_only(id))) } { (name) } },
        )
    }

    fn device(&self, id: &str) -> Markup {
        self.devices.get(id).map_or_else(|| short(id), |name| html! { span title=(id) { (name) } })
    }

    /// A class and its name, if names were given.
    fn class(&self, model: &str, class: i64) -> Markup {
        let names = self.classes.get(model);
        let name = usize::try_from(class).ok().and_then(|class| names?.get(class));
        html! { span.class { (class) } @if let Some(name) = name { " " (name) } }
    }
}

/// Ids are hex digits; of what is none, nothing goes into an address.
fn hex_only(id: &str) -> &str {
    if id.bytes().all(|c| c.is_ascii_hexdigit()) { id } else { "" }
}
