//! Protecting a network: the form, and the jobs with their progress.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::multipart::{Field, MultipartRejection};
use axum::extract::{Extension, Multipart, State};
use axum::response::Redirect;
use maud::{Markup, html};
use serde_json::{Value, json};
use subrosa_registry::fleet::JobRow;
use subrosa_terminal::text::seconds;

use super::{choice, head, heading, live_status, page, region, token, words};
use crate::api::{models, uploads};
use crate::body;
use crate::console::live::Regions;
use crate::console::session::{FIELD, SignedIn};
use crate::console::text::moment;
use crate::console::{Console, Problem, Shown};
use crate::error::{Answer, ApiError};
use crate::state::App;
use crate::workers::jobs::Protect;

const PLACE: &str = "/console/protect";
/// Longest text in a field of the form.
const TEXT: usize = 4096;
/// Most fields of the form.
const FIELDS: usize = 32;

fn job(job: &JobRow) -> Markup {
    let name = job.request.get("name").and_then(Value::as_str).unwrap_or("?");
    let result = |key: &str| job.result.as_ref().and_then(|result| result.get(key));
    let took = result("seconds").and_then(Value::as_f64).map(seconds);
    html! {
        tr data-row=(job.id) data-state=(job.state) {
            td data-label="Network" {
                @if let (Some(model), Some(version)) = (result("model").and_then(Value::as_str), result("version")) {
                    a href={ "/console/models/" (super::hex_only(model)) } { (name) "@" (version) }
                } @else { (name) }
            }
            td data-label="State" {
                @let kind = match job.state.as_str() { "done" => "good", "failed" => "bad", _ => "warn" };
                span.tag.(kind) { (job.state) }
            }
            td data-label="Progress" {
                @match job.state.as_str() {
                    "running" => {
                        div {
                            // Of some steps nobody knows how long they take.
                            @let share = (job.progress > 0.0).then_some(job.progress);
                            span { (job.step) @if let Some(share) = share { (format!(", {:.0} %", 100.0 * share)) } }
                            progress max="1" value=[share] aria-label={ "Progress of " (name) } {}
                        }
                    }
                    "failed" => span { (job.error.as_deref().unwrap_or_default()) },
                    "done" => div {
                        @if let Some(took) = took { "protected in " (took) }
                        @for warning in result("warnings").and_then(Value::as_array).into_iter().flatten() {
                            p.hint { span.tag.warn { "warning" } " " (warning.as_str().unwrap_or_default()) }
                        }
                    },
                    _ => "waits for its turn",
                }
            }
            td data-label="Asked for" { (moment(job.created)) }
        }
    }
}

fn jobs(app: &App) -> Answer<Markup> {
    let jobs = app.fleet.jobs(20)?;
    Ok(html! {
        @if jobs.is_empty() { p.soft { "None yet." } } @else {
            table {
                (head(&[words("Network"), words("State"), words("Progress"), words("Asked for")]))
                tbody { @for row in &jobs { (job(row)) } }
            }
        }
    })
}

pub(in crate::console) fn regions(app: &App, _: &SignedIn) -> Answer<Regions> {
    Ok(vec![("jobs", jobs(app)?)])
}

fn file(name: &str, label: &str, hint: &str, accept: Option<&str>, required: bool) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) type="file" accept=[accept] required[required] aria-describedby={ (name) "-hint" };
            p.hint id={ (name) "-hint" } { (hint) }
        }
    }
}

fn form(session: &SignedIn) -> Markup {
    html! {
        form method="post" action=(PLACE) enctype="multipart/form-data" {
            // First, so that nothing is stored before it was looked at.
            (token(session))
            fieldset {
                div.fields {
                    div {
                        label for="name" { "Name" }
                        input id="name" name="name" required maxlength="64" pattern="[A-Za-z0-9._\\-]+" autocomplete="off"
                            spellcheck="false" aria-describedby="name-hint";
                        p.hint id="name-hint" { "Letters, digits, '.', '_', '-'. A name that exists gets a new version." }
                    }
                    (choice("scope", "Encrypted part", "Everything before it is handed out in the clear.", &[
                        ("classifier", "classifier: the dense layers at the end"), ("last", "the last layer"), ("all", "the whole network"),
                    ]))
                    (choice("input", "Input", "Plain: the edge sees its own samples anyway, and is faster.", &[
                        ("encrypted", "encrypted"), ("plain", "plain"),
                    ]))
                    (choice("security", "Security", "By the guidelines of 2024.", &[
                        ("128", "128 bits"), ("192", "192 bits"), ("256", "256 bits"),
                    ]))
                    div {
                        label for="preprocess" { "Preprocessing of pixels" }
                        input id="preprocess" name="preprocess" placeholder="scale=1/255" autocomplete="off" spellcheck="false"
                            aria-describedby="preprocess-hint";
                        p.hint id="preprocess-hint" { "Travels with the network. Empty: samples are its own input." }
                    }
                    div {
                        label for="activations" { "Activations to replace" }
                        input id="activations" name="activations" placeholder="relu=x2+2x" autocomplete="off" spellcheck="false"
                            aria-describedby="activations-hint";
                        p.hint id="activations-hint" { "Polynomials in their place, with spaces between. Usually none." }
                    }
                    (file("network", "Network", "An ONNX file.", Some(".onnx"), true))
                    (file("calibrate", "Calibration samples", ".npy, IDX (.gz), CSV or CIFAR-10. Gives tighter ranges, and a watch over labels.", None, false))
                    (file("labels", "Their classes", "Then accuracy is measured too.", None, false))
                }
                p {
                    label.check {
                        input type="checkbox" name="force" value="yes";
                        "Replace activations even where the cost is not known"
                    }
                }
                p { button type="submit" { "Upload and protect" } }
            }
        }
    }
}

pub(in crate::console) async fn show(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
) -> Shown<Markup> {
    let shown = console.app.blocking(move |app| {
        let body = html! {
            (heading("Protect", "Upload a network. It is planned, encrypted under a key pair of its own and put into the registry, in the background."))
            section.card aria-labelledby="jobs-title" {
                h2 id="jobs-title" { "Jobs" }
                (live_status())
                (region("jobs", &jobs(app)?))
            }
            section.card aria-labelledby="form-title" {
                h2 id="form-title" { "A network" }
                (form(&session))
            }
        };
        page(app, &session, "Protect", PLACE, Some("protect"), &body)
    });
    Ok(shown.await?)
}

/// A field's text.
async fn text(app: &App, field: &mut Field<'_>) -> Answer<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = body::piece(app, field).await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > TEXT {
            return Err(ApiError::too_large(TEXT as u64));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::bad("a field of the form is not text"))
}

/// The name under which an upload is kept: what is no letter, digit, '.', '_' or '-' becomes '_'.
fn file_name(given: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let plain: Vec<char> = given.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    // The end tells what it is.
    let end: String = plain.iter().skip(plain.len().saturating_sub(64)).collect();
    let name = end.trim_start_matches('.');
    if name.is_empty() { "upload".to_owned() } else { name.to_owned() }
}

/// Texts and uploads of the form by the names of its fields.
async fn fields(
    app: &Arc<App>,
    session: &SignedIn,
    form: &mut Multipart,
) -> Answer<(HashMap<String, String>, HashMap<String, String>)> {
    let broken = || ApiError::bad("the form broke off or is damaged: send it again");
    let (mut checked, mut count) = (false, 0);
    let (mut texts, mut files) = (HashMap::new(), HashMap::new());
    loop {
        let next = tokio::time::timeout(app.limits.body_timeout, form.next_field()).await;
        let Some(mut field) = next.map_err(|_| broken())?.map_err(|_| broken())? else { break };
        count += 1;
        if count > FIELDS {
            return Err(ApiError::bad("the form has too many fields"));
        }
        let name = field.name().unwrap_or_default().to_owned();
        if !checked {
            let given = if name == FIELD { Some(text(app, &mut field).await?) } else { None };
            session.check(given.as_deref())?;
            checked = true;
            continue;
        }
        match field.file_name().map(str::to_owned) {
            None => {
                let value = text(app, &mut field).await?;
                texts.insert(name, value);
            }
            // Nothing was chosen.
            Some(given) if given.is_empty() => {}
            Some(given) if ["network", "calibrate", "labels"].contains(&name.as_str()) => {
                let upload = uploads::keep(app, file_name(&given), &mut field).await?;
                files.insert(name, upload.id);
            }
            Some(_) => return Err(ApiError::bad("the form has a file that is not asked for")),
        }
    }
    if checked { Ok((texts, files)) } else { session.check(None).map(|()| (texts, files)) }
}

pub(in crate::console) async fn protect(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
    form: Result<Multipart, MultipartRejection>,
) -> Shown<Redirect> {
    let app = &console.app;
    let mut form = form.map_err(|_| Problem(ApiError::bad("the body is not that of the form with files")))?;
    let (texts, files) = match fields(app, &session, &mut form).await {
        Ok(fields) => fields,
        Err(error) => {
            // A browser that is still sending would not see the answer.
            body::linger(async |left| {
                while let Ok(Some(mut field)) = form.next_field().await {
                    while let Ok(Some(piece)) = field.chunk().await {
                        *left = left.saturating_sub(piece.len());
                        if *left == 0 {
                            return;
                        }
                    }
                }
            })
            .await;
            return Err(Problem(error));
        }
    };
    let given = |name: &str| texts.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let security =
        given("security").map(|bits| bits.parse::<u32>().map_err(|_| ApiError::bad("security: 128, 192 or 256")));
    let wanted = json!({
        "name": given("name").unwrap_or_default(),
        "network": files.get("network").ok_or_else(|| ApiError::bad("network: choose an ONNX file"))?,
        "calibrate": files.get("calibrate"),
        "labels": files.get("labels"),
        "scope": given("scope"),
        "input": given("input"),
        "security": security.transpose()?,
        "preprocess": given("preprocess"),
        "activations": given("activations").map_or_else(Vec::new, |text| text.split_whitespace().collect()),
        "force": given("force").is_some(),
    });
    let wanted: Protect = serde_json::from_value(wanted).map_err(|e| ApiError::bad(e.to_string()))?;
    models::queue(app, wanted).await?;
    Ok(Redirect::to(PLACE))
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn names_of_files_are_made_plain_and_keep_their_endings() {
        assert_eq!(file_name("my net (1).onnx"), "my_net__1_.onnx");
        assert_eq!(file_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(file_name("..."), "upload");
        let long = file_name(&format!("{}.npy", "ä".repeat(100)));
        assert!(long.len() == 64 && long.ends_with(".npy"), "{long}");
        for name in ["<script>.onnx", "a\u{0}b", "\"; x=\""] {
            subrosa_registry::validate_name(&file_name(name)).unwrap();
        }
    }
}
